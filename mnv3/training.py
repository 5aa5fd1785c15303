"""The parts of a training run: recipe, optimiser, schedule, averaged weights, one step, evaluation, saved state."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from .article import ARTICLE, ArticleSpec, network
from .catalogue import load
from .checkpoints import Checkpoint, GateStatistics
from .data import POLICIES, Files, Pictures, erased, generator, normalise
from .errors import InputError
from .layers import SqueezeExcitation
from .model import MobileNetV3
from .processes import fetching, summed, world
from .tables import VARIANTS, Spec

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
CHOICES = {
    "variant": (*VARIANTS, *ARTICLE), "optimiser": ("sgd", "adam", "adamw", "rmsprop"),
    "schedule": ("cosine", "steps", "constant"), "policy": tuple(POLICIES), "precision": ("fp32", *AUTOCAST),
}  # fmt: skip


def _option(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run's result; train.py's command line is made from it."""

    variant: str = _option("small", f"the network: {', '.join(VARIANTS)}; or the article's: {', '.join(ARTICLE)}")
    width: float = _option(1.0, "multiplier of all widths, by the paper's rule")
    strides: int = _option(2, "how many strides of 2 become 1; 2 suits pictures of 32 pixels")
    minimalistic: bool = _option(False, "no SE, ReLU for h-swish, 3×3 for 5×5: what plain hardware runs fastest")
    init: str = _option("", "checkpoint to start from, by mnv3.load's names: its network, a new head for other classes")
    teacher: str = _option("", "checkpoint of the same classes whose answers are learned from too")
    teacher_weight: float = _option(0.5, "share of the loss that is the difference from the teacher")
    temperature: float = _option(4.0, "softens teacher's and student's answers before they are compared")
    data: str = _option("", "a folder (train/ and test/, or classes), or cifar10 or cifar100 to be downloaded")
    size: int = _option(32, "side of the pictures, in pixels")
    holdout: float = _option(0.1, "training pictures held out for every choice that is made; below 1, their share")
    epochs: int = _option(18, "passes over the training pictures")
    early_epochs: int = _option(13, "first epochs that keep the stem's stride at 2: a quarter of the cost")
    batch_size: int = _option(128, "pictures in a step, on all GPUs together")
    accumulate: int = _option(1, "parts into which a step's pictures are split where memory is short")
    optimiser: str = _option("sgd", "sgd (Nesterov, momentum 0.9), adam, adamw or rmsprop (momentum 0.9)")
    lr: float = _option(0.2, "highest learning rate")
    schedule: str = _option("cosine", "cosine to zero; steps: 1 % less every 3 epochs; constant")
    warmup: float = _option(0.15, "share of the run in which the rate rises")
    weight_decay: float = _option(5e-4, "on convolutions and linear layers, not on norms, biases and SE blocks")
    label_smoothing: float = _option(0.1, "share of the target spread over all classes")
    dropout: float = _option(0.2, "share of hidden units left out in a step")
    shift: int = _option(4, "pixels by which small pictures are moved at random")
    mirror: bool = _option(True, "mirror half the pictures")
    crops: bool = _option(False, "random resized crops of small pictures too, in place of shifts")
    smallest_crop: float = _option(0.35, "smallest share of a picture's area that a random crop keeps")
    jitter: float = _option(0.0, "largest random change of brightness, contrast and saturation of small pictures")
    policy: str = _option("none", "automatic augmentation: none, trivial (TrivialAugmentWide) or rand (RandAugment)")
    erase: float = _option(0.0, "share of pictures in which a random rectangle is erased")
    mixup: float = _option(0.0, "alpha of mixup, which blends pairs of pictures; 0: never")
    cutmix: float = _option(0.0, "alpha of cutmix, which pastes a part of another picture; 0: never")
    standardise: bool = _option(True, "give the network (x - mean) / std of the training pictures, not 0..1")
    ema: float = _option(0.998, "decay of the averaged weights, warmed up; 0 keeps the newest")
    norm_momentum: float = _option(0.1, "BatchNorm's momentum while training; the paper's 0.01 lags in short runs")
    precision: str = _option("fp32", "fp32, or by autocast bf16 (GPUs, CPUs with AMX) or fp16 (GPUs)")
    compile: bool = _option(False, "compile the network: a minute at the start, faster steps after it")
    seed: int = _option(0, "decides every random draw")

    @property
    def folder_name(self) -> str:
        """The data's name, part of the checkpoint's; of a folder its own, so '.' and '~' are resolved."""
        return Path(self.data).expanduser().resolve().name

    def __post_init__(self) -> None:
        bounds = {
            "epochs": (1, 10_000), "early_epochs": (0, self.epochs), "batch_size": (2, 65_536), "lr": (1e-9, 100),
            "warmup": (0, 1), "weight_decay": (0, 1), "label_smoothing": (0, 0.9), "shift": (0, self.size - 1),
            "ema": (0, 0.99999), "norm_momentum": (0.001, 1), "size": (8, 1024), "seed": (0, 2**31),
            "dropout": (0, 0.99), "teacher_weight": (0, 1), "temperature": (0.1, 100), "erase": (0, 1),
            "mixup": (0, 100), "cutmix": (0, 100), "smallest_crop": (0.01, 1), "jitter": (0, 0.9),
            "holdout": (1e-4, 1e9), "accumulate": (1, self.batch_size // 2),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"`{name}` (={getattr(self, name)!r}) must lie between {low:g} and {high:g}.")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices and not (name == "variant" and self.init):
                raise InputError(f"`{name}` (={getattr(self, name)!r:.60}) must be one of {', '.join(choices)}.")
        if self.batch_size % self.accumulate:
            raise InputError(f"`accumulate` (={self.accumulate}) must divide `batch_size` (={self.batch_size}).")


RECIPES = {
    # what --recipe names: the fields in which each differs from Recipe's defaults, which are `cifar`
    "cifar": {},
    # Photographs of 84 pixels: most epochs with the stem's stride at 2, a quarter of the cost, then the whole
    # resolution.
    "photos": dict(
        strides=1, size=84, epochs=30, early_epochs=25, batch_size=128, lr=0.15, warmup=0.1, weight_decay=1e-4,
        crops=True, jitter=0.3, dropout=0.1, ema=0.999,
    ),
    "finetune": dict(
        init="torchvision/large-v2", strides=0, size=224, epochs=15, early_epochs=0, batch_size=64, lr=0.02,
        warmup=0.1, weight_decay=1e-4, policy="trivial", ema=0.99,
    ),
    # The paper's section 6.1.1: RMSProp with momentum 0.9, rate 0.1 at 4096 pictures a step, 0.01 less of it every
    # 3 epochs, dropout 0.8 (kept), weight decay 1e-5, averaged weights 0.9999. It gives no number of epochs: 600 is
    # that of torchvision's own training.
    "imagenet": dict(
        variant="large", strides=0, size=224, epochs=600, early_epochs=0, batch_size=4096, optimiser="rmsprop", lr=0.1,
        schedule="steps", warmup=0.01, weight_decay=1e-5, smallest_crop=0.08, ema=0.9999, norm_momentum=0.01,
        holdout=10_000.0,
    ),
    # The article's loop, its zero_grad() moved before backward(); its small network takes --lr 0.01.
    "article": dict(
        variant="article-large", strides=0, epochs=10, early_epochs=0, batch_size=148, optimiser="adam", lr=1e-3,
        schedule="constant", warmup=0.0, weight_decay=0.0, label_smoothing=0.0, shift=0, mirror=False, dropout=0.0,
        standardise=False, ema=0.0,
    ),
}  # fmt: skip


def recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """--recipe, and one option for each field of Recipe, with its type, default and help."""
    parser.add_argument("--recipe", choices=RECIPES, default="cifar", help="values to begin with (cifar)")
    for f in fields(Recipe):
        option, text = "--" + f.name.replace("_", "-"), f"{f.metadata['help']} ({f.default})".replace("%", "%%")
        kind = {"action": argparse.BooleanOptionalAction} if f.type == "bool" else {"type": type(f.default)}
        parser.add_argument(option, default=argparse.SUPPRESS, help=text, **kind)


def chosen_recipe(options: dict) -> tuple[Recipe, Checkpoint | None]:
    """What the command line asks for, and --init's checkpoint.

    Each field is looked for in this order: 1. the command line; 2. --init's network; 3. --recipe; 4. Recipe's defaults.
    Raises InputError, also where the command line asks for another network than --init's.
    """
    given = {f.name: options[f.name] for f in fields(Recipe) if f.name in options}
    chosen = {**RECIPES[options["recipe"]], **given}
    source = load(chosen["init"], fetching(chosen["init"])) if chosen.get("init") else None
    for name, value in _network_of(source).items() if source else ():
        if given.get(name, value) != value:
            raise InputError(
                f"`{name}` (={given[name]!r}) is not what `init` (={chosen['init']!r:.80}) has ({value!r}): "
                "leave it away, or give another --init."
            )
        chosen[name] = value
    recipe = Recipe(**{**chosen, "early_epochs": 0})
    early, whole = ({**asdict(Recipe()), **RECIPES[options["recipe"]]}[name] for name in ("early_epochs", "epochs"))
    if "early_epochs" not in given:  # a run too short for them has the same share of them
        given["early_epochs"] = early if early <= recipe.epochs else early * recipe.epochs // whole
    return replace(recipe, early_epochs=given["early_epochs"]), source


def _network_of(source: Checkpoint) -> dict:
    """What a recipe says of a checkpoint's network; the rest of it is in its Spec."""
    plain = not source.model.gated and getattr(source.spec, "act", "HS") == "RE"
    return {"variant": source.spec.variant, "width": source.spec.width, "minimalistic": plain}


def changed_fields(saved: dict, recipe: Recipe) -> list[str]:
    """'name: saved → asked' for each field in which a saved run's recipe differs."""
    asked = asdict(recipe)
    return [f"{k}: {saved.get(k)!r} → {v!r}" for k, v in asked.items() if k != "data" and saved.get(k) != v]


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
    Raises FloatingPointError, naming the step, before a non-finite loss can touch the weights.
    """
    recipe, steps, (rank, processes) = run.recipe, steps_per_epoch(pictures, run.recipe), world()
    epoch = run.step // steps
    images, labels = pictures.training_batch(recipe, run.step, (rank, processes))
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


@torch.inference_mode()
def predict(forward: Callable, pictures: Pictures | Files, mean: Tensor, std: Tensor, batch_size: int = 250) -> Tensor:
    """Logits (N, K) of every picture, once each, no augmentation.

    Each process answers for every world-th picture; the places of the others are zero until they are added up, so
    each picture counts once, whatever their number.
    """
    rank, processes = world()
    mine = torch.arange(rank, len(pictures), processes)
    answers = [forward(x).float() for x in pictures.evaluation(mine, (mean, std), batch_size)]
    if processes == 1:
        return torch.cat(answers)
    classes = torch.tensor([answers[0].shape[1] if answers else 0], device=mean.device)
    dist.all_reduce(classes, dist.ReduceOp.MAX)
    logits = torch.zeros(len(pictures), int(classes), device=mean.device)
    if answers:
        logits[mine.to(mean.device)] = torch.cat(answers)
    return summed(logits)


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


@torch.inference_mode()
def gate_statistics(
    model: nn.Module, pictures: Pictures | Files, mean: Tensor, std: Tensor, source: str
) -> GateStatistics:
    """n, mean and M2 of every gate over the pictures, overall and per class; each process looks at its share of them.

    What is added up, in float64, are differences from the share's first picture, so that no gate need be kept.
    """
    rank, processes = world()
    mine, kinds = torch.arange(rank, len(pictures), processes), len(pictures.classes)
    labels = pictures.labels.cpu()[mine]
    start = [torch.zeros(channels, dtype=torch.float64) for channels in model.channels]
    sums = [torch.zeros(2, kinds, len(s), dtype=torch.float64) for s in start]  # of differences and their squares
    batches = zip(pictures.evaluation(mine, (mean, std), 250), labels.split(250), strict=False)
    for number, (x, answers) in enumerate(batches):
        gates = [gate.double().cpu() for gate in model.explained(x).gates]
        start = start if number else [gate[0] for gate in gates]
        for total, gate, first in zip(sums, gates, start, strict=True):
            total[0].index_add_(0, answers, gate - first)
            total[1].index_add_(0, answers, (gate - first) ** 2)
    count = labels.bincount(minlength=kinds).double()
    n = torch.cat([count.sum()[None], count])
    found = [_mean_and_m2(total, first, n, mean.device) for total, first in zip(sums, start, strict=True)]
    counts = summed(n.clone().to(mean.device)).long().cpu().numpy()
    return GateStatistics(counts, tuple(m for m, _ in found), tuple(m2 for _, m2 in found), source)


def _mean_and_m2(total: Tensor, first: Tensor, n: Tensor, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """(groups, C) twice, over all processes, from this one's sums of differences from `first`, and its counts."""
    differences, squares = (torch.cat([s.sum(0)[None], s]) for s in total)  # first of all classes together
    n = n[:, None]
    mine = first + differences / n.clamp(min=1)
    m2 = (squares - differences**2 / n.clamp(min=1)).clamp(min=0)
    counts, offsets = (summed(v.to(device, copy=True)).cpu() for v in (n, n * mine))
    mean = offsets / counts.clamp(min=1)
    return mean.float().numpy(), summed((m2 + n * (mine - mean) ** 2).to(device)).cpu().float().numpy()
