"""Reference gates of a checkpoint: its own statistics, or those of the example pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch

from ..checkpoints.checkpoint import Checkpoint, GateStatistics
from ..errors import InputError
from .cache import _lock
from .session import run

PACKAGE = Path(__file__).parents[1]
# in the package where it is installed, beside it in the repository
EXAMPLES = PACKAGE / "examples" if (PACKAGE / "examples").is_dir() else PACKAGE.parent / "examples"
_examples: WeakKeyDictionary[Checkpoint, list[tuple[bytes, list[np.ndarray]]]] = WeakKeyDictionary()


def reference(checkpoint: Checkpoint, shown: torch.Tensor) -> GateStatistics:
    """What the gates are held against: the checkpoint's own statistics, or the example pictures without `shown`.

    shown (3, H, W) is the input on show. Raises InputError if there are neither.
    """
    if checkpoint.gates is not None:
        return checkpoint.gates
    own = _digest(shown)
    others = [gates for digest, gates in _example_gates(checkpoint) if digest != own]
    if not others:
        raise InputError(
            f"{checkpoint.name} brings no gate statistics and there are no example pictures to make a reference from: "
            "put pictures into examples/."
        )
    stacked = [np.stack(block) for block in zip(*others, strict=True)]  # L × (n, C_l)
    return GateStatistics(
        np.array([len(others)]),
        tuple(s.mean(0, keepdims=True) for s in stacked),
        tuple(((s - s.mean(0)) ** 2).sum(0, keepdims=True) for s in stacked),
        "example pictures",
    )


def _example_gates(checkpoint: Checkpoint) -> list[tuple[bytes, list[np.ndarray]]]:
    """Gates of every example picture, computed once for each checkpoint, with the input's digest to leave it out."""
    with _lock:
        if checkpoint in _examples:
            return _examples[checkpoint]
    inputs = example_inputs(checkpoint, example_pictures())
    rows = [(_digest(one), [gates[0] for gates in run(checkpoint, one[None]).gates]) for one in inputs]
    with _lock:
        return _examples.setdefault(checkpoint, rows)


def example_pictures() -> list[Path]:
    """The pictures in examples/, by name."""
    return sorted(p for p in EXAMPLES.iterdir() if p.suffix in (".jpg", ".png")) if EXAMPLES.is_dir() else []


def example_inputs(checkpoint: Checkpoint, paths: Sequence[Path]) -> Iterator[torch.Tensor]:
    """The pictures as this network's inputs (3, H, W), but those that can't be read."""
    for path in paths:
        try:
            yield checkpoint.preprocess(path)
        except InputError:  # a damaged example is no visitor's fault
            continue


def _digest(tensor: torch.Tensor) -> bytes:
    return sha256(tensor.numpy().tobytes()).digest()
