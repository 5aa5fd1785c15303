"""What is saved comes back the same; what is damaged, foreign or hostile is refused by name, and never run."""

import json
import os
import pickle
import shutil
import stat
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import mnv3
from mnv3 import InputError
from mnv3.checkpoints import reading
from mnv3.checkpoints.checkpoint import GateStatistics, checked_labels
from mnv3.checkpoints.reading import read_checkpoint, unwrapped

FILES = {"config.json", "model.safetensors", "gates.safetensors", "metrics.json", "README.md"}


@pytest.fixture
def checkpoint(small_checkpoint):
    return small_checkpoint()


@pytest.fixture
def folder(checkpoint, tmp_path):
    return checkpoint.save(tmp_path / "tiny")


@pytest.fixture
def pictures(structured):
    return structured(6, 32, seed=7)


def refusal(folder):
    """The sentence with which `folder` is refused: one, without a path of the host."""
    with pytest.raises(InputError) as refused:
        read_checkpoint(folder)
    text = str(refused.value)
    assert text and "\n" not in text and len(text) < 400 and str(folder.parent) not in text
    return text


# ---- round trips ----------------------------------------------------------------------------------------------------


def test_a_saved_checkpoint_comes_back_the_same(checkpoint, folder, pictures):
    again = mnv3.load(folder)
    assert {path.name for path in folder.iterdir()} == FILES
    assert torch.equal(again.model(pictures), checkpoint.model(pictures))
    assert again.config == checkpoint.config and again.labels == checkpoint.labels
    assert again.preprocessing == checkpoint.preprocessing and again.metrics == checkpoint.metrics
    assert not again.model.training and not any(p.requires_grad for p in again.model.parameters())


def test_gate_statistics_come_back_the_same(checkpoint, folder):
    again = mnv3.load(folder).gates
    assert again.source == "a hundred scenes" and again.count == 100
    assert np.array_equal(again.n, checkpoint.gates.n)
    for a, b in zip((*again.mean, *again.m2), (*checkpoint.gates.mean, *checkpoint.gates.m2), strict=True):
        assert np.array_equal(a, b)


def test_a_copy_of_a_copy_is_the_same_to_the_byte(folder, tmp_path):
    second = mnv3.load(folder).save(tmp_path / "second")
    for name in FILES:
        assert (second / name).read_bytes() == (folder / name).read_bytes(), name


def test_half_precision_is_close_and_half_the_size(checkpoint, tmp_path, pictures, disagreement):
    whole, half = checkpoint.save(tmp_path / "whole"), checkpoint.save(tmp_path / "half", half=True)
    again = mnv3.load(half)
    assert 0 < disagreement(again.model(pictures), checkpoint.model(pictures)) < 0.05
    assert all(p.dtype == torch.float32 for p in again.model.parameters())
    size = lambda folder: (folder / "model.safetensors").stat().st_size  # noqa: E731
    assert size(half) < 0.6 * size(whole)
    stored = safetensors.torch.load_file(half / "model.safetensors")
    norms = [name for name in stored if "running" in name or name.endswith("0.1.weight")]
    assert norms and all(stored[name].dtype == torch.float32 for name in norms)


def test_without_gates_and_metrics_it_is_a_checkpoint_too(checkpoint, tmp_path):
    bare = replace(checkpoint, gates=None, metrics={}).save(tmp_path / "bare")
    assert {path.name for path in bare.iterdir()} == FILES - {"gates.safetensors", "metrics.json"}
    again = mnv3.load(bare)
    assert again.gates is None and again.metrics == {}


def test_saving_over_a_checkpoint_leaves_nothing_of_the_old_one(checkpoint, folder):
    """Else a network would be held against another network's gates."""
    replace(checkpoint, gates=None, metrics={}).save(folder)
    again = mnv3.load(folder)
    assert again.gates is None and again.metrics == {}


def test_files_can_be_read_by_others_and_no_temporary_ones_stay(folder):
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, path.name
    assert {path.name for path in folder.iterdir()} == FILES


def test_a_full_disk_leaves_the_old_file_whole(checkpoint, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        replace(checkpoint, metrics={"test": {"n": 100, "top1": 0.5}}).save(folder)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_model_card_has_the_hubs_front_matter_and_the_measured_figures(folder):
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: mnv3\n") and "\n---\n" in card
    assert "25.00%" in card and "100 test pictures" in card and 'mnv3.load(".")' in card


def test_preprocess_takes_any_picture_to_the_networks_input(checkpoint, example_pictures, tmp_path):
    picture = example_pictures[0]
    picture.save(tmp_path / "picture.png")
    inputs = checkpoint.preprocess(picture)
    assert inputs.shape == (3, 32, 32) and inputs.dtype == torch.float32
    assert torch.equal(checkpoint.preprocess(tmp_path / "picture.png"), inputs)
    assert checkpoint.model(inputs[None]).shape == (1, 10)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what a process has mapped")
@pytest.mark.parametrize("half", [False, True])
def test_a_loaded_network_no_longer_hangs_on_its_files(checkpoint, tmp_path, half):
    """Weights mapped from a file would kill the process once the file is cut short or written anew in place."""
    folder = checkpoint.save(tmp_path / "mapped", half=half)
    again = mnv3.load(folder)
    assert str(folder) not in Path("/proc/self/maps").read_text()
    assert again.model is not None


# ---- weights that don't fit ---------------------------------------------------------------------------------------


@pytest.fixture
def weights(folder):
    """weights(change) rewrites the folder's tensors as change(dict) leaves them."""
    path = folder / "model.safetensors"

    def rewrite(change):
        tensors = safetensors.torch.load_file(path)
        tensors = change(tensors) or tensors
        path.write_bytes(safetensors.torch.save(tensors))

    return rewrite


DEEP = "features.4.block.2.fc1.weight"


def test_a_missing_tensor_is_named(folder, weights):
    weights(lambda t: {k: v for k, v in t.items() if k != DEEP})
    assert DEEP in refusal(folder)


def test_a_surplus_tensor_is_named(folder, weights):
    weights(lambda t: t | {"features.4.block.2.fc3.weight": torch.zeros(1)})
    assert "features.4.block.2.fc3.weight" in refusal(folder)


def test_a_misshapen_tensor_is_named_with_both_shapes(folder, weights):
    weights(lambda t: t | {"classifier.3.bias": torch.zeros(11)})
    text = refusal(folder)
    assert "classifier.3.bias" in text and "(11,)" in text and "(10,)" in text


def test_a_tensor_is_not_stretched_to_fit(folder, weights):
    weights(lambda t: t | {DEEP: t[DEEP].flatten(1)})
    assert DEEP in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["features.0.0.weight", "features.5.block.1.1.running_var"])
def test_a_number_that_is_none_is_refused_with_its_tensor(folder, weights, name, value):
    weights(lambda t: t[name].view(-1)[-1:].fill_(value) and None)
    assert name in refusal(folder)


def test_a_tensor_of_whole_numbers_where_fractions_belong_is_refused_by_name(folder, weights):
    weights(lambda t: t | {DEEP: t[DEEP].to(torch.int8)})
    assert DEEP in refusal(folder)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_prefixes_come_off(folder, weights, checkpoint, pictures, prefix):
    weights(lambda t: {prefix + name: tensor for name, tensor in t.items()})
    assert torch.equal(mnv3.load(folder).model(pictures), checkpoint.model(pictures))


def test_a_prefix_on_some_names_only_is_refused(folder, weights):
    weights(lambda t: {("module." if i else "") + name: tensor for i, (name, tensor) in enumerate(t.items())})
    refusal(folder)


@pytest.mark.parametrize("name", ["submodule.weight", "features.module.weight", "modules.weight"])
def test_names_that_only_look_wrapped_stay(name):
    assert list(unwrapped({name: torch.zeros(1)})) == [name]
    assert list(unwrapped({"module." + name: torch.zeros(1)})) == [name]


# ---- files that aren't what they should be --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "gates.safetensors"])
@pytest.mark.parametrize("left", [0, 5, 100, 0.5, -1], ids=str)
def test_a_file_that_was_cut_off_is_refused(folder, name, left):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * left) if 0 < left < 1 else left])
    assert name in refusal(folder)


def test_a_git_lfs_pointer_is_called_one(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    text = refusal(folder)
    assert "LFS pointer" in text and "git lfs pull" in text


@pytest.mark.parametrize("header", [b"\xff" * 8, (2**40).to_bytes(8, "little"), (10).to_bytes(8, "little") + b"x" * 10])
def test_a_header_that_lies_is_refused(folder, header):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(header + data[8:])
    assert "model.safetensors" in refusal(folder)


def rewritten(path, change):
    """Writes the file again with the header, as a dict or as text, that change(header) leaves; its numbers stay."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = change(json.loads(data[8 : 8 + size]))
    header = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])


def twice(entries, key, value):
    """JSON text with `key` at the front once more."""
    return f"{{{json.dumps(key)}: {json.dumps(value)}, {json.dumps(entries)[1:]}"


def moved(header, by):
    """The header with the last tensor's numbers said to lie `by` bytes further on."""
    last = max((n for n in header if n != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    return header | {last: header[last] | {"data_offsets": [at + by for at in header[last]["data_offsets"]]}}


LYING_HEADERS = {  # what is said of a tensor
    "overlapping": lambda h, name: moved(h, -4),
    "a gap": lambda h, name: moved(h, 4),
    "one place for two": lambda h, name: h | {name: h[name] | {"data_offsets": [0, 4]}},
    "another type": lambda h, name: h | {name: h[name] | {"dtype": "F16"}},
    "no type": lambda h, name: h | {name: h[name] | {"dtype": "F33"}},
    "more than there is": lambda h, name: h | {name: h[name] | {"shape": [2**62, 2**62]}},
    "less than nothing": lambda h, name: h | {name: h[name] | {"shape": [-1]}},
    "a million sides": lambda h, name: h | {name: h[name] | {"shape": [1] * 1_000_000}},
    "deep": lambda h, name: "[" * 500_000,
    "endless": lambda h, name: json.dumps(h) + " " * 1_000_000,
}


@pytest.mark.parametrize("lie", LYING_HEADERS)
@pytest.mark.parametrize("file, tensor", [("model.safetensors", DEEP), ("gates.safetensors", "mean.4")])
def test_a_header_that_lies_is_refused_whatever_it_says(folder, lie, file, tensor):
    rewritten(folder / file, lambda header: LYING_HEADERS[lie](header, tensor))
    assert file in refusal(folder)


@pytest.mark.parametrize("file, key", [("model.safetensors", DEEP), ("gates.safetensors", "n")])
def test_a_tensor_that_is_listed_twice_is_named(folder, file, key):
    rewritten(folder / file, lambda h: twice(h, key, h[key]))
    text = refusal(folder)
    assert file in text and key in text and "more than once" in text


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_needed_file_is_refused(folder, name):
    (folder / name).unlink()
    assert name in refusal(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    for name in (tmp_path / "nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(InputError, match="nowhere"):
            mnv3.load(name)


class Trap:
    """Unpickled, it makes a directory that tells of it."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_pickle_under_a_safetensors_name_is_refused_and_never_run(folder, tmp_path):
    marker = tmp_path / "ran"
    torch.save({"features.0.0.weight": Trap(marker)}, folder / "model.safetensors")
    refusal(folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap(marker)))
    refusal(folder)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Trap(marker)))  # the control: the trap is a trap
    assert marker.exists()


# ---- config.json ----------------------------------------------------------------------------------------------------


@pytest.fixture
def config(folder):
    """config(**changes) rewrites config.json; a key set to `config.missing` is left out."""

    def rewrite(**changes):
        data = json.loads((folder / "config.json").read_text()) | changes
        data = {k: v for k, v in data.items() if v is not rewrite.missing}
        (folder / "config.json").write_text(json.dumps(data))

    rewrite.missing = object()
    return rewrite


@pytest.mark.parametrize("key", ["format", "name", "data", "spec", "preprocessing", "labels"])
def test_a_missing_key_is_named(folder, config, key):
    config(**{key: config.missing})
    assert f"'{key}'" in refusal(folder)


def test_an_unknown_key_is_named(folder, config):
    config(auto_map={"AutoModel": "evil.py"})
    assert "'auto_map'" in refusal(folder)


@pytest.mark.parametrize(
    "changes, named",
    [({"format": "mnv3-9"}, "mnv3-9"), ({"format": None}, "format"), ({"name": ""}, "name"), ({"name": 3}, "name"),
     ({"name": "x" * 201}, "name"), ({"data": None}, "data"), ({"spec": []}, "spec"), ({"spec": {}}, "spec"),
     ({"preprocessing": None}, "reprocessing"), ({"preprocessing": {}}, "reprocessing")],
    ids=str,
)  # fmt: skip
def test_a_wrong_value_is_named(folder, config, changes, named):
    config(**changes)
    assert named in refusal(folder)


LABELS = [f"kind {k}" for k in range(10)]


@pytest.mark.parametrize(
    "labels, named",
    [(LABELS[:9], "9 names for 10"), (LABELS + ["one more"], "11 names for 10"), (None, "10 classes"),
     ("abcdefghij", "10 classes"), ({k: 0 for k in LABELS}, "10 classes"), (LABELS[:9] + [3], "3"),
     (LABELS[:9] + [""], "text"), (LABELS[:9] + ["x" * 201], "text"), (LABELS[:9] + [None], "None")],
    ids=lambda v: f"{v!r:.12}",
)  # fmt: skip
def test_labels_must_name_every_class(folder, config, labels, named):
    config(labels=labels)
    text = refusal(folder)
    assert "labels" in text and named in text


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b'"text"', b"null", b"\xff\xfe{}", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"],
    ids=lambda v: f"{v!r:.12}",
)
def test_json_that_is_none_or_no_object_is_refused(folder, name, content):
    (folder / name).write_bytes(content)
    assert name in refusal(folder)


@pytest.mark.parametrize("name, key", [("config.json", "labels"), ("metrics.json", "test")])
def test_a_key_that_comes_twice_is_named(folder, name, key):
    """Else which of two classifications is meant would hang on who reads it."""
    data = json.loads((folder / name).read_text())
    (folder / name).write_text(twice(data, key, data[key]))
    text = refusal(folder)
    assert name in text and f"'{key}'" in text and "more than once" in text


def test_a_key_that_comes_twice_deep_inside_is_named(folder):
    data = json.loads((folder / "config.json").read_text())
    inside = twice(data["spec"], "num_classes", 3)
    text = json.dumps(data | {"spec": "here"}).replace('"here"', inside)
    (folder / "config.json").write_text(text)
    assert "'num_classes'" in refusal(folder)


@pytest.mark.parametrize("value", [10**4000, -1, 1e308, True, [[]] * 1000, {"a": {}}])
def test_a_number_that_no_network_has_is_named_shortly(folder, config, value):
    spec = json.loads((folder / "config.json").read_text())["spec"]
    config(spec=spec | {"stem": value})
    assert "`stem`" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
def test_a_huge_json_file_is_refused_unread(folder, name):
    with open(folder / name, "r+b") as file:
        file.truncate(9_000_000)
    assert name in refusal(folder)


def test_labels_that_come_twice_are_told_apart():
    assert checked_labels(["crane", "tern", "crane"], 3) == ("crane (0)", "tern", "crane (2)")
    assert checked_labels(["a", "b"], 2) == ("a", "b")


def test_labels_stay_apart_whatever_they_are_called():
    labels = checked_labels(["crane", "crane", "crane (0)"], 3)
    assert len(set(labels)) == 3


def test_many_labels_are_read_in_no_time():
    labels = [f"label {k}" for k in range(10_000)] * 2
    began = time.thread_time()
    assert len(set(checked_labels(labels, len(labels)))) == len(labels)
    assert time.thread_time() - began < 1  # second of processor time; comparing each with each takes several


# ---- gates.safetensors ----------------------------------------------------------------------------------------------


@pytest.fixture
def gates(folder):
    """gates(change) rewrites the gate statistics as change(dict) leaves them."""
    path = folder / "gates.safetensors"

    def rewrite(change, metadata=None):
        arrays = {name: array.copy() for name, array in safetensors.numpy.load_file(path).items()}
        arrays = change(arrays) or arrays
        path.write_bytes(safetensors.numpy.save(arrays, metadata))

    return rewrite


WRONG_GATES = {
    "one missing": ("m2.8", lambda a: {k: v for k, v in a.items() if k != "m2.8"}),
    "one too many": ("mean.9", lambda a: a | {"mean.9": a["mean.8"]}),
    "no n": ("n", lambda a: {k: v for k, v in a.items() if k != "n"}),
    "other channels": ("mean.3", lambda a: a | {"mean.3": a["mean.3"][:, 1:].copy()}),
    "other classes": ("n", lambda a: {k: v[:-1].copy() for k, v in a.items()}),
    "rows of two kinds": ("m2.0", lambda a: a | {"m2.0": a["m2.0"][:1].copy()}),
    "a scalar n": ("n", lambda a: a | {"n": np.array(100)}),
    "flat": ("mean.1", lambda a: a | {"mean.1": a["mean.1"].reshape(-1)}),
    "not a number": ("mean.2", lambda a: a["mean.2"].__setitem__((0, 0), np.nan)),
    "a negative square": ("m2.2", lambda a: a["m2.2"].__setitem__((3, 0), -1)),
    "a negative count": ("n", lambda a: a["n"].__setitem__(4, -1)),
    "a count that sums to infinity": ("n", lambda a: a | {"n": np.full(len(a["n"]), 1e308)}),
    "a gate above 1": ("mean.2", lambda a: a["mean.2"].__setitem__((0, 0), 1.5)),
    "a spread beyond all gates": ("m2.1", lambda a: a["m2.1"].__setitem__((0, 0), 30)),
}


@pytest.mark.parametrize("case", WRONG_GATES)
def test_gate_statistics_that_cannot_be_are_refused_by_name(folder, gates, case):
    named, change = WRONG_GATES[case]
    gates(change)
    text = refusal(folder)
    assert "gates.safetensors" in text and f"'{named}'" in text


def test_gate_statistics_in_a_type_that_numpy_lacks_are_refused(folder):
    path = folder / "gates.safetensors"
    tensors = {k: v.bfloat16() for k, v in safetensors.torch.load_file(path).items()}
    path.write_bytes(safetensors.torch.save(tensors))
    assert "gates.safetensors" in refusal(folder)


def test_gate_statistics_without_classes_are_enough(folder, gates):
    gates(lambda a: {k: v[:1].copy() for k, v in a.items()}, {"source": "ten examples"})
    again = mnv3.load(folder).gates
    assert len(again.n) == 1 and again.source == "ten examples" and len(again.mean) == 9


def statistics(samples):
    samples = np.asarray(samples, float)  # (n, C)
    mean = samples.mean(0)
    return GateStatistics(np.array([len(samples)]), (mean[None],), (((samples - mean) ** 2).sum(0)[None],), "hand-made")


def test_z_scores_by_hand():
    gates = statistics([[0.25, 1.0], [0.75, 1.0]] * 25)  # mean 0.5, sum of squares 50/16; the second never moved
    assert [r.tolist() for r in gates.reference()] == [[0.5, 1.0]]
    (z,) = gates.z_scores([np.array([1.0, 0.0])])
    assert z[0] == pytest.approx(0.5 / np.sqrt(50 / 16 / 49)) and z[1] == 0


def test_there_are_no_z_scores_of_fewer_than_fifty_pictures():
    samples = np.random.default_rng(0).random((50, 3))
    assert statistics(samples[:49]).z_scores([samples[0]]) is None
    assert statistics(samples).z_scores([samples[0]]) is not None


def test_statistics_describe_the_gates_that_the_network_computes(checkpoint, structured):
    """Reference gates are means over pictures: recomputed here by explained() on the same pictures."""
    gates = checkpoint.model.explained(structured(100, 32, seed=1)).gates
    for computed, reference, mean in zip(gates, checkpoint.gates.reference(), checkpoint.gates.mean, strict=True):
        np.testing.assert_allclose(reference, computed.mean(0), atol=1e-6)
        np.testing.assert_allclose(mean[4], computed[3::10].mean(0), atol=1e-6)


@pytest.mark.parametrize("value", ["NaN", "1e999", '"\\ud800"'])
def test_numbers_and_texts_that_could_not_be_saved_again_are_refused(folder, value):
    (folder / "metrics.json").write_text(f'{{"test": {{"top1": {value}}}}}')
    assert "metrics.json" in refusal(folder)


def test_a_network_whose_maps_would_fill_the_memory_is_refused_before_it_runs(folder):
    """Few parameters, but 8192 channels at 1024 × 1024."""
    config = json.loads((folder / "config.json").read_text())
    config["spec"]["stem"], config["spec"]["stem_stride"] = 4096, 1
    config["preprocessing"]["resize"] = config["preprocessing"]["crop"] = 1024
    (folder / "config.json").write_text(json.dumps(config))
    assert "4,294,967,296 numbers" in refusal(folder)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.complex64, torch.float32])
def test_counters_are_whole_numbers_of_64_bits(folder, kind):
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("num_batches_tracked"))
    safetensors.torch.save_file({**tensors, name: torch.ones((), dtype=kind)}, folder / "model.safetensors")
    assert name in refusal(folder)


# ---- parts that belong to one network -----------------------------------------------------------------------------


def test_a_disk_that_fills_at_the_last_file_leaves_every_old_file(checkpoint, other, folder, monkeypatch):
    """Weights were replaced already when there was no room for their gates."""
    before, write, written = {path.name: path.read_bytes() for path in folder.iterdir()}, Path.write_bytes, []

    def filling(path, content):
        written.append(path)
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", filling)
    with pytest.raises(OSError, match="No space"):
        replace(other, name="another").save(folder)
    monkeypatch.undo()
    assert len(written) == 5 and {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.fixture
def other(checkpoint):
    """The same network trained otherwise, as a run's newer weights are, with figures of its own."""
    model = deepcopy(checkpoint.model)
    model.classifier[3].bias[0] += 1
    gates = replace(checkpoint.gates, source="other scenes")
    return replace(checkpoint, model=model, gates=gates, metrics={"test": {"n": 100, "top1": 0.75}})


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", ["gates.safetensors", "metrics.json"])
def test_gates_and_metrics_of_other_weights_are_refused(name, half, checkpoint, other, tmp_path):
    folder, foreign = checkpoint.save(tmp_path / "tiny", half=half), other.save(tmp_path / "other", half=half)
    shutil.copy(foreign / name, folder)
    assert f"{name} belongs to other weights than model.safetensors" in (said := refusal(folder)) and "remove" in said
    shutil.copy(foreign / "model.safetensors", folder)
    (folder / {"gates.safetensors": "metrics.json", "metrics.json": "gates.safetensors"}[name]).unlink()
    assert read_checkpoint(folder).weights_digest == read_checkpoint(foreign).weights_digest


def test_gates_and_metrics_that_name_no_weights_are_read_as_before(folder, gates, checkpoint):
    gates(lambda a: a, {"source": "a hundred scenes"})
    (folder / "metrics.json").write_text(json.dumps(checkpoint.metrics))
    again = read_checkpoint(folder)
    assert again.gates.count == 100 and again.metrics == checkpoint.metrics


def test_weights_stored_in_another_precision_without_loss_keep_their_gates(checkpoint, tmp_path, weights):
    folder = checkpoint.save(tmp_path / "tiny", half=True)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    whole = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    safetensors.torch.save_file(whole, folder / "model.safetensors")
    assert read_checkpoint(folder).gates.count == 100


def test_the_bytes_of_gates_are_a_function_of_what_they_say(checkpoint, tmp_path):
    """safetensors writes metadata in another order each time."""
    written = {(checkpoint.save(tmp_path / str(i)) / "gates.safetensors").read_bytes() for i in range(12)}
    assert len(written) == 1


def ends(monkeypatch, count):
    """From the count-th change of a name on, the process is as if killed."""
    calls = []

    def counted(true):
        def call(*inputs, **options):
            if str(inputs[0]).rpartition("/")[2][:1] == "." or true is unlink:
                calls.append(inputs)
                if len(calls) > count:
                    raise KeyboardInterrupt
            return true(*inputs, **options)

        return call

    unlink = Path.unlink
    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(Path, "unlink", counted(unlink))


@pytest.mark.parametrize("labels", [False, True], ids=["same classes", "other classes"])
def test_a_save_that_is_killed_leaves_no_parts_of_two_networks(labels, checkpoint, other, tmp_path, monkeypatch):
    """New weights with old gates and an old top-1 were a folder like any other."""
    if labels:
        other = replace(other, labels=tuple(reversed(other.labels)))
    found = []
    for count in range(12):
        folder = checkpoint.save(tmp_path / str(count), half=True)
        with monkeypatch.context() as patch:
            ends(patch, count)
            with suppress(KeyboardInterrupt):
                other.save(folder, half=True)
        try:
            again = read_checkpoint(folder)
        except InputError as error:
            assert labels and "no config.json" in str(error)
            found.append("refused")
            continue
        new = bool(again.model.classifier[3].bias[0] != read_checkpoint(checkpoint.save(tmp_path / "a", half=True))
                   .model.classifier[3].bias[0])  # fmt: skip
        whose = other if new else checkpoint
        assert again.labels == whose.labels
        assert again.gates is None or again.gates.source == whose.gates.source
        assert again.metrics in ({}, whose.metrics)
        found.append("new" if new else "old")
        other.save(folder, half=True)
        assert read_checkpoint(folder).metrics == other.metrics
    assert found[0] == "old" and found[-1] == "new" and ("refused" in found) == labels


def test_what_is_the_same_is_not_written_again(checkpoint, folder):
    """So a reader of the folder finds weights and config all the time while figures are added."""
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    replace(checkpoint, metrics={"test": {"n": 100, "top1": 0.5}}).save(folder)
    after = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"metrics.json", "README.md"}


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "gates.safetensors", "model.safetensors"])
def test_a_folder_that_is_written_to_while_it_is_read_is_refused(
    name, checkpoint, other, folder, tmp_path, monkeypatch
):
    """Config of the one and weights of the other would be a network whose classes have each other's names."""
    foreign, fill = other.save(tmp_path / "other"), reading.fill

    def filled(*inputs):
        fill(*inputs)
        os.replace(foreign / name, folder / name)

    monkeypatch.setattr(reading, "fill", filled)
    with pytest.raises(InputError, match="written to while it was read: try again|belongs to other weights"):
        read_checkpoint(folder)
