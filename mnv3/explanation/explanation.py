"""What a network saw in one picture, and what its SE blocks did: the Explanation."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ..checkpoints.checkpoint import Checkpoint, GateStatistics
from ..errors import InputError
from ..images.decode import open_picture
from ..inference import reference as inference_reference
from ..inference import session
from ..nets.spec import GatedBlock, gated_blocks, multiply_adds, parameters


class Guess(NamedTuple):
    """A class with its probability."""

    index: int
    label: str
    probability: float


class Effect(NamedTuple):
    """What own gates did to one class, against the reference gates: p(own) − p(reference), and the same for logits."""

    probability: float
    logit: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """One picture through one checkpoint. Arrays are read, never changed.

    held (L + 2, K): logits of the picture as it is, with block 0 … L − 1 held at its reference, with all held; (1, K)
    without SE blocks.
    gates L × (C_l,), energy L × (2, h_l, w_l) before and after the gate, features (C, h, w).
    """

    checkpoint: Checkpoint
    picture: Image.Image  # as the network got it
    held: np.ndarray
    gates: list[np.ndarray]
    energy: list[np.ndarray]
    features: np.ndarray
    reference: GateStatistics | None  # None without SE blocks
    milliseconds: float | None  # of the bare network; None while its engine is being prepared

    @property
    def logits(self) -> np.ndarray:
        return self.held[0]

    @property
    def probabilities(self) -> np.ndarray:
        """(K,), summing to 1."""
        return softmax(self.held[0])

    @cached_property
    def blocks(self) -> tuple[GatedBlock, ...]:
        return gated_blocks(self.checkpoint.spec, self.checkpoint.preprocessing.crop)

    @property
    def parameters(self) -> int:
        return parameters(self.checkpoint.spec)

    @property
    def multiply_adds(self) -> int:
        return multiply_adds(self.checkpoint.spec, self.checkpoint.preprocessing.crop)

    def top(self, k: int = 5) -> list[Guess]:
        """The k likeliest classes, likeliest first; all of them if there are fewer."""
        return likeliest(self.probabilities, self.checkpoint.labels, k)

    def effects(self, index: int) -> list[Effect]:
        """The effect of each SE block on class `index`, blocks after it recomputed; the last is all of them at once.

        Not 'the network without SE', which would be another network, trained so. [] without SE blocks.
        """
        p, z = softmax(self.held)[:, index], self.held[:, index]
        return [Effect(float(p[0] - p[row]), float(z[0] - z[row])) for row in range(1, len(self.held))]

    def shift(self, block: int) -> np.ndarray:
        """Where block `block` moved activation energy: after minus before, each divided by its sum; sums to 0.

        (h_l, w_l). All 0 on a 1×1 map and where a map is all 0. It says nothing of a class.
        """
        before, after = (share(energy) for energy in self.energy[block])
        return after - before if before.any() and after.any() else np.zeros_like(before)

    def evidence(self, index: int) -> np.ndarray:
        """Class evidence (h, w) ≥ 0, as class_evidence says."""
        return class_evidence(self.checkpoint, self.features[None], [index])[0]

    def closed_open(self, block: int) -> tuple[int, int] | None:
        """How many gates are exactly 0 and exactly 1; None for sigmoid gates, which never are."""
        if self.checkpoint.spec.gate != "hardsigmoid":
            return None
        return int((self.gates[block] == 0).sum()), int((self.gates[block] == 1).sum())

    def moved(self, block: int) -> float:
        """Mean |gate − reference| over the block's channels."""
        return float(np.abs(self.gates[block] - self.reference.reference()[block]).mean())

    def channels(self, block: int) -> np.ndarray:
        """Block `block`'s channels before its gate, (C_l, h_l, w_l): a pass of its own, for a click."""
        seen = self.checkpoint.preprocessing.tensor(self.picture)[None]
        return session.block_maps(self.checkpoint, seen, block)[0]

    def most_moved(self, block: int, count: int) -> list[int]:
        """The channels whose gates are farthest from their reference, |gate − reference|, farthest first."""
        distance = np.abs(self.gates[block] - self.reference.reference()[block])
        return np.argsort(-distance, kind="stable")[:count].tolist()

    @cached_property
    def z_scores(self) -> list[np.ndarray] | None:
        """(gate − mean) / standard deviation of the reference pictures, L × (C_l,); None under 50 of them."""
        return self.reference.z_scores(self.gates) if self.reference else None

    def gates_csv(self) -> str:
        """Every gate, a line each: block, map side, channel from 0, gate, reference, z (empty where there is none)."""
        file = io.StringIO()
        write = csv.writer(file, lineterminator="\n").writerow
        write(("block", "side", "channel", "gate", "reference", "z"))
        z_scores = self.z_scores
        for i, block in enumerate(self.blocks):
            z = _plain(z_scores[i]) if z_scores else [""] * block.channels
            rows = zip(_plain(self.gates[i]), _plain(self.reference.reference()[i]), z, strict=True)
            for channel, numbers in enumerate(rows):
                write((block.name, block.side, channel, *numbers))
        return file.getvalue()

    def class_index(self, target: str | int | None) -> int:
        """The index of a class given by label or index; the likeliest without one. Raises InputError for any other."""
        labels = self.checkpoint.labels
        if target is None or target == "":
            return int(np.argmax(self.held[0]))
        if isinstance(target, str) and target in labels:
            return labels.index(target)
        if type(target) is int and 0 <= target < len(labels):  # True would choose an axis
            return target
        known = ", ".join(labels) if len(labels) <= 20 else f"{len(labels):,} classes such as {', '.join(labels[:3])}"
        raise InputError(f"{self.checkpoint.name} knows no class {str(target)[:60]!r}: it knows {known}.")

    def to_dict(self, target: str | int | None = None, k: int = 5) -> dict:
        """Everything in plain numbers and texts, for the API and the JSON download. Raises as class_index."""
        index = self.class_index(target)
        effects = self.effects(index)
        reference = self.reference.reference() if self.reference else []
        z_scores = self.z_scores
        blocks = [
            {
                "block": block.name, "channels": block.channels, "side": block.side,
                "closed_open": self.closed_open(i), "gates": _plain(self.gates[i]), "reference": _plain(reference[i]),
                "z": _plain(z_scores[i]) if z_scores else None, "energy_shift": _plain(self.shift(i)),
                "effect": effects[i]._asdict(),
            }
            for i, block in enumerate(self.blocks)
        ]  # fmt: skip
        return {
            "checkpoint": self.checkpoint.name, "knows": self.checkpoint.knows,
            "top": [guess._asdict() for guess in self.top(k)],
            "class": self.checkpoint.labels[index], "blocks": blocks,
            "all_blocks": effects[-1]._asdict() if effects else None,
            "reference": {"n": self.reference.count, "source": self.reference.source} if self.reference else None,
            "evidence": _plain(self.evidence(index)), "parameters": self.parameters,
            "multiply_adds": self.multiply_adds, "milliseconds": self.milliseconds and round(self.milliseconds, 2),
        }  # fmt: skip


def explain(checkpoint: Checkpoint, picture: object) -> Explanation:
    """Runs one picture (anything open_picture takes) and, in one batch of L + 2, the causal questions.

    Raises InputError for a picture that can't be read, weights that answer it with NaN or infinity, and where there is
    no reference: neither gate statistics nor example pictures.
    """
    seen = checkpoint.preprocessing.picture(open_picture(picture, checkpoint.preprocessing.enough))
    return explain_seen(checkpoint, seen)


def explain_seen(checkpoint: Checkpoint, seen: Image.Image) -> Explanation:
    """explain() for a picture that has already been cropped and resized to what the network gets."""
    one = checkpoint.preprocessing.tensor(seen)[None]  # (1, 3, H, W)
    if checkpoint.model.channels:
        statistics = inference_reference.reference(checkpoint, one[0])
        out = session.causal(checkpoint, one, statistics.reference())
    else:
        out, statistics = session.run(checkpoint, one), None
    _, milliseconds = session.logits(checkpoint, one)  # after the batch, so that it isn't a cold start
    return Explanation(
        checkpoint, seen, out.logits, [g[0] for g in out.gates], [e[0] for e in out.energy], out.features[0],
        statistics, milliseconds,
    )  # fmt: skip


def likeliest(probabilities: np.ndarray, labels: tuple[str, ...], k: int) -> list[Guess]:
    """The k likeliest classes, likeliest first; all of them if there are fewer."""
    order = np.argsort(-probabilities, kind="stable")[:k]
    return [Guess(int(i), labels[i], float(probabilities[i])) for i in order]


def class_evidence(checkpoint: Checkpoint, features: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Grad-CAM at the last map, ReLU(Σ_c α_c A_c), in closed form: (N, C, h, w), N classes -> (N, h, w) ≥ 0.

    α_c is the mean over places of ∂ logit / ∂ A_c, which behind a pooled head is head_gradient / (h·w)
    (Selvaraju et al. 2017).
    """
    height, width = features.shape[2:]
    maps = torch.from_numpy(features)
    with torch.inference_mode():
        alpha = checkpoint.model.head_gradient(maps.mean((2, 3)), torch.as_tensor(classes)) / (height * width)
        return torch.relu((alpha[:, :, None, None] * maps).sum(1)).numpy()


def share(energy: np.ndarray) -> np.ndarray:
    """A map divided by its sum; an all-zero map stays zero."""
    total = energy.sum(dtype=np.float64)
    return energy / total if total > 0 else np.zeros_like(energy)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    z = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def _plain(array: np.ndarray) -> list:
    return np.round(array.astype(np.float64), 6).tolist()
