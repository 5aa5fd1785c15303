"""What the benchmarks share: ways that take turns, and a result that is printed and, if asked, kept."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import PIL
import torch

from mnv3.basics import cores
from mnv3.distributed import machine

PAUSE = 0.05  # seconds


def turns(ways: dict[str, Callable], rounds: int, warm_up: int, settle: int = 0, calls: int = 1) -> dict[str, list]:
    """Milliseconds of every way in every round: the median of its calls, after a pause in which the threads of whoever
    ran before stop spinning, and `settle` calls to be warm again. The first `warm_up` rounds are left out."""
    taken = {name: [] for name in ways}
    for number in range(warm_up + rounds):
        for name, way in ways.items():
            times = []
            time.sleep(PAUSE)
            for _ in range(settle + calls):
                began = time.perf_counter()
                way()
                times.append(1000 * (time.perf_counter() - began))
            if number >= warm_up:
                taken[name].append(statistics.median(times[settle:]))
    return taken


def medians(taken: dict[str, list[float]], digits: int) -> dict[str, float]:
    return {name: round(statistics.median(times), digits) for name, times in taken.items()}


def against(taken: dict[str, list[float]], name: str, other: str, times: float = 1) -> float:
    """The median over rounds of one way's time in units of another's."""
    return round(statistics.median(a / (times * b) for a, b in zip(taken[name], taken[other], strict=True)), 2)


def report(
    description: str, path: Path, measured: Callable[[], dict], drawing: Callable[[dict], str] | None = None
) -> None:
    """Prints what was measured, and with --write keeps it at `path`, its drawing beside it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"keep the result as {path.name}")
    given = parser.parse_args()
    found = measured()
    print(written(found), end="")
    if given.write:
        path.write_text(written(found))
        if drawing:
            path.with_suffix(".svg").write_text(drawing(found))


def written(found: dict) -> str:
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def keep(path: str, found: dict) -> None:
    """A result as .json beside its benchmark, with the machine and the cores that it was allowed."""
    about = {**machine(torch.device("cpu")), "cores used": cores(), "Pillow": PIL.__version__}
    Path(path).with_suffix(".json").write_text(written({"machine": about, **found}))
