"""MobileNetV2 and V3 less one ingredient are data like the rest: counted, held against torchvision, trained, shown."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from test_model import with_row
from training_help import arguments

import mnv3
import train
from mnv3 import InputError, MobileNetV3, Spec
from mnv3.checkpoints.checkpoint import Checkpoint
from mnv3.checkpoints.convert import from_torchvision_v2
from mnv3.checkpoints.reading import read_checkpoint
from mnv3.checkpoints.registry import TORCHVISION
from mnv3.explanation.faithfulness import put_to_trial
from mnv3.images.preprocessing import Preprocessing
from mnv3.inference import onnx_graph
from mnv3.inference import session as inference_session
from mnv3.nets.spec import VARIANTS, final_side, gated_blocks, multiply_adds, parameters
from mnv3.web.views import classes, compare, explore, trust

TIGHT = 1e-9  # of what differs between pictures, in float64


def test_v2_has_the_published_counts():
    assert (parameters(Spec.of("v2")), multiply_adds(Spec.of("v2"))) == (3_504_872, 300_774_272)
    assert gated_blocks(Spec.of("v2")) == ()
    assert [final_side(Spec.of("v2", strides=k), 32) for k in range(4)] == [1, 2, 4, 8]


@pytest.mark.parametrize("width", [0.5, 0.75, 1.0, 1.4])
def test_v2s_widths_are_torchvisions(width):
    with torch.device("meta"):
        theirs = torchvision.models.mobilenet_v2(width_mult=width)
    assert parameters(Spec.of("v2", width)) == sum(p.numel() for p in theirs.parameters())


@pytest.fixture(scope="module")
def scenes(structured):
    return structured(6, 64).double()


@pytest.fixture(scope="module")
def theirs(recalibrated, scenes):
    """torchvision's MobileNetV2, random; activations pass 6 often enough for ReLU6 to be told from ReLU."""
    torch.manual_seed(0)
    network = recalibrated(torchvision.models.mobilenet_v2(weights=None).double(), scenes)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.mul_(3)
    return network


def ours_with(state, spec):
    model = MobileNetV3(spec=spec).double()
    model.load_state_dict(from_torchvision_v2(state), strict=True)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def test_v2s_logits_are_torchvisions(theirs, scenes, disagreement):
    ours = ours_with(theirs.state_dict(), Spec.of("v2"))
    assert list(ours.state_dict()) == list(from_torchvision_v2(theirs.state_dict()))
    assert disagreement(ours(scenes), theirs(scenes)) < TIGHT


MUTANTS = {
    "V3's eps": lambda spec: replace(spec, eps=1e-3),
    "ReLU in the stem and the last convolution": lambda spec: replace(spec, act="RE"),
    "ReLU in row 9": with_row(9, act="RE"),
    "hard-swish in row 1": with_row(1, act="HS"),
    "row 2 not strided": with_row(2, stride=1),
    "row 15 strided": with_row(15, stride=2),
}


@torch.inference_mode()
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_comparison_refuses(mutant, theirs, scenes, disagreement):
    ours = ours_with(theirs.state_dict(), MUTANTS[mutant](Spec.of("v2")))
    assert disagreement(ours(scenes), theirs(scenes)) > 1000 * TIGHT


@torch.inference_mode()
def test_the_comparison_refuses_a_missing_residual(theirs, scenes, disagreement):
    ours = ours_with(theirs.state_dict(), Spec.of("v2"))
    shortcuts = [layer for layer in ours.features[1:-1] if layer.shortcut]
    assert len(shortcuts) == 10
    shortcuts[0].shortcut = False
    assert disagreement(ours(scenes), theirs(scenes)) > 1000 * TIGHT


def test_torchvisions_v2_loads_by_name_with_what_was_published(in_torchs_cache):
    published = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V2
    assert published.url.endswith("/" + TORCHVISION["torchvision/v2"].file)
    in_torchs_cache("torchvision/v2", torchvision.models.mobilenet_v2(weights=None).state_dict())
    checkpoint = mnv3.load("torchvision/v2")
    assert checkpoint.spec == Spec.of("v2") and checkpoint.measured()["top1"] == pytest.approx(0.72154)
    assert checkpoint.preprocessing.resize == published.transforms().resize_size[0] == 232


# ---- the app's views of a network without SE ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def v2(recalibrated, structured):
    torch.manual_seed(0)
    model = recalibrated(MobileNetV3("v2", 0.35, 10, 2), structured(32, 32))
    labels = tuple(f"kind {k}" for k in range(10))
    return Checkpoint("a V2", model, labels, Preprocessing(36, 32, "bilinear", (0.5,) * 3, (0.25,) * 3), "scenes")


def test_every_view_has_words_for_v2(v2, small_checkpoint, example_pictures):
    one, other = (mnv3.explain(c, example_pictures[0]) for c in (v2, small_checkpoint()))
    assert one.blocks == () and one.evidence(0).shape == (4, 4)
    assert json.loads(json.dumps(one.to_dict(), allow_nan=False))["blocks"] == []
    for said in (explore.panel(one, 0), classes.view(one, [], [])):
        assert "has no squeeze-and-excitation blocks" in said
    beside = compare.comparison([one, other])
    assert beside.count("no SE") >= 1 and "a V2" in beside
    best = one.top(1)[0].index
    trial = put_to_trial(one, best)
    assert "The map on trial" in trust.trust(one, best, trial)


@pytest.mark.parametrize("hidden", [0, 64])
def test_the_heads_gradient_is_autograds(hidden, recalibrated, structured):
    """V2's linear head, and one with a hidden layer whose ReLU6 is closed for some units and full for others."""
    torch.manual_seed(0)
    model = recalibrated(MobileNetV3(spec=replace(Spec.of("v2", 0.35, 10, 2), hidden=hidden)), structured(32, 32))
    pooled = model.pool(model.features(structured(3, 32))).detach()
    if hidden:
        model.classifier[0].weight.mul_(300)
        units = model.classifier[0](pooled)
        assert (units < 0).any() and (units > 6).any() and ((units > 0) & (units < 6)).any()
    pooled.requires_grad_(True)
    model.head(pooled)[:, 4].sum().backward()
    torch.testing.assert_close(model.head_gradient(pooled, 4), pooled.grad)


def test_v2s_graph_says_what_torch_says_where_activations_pass_6(v2, structured):
    session, inputs = inference_session.fast(v2, wait=True), 40 * structured(2, 32, seed=4)
    assert session is not None and "Clip" in {n.op_type for n in onnx_graph._Writer(v2.model).model().graph.node}
    with torch.inference_mode():
        wanted = v2.model(inputs).numpy()
    np.testing.assert_allclose(session.logits(inputs), wanted, atol=1e-4 * max(1, np.abs(wanted).max()))


# ---- V3 less one ingredient ---------------------------------------------------------------------------------------

LESS = {  # of Small and Large: parameters, as counted from the tables by hand; SE blocks
    "small-no-se": (2_081_216, 0), "small-relu": (2_542_856, 9), "small-3x3": (2_506_376, 9),
    "large-no-se": (3_970_752, 0), "large-relu": (5_483_032, 8), "large-3x3": (5_436_568, 8),
}  # fmt: skip


@pytest.mark.parametrize("variant", LESS)
def test_each_takes_out_one_thing_and_leaves_the_rest(variant):
    spec, base, less = Spec.of(variant), Spec.of(variant.split("-")[0]), variant.split("-", 1)[1]
    assert (parameters(spec), len(gated_blocks(spec))) == LESS[variant]
    rows = zip(spec.rows, base.rows, strict=True)
    changed = {field for a, b in rows for field in a._fields if getattr(a, field) != getattr(b, field)}
    assert changed == {"no-se": {"se"}, "relu": {"act"}, "3x3": {"kernel"}}[less]
    assert spec.act == ("RE" if less == "relu" else "HS") and spec.variant == variant
    assert replace(spec, rows=base.rows, act="HS", variant=base.variant) == base


def test_minimalistic_is_all_three_at_once():
    spec = Spec.of("large", minimalistic=True)
    assert {(r.se, r.act, r.kernel) for r in spec.rows} == {(False, "RE", 3)} and spec.act == "RE"
    for variant in set(VARIANTS) - {"large", "small"}:
        with pytest.raises(InputError, match="`minimalistic` is of large and small"):
            Spec.of(variant, minimalistic=True)


def test_titles_say_what_is_missing():
    assert Spec.of("small-no-se").title == "MobileNetV3-Small without SE, width 1"
    assert Spec.of("v2", 0.5).title == "MobileNetV2, width 0.5"


@pytest.mark.parametrize("variant", ["v2", "small-no-se"])
def test_they_are_trained_from_the_command_line_and_loaded_strictly(variant, textures, tmp_path):
    assert train.main(arguments(textures, tmp_path, "--variant", variant, "--strides", "1", "--epochs", "1")) == 0
    checkpoint = mnv3.load(tmp_path)
    assert checkpoint.spec == Spec.of(variant, 0.35, 3, 1) and checkpoint.gates is None
    config = json.loads((tmp_path / "config.json").read_text())
    config["spec"]["rows"][8]["expand"] += 8
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="features.9"):
        read_checkpoint(tmp_path)
