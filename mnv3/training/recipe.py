"""The recipe: everything that decides a run's result, and the command line made from it."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.registry import load
from ..distributed import fetching
from ..errors import InputError
from ..nets.spec import VARIANTS
from ..nets.tutorial import ARTICLE
from .augment import POLICIES

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
