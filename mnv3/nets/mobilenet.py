"""MobileNetV3 (and V2): logits from forward(), and from explained() all that the app shows, in one pure pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InputError
from .layers import ACTIVATION, SLOPE, ConvNormAct, InvertedResidual
from .spec import Spec, gated_blocks


class Explained(NamedTuple):
    """What one pass returns for N pictures and L SE blocks."""

    logits: Tensor  # (N, K)
    gates: list[Tensor]  # L × (N, C_l): computed for each channel, whatever was then used
    energy: list[Tensor]  # L × (N, 2, h_l, w_l): mean |activation| before and after the gate in use
    features: Tensor  # (N, C, h, w): the last map, for class evidence


class Network(nn.Module):
    """What every network here offers; features[row] of one is the table's row, `classifier` its head.

    Takes normalised pictures (N, 3, H, W) of any size. `spec` describes it.
    """

    def __init__(self, spec):
        super().__init__()
        blocks = gated_blocks(spec)
        self.spec, self.gated, self.channels = spec, [b.row for b in blocks], [b.channels for b in blocks]
        self.avgpool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits: (N, 3, H, W) -> (N, K)."""
        return self.head(self.pool(self.features(_checked(images))))

    def explained(
        self, images: Tensor, keep: Tensor | None = None, reference: Sequence[Tensor] | None = None
    ) -> Explained:
        """One pass that returns logits, gates, energies and the last map.

        keep (N, L): 1 uses the gate that block l computed for picture n, 0 its reference gate; all 1
        without it, and then the logits are forward()'s exactly. reference: L × (C_l,), needed with keep.
        """
        if keep is None:
            keep = images.new_ones(len(images), len(self.gated))
            reference = [images.new_zeros(channels) for channels in self.channels]
        elif reference is None:
            raise InputError("`keep` needs `reference`: one vector of gates for each SE block.")
        elif keep.shape != (len(images), len(self.gated)):
            raise InputError(f"`keep` has shape {tuple(keep.shape)}: it must be {(len(images), len(self.gated))}.")
        elif [len(r) for r in reference] != self.channels:
            raise InputError(f"`reference` has {[len(r) for r in reference]} gates: it must have {self.channels}.")
        x, gates, energies = self.features[0](_checked(images)), [], []
        for number, layer in enumerate(self.features[1:], 1):
            if number in self.gated:
                block = len(gates)
                x, gate, moved = layer.explained(x, keep[:, block], reference[block])
                gates.append(gate)
                energies.append(moved)
            else:
                x = layer(x)
        return Explained(self.head(self.pool(x)), gates, energies, x)

    def block_maps(self, images: Tensor, block: int) -> Tensor:
        """Channels of SE block `block` (0 is the shallowest) before its gate: (N, 3, H, W) -> (N, C_l, h_l, w_l)."""
        if not 0 <= block < len(self.gated):
            raise InputError(f"There is no SE block {block}: this network has {len(self.gated)}, counted from 0.")
        row = self.gated[block]
        return self.features[row].before_gate(self.features[:row](_checked(images)))

    def pool(self, features: Tensor) -> Tensor:
        """Mean over places: (N, C, h, w) -> (N, C)."""
        return self.avgpool(features).flatten(1)

    def head(self, pooled: Tensor) -> Tensor:
        """Logits from the pooled last map: (N, C) -> (N, K)."""
        return self.classifier(pooled)

    def head_gradient(self, pooled: Tensor, classes: Tensor | int) -> Tensor:
        """∂ logit[class] / ∂ pooled in closed form, as in eval mode: (N, C), (N,) or an int -> (N, C)."""
        raise NotImplementedError

    @staticmethod
    def one_each(pooled: Tensor, classes: Tensor | int) -> Tensor:
        """A class for each of N pooled maps: (N, C), (N,) or an int -> (N,)."""
        return torch.as_tensor(classes, device=pooled.device).expand(len(pooled))


class MobileNetV3(Network):
    """The paper's network, or any that a Spec describes, with the parameter names of torchvision's MobileNetV3.

    MobileNetV3("small", num_classes=10, strides=2), or MobileNetV3(spec=Spec); MobileNetV3("v2") is its predecessor,
    whose blocks torchvision names otherwise (catalogue.from_torchvision_v2). Takes normalised pictures
    (N, 3, H, W) of any size. Raises InputError if the description can't be a network.
    """

    def __init__(
        self, variant: str = "large", width: float = 1.0, num_classes: int = 1000, strides: int = 0,
        *, spec: Spec | None = None,
    ):  # fmt: skip
        spec = spec or Spec.of(variant, width, num_classes, strides)
        super().__init__(spec)
        features: list[nn.Module] = [ConvNormAct(spec, 3, spec.stem, 3, spec.stem_stride, act=spec.act)]
        inputs = spec.stem
        for row in spec.rows:
            features.append(InvertedResidual(spec, inputs, row))
            inputs = row.out
        features.append(ConvNormAct(spec, inputs, spec.last, 1, act=spec.act))
        self.features = nn.Sequential(*features)
        hidden = [nn.Linear(spec.last, spec.hidden), ACTIVATION[spec.act](inplace=True)] if spec.hidden else []
        last = nn.Linear(spec.hidden or spec.last, spec.num_classes)
        self.classifier = nn.Sequential(*hidden, nn.Dropout(spec.dropout), last)
        self.apply(_initialise)

    def head_gradient(self, pooled: Tensor, classes: Tensor | int) -> Tensor:
        weight = self.classifier[-1].weight[self.one_each(pooled, classes)]
        if not self.spec.hidden:
            return weight
        hidden = self.classifier[0]
        return (weight * SLOPE[self.spec.act](hidden(pooled))) @ hidden.weight  # the slope: (N, hidden)


def _checked(images: Tensor) -> Tensor:
    if images.dim() != 4 or images.shape[1] != 3:
        raise InputError(f"Pictures have shape {tuple(images.shape)}: it must be (N, 3, H, W).")
    if not images.is_floating_point():
        raise InputError(f"Pictures are {images.dtype}: give floats, normalised with Checkpoint.preprocess.")
    return images


def _initialise(module: nn.Module) -> None:
    """He's initialisation for convolutions, small normal weights for linear layers, as torchvision's."""
    if any(weight.is_meta for weight in module.parameters(recurse=False)):
        return  # nothing to set, for which normal_ would import torch._dynamo: 1.7 s of the first load
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)
