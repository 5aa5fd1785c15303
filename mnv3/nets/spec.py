"""The paper's tables as data, and what can be counted from them. Imports no torch.

Source: Howard et al., "Searching for MobileNetV3", arXiv 1905.02244 v5, Tables 1 and 2; for its predecessor, Sandler
et al., "MobileNetV2", arXiv 1801.04381 v4, Table 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import NamedTuple

from ..errors import InputError

ACTIVATIONS = ("RE", "HS", "R6")  # ReLU, hard-swish: the paper's NL column; ReLU6: MobileNetV2's
GATES = ("hardsigmoid", "sigmoid")
MAX_CHANNELS = 8192
MAX_ROWS = 64
MAX_CLASSES = 100_000
MAX_PARAMETERS = 100_000_000  # 400 MB as float32: what a 16 GB host can open beside its other work


class Row(NamedTuple):
    """One line of the paper's table: an inverted residual block."""

    kernel: int
    expand: int
    out: int
    se: bool
    act: str
    stride: int


# fmt: off
LARGE = (  # Table 1, below the stem (3×3 conv to 16, HS, s 2) and above the 1×1 conv to 960
    #   k   exp  out  SE     NL   s     input
    Row(3,   16,  16, False, "RE", 1),  # 112² × 16
    Row(3,   64,  24, False, "RE", 2),  # 112² × 16
    Row(3,   72,  24, False, "RE", 1),  #  56² × 24
    Row(5,   72,  40, True,  "RE", 2),  #  56² × 24
    Row(5,  120,  40, True,  "RE", 1),  #  28² × 40
    Row(5,  120,  40, True,  "RE", 1),  #  28² × 40
    Row(3,  240,  80, False, "HS", 2),  #  28² × 40
    Row(3,  200,  80, False, "HS", 1),  #  14² × 80
    Row(3,  184,  80, False, "HS", 1),  #  14² × 80
    Row(3,  184,  80, False, "HS", 1),  #  14² × 80
    Row(3,  480, 112, True,  "HS", 1),  #  14² × 80
    Row(3,  672, 112, True,  "HS", 1),  #  14² × 112
    Row(5,  672, 160, True,  "HS", 2),  #  14² × 112
    Row(5,  960, 160, True,  "HS", 1),  #   7² × 160
    Row(5,  960, 160, True,  "HS", 1),  #   7² × 160
)
LARGE_HEAD = (960, 1280)  # 1×1 conv, HS at 7²; then pool and a hidden layer, HS, no BatchNorm
SMALL = (  # Table 2, between the same stem and the 1×1 conv to 576
    #   k   exp  out  SE     NL   s     input
    Row(3,   16,  16, True,  "RE", 2),  # 112² × 16
    Row(3,   72,  24, False, "RE", 2),  #  56² × 16
    Row(3,   88,  24, False, "RE", 1),  #  28² × 24
    Row(5,   96,  40, True,  "HS", 2),  #  28² × 24
    Row(5,  240,  40, True,  "HS", 1),  #  14² × 40
    Row(5,  240,  40, True,  "HS", 1),  #  14² × 40
    Row(5,  120,  48, True,  "HS", 1),  #  14² × 40
    Row(5,  144,  48, True,  "HS", 1),  #  14² × 48
    Row(5,  288,  96, True,  "HS", 2),  #  14² × 48
    Row(5,  576,  96, True,  "HS", 1),  #   7² × 96
    Row(5,  576,  96, True,  "HS", 1),  #   7² × 96
)
# Errata: v5 ticks SE on the 1×1 conv to 576 too; no implementation has it, and with it Small would
# have 2.71 M parameters, not the paper's 2.5 M. An older version printed 1280 for the hidden
# layer (2.95 M).
SMALL_HEAD = (576, 1024)
V2 = (  # MobileNetV2's Table 2, between the stem (3×3 conv to 32, R6, s 2) and the 1×1 conv to 1280
    #   k   exp  out  SE     NL   s     input
    Row(3,   32,  16, False, "R6", 1),  # 112² × 32
    Row(3,   96,  24, False, "R6", 2),  # 112² × 16
    Row(3,  144,  24, False, "R6", 1),  #  56² × 24
    Row(3,  144,  32, False, "R6", 2),  #  56² × 24
    Row(3,  192,  32, False, "R6", 1),  #  28² × 32
    Row(3,  192,  32, False, "R6", 1),  #  28² × 32
    Row(3,  192,  64, False, "R6", 2),  #  28² × 32
    Row(3,  384,  64, False, "R6", 1),  #  14² × 64
    Row(3,  384,  64, False, "R6", 1),  #  14² × 64
    Row(3,  384,  64, False, "R6", 1),  #  14² × 64
    Row(3,  384,  96, False, "R6", 1),  #  14² × 64
    Row(3,  576,  96, False, "R6", 1),  #  14² × 96
    Row(3,  576,  96, False, "R6", 1),  #  14² × 96
    Row(3,  576, 160, False, "R6", 2),  #  14² × 96
    Row(3,  960, 160, False, "R6", 1),  #   7² × 160
    Row(3,  960, 160, False, "R6", 1),  #   7² × 160
    Row(3,  960, 320, False, "R6", 1),  #   7² × 160
)
V2_HEAD = (1280, 0)  # no hidden layer: pool, then classes
# fmt: on
STEM = 16
TABLES = {"large": (LARGE, LARGE_HEAD, STEM), "small": (SMALL, SMALL_HEAD, STEM), "v2": (V2, V2_HEAD, 32)}
V2_REST = {"act": "R6", "eps": 1e-5, "momentum": 0.1}  # torchvision's BatchNorm
WITHOUT = {  # what takes one of V3's ingredients out of every row, and its name: 'small-no-se' is Small so
    "no-se": ({"se": False}, "without SE"), "relu": ({"act": "RE"}, "with ReLU for h-swish"),
    "3x3": ({"kernel": 3}, "with 3×3 kernels only"),
}  # fmt: skip
VARIANTS = (*TABLES, *(f"{size}-{less}" for size in ("large", "small") for less in WITHOUT))


def round8(channels: float) -> int:
    """The nearest multiple of 8, at least 8, never more than 10 % below (the MobileNets' rule)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class Layer(NamedTuple):
    """One convolution or linear layer, with the output side it has at a given picture size."""

    name: str
    kernel: int
    inputs: int
    outputs: int
    groups: int
    side: int
    bias: bool
    norm: bool  # followed by a BatchNorm
    gated: int = 0  # the row whose SE block scales its outputs

    @property
    def weights(self) -> int:
        return self.kernel**2 * self.inputs * self.outputs // self.groups

    @property
    def parameters(self) -> int:
        return self.weights + self.bias * self.outputs + self.norm * 2 * self.outputs

    @property
    def multiply_adds(self) -> int:
        return self.weights * self.side**2


@dataclass(frozen=True)
class Spec:
    """All that makes a network the one it is; what config.json holds.

    `variant`, `width` and `strides` say what the rows were made from; the network is built from the
    rows alone. `hidden` 0: classes follow the pool at once, as in MobileNetV2. `squeeze` divides the
    expanded channels in an SE block; `eps` and `momentum` are BatchNorm's. Raises InputError, naming
    the field and its value, if it can't be a network.
    """

    rows: tuple[Row, ...]
    last: int
    hidden: int
    num_classes: int = 1000
    stem: int = STEM
    stem_stride: int = 2
    act: str = "HS"  # of the stem, the last 1×1 convolution and the hidden layer
    squeeze: int = 4
    gate: str = "hardsigmoid"
    eps: float = 1e-3
    momentum: float = 0.01
    dropout: float = 0.2
    variant: str = "large"
    width: float = 1.0
    strides: int = 0

    @classmethod
    def of(
        cls, variant: str = "large", width: float = 1.0, num_classes: int = 1000, strides: int = 0,
        minimalistic: bool = False,
    ) -> Spec:  # fmt: skip
        """Large, Small or MobileNetV2 (v2): `width` times as wide, its first `strides` strides of 2 set to 1.

        Width follows the paper's own figures, which torchvision's rule misses: an expansion is its
        ratio in the table times the *rounded* input, and the hidden layer never shrinks below 1.0.
        MobileNetV2's last convolution never shrinks either. `variant` may take one ingredient out: WITHOUT has which.
        Minimalistic nets (the authors' later release) have none of the three.
        """
        if variant not in VARIANTS:
            raise InputError(f"There is no variant {variant!r}: choose one of {', '.join(VARIANTS)}.")
        if minimalistic and variant not in ("large", "small"):
            raise InputError(f"`minimalistic` is of large and small: give --no-minimalistic for {variant!r}.")
        check("width", width, float, 0.1, 4.0)
        base, _, less = variant.partition("-")
        taken = WITHOUT if minimalistic else [less] if less else []
        changes = {field: value for name in taken for field, value in WITHOUT[name][0].items()}
        table, (last, hidden), stem = TABLES[base]
        rows, full, scaled = [], stem, round8(stem * width)
        for row in table:
            expand, out = round8(scaled * row.expand / full), round8(row.out * width)
            rows.append(row._replace(expand=expand, out=out, **changes))
            full, scaled = row.out, out
        never_less = max(width, 1.0)
        spec = cls(
            rows=tuple(rows), last=round8(last * (width if hidden else never_less)), num_classes=num_classes,
            hidden=round8(hidden * never_less) if hidden else 0, stem=round8(stem * width), variant=variant,
            width=float(width), **({"act": changes.get("act", "HS")} if base != "v2" else V2_REST),
        )  # fmt: skip
        return spec.with_strides(strides)

    def with_strides(self, count: int) -> Spec:
        """This network with its first `count` strides of 2 set to 1, so that small pictures keep a map."""
        halvings = [i for i, s in enumerate([self.stem_stride, *(r.stride for r in self.rows)]) if s == 2]
        check("strides", count, int, 0, len(halvings))
        kept = set(halvings[:count])
        rows = tuple(r._replace(stride=1) if i + 1 in kept else r for i, r in enumerate(self.rows))
        stem_stride = 1 if 0 in kept else self.stem_stride
        return replace(self, rows=rows, stem_stride=stem_stride, strides=self.strides + count)

    def __post_init__(self) -> None:
        for name, least in (("last", 1), ("hidden", 0), ("stem", 1)):
            check(name, getattr(self, name), int, least, MAX_CHANNELS)
        check("num_classes", self.num_classes, int, 1, MAX_CLASSES)
        check("stem_stride", self.stem_stride, int, 1, 2)
        check("squeeze", self.squeeze, int, 1, 64)
        check("eps", self.eps, float, 1e-12, 1.0)
        check("momentum", self.momentum, float, 0.0, 1.0)
        check("dropout", self.dropout, float, 0.0, 0.99)
        check("width", self.width, float, 0.01, 100.0)
        check("strides", self.strides, int, 0, MAX_ROWS)
        choice("act", self.act, ACTIVATIONS)
        choice("gate", self.gate, GATES)
        if not isinstance(self.variant, str) or len(self.variant) > 40:
            raise InputError(f"`variant` (={self.variant!r:.60}) must be a short name such as 'large'.")
        if not isinstance(self.rows, tuple) or not 1 <= len(self.rows) <= MAX_ROWS:
            raise InputError(f"`rows` must be a list of 1 to {MAX_ROWS} blocks.")
        for number, row in enumerate(self.rows, 1):
            _check_row(f"rows[{number}]", row)
        if parameters(self) > MAX_PARAMETERS:
            raise InputError(
                f"This network would have {parameters(self) / 1e6:.0f} million parameters; "
                f"up to {MAX_PARAMETERS / 1e6:.0f} million can be opened here."
            )

    @property
    def title(self) -> str:
        """What it is called: 'MobileNetV3-Small, width 1'."""
        return f"{'' if self.variant == 'v2' else 'MobileNetV3-'}{called(self.variant)}, width {self.width:g}"

    def layers(self, size: int = 224) -> Iterator[Layer]:
        """Every convolution and linear layer in order of computation, for a picture of size × size."""
        side, width = math.ceil(size / self.stem_stride), self.stem
        yield Layer("stem", 3, 3, width, 1, side, False, True)
        for number, row in enumerate(self.rows, 1):
            if row.expand != width:
                yield Layer(f"b{number}.expand", 1, width, row.expand, 1, side, False, True)
            side, width = math.ceil(side / row.stride), row.expand
            yield Layer(f"b{number}.depthwise", row.kernel, width, width, width, side, False, True, number * row.se)
            if row.se:
                squeezed = squeeze_width(self, row)
                yield Layer(f"b{number}.squeeze", 1, row.expand, squeezed, 1, 1, True, False)
                yield Layer(f"b{number}.excite", 1, squeezed, row.expand, 1, 1, True, False)
            yield Layer(f"b{number}.project", 1, row.expand, row.out, 1, side, False, True)
            width = row.out
        yield Layer("last", 1, width, self.last, 1, side, False, True)
        if self.hidden:
            yield Layer("hidden", 1, self.last, self.hidden, 1, 1, True, False)
        yield Layer("classifier", 1, self.hidden or self.last, self.num_classes, 1, 1, True, False)

    def to_dict(self) -> dict:
        """Plain types for config.json; rows as objects with named columns."""
        return {**asdict(self), "rows": [row._asdict() for row in self.rows]}

    @classmethod
    def from_dict(cls, data: object) -> Spec:
        """The inverse of `to_dict`, strict: an unknown or missing key is an InputError that names it."""
        known = [f.name for f in fields(cls)]
        data = keys("spec", data, known)
        rows = data["rows"]
        if not isinstance(rows, list):
            raise InputError("`spec.rows` must be a list of blocks.")
        rows = tuple(Row(**keys(f"spec.rows[{i}]", row, Row._fields)) for i, row in enumerate(rows, 1))
        return cls(**{**data, "rows": rows})


def keys(where: str, data: object, known) -> dict:
    """`data` if it is an object with exactly the keys `known`. Raises InputError naming the first that is amiss."""
    if not isinstance(data, dict):
        raise InputError(f"`{where}` must be an object with the keys {', '.join(known)}.")
    for key in data:
        if key not in known:
            raise InputError(f"`{where}` has a key that is not known here: {str(key)[:60]!r}.")
    for key in known:
        if key not in data:
            raise InputError(f"`{where}` lacks the key {key!r}: write the folder again with Checkpoint.save.")
    return data


def check(name: str, value: object, kind: type, low: float, high: float) -> None:
    """Raises InputError, naming field and value, unless it is a number of that kind between low and high."""
    right = type(value) in ((int, float) if kind is float else (int,))  # bool is not a number here
    if not (right and low <= value <= high):  # NaN fails every comparison
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"`{name}` (={value!r:.60}) must be {what} from {low:g} to {high:g}.")


def choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises InputError, naming field and value, unless it is one of the choices."""
    if type(value) is not type(choices[0]) or value not in choices:
        raise InputError(f"`{name}` (={value!r:.60}) must be one of {', '.join(map(str, choices))}.")


def _check_row(name: str, row: Row) -> None:
    check(f"{name}.expand", row.expand, int, 1, MAX_CHANNELS)
    check(f"{name}.out", row.out, int, 1, MAX_CHANNELS)
    check(f"{name}.stride", row.stride, int, 1, 2)
    choice(f"{name}.kernel", row.kernel, (1, 3, 5, 7))
    choice(f"{name}.act", row.act, ACTIVATIONS)
    if not isinstance(row.se, bool):
        raise InputError(f"`{name}.se` (={row.se!r:.60}) must be true or false.")


def called(variant: str) -> str:
    """'Small', 'Small without SE', 'MobileNetV2': the name of a variant among MobileNets."""
    base, _, less = variant.partition("-")
    name = "MobileNetV2" if base == "v2" else base.title()
    return f"{name} {WITHOUT[less][1]}" if less in WITHOUT else name


def squeeze_width(spec: Spec, row: Row) -> int:
    """Channels between an SE block's two layers: the expanded channels over `squeeze`, rounded to 8."""
    return round8(row.expand / spec.squeeze)


def parameters(spec: Spec) -> int:
    """Learned numbers of the network, BatchNorm's scale and shift included."""
    return sum(layer.parameters for layer in spec.layers())


def multiply_adds(spec: Spec, size: int = 224) -> int:
    """Multiply-adds (MAdds) of convolutions and linear layers for one size × size picture."""
    return sum(layer.multiply_adds for layer in spec.layers(size))


class GatedBlock(NamedTuple):
    """Where one SE block sits: its row's number in the table, its gates, the side of the map they scale."""

    name: str
    row: int
    channels: int
    side: int


def gated_blocks(spec: Spec, size: int = 224) -> tuple[GatedBlock, ...]:
    """The network's SE blocks, shallow to deep, for a picture of size × size; empty without SE."""
    return tuple(GatedBlock(f"b{e.gated}", e.gated, e.outputs, e.side) for e in spec.layers(size) if e.gated)


def final_side(spec: Spec, size: int = 224) -> int:
    """Side of the last map, which class evidence is drawn on."""
    return next(layer.side for layer in spec.layers(size) if layer.name == "last")
