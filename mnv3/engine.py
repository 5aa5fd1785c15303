"""The runner: keeps loaded checkpoints, runs the explained pass safely from many threads, and finds reference gates.

A pass runs in ONNX Runtime once its session is ready, and in torch until then and where the two disagree: torch is
what is right. README, 'How fast', has what it takes beside other ways.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch

from . import graph
from .catalogue import load
from .checkpoints import Checkpoint, GateStatistics
from .errors import InputError
from .fetch import Progress
from .model import Network

EXAMPLES = Path(__file__).parent.parent / "examples"
MOST_NUMBERS = 2**26  # in one map of a batch
KEPT = 6  # loaded checkpoints; Large takes 22 MB
MOST_APART = 1e-4  # a session's outputs from torch's
THREADS = min(2, os.cpu_count() or 1)  # of a pass; its threads spin, so passes at a time take turns by pairs of cores:
_turns = threading.Semaphore(max(1, (os.cpu_count() or 1) // THREADS))  # README, 'How fast', has both ways measured

_lock = threading.Lock()
_loaded: OrderedDict[str, Checkpoint] = OrderedDict()
_loading: dict[str, threading.Lock] = {}
_examples: WeakKeyDictionary[Checkpoint, list[tuple[bytes, list[np.ndarray]]]] = WeakKeyDictionary()
_sessions: WeakKeyDictionary[Checkpoint, Future] = WeakKeyDictionary()  # of Session, or of None where torch serves
_preparing = ThreadPoolExecutor(1, "prepare")


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
def run(checkpoint: Checkpoint, inputs: torch.Tensor) -> Pass:
    """One explained pass over inputs (N, 3, H, W). Raises InputError as _finite does.

    Nothing is written to the module, so any number of threads may run the same checkpoint at once.
    """
    session = fast(checkpoint) if inputs.shape[2] == inputs.shape[3] else None
    out = session.run(inputs) if session else _in_torch(checkpoint, inputs)
    _finite(checkpoint, out.logits, out.features, *out.gates, *out.energy)
    return out


@torch.inference_mode()
def causal(checkpoint: Checkpoint, one: torch.Tensor, reference: list[np.ndarray]) -> Pass:
    """The pass of one picture (1, 3, H, W), but logits (L + 2, K): row 0 with its own gates, row 1 + l with block l
    held at its reference (C_l,), the last row with all of them held. Raises InputError as _finite does.
    """
    session = fast(checkpoint) if one.shape[2] == one.shape[3] else None
    out = session.causal(one, reference) if session else _causal_in_torch(checkpoint, one, reference)
    _finite(checkpoint, out.logits, out.features, *out.gates, *out.energy)
    return out


def _finite(checkpoint: Checkpoint, *arrays: np.ndarray) -> None:
    """Raises InputError for infinity and NaN, which weights that are numbers may still lead to: too large ones, or a
    variance below 0. They would be shown as an answer."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise InputError(f"{checkpoint.name} answers this picture with NaN or infinity: its weights are broken, so "
                         "choose others.")  # fmt: skip


def _in_torch(checkpoint: Checkpoint, inputs: torch.Tensor, keep=None, reference=None) -> Pass:
    out = checkpoint.model.explained(inputs, keep, reference)
    return Pass(
        out.logits.numpy(), [g.numpy() for g in out.gates], [e.numpy() for e in out.energy], out.features.numpy()
    )


def _causal_in_torch(checkpoint: Checkpoint, one: torch.Tensor, reference: list[np.ndarray]) -> Pass:
    keep = torch.from_numpy(keep_rows(len(reference)))
    reference = [torch.from_numpy(np.ascontiguousarray(r, np.float32)) for r in reference]
    out = _in_torch(checkpoint, one.expand(len(keep), -1, -1, -1), keep, reference)
    return Pass(out.logits, [g[:1] for g in out.gates], [e[:1] for e in out.energy], out.features[:1])


def keep_rows(blocks: int) -> np.ndarray:
    """(L + 2, L): row 0 keeps every gate, row 1 + l holds block l at its reference, the last row holds all."""
    keep = np.ones((blocks + 2, blocks), np.float32)
    keep[1:-1] -= np.eye(blocks, dtype=np.float32)
    keep[-1] = 0
    return keep


@torch.inference_mode()
def logits(checkpoint: Checkpoint, inputs: torch.Tensor) -> tuple[np.ndarray, float | None]:
    """Logits (N, K) of the bare network, and the milliseconds it took, without the wait for its turn.

    None where torch stands in for a session that is being prepared: the network isn't as slow as that. Raises
    InputError as _finite does.
    """
    preparing, session = not _session(checkpoint).done(), fast(checkpoint)
    with _turns if session else nullcontext():
        began = time.perf_counter()
        out = session.logits(inputs) if session else checkpoint.model(inputs).numpy()
        taken = (time.perf_counter() - began) * 1000
    _finite(checkpoint, out)
    return out, None if preparing else taken


class Session:
    """A network's passes over square pictures in ONNX Runtime; any number of threads may run them at once."""

    def __init__(self, model: Network):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.log_severity_level = 3
        # its own many times that, after every pass, took two cores from whoever decodes and draws: a hundred pictures
        # came in 1.4 s, with this in 1.1
        options.add_session_config_entry("session.intra_op.spin_duration_us", "1000")
        # weights may make activations subnormal, which some processors compute slowly; no effect was measured here yet
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        opened = lambda written: onnxruntime.InferenceSession(written, options, ["CPUExecutionProvider"])  # noqa: E731
        self.explained = opened(graph.serialized(model))
        self.questions = opened(graph.serialized_causal(model)) if model.channels else None
        self.only_logits = onnxruntime.RunOptions()
        self.only_logits.only_execute_path_to_fetches = True
        self.names, self.channels = graph.names(model), model.channels

    def run(self, inputs: torch.Tensor) -> Pass:
        """As engine.run."""
        return self._pass(self.explained, {graph.IMAGES: np.ascontiguousarray(inputs.numpy())})

    def causal(self, one: torch.Tensor, reference: list[np.ndarray]) -> Pass:
        """As engine.causal."""
        feed = {graph.IMAGES: np.ascontiguousarray(one.numpy())}
        for name, gates in zip(self.names["reference"], reference, strict=True):
            feed[name] = np.ascontiguousarray(gates, np.float32).reshape(1, -1, 1, 1)
        out = self._pass(self.questions, feed)
        return out._replace(logits=out.logits[graph.causal_rows(len(reference))])

    def _pass(self, session, feed: dict[str, np.ndarray]) -> Pass:
        wanted = [graph.LOGITS, graph.FEATURES, *self.names["gates"], *self.names["energy"]]
        with _turns:
            logits, features, *rest = session.run(wanted, feed)
        gates, energy = rest[: len(self.channels)], rest[len(self.channels) :]
        sides = [math.isqrt(e.shape[2]) for e in energy]  # pictures are square
        energy = [e.reshape(-1, 2, side, side) for e, side in zip(energy, sides, strict=True)]
        return Pass(logits, [g.reshape(g.shape[:2]) for g in gates], energy, features)

    def logits(self, inputs: torch.Tensor) -> np.ndarray:
        """Logits (N, K) alone; engine.logits takes the turn."""
        feed = {graph.IMAGES: np.ascontiguousarray(inputs.numpy())}
        return self.explained.run([graph.LOGITS], feed, self.only_logits)[0]


def fast(checkpoint: Checkpoint, wait: bool = False) -> Session | None:
    """The checkpoint's session; None while it is prepared in the background, unless asked to wait, or if unusable.

    The first call starts the preparation, so that no visitor waits for it.
    """
    future = _session(checkpoint)
    return future.result() if wait or future.done() else None


def _session(checkpoint: Checkpoint) -> Future:
    with _lock:
        if checkpoint not in _sessions:
            _sessions[checkpoint] = _preparing.submit(_prepare, checkpoint)
        return _sessions[checkpoint]


@torch.inference_mode()
def _prepare(checkpoint: Checkpoint) -> Session | None:
    """A session whose outputs are torch's on pictures that the network makes something of; None if there is none."""
    try:
        session, side = Session(checkpoint.model), checkpoint.preprocessing.crop
        inputs = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        pairs = [(session.run(inputs), _in_torch(checkpoint, inputs))]
        if channels := checkpoint.model.channels:
            asked = inputs[:1], [np.full(c, 0.5, np.float32) for c in channels]
            pairs.append((session.causal(*asked), _causal_in_torch(checkpoint, *asked)))
        if not (worst := np.max([disagreement(*pair) for pair in pairs])) <= MOST_APART:
            raise ValueError(f"its outputs differ from torch's by {worst:.1e}")
        return session
    except Exception as error:  # whatever it is, torch serves
        logging.getLogger("mnv3").warning("%s runs in torch, without ONNX Runtime: %s", checkpoint.name, error)
        return None


def disagreement(one: Pass, other: Pass) -> float:
    """The largest difference between two passes' outputs, each in units of its largest value or 1."""
    pairs = zip(*([p.logits, p.features, *p.gates, *p.energy] for p in (one, other)), strict=True)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        return float(np.max([np.abs(a - b).max() / max(1.0, np.abs(b).max()) for a, b in pairs]))


def rows_at_once(checkpoint: Checkpoint) -> int:
    """How many pictures may go through at once, so that no map takes much more than 268 MB; 100 at most."""
    largest = max(layer.outputs * layer.side**2 for layer in checkpoint.spec.layers(checkpoint.preprocessing.crop))
    return min(100, max(1, MOST_NUMBERS // largest))


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
