"""A network's maps for other heads: detection and segmentation."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from ..errors import InputError
from .layers import InvertedResidual
from .mobilenet import Network, _checked

HEADS = ("pyramid", "ssdlite", "lraspp")


class Backbone(nn.Module):
    """Normalised pictures (N, 3, H, W) -> an OrderedDict of maps (N, C, h, w); `channels` are theirs, in order.

    places: name -> (number in `features`, whether the map is taken after that block's expansion).
    """

    def __init__(self, network: Network, places: dict[str, tuple[int, bool]]):
        super().__init__()
        self.features, self.places = network.features, places
        self.channels = [_channels(network.features[number], inside) for number, inside in places.values()]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        x, maps = _checked(images), OrderedDict()
        named = {place: name for name, place in self.places.items()}
        for number, layer in enumerate(self.features):
            if name := named.get((number, True)):
                maps[name] = layer.block[0](x)
                x = layer.block[1:](maps[name])  # such a block halves, so that it has no shortcut
            else:
                x = layer(x)
            if name := named.get((number, False)):
                maps[name] = x
        return maps


def backbone(source: Any, head: str = "pyramid") -> Backbone:
    """The maps that a head looks at, as torchvision takes them from its own MobileNetV3:

    ssdlite: '0', as expanded by the last block that halves, and '1', the last map; lraspp: 'low', of the third-last
    block that halves, and 'high', the last map; pyramid: '0', '1', … the last map of each size. The weights are shared
    with the source. Raises InputError.
    """
    network = getattr(source, "model", source)  # a Checkpoint has one
    end = len(network.features) - 1
    halving = [n for n, layer in enumerate(network.features) if isinstance(layer, InvertedResidual) and layer.halves]
    if head not in HEADS:
        raise InputError(f"`head` (={head!r:.40}) must be one of {', '.join(HEADS)}.")
    if len(halving) < 3:
        raise InputError(f"{network.spec.title} halves its maps in {len(halving)} blocks that expand: 3 are needed.")
    if head == "ssdlite":
        return Backbone(network, {"0": (halving[-1], True), "1": (end, False)})
    if head == "lraspp":
        return Backbone(network, {"low": (halving[-3], False), "high": (end, False)})
    ends = [*(number - 1 for number in halving), end]
    return Backbone(network, {str(i): (number, False) for i, number in enumerate(ends)})


def _channels(layer: nn.Module, inside: bool) -> int:
    convolutions = layer.block[0] if inside else layer
    return [m for m in convolutions.modules() if isinstance(m, nn.BatchNorm2d)][-1].num_features
