"""What the tests of training share: pictures that can be told apart, short runs and what two of them have in common."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mnv3
import train
from mnv3.images.folders import find_classes
from mnv3.images.preprocessing import Preprocessing
from mnv3.nets.spec import Spec
from mnv3.training.dataset import Pictures, Source
from mnv3.training.recipe import Recipe
from mnv3.training.run import Run, train_step

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def labelled(*per_class, size=8):
    """Pictures with `per_class` of each class; the first two bytes of a picture are its number."""
    count = sum(per_class)
    images = torch.from_numpy(noise(count, 3, size, size))
    images[:, 0, 0, 0], images[:, 0, 0, 1] = torch.arange(count) // 256, torch.arange(count) % 256
    labels = torch.repeat_interleave(torch.arange(len(per_class)), torch.tensor(per_class))
    return Pictures(images, labels, tuple(f"class {k}" for k in range(len(per_class))))


def numbers(pictures):
    """The numbers that `labelled` wrote into the pictures."""
    return (pictures.images[:, 0, 0, 0].long() * 256 + pictures.images[:, 0, 0, 1]).tolist()


def write(path, array=None, **options):
    """A picture file; a class folder's pictures differ by their path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = noise(8, 8, 3, seed=sum(str(path.name).encode())) if array is None else array
    Image.fromarray(array).save(path, **options)
    return path


def grown(folder, *classes, count=3):
    """folder/<class>/<0 … count − 1>.png of 8 × 8 pixels."""
    for name in classes:
        for i in range(count):
            write(folder / name / f"{i}.png")
    return folder


def read_folder(folder, size, classes=None):
    """One folder of classes through the way that train.py takes: classes by name, or as the training split's."""
    found = find_classes(folder, classes)
    source = Source(folder.name, classes or tuple(found), {folder.name: found})
    return source.read(folder.name, Preprocessing(size, size, "bilinear", (0, 0, 0), (1, 1, 1)))


FAST = Recipe(
    width=0.35, epochs=60, early_epochs=0, batch_size=8, lr=0.05, label_smoothing=0, shift=0, ema=0, weight_decay=0,
    holdout=1,
)  # fmt: skip
MIDDLE = torch.full((3,), 0.5), torch.full((3,), 0.25)


def new_run(recipe, classes):
    return Run.new(recipe, Spec.of(recipe.variant, recipe.width, classes, recipe.strides), CPU)


CLASSES = ("10", "2", "cat & dog")  # in the order of names
STEPS = 6  # in an epoch: (120 − 24) // 16


def arguments(folder, out, *more):
    """A command line for two epochs of six steps; the first epoch is an early one."""
    few = "--width 0.35 --holdout 24 --epochs 2 --early-epochs 1 --batch-size 16 --lr 0.05 --ema 0.8 --device cpu"
    return ["--data", str(folder), "--out", str(out), *few.split(), *more]


class StopAfter(train.Stopping):
    """Is asked to stop once `steps` steps have been taken in this process."""

    steps, taken = 0, 0
    asked = property(lambda self: self.taken >= self.steps)


def interrupted(folder, out, steps, *more):
    """A run that is asked to stop after `steps` steps; what it returns."""
    stop = type("Stop", (StopAfter,), {"steps": steps})

    def counted(*inputs):
        stop.taken += 1
        return train_step(*inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "Stopping", stop)
        patch.setattr(train, "train_step", counted)
        return train.main(arguments(folder, out, *more))


def comparable(out):
    """What two runs must share to the bit: weights, gates, card, log and metrics, all but the seconds it took."""
    metrics = json.loads((out / "metrics.json").read_text())
    for row in metrics["log"]:
        row.pop("seconds")
    metrics["machine"].pop("minutes")
    log = [line.rpartition(",")[0] for line in (out / "log.csv").read_text().splitlines()]
    files = {name: (out / name).read_bytes() for name in ("model.safetensors", "gates.safetensors", "config.json")}
    state = torch.load(out / "last.pt", weights_only=True)
    average = {name: tensor.numpy().tobytes() for name, tensor in state["average"].items()}
    return {**files, "metrics.json": metrics, "log.csv": log, "averaged weights": average}


def differences(out, straight):
    """Names of what differs between two finished runs."""
    one, other = comparable(out), comparable(straight)
    return [name for name in one if one[name] != other[name]]


def last_line(capsys):
    """The last line on stderr, which must be a sentence and not a traceback."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.rstrip().replace("\r", "\n").splitlines()[-1]


def frozen_run(accumulate=1, **changes):
    """A run from cifar10-small whose BatchNorm neither learns statistics nor mixes a part's pictures: its gradients
    are sums over pictures, so they can be compared however the pictures were dealt out."""
    recipe = replace(FAST, width=1.0, accumulate=accumulate, mirror=False, dropout=0.0, **changes)
    run = Run.new(recipe, Spec.of("small", 1.0, 10, 2), CPU, mnv3.load("cifar10-small"))
    for module in run.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval().train = lambda mode, module=module: module
    return run
