"""Keeps loaded checkpoints."""

from __future__ import annotations

import threading
from collections import OrderedDict

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.download import Progress
from ..checkpoints.registry import load

KEPT = 6  # loaded checkpoints; Large takes 22 MB
_lock = threading.Lock()
_loaded: OrderedDict[str, Checkpoint] = OrderedDict()
_loading: dict[str, threading.Lock] = {}


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
