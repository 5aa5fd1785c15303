"""The parts of a training run: recipe, optimiser, schedule, averaged weights, one step, evaluation, saved state."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from ..basics import generator
from ..checkpoints.checkpoint import Checkpoint
from ..distributed import agree, summed, world
from ..errors import InputError
from ..nets.factory import network
from ..nets.layers import SqueezeExcitation
from ..nets.mobilenet import MobileNetV3
from ..nets.spec import Spec
from ..nets.tutorial import ARTICLE, ArticleSpec
from .augment import erased, normalise
from .dataset import Files, Pictures
from .recipe import AUTOCAST, Recipe

T = TypeVar("T")


def optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Weight decay is on convolutions and linear layers, not on norms, biases and SE blocks.

    Decay pulls an SE block's gates to the gate of 0, which is 0.5 for every channel and picture, and the next
    BatchNorm hides the loss: README, 'Train', has the figures.
    """
    gates = {id(p) for m in model.modules() if isinstance(m, SqueezeExcitation) for p in m.parameters()}
    decayed = [p for p in model.parameters() if p.dim() > 1 and id(p) not in gates]
    others = [p for p in model.parameters() if p.dim() <= 1 or id(p) in gates]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True)
    if recipe.optimiser == "rmsprop":  # alpha and eps as torchvision's training of this network
        return torch.optim.RMSprop(groups, lr=recipe.lr, momentum=0.9, alpha=0.9, eps=0.0316)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimiser](groups, lr=recipe.lr)


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The rate after the share `progress` of the run: a linear rise, then as the schedule says."""
    if progress < recipe.warmup:
        return recipe.lr * max(progress / recipe.warmup, 0.01)
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "steps":
        return recipe.lr * 0.99 ** int(progress * recipe.epochs / 3 + 1e-9)  # an epoch's first step is of it
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
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floats], [v for _, v in floats], 1 - decay)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)


def set_early(model: nn.Module, early: bool) -> None:
    """Early epochs run with the stem's stride at 2: every map a quarter as large, the same weights."""
    if isinstance(model, MobileNetV3):
        stride = 2 if early else model.spec.stem_stride
        model.features[0][0].stride = (stride, stride)


def network_spec(recipe: Recipe, num_classes: int, source: Checkpoint | None) -> Spec | ArticleSpec:
    """What the run trains: 1. the network of --init, other classes and strides; 2. the recipe's own.

    Raises InputError where --init's strides can't become the recipe's.
    """
    if source is None and recipe.variant in ARTICLE:
        if recipe.strides or recipe.width != 1:
            raise InputError(f"`variant` (={recipe.variant!r}) is as published: give --strides 0 and no --width.")
        return ArticleSpec(recipe.variant, num_classes)
    if source is None:
        spec = Spec.of(recipe.variant, recipe.width, num_classes, recipe.strides, recipe.minimalistic)
        return replace(spec, dropout=recipe.dropout)
    spec = replace(source.spec, num_classes=num_classes)
    if isinstance(spec, Spec):
        spec = replace(spec, dropout=recipe.dropout)
    if spec.strides > recipe.strides:
        raise InputError(f"`init` (={recipe.init!r:.80}) has strides at 1: give --strides {spec.strides} or more.")
    return spec.with_strides(recipe.strides - spec.strides)


def new_model(recipe: Recipe, spec: Spec | ArticleSpec, source: Checkpoint | None = None) -> nn.Module:
    """The network, initialised by the seed; then `source`'s weights, but the last layer's if its classes are others."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = network(spec)
    if source:
        weights, own = dict(source.model.state_dict()), model.state_dict()
        if source.spec.num_classes != spec.num_classes:
            weights |= {name: own[name] for name in list(own)[-2:]}  # weight and bias of the last layer
        model.load_state_dict(weights)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = recipe.norm_momentum
        elif isinstance(module, nn.Dropout):
            module.p = recipe.dropout
    return model.to(memory_format=torch.channels_last)


def steps_per_epoch(pictures: Pictures, recipe: Recipe) -> int:
    """Whole batches only: a last batch of one picture would break BatchNorm."""
    steps = len(pictures) // recipe.batch_size
    if not steps:
        raise InputError(f"`batch_size` (={recipe.batch_size}) is more than the {len(pictures)} training pictures: "
                         "give a smaller one.")  # fmt: skip
    return steps


PLAIN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # mean and std of pictures in 0..1


@dataclass
class Run:
    """A run's state: all of it is saved, and with it the data position, so that a resumed run is the same run."""

    recipe: Recipe
    model: nn.Module
    average: Averaged
    optimiser: torch.optim.Optimizer
    teacher: Checkpoint | None = None
    normal: tuple = PLAIN  # mean and std that the pictures come with; a teacher may have others
    step: int = 0
    log: list[dict] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # of this epoch's steps
    top1s: list[float] = field(default_factory=list)
    seconds: float = 0.0  # of this epoch

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(enabled=self.recipe.precision == "fp16")
        self.forward = self.model
        if dist.is_initialized():
            self.forward = nn.parallel.DistributedDataParallel(self.model)
            self.forward.broadcast_buffers = False  # the first process's, that is: average_buffers has all of them
        if self.recipe.compile:
            self.forward = torch.compile(self.forward)
        mixers = {"MixUp": self.recipe.mixup, "CutMix": self.recipe.cutmix}
        self.mixers = [(name, alpha) for name, alpha in mixers.items() if alpha]

    @classmethod
    def new(cls, recipe: Recipe, spec: Spec, device: torch.device, source=None, teacher=None, normal=PLAIN) -> Run:
        model = new_model(recipe, spec, source).to(device)
        return cls(recipe, model, Averaged(model, recipe.ema), optimiser(model, recipe), teacher, normal)

    def state(self) -> dict:
        """Tensors and plain types only, so that it loads with weights_only."""
        return {
            "recipe": asdict(self.recipe), "model": self.model.state_dict(), "average": self.average.model.state_dict(),
            "updates": self.average.updates, "scaler": self.scaler.state_dict(), "step": self.step,
            "optimiser": self.optimiser.state_dict(),
            "log": self.log, "losses": self.losses, "top1s": self.top1s, "seconds": self.seconds,
        }  # fmt: skip

    def restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.average.updates = state["updates"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.log = state["step"], state["log"]
        self.losses, self.top1s, self.seconds = state["losses"], state["top1s"], state["seconds"]

    def check(self) -> None:
        """Raises FloatingPointError, naming the step, if any weight is no longer finite."""
        tensors = [*self.model.state_dict().values(), *self.average.model.state_dict().values()]
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            raise FloatingPointError(f"The weights are no longer finite after step {self.step}.")


def train_step(
    run: Run, pictures: Pictures | Files, mean: Tensor, std: Tensor, stop: bool = False
) -> tuple[float, float, bool]:
    """One step on the batch that run.step points at; returns loss and top-1 of the batch, and any process's `stop`.

    Order, augmentation and dropout are functions of (seed, epoch, step, process) alone: nothing else needs saving.
    Raises FloatingPointError, naming the step, before a non-finite loss can touch the weights; InputError, in every
    process, for a picture that can no longer be read, before anything is changed.
    """
    recipe, steps, (rank, processes) = run.recipe, steps_per_epoch(pictures, run.recipe), world()
    epoch = run.step // steps
    images, labels = together(
        lambda: pictures.training_batch(recipe, run.step, (rank, processes)), pictures, mean.device
    )
    torch.manual_seed(int(torch.randint(2**31, (), generator=generator(recipe.seed, 5, run.step, rank))))  # dropout's
    set_early(run.model.train(), epoch < recipe.early_epochs)
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(recipe, run.step / (recipe.epochs * steps))
    run.optimiser.zero_grad(set_to_none=True)
    right = gradients(run, normalise(images, mean, std), labels)
    told = torch.cat([right, torch.tensor([float(stop)], device=right.device)])
    loss, top1, stops = summed(told).tolist()  # all that the processes tell each other beside gradients, at once
    loss, top1 = loss / processes, top1 / processes
    if not math.isfinite(loss):
        raise FloatingPointError(f"The loss is {loss} at step {run.step} (epoch {epoch + 1}).")
    run.scaler.step(run.optimiser)
    run.scaler.update()
    if processes > 1:
        average_buffers(run.model)
    run.step += 1
    run.average.update(run.model)
    return loss, top1, stops > 0


def together(read: Callable[[], T], pictures: Pictures | Files, device: torch.device) -> T:
    """read(); of Files, which may have gone since, an InputError in one process is raised in all."""
    result, error = None, None
    try:
        result = read()
    except InputError as caught:
        error = caught
    if error or isinstance(pictures, Files):
        agree(error, device)
    return result


def gradients(run: Run, x: Tensor, labels: Tensor) -> Tensor:
    """Adds up the gradients of a step's pictures, in as many parts as the recipe says; their (loss, top-1)."""
    done, count = torch.zeros(2, device=x.device), run.recipe.accumulate
    for number, (part, answers) in enumerate(zip(x.chunk(count), labels.chunk(count), strict=True), 1):
        apart = dist.is_initialized() and number < count  # the processes' gradients meet once, in the last part
        with run.forward.no_sync() if apart else nullcontext():
            loss, right = objective(run, part, answers)
            done += torch.stack([loss.detach(), right.mean()]) / count
            run.scaler.scale(loss / count).backward()
    return done


@torch.no_grad()
def average_buffers(model: nn.Module) -> None:
    """BatchNorm's statistics, of which each process has those of its own pictures, become the mean over processes."""
    floats = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    means = summed(torch.cat([buffer.flatten() for buffer in floats])) / world()[1]
    for buffer, mean in zip(floats, means.split([buffer.numel() for buffer in floats]), strict=True):
        buffer.copy_(mean.view_as(buffer))


def objective(run: Run, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(loss, 0 or 1 for each picture) for normalised pictures: cross-entropy and, with a teacher, its answers too."""
    recipe, targets = run.recipe, labels
    if recipe.erase:
        x = erased(x, recipe.erase)
    if run.mixers:
        from torchvision.transforms import v2

        name, alpha = run.mixers[int(torch.randint(len(run.mixers), ()))]
        x, targets = getattr(v2, name)(alpha=alpha, num_classes=run.model.spec.num_classes)(x, labels)
    x = x.contiguous(memory_format=torch.channels_last)
    cast = torch.autocast(x.device.type, AUTOCAST.get(recipe.precision), enabled=recipe.precision in AUTOCAST)
    with cast:
        logits = run.forward(x).float()
    loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
    if run.teacher:
        with torch.no_grad(), cast:
            lesson = run.teacher.model(as_teacher_sees(run, x)).float()
        t = recipe.temperature
        difference = F.kl_div(
            (logits / t).log_softmax(1), (lesson / t).log_softmax(1), reduction="batchmean", log_target=True
        )
        loss = (1 - recipe.teacher_weight) * loss + recipe.teacher_weight * t**2 * difference  # Hinton et al. 2015
    return loss, (logits.argmax(1) == labels).float()


def as_teacher_sees(run: Run, x: Tensor) -> Tensor:
    """The student's normalised pictures in the teacher's normalisation."""
    own, teachers = (
        [torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in pair]
        for pair in (run.normal, (run.teacher.preprocessing.mean, run.teacher.preprocessing.std))
    )
    return (x * own[1] + own[0] - teachers[0]) / teachers[1]
