"""The processes of one run, one on its own or several that torchrun started: what they share, and what they run on."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from .basics import TELL_EVERY
from .errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where two runs in one folder are the user's to keep apart
    fcntl = None
T = TypeVar("T")


def world() -> tuple[int, int]:
    """(rank, processes): (0, 1) without torchrun."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def say(text: str, file=None) -> None:
    """Prints in the first process only."""
    if world()[0] == 0:
        print(text, file=file, flush=True)


def fetching(name: str) -> Callable[[int, int], None]:
    """load()'s progress(done, total) for a command line: a line on stderr every TELL_EVERY seconds."""
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if (now := time.monotonic()) - told >= TELL_EVERY:
            told = now
            say(f"fetching {name}: {done / 1e6:.1f} of {total / 1e6:.1f} MB", sys.stderr)

    return progress


def summed(tensor: Tensor) -> Tensor:
    """The tensor added up over all processes."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def gathered(part: list[T], count: int) -> list[T]:
    """All `count` items of a list of which each process has the places rank::processes."""
    rank, processes = world()
    parts = [part]
    if processes > 1:
        parts = [None] * processes
        dist.all_gather_object(parts, part)
    whole = [None] * count
    for first, items in enumerate(parts):
        whole[first::processes] = items
    return whole


def agree(error: InputError | None, device: torch.device) -> None:
    """Raises InputError in every process where one has met one: else the others would wait for it in their next sum."""
    if world()[1] == 1:
        if error:
            raise error
    elif summed(torch.tensor([float(error is not None)], device=device)).item():
        found = gathered([str(error) if error else ""], world()[1])
        raise InputError(next(text for text in found if text))


def meet(device: torch.device) -> None:
    """Returns in every process once all are here."""
    summed(torch.zeros(1, device=device)).item()


def left_alone(error: RuntimeError) -> bool:
    """Whether this is how gloo or NCCL tell that another process of the run has ended."""
    return dist.is_initialized() and bool(re.search("by peer|remote process exiting", str(error)))


def first_alone(work: Callable[[], T], device: torch.device) -> T:
    """work() in the first process, then in the others, who find done what need be done once: a download."""
    rank, _ = world()
    if rank:
        meet(device)
    result = work()
    if not rank:
        meet(device)
    return result


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Keeps other runs out of the folder, which is made if it is not there, for as long as this one lasts.

    The lock is the system's, on the folder itself: it goes with the process however that ends, and leaves no file.
    Of several processes the first has it. Raises InputError if another run is at work there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a file has its name, or it may not be made there
        why = f"can't be a folder ({error.strerror})"
        raise InputError(f"`out` (={str(folder)!r:.80}) {why}: choose another --out.") from None
    if fcntl is None or os.environ.get("RANK", "0") != "0":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(
            f"Another run is at work in {folder.name}/: wait for its end, or choose another --out."
        ) from None
    except OSError:  # a file system without locks is no reason to refuse
        pass
    try:
        yield
    finally:
        os.close(handle)


def machine(device: torch.device) -> dict:
    """Hardware and versions, as metrics.json names them."""
    cpu, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        names = re.findall(r"model name\s*: (.+)", info.read_text())
        cpu = names[0] if names else cpu
    gpu = device.type == "cuda"
    hardware = f"{world()[1]} × {torch.cuda.get_device_name(device)}" if gpu else f"{os.cpu_count()} × {cpu}"
    return {"hardware": hardware, "torch": torch.__version__, "python": platform.python_version()}
