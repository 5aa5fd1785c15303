"""The runs and measurements behind mnv3/claims.json, which README and the app quote:

    python -m tests.benchmarks.claims train --data cifar10/ --state runs/claims   # hours; may be stopped
    python -m tests.benchmarks.claims list                                       # the runs, as commands

`train` does what is not finished yet, one run after the other, smallest first, each resumed if it was begun.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from mnv3 import claims

ROOT = Path(__file__).parent.parent.parent
SHORT = "--strides 1 --epochs 15 --early-epochs 0 --precision bf16 --compile"  # one recipe for all that it compares
ARTICLE = "--recipe article"


class Job(NamedTuple):
    """One training run: its name in claims.json and what train.py is told beside data and folder."""

    name: str
    options: str

    def command(self, data: str, out: Path, note: str, resume: bool = False) -> list[str]:
        known = ["--data", data, *(["--data-note", note] if note else []), "--name", self.name, "--out", str(out)]
        return [sys.executable, str(ROOT / "train.py"), *self.options.split(), *known, *["--resume"] * resume]


def jobs() -> list[Job]:
    """Smallest first; of the ablation a whole seed before the next, so that what is there can be compared."""
    small = [
        Job(f"{variant}-seed{seed}", f"--variant {variant} {SHORT} --seed {seed}")
        for seed in range(claims.SEEDS)
        for variant in ("small", *claims.ABLATIONS)
    ]
    widths = [Job(f"small-width{w}", f"--variant small --width {w} {SHORT}") for w in claims.WIDTHS if w != 1]
    ends = [Job(name, f"--variant {name} {SHORT}") for name in ("v2", "large")]
    first, rest = small[: 1 + len(claims.ABLATIONS)], small[1 + len(claims.ABLATIONS) :]
    # the article's Large is not here: it is bundled, made by the same recipe
    articles = [
        Job("article-recipe-small", f"{ARTICLE} --variant small --lr 0.01"),
        Job("article-recipe-large", f"{ARTICLE} --variant large"),
    ]
    largest = Job("article-small", f"{ARTICLE} --variant article-small --lr 0.01")
    return [*articles, *widths, *first, *rest, *ends, largest]


def finished(folder: Path) -> bool:
    """Whether the run in this folder has measured its test pictures, which is the last that it does."""
    metrics = folder / "metrics.json"
    return metrics.is_file() and "test" in json.loads(metrics.read_text())


def train(data: str, state: Path, note: str) -> int:
    """Every run that is neither finished in `state` nor in claims.json. 130 where it was told to stop."""
    state.mkdir(parents=True, exist_ok=True)
    known, failed = claims.read()["runs"], []
    for job in jobs():
        out = state / job.name
        if job.name in known or finished(out):
            continue
        command = job.command(data, out, note, resume=(out / "last.pt").is_file())
        print(shlex.join(command), flush=True)
        status, told = run(command)
        if told:
            return 130
        if status:
            failed.append(job.name)
    print(f"failed: {', '.join(failed)}" if failed else "all runs are finished", flush=True)
    return bool(failed)


def run(command: list[str]) -> tuple[int, bool]:
    """The command's exit status, and whether it was told to stop: signals are passed on, so that it saves."""
    process, told = subprocess.Popen(command, cwd=ROOT), []

    def pass_on(number: int, _) -> None:
        told.append(number)
        process.send_signal(number)

    before = {s: signal.signal(s, pass_on) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        return process.wait(), bool(told)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "list"))
    parser.add_argument("--data", default="cifar10", help="CIFAR-10 as folders, or cifar10 to be downloaded")
    parser.add_argument("--data-note", default="", help="what the data is, in words")
    parser.add_argument("--state", type=Path, default=Path("runs/claims"), help="where the runs lie")
    given = parser.parse_args(arguments)
    if given.what == "train":
        return train(given.data, given.state, given.data_note)
    for job in jobs():
        print(shlex.join(job.command(given.data, given.state / job.name, given.data_note)[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
