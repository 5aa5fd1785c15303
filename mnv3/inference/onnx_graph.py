"""A network's explained pass as ONNX graphs, written from the modules themselves, BatchNorm folded into convolutions.

torch.onnx's exporter takes some ten seconds and two more packages; this takes milliseconds, and it decides what the
explanation costs. Both energies of a block are one small matrix product, as in layers.energy: two means over channels
took twice as long. Where an activation can't be negative, no absolute value is taken. The causal questions are rows
that a block adds to the batch: what lies before the block is the same for all of them and is computed once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from ..nets.layers import ConvNormAct, InvertedResidual, SqueezeExcitation
from ..nets.mobilenet import Network
from ..nets.tutorial import Residual

if TYPE_CHECKING:
    import onnx

OPSET = 18
IMAGES, LOGITS, FEATURES = "images", "logits", "features"


def names(model: Network) -> dict[str, list[str]]:
    """Of each SE block: input reference (1, C_l, 1, 1), outputs gates (N, C_l, 1, 1) and energy (N, 2, h_l · w_l)."""
    return {kind: [f"{kind}.{i}" for i in range(len(model.gated))] for kind in ("reference", "gates", "energy")}


def serialized(model: Network) -> bytes:
    """The graph of a pass: images (N, 3, H, W) in; logits (N, K), last map, gates and energies out."""
    return _Writer(model).model().SerializeToString()


def serialized_causal(model: Network) -> bytes:
    """The graph of the causal questions: an image (1, 3, H, W) and L references in; logits (L + 2, K) out, rows as
    causal_rows says, and the last map, gates and energies of the picture with its own gates.
    """
    return _Causal(model).model().SerializeToString()


def causal_rows(blocks: int) -> list[int]:
    """Where the graph's logits have: the picture's own gates, block 1 … L held at its reference, all of them held."""
    return [0, *range(2, blocks + 2), 1]


class _Writer:
    """Collects nodes and weights while it walks the network as explained() does."""

    def __init__(self, model: Network):
        self.network, self.nodes, self.weights, self.outputs = model, [], [], []

    def model(self) -> onnx.ModelProto:
        from onnx import helper

        inputs = self.inputs()
        x = self.conv(IMAGES, self.network.features[0])
        for number, layer in enumerate(self.network.features[1:], 1):
            block = self.network.gated.index(number) if number in self.network.gated else None
            x = self.layer(x, layer, block)
        self.features(x)
        self.outputs.append(self.value(FEATURES, ["N", None, None, None]))
        pooled = self.node("Flatten", self.node("GlobalAveragePool", x), axis=1)
        self.head(pooled)
        graph = helper.make_graph(self.nodes, "explained", inputs, self.outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)

    def inputs(self) -> list:
        return [self.value(IMAGES, ["N", 3, "H", "W"])]

    def features(self, x: str) -> None:
        self.node("Identity", x, into=FEATURES)

    # what a graph is made of -----------------------------------------------------------------------------------------

    def value(self, name: str, shape: list):
        from onnx import TensorProto, helper

        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    def node(self, kind: str, *inputs: str, into: str | None = None, **attributes) -> str:
        from onnx import helper

        into = into or f"{kind}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [into], **attributes))
        return into

    def weight(self, array: np.ndarray | Tensor) -> str:
        from onnx import numpy_helper

        array = array.detach().numpy() if isinstance(array, Tensor) else array
        name = f"weight.{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    # the network's parts ---------------------------------------------------------------------------------------------

    def conv(self, x: str, layer: ConvNormAct) -> str:
        """Convolution with BatchNorm folded in, in float64, and its activation."""
        conv, (scale, bias) = layer[0], _scale_and_shift(layer[1])
        weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
        pads = list(conv.padding) * 2
        x = self.node(
            "Conv", x, self.weight(weight.float()), self.weight(bias.float()),
            strides=list(conv.stride), pads=pads, group=conv.groups, kernel_shape=list(conv.kernel_size),
        )  # fmt: skip
        return self.activation(x, layer[2]) if len(layer) > 2 else x

    def activation(self, x: str, module: nn.Module) -> str:
        if isinstance(module, nn.ReLU):
            return self.node("Relu", x)
        if isinstance(module, nn.ReLU6):
            return self.node("Clip", x, *(self.weight(np.array(end, np.float32)) for end in (0, 6)))
        return self.node("Mul", x, self.node("HardSigmoid", x, alpha=1 / 6, beta=0.5))  # x · ReLU6(x + 3)/6

    def layer(self, x: str, layer: nn.Module, block: int | None) -> str:
        if isinstance(layer, ConvNormAct):
            return self.conv(x, layer)
        if isinstance(layer, InvertedResidual):
            out = x
            for part in layer.block:
                positive = isinstance(layer.block[0][2], nn.ReLU | nn.ReLU6)
                gated = isinstance(part, SqueezeExcitation)
                out = self.gate(out, part, block, positive) if gated else self.conv(out, part)
            return self.node("Add", out, self.grown(x, block)) if layer.shortcut else out
        if not isinstance(layer, Residual):
            raise TypeError(f"no ONNX for a {type(layer).__name__}")
        out = self.conv(self.conv(x, layer.convolutions[0]), layer.convolutions[1])
        if block is not None:
            out = self.gate(out, layer.se, block, False)
        shortcut = self.conv(x, layer.shortcut) if isinstance(layer.shortcut, ConvNormAct) else x
        return self.node("Relu", self.node("Add", out, self.grown(shortcut, block)))

    def gate(self, h: str, layer: SqueezeExcitation, block: int, positive: bool) -> str:
        """The SE block: h (N, C, h, w) scaled by its gates; gates and energies are put out."""
        gates = self.gates(h, layer, names(self.network)["gates"][block])
        self.put_out(h, gates, block, positive)
        return self.node("Mul", h, gates)

    def grown(self, shortcut: str, block: int | None) -> str:
        """A shortcut past an SE block, or past none, with the rows that the block adds to the batch."""
        return shortcut

    def put_out(self, h: str, gates: str, block: int, positive: bool) -> None:
        """A block's gates and energies, as outputs."""
        energy, channels = self.energy(h, gates, block, positive), self.network.channels[block]
        self.outputs += [self.value(gates, ["N", channels, 1, 1]), self.value(energy, ["N", 2, None])]

    def energy(self, h: str, gates: str, block: int, positive: bool) -> str:
        """Mean |h| over channels before and after gating: the rows 1/C and gates/C times |h|, (N, 2, h · w)."""
        channels, into = self.network.channels[block], names(self.network)["energy"][block]
        flat = self.node("Reshape", h if positive else self.node("Abs", h), self.weight(np.array([0, channels, -1])))
        gates = self.node("Reshape", gates, self.weight(np.array([0, 1, channels])))
        share = np.array([[0], [1 / channels]], np.float32)
        rows = self.node("Add", self.node("Mul", gates, self.weight(share)), self.weight(share[::-1]))
        return self.node("MatMul", rows, flat, into=into)

    def gates(self, h: str, layer: SqueezeExcitation, into: str | None = None) -> str:
        """(N, C, h, w) -> (N, C, 1, 1)."""
        x = self.node("GlobalAveragePool", h)
        x = self.node("Relu", self.node("Conv", x, self.weight(layer.fc1.weight), self.weight(layer.fc1.bias)))
        x = self.node("Conv", x, self.weight(layer.fc2.weight), self.weight(layer.fc2.bias))
        if isinstance(layer.scale_activation, nn.Sigmoid):
            return self.node("Sigmoid", x, into=into)
        return self.node("HardSigmoid", x, into=into, alpha=1 / 6, beta=0.5)

    def head(self, x: str) -> None:
        for layer in self.network.classifier:
            if isinstance(layer, nn.Linear):
                x = self.linear(x, layer.weight, layer.bias)
            elif isinstance(layer, nn.BatchNorm1d):
                x = self.norm(x, layer)
            elif not isinstance(layer, nn.Dropout):
                x = self.activation(x, layer)
        self.node("Identity", x, into=LOGITS)
        self.outputs.append(self.value(LOGITS, ["N", self.network.spec.num_classes]))

    def linear(self, x: str, weight: Tensor, bias: Tensor) -> str:
        return self.node("Gemm", x, self.weight(weight), self.weight(bias), transB=1)

    def norm(self, x: str, layer: nn.BatchNorm1d) -> str:
        scale, shift = _scale_and_shift(layer)
        return self.node("Add", self.node("Mul", x, self.weight(scale.float())), self.weight(shift.float()))


class _Causal(_Writer):
    """The rows of the batch are the picture, all blocks held so far, and each block held so far, in this order."""

    def inputs(self) -> list:
        references = zip(names(self.network)["reference"], self.network.channels, strict=True)
        return [self.value(IMAGES, [1, 3, "H", "W"]), *(self.value(n, [1, c, 1, 1]) for n, c in references)]

    def features(self, x: str) -> None:
        self.rows(x, 0, 1, FEATURES)

    def rows(self, x: str, begin: int, end: int, into: str | None = None) -> str:
        """Rows begin … end − 1 of the batch."""
        return self.node("Slice", x, *(self.weight(np.array([number])) for number in (begin, end, 0)), into=into)

    def gate(self, h: str, layer: SqueezeExcitation, block: int, positive: bool) -> str:
        """As in a pass; the row that holds all blocks takes the reference, and the row that holds this one is new."""
        kinds = names(self.network)
        gates, reference = self.gates(h, layer), kinds["reference"][block]
        own, first = self.rows(h, 0, 1), self.rows(gates, 0, 1, kinds["gates"][block])
        self.put_out(own, first, block, positive)
        held = self.node("Mul", own, reference)
        if block == 0:  # one row so far, two new ones
            return self.node("Concat", self.node("Mul", h, gates), held, held, axis=0)
        used = self.node("Concat", first, reference, self.rows(gates, 2, block + 2), axis=0)
        return self.node("Concat", self.node("Mul", h, used), held, axis=0)

    def grown(self, shortcut: str, block: int | None) -> str:
        if block is None:
            return shortcut
        own = self.rows(shortcut, 0, 1)
        return self.node("Concat", shortcut, *[own] * (2 if block == 0 else 1), axis=0)


def _scale_and_shift(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What BatchNorm does in eval mode, in float64: (C,) each."""
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale
