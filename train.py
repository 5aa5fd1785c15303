"""Trains a MobileNetV3 and writes a checkpoint folder that the app and mnv3.load open.

    python train.py --data cifar10/ --variant small --out runs/small        # a new run
    python train.py --data cifar10/ --variant small --out runs/small --resume   # go on, exactly where it stopped
    python train.py --help                                                  # every choice and its default

DATA/train/<class>/* is learned from, less the pictures held out for every choice (epoch, averaged weights or
newest); DATA/test/<class>/* is measured once, at the end, on the stored file. Ctrl-C or SIGTERM saves and stops;
the same command with --resume continues the same run, in the middle of an epoch too, bit for bit on the same CPU
with the same versions.
The bundled checkpoints were made with --variant small, and with --variant large --early-epochs 8 --epochs 12.
"""

from __future__ import annotations

import argparse
import csv
import errno
import json
import os
import platform
import re
import signal
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch
from tqdm import tqdm

from mnv3.checkpoints import Checkpoint, read_checkpoint, replace_file
from mnv3.data import Pictures, colour_statistics, find_classes, hold_out, read_folder
from mnv3.errors import InputError
from mnv3.images import Preprocessing
from mnv3.tables import Spec, final_side
from mnv3.training import (
    Recipe,
    Run,
    changed_fields,
    gate_statistics,
    predict,
    recipe_arguments,
    score,
    set_early,
    steps_per_epoch,
    train_step,
)

SAVE_EVERY = 120  # seconds between saved states: what a pulled plug may cost


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recipe_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint, the log and the state")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--data-note", default="", help="what the data is, in words, for the model card")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    options = vars(parser.parse_args(arguments))
    try:
        recipe = Recipe(**{f.name: options[f.name] for f in fields(Recipe)})
        return train(recipe, options["out"], usable(options["device"]), options["resume"], options["data_note"])
    except InputError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        remedy = "make room and go on with --resume" if error.errno == errno.ENOSPC else "check --data and --out"
        print(f"train.py: {error.strerror}: {remedy}. A state that was saved is whole.", file=sys.stderr)
        return 1
    except FloatingPointError as error:
        print(f"train.py: {error} The last saved state is whole: use a lower --lr.", file=sys.stderr)
        return 1


def usable(device: str) -> torch.device:
    """The device, tried before any picture is read. Raises InputError if it can't be used here."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError):
        raise InputError(f"`device` (={device!r:.40}) can't be used here: give cpu, or cuda with a GPU.") from None


def train(recipe: Recipe, out: Path, device: torch.device, resume: bool, note: str = "") -> int:
    """The whole run: read, learn, choose on held-out pictures, measure once, save. Returns the exit status."""
    state = start_state(recipe, out, resume)
    print(json.dumps(asdict(recipe)))
    data = recipe.folder
    classes = tuple(find_classes(data / "train"))
    find_classes(data / "test", classes)  # names only: its pictures are opened when training has ended
    spec = Spec.of(recipe.variant, recipe.width, len(classes), recipe.strides)
    if final_side(spec, recipe.size) == 1:
        print(f"note: {recipe.size} pixels end in a 1×1 map: a higher --strides learns more and shows where")
    everything = read_folder(data / "train", recipe.size, progress=lambda x: tqdm(x, "reading train", leave=False))
    mean, std = colour_statistics(everything)
    learned, held_out = hold_out(everything, recipe.holdout, recipe.seed)
    learned, held_out = learned.to(device), held_out.to(device)
    run = Run.new(recipe, spec, device)
    steps = recipe.epochs * steps_per_epoch(learned, recipe)
    if steps * recipe.norm_momentum < 10:
        print(f"note: {steps} steps are few for BatchNorm's --norm-momentum {recipe.norm_momentum}: use a higher one")
    if state:
        found = data_position(learned)
        if changed := [f"{k}: {state[k]} → {v}" for k, v in found.items() if state[k] != v]:
            raise InputError(f"The run in {out.name}/ learned from other pictures ({'; '.join(changed):.200}).")
        run.restore(state)
        print(f"resumed at step {run.step} of {steps}")
    normal = torch.tensor(mean, device=device), torch.tensor(std, device=device)
    with Stopping() as stopping:
        finished = learn(run, learned, held_out, normal, out, stopping)
    if not finished:
        print(f"stopped and saved at step {run.step}: the same command with --resume goes on", file=sys.stderr)
        return 130
    note = note or f"{data.name}, {len(everything):,} pictures of {len(everything.classes)} classes"
    checkpoint = store(run, learned, held_out, (mean, std), note, out)
    test = read_folder(data / "test", recipe.size, everything.classes, lambda x: tqdm(x, "reading test", leave=False))
    measure(checkpoint, test.to(device), out)
    return 0


def store(run: Run, learned: Pictures, held_out: Pictures, normal, note: str, out: Path) -> Checkpoint:
    """Chooses averaged or newest weights on the held-out pictures and writes the folder, weights as fp16."""
    tensors = [torch.tensor(values, device=learned.images.device) for values in normal]
    models = {"averaged": run.average.model, "newest": run.model.eval()}
    for model in models.values():
        set_early(model, False)
    scores = {name: score(predict(m, held_out, *tensors), held_out.labels) for name, m in models.items()}
    best = max(scores, key=lambda name: scores[name]["top1"])
    gates = gate_statistics(models[best], learned, *tensors, "training pictures, without those held out")
    preprocessing = Preprocessing(run.recipe.size, run.recipe.size, "bilinear", *normal)
    minutes = sum(row["seconds"] for row in run.log) / 60
    metrics = {
        "weights": best, "held_out": scores[best], "recipe": asdict(run.recipe) | {"data": note},
        "machine": machine(learned.images.device) | {"minutes": round(minutes, 1)}, "log": run.log,
    }  # fmt: skip
    name = f"{run.recipe.folder.name}-{run.recipe.variant}"
    checkpoint = Checkpoint(name, models[best].cpu(), learned.classes, preprocessing, note, gates, metrics)
    checkpoint.save(out, half=True)
    return checkpoint


def measure(checkpoint: Checkpoint, test: Pictures, out: Path) -> None:
    """The test pictures' one use: top-1 and the rest of the stored file, read back, written to metrics.json."""
    stored = read_checkpoint(out)
    device = test.images.device
    tensors = [torch.tensor(v, device=device) for v in (stored.preprocessing.mean, stored.preprocessing.std)]
    result = score(predict(stored.model.to(device), test, *tensors), test.labels)
    replace(checkpoint, metrics={**checkpoint.metrics, "test": result}).save(out, half=True)
    print(f"{checkpoint.name}: {result['top1']:.2%} top-1 on {result['n']:,} test pictures, in {out}/")


def machine(device: torch.device) -> dict:
    """Hardware and versions, for metrics.json."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        cpu = names[0] if names else cpu
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} × {cpu}"
    return {"hardware": hardware, "torch": torch.__version__, "python": platform.python_version()}


def start_state(recipe: Recipe, out: Path, resume: bool) -> dict | None:
    """What the run starts from, in this order: 1. the state in `out`, if asked to resume; 2. scratch, if `out` is new.

    A folder with a state and no --resume is refused, so that no run is overwritten by a slip; so is a changed recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "last.pt"
    if not resume:
        if path.exists():
            raise InputError(f"{out.name}/ already holds a run: add --resume to go on, or choose another --out.")
        return None
    if not path.exists():
        raise InputError(f"{out.name}/ holds no run to resume: leave --resume away to start one.")
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(state["recipe"], dict):
            raise TypeError
    except Exception:  # torch.load raises what pickle, zipfile or the file system do
        raise InputError(f"{out.name}/last.pt is damaged: start a new run with another --out.") from None
    if changed := changed_fields(state["recipe"], recipe):
        raise InputError(f"The run in {out.name}/ has another recipe ({'; '.join(changed)}): give the same values.")
    return state


class Stopping:
    """Turns Ctrl-C and SIGTERM into a flag that is looked at between steps, so that a state is saved whole."""

    def __enter__(self) -> Stopping:
        self.asked = False
        self.before = {s: signal.signal(s, self.ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def ask(self, *_) -> None:
        self.asked = True

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def learn(run: Run, learned: Pictures, held_out: Pictures, normal, out: Path, stopping: Stopping) -> bool:
    """Steps until the recipe's end, or until asked to stop; True at the end. Saves every SAVE_EVERY seconds."""
    steps = steps_per_epoch(learned, run.recipe)
    total, saved, batch = run.recipe.epochs * steps, time.monotonic(), run.recipe.batch_size
    with tqdm(total=total * batch, initial=run.step * batch, unit="img", unit_scale=True, mininterval=2) as bar:
        while run.step < total:
            began = time.monotonic()
            loss, top1 = train_step(run, learned, *normal)
            run.losses.append(loss)
            run.top1s.append(top1)
            run.seconds += time.monotonic() - began
            bar.update(batch)
            if run.step % 20 == 0:
                recent = run.losses[-20:]
                bar.set_postfix(epoch=run.step // steps + 1, loss=f"{sum(recent) / len(recent):.3f}")
            stop, ended = stopping.asked, run.step % steps == 0
            due = stop or ended or time.monotonic() - saved > SAVE_EVERY
            if due:
                run.check()
            if ended:
                run.log.append(epoch_row(run, held_out, normal))
                run.losses, run.top1s, run.seconds = [], [], 0.0
                bar.write(" · ".join(f"{k} {v}" for k, v in run.log[-1].items()))
                write_log(run.log, out)
            if due:
                state = {**run.state(), **data_position(learned)}
                replace_file(out / "last.pt", lambda path, state=state: torch.save(state, path))
                saved = time.monotonic()
            if stop:
                return run.step == total
    return True


def data_position(learned: Pictures) -> dict:
    """What a resumed run must find again, since its order and batches follow from it."""
    return {"classes": list(learned.classes), "pictures": len(learned)}


def epoch_row(run: Run, held_out: Pictures, normal) -> dict:
    """One line of the log: training loss and top-1, held-out top-1 of the newest and of the averaged weights."""
    set_early(run.average.model, len(run.log) < run.recipe.early_epochs)  # as the epoch that just ended ran
    logits = [predict(model, held_out, *normal) for model in (run.model.eval(), run.average.model)]
    if not all(bool(torch.isfinite(z).all()) for z in logits):
        raise FloatingPointError(f"The answers to held-out pictures are not finite after step {run.step}.")
    newest, average = (score(z, held_out.labels) for z in logits)
    return {
        "epoch": len(run.log) + 1, "lr": round(run.optimiser.param_groups[0]["lr"], 5),
        "train_loss": round(sum(run.losses) / len(run.losses), 4),
        "train_top1": round(sum(run.top1s) / len(run.top1s), 4),
        "heldout_top1": newest["top1"], "heldout_top1_average": average["top1"], "seconds": round(run.seconds, 1),
    }  # fmt: skip


def write_log(log: list[dict], out: Path) -> None:
    with open(out / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, log[0])
        writer.writeheader()
        writer.writerows(log)


if __name__ == "__main__":
    sys.exit(main())
