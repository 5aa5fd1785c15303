"""Can the class-evidence map be trusted? Deletion and insertion against two controls, and randomised weights.

    python -m mnv3.faithfulness --data cifar10/test --n 500 --checkpoint cifar10-small --out faithfulness.json

Deletion and insertion (Petsiuk et al. 2018), as they are done here:
- the map is enlarged to the network's picture as the page shows it: bicubic, nothing below 0;
- pixels are taken in the order of the map, highest first, equal ones in a seeded random order, in 32 equal steps;
- deletion replaces them by the picture's mean colour; insertion brings them back into the picture blurred by a Gaussian
  of a standard deviation of one eighth of its side;
- the area is that under p(class) over the share of pixels taken, by the trapezoid rule: 0 to 1.
Deletion is better when smaller, insertion when larger. Controls: five random maps of the same size, enlarged likewise
(their mean counts), and a Gaussian at the centre, of which only the order matters and so not the width.

Randomised weights (Adebayo et al. 2018) are in mnv3.randomised; Trial holds both tests of one picture's map.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..basics import generator, replace_file, smooth
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.registry import BUNDLED, bundled_names, load
from ..distributed import fetching, machine
from ..errors import InputError
from ..images.folders import find_classes
from ..inference import session
from .explanation import Explanation, softmax
from .randomization import calibration, evidence_maps, randomised, spearman

STEPS = 32
RANDOM_MAPS = 5
NETS = 5  # with randomised weights, a seed each
BLUR = 8  # the blurred picture's standard deviation is its side over this
FLIPS = 20_000  # drawn by the permutation test where there are too many to try them all
FILE = "faithfulness.json"
MEASURES, CONTROLS = ("deletion", "insertion"), ("random", "centred")
CURVES = len(MEASURES) * (RANDOM_MAPS + 2)
PROTOCOL = {
    "steps": STEPS, "random_maps": RANDOM_MAPS, "class": "the likeliest", "order": "pixels, highest first",
    "deletion": "replaced by the picture's mean colour",
    "insertion": f"into the picture blurred by a Gaussian of side / {BLUR}", "area": "trapezoid, p over share taken",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """p(class) along the way, for 'deletion' and 'insertion': {'evidence' | 'random' | 'centred': (maps, STEPS + 1)}.

    `random` has RANDOM_MAPS rows, the others one.
    """

    deletion: dict[str, np.ndarray]
    insertion: dict[str, np.ndarray]

    def areas(self, measure: str, kind: str) -> np.ndarray:
        """The area under each of a kind's curves: (maps,)."""
        return np.array([area(curve) for curve in getattr(self, measure)[kind]])


def faithfulness(
    checkpoint: Checkpoint, picture: Tensor, evidence: np.ndarray, index: int, seed: int | Sequence[int] = 0,
    progress: Callable[[], object] = lambda: None,
) -> Faithfulness:
    """Deletion and insertion of class `index` for picture (3, H, W) by evidence (h, w) and by both controls.

    progress() is called after each of the CURVES curves. Raises InputError for a map that has nothing to say.
    """
    refuse_empty(evidence)
    random = np.random.default_rng(seed)
    maps = {
        "evidence": [evidence], "random": list(random.random((RANDOM_MAPS, *evidence.shape))),
        "centred": [centred(*evidence.shape)],
    }  # fmt: skip
    mean = picture.mean((1, 2), keepdim=True).expand_as(picture)
    ways = {"deletion": (picture, mean), "insertion": (blurred(picture), picture)}
    curves = {measure: {} for measure in ways}
    for kind, values in maps.items():
        orders = [order(v, picture.shape[-1], random) for v in values]
        for measure, (start, end) in ways.items():
            rows = []
            for taken in orders:
                rows.append(curve(checkpoint, start, end, taken, index))
                progress()
            curves[measure][kind] = np.stack(rows)
    return Faithfulness(**curves)


def refuse_empty(evidence: np.ndarray) -> None:
    """Raises InputError for a map without an order."""
    if evidence.size == 1:
        raise InputError("The last map is a single cell, which can't say where: choose another network.")
    if evidence.max() <= evidence.min():
        level = "0" if evidence.max() <= 0 else "the same"
        raise InputError(f"The evidence map is {level} everywhere for this class: ask about another class.")


def curve(checkpoint: Checkpoint, start: Tensor, end: Tensor, taken: np.ndarray, index: int) -> np.ndarray:
    """p(class) while the pixels of `start` become those of `end` in the order `taken`: (STEPS + 1,), in one batch.

    start, end (3, H, W); taken (H · W,), a permutation of the pixels' numbers.
    """
    rank = torch.empty(len(taken), dtype=torch.long)
    rank[torch.from_numpy(taken)] = torch.arange(len(taken))
    count = torch.linspace(0, len(taken), STEPS + 1).round()
    replaced = (rank < count[:, None]).view(-1, 1, *start.shape[1:])  # (STEPS + 1, 1, H, W)
    return softmax(_logits(checkpoint, torch.where(replaced, end, start)))[:, index]


def _logits(checkpoint: Checkpoint, images: Tensor) -> np.ndarray:
    """(N, 3, H, W) -> (N, K), as many at once as may be."""
    parts = images.split(session.rows_at_once(checkpoint))
    return np.concatenate([session.logits(checkpoint, part)[0] for part in parts])


def enlarged(values: np.ndarray, side: int) -> np.ndarray:
    """A map (h, w) over the picture, as the page shows it: (side, side), bicubic, nothing below 0."""
    return np.maximum(smooth(values, side), 0)


def order(values: np.ndarray, side: int, random: np.random.Generator) -> np.ndarray:
    """Numbers of the side × side pixels (row by row) by the map, highest first; equal ones in random order."""
    pixels = enlarged(values, side).ravel()
    shuffled = random.permutation(len(pixels))
    return shuffled[np.argsort(-pixels[shuffled], kind="stable")]


def centred(height: int, width: int) -> np.ndarray:
    """A Gaussian at the centre, (height, width), 1 at most."""
    y, x = ((np.arange(n) - (n - 1) / 2) / (n / 4) for n in (height, width))
    return np.exp(-(y[:, None] ** 2 + x**2) / 2)


def blurred(picture: Tensor) -> Tensor:
    """The picture (C, H, W) through a Gaussian of side / BLUR, its edges mirrored."""
    sigma = picture.shape[-1] / BLUR
    reach = int(3 * sigma)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    padded = F.pad(picture[:, None], (reach,) * 4, mode="reflect")  # each channel is a picture of its own
    return F.conv2d(F.conv2d(padded, kernel), kernel.transpose(2, 3))[:, 0]


def area(curve: np.ndarray) -> float:
    """Under a curve of equally spaced points from 0 to 1, by the trapezoid rule."""
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))


@dataclass(frozen=True, eq=False)
class Trial:
    """What one picture's map went through: the curves, and (map (h, w), rank correlation) for each randomised net."""

    evidence: np.ndarray
    curves: Faithfulness
    randomised: list[tuple[np.ndarray, float]]

    @property
    def correlation(self) -> float:
        """The mean rank correlation over the nets that had a map with an order; NaN if none had."""
        found = [value for _, value in self.randomised if not np.isnan(value)]
        return float(np.mean(found)) if found else float("nan")

    def to_dict(self) -> dict:
        """Plain numbers for the API: areas, curves, correlations (None where a net's map has no order)."""
        measures = {
            name: {
                kind: {"areas": [_round(a) for a in self.curves.areas(name, kind)], "p": np.round(rows, 4).tolist()}
                for kind, rows in getattr(self.curves, name).items()
            }
            for name in MEASURES
        }
        correlations = [None if np.isnan(value) else _round(value) for _, value in self.randomised]
        return {**measures, "randomised": correlations, "cells": self.evidence.size, "protocol": PROTOCOL}


def put_to_trial(
    explanation: Explanation, index: int, seed: int = 0, progress: Callable[[int, int], object] = lambda *_: None
) -> Trial:
    """Both tests of the map for class `index`; progress(done, whole) counts curves and nets. Raises InputError."""
    checkpoint, evidence, done = explanation.checkpoint, explanation.evidence(index), 0
    picture = checkpoint.preprocessing.tensor(explanation.picture)

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, CURVES + NETS)

    curves = faithfulness(checkpoint, picture, evidence, index, seed, step)
    examples, others = calibration(checkpoint), []
    for net in range(NETS):
        (other,) = evidence_maps(randomised(checkpoint, seed + net, examples), picture[None], [index])
        others.append((other, spearman(evidence, other)))
        step()
    return Trial(evidence, curves, others)


# On many pictures -----------------------------------------------------------------------------------------------
def sign_flip_p(differences: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of paired differences (n,) by flipping their signs: how often |mean| is as large by chance.

    Every pattern of signs where there are no more than FLIPS, else FLIPS random ones and the one that was found.
    """
    n, found = len(differences), abs(np.mean(differences)) * (1 - 1e-9)  # equal means may differ in the last digit
    if 2**n <= FLIPS:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ differences / n) >= found).mean())
    random, as_large = np.random.default_rng(seed), 0
    for _ in range(FLIPS // 1000):
        signs = 1 - 2 * random.integers(0, 2, (1000, n))
        as_large += int((np.abs(signs @ differences / n) >= found).sum())
    return (1 + as_large) / (1 + FLIPS)


def measure(checkpoint: Checkpoint, paths: Sequence[Path], seed: int = 0, progress=iter) -> dict:
    """What faithfulness.json holds, but for where and when: areas, paired differences, rank correlations.

    Each picture is asked about its likeliest class. Pictures whose map is 0 everywhere are counted as skipped.
    """
    pictures = torch.stack([checkpoint.preprocess(path) for path in paths])
    classes = _logits(checkpoint, pictures).argmax(1)
    maps = evidence_maps(checkpoint, pictures, classes)
    told = [i for i, values in enumerate(maps) if values.max() > values.min()]
    if len(told) < 2:
        raise InputError(f"{checkpoint.name} has a map for {len(told)} of these pictures: give more or other ones.")
    areas = {measure: {kind: [] for kind in ("evidence", *CONTROLS)} for measure in MEASURES}
    for i in progress(told):
        found = faithfulness(checkpoint, pictures[i], maps[i], classes[i], (seed, i))
        for name, kinds in areas.items():
            for kind, values in kinds.items():
                values.append(found.areas(name, kind).mean())
    areas = {name: {kind: np.array(values) for kind, values in kinds.items()} for name, kinds in areas.items()}
    return {
        "checkpoint": checkpoint.name, "weights": digest(checkpoint), "n": len(told),
        "skipped": len(paths) - len(told), "seed": seed, "protocol": PROTOCOL,
        "areas": {name: {kind: _round(v.mean()) for kind, v in kinds.items()} for name, kinds in areas.items()},
        "differences": {
            name: {control: _difference(kinds["evidence"] - kinds[control], seed) for control in CONTROLS}
            for name, kinds in areas.items()
        },
        "randomised": _randomised_figures(checkpoint, pictures[told], maps[told], classes[told], seed),
    }  # fmt: skip


def _difference(values: np.ndarray, seed: int) -> dict:
    return {"mean": _round(values.mean()), "sd": _round(values.std(ddof=1)), "p": _round(sign_flip_p(values, seed), 6)}


def _randomised_figures(checkpoint, pictures: Tensor, maps: np.ndarray, classes: np.ndarray, seed: int) -> dict:
    """Rank correlation with each randomised net's maps, averaged over the pictures where that net has one at all."""
    examples, by_net, none = calibration(checkpoint), [], 0
    for net in range(NETS):
        others = evidence_maps(randomised(checkpoint, seed + net, examples), pictures, classes)
        found = np.array([spearman(a, b) for a, b in zip(maps, others, strict=True)])
        none += int(np.isnan(found).sum())
        if not np.isnan(found).all():
            by_net.append(float(np.nanmean(found)))
    return {
        "nets": NETS, "mean": _round(np.mean(by_net)) if by_net else None,
        "by_net": [_round(value) for value in by_net], "maps_without_order": none, "cells": int(maps[0].size),
    }  # fmt: skip


def _round(value: float, digits: int = 4) -> float:
    return round(float(value), digits)


def digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of the weights in use, so that figures can't stay beside other weights."""
    return checkpoint.weights_digest


def published(checkpoint: Checkpoint) -> dict | None:
    """The bundled checkpoint's faithfulness.json, if it was measured on these very weights and makes sense."""
    path = BUNDLED / checkpoint.name / FILE
    if checkpoint.name not in bundled_names() or not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
        figures = [found["areas"][m][kind] for m in MEASURES for kind in ("evidence", *CONTROLS)]
        figures += [found["differences"][m][control]["p"] for m in MEASURES for control in CONTROLS]
        sound = all(0 <= figure <= 1 for figure in figures) and int(found["n"]) > 0
        sound = sound and abs(found["randomised"]["mean"]) <= 1 and int(found["randomised"]["nets"]) > 0
        return found if sound and found["weights"] == digest(checkpoint) else None
    except (ValueError, TypeError, KeyError):
        return None


def chosen(folder: Path, n: int, seed: int) -> list[Path]:
    """n pictures of a folder with class folders, drawn by the seed alone. Raises InputError if there are fewer."""
    paths = [path for files in find_classes(folder).values() for path in files]
    if not 2 <= n <= len(paths):
        raise InputError(f"`n` (={n}) must lie between 2 and the {len(paths):,} pictures in {folder.name}/.")
    return [paths[i] for i in torch.randperm(len(paths), generator=generator(seed, 0))[:n].tolist()]


def main(arguments: list[str] | None = None) -> int:
    from tqdm import tqdm

    parser = argparse.ArgumentParser(prog="python -m mnv3.faithfulness", description="Measures the evidence maps.")
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder of test pictures per class")
    parser.add_argument("--n", type=int, default=500, help="pictures, drawn at random (%(default)s)")
    parser.add_argument("--checkpoint", required=True, help="by mnv3.load's names, or a folder")
    parser.add_argument("--out", type=Path, required=True, help=f"file to write; the app looks for {FILE}")
    parser.add_argument("--seed", type=int, default=0, help="decides every random draw (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        checkpoint, began = load(given.checkpoint, fetching(given.checkpoint)), time.monotonic()
        paths = chosen(given.data.expanduser(), given.n, given.seed)
        result = measure(checkpoint, paths, given.seed, lambda x: tqdm(x, "deleting and inserting"))
        result |= {"data": given.data.resolve().name}
        minutes = round((time.monotonic() - began) / 60, 1)
        result |= {"machine": machine(torch.device("cpu")) | {"numpy": np.__version__, "minutes": minutes}}
        text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        replace_file(given.out, lambda temporary: Path(temporary).write_text(text))
    except InputError as error:
        print(f"mnv3.faithfulness: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"mnv3.faithfulness: {given.out.name!r} can't be written: {error.strerror}.", file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
