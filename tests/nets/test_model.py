"""MobileNetV3 is the published network, and its explained pass tells the truth about its forward pass."""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

from mnv3 import InputError, MobileNetV3, Spec

VARIANTS = ("large", "small")
TIGHT = 1e-9  # of what differs between pictures, in float64


def theirs_of(variant):
    return getattr(torchvision.models, f"mobilenet_v3_{variant}")(weights=None)


@pytest.fixture(scope="module")
def scenes(structured):
    return structured(6, 96).double()


@pytest.fixture(scope="module")
def torchvisions(recalibrated, scenes):
    """torchvision's Large and Small with random weights that tell the scenes apart, and their logits."""
    networks = {variant: recalibrated(theirs_of(variant).double(), scenes) for variant in VARIANTS}
    with torch.inference_mode():
        return {variant: (network, network(scenes)) for variant, network in networks.items()}


def ours_with(state, spec):
    model = MobileNetV3(spec=spec).double()
    model.load_state_dict(state, strict=True)
    return model.eval().requires_grad_(False)


# ---- parity with torchvision, and what the same comparison refuses ------------------------------------------------


@pytest.mark.parametrize("variant, tensors", [("large", 312), ("small", 244)])
def test_the_tensors_are_torchvisions_in_name_order_and_shape(variant, tensors):
    with torch.device("meta"):
        ours, theirs = MobileNetV3(variant).state_dict(), theirs_of(variant).state_dict()
    assert len(ours) == tensors
    assert [(k, v.shape, v.dtype) for k, v in ours.items()] == [(k, v.shape, v.dtype) for k, v in theirs.items()]


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_torchvisions(variant, torchvisions, scenes, disagreement):
    theirs, expected = torchvisions[variant]
    ours = ours_with(theirs.state_dict(), Spec.of(variant))
    assert disagreement(ours(scenes), expected) < TIGHT


def with_row(number, **changes):
    """The spec with its row `number` (from 1) changed."""
    return lambda spec: replace(
        spec, rows=tuple(r._replace(**changes) if i == number else r for i, r in enumerate(spec.rows, 1))
    )


MUTANTS = {
    "BatchNorm's eps": lambda spec: replace(spec, eps=1e-5),
    "sigmoid gates": lambda spec: replace(spec, gate="sigmoid"),
    "stem not strided": lambda spec: replace(spec, stem_stride=1),
    "row 4 not strided": with_row(4, stride=1),
    "ReLU in row 8": with_row(8, act="RE"),
    "hard-swish in row 2": with_row(2, act="HS"),
    "ReLU in the head": lambda spec: replace(spec, act="RE"),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_comparison_refuses_a_network_that_differs_in(variant, mutant, torchvisions, scenes, disagreement):
    theirs, expected = torchvisions[variant]
    ours = ours_with(theirs.state_dict(), MUTANTS[mutant](Spec.of(variant)))
    assert disagreement(ours(scenes), expected) > 1000 * TIGHT


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_comparison_refuses_a_missing_residual(variant, torchvisions, scenes, disagreement):
    theirs, expected = torchvisions[variant]
    ours = ours_with(theirs.state_dict(), Spec.of(variant))
    with_shortcut = [layer for layer in ours.features[1:-1] if layer.shortcut]
    assert len(with_shortcut) == {"large": 10, "small": 6}[variant]
    with_shortcut[-1].shortcut = False
    assert disagreement(ours(scenes), expected) > 1000 * TIGHT


# ---- explained() is forward() -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(structured):
    return structured(5, 32, seed=1)


@pytest.fixture(scope="module")
def networks(recalibrated, structured):
    """Large and Small for 32 pixels, ten classes, float32, recalibrated on other pictures than `pictures`."""
    others = structured(16, 32, seed=2)
    make = lambda variant: MobileNetV3(variant, num_classes=10, strides=2)  # noqa: E731
    return {variant: recalibrated(make(variant), others) for variant in VARIANTS}


@pytest.fixture(params=VARIANTS)
def network(request, networks):
    return networks[request.param]


def random_reference(network, seed=3):
    random = torch.Generator().manual_seed(seed)
    return [torch.rand(network.spec.rows[row - 1].expand, generator=random) for row in network.gated]


def test_explained_logits_are_forwards_exactly(network, pictures):
    assert torch.equal(network.explained(pictures).logits, network(pictures))
    assert torch.equal(network.explained(pictures[:1]).logits, network(pictures[:1]))


def test_keeping_every_gate_changes_nothing_whatever_the_reference(network, pictures):
    keep = torch.ones(len(pictures), len(network.gated))
    for reference in (random_reference(network), [r * float("nan") for r in random_reference(network)]):
        assert torch.equal(network.explained(pictures, keep, reference).logits, network(pictures))


def test_pictures_in_a_batch_do_not_touch_each_other(network, pictures):
    network, pictures = copy.deepcopy(network).double(), pictures.double()  # float32 rounds by the batch's size
    together = network.explained(pictures)
    for n in range(len(pictures)):
        alone = network.explained(pictures[n : n + 1])
        torch.testing.assert_close(together.logits[n : n + 1], alone.logits)
        for a, b in zip(together.gates + together.energy, alone.gates + alone.energy, strict=True):
            torch.testing.assert_close(a[n : n + 1], b)


def test_the_shapes_are_the_tables(network, pictures):
    out = network.explained(pictures)
    rows = [row for row in network.spec.rows if row.se]
    assert out.logits.shape == (5, 10) and out.features.shape == (5, network.spec.last, 4, 4)
    assert [g.shape for g in out.gates] == [(5, row.expand) for row in rows]
    for block, energy in enumerate(out.energy):
        assert energy.shape == (5, 2, *network.block_maps(pictures, block).shape[2:])


def test_gates_of_these_networks_are_closed_between_and_open(network, pictures):
    """Else a test on gates would test less than it says."""
    gates = torch.cat(network.explained(pictures).gates, 1)
    assert (gates == 0).any() and (gates == 1).any() and ((gates > 0) & (gates < 1)).float().mean() > 0.3


def captured(network, pictures):
    """What goes into and comes out of each SE block, caught by hooks: L × (input, output)."""
    seen, handles = [], []
    for row in network.gated:
        layer = network.features[row]
        catch = lambda _, inputs, output: seen.append((inputs[0].clone(), output.clone()))  # noqa: E731
        handles.append(layer.block[layer.se_at].register_forward_hook(catch))
    network(pictures)
    for handle in handles:
        handle.remove()
    return seen


def test_gates_maps_and_energy_are_what_hooks_see(network, pictures):
    out, seen = network.explained(pictures), captured(network, pictures)
    assert len(seen) == len(out.gates) == {"large": 8, "small": 9}[network.spec.variant]
    for block, (before, after) in enumerate(seen):
        assert torch.equal(network.block_maps(pictures, block), before)
        assert torch.equal(before * out.gates[block][:, :, None, None], after)
        naive = torch.stack([before.abs().mean(1), after.abs().mean(1)], 1)
        torch.testing.assert_close(out.energy[block], naive)


# ---- a block held at its reference --------------------------------------------------------------------------------


class Held(nn.Module):
    """An SE block that no longer looks: its gates are the reference."""

    def __init__(self, reference):
        super().__init__()
        self.reference = reference

    def forward(self, x):
        return x * self.reference.view(1, -1, 1, 1)


def held(network, reference, blocks):
    """A copy of the network, its SE blocks `blocks` replaced by hand."""
    other = copy.deepcopy(network)
    for block in blocks:
        layer = other.features[other.gated[block]]
        layer.block[layer.se_at] = Held(reference[block])
    return other


def test_the_causal_batch_equals_reference_networks_made_by_hand(network, pictures, disagreement):
    """One batch of L + 2: the picture, each block held in turn, all of them held."""
    blocks, reference = len(network.gated), random_reference(network)
    keep = torch.ones(blocks + 2, blocks)
    keep[range(1, blocks + 1), range(blocks)] = 0
    keep[-1] = 0
    groups = [[], *[[block] for block in range(blocks)], list(range(blocks))]
    expected = torch.stack([held(network, reference, group)(pictures) for group in groups])  # (L + 2, N, K)
    found = torch.stack(
        [network.explained(one.expand(blocks + 2, -1, -1, -1), keep, reference).logits for one in pictures], 1
    )
    for row in range(blocks + 2):
        assert disagreement(found[row], expected[row]) < 1e-4
        if row:  # the control: holding a block shows
            assert disagreement(found[row], expected[0]) > 1e-2


def test_a_held_block_still_tells_the_gates_it_computed_and_the_energy_in_use(network, pictures):
    blocks, reference = len(network.gated), random_reference(network)
    own, keep = network.explained(pictures), torch.ones(len(pictures), blocks)
    keep[:, 2] = 0
    out = network.explained(pictures, keep, reference)
    for block in range(3):
        assert torch.equal(out.gates[block], own.gates[block])  # nothing before block 2, and block 2 itself, moved
    assert not torch.equal(out.gates[3], own.gates[3])  # what follows is recomputed
    maps = network.block_maps(pictures, 2)
    after = (maps * reference[2].view(1, -1, 1, 1)).abs().mean(1)
    torch.testing.assert_close(out.energy[2], torch.stack([maps.abs().mean(1), after], 1))


def test_keep_is_read_row_by_row(network, pictures, disagreement):
    """Each picture of a batch has its own blocks held."""
    reference = random_reference(network)
    keep = torch.ones(len(pictures), len(network.gated))
    keep[1, 0] = keep[3, 4] = 0
    out = network.explained(pictures, keep, reference).logits
    expected = network(pictures)
    expected[1] = held(network, reference, [0])(pictures)[1]
    expected[3] = held(network, reference, [4])(pictures)[3]
    assert disagreement(out, expected) < 1e-4 < 1e-2 < disagreement(out, network(pictures))


# ---- the head -----------------------------------------------------------------------------------------------------


def with_act(network, act, recalibrated, structured):
    model = MobileNetV3(spec=replace(network.spec, act=act))
    model.load_state_dict(network.state_dict())
    return recalibrated(model, structured(16, 32, seed=2)).double()


@pytest.mark.parametrize("act", ["HS", "RE"])
def test_head_gradient_is_autograds(network, pictures, act, recalibrated, structured):
    model = with_act(network, act, recalibrated, structured)
    pooled = model.pool(model.explained(pictures.double()).features).requires_grad_()
    assert torch.equal(model.head(pooled), model(pictures.double()))
    for classes in (7, torch.tensor([0, 3, 9, 3, 1])):
        picked = model.head(pooled)[range(5), classes].sum()
        (expected,) = torch.autograd.grad(picked, pooled)
        torch.testing.assert_close(model.head_gradient(pooled.detach(), classes), expected, rtol=1e-10, atol=1e-12)
        assert expected.abs().max() > 0


def test_class_evidence_in_closed_form_is_grad_cam(network, pictures):
    """Grad-CAM by autograd: the mean over places of ∂ logit / ∂ features weighs the channels (Selvaraju et al.)."""
    model = copy.deepcopy(network).double()
    features = model.explained(pictures.double()).features.requires_grad_()
    logits = model.head(model.pool(features))
    places = features.shape[2] * features.shape[3]
    for index in range(10):
        (slope,) = torch.autograd.grad(logits[:, index].sum(), features, retain_graph=True)
        alpha = slope.mean((2, 3), keepdim=True)
        cam = torch.relu((alpha * features).sum(1))
        closed = model.head_gradient(model.pool(features), index)[:, :, None, None] / places
        torch.testing.assert_close(torch.relu((closed * features).sum(1)), cam, rtol=1e-10, atol=1e-13)
    assert cam.max() > 0 and cam.std() > 0


# ---- other networks, wrong input, many threads ----------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_strides_keep_a_map_of_a_small_picture(variant, pictures):
    for strides, side in enumerate((1, 2, 4, 8)):
        model = MobileNetV3(variant, width=0.35, num_classes=10, strides=strides).eval()
        assert model.explained(pictures[:1]).features.shape[2:] == (side, side)


def test_a_spec_makes_the_network_it_describes(pictures):
    spec = Spec.of("small", width=0.5, num_classes=3, strides=1)
    by_spec, by_name = MobileNetV3(spec=spec), MobileNetV3("small", width=0.5, num_classes=3, strides=1)
    assert by_spec.spec == by_name.spec == spec
    by_spec.load_state_dict(by_name.state_dict(), strict=True)
    assert torch.equal(by_spec.eval()(pictures), by_name.eval()(pictures))


def test_without_se_there_is_nothing_special(pictures, recalibrated, structured):
    spec = Spec.of("small", num_classes=10, strides=2)
    spec = replace(spec, rows=tuple(row._replace(se=False) for row in spec.rows))
    model = recalibrated(MobileNetV3(spec=spec), structured(16, 32))
    out = model.explained(pictures)
    assert out.gates == [] and out.energy == [] and torch.equal(out.logits, model(pictures))
    keep = torch.ones(len(pictures), 0)
    assert torch.equal(model.explained(pictures, keep, []).logits, out.logits)
    with pytest.raises(InputError, match="has 0"):
        model.block_maps(pictures, 0)


@pytest.mark.parametrize(
    "wrong, named",
    [(torch.zeros(3, 32, 32), "(3, 32, 32)"), (torch.zeros(1, 1, 32, 32), "(1, 1, 32, 32)"),
     (torch.zeros(1, 3, 32), "(1, 3, 32)"), (torch.zeros(1, 32, 32, 3), "(1, 32, 32, 3)"),
     (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "uint8")],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_a_wrong_input_is_refused_with_its_shape_or_type(networks, wrong, named):
    model = networks["small"]
    for call in (model, model.explained, lambda x: model.block_maps(x, 0)):
        with pytest.raises(InputError) as refusal:
            call(wrong)
        assert named in str(refusal.value)


def test_wrong_questions_are_refused(network, pictures):
    blocks = len(network.gated)
    with pytest.raises(InputError, match="reference"):
        network.explained(pictures, torch.ones(5, blocks))
    for shape in ((4, blocks), (5, blocks + 1), (blocks,)):
        with pytest.raises(InputError, match="keep"):
            network.explained(pictures, torch.ones(shape), random_reference(network))
    for block in (-1, blocks):
        with pytest.raises(InputError, match=f"SE block {block}"):
            network.block_maps(pictures, block)


def test_a_pass_leaves_nothing_behind(network, pictures):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in network.named_modules()}
    kept = pictures.clone()
    out = network.explained(pictures, torch.zeros(5, len(network.gated)), random_reference(network))
    network.block_maps(pictures, 1)
    network.head_gradient(network.pool(out.features), 0)
    assert torch.equal(pictures, kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert {name: set(vars(module)) for name, module in network.named_modules()} == attributes
    for module in network.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and not module._backward_hooks


def test_two_visitors_at_once_get_their_own_answers(networks, structured):
    network = networks["small"]
    pictures = structured(40, 32, seed=5)
    reference, keep = random_reference(network), torch.ones(1, len(network.gated))
    keep[0, 1] = 0

    def ask(number):
        one = pictures[number : number + 1]
        if number % 3 == 0:
            return network(one)
        if number % 3 == 1:
            return network.explained(one, keep, reference).logits
        return network.block_maps(one, number % len(network.gated))

    expected = [ask(number) for number in range(40)]
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(ask, range(40)))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
