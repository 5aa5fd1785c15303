"""The runner: keeps loaded checkpoints, runs the explained pass safely from many threads, and finds reference gates."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch

from .catalogue import load
from .checkpoints import Checkpoint, GateStatistics
from .errors import InputError
from .fetch import Progress

EXAMPLES = Path(__file__).parent.parent / "examples"
KEPT = 6  # loaded checkpoints; Large takes 22 MB

_lock = threading.Lock()
_loaded: OrderedDict[str, Checkpoint] = OrderedDict()
_loading: dict[str, threading.Lock] = {}
_examples: WeakKeyDictionary[Checkpoint, list[tuple[bytes, list[np.ndarray]]]] = WeakKeyDictionary()


class Pass(NamedTuple):
    """explained() for N inputs as NumPy arrays; shapes as in mnv3.model.Explained."""

    logits: np.ndarray
    gates: list[np.ndarray]
    energy: list[np.ndarray]
    features: np.ndarray


def checkpoint(name: str, progress: Progress | None = None) -> Checkpoint:
    """mnv3.load, keeping the last few. Two visitors don't load one checkpoint twice, nor wait for another's."""
    with _lock:
        loading = _loading.setdefault(name, threading.Lock())
    with loading:
        with _lock:
            if name in _loaded:
                _loaded.move_to_end(name)
                return _loaded[name]
        found = load(name, progress)
        with _lock:
            _loaded[name] = found
            while len(_loaded) > KEPT:
                _loading.pop(_loaded.popitem(last=False)[0], None)
        return found


@torch.inference_mode()
def run(
    checkpoint: Checkpoint, inputs: torch.Tensor, keep: np.ndarray | None = None, reference: list | None = None
) -> Pass:
    """One explained pass over inputs (N, 3, H, W); keep (N, L) and reference as in MobileNetV3.explained.

    Nothing is written to the module, so any number of threads may run the same checkpoint at once.
    """
    if keep is not None:
        keep = torch.from_numpy(np.ascontiguousarray(keep, np.float32))
        reference = [torch.from_numpy(np.ascontiguousarray(r, np.float32)) for r in reference]
    out = checkpoint.model.explained(inputs, keep, reference)
    return Pass(
        out.logits.numpy(), [g.numpy() for g in out.gates], [e.numpy() for e in out.energy], out.features.numpy()
    )


@torch.inference_mode()
def logits(checkpoint: Checkpoint, inputs: torch.Tensor) -> tuple[np.ndarray, float]:
    """Logits (N, K) of the bare network, and the milliseconds it took."""
    began = time.perf_counter()
    out = checkpoint.model(inputs)
    return out.numpy(), (time.perf_counter() - began) * 1000


@torch.inference_mode()
def block_maps(checkpoint: Checkpoint, inputs: torch.Tensor, block: int) -> np.ndarray:
    """Channels of SE block `block` before its gate: (N, 3, H, W) -> (N, C_l, h_l, w_l)."""
    return checkpoint.model.block_maps(inputs, block).numpy()


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
    rows = []
    for path in example_pictures():
        try:
            one = checkpoint.preprocess(path)
        except InputError:  # a damaged example is no visitor's fault
            continue
        rows.append((_digest(one), [gates[0] for gates in run(checkpoint, one[None]).gates]))
    with _lock:
        return _examples.setdefault(checkpoint, rows)


def example_pictures() -> list[Path]:
    """The pictures in examples/, by name."""
    return sorted(p for p in EXAMPLES.iterdir() if p.suffix in (".jpg", ".png")) if EXAMPLES.is_dir() else []


def _digest(tensor: torch.Tensor) -> bytes:
    return sha256(tensor.numpy().tobytes()).digest()
