"""What every package may use beside errors: labels, files, seeds, and facts of the machine."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def smooth(values: np.ndarray, side: int) -> np.ndarray:
    """A map (h, w) over a picture of side × side: bicubic, which may overshoot."""
    image = Image.fromarray(np.asarray(values, np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


MAX_LABEL_LENGTH = 200


def replace_file(path: Path, write: Callable[[str], object]) -> None:
    """write(temporary path) in the same folder, then rename: a crash or a full disk leaves the old file whole."""
    temporary = _temporary(path, write)
    try:
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _temporary(path: Path, write: Callable[[str], object]) -> str:
    """The path of a whole file beside `path`, made by write(its path); none is left where that fails."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 600 would keep a server under another user from reading it
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return temporary


def fits(text: object) -> bool:
    """Whether config.json can hold it as a name, a class or the data in words: not too long, and UTF-8."""
    return isinstance(text, str) and 0 < len(text) <= MAX_LABEL_LENGTH and is_utf8(text)


def is_utf8(text: str) -> bool:
    """Whether a text of this machine can be written; bytes of a file name that are no UTF-8 become lone surrogates."""
    return not re.search("[\ud800-\udfff]", text)


TELL_EVERY = 5  # seconds, while the network keeps a command line waiting


def cores() -> int:
    """How many cores this process may use: its share of those that this machine's processes of the run have."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, allowed // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def generator(*numbers: int) -> torch.Generator:
    """A generator that is a function of the numbers alone, so that a resumed run draws what it would have."""
    mixed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> 1))
