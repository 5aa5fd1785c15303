"""The runs and measurements behind mnv3/claims.json, which README and the app quote:

    python -m tests.benchmarks.claims train       # hours; may be stopped
    python -m tests.benchmarks.claims list        # the runs, as commands
    python -m tests.benchmarks.claims evaluate    # gates held, other resolutions; `train` ends with it
    python -m tests.benchmarks.claims speed       # milliseconds; on a quiet machine
    python -m tests.benchmarks.claims collect     # what is there so far into claims.json and README

--data says where CIFAR-10 lies, --state where the runs do (runs/claims). `train` does what is not finished yet, one run
after the other, each resumed if it was begun.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from torch.nn import functional as F

from mnv3 import claims
from mnv3.basics import generator
from mnv3.checkpoints.checkpoint import Checkpoint, GateStatistics
from mnv3.checkpoints.reading import read_checkpoint
from mnv3.checkpoints.registry import BUNDLED, bundled_names
from mnv3.distributed import machine
from mnv3.explanation.randomization import recalibrate
from mnv3.inference import session as inference_session
from mnv3.nets.spec import multiply_adds
from mnv3.nets.tutorial import ARTICLE
from mnv3.training.dataset import Pictures, Source, open_source
from mnv3.training.evaluation import predict, score
from tests.benchmarks.speed import BareSession, settled
from tests.benchmarks.timing import medians, turns

ROOT = Path(__file__).parent.parent.parent
CALIBRATION = 5_000  # training pictures
SHORT = "--strides 1 --epochs 15 --early-epochs 0 --precision bf16 --compile"  # one recipe for all that it compares
BY_ARTICLE = "--recipe article"


class Job(NamedTuple):
    """One training run: its name in claims.json and what train.py is told beside data and folder."""

    name: str
    options: str

    def command(self, data: str, out: Path, note: str, resume: bool = False) -> list[str]:
        known = ["--data", data, *(["--data-note", note] if note else []), "--name", self.name, "--out", str(out)]
        return [sys.executable, str(ROOT / "train.py"), *self.options.split(), *known, *["--resume"] * resume]


def jobs() -> list[Job]:
    """In the order in which they fill the table: of the ablation a whole seed before the next, and its later seeds
    last, as a line has something to show from the first one on."""
    small = [
        Job(f"{variant}-seed{seed}", f"--variant {variant} {SHORT} --seed {seed}")
        for seed in range(claims.SEEDS)
        for variant in ("small", *claims.ABLATIONS)
    ]
    widths = [Job(f"small-width{w}", f"--variant small --width {w} {SHORT}") for w in claims.WIDTHS if w != 1]
    ends = [Job(name, f"--variant {name} {SHORT}") for name in ("v2", "large")]
    first, rest = small[: 1 + len(claims.ABLATIONS)], small[1 + len(claims.ABLATIONS) :]
    articles = [
        Job("article-recipe-small", f"{BY_ARTICLE} --variant small --lr 0.01"),
        Job("article-recipe-large", f"{BY_ARTICLE} --variant large"),
        Job("article-large", f"{BY_ARTICLE} --variant article-large"),
    ]
    largest = Job("article-small", f"{BY_ARTICLE} --variant article-small --lr 0.01")
    return [*articles, *first, *ends, *widths, largest, *rest]


def finished(folder: Path) -> bool:
    """Whether the run in this folder has measured its test pictures, which is the last that it does."""
    metrics = folder / "metrics.json"
    return metrics.is_file() and "test" in json.loads(metrics.read_text())


def finished_folder(state: Path, name: str) -> Path | None:
    """Where a finished run lies; the article's Large is bundled, made by the same recipe."""
    bundled = [BUNDLED / f"cifar10-{name}"] if name in ARTICLE and f"cifar10-{name}" in bundled_names() else []
    return next((folder for folder in (state / name, *bundled) if finished(folder)), None)


def train(data: str, state: Path, note: str) -> int:
    """Every run that is neither finished in `state` nor in claims.json. 130 where it was told to stop."""
    state.mkdir(parents=True, exist_ok=True)
    known, failed = claims.read()["runs"], []
    for job in jobs():
        out = state / job.name
        if job.name in known or finished_folder(state, job.name):
            continue
        command = job.command(data, out, note, resume=(out / "last.pt").is_file())
        print(shlex.join(command), flush=True)
        status, told = run(command)
        if told:
            return 130
        if status:
            failed.append(job.name)
    print(f"failed: {', '.join(failed)}" if failed else "all runs are finished", flush=True)
    evaluate(data, state)
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


# finished runs, looked at once more ---------------------------------------------------------------------------------


def evaluate(data: str, state: Path) -> int:
    """evaluated.json beside every finished run that lacks it."""
    for job in jobs():
        folder, result = finished_folder(state, job.name), state / job.name / "evaluated.json"
        if folder and not result.is_file():
            print(job.name, flush=True)
            found = evaluated(folder, open_source(data, 0), resolutions=job.name == "small-seed0")
            result.parent.mkdir(exist_ok=True)
            result.write_text(json.dumps(found, indent=1) + "\n")
    return 0


@torch.inference_mode()
def evaluated(folder: Path, source: Source, resolutions: bool = False) -> dict:
    """top-1 on the test pictures with every gate held at its reference, and at other resolutions."""
    checkpoint = read_checkpoint(folder)
    # the training pictures first, since how the others are read follows from them
    train = source.read("train", checkpoint.preprocessing) if resolutions else None
    test, result = source.read("test", checkpoint.preprocessing), {}
    normal = [torch.tensor(v) for v in (checkpoint.preprocessing.mean, checkpoint.preprocessing.std)]
    if gates := checkpoint.gates:
        reference = [torch.from_numpy(r).float() for r in gates.reference()]
        nothing_kept = lambda x: x.new_zeros(len(x), len(reference))  # noqa: E731
        held = lambda x: checkpoint.model.explained(x, nothing_kept(x), reference).logits  # noqa: E731
        result["held"] = score(predict(held, test, *normal), test.labels)["top1"]
    if resolutions:
        result["resolutions"] = {size: at_resolution(checkpoint, size, train, test, normal) for size in claims.SIZES}
    return result


def gate_figures(gates: GateStatistics) -> dict:
    """Of each SE block, over its channels: the mean gate, and the mean of the gates' spread over pictures."""
    spreads = [np.sqrt(m2[0] / max(1, gates.count - 1)).mean() for m2 in gates.m2]
    return {
        "mean": [round(float(mean[0].mean()), 4) for mean in gates.mean],
        "spread": [round(float(spread), 4) for spread in spreads],
    }


def at_resolution(checkpoint: Checkpoint, size: int, train: Pictures, test: Pictures, normal: list) -> dict:
    """top-1 on the test pictures resized to `size`, as the network is and with BatchNorm taken anew from CALIBRATION
    training pictures of that size."""
    resized = lambda x: F.interpolate(x, (size, size), mode="bilinear", antialias=True)  # noqa: E731
    other = deepcopy(checkpoint.model)
    some = torch.randperm(len(train), generator=generator(0))[:CALIBRATION]
    recalibrate(other, (resized(x) for x in train.evaluation(some, tuple(normal), 250)))
    found = {
        name: score(predict(lambda x, model=model: model(resized(x)), test, *normal), test.labels)["top1"]
        for name, model in (("plain", checkpoint.model), ("recalibrated", other))
    }
    return found | {"multiply_adds": multiply_adds(checkpoint.spec, size)}


# milliseconds -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def milliseconds(spec, side: int, rounds: int) -> dict:
    """Median milliseconds of our explained pass and of bare ONNX Runtime, for one picture and for 32."""
    model = settled(spec, side)
    session, bare = inference_session.Session(model), BareSession(model)
    one, many = (torch.randn(n, 3, side, side) for n in (1, 32))
    runs = [
        lambda: session.run(one), lambda: bare(one.numpy()),
        lambda: session.run(many), lambda: bare(many.numpy()),
    ]  # fmt: skip
    ways = dict(zip(claims.WAYS, runs, strict=True))
    return medians(turns(ways, rounds, 1, 1, 3), 2)


def speed(state: Path, rounds: int) -> int:
    """speed.json in `state`."""
    found = {}
    for name, (spec, side) in claims.networks().items():
        found[name] = milliseconds(spec, side, rounds)
        print(name, found[name], flush=True)
    where = machine(torch.device("cpu")) | {"onnxruntime": onnxruntime.__version__}
    state.mkdir(parents=True, exist_ok=True)
    result = {"machine": where, "n": 3 * rounds, "networks": found}
    (state / "speed.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


# one file of it all -------------------------------------------------------------------------------------------------


def collect(state: Path, readme: Path = ROOT / "README.md") -> int:
    """claims.json: what it had, with the finished runs and the speed that lie in `state`; and README's table of it."""
    data = claims.read()
    for job in jobs():
        if folder := finished_folder(state, job.name):
            data["runs"][job.name] = record(folder, state / job.name / "evaluated.json")
    if (state / "speed.json").is_file():
        data["speed"] = json.loads((state / "speed.json").read_text())
    claims.FILE.write_text(json.dumps(data, indent=1) + "\n")
    text = readme.read_text()
    begin, end = (text.index(mark) for mark in claims.MARKS)
    readme.write_text(text[:begin] + claims.MARKS[0] + "\n" + claims.markdown(data) + "\n" + text[end:])
    return 0


def record(folder: Path, evaluated: Path) -> dict:
    """What the claims need of a finished run; of what `evaluate` found only what is there."""
    metrics = json.loads((folder / "metrics.json").read_text())
    recipe, where = metrics["recipe"], metrics["machine"]
    found = {key: recipe[key] for key in ("variant", "width", "strides", "epochs", "seed")}
    found |= {"top1": metrics["test"]["top1"], "n": metrics["test"]["n"], "minutes": where["minutes"]}
    found["machine"] = {key: where[key] for key in ("hardware", "torch")}
    if gates := read_checkpoint(folder).gates:
        found["gates"] = gate_figures(gates)
    return found | (json.loads(evaluated.read_text()) if evaluated.is_file() else {})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "list", "evaluate", "speed", "collect"))
    parser.add_argument("--data", default="cifar10", help="CIFAR-10 as folders, or cifar10 to be downloaded")
    parser.add_argument("--data-note", default="", help="what the data is, in words")
    parser.add_argument("--state", type=Path, default=Path("runs/claims"), help="where the runs lie")
    parser.add_argument("--rounds", type=int, default=12, help="of timing, three calls each")
    given = parser.parse_args(arguments)
    if given.what == "train":
        return train(given.data, given.state, given.data_note)
    if given.what == "evaluate":
        return evaluate(given.data, given.state)
    if given.what == "speed":
        return speed(given.state, given.rounds)
    if given.what == "collect":
        return collect(given.state)
    for job in jobs():
        print(shlex.join(job.command(given.data, given.state / job.name, given.data_note)[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
