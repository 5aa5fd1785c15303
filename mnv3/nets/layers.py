"""The paper's building blocks. Submodules are numbered as torchvision numbers them, so its weights fit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .spec import Row, Spec, squeeze_width

ACTIVATION = {"RE": nn.ReLU, "HS": nn.Hardswish, "R6": nn.ReLU6}
GATE = {"hardsigmoid": nn.Hardsigmoid, "sigmoid": nn.Sigmoid}


class DepthwiseGradient(torch.autograd.Function):
    """A depthwise convolution in bf16 whose gradients don't wait for oneDNN's.

    Those took most of a training step on a CPU (Xeon with AMX, 128 pictures, medians): 62 ms for the input's gradient
    of 72 channels at 32² with stride 2, 40 ms for the kernel's of 576 channels at 4², 5×5. Here they take 2.5 ms, by a
    forward convolution of the spread-out gradient with the turned kernel, and 11 ms, computed in fp32.
    """

    @staticmethod
    def forward(context, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        context.save_for_backward(x, weight)
        context.stride, context.padding = stride, padding
        return nn.functional.conv2d(x, weight, None, stride, padding, groups=x.shape[1])

    @staticmethod
    def backward(context, gradient: Tensor):
        x, weight = context.saved_tensors
        stride, padding, channels = [context.stride] * 2, [context.padding] * 2, x.shape[1]
        spread = gradient
        if context.stride > 1:
            spread = torch.zeros_like(x, dtype=gradient.dtype)
            spread[:, :, :: context.stride, :: context.stride] = gradient
        to_x = nn.functional.conv2d(spread, weight.flip(2, 3), None, 1, padding, groups=channels)
        wide = torch.promote_types(x.dtype, torch.float32)  # float64 stays, for the test
        _, to_weight, _ = torch.ops.aten.convolution_backward(
            gradient.to(wide), x.to(wide), weight.to(wide), None, stride, padding, [1, 1], False, [0, 0], channels,
            [False, True, False],
        )  # fmt: skip
        return to_x, to_weight.to(weight.dtype), None, None


class DepthwiseConv2d(nn.Conv2d):
    """nn.Conv2d with one group per channel and an odd kernel; under bf16 autocast on a CPU, with DepthwiseGradient."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"):
            kind = torch.get_autocast_dtype("cpu")  # autocast does not reach into a Function of our own
            return DepthwiseGradient.apply(x.to(kind), self.weight.to(kind), self.stride[0], self.padding[0])
        return super().forward(x)


class ConvNormAct(nn.Sequential):
    """Convolution without bias, BatchNorm, activation (none where `act` is None)."""

    def __init__(self, spec: Spec, inputs: int, outputs: int, kernel: int, stride=1, groups=1, act: str | None = None):
        convolution = DepthwiseConv2d if groups == inputs == outputs else nn.Conv2d
        layers = [
            convolution(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, eps=spec.eps, momentum=spec.momentum),
        ]
        if act:
            layers.append(ACTIVATION[act](inplace=True))
        super().__init__(*layers)


class SqueezeExcitation(nn.Module):
    """One gate per channel, the same at every place: pool, two layers, gate function (paper section 5.3).

    With hard-sigmoid, ReLU6(x + 3)/6, a gate reaches exactly 0 and exactly 1.
    """

    def __init__(self, channels: int, squeezed: int, gate: str):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = GATE[gate]()

    def gates(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 1, 1), each in [0, 1]."""
        pooled = x.mean((2, 3), keepdim=True)
        return self.scale_activation(self.fc2(self.activation(self.fc1(pooled))))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gates(x)


class InvertedResidual(nn.Module):
    """Expand 1×1, depthwise k×k, SE, project 1×1; a shortcut where stride is 1 and channels stay.

    The SE block stands after the depthwise activation. Without expansion (exp = in) the first
    layer falls away, as in the first row of both tables.
    """

    def __init__(self, spec: Spec, inputs: int, row: Row):
        super().__init__()
        layers: list[nn.Module] = []
        if row.expand != inputs:
            layers.append(ConvNormAct(spec, inputs, row.expand, 1, act=row.act))
        layers.append(ConvNormAct(spec, row.expand, row.expand, row.kernel, row.stride, groups=row.expand, act=row.act))
        self.se_at = len(layers) if row.se else None
        if row.se:
            layers.append(SqueezeExcitation(row.expand, squeeze_width(spec, row), spec.gate))
        layers.append(ConvNormAct(spec, row.expand, row.out, 1))
        self.block = nn.Sequential(*layers)
        self.shortcut = row.stride == 1 and inputs == row.out
        self.halves = row.stride == 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.block(x)
        return out + x if self.shortcut else out

    def before_gate(self, x: Tensor) -> Tensor:
        """The channels that the SE block looks at and scales: (N, C_in, H, W) -> (N, exp, h, w)."""
        for layer in self.block[: self.se_at]:
            x = layer(x)
        return x

    def explained(self, x: Tensor, keep: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """forward() with the SE block held open to view; only for blocks that have one.

        keep (N,): 1 uses the computed gate, 0 the reference (exp,). Returns the block's output, the
        computed gates (N, exp) and the energy (N, 2, h, w) before and after the gate in use.
        """
        h = self.before_gate(x)
        gates = self.block[self.se_at].gates(h)
        used = used_gates(gates, keep, reference)
        out = self.block[-1](h * used)
        return (out + x if self.shortcut else out), gates.flatten(1), energy(h, used.flatten(1))


def used_gates(gates: Tensor, keep: Tensor, reference: Tensor) -> Tensor:
    """(N, C, 1, 1): the computed gates (N, C, 1, 1) where keep (N,) is 1, the reference (C,) where it is 0."""
    return torch.where(keep.view(-1, 1, 1, 1) > 0, gates, reference.view(1, -1, 1, 1))


def energy(h: Tensor, gates: Tensor) -> Tensor:
    """Mean |activation| over channels before and after gating: (N, C, H, W), (N, C) -> (N, 2, H, W).

    Gates are never negative, so |h × gate| = |h| × gate and both means are one small matrix product.
    """
    n, channels, height, width = h.shape
    weights = torch.stack([torch.ones_like(gates), gates], 1) / channels  # (N, 2, C)
    return (weights @ h.abs().flatten(2)).view(n, 2, height, width)


def hardswish_slope(x: Tensor) -> Tensor:
    """Derivative of x · ReLU6(x + 3)/6: 0 below −3, 1 above 3, (2x + 3)/6 between."""
    return torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, (2 * x + 3) / 6))


SLOPE = {
    "HS": hardswish_slope, "RE": lambda x: (x > 0).to(x.dtype), "R6": lambda x: ((x > 0) & (x < 6)).to(x.dtype),
}  # fmt: skip
