"""An explanation is what its docstrings say: each number is held against one made by hand, in another way."""

import csv
import json
import random
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import mnv3
from mnv3 import InputError, explain
from mnv3.checkpoints.checkpoint import Checkpoint
from mnv3.images.decode import open_picture
from mnv3.images.preprocessing import Preprocessing
from mnv3.inference import cache, session
from mnv3.inference import reference as inference_reference
from mnv3.inference.reference import example_pictures
from mnv3.inference.session import keep_rows
from mnv3.nets.spec import Spec

CLOSE = 1e-5  # of probabilities: one batch of L + 2 rounds otherwise than a batch of one


@pytest.fixture(scope="module", params=["tiny", "cifar10-small"])
def checkpoint(request, small_checkpoint):
    """A random network that tells pictures apart, and a trained one."""
    if request.param == "tiny":
        return small_checkpoint()
    return mnv3.load(request.param)


@pytest.fixture(scope="module")
def picture():
    return open_picture(example_pictures()[0])


@pytest.fixture(scope="module")
def explanation(checkpoint, picture):
    session.fast(checkpoint, wait=True)
    return explain(checkpoint, picture)


@pytest.fixture(scope="module")
def one(checkpoint, picture):
    """The network's input for the picture, (1, 3, H, W)."""
    return checkpoint.preprocess(picture)[None]


def se_blocks(checkpoint):
    """The modules of the SE blocks, shallow to deep."""
    rows = [checkpoint.model.features[row] for row in checkpoint.model.gated]
    return [row.block[row.se_at] for row in rows]


def networks(spec, recalibrated, structured, name="network"):
    """A recalibrated random network of the spec as a checkpoint without statistics."""
    torch.manual_seed(0)
    model = recalibrated(mnv3.MobileNetV3(spec=spec), structured(32, 32))
    preprocessing = Preprocessing(36, 32, "bilinear", (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
    return Checkpoint(name, model, tuple(f"kind {k}" for k in range(spec.num_classes)), preprocessing, "scenes")


# ---- what it says -------------------------------------------------------------------------------------------------


def test_probabilities_are_the_networks(checkpoint, explanation, one):
    with torch.inference_mode():
        expected = checkpoint.model(one)[0].double().softmax(0).numpy()
    assert expected.std() > 1e-3, "this network says the same of every class"
    np.testing.assert_allclose(explanation.probabilities, expected, atol=CLOSE)
    assert explanation.probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert explanation.probabilities.shape == (len(checkpoint.labels),)


def test_large_logits_do_not_overflow(explanation):
    huge = replace(explanation, held=explanation.held * 0 + np.arange(10, dtype=np.float32) * 1000)
    assert huge.probabilities.tolist() == [0] * 9 + [1]


def test_the_likeliest_classes_come_first(checkpoint, explanation):
    p = explanation.probabilities
    top = explanation.top(3)
    assert [guess.index for guess in top] == sorted(range(10), key=lambda i: -p[i])[:3]
    assert [guess.probability for guess in top] == sorted(p, reverse=True)[:3]
    assert [guess.label for guess in top] == [checkpoint.labels[guess.index] for guess in top]


@pytest.mark.parametrize("k, count", [(1, 1), (5, 5), (10, 10), (1000, 10)])
def test_no_more_classes_than_there_are(k, count, explanation):
    top = explanation.top(k)
    assert len({guess.index for guess in top}) == count == len(top)


def test_a_class_is_found_by_label_or_index(checkpoint, explanation):
    assert explanation.class_index(checkpoint.labels[7]) == 7
    assert explanation.class_index(4) == 4
    best = int(np.argmax(explanation.probabilities))
    assert explanation.class_index(None) == explanation.class_index("") == best


@pytest.mark.parametrize("target", ["no such kind", 10, -1, True, "4", "<b>" * 200])
def test_an_unknown_class_is_one_sentence_that_names_it_and_what_is_known(target, checkpoint, explanation):
    with pytest.raises(InputError) as caught:
        explanation.class_index(target)
    said = str(caught.value)
    assert repr(str(target)[:60]) in said and len(said) < 400
    assert checkpoint.name in said and all(label in said for label in checkpoint.labels)


def test_of_a_thousand_classes_an_unknown_ones_sentence_names_some(recalibrated, structured):
    checkpoint = networks(Spec.of("small", 0.35, 1000, 2), recalibrated, structured)
    with pytest.raises(InputError, match="1,000 classes such as kind 0, kind 1, kind 2"):
        explain(checkpoint, np.zeros((32, 32, 3), np.uint8)).class_index("cat")


def test_the_picture_is_shown_as_the_network_got_it(checkpoint, explanation, one):
    side = checkpoint.preprocessing.crop
    assert explanation.picture.size == (side, side) and explanation.picture.mode == "RGB"
    assert torch.equal(checkpoint.preprocessing.tensor(explanation.picture), one[0])


def test_costs_are_the_tables(checkpoint, explanation):
    assert explanation.parameters == sum(p.numel() for p in checkpoint.model.parameters())
    assert 0 < explanation.milliseconds < 60_000
    assert len(explanation.blocks) == len(explanation.gates) == len(explanation.energy) == 9
    for block, gates, energy in zip(explanation.blocks, explanation.gates, explanation.energy, strict=True):
        assert gates.shape == (block.channels,) and energy.shape == (2, block.side, block.side)


# ---- effects ------------------------------------------------------------------------------------------------------


def hold(patch, checkpoint, gates_of_blocks):
    """Makes SE block l give gates_of_blocks[l] whatever it sees."""
    for l, gates in gates_of_blocks.items():  # noqa: E741
        fixed = torch.from_numpy(np.asarray(gates, np.float32)).view(1, -1, 1, 1)
        patch.setattr(se_blocks(checkpoint)[l], "gates", lambda x, fixed=fixed: fixed)


def held_by_hand(checkpoint, one, gates_of_blocks):
    """Logits (K,) in float64 of the plain network with those SE blocks replaced."""
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        hold(patch, checkpoint, gates_of_blocks)
        return checkpoint.model(one)[0].double()


def test_effects_are_those_of_a_network_whose_block_is_held_by_hand(checkpoint, explanation, one):
    reference = dict(enumerate(explanation.reference.reference()))
    own = held_by_hand(checkpoint, one, {})
    held = [held_by_hand(checkpoint, one, {l: reference[l]}) for l in reference]  # noqa: E741
    held.append(held_by_hand(checkpoint, one, reference))
    largest = 0
    for k in range(len(checkpoint.labels)):
        effects = explanation.effects(k)
        assert len(effects) == 10  # nine blocks, and all of them
        for effect, logits in zip(effects, held, strict=True):
            assert effect.logit == pytest.approx((own[k] - logits[k]).item(), abs=1e-3)
            assert effect.probability == pytest.approx((own.softmax(0)[k] - logits.softmax(0)[k]).item(), abs=CLOSE)
            largest = max(largest, abs(effect.probability))
    assert largest > 100 * CLOSE, "no block did anything here: nothing was compared"


def test_blocks_after_a_held_one_are_recomputed(checkpoint, explanation, one):
    """Holding a block and freezing the later ones' own gates is another question, with other answers."""
    reference, own = explanation.reference.reference(), explanation.gates
    differences = []
    for l in range(8):  # noqa: E741
        frozen = {later: own[later] for later in range(l + 1, 9)}
        logits = held_by_hand(checkpoint, one, {l: reference[l], **frozen})
        differences.append(np.abs(explanation.held[l + 1] - logits.numpy()).max())
    assert max(differences) > 0.01


def test_effects_over_all_classes_sum_to_nothing(explanation):
    sums = np.sum([[effect.probability for effect in explanation.effects(k)] for k in range(10)], 0)
    np.testing.assert_allclose(sums, 0, atol=1e-12)


def test_rows_of_the_causal_batch():
    assert keep_rows(3).tolist() == [[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 0]]


def test_gates_are_the_pictures_own(checkpoint, explanation, one):
    with torch.inference_mode():
        expected = checkpoint.model.explained(one).gates
    for gates, e in zip(explanation.gates, expected, strict=True):
        np.testing.assert_allclose(gates, e[0].numpy(), atol=1e-4)
        assert gates.min() >= 0 and gates.max() <= 1


def test_explaining_leaves_the_network_as_it_was(checkpoint, picture):
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    explain(checkpoint, picture)
    assert all(torch.equal(before[name], tensor) for name, tensor in checkpoint.model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in checkpoint.model.modules())


# ---- where energy moved -------------------------------------------------------------------------------------------


def with_energy(explanation, before, after):
    """The explanation with these maps in block 0."""
    return replace(explanation, energy=[np.array([before, after], np.float32), *explanation.energy[1:]])


def test_the_shift_is_after_minus_before_each_as_shares(explanation):
    shift = with_energy(explanation, [[1, 1], [1, 1]], [[6, 0], [2, 2]]).shift(0)
    np.testing.assert_allclose(shift, [[0.35, -0.25], [-0.05, -0.05]], atol=1e-7)


def test_energy_is_moved_and_neither_made_nor_lost(explanation):
    shifts = [explanation.shift(i) for i in range(9)]
    assert max(np.abs(shift).max() for shift in shifts) > 1e-4
    for block, shift in zip(explanation.blocks, shifts, strict=True):
        assert shift.shape == (block.side, block.side)
        assert abs(shift.sum()) < 1e-6


def test_the_shift_is_the_networks(checkpoint, explanation, one):
    """By hand: mean |activation| over channels before and after the gate."""
    model = checkpoint.model
    for block in (0, 8):
        with torch.inference_mode():
            h = model.block_maps(one, block)[0].double()
            gated = h * torch.from_numpy(explanation.gates[block]).double()[:, None, None]
        before, after = h.abs().mean(0), gated.abs().mean(0)
        np.testing.assert_allclose(explanation.shift(block), after / after.sum() - before / before.sum(), atol=1e-5)


ZEROS, ONES = [[0, 0], [0, 0]], [[1, 2], [3, 4]]


@pytest.mark.parametrize("before, after", [(ZEROS, ZEROS), (ONES, ZEROS), ([[5]], [[2]]), ([[5]], [[0]])])
def test_where_a_map_is_zero_or_a_single_cell_nothing_moved(before, after, explanation):
    """After a block that closed every gate there is no energy left to lie anywhere."""
    assert not with_energy(explanation, before, after).shift(0).any()


# ---- class evidence -----------------------------------------------------------------------------------------------


def grad_cam(checkpoint, one, k):
    """Grad-CAM at the last map by automatic differentiation (Selvaraju et al. 2017)."""
    with torch.no_grad():
        features = checkpoint.model.features(one)
    features.requires_grad_(True)
    checkpoint.model.head(checkpoint.model.pool(features))[0, k].backward()
    alpha = features.grad.mean((2, 3), keepdim=True)
    return torch.relu((alpha * features).sum(1))[0].detach().numpy()


def test_evidence_is_grad_cam_by_automatic_differentiation(checkpoint, explanation, one):
    largest = 0
    for k in range(len(checkpoint.labels)):
        expected = grad_cam(checkpoint, one, k)
        np.testing.assert_allclose(explanation.evidence(k), expected, rtol=1e-3, atol=1e-4 * (1 + expected.max()))
        largest = max(largest, expected.max())
    assert largest > 1e-3 and expected.shape == (4, 4)


def test_evidence_differs_from_class_to_class(explanation):
    assert len({explanation.evidence(k).tobytes() for k in range(10)}) > 5


# ---- gates counted ------------------------------------------------------------------------------------------------


def test_closed_and_open_gates_are_counted_exactly(explanation):
    almost = np.nextafter(np.float32(1), np.float32(0))
    gates = np.array([0, 0, 0, 1, 1, 0.5, almost, np.float32(1e-38)], np.float32)
    counted = replace(explanation, gates=[gates, *explanation.gates[1:]])
    assert counted.closed_open(0) == (3, 2)


def test_sigmoid_gates_are_never_exactly_closed_or_open(recalibrated, structured, picture):
    checkpoint = networks(replace(Spec.of("small", 0.35, 10, 2), gate="sigmoid"), recalibrated, structured)
    explanation = explain(checkpoint, picture)
    assert [explanation.closed_open(i) for i in range(9)] == [None] * 9
    assert explanation.to_dict()["blocks"][0]["closed_open"] is None


def test_moved_is_the_mean_distance_from_the_reference(small_checkpoint, picture):
    explanation = explain(small_checkpoint(), picture)
    statistics = explanation.reference
    made = replace(statistics, mean=(np.full_like(statistics.mean[0], 0.25), *statistics.mean[1:]))
    gates = np.full_like(explanation.gates[0], 0.25)
    gates[: len(gates) // 2] = 0.75
    assert replace(explanation, gates=[gates], reference=made).moved(0) == pytest.approx(0.25)


# ---- one block's channels, and every gate as a line -----------------------------------------------------------------


def test_channels_are_what_the_gates_multiply(checkpoint, explanation, one):
    for block in (0, 8):
        with torch.inference_mode():
            expected = checkpoint.model.block_maps(one, block)[0].numpy()
        np.testing.assert_allclose(explanation.channels(block), expected, atol=1e-5)
        before = np.abs(explanation.channels(block)).mean(0)
        np.testing.assert_allclose(before, explanation.energy[block][0], rtol=1e-3, atol=1e-5)


def test_the_channels_that_moved_most_come_first(small_checkpoint, picture):
    explanation = explain(small_checkpoint(), picture)
    gates = explanation.reference.reference()[0].astype(np.float32)
    gates[[3, 1, 4]] += np.array([0.2, -0.6, 0.4], np.float32)
    made = replace(explanation, gates=[gates, *explanation.gates[1:]])
    assert made.most_moved(0, 3) == [1, 4, 3]
    assert len(made.most_moved(0, 1000)) == len(gates)


def test_the_csv_holds_every_gate(checkpoint, explanation):
    head, *lines = explanation.gates_csv().splitlines()
    assert head == "block,side,channel,gate,reference,z"
    assert len(lines) == sum(block.channels for block in explanation.blocks)
    rows = iter(csv.DictReader([head, *lines]))
    for i, block in enumerate(explanation.blocks):
        for channel in range(block.channels):
            row = next(rows)
            assert (row["block"], row["side"], row["channel"]) == (block.name, str(block.side), str(channel))
            expected = explanation.gates[i][channel], explanation.reference.reference()[i][channel]
            assert (float(row["gate"]), float(row["reference"])) == pytest.approx(expected, abs=1e-6)
            assert float(row["z"]) == pytest.approx(explanation.z_scores[i][channel], abs=1e-5)


def test_the_csv_leaves_z_empty_where_there_is_none(without_statistics, picture):
    lines = explain(without_statistics, picture).gates_csv().splitlines()
    assert len(lines) > 500 and all(line.endswith(",") for line in lines[1:])


# ---- reference gates ----------------------------------------------------------------------------------------------


def test_a_checkpoints_own_statistics_are_the_reference(small_checkpoint, picture):
    checkpoint = small_checkpoint()
    explanation = explain(checkpoint, picture)
    assert explanation.reference is checkpoint.gates
    said = explanation.to_dict()
    assert said["reference"] == {"n": 100, "source": "a hundred scenes"}
    scores = checkpoint.gates.z_scores(explanation.gates)
    assert max(np.abs(z).max() for z in scores) > 1
    for block, z in zip(said["blocks"], scores, strict=True):
        np.testing.assert_allclose(block["z"], z, atol=1e-5)


@pytest.fixture(scope="module")
def without_statistics(small_checkpoint):
    return replace(small_checkpoint(), gates=None)


@pytest.fixture(scope="module")
def example_gates(without_statistics):
    """Gates of every example picture, L × (n, C_l)."""
    inputs = torch.stack([without_statistics.preprocess(open_picture(path)) for path in example_pictures()])
    with torch.inference_mode():
        return [gates.double().numpy() for gates in without_statistics.model.explained(inputs).gates]


@pytest.mark.parametrize("given", ["the file", "its bytes"])
def test_an_example_on_show_is_left_out_of_its_own_reference(given, without_statistics, example_gates):
    paths = example_pictures()
    shown = paths[2] if given == "the file" else paths[2].read_bytes()
    explanation = explain(without_statistics, shown)
    assert explanation.reference.count == len(paths) - 1
    for gates, reference in zip(example_gates, explanation.reference.reference(), strict=True):
        others = np.delete(gates, 2, 0)
        assert np.abs(others.mean(0) - gates.mean(0)).max() > 1e-3, "leaving it out makes no difference here"
        np.testing.assert_allclose(reference, others.mean(0), atol=1e-4)


def test_any_other_picture_is_held_against_all_examples(without_statistics, example_gates):
    shown = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    reference = explain(without_statistics, shown).reference
    assert reference.count == len(example_pictures()) and reference.source == "example pictures"
    for gates, mean, m2 in zip(example_gates, reference.mean, reference.m2, strict=True):
        np.testing.assert_allclose(mean[0], gates.mean(0), atol=1e-4)
        np.testing.assert_allclose(m2[0], gates.var(0) * len(gates), atol=1e-3)


def test_under_fifty_pictures_there_are_no_z_scores(without_statistics, picture):
    assert len(example_pictures()) < 50
    said = explain(without_statistics, picture).to_dict()
    assert [block["z"] for block in said["blocks"]] == [None] * 9
    assert said["reference"] == {"n": len(example_pictures()) - 1, "source": "example pictures"}


def test_without_statistics_and_examples_it_says_what_to_do(without_statistics, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(inference_reference, "EXAMPLES", tmp_path / "nowhere")
    with pytest.raises(InputError, match="put pictures into examples/"):
        explain(replace(without_statistics), picture)


# ---- plain numbers ------------------------------------------------------------------------------------------------


def test_the_dictionary_is_json_and_says_what_the_explanation_says(checkpoint, explanation):
    said = explanation.to_dict(3, k=4)
    assert json.loads(json.dumps(said, allow_nan=False)).keys() == said.keys()
    assert said["checkpoint"] == checkpoint.name and said["class"] == checkpoint.labels[3]
    assert said["top"] == [guess._asdict() for guess in explanation.top(4)]
    assert said["all_blocks"] == explanation.effects(3)[-1]._asdict()
    assert said["parameters"] == explanation.parameters and said["multiply_adds"] == explanation.multiply_adds
    np.testing.assert_allclose(said["evidence"], explanation.evidence(3), atol=1e-6)
    assert len(said["blocks"]) == 9
    for i, block in enumerate(said["blocks"]):
        assert (block["block"], block["channels"], block["side"]) == (
            explanation.blocks[i].name, explanation.blocks[i].channels, explanation.blocks[i].side,
        )  # fmt: skip
        assert block["effect"] == explanation.effects(3)[i]._asdict()
        assert block["closed_open"] == explanation.closed_open(i)
        np.testing.assert_allclose(block["gates"], explanation.gates[i], atol=1e-6)
        np.testing.assert_allclose(block["reference"], explanation.reference.reference()[i], atol=1e-6)
        np.testing.assert_allclose(block["energy_shift"], explanation.shift(i), atol=1e-6)


def test_the_dictionary_is_about_the_class_that_was_asked_for(checkpoint, explanation):
    by_label, likeliest = explanation.to_dict(checkpoint.labels[3]), explanation.to_dict()
    assert by_label == explanation.to_dict(3)
    assert likeliest["class"] == explanation.top(1)[0].label
    other = (explanation.class_index(None) + 1) % 10
    assert explanation.to_dict(other)["all_blocks"] != likeliest["all_blocks"]


# ---- a network without SE blocks ----------------------------------------------------------------------------------


def test_a_network_without_se_blocks_is_nothing_special(recalibrated, structured, picture):
    spec = Spec.of("small", 0.35, 10, 2)
    spec = replace(spec, rows=tuple(row._replace(se=False) for row in spec.rows))
    checkpoint = networks(spec, recalibrated, structured)
    explanation = explain(checkpoint, picture)
    with torch.inference_mode():
        expected = checkpoint.model(checkpoint.preprocess(picture)[None])[0]
    np.testing.assert_allclose(explanation.logits, expected.numpy(), atol=1e-5)
    assert explanation.blocks == () and explanation.effects(0) == [] and explanation.reference is None
    assert explanation.evidence(0).shape == (4, 4)
    said = json.loads(json.dumps(explanation.to_dict(), allow_nan=False))
    assert said["blocks"] == [] and said["all_blocks"] is None and said["reference"] is None


# ---- pictures in, engine, threads ---------------------------------------------------------------------------------


def arrays(explanation):
    """Every array of an explanation."""
    e = explanation
    return [e.held, *e.gates, *e.energy, e.features, np.asarray(e.picture), *e.reference.mean, *e.reference.m2]


def same(one, other):
    """Equal but for what torch and ONNX Runtime, either of which may have served, round differently."""
    pairs = zip(arrays(one), arrays(other), strict=True)
    return all(a.shape == b.shape and np.abs(a - b).max() <= 1e-4 * max(1, np.abs(b).max()) for a, b in pairs)


def test_a_path_its_bytes_and_an_opened_picture_are_explained_alike(small_checkpoint):
    path = next(path for path in example_pictures() if path.suffix == ".jpg")
    explanations = [explain(small_checkpoint(), given) for given in (path, str(path), path.read_bytes())]
    with open(path, "rb") as file, Image.open(path) as image:
        explanations += [explain(small_checkpoint(), file), explain(small_checkpoint(), image)]
    assert all(same(explanations[0], other) for other in explanations[1:])
    assert not same(explanations[0], explain(small_checkpoint(), example_pictures()[-1]))


def test_what_is_no_picture_is_one_sentence(small_checkpoint):
    with pytest.raises(InputError):
        explain(small_checkpoint(), b"not a picture")


@pytest.mark.parametrize("name, value", [("classifier.3.weight", 3e38), ("features.0.1.running_var", -1.0)])
@pytest.mark.parametrize("fast", [False, True])
def test_a_network_that_answers_with_no_number_is_refused(name, value, fast, small_checkpoint, picture, monkeypatch):
    """Each of its weights is a number, so that it loads; NaN was shown as an answer."""
    broken, preparing = small_checkpoint(), Future()
    broken = replace(broken, model=deepcopy(broken.model))
    broken.model.state_dict()[name].fill_(value)
    preparing.set_result(session.Session(broken.model) if fast else None)
    monkeypatch.setitem(session._sessions, broken, preparing)
    seen = broken.preprocess(picture)[None]
    for ask in (explain, lambda broken, _: session.logits(broken, seen), lambda broken, _: session.run(broken, seen)):
        with pytest.raises(InputError, match="^tiny answers this picture with NaN or infinity"):
            ask(broken, picture)


@pytest.fixture
def loads(monkeypatch):
    """The names that the engine loaded; each load makes a new object."""
    names = []

    def load(name, progress=None):
        names.append(name)
        if name == "broken":
            raise InputError("broken")
        return type("Loaded", (), {})()

    monkeypatch.setattr(cache, "load", load)
    monkeypatch.setattr(cache, "_loaded", OrderedDict())
    return names


def test_a_loaded_checkpoint_is_kept(loads):
    first = cache.checkpoint("a")
    assert cache.checkpoint("b") is not first
    assert cache.checkpoint("a") is first and loads == ["a", "b"]


def test_only_the_last_few_checkpoints_are_kept(loads):
    names = [f"network {i}" for i in range(cache.KEPT)]
    first = {name: cache.checkpoint(name) for name in names}
    assert cache.checkpoint(names[0]) is first[names[0]]  # used again, so the second is now the oldest
    cache.checkpoint("one more")
    assert len(cache._loaded) == cache.KEPT
    assert cache.checkpoint(names[0]) is first[names[0]]
    assert cache.checkpoint(names[1]) is not first[names[1]]


def test_a_failed_load_is_tried_again(loads):
    for _ in range(2):
        with pytest.raises(InputError):
            cache.checkpoint("broken")
    assert loads == ["broken", "broken"]
    cache.checkpoint("a")  # and the lock is free


def in_threads(jobs):
    """Runs the functions at once, in a thread each; their results in order. An error or a hang is an error here."""
    start, results, errors = threading.Barrier(len(jobs)), [None] * len(jobs), []

    def work(i, job):
        try:
            start.wait(10)
            results[i] = job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == [] and not any(thread.is_alive() for thread in threads)
    return results


def test_two_visitors_at_once_load_a_checkpoint_once(loads, monkeypatch):
    load = cache.load
    monkeypatch.setattr(cache, "load", lambda *given: (time.sleep(0.1), load(*given))[1])
    one, other = in_threads([lambda: cache.checkpoint("a")] * 2)
    assert one is other and loads == ["a"]


def test_nobody_waits_for_another_visitors_download(loads, monkeypatch):
    kept, load = cache.checkpoint("kept"), cache.load
    downloading, finish = threading.Event(), threading.Event()

    def slow(name, progress=None):
        downloading.set()
        assert finish.wait(30)
        return load(name, progress)

    monkeypatch.setattr(cache, "load", slow)
    other = threading.Thread(target=cache.checkpoint, args=("far away",), daemon=True)
    other.start()
    got = []
    try:
        assert downloading.wait(10)
        visitor = threading.Thread(target=lambda: got.append(cache.checkpoint("kept")), daemon=True)
        visitor.start()
        visitor.join(2)
        assert got == [kept], "the app stands still for everybody while one downloads"
    finally:
        finish.set()
        other.join(30)


def test_threads_get_their_own_results(small_checkpoint, recalibrated, structured):
    """Four threads, two networks, four pictures, mixed: every array equals the one computed alone."""
    other = networks(Spec.of("small", 0.35, 10, 1), recalibrated, structured, "other")
    nets = [small_checkpoint(), other]
    shown = [open_picture(path) for path in example_pictures()[:4]]
    alone = {(n, p): explain(nets[n], shown[p]) for n in range(2) for p in range(4)}
    assert len({e.held.tobytes() for e in alone.values()}) == 8

    def visitor(seed):
        jobs = list(alone) * 2
        random.Random(seed).shuffle(jobs)
        return [(job, explain(nets[job[0]], shown[job[1]])) for job in jobs]

    results = in_threads([lambda seed=seed: visitor(seed) for seed in range(4)])
    wrong = [job for visits in results for job, e in visits if not same(e, alone[job])]
    assert sum(len(visits) for visits in results) == 64 and wrong == []


def test_example_gates_asked_for_by_several_threads_at_once(without_statistics, picture):
    fresh = replace(without_statistics)  # whose examples nobody has looked at yet
    expected = explain(replace(without_statistics), picture)
    assert all(same(e, expected) for e in in_threads([lambda: explain(fresh, picture)] * 4))
