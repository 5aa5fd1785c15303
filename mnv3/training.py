"""The parts of a training run: recipe, optimiser, schedule, averaged weights, one step, evaluation, saved state."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .catalogue import load
from .checkpoints import GateStatistics
from .data import Pictures, augment, generator, normalise
from .errors import InputError
from .layers import SqueezeExcitation
from .model import MobileNetV3
from .tables import Spec

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def _option(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run's result; train.py's command line is made from it."""

    variant: str = _option("small", "the paper's network: large or small")
    width: float = _option(1.0, "multiplier of all widths, by the paper's rule")
    strides: int = _option(2, "how many strides of 2 become 1; 2 suits pictures of 32 pixels")
    init: str = _option("", "checkpoint to start from, by mnv3.load's names; other classes get a new last layer")
    data: str = _option("", "folder with train/ and test/, each holding one folder per class")
    size: int = _option(32, "side of the pictures, in pixels")
    holdout: int = _option(5000, "training pictures held out for every choice that is made")
    epochs: int = _option(18, "passes over the training pictures")
    early_epochs: int = _option(13, "first epochs that keep the stem's stride at 2: a quarter of the cost")
    batch_size: int = _option(128, "pictures in a step")
    lr: float = _option(0.2, "highest learning rate (SGD with Nesterov momentum 0.9)")
    warmup: float = _option(0.15, "share of the run in which the rate rises, before it falls as a cosine")
    weight_decay: float = _option(5e-4, "on convolutions and linear layers, not on norms, biases and SE blocks")
    label_smoothing: float = _option(0.1, "share of the target spread over all classes")
    shift: int = _option(4, "pixels by which pictures are moved at random; half are mirrored")
    ema: float = _option(0.998, "decay of the averaged weights, warmed up; 0 keeps the newest")
    norm_momentum: float = _option(0.1, "BatchNorm's momentum while training; the paper's 0.01 lags in short runs")
    precision: str = _option("fp32", "fp32, or bf16 or fp16 by autocast")
    compile: bool = _option(False, "compile the network: minutes at the start, faster steps after it")
    seed: int = _option(0, "decides every random draw")

    @property
    def folder(self) -> Path:
        """The data folder; its name is part of the checkpoint's, so '.' and '~' are resolved."""
        return Path(self.data).expanduser().resolve()

    def __post_init__(self) -> None:
        bounds = {
            "epochs": (1, 10_000), "early_epochs": (0, self.epochs), "batch_size": (2, 65_536), "lr": (1e-9, 100),
            "warmup": (0, 1), "weight_decay": (0, 1), "label_smoothing": (0, 0.9), "shift": (0, self.size - 1),
            "ema": (0, 0.99999), "norm_momentum": (0.001, 1), "size": (8, 1024), "seed": (0, 2**31),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"`{name}` (={getattr(self, name)!r}) must lie between {low:g} and {high:g}.")
        if self.precision not in ("fp32", *AUTOCAST):
            raise InputError(f"`precision` (={self.precision!r:.60}) must be one of fp32, {', '.join(AUTOCAST)}.")


def recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """One option for each field of Recipe, with its type, default and help."""
    for f in fields(Recipe):
        option, text = "--" + f.name.replace("_", "-"), f"{f.metadata['help']} (%(default)s)"
        kind = {"action": argparse.BooleanOptionalAction} if f.type == "bool" else {"type": type(f.default)}
        parser.add_argument(option, default=f.default, help=text, **kind)


def changed_fields(saved: dict, recipe: Recipe) -> list[str]:
    """'name: saved → asked' for each field in which a saved run's recipe differs."""
    asked = asdict(recipe)
    return [f"{k}: {saved.get(k)!r} → {v!r}" for k, v in asked.items() if k != "data" and saved.get(k) != v]


def optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD; weight decay on convolutions and linear layers, not on norms, biases and SE blocks.

    Decay pulls an SE block's gates to the gate of 0, which is 0.5 for every channel and picture, and the next
    BatchNorm hides the loss: README, 'Train', has the figures.
    """
    gates = {id(p) for m in model.modules() if isinstance(m, SqueezeExcitation) for p in m.parameters()}
    decayed = [p for p in model.parameters() if p.dim() > 1 and id(p) not in gates]
    others = [p for p in model.parameters() if p.dim() <= 1 or id(p) in gates]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True)


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The rate after the share `progress` of the run: a linear rise, then half a cosine to zero."""
    if progress < recipe.warmup:
        return recipe.lr * max(progress / recipe.warmup, 0.01)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (progress - recipe.warmup) / (1 - recipe.warmup + 1e-9)))


class Averaged:
    """An exponential moving average of parameters and BatchNorm buffers; integer buffers are copied.

    The decay is warmed up, min(decay, (1 + t)/(10 + t)), so a short run's average isn't its random start.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay, self.updates = deepcopy(model).eval().requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)


def set_early(model: MobileNetV3, early: bool) -> None:
    """Early epochs run with the stem's stride at 2: every map a quarter as large, the same weights."""
    stride = 2 if early else model.spec.stem_stride
    model.features[0][0].stride = (stride, stride)


def new_model(recipe: Recipe, spec: Spec) -> MobileNetV3:
    """The recipe's network, initialised by its seed, then with the weights of its `init` where they fit."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = MobileNetV3(spec=spec)
    if recipe.init:
        start_from(model, load(recipe.init).model, recipe.init)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = recipe.norm_momentum
    return model.to(memory_format=torch.channels_last)


def start_from(model: MobileNetV3, source: MobileNetV3, name: str) -> None:
    """Copies every weight of `source`; the last layer stays new where it tells apart another number of classes.

    Raises InputError naming the first tensor that differs otherwise: it is another network.
    """
    wanted, given = model.state_dict(), dict(source.state_dict())
    if source.spec.num_classes != model.spec.num_classes:
        given |= {key: wanted[key] for key in list(wanted)[-2:]}  # weight and bias of the last layer
    for key in [*wanted, *given]:
        if key not in wanted or key not in given or wanted[key].shape != given[key].shape:
            raise InputError(f"`init` (={name!r:.80}) is another network: {key!r} differs; check --variant.")
    model.load_state_dict(given)


def steps_per_epoch(pictures: Pictures, recipe: Recipe) -> int:
    """Whole batches only: a last batch of one picture would break BatchNorm."""
    steps = len(pictures) // recipe.batch_size
    if not steps:
        raise InputError(f"`batch_size` (={recipe.batch_size}) is more than the {len(pictures)} training pictures.")
    return steps


@dataclass
class Run:
    """A run's state: all of it is saved, and with it the data position, so that a resumed run is the same run."""

    recipe: Recipe
    model: MobileNetV3
    average: Averaged
    optimiser: torch.optim.Optimizer
    step: int = 0
    log: list[dict] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # of this epoch's steps
    top1s: list[float] = field(default_factory=list)
    seconds: float = 0.0  # of this epoch

    def __post_init__(self) -> None:
        self.forward = torch.compile(self.model) if self.recipe.compile else self.model

    @classmethod
    def new(cls, recipe: Recipe, spec: Spec, device: torch.device) -> Run:
        model = new_model(recipe, spec).to(device)
        return cls(recipe, model, Averaged(model, recipe.ema), optimiser(model, recipe))

    def state(self) -> dict:
        """Tensors and plain types only, so that it loads with weights_only."""
        return {
            "recipe": asdict(self.recipe), "model": self.model.state_dict(), "average": self.average.model.state_dict(),
            "updates": self.average.updates, "optimiser": self.optimiser.state_dict(), "step": self.step,
            "log": self.log, "losses": self.losses, "top1s": self.top1s, "seconds": self.seconds,
        }  # fmt: skip

    def restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.average.updates = state["updates"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.log = state["step"], state["log"]
        self.losses, self.top1s, self.seconds = state["losses"], state["top1s"], state["seconds"]

    def check(self) -> None:
        """Raises FloatingPointError, naming the step, if any weight is no longer finite."""
        tensors = [*self.model.state_dict().values(), *self.average.model.state_dict().values()]
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            raise FloatingPointError(f"The weights are no longer finite after step {self.step}.")


def train_step(run: Run, pictures: Pictures, mean: Tensor, std: Tensor) -> tuple[float, float]:
    """One step on the batch that run.step points at; returns loss and top-1 of the batch.

    Order, augmentation and dropout are functions of (seed, epoch, step) alone: nothing else needs saving.
    Raises FloatingPointError, naming the step, before a non-finite loss can touch the weights.
    """
    recipe, steps = run.recipe, steps_per_epoch(pictures, run.recipe)
    epoch, position = divmod(run.step, steps)
    order = torch.randperm(len(pictures), generator=generator(recipe.seed, 1, epoch))
    index = order[position * recipe.batch_size : (position + 1) * recipe.batch_size].to(pictures.images.device)
    random = generator(recipe.seed, 2, run.step)
    torch.manual_seed(int(torch.randint(2**31, (), generator=random)))  # dropout's draws
    set_early(run.model.train(), epoch < recipe.early_epochs)
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(recipe, run.step / (recipe.epochs * steps))
    labels = pictures.labels[index]
    images = normalise(augment(pictures.images[index], random, recipe.shift), mean, std)
    with torch.autocast(images.device.type, AUTOCAST.get(recipe.precision), enabled=recipe.precision in AUTOCAST):
        logits = run.forward(images)
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    if not math.isfinite(loss.item()):
        raise FloatingPointError(f"The loss is {loss.item()} at step {run.step} (epoch {epoch + 1}).")
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    run.optimiser.step()
    run.step += 1
    run.average.update(run.model)
    return loss.item(), (logits.argmax(1) == labels).float().mean().item()


@torch.inference_mode()
def predict(forward: Callable, pictures: Pictures, mean: Tensor, std: Tensor, batch_size: int = 250) -> Tensor:
    """Logits (N, K) of every picture, once each, no augmentation; the last batch may be smaller."""
    batches = [
        forward(normalise(pictures.images[i : i + batch_size], mean, std)) for i in range(0, len(pictures), batch_size)
    ]
    return torch.cat(batches)


def score(logits: Tensor, labels: Tensor) -> dict:
    """n, top-1, top-5 (where there are more than five classes), mean loss, calibration error, top-1 per class.

    Calibration error is the expected one over 15 equal bins of the top probability (Guo et al. 2017).
    """
    probabilities = logits.softmax(1)
    confidence, guess = probabilities.max(1)
    right = (guess == labels).float()
    bins = (confidence * 15).long().clamp(max=14)
    sums = torch.zeros(3, 15, dtype=torch.float64)
    for row, values in zip(sums, (torch.ones_like(right), confidence, right), strict=True):
        row.index_add_(0, bins.cpu(), values.double().cpu())
    of_class = [right[labels == k] for k in range(logits.shape[1])]
    per_class = [round(r.mean().item(), 4) if len(r) else None for r in of_class]
    result = {"n": len(labels), "top1": round(right.mean().item(), 4)}
    if logits.shape[1] > 5:
        result["top5"] = round((logits.topk(5).indices == labels[:, None]).any(1).float().mean().item(), 4)
    result["loss"] = round(F.cross_entropy(logits, labels).item(), 4)
    result["calibration_error"] = round(float((sums[1] - sums[2]).abs().sum() / len(labels)), 4)
    return {**result, "top1_per_class": per_class}


def gate_statistics(model: MobileNetV3, pictures: Pictures, mean: Tensor, std: Tensor, source: str) -> GateStatistics:
    """n, mean and M2 of every gate over the pictures, overall and per class."""
    gates = [[] for _ in model.gated]
    with torch.inference_mode():
        for i in range(0, len(pictures), 250):
            explained = model.explained(normalise(pictures.images[i : i + 250], mean, std))
            for kept, gate in zip(gates, explained.gates, strict=True):
                kept.append(gate.cpu())
    labels = pictures.labels.cpu()
    groups = [torch.ones_like(labels, dtype=torch.bool)] + [labels == k for k in range(len(pictures.classes))]
    means, m2s = [], []
    for kept in gates:
        by_group = [values[group].double() for values in [torch.cat(kept)] for group in groups]  # each (n, C)
        centres = [v.sum(0) / max(len(v), 1) for v in by_group]
        means.append(torch.stack(centres).float().numpy())
        m2s.append(torch.stack([((v - c) ** 2).sum(0) for v, c in zip(by_group, centres, strict=True)]).float().numpy())
    return GateStatistics(np.array([int(g.sum()) for g in groups]), tuple(means), tuple(m2s), source)
