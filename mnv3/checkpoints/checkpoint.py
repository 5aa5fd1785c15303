"""A checkpoint: a folder that could be a Hub repo, and the object it becomes.

    config.json        Spec, labels, preprocessing: everything needed to use the weights
    model.safetensors  the weights, fp16 for bundled ones, BatchNorm in fp32 always
    gates.safetensors  n, mean and M2 of every gate over the training pictures (may be missing)
    metrics.json       what was measured, on what, how (may be missing)
    README.md          the model card

Everything in a folder may come from a stranger: it is read strictly, its sizes are checked before memory is
taken, and no code in it is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
from torch import Tensor

from ..basics import MAX_LABEL_LENGTH, _temporary, fits
from ..errors import InputError
from ..images.decode import open_picture
from ..images.preprocessing import Preprocessing
from ..nets.mobilenet import Network
from ..nets.spec import Spec
from ..nets.tutorial import ArticleSpec

FORMAT = "mnv3-1"
CONFIG, WEIGHTS, GATES, METRICS, CARD, LOG = (
    "config.json", "model.safetensors", "gates.safetensors", "metrics.json", "README.md", "log.csv",
)  # fmt: skip
OF = "weights_sha256"  # in gates' metadata and metrics.json: the Checkpoint.weights_digest of what they belong to
FILES = (CONFIG, WEIGHTS, GATES, METRICS, CARD, LOG)  # what a checkpoint consists of; the first two must be there
ENOUGH_FOR_Z = 50  # pictures behind a reference before its spread says anything


@dataclass(frozen=True)
class GateStatistics:
    """Reference gates: n, mean and M2 (sum of squared deviations), row 0 overall, row 1 + k for class k.

    n (1 + K,), or (1,) without classes; mean and m2: per SE block (len(n), C_l). `source` says of which pictures.
    """

    n: np.ndarray
    mean: tuple[np.ndarray, ...]
    m2: tuple[np.ndarray, ...]
    source: str

    @property
    def count(self) -> int:
        """Pictures behind the overall reference."""
        return int(self.n[0])

    def reference(self) -> list[np.ndarray]:
        """The mean gate of every channel over all pictures: L × (C_l,)."""
        return [mean[0] for mean in self.mean]

    def z_scores(self, gates: list[np.ndarray]) -> list[np.ndarray] | None:
        """(gate − mean) / standard deviation, L × (C_l,); None under 50 pictures, 0 where a gate never moved."""
        if self.count < ENOUGH_FOR_Z:
            return None
        scores = []
        for gate, mean, m2 in zip(gates, self.mean, self.m2, strict=True):
            spread = np.sqrt(m2[0] / (self.count - 1))
            moved = spread > 1e-6
            scores.append(np.where(moved, (gate - mean[0]) / np.where(moved, spread, 1), 0.0))
        return scores


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A network with all that is needed to use it. `name` is what it is called, or the name it was loaded by."""

    name: str
    model: Network
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    data: str  # what it was trained on, in words
    gates: GateStatistics | None = None
    metrics: Mapping = field(default_factory=dict)

    @property
    def spec(self) -> Spec | ArticleSpec:
        return self.model.spec

    @property
    def config(self) -> dict:
        """What config.json holds."""
        return {
            "format": FORMAT, "name": self.name, "data": self.data, "spec": self.spec.to_dict(),
            "preprocessing": self.preprocessing.to_dict(), "labels": list(self.labels),
        }  # fmt: skip

    @property
    def knows(self) -> str:
        """What the network can tell apart, in words."""
        side = self.preprocessing.crop
        return f"{len(self.labels):,} kinds of things, {side}×{side} pixels"

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the weights in use, whatever precision they are stored in."""
        return weights_digest(self.model.state_dict())

    def measured(self) -> dict | None:
        """The accuracy in metrics.json, with `top1` (0..1), `n` and `pictures` (which, in words); None without one.

        metrics.json may be a stranger's, so it is looked at before it is believed.
        """
        for kind, pictures in (("test", "test pictures"), ("published", "validation pictures, as published")):
            result = self.metrics.get(kind)
            if isinstance(result, dict) and type(result.get("top1")) is float and type(result.get("n")) is int:
                if 0 <= result["top1"] <= 1 and result["n"] > 0:
                    return {**result, "pictures": pictures}
        return None

    def preprocess(self, picture: object) -> Tensor:
        """Any picture that mnv3.images.open_picture takes (a path too) -> this network's input (3, H, W), float32."""
        return self.preprocessing(open_picture(picture, self.preprocessing.enough))

    def save(self, folder: str | os.PathLike, half: bool = False) -> Path:
        """Writes the folder, each file replaced whole; `half`: convolutions' and linear layers' weights as fp16.

        All is written before anything is replaced, so that a full disk leaves the folder as it was. Then, where weights
        or config change, what belongs to the old ones goes first and config.json comes last: a process killed in
        between leaves a folder that lacks files, or is refused without config.json, but never parts of two networks.
        """
        from .card import model_card

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: _stored(tensor, half) for name, tensor in self.model.state_dict().items()}
        digest = weights_digest(tensors)
        _replace_files(folder, {
            WEIGHTS: safetensors.torch.save(tensors, {"format": "pt"}),
            GATES: _gates_bytes(self.gates, digest) if self.gates else None,
            METRICS: _json({**self.metrics, OF: digest}) if self.metrics else None,
            CARD: model_card(self).encode(),
            CONFIG: _json(self.config),
        })  # fmt: skip
        return folder


def _replace_files(folder: Path, contents: dict[str, bytes | None]) -> None:
    """Makes the folder's files these, None: none; in this order, in the way that Checkpoint.save describes."""
    changed = {name: content for name, content in contents.items() if _content(folder / name) != content}
    temporaries: dict[str, str] = {}
    try:
        for name, content in changed.items():
            if content is not None:
                temporaries[name] = _temporary(folder / name, lambda path, c=content: Path(path).write_bytes(c))
        for name in reversed(changed):
            if changed[name] is None or (name != WEIGHTS and changed.keys() & {WEIGHTS, CONFIG}):
                (folder / name).unlink(missing_ok=True)
        for name in list(temporaries):
            os.replace(temporaries[name], folder / name)
            del temporaries[name]
    finally:
        for temporary in temporaries.values():
            Path(temporary).unlink(missing_ok=True)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _stored(tensor: Tensor, half: bool) -> Tensor:
    """Contiguous on the CPU; fp16 only for convolutions and linear layers, whose tensors aren't one BatchNorm's."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if half and tensor.is_floating_point() and tensor.dim() > 1 else tensor


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and values as float32, in the order of names, so that what belongs to other weights is known."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _json(data: object) -> bytes:
    return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _gates_bytes(gates: GateStatistics, digest: str) -> bytes:
    arrays = {"n": gates.n}
    for block, (mean, m2) in enumerate(zip(gates.mean, gates.m2, strict=True)):
        arrays[f"mean.{block}"], arrays[f"m2.{block}"] = mean, m2
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    data = safetensors.numpy.save(arrays, {"source": gates.source, OF: digest})
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])  # its metadata are in another order each time
    text = json.dumps(header | {"__metadata__": dict(sorted(header["__metadata__"].items()))}, separators=(",", ":"))
    text += " " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text.encode() + data[8 + size :]


def _stamps(folder: Path) -> list[tuple[int, int, int] | None]:
    """What changes when one of the files is replaced: (inode, nanoseconds, bytes) of each, None for one that lacks."""
    found = []
    for name in (CONFIG, WEIGHTS, GATES, METRICS):
        try:
            stat = os.stat(folder / name)
            found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        except (OSError, ValueError):
            found.append(None)
    return found


def checked_labels(labels: object, num_classes: int) -> tuple[str, ...]:
    """Class names, one per class; a name that comes twice (ImageNet's two cranes) gets its index behind it."""
    if not isinstance(labels, list | tuple) or len(labels) != num_classes:
        count = len(labels) if isinstance(labels, list | tuple) else "no"
        raise InputError(f"`labels` holds {count} names for {num_classes} classes: there must be one for each.")
    for label in labels:
        if not fits(label):
            raise InputError(f"`labels`: {label!r:.60} must be a text of 1 to {MAX_LABEL_LENGTH} characters.")
    count = Counter(labels)
    named = tuple(f"{label} ({i})" if count[label] > 1 else label for i, label in enumerate(labels))
    return named if len(set(named)) == len(named) else tuple(f"{label} ({i})" for i, label in enumerate(labels))
