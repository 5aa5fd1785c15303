"""The article's two networks are as its listings have them, and can be explained like any other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import mnv3
from mnv3 import InputError
from mnv3.checkpoints.checkpoint import Checkpoint
from mnv3.checkpoints.reading import read_checkpoint
from mnv3.images.preprocessing import Preprocessing
from mnv3.nets.factory import network
from mnv3.nets.spec import gated_blocks, multiply_adds, parameters
from mnv3.nets.tutorial import ARTICLE, ArticleSpec
from mnv3.training.evaluation import gate_statistics


@pytest.fixture(scope="module")
def nets(structured, recalibrated):
    """Both networks with weights that tell pictures apart; their 1×1 maps at 32 pixels are 2×2 at 64."""
    torch.manual_seed(0)
    nets = {variant: network(ArticleSpec(variant, 10)) for variant in ARTICLE}
    return {variant: recalibrated(net, structured(32, 64)) for variant, net in nets.items()}


@pytest.mark.parametrize(
    "variant, classes, learned", [
        ("article-large", 10, 6_869_792), ("article-large", 1000, 8_137_982),
        ("article-small", 10, 41_533_816), ("article-small", 1000, 42_548_566),
    ],
)  # fmt: skip
def test_parameters_counted_from_the_listing(variant, classes, learned):
    spec = ArticleSpec(variant, classes)
    with torch.device("meta"):
        net = network(spec)
    assert sum(p.numel() for p in net.parameters()) == parameters(spec) == learned


@pytest.mark.parametrize(
    "variant, size, millions", [
        ("article-large", 32, 17.2), ("article-large", 224, 781.6),
        ("article-small", 32, 47.1), ("article-small", 224, 2283.7),
    ],
)  # fmt: skip
def test_multiply_adds_counted_from_the_listing(variant, size, millions):
    assert round(multiply_adds(ArticleSpec(variant), size) / 1e6, 1) == millions


@pytest.mark.parametrize("variant", ARTICLE)
def test_what_is_counted_is_what_is_computed(variant):
    """Multiply-adds and gated maps, counted by watching each layer work."""
    spec, counted, gates = ArticleSpec(variant), [], []
    net = network(spec).eval()

    def count(layer, inputs, out):
        places = out[0, 0].numel() if out.dim() == 4 else 1
        counted.append(layer.weight.numel() * places)

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
        if type(layer).__name__ == "SqueezeExcitation":
            layer.register_forward_hook(lambda _, inputs, out: gates.append((out.shape[1], out.shape[2])))
    with torch.inference_mode():
        net(torch.randn(1, 3, 96, 96))
    assert sum(counted) == multiply_adds(spec, 96)
    assert gates == [(block.channels, block.side) for block in gated_blocks(spec, 96)]


def test_it_is_built_as_the_listing_says(nets):
    for net in nets.values():
        convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
        assert {m.groups for m in convolutions} <= {1, 2}  # plain ones, not depthwise
        assert not any(isinstance(m, nn.Hardsigmoid) for m in net.modules())
        assert {m.eps for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}
    block = nets["article-large"].features[5]  # 40, 40, 5×5, SE, the shortcut as it is
    x = torch.randn(2, 40, 6, 6)
    h = block.convolutions(x)
    gate = torch.sigmoid(block.se.fc2(block.se.fc1(h.mean((2, 3), keepdim=True)).relu()))
    torch.testing.assert_close(block(x), (h * gate + x).relu())
    assert (block(x) == 0).any()  # ReLU after the addition


@pytest.mark.parametrize("variant", ARTICLE)
def test_explained_gives_forwards_logits_and_gates_within_0_and_1(variant, nets, structured):
    net, pictures = nets[variant], structured(8, 64, seed=3)
    with torch.inference_mode():
        out, logits = net.explained(pictures), net(pictures)
    assert torch.equal(out.logits, logits) and logits.std(0).mean() > 1e-3
    blocks = gated_blocks(net.spec, 64)
    assert [g.shape for g in out.gates] == [(8, b.channels) for b in blocks]
    assert [e.shape for e in out.energy] == [(8, 2, b.side, b.side) for b in blocks]
    assert all(((g > 0) & (g < 1)).all() for g in out.gates)
    for number in (0, len(blocks) - 1):
        h = net.block_maps(pictures, number)
        torch.testing.assert_close(out.energy[number][:, 0], h.abs().mean(1))
        torch.testing.assert_close(out.energy[number][:, 1], (h * out.gates[number][..., None, None]).abs().mean(1))


@pytest.mark.parametrize("variant", ARTICLE)
def test_a_block_held_at_its_reference_uses_it(variant, nets, structured):
    net, pictures = nets[variant], structured(1, 64, seed=4)
    own = net.explained(pictures)
    keep = torch.ones(1, len(net.gated))
    torch.testing.assert_close(net.explained(pictures, keep, [g[0] for g in own.gates]).logits, own.logits)
    keep[0, 1] = 0
    held = net.explained(pictures, keep, [torch.zeros(c) for c in net.channels])
    assert not torch.allclose(held.logits, own.logits, atol=1e-4)
    assert torch.equal(held.gates[0], own.gates[0]) and not torch.equal(held.gates[2], own.gates[2])


@pytest.mark.parametrize("variant", ARTICLE)
def test_the_heads_gradient_is_autograds(variant, nets, structured):
    net = nets[variant]
    pooled = net.pool(net.features(structured(3, 64, seed=5))).detach().requires_grad_(True)
    classes = torch.tensor([7, 0, 3])
    by_autograd = torch.autograd.grad(net.head(pooled)[torch.arange(3), classes].sum(), pooled)[0]
    assert by_autograd.abs().max() > 1e-4
    torch.testing.assert_close(net.head_gradient(pooled, classes), by_autograd)
    torch.testing.assert_close(net.head_gradient(pooled, 7)[:1], by_autograd[:1])


def test_a_folder_of_it_is_read_and_explained_without_counts_of_closed_gates(nets, structured, tmp_path):
    from mnv3.training.dataset import Pictures

    net = nets["article-large"]
    scenes = Pictures((structured(60, 64) * 40 + 128).clamp(0, 255).byte(), torch.arange(60) % 10, tuple("abcdefghij"))
    gates = gate_statistics(net, scenes, torch.full((3,), 0.5), torch.full((3,), 0.25), "scenes")
    prepared = Preprocessing(64, 64, "bilinear", (0.5,) * 3, (0.25,) * 3)
    Checkpoint("article", net, tuple("abcdefghij"), prepared, "scenes", gates).save(tmp_path)
    assert "The article's Large, which is not the paper's" in (tmp_path / "README.md").read_text()
    stored = read_checkpoint(tmp_path)
    assert stored.spec == ArticleSpec("article-large", 10)
    explanation = mnv3.explain(stored, np.full((80, 80, 3), (90, 120, 200), np.uint8))
    assert len(explanation.blocks) == 8 and explanation.closed_open(0) is None
    assert explanation.evidence(3).shape == (2, 2) and len(explanation.effects(3)) == 9


@pytest.mark.parametrize("change", [{"variant": "article-huge"}, {"num_classes": 0}, {"num_classes": True}])
def test_no_other_network_is_an_articles(change):
    with pytest.raises(InputError, match=next(iter(change))):
        replace(ArticleSpec("article-large"), **change)
    with pytest.raises(InputError):
        ArticleSpec("article-large").with_strides(1)


@pytest.mark.parametrize("key", ["rows", "width"])
def test_a_config_with_more_than_it_can_say_is_refused(key):
    from mnv3.nets.factory import read_spec

    with pytest.raises(InputError, match=key):
        read_spec({"variant": "article-large", "num_classes": 10, key: 1})
