"""The two networks of the article that this project grew from, as its listings have them, behind MobileNetV3's face.

They are not the paper's: plain convolutions in place of depthwise ones, sigmoid gates, ReLU after the addition; and its
'Small' is six times its 'Large'.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

from torch import Tensor, nn

from ..errors import InputError
from .layers import ConvNormAct, SqueezeExcitation, energy, hardswish_slope, used_gates
from .mobilenet import Network
from .spec import MAX_CLASSES, Layer, check, choice


class ArticleRow(NamedTuple):
    """One line of the article's listing: a residual block of two convolutions."""

    inputs: int
    out: int
    kernel: int
    stride: int
    se: bool


# fmt: off
ARTICLE = {
    "article-large": (
        ArticleRow(16,   16, 3, 1, False), ArticleRow(16,   24, 3, 2, False), ArticleRow(24,   24, 3, 1, False),
        ArticleRow(24,   40, 5, 2, True),  ArticleRow(40,   40, 5, 1, True),  ArticleRow(40,   40, 5, 1, True),
        ArticleRow(40,   80, 3, 2, False), ArticleRow(80,   80, 3, 1, False), ArticleRow(80,   80, 3, 1, False),
        ArticleRow(80,  112, 5, 1, True),  ArticleRow(112, 112, 5, 1, True),  ArticleRow(112, 160, 5, 2, True),
        ArticleRow(160, 160, 5, 1, True),  ArticleRow(160, 160, 5, 1, True),
    ),
    "article-small": (
        ArticleRow(16,   16, 3, 2, False), ArticleRow(16,   72, 3, 2, False), ArticleRow(72,   72, 3, 1, False),
        ArticleRow(72,   72, 3, 1, True),  ArticleRow(72,   96, 3, 2, True),  ArticleRow(96,   96, 3, 1, True),
        ArticleRow(96,   96, 3, 1, True),  ArticleRow(96,  240, 5, 2, True),  ArticleRow(240, 240, 5, 1, True),
        ArticleRow(240, 240, 5, 1, True),  ArticleRow(240, 480, 5, 1, True),  ArticleRow(480, 480, 5, 1, True),
        ArticleRow(480, 480, 5, 1, True),
    ),
}
# fmt: on
LAST = {  # the 1×1 convolutions below the pool: (inputs, out, groups)
    "article-large": ((160, 960, 1),),
    "article-small": ((480, 576, 2), (576, 1024, 1)),
}
HIDDEN = {"article-large": 1280, "article-small": 0}  # the linear layer between pool and classifier; 0: none
STEM = 16


@dataclass(frozen=True)
class ArticleSpec:
    """Which of the article's networks, and for how many classes; all else is as published.

    Raises InputError, naming the field and its value, if there is no such network.
    """

    variant: str
    num_classes: int = 10

    # what Spec has too; no fields, since nothing of it can be chosen
    gate = "sigmoid"
    eps, momentum = 1e-5, 0.1
    width, strides, dropout = 1.0, 0, 0.0
    stem_stride = 2

    def __post_init__(self) -> None:
        choice("variant", self.variant, tuple(ARTICLE))
        check("num_classes", self.num_classes, int, 1, MAX_CLASSES)

    @property
    def title(self) -> str:
        """What it is called."""
        size = self.variant.removeprefix("article-").title()
        return f"The article's {size}, which is not the paper's but a tutorial's network (mnv3/nets/tutorial.py)"

    def to_dict(self) -> dict:
        """Plain types for config.json."""
        return asdict(self)

    def with_strides(self, count: int) -> ArticleSpec:
        if count:
            raise InputError(f"`strides` (={count}) must be 0 for {self.variant}, which is as published.")
        return self

    def layers(self, size: int = 224) -> Iterator[Layer]:
        """Every convolution and linear layer in order of computation, for a picture of size × size."""
        side = math.ceil(size / 2)
        yield Layer("stem", 3, 3, STEM, 1, side, False, True)
        for number, (inputs, out, kernel, stride, se) in enumerate(ARTICLE[self.variant], 1):
            side = math.ceil(side / stride)
            yield Layer(f"b{number}.first", kernel, inputs, out, 1, side, False, True)
            yield Layer(f"b{number}.second", kernel, out, out, 1, side, False, True, gated=number * se)
            if se:
                yield Layer(f"b{number}.squeeze", 1, out, out // 4, 1, 1, True, False)
                yield Layer(f"b{number}.excite", 1, out // 4, out, 1, 1, True, False)
            if stride != 1 or inputs != out:
                yield Layer(f"b{number}.shortcut", 1, inputs, out, 1, side, False, True)
        for inputs, width, groups in LAST[self.variant]:
            yield Layer("last", 1, inputs, width, groups, side, False, True)
        if hidden := HIDDEN[self.variant]:
            yield Layer("hidden", 1, width, hidden, 1, 1, True, True)
            width = hidden
        yield Layer("classifier", 1, width, self.num_classes, 1, 1, True, False)


class Residual(nn.Module):
    """Two plain k×k convolutions, SE, the shortcut added, ReLU."""

    def __init__(self, spec: ArticleSpec, row: ArticleRow):
        super().__init__()
        inputs, out, kernel, stride, se = row
        self.convolutions = nn.Sequential(
            ConvNormAct(spec, inputs, out, kernel, stride, act="HS"), ConvNormAct(spec, out, out, kernel, act="HS")
        )
        self.se = SqueezeExcitation(out, out // 4, spec.gate) if se else nn.Identity()
        same = stride == 1 and inputs == out
        self.shortcut = nn.Identity() if same else ConvNormAct(spec, inputs, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.se(self.convolutions(x)) + self.shortcut(x)).relu()

    def before_gate(self, x: Tensor) -> Tensor:
        """The channels that the SE block looks at and scales: (N, C_in, H, W) -> (N, out, h, w)."""
        return self.convolutions(x)

    def explained(self, x: Tensor, keep: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """forward() with the SE block held open to view, as InvertedResidual.explained."""
        h = self.before_gate(x)
        gates = self.se.gates(h)
        used = used_gates(gates, keep, reference)
        return (h * used + self.shortcut(x)).relu(), gates.flatten(1), energy(h, used.flatten(1))


class ArticleNet(Network):
    """One of the article's networks: ArticleNet(ArticleSpec("article-large", 10))."""

    def __init__(self, spec: ArticleSpec):
        super().__init__(spec)
        last = [ConvNormAct(spec, i, out, 1, groups=groups, act="HS") for i, out, groups in LAST[spec.variant]]
        blocks = [Residual(spec, row) for row in ARTICLE[spec.variant]]
        self.features = nn.Sequential(ConvNormAct(spec, 3, STEM, 3, spec.stem_stride, act="HS"), *blocks, *last)
        width, hidden = LAST[spec.variant][-1][1], HIDDEN[spec.variant]
        between = [nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.Hardswish()] if hidden else []
        self.classifier = nn.Sequential(*between, nn.Linear(hidden or width, spec.num_classes))

    def head_gradient(self, pooled: Tensor, classes: Tensor | int) -> Tensor:
        weight = self.classifier[-1].weight[self.one_each(pooled, classes)]
        if len(self.classifier) == 1:
            return weight
        hidden, norm = self.classifier[:2]
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return (weight * hardswish_slope(norm(hidden(pooled))) * scale) @ hidden.weight
