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
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch

from ..checkpoints.checkpoint import Checkpoint
from ..errors import InputError
from ..nets.mobilenet import Network
from . import onnx_graph
from .cache import _lock

MOST_NUMBERS = 2**26  # in one map of a batch
MOST_APART = 1e-4  # a session's outputs from torch's
THREADS = min(2, os.cpu_count() or 1)  # of a pass; its threads spin, so passes at a time take turns by pairs of cores:
_turns = threading.Semaphore(max(1, (os.cpu_count() or 1) // THREADS))  # README, 'How fast', has both ways measured
_sessions: WeakKeyDictionary[Checkpoint, Future] = WeakKeyDictionary()  # of Session, or of None where torch serves
_preparing = ThreadPoolExecutor(1, "prepare")


class Pass(NamedTuple):
    """explained() for N inputs as NumPy arrays; shapes as in mnv3.model.Explained."""

    logits: np.ndarray
    gates: list[np.ndarray]
    energy: list[np.ndarray]
    features: np.ndarray


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
        self.explained = opened(onnx_graph.serialized(model))
        self.questions = opened(onnx_graph.serialized_causal(model)) if model.channels else None
        self.only_logits = onnxruntime.RunOptions()
        self.only_logits.only_execute_path_to_fetches = True
        self.names, self.channels = onnx_graph.names(model), model.channels

    def run(self, inputs: torch.Tensor) -> Pass:
        """As engine.run."""
        return self._pass(self.explained, {onnx_graph.IMAGES: np.ascontiguousarray(inputs.numpy())})

    def causal(self, one: torch.Tensor, reference: list[np.ndarray]) -> Pass:
        """As engine.causal."""
        feed = {onnx_graph.IMAGES: np.ascontiguousarray(one.numpy())}
        for name, gates in zip(self.names["reference"], reference, strict=True):
            feed[name] = np.ascontiguousarray(gates, np.float32).reshape(1, -1, 1, 1)
        out = self._pass(self.questions, feed)
        return out._replace(logits=out.logits[onnx_graph.causal_rows(len(reference))])

    def _pass(self, session, feed: dict[str, np.ndarray]) -> Pass:
        wanted = [onnx_graph.LOGITS, onnx_graph.FEATURES, *self.names["gates"], *self.names["energy"]]
        with _turns:
            logits, features, *rest = session.run(wanted, feed)
        gates, energy = rest[: len(self.channels)], rest[len(self.channels) :]
        sides = [math.isqrt(e.shape[2]) for e in energy]  # pictures are square
        energy = [e.reshape(-1, 2, side, side) for e, side in zip(energy, sides, strict=True)]
        return Pass(logits, [g.reshape(g.shape[:2]) for g in gates], energy, features)

    def logits(self, inputs: torch.Tensor) -> np.ndarray:
        """Logits (N, K) alone; engine.logits takes the turn."""
        feed = {onnx_graph.IMAGES: np.ascontiguousarray(inputs.numpy())}
        return self.explained.run([onnx_graph.LOGITS], feed, self.only_logits)[0]


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
