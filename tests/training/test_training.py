"""The parts of a run: one step, averaged weights, scores, gate statistics."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from training_help import CPU, FAST, MIDDLE, labelled, new_run, noise, numbers

import mnv3
import train
from mnv3 import InputError
from mnv3.basics import generator
from mnv3.checkpoints.checkpoint import GateStatistics
from mnv3.checkpoints.reading import read_checkpoint
from mnv3.nets.spec import Spec
from mnv3.nets.tutorial import ArticleSpec
from mnv3.training import dataset as training_dataset
from mnv3.training import evaluation
from mnv3.training import run as training_run
from mnv3.training.augment import augment, normalise
from mnv3.training.dataset import Pictures
from mnv3.training.evaluation import gate_statistics, score
from mnv3.training.recipe import Recipe
from mnv3.training.run import Averaged, Run, train_step

# ---- one step -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def eight():
    """Eight pictures of two classes that are their own mirror images, so that with shift 0 nothing augments them."""
    half = torch.from_numpy(noise(8, 3, 8, 4)).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return Pictures(torch.cat([half, half.flip(3)], 3), torch.arange(8) % 2, ("a", "b"))


def test_mirrored_pictures_are_not_augmented(eight):
    """What the tests below rely on."""
    assert torch.equal(augment(eight.images, generator(0), 0), eight.images)


def test_every_parameter_gets_a_gradient(eight):
    run = new_run(FAST, 2)
    train_step(run, eight, *MIDDLE)
    without = [name for name, p in run.model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("variant", ["article-large", "large"])
def test_every_parameter_of_the_other_networks_gets_a_gradient(variant, eight):
    spec = ArticleSpec(variant, 2) if variant == "article-large" else Spec.of(variant, 0.35, 2, 2)
    run = Run.new(replace(FAST, dropout=0.0), spec, CPU)
    train_step(run, eight, *MIDDLE)
    assert [name for name, p in run.model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_compiled_run_saves_the_names_of_one_that_is_not():
    assert new_run(replace(FAST, compile=True), 2).state()["model"].keys() == new_run(FAST, 2).state()["model"].keys()


def test_it_learns_eight_pictures_by_heart(eight):
    run = new_run(replace(FAST, norm_momentum=0.3), 2)
    losses = [train_step(run, eight, *MIDDLE)[0] for _ in range(60)]
    assert losses[0] > 0.5
    assert max(losses[-5:]) < 0.05
    logits = evaluation.predict(run.model.eval(), eight, *MIDDLE)
    assert score(logits, eight.labels)["top1"] == 1  # BatchNorm's running statistics have kept up


def must_learn(run, pictures):
    """Twenty steps: every tensor that is learned moves, and the loss falls by a third."""
    before = deepcopy(run.model)
    losses = [train_step(run, pictures, *MIDDLE)[0] for _ in range(20)]
    still = [n for (n, p), q in zip(run.model.named_parameters(), before.parameters(), strict=True) if p.equal(q)]
    assert still == []
    assert sum(losses[-3:]) < 2 / 3 * sum(losses[:3])


def test_a_run_learns_and_one_whose_gradients_are_cleared_before_the_step_is_refused(eight):
    must_learn(new_run(FAST, 2), eight)
    mutant = new_run(FAST, 2)
    step = mutant.optimiser.step
    mutant.optimiser.step = lambda: (mutant.optimiser.zero_grad(set_to_none=False), step())
    with pytest.raises(AssertionError):
        must_learn(mutant, eight)


def test_a_step_is_a_function_of_the_state_alone(eight):
    outcomes = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        run = new_run(FAST, 2)
        train_step(run, eight, *MIDDLE)
        outcomes.append(run.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(o.values() for o in outcomes), strict=True))


def test_every_picture_is_seen_once_in_an_epoch_and_epochs_differ(monkeypatch):
    pictures, batches = labelled(20, 20, size=32), []
    monkeypatch.setattr(training_dataset, "augment", lambda images, *_: batches.append(images) or images)
    run = new_run(replace(FAST, epochs=2, batch_size=16), 2)
    for _ in range(4):
        train_step(run, pictures, *MIDDLE)
    orders = [numbers(Pictures(torch.cat(batches[i : i + 2]), torch.zeros(32), ())) for i in (0, 2)]
    assert all(len(set(order)) == 32 for order in orders)  # 40 // 16 = 2 whole batches
    assert orders[0] != orders[1]


def test_bf16_learns_too(eight):
    run = new_run(replace(FAST, norm_momentum=0.3, precision="bf16"), 2)
    losses = [train_step(run, eight, *MIDDLE)[0] for _ in range(40)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


def test_the_scale_of_fp16s_gradients_goes_on_where_it_was():
    """On a GPU it is halved and doubled along the way; here the CPU's scaler stands in for it."""
    runs = [new_run(FAST, 2), new_run(FAST, 2)]
    for run, scale in zip(runs, (4096.0, 2.0), strict=True):
        run.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        run.scaler.scale(torch.ones(()))  # which makes the scale a tensor, as the first step does
    runs[1].restore(runs[0].state())
    assert runs[1].scaler.get_scale() == 4096


def test_what_is_likely_to_disappoint_is_said(eight, capsys):
    run = new_run(replace(FAST, norm_momentum=0.01), 2)
    train.notes(run, eight)
    said = capsys.readouterr().out
    assert "steps are few for BatchNorm" in said and "1×1 map" not in said
    run.recipe = replace(FAST, norm_momentum=1.0)
    train.notes(run, eight)
    assert capsys.readouterr().out == ""
    run.model = nn.Module()
    run.model.spec = Spec.of("small", 0.35, 2, 0)  # no stride at 1
    train.notes(run, eight)
    assert "32 pixels end in a 1×1 map" in capsys.readouterr().out


def test_a_run_can_start_from_a_checkpoints_weights_with_a_new_head():
    known = mnv3.load("cifar10-small")
    for classes in (10, 3):
        model = training_run.new_model(Recipe(), Spec.of("small", 1.0, classes, 2), known)
        same = {k for k, v in model.state_dict().items() if v.shape == known.model.state_dict()[k].shape}
        assert all(torch.equal(model.state_dict()[k], known.model.state_dict()[k]) for k in same)
        new = set(model.state_dict()) - same
        assert new == (set() if classes == 10 else {"classifier.3.weight", "classifier.3.bias"})


def test_early_epochs_run_on_maps_a_quarter_the_size():
    run = new_run(replace(FAST, epochs=2, early_epochs=1), 2)
    pictures, strides = labelled(4, 4, size=32), []
    for _ in range(2):
        train_step(run, pictures, *MIDDLE)
        strides.append(run.model.features[0][0].stride)
    assert strides == [(2, 2), (1, 1)]


@pytest.mark.parametrize("count, steps", [(65, 1), (64, 1), (128, 2)])
def test_only_whole_batches_make_steps(count, steps):
    assert training_run.steps_per_epoch(labelled(count), Recipe(batch_size=64)) == steps


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(InputError, match=r"`batch_size` \(=64\) is more than the 63"):
        training_run.steps_per_epoch(labelled(63), Recipe(batch_size=64))


# ---- averaged weights ---------------------------------------------------------------------------------------------


def norm_and_linear(value=0.0):
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)
    return model


def test_without_decay_the_average_is_the_model_buffers_too():
    run = new_run(replace(FAST, ema=0), 2)
    for _ in range(2):
        train_step(run, labelled(4, 4, size=32), *MIDDLE)
    average, model = run.average.model.state_dict(), run.model.state_dict()
    assert all(torch.equal(average[name], model[name]) for name in model)
    assert model["features.0.1.running_mean"].any() and model["features.0.1.num_batches_tracked"] == 2


def test_the_average_is_warmed_up_by_hand():
    average = Averaged(norm_and_linear(0), 0.998)
    average.update(norm_and_linear(1))
    first = 1 - 2 / 11
    assert average.model[1].weight.mean().item() == pytest.approx(first)
    average.update(norm_and_linear(3))
    second = 3 / 12 * first + 9 / 12 * 3
    for tensor in (average.model[1].weight, average.model[0].running_mean, average.model[0].running_var):
        assert tensor.mean().item() == pytest.approx(second)
    assert average.model[0].num_batches_tracked == 3  # a count is copied, not averaged


def test_a_short_runs_average_is_not_its_random_start():
    average = Averaged(norm_and_linear(0), 0.9999)
    for _ in range(200):
        average.update(norm_and_linear(1))
    assert average.model[1].weight.min() > 0.999  # without warm-up 0.9999 ** 200 = 98 % would still be the start


def test_a_long_runs_average_has_the_asked_decay():
    average = Averaged(norm_and_linear(0), 0.5)
    for _ in range(50):
        average.update(norm_and_linear(0))
    average.update(norm_and_linear(1))
    assert average.model[1].weight.mean().item() == pytest.approx(0.5)


def test_the_average_has_memory_of_its_own():
    model = norm_and_linear(1)
    average = Averaged(model, 0.9)
    model[1].weight.data.fill_(7)
    assert average.model[1].weight.mean() == 1


# ---- scores -------------------------------------------------------------------------------------------------------


def test_scores_by_hand():
    probabilities = torch.tensor(
        [[0.9, 0.05, 0.05], [0.62, 0.3, 0.08], [0.2, 0.7, 0.1], [0.65, 0.2, 0.15], [0.1, 0.1, 0.8]]
    )
    labels = torch.tensor([0, 1, 1, 0, 2])
    result = score(probabilities.log(), labels)
    assert result["n"] == 5 and result["top1"] == 0.8
    assert result["top1_per_class"] == [1, 0.5, 1]
    right = torch.tensor([0.9, 0.3, 0.7, 0.65, 0.8])
    assert result["loss"] == pytest.approx(-right.log().mean().item(), abs=1e-4)
    # Of 15 bins, 0.62 and 0.65 share the tenth (0.6 … 0.667), one of them right; the others are alone.
    error = (abs(0.9 - 1) + abs(0.62 + 0.65 - 1) + abs(0.7 - 1) + abs(0.8 - 1)) / 5
    assert result["calibration_error"] == pytest.approx(error, abs=1e-4)
    assert "top5" not in result


def test_a_sure_and_right_network_is_calibrated_and_a_sure_and_wrong_one_is_not():
    logits = torch.eye(4) * 100
    assert score(logits, torch.arange(4))["calibration_error"] == 0
    assert score(logits, torch.arange(4).flip(0))["calibration_error"] == 1


def test_top5_counts_the_five_likeliest_and_needs_six_classes():
    logits = torch.arange(7.0).repeat(4, 1)  # class 6 is likeliest, then 5, 4, 3, 2
    result = score(logits, torch.tensor([6, 2, 1, 0]))
    assert (result["top1"], result["top5"]) == (0.25, 0.5)
    assert "top5" in score(torch.randn(3, 6), torch.tensor([0, 1, 2]))
    assert "top5" not in score(torch.randn(3, 5), torch.tensor([0, 1, 2]))


def test_a_class_without_pictures_scores_nothing_that_json_cannot_hold():
    result = score(torch.eye(3)[:2], torch.tensor([0, 1]))
    assert result["top1_per_class"][:2] == [1, 1]
    json.dumps(result, allow_nan=False)  # metrics.json; a test split may lack a class


# ---- gate statistics ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(structured):
    """260 scenes, more than a batch, of nine of ten classes, as unevenly as i² mod 10 or so."""
    images = (structured(260, 32, seed=5) * 40 + 128).clamp(0, 255).to(torch.uint8)
    labels = torch.tensor([(i * i + i // 7) % 9 for i in range(260)])
    return Pictures(images, labels, tuple(f"kind {k}" for k in range(10)))


@pytest.fixture(scope="module")
def plain_gates(small_checkpoint, scenes):
    """The gates of `scenes`, L × (260, C) in float64, picture by picture."""
    model = small_checkpoint().model
    with torch.inference_mode():
        rows = [model.explained(normalise(image[None], *MIDDLE)).gates for image in scenes.images]
    return [torch.cat(block).double().numpy() for block in zip(*rows, strict=True)]


def test_gate_statistics_are_numpys_overall_and_per_class(small_checkpoint, scenes, plain_gates):
    statistics = gate_statistics(small_checkpoint().model, scenes, *MIDDLE, "scenes")
    labels = scenes.labels.numpy()
    groups = [np.full(260, True)] + [labels == k for k in range(9)]
    assert statistics.n.tolist() == [int(group.sum()) for group in groups] + [0]
    assert statistics.source == "scenes" and statistics.count == 260
    for gates, mean, m2 in zip(plain_gates, statistics.mean, statistics.m2, strict=True):
        assert mean.shape == m2.shape == (11, gates.shape[1])
        for row, group in enumerate(groups):
            np.testing.assert_allclose(mean[row], gates[group].mean(0), atol=1e-5)
            np.testing.assert_allclose(m2[row], gates[group].var(0) * group.sum(), rtol=1e-3, atol=1e-4)
    assert max(np.ptp(gates.mean(1)) for gates in plain_gates) > 0.01, "these gates hardly move: nothing was compared"


def test_z_scores_are_numpys(small_checkpoint, scenes, plain_gates):
    statistics = gate_statistics(small_checkpoint().model, scenes, *MIDDLE, "scenes")
    scores = statistics.z_scores([gates[3] for gates in plain_gates])
    for gates, z in zip(plain_gates, scores, strict=True):
        spread = gates.std(0, ddof=1)
        moved = spread > 1e-3
        np.testing.assert_allclose(z[moved], ((gates[3] - gates.mean(0)) / np.maximum(spread, 1e-9))[moved], atol=0.02)
        assert (z[spread == 0] == 0).all() and np.isfinite(z).all()
    assert max(np.abs(z).max() for z in scores) > 1


@pytest.mark.parametrize("count, known", [(49, False), (50, True)])
def test_there_are_no_z_scores_under_fifty_pictures(count, known):
    statistics = GateStatistics(np.array([count]), (np.full((1, 2), 0.5),), (np.ones((1, 2)),), "pictures")
    assert (statistics.z_scores([np.array([0.2, 0.5])]) is not None) == known


def test_statistics_with_a_class_that_has_no_pictures_can_be_stored_and_read(small_checkpoint, scenes, tmp_path):
    statistics = gate_statistics(small_checkpoint().model, scenes, *MIDDLE, "scenes")
    replace(small_checkpoint(), gates=statistics).save(tmp_path)
    stored = read_checkpoint(tmp_path).gates
    assert stored.n[-1] == 0 and np.array_equal(stored.mean[0][0], statistics.mean[0][0])
