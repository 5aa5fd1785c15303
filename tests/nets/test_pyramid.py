"""The maps that mnv3 hands to detection and segmentation heads are those that torchvision takes from its own."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.ssdlite import _mobilenet_extractor

import mnv3
from mnv3 import InputError, MobileNetV3
from mnv3.nets.tutorial import ArticleNet, ArticleSpec

README = (Path(__file__).parents[2] / "README.md").read_text()
LOW_HIGH = {"large": (4, 16), "small": (2, 12)}  # positions that lraspp_mobilenet_v3_* takes, undilated


@pytest.fixture(scope="module")
def scenes(structured):
    return structured(4, 64).double()


@pytest.fixture(scope="module", params=["large", "small"])
def pair(request, recalibrated, scenes):
    """torchvision's network and ours with the same weights, and the variant."""
    torch.manual_seed(0)
    theirs = recalibrated(getattr(torchvision.models, f"mobilenet_v3_{request.param}")().double(), scenes)
    ours = MobileNetV3(request.param).double().eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours, request.param


def same(ours, theirs):
    """Whether the maps are equal, in units of what varies within each."""
    apart = [((a - b).abs().max() / b.std()).item() for a, b in zip(ours, theirs, strict=True)]
    return max(apart) < 1e-9


@torch.inference_mode()
def test_ssdlites_maps_are_torchvisions(pair, scenes):
    theirs, ours, _ = pair
    extractor = _mobilenet_extractor(theirs, 6, partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)).double().eval()
    wanted = [fmap for _, fmap in zip(range(2), extractor(scenes).values(), strict=False)]  # the rest are extra layers
    backbone = mnv3.backbone(ours, "ssdlite")
    maps = backbone(scenes)
    assert list(maps) == ["0", "1"] and backbone.channels == [m.shape[1] for m in maps.values()]
    assert same(maps.values(), wanted)
    assert not same(maps.values(), [wanted[0], wanted[1].roll(1, 0)])


@torch.inference_mode()
def test_lraspps_maps_are_torchvisions(pair, scenes):
    theirs, ours, variant = pair
    low, high = LOW_HIGH[variant]
    wanted = IntermediateLayerGetter(theirs.features, {str(low): "low", str(high): "high"})(scenes)
    backbone = mnv3.backbone(ours, "lraspp")
    maps = backbone(scenes)
    assert list(maps) == list(wanted) == ["low", "high"] and same(maps.values(), wanted.values())
    assert backbone.channels == [m.shape[1] for m in wanted.values()]
    other = IntermediateLayerGetter(theirs.features, {str(low + 1): "low", str(high): "high"})(scenes)["low"]
    assert other.shape != maps["low"].shape or not same([maps["low"]], [other])


@torch.inference_mode()
@pytest.mark.parametrize("variant, channels", [("large", [16, 24, 40, 112, 960]), ("v2", [16, 24, 32, 96, 1280])])
def test_a_pyramid_has_the_last_map_of_each_size(variant, channels, structured):
    network = MobileNetV3(variant).eval()
    backbone = mnv3.backbone(network)
    pictures = structured(2, 64)
    maps = backbone(pictures)
    assert backbone.channels == channels == [m.shape[1] for m in maps.values()]
    assert [m.shape[-1] for m in maps.values()] == [32, 16, 8, 4, 2]
    assert torch.equal(maps["4"], network.features(pictures))


def test_what_cannot_be_one_is_refused():
    with pytest.raises(InputError, match="`head` .*pyramid, ssdlite, lraspp"):
        mnv3.backbone(MobileNetV3("small"), "yolo")
    for network in (MobileNetV3("small", strides=3), ArticleNet(ArticleSpec("article-large"))):
        with pytest.raises(InputError, match="3 are needed"):
            mnv3.backbone(network, "ssdlite")


@torch.inference_mode()
@pytest.mark.parametrize("head", ["SSDLite", "LRASPP"])
def test_readmes_example_runs(head):
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if f" {head}" in block]
    assert len(code.splitlines()) <= 10
    names = {}
    exec(code, names)
    if head == "LRASPP":
        assert names["out"].shape == (1, 21, 224, 224)
    else:
        assert set(names["found"][0]) == {"boxes", "labels", "scores"} and len(names["found"]) == 1
