"""The tables are the paper's, the counter counts what the real networks have, and a Spec refuses what can't be one."""

import ast
import json
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import torchvision

from mnv3.errors import InputError
from mnv3.nets import spec as nets_spec
from mnv3.nets.mobilenet import MobileNetV3
from mnv3.nets.spec import MAX_PARAMETERS, Row, Spec, final_side, gated_blocks, multiply_adds, parameters, round8

# What the paper's authors and later implementations count (convolutions and linear layers, 224², 1000 classes).
COUNTS = {
    ("large", 1.0): (5_483_032, 216_589_760),
    ("large", 0.75): (3_993_528, 154_560_624),
    ("small", 1.0): (2_542_856, 56_510_400),
    ("small", 0.75): (2_041_872, 43_399_344),
}


@pytest.mark.parametrize("variant, width", COUNTS)
def test_parameters_and_multiply_adds_are_the_published_ones(variant, width):
    spec = Spec.of(variant, width)
    assert (parameters(spec), multiply_adds(spec, 224)) == COUNTS[variant, width]


def test_width_follows_the_paper_where_torchvision_does_not():
    with torch.device("meta"):
        theirs = torchvision.models.mobilenet_v3_large(width_mult=0.75)
    assert sum(p.numel() for p in theirs.parameters()) == 3_377_576
    assert parameters(Spec.of("large", 0.75)) == 3_993_528  # the paper prints 4.0 M
    assert Spec.of("large", 0.75).hidden == 1280 and Spec.of("large", 1.25).hidden == 1600


@pytest.mark.parametrize(
    "variant, count, millions",
    [("large", 4_214_842, (7.1, 20.1, 66.5, 227)), ("small", 1_528_106, (2.2, 5.5, 17.5, 61))],
)
def test_counts_for_ten_classes_at_32_pixels(variant, count, millions):
    for strides, expected in enumerate(millions):
        spec = Spec.of(variant, num_classes=10, strides=strides)
        assert parameters(spec) == count  # strides cost no parameters
        assert round(multiply_adds(spec, 32) / 1e6, 1 if isinstance(expected, float) else None) == expected


def test_small_pictures_keep_a_map_by_strides():
    for variant in ("large", "small"):
        assert [final_side(Spec.of(variant, strides=k), 32) for k in range(4)] == [1, 2, 4, 8]


@pytest.mark.parametrize(
    "variant, channels",
    [("large", (72, 120, 120, 480, 672, 672, 960, 960)), ("small", (16, 96, 240, 240, 120, 144, 288, 576, 576))],
)
def test_gated_blocks_are_the_tables(variant, channels):
    blocks = gated_blocks(Spec.of(variant))
    assert tuple(block.channels for block in blocks) == channels
    assert sum(channels) == {"large": 4056, "small": 2296}[variant]
    assert all(Spec.of(variant).rows[block.row - 1].se for block in blocks)


def test_squeeze_widths_are_the_ones_in_use():
    wanted = {16: 8, 72: 24, 96: 24, 120: 32, 144: 40, 240: 64, 288: 72, 480: 120, 576: 144, 672: 168, 960: 240}
    found = {}
    for variant in ("large", "small"):
        spec = Spec.of(variant)
        found |= {row.expand: nets_spec.squeeze_width(spec, row) for row in spec.rows if row.se}
    assert found == wanted


def test_errata_are_left_out_and_would_show():
    small = parameters(Spec.of("small"))
    se_on_the_last_convolution = (576 * 144 + 144) + (144 * 576 + 576)
    assert small == 2_542_856 and round((small + se_on_the_last_convolution) / 1e6, 2) == 2.71
    assert round(parameters(replace(Spec.of("small"), hidden=1280)) / 1e6, 2) == 2.95


@pytest.mark.parametrize("variant, count", [("large", 3_924_288), ("small", 2_044_736)])
def test_a_spec_can_be_the_minimalistic_network(variant, count):
    spec = Spec.of(variant)
    rows = tuple(row._replace(kernel=3, se=False, act="RE") for row in spec.rows)
    minimalistic = replace(spec, rows=rows, act="RE")
    assert parameters(minimalistic) == count and gated_blocks(minimalistic) == ()


@pytest.mark.parametrize(
    "channels, rounded",
    [(1, 8), (8.8, 8), (9, 16), (11.9, 16), (16, 16), (18, 24), (19.9, 24), (83.9, 80), (84, 88), (140, 144)],
)
def test_round8_goes_to_the_nearest_but_never_far_below(channels, rounded):
    assert round8(channels) == rounded


def counted(spec, size):
    """What a real module has: its parameters, and multiply-adds from the shapes that its layers see and give."""
    with torch.device("meta"):  # shapes without memory or arithmetic
        model, picture = MobileNetV3(spec=spec).eval(), torch.empty(1, 3, size, size)
    adds = 0

    def hook(layer, inputs, output):
        nonlocal adds
        adds += layer.weight.numel() * output[0, 0].numel()  # weight (out, in/groups, k, k), once for each place

    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(hook)
    sides = {}
    model.features.register_forward_hook(lambda _, __, output: sides.update(final=output.shape[-1]))
    with torch.inference_mode():
        model(picture)
    return sum(p.numel() for p in model.parameters()), adds, sides["final"]


@pytest.mark.parametrize("variant", ["large", "small"])
@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.0, 1.25])
@pytest.mark.parametrize("size, strides", [(224, 0), (97, 0), (32, 0), (32, 2)])
def test_the_counter_agrees_with_the_real_module(variant, width, size, strides):
    spec = Spec.of(variant, width, strides=strides)
    assert (parameters(spec), multiply_adds(spec, size), final_side(spec, size)) == counted(spec, size)


def test_tables_need_no_torch():
    tree = ast.parse(Path(nets_spec.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {"." * n.level + (n.module or "") for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert "..errors" in imported and all(
        n == "..errors" or n.split(".")[0] in sys.stdlib_module_names for n in imported
    )


# ---- a Spec from a stranger's config.json ----------------------------------------------------------------------


def through_json(spec):
    return json.loads(json.dumps(spec.to_dict()))


@pytest.mark.parametrize("variant", ["large", "small"])
def test_a_spec_survives_json(variant):
    spec = replace(Spec.of(variant, 0.75, 10, strides=2), eps=1e-5, gate="sigmoid")
    assert Spec.from_dict(through_json(spec)) == spec


def test_rows_are_stored_with_named_columns():
    first = through_json(Spec.of("small"))["rows"][0]
    assert first == {"kernel": 3, "expand": 16, "out": 16, "se": True, "act": "RE", "stride": 2}


@pytest.mark.parametrize("key", [field.name for field in fields(Spec)])
def test_a_missing_key_is_named(key):
    data = through_json(Spec.of("small"))
    del data[key]
    with pytest.raises(InputError, match=f"lacks the key '{key}'"):
        Spec.from_dict(data)


@pytest.mark.parametrize("key", Row._fields)
def test_a_missing_column_is_named_with_its_row(key):
    data = through_json(Spec.of("small"))
    del data["rows"][2][key]
    with pytest.raises(InputError, match=rf"rows\[3\].*'{key}'"):
        Spec.from_dict(data)


def test_unknown_keys_are_named():
    with pytest.raises(InputError, match="'dilation'"):
        Spec.from_dict(through_json(Spec.of("small")) | {"dilation": 2})
    data = through_json(Spec.of("small"))
    data["rows"][4]["groups"] = 2
    with pytest.raises(InputError, match=r"rows\[5\].*'groups'"):
        Spec.from_dict(data)


NUMBERS = ("last", "hidden", "num_classes", "stem", "stem_stride", "squeeze", "strides")
FLOATS = ("eps", "momentum", "dropout", "width")
NO_NUMBER = [None, "8", [8], {}, float("nan"), float("inf"), -1, 10**400, True]


@pytest.mark.parametrize("key", NUMBERS + FLOATS)
@pytest.mark.parametrize("value", NO_NUMBER, ids=lambda v: f"{v!r:.8}")
def test_a_wrong_number_is_refused_by_name(key, value):
    with pytest.raises(InputError, match=f"`{key}`"):
        Spec.from_dict(through_json(Spec.of("small")) | {key: value})


@pytest.mark.parametrize("key", NUMBERS)
def test_a_fraction_is_no_whole_number(key):
    with pytest.raises(InputError, match=f"`{key}`"):
        Spec.from_dict(through_json(Spec.of("small")) | {key: 1.5})


@pytest.mark.parametrize(
    "column, value",
    [("kernel", v) for v in (0, 2, 9, "3", None, [3], 3.0, True)]
    + [("act", v) for v in ("relu", "", None, ["RE"], {})]
    + [("se", v) for v in (0, 1, "true", None)]
    + [("stride", v) for v in (0, 3, True, 1.0, None)]
    + [(c, v) for c in ("expand", "out") for v in NO_NUMBER + [0, 8193, 16.0]],
    ids=lambda v: f"{v!r:.8}",
)
def test_a_wrong_value_in_a_row_is_refused_by_name(column, value):
    data = through_json(Spec.of("small"))
    data["rows"][1][column] = value
    with pytest.raises(InputError, match=rf"`rows\[2\]\.{column}`"):
        Spec.from_dict(data)


@pytest.mark.parametrize(
    "key, value",
    [("act", "relu"), ("act", None), ("gate", "softmax"), ("gate", ["sigmoid"]), ("variant", 3), ("variant", "x" * 41)]
    + [("rows", v) for v in (None, {}, [], "rows", 3)],
    ids=lambda v: f"{v!r:.8}",
)
def test_another_wrong_field_is_refused_by_name(key, value):
    with pytest.raises(InputError, match=key):
        Spec.from_dict(through_json(Spec.of("small")) | {key: value})


@pytest.mark.parametrize("row", [None, [3, 16, 16, True, "RE", 2], 3, "row"], ids=str)
def test_a_row_that_is_no_object_is_refused_with_its_number(row):
    data = through_json(Spec.of("small"))
    data["rows"][3] = row
    with pytest.raises(InputError, match=r"rows\[4\]"):
        Spec.from_dict(data)


def test_more_rows_than_a_network_has_are_refused():
    data = through_json(Spec.of("small"))
    with pytest.raises(InputError, match="rows"):
        Spec.from_dict(data | {"rows": data["rows"][-1:] * 65})


def test_a_network_too_big_to_open_is_refused_before_any_memory_is_taken(monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *_, **__: pytest.fail("a layer was made"))
    data = through_json(Spec.of("small"))
    huge = [row | {"expand": 8192, "out": 8192} for row in data["rows"]]
    with pytest.raises(InputError, match="million parameters"):
        MobileNetV3(spec=Spec.from_dict(data | {"rows": huge}))
    with pytest.raises(InputError, match="million parameters"):
        Spec.of("large", num_classes=100_000)
    assert parameters(Spec.of("large", num_classes=70_000)) < MAX_PARAMETERS


@pytest.mark.parametrize(
    "wrong, named",
    [({"variant": "medium"}, "medium"), ({"width": 0}, "width"), ({"width": "1"}, "width"), ({"width": 9.0}, "width"),
     ({"num_classes": 0}, "num_classes"), ({"num_classes": True}, "num_classes"), ({"strides": 6}, "strides"),
     ({"strides": -1}, "strides"), ({"strides": 1.0}, "strides")],
)  # fmt: skip
def test_a_wrong_shorthand_is_refused_by_name(wrong, named):
    with pytest.raises(InputError, match=named):
        MobileNetV3(**wrong)
