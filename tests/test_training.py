"""Training does what its docstrings say: what it reads, how it learns, and that a resumed run is the same run."""

import argparse
import errno
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import mnv3
import train
from mnv3 import InputError, data, training
from mnv3.checkpoints import Checkpoint, GateStatistics, read_checkpoint
from mnv3.data import Pictures, augment, colour_statistics, generator, hold_out, normalise, read_folder
from mnv3.images import Preprocessing, open_picture
from mnv3.tables import Spec
from mnv3.training import Averaged, Recipe, Run, gate_statistics, learning_rate, optimiser, score, train_step

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def labelled(*per_class, size=8):
    """Pictures with `per_class` of each class; the first two bytes of a picture are its number."""
    count = sum(per_class)
    images = torch.from_numpy(noise(count, 3, size, size))
    images[:, 0, 0, 0], images[:, 0, 0, 1] = torch.arange(count) // 256, torch.arange(count) % 256
    labels = torch.repeat_interleave(torch.arange(len(per_class)), torch.tensor(per_class))
    return Pictures(images, labels, tuple(f"class {k}" for k in range(len(per_class))))


def numbers(pictures):
    """The numbers that `labelled` wrote into the pictures."""
    return (pictures.images[:, 0, 0, 0].long() * 256 + pictures.images[:, 0, 0, 1]).tolist()


# ---- pictures held out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_class, count", [((50, 50), 20), ((500, 300, 200), 100), ((7, 90, 3), 33), ((5, 5), 9)])
def test_held_out_pictures_are_each_classs_share_and_none_is_learned_from(per_class, count):
    everything = labelled(*per_class)
    learned, held_out = hold_out(everything, count, seed=1)
    assert len(held_out) == count
    assert sorted(numbers(learned) + numbers(held_out)) == list(range(len(everything)))
    for k, size in enumerate(per_class):
        share = count * size / len(everything)
        assert abs(int((held_out.labels == k).sum()) - share) <= 1
    for part in (learned, held_out):  # pictures and labels stay together
        assert torch.equal(part.labels, everything.labels[numbers(part)])


def test_what_is_held_out_is_decided_by_the_seed_alone():
    everything = labelled(300, 300)
    first = numbers(hold_out(everything, 60, seed=1)[1])
    torch.manual_seed(12345)
    np.random.seed(54321)
    assert numbers(hold_out(everything, 60, seed=1)[1]) == first
    assert numbers(hold_out(everything, 60, seed=2)[1]) != first


@pytest.mark.parametrize("count", [0, -1, 20, 21])
def test_holding_out_nothing_or_everything_is_refused(count):
    with pytest.raises(InputError, match=rf"`holdout` \(={count}\)"):
        hold_out(labelled(10, 10), count, seed=0)


# ---- augmentation and normalisation -------------------------------------------------------------------------------


def possible(picture, shift):
    """{bytes: (mirrored, down, right)} for every way in which `augment` may show a picture (3, H, W)."""
    _, height, width = picture.shape
    ways = {}
    for mirrored in (False, True):
        flipped = picture[:, :, ::-1] if mirrored else picture
        padded = np.pad(flipped, ((0, 0), (shift, shift), (shift, shift)), mode="reflect")
        for down in range(2 * shift + 1):
            for right in range(2 * shift + 1):
                ways[padded[:, down : down + height, right : right + width].tobytes()] = (mirrored, down, right)
    return ways


@pytest.mark.parametrize("shift", [0, 2])
def test_augmented_pictures_are_mirrored_and_moved_and_nothing_else(shift):
    pictures = noise(400, 3, 7, 9)
    augmented = augment(torch.from_numpy(pictures), generator(3), shift)
    assert augmented.dtype == torch.uint8 and augmented.shape == pictures.shape
    seen = [
        possible(before, shift)[np.ascontiguousarray(after).tobytes()]  # a KeyError: no mirrored and moved picture
        for before, after in zip(pictures, augmented.numpy(), strict=True)
    ]
    moves = range(2 * shift + 1)
    assert {way[1] for way in seen} == set(moves) and {way[2] for way in seen} == set(moves)
    assert 150 < sum(mirrored for mirrored, _, _ in seen) < 250


def test_augmentation_is_a_function_of_the_generator():
    pictures = torch.from_numpy(noise(32, 3, 8, 8))
    first = augment(pictures, generator(0, 2, 7), 2)
    torch.manual_seed(99)
    assert torch.equal(augment(pictures, generator(0, 2, 7), 2), first)
    assert not torch.equal(augment(pictures, generator(0, 2, 8), 2), first)
    assert torch.equal(pictures, torch.from_numpy(noise(32, 3, 8, 8))), "the pictures kept for training were changed"


def test_generators_differ_with_every_one_of_their_numbers():
    draws = {torch.rand((), generator=generator(a, b, c)).item() for a in (0, 1) for b in (0, 1) for c in (0, 1)}
    assert len(draws) == 8


def test_normalised_values_by_hand():
    picture = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    out = normalise(picture, torch.tensor([0.5, 0.4, 0.2]), torch.tensor([0.5, 0.1, 0.4]))
    assert out.dtype == torch.float32 and out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out[1, :, 2, 3], torch.tensor([-1.0, -2.0, 2.0]))


def test_training_and_the_app_normalise_alike():
    mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    picture = noise(32, 32, 3)
    served = Preprocessing(32, 32, "bilinear", mean, std)(open_picture(picture))
    resident = torch.from_numpy(picture).permute(2, 0, 1)[None]
    torch.testing.assert_close(normalise(resident, torch.tensor(mean), torch.tensor(std))[0], served)


def test_colour_statistics():
    images = torch.zeros(100, 3, 8, 8, dtype=torch.uint8)
    images[:50, 0], images[:, 1], images[:25, 2] = 255, 51, 204
    mean, std = colour_statistics(Pictures(images, torch.zeros(100), ("a",)))
    assert mean == pytest.approx((0.5, 0.2, 0.2), abs=1e-4)
    assert std == pytest.approx((0.5, 0, 0.8 * math.sqrt(0.25 * 0.75)), abs=1e-3)
    assert all(type(value) is float for value in mean + std)  # for config.json


# ---- folders of pictures ------------------------------------------------------------------------------------------


def write(path, array=None, **options):
    """A picture file; a class folder's pictures differ by their path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = noise(8, 8, 3, seed=sum(str(path.name).encode())) if array is None else array
    Image.fromarray(array).save(path, **options)
    return path


def grown(folder, *classes, count=3):
    """folder/<class>/<0 … count − 1>.png of 8 × 8 pixels."""
    for name in classes:
        for i in range(count):
            write(folder / name / f"{i}.png")
    return folder


def test_classes_stand_in_the_order_of_their_names(tmp_path):
    for name, grey in (("20", 200), ("1", 10), ("2", 20), ("10", 100)):
        write(tmp_path / name / "x.png", np.full((8, 8, 3), grey, np.uint8))
    read = read_folder(tmp_path, 8)
    assert read.classes == ("1", "10", "2", "20")
    assert read.labels.tolist() == [0, 1, 2, 3]
    assert read.images.dtype == torch.uint8 and read.images.shape == (4, 3, 8, 8)
    assert read.images[:, 0, 0, 0].tolist() == [10, 100, 20, 200]


def test_another_split_takes_its_classes_from_the_training_split(tmp_path):
    learned = read_folder(grown(tmp_path / "train", "a", "b", "c"), 8)
    tested = read_folder(grown(tmp_path / "test", "b", "c", count=2), 8, learned.classes)
    assert tested.classes == ("a", "b", "c")
    assert tested.labels.tolist() == [1, 1, 2, 2]


def test_a_class_that_training_lacks_is_refused_by_name(tmp_path):
    learned = read_folder(grown(tmp_path / "train", "a", "b", "c"), 8)
    with pytest.raises(InputError, match="test/ has a class 'd'"):
        read_folder(grown(tmp_path / "test", "b", "c", "d"), 8, learned.classes)


def test_hidden_folders_and_files_are_passed_over(tmp_path):
    grown(tmp_path, "a", "b", ".ipynb_checkpoints", "__MACOSX")
    (tmp_path / ".git").mkdir()
    (tmp_path / "notes.txt").write_text("not a class")
    (tmp_path / "a" / "._0.png").write_bytes(b"\0\5\26\7" + bytes(78))
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    read = read_folder(tmp_path, 8)
    assert read.classes == ("a", "b") and read.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_an_empty_class_is_named(tmp_path):
    grown(tmp_path, "a", "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="/empty has no pictures"):
        read_folder(tmp_path, 8)
    (tmp_path / "empty" / "labels.txt").write_text("none")
    with pytest.raises(InputError, match="/empty has no pictures"):
        read_folder(tmp_path, 8)


@pytest.mark.parametrize("classes", [(), ("only",)])
def test_fewer_than_two_classes_are_refused(classes, tmp_path):
    with pytest.raises(InputError, match=f"has {len(classes)} class.* at least two"):
        read_folder(grown(tmp_path, *classes), 8)


def test_a_missing_train_folder_is_said_without_the_hosts_paths(tmp_path):
    with pytest.raises(InputError, match="no folder train/.*train/ and test/") as caught:
        read_folder(tmp_path / "train", 8)
    assert str(tmp_path) not in str(caught.value)


def test_a_picture_of_another_size_is_named_with_its_size(tmp_path):
    grown(tmp_path, "a", "b")
    write(tmp_path / "b" / "wide.png", noise(8, 9, 3))
    with pytest.raises(InputError, match=r"b/wide\.png is 9×8: this run needs 8×8"):
        read_folder(tmp_path, 8)


def test_unreadable_files_are_named_and_skipped_up_to_the_limit(tmp_path, capsys):
    grown(tmp_path, "a", "b", count=60)
    (tmp_path / "a" / "07.jpg").write_bytes(b"")
    read = read_folder(tmp_path, 8)  # one in 121
    assert len(read) == 120 and read.labels.bincount().tolist() == [60, 60]
    assert torch.equal(read.images[-1], torch.from_numpy(noise(8, 8, 3, seed=sum(b"9.png"))).permute(2, 0, 1))
    assert "skipped a/07.jpg: " in capsys.readouterr().out
    (tmp_path / "b" / "text.png").write_text("not a picture")
    with pytest.raises(InputError, match="2 of 122 files"):
        read_folder(tmp_path, 8)
    assert "skipped b/text.png: " in capsys.readouterr().out


def test_a_class_with_no_readable_picture_is_named(tmp_path):
    grown(tmp_path, "a", "b", count=100)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "broken.png").write_bytes(b"")
    with pytest.raises(InputError, match="/c has no"):
        read_folder(tmp_path, 8)


def test_16_bit_pictures_are_scaled_not_white(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        sixteen = np.random.default_rng(seed).integers(0, 65536, (8, 8), dtype=np.uint16)
        write(tmp_path / name / "16.png", sixteen)
        write(tmp_path / name / "8.png", (sixteen >> 8).astype(np.uint8))
    images = read_folder(tmp_path, 8).images.float()
    assert images.flatten(1).std(1).min() > 50
    assert (images[0::2] - images[1::2]).abs().max() <= 1


def test_pictures_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = noise(8, 8, 3)
    write(tmp_path / "a" / "turned.png", np.rot90(upright).copy(), exif=exif)
    write(tmp_path / "b" / "upright.png", upright)
    turned, plain = read_folder(tmp_path, 8).images
    assert torch.equal(turned, plain)


# ---- learning rate and optimiser ----------------------------------------------------------------------------------


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine():
    recipe = Recipe(lr=0.4, warmup=0.2)
    rate = [learning_rate(recipe, step / 1000) for step in range(1000)]
    assert 0 < rate[0] < 0.01
    assert rate[50] == pytest.approx(0.1) and rate[100] == pytest.approx(0.2)
    assert max(rate) == rate[200] == pytest.approx(0.4)
    assert rate[400] == pytest.approx(0.2 * (1 + math.cos(math.pi / 4)))
    assert rate[600] == pytest.approx(0.2)
    assert all(a < b for a, b in zip(rate[2:200], rate[3:201], strict=True))
    assert all(a > b for a, b in zip(rate[200:-1], rate[201:], strict=True))
    assert 0 < rate[-1] < 1e-5


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_a_run_without_a_rise_or_a_fall_has_a_rate_too(warmup):
    rates = [learning_rate(Recipe(lr=0.4, warmup=warmup), step / 100) for step in range(100)]
    assert all(0 < rate <= 0.4 for rate in rates)
    assert rates == sorted(rates, reverse=not warmup)


def test_weight_decay_is_on_convolutions_and_linear_layers_but_not_in_se_blocks():
    model = training.new_model(Recipe(width=0.35), Spec.of("small", 0.35, 10, 2))
    groups = optimiser(model, Recipe(weight_decay=0.01)).param_groups
    by_id = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(by_id) == len(list(model.parameters()))
    undecayed = {name for name, p in model.named_parameters() if by_id[id(p)] == 0}
    decayed = {name for name, p in model.named_parameters() if by_id[id(p)] == 0.01}
    in_se = {name for name in undecayed | decayed if ".fc1." in name or ".fc2." in name}
    assert len(in_se) == 4 * 9 and in_se <= undecayed
    modules = dict(model.named_modules())
    for name in (undecayed | decayed) - in_se:
        owner, _, kind = name.rpartition(".")
        layer = isinstance(modules[owner], nn.Conv2d | nn.Linear) and kind == "weight"
        assert (name in decayed) == layer, name


# ---- one step -----------------------------------------------------------------------------------------------------

FAST = Recipe(
    width=0.35, epochs=60, early_epochs=0, batch_size=8, lr=0.05, label_smoothing=0, shift=0, ema=0, weight_decay=0,
    holdout=1,
)  # fmt: skip
MIDDLE = torch.full((3,), 0.5), torch.full((3,), 0.25)


def new_run(recipe, classes):
    return Run.new(recipe, Spec.of(recipe.variant, recipe.width, classes, recipe.strides), CPU)


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


def test_it_learns_eight_pictures_by_heart(eight):
    run = new_run(replace(FAST, norm_momentum=0.3), 2)
    losses = [train_step(run, eight, *MIDDLE)[0] for _ in range(60)]
    assert losses[0] > 0.5
    assert max(losses[-5:]) < 0.05
    logits = training.predict(run.model.eval(), eight, *MIDDLE)
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
    monkeypatch.setattr(data, "augment", lambda images, *_: batches.append(images) or images)
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


def test_a_run_can_start_from_a_checkpoints_weights_with_a_new_head():
    known = mnv3.load("cifar10-small")
    for classes in (10, 3):
        model = training.new_model(Recipe(), Spec.of("small", 1.0, classes, 2), known)
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
    assert training.steps_per_epoch(labelled(count), Recipe(batch_size=64)) == steps


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(InputError, match=r"`batch_size` \(=64\) is more than the 63"):
        training.steps_per_epoch(labelled(63), Recipe(batch_size=64))


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


# ---- whole runs ---------------------------------------------------------------------------------------------------

CLASSES = ("10", "2", "cat & dog")  # in the order of names
STEPS = 6  # in an epoch: (120 − 24) // 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """train/ and test/ with three classes of textures, JPEG and PNG, 40 and 12 of each."""
    folder = tmp_path_factory.mktemp("data") / "textures"
    for split, count in (("train", 40), ("test", 12)):
        for k, name in enumerate(CLASSES):
            for i in range(count):
                coarse = noise(4 + 4 * k, 4 + 4 * k, 3, seed=1000 * k + i + 500 * (split == "test"))
                picture = Image.fromarray(coarse).resize((32, 32), Image.Resampling.NEAREST)
                path = folder / split / name / f"{i}.{'png' if i % 2 else 'jpg'}"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
    return folder


def arguments(folder, out, *more):
    """A command line for two epochs of six steps; the first epoch is an early one."""
    few = "--width 0.35 --holdout 24 --epochs 2 --early-epochs 1 --batch-size 16 --lr 0.05 --ema 0.8 --device cpu"
    return ["--data", str(folder), "--out", str(out), *few.split(), *more]


@pytest.fixture(scope="module")
def straight(folder, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "straight"
    assert train.main(arguments(folder, out)) == 0
    return out


class StopAfter(train.Stopping):
    """Is asked to stop once `steps` steps have been taken in this process."""

    steps, taken = 0, 0
    asked = property(lambda self: self.taken >= self.steps, lambda self, value: None)


def interrupted(folder, out, steps, *more):
    """A run that is asked to stop after `steps` steps; what it returns."""
    stop = type("Stop", (StopAfter,), {"steps": steps})

    def counted(*inputs):
        stop.taken += 1
        return train_step(*inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "Stopping", stop)
        patch.setattr(train, "train_step", counted)
        return train.main(arguments(folder, out, *more))


def comparable(out):
    """What two runs must share to the bit: weights, gates, card, log and metrics, all but the seconds it took."""
    metrics = json.loads((out / "metrics.json").read_text())
    for row in metrics["log"]:
        row.pop("seconds")
    metrics["machine"].pop("minutes")
    log = [line.rpartition(",")[0] for line in (out / "log.csv").read_text().splitlines()]
    files = {name: (out / name).read_bytes() for name in ("model.safetensors", "gates.safetensors", "config.json")}
    state = torch.load(out / "last.pt", weights_only=True)
    average = {name: tensor.numpy().tobytes() for name, tensor in state["average"].items()}
    return {**files, "metrics.json": metrics, "log.csv": log, "averaged weights": average}


def differences(out, straight):
    """Names of what differs between two finished runs."""
    one, other = comparable(out), comparable(straight)
    return [name for name in one if one[name] != other[name]]


def test_a_run_leaves_whole_files_and_a_row_for_each_epoch(straight):
    assert sorted(path.name for path in straight.iterdir()) == [
        "README.md", "config.json", "confusion.png", "curves.png", "gates.safetensors", "last.pt", "log.csv",
        "metrics.json", "model.safetensors",
    ]  # fmt: skip
    head, *rows = (straight / "log.csv").read_text().splitlines()
    assert head.startswith("epoch,lr,train_loss") and head.endswith("seconds")
    assert [row.partition(",")[0] for row in rows] == ["1", "2"]


def test_a_run_is_a_function_of_its_recipe(folder, straight, tmp_path):
    assert train.main(arguments(folder, tmp_path / "again")) == 0
    assert differences(tmp_path / "again", straight) == []
    assert train.main(arguments(folder, tmp_path / "other", "--seed", "1")) == 0
    assert "model.safetensors" in differences(tmp_path / "other", straight)


def test_a_run_stopped_at_an_epochs_end_and_resumed_is_the_same_run(folder, straight, tmp_path):
    out = tmp_path / "run"
    assert interrupted(folder, out, STEPS) == 130
    assert torch.load(out / "last.pt", weights_only=True)["step"] == STEPS
    assert not (out / "model.safetensors").exists()
    assert train.main(arguments(folder, out, "--resume")) == 0
    assert differences(out, straight) == []


CHILD = """
import sys, time
from pathlib import Path
import train
meeting, true_step = Path(sys.argv[1]), train.train_step
def step(run, *rest):
    result = true_step(run, *rest)
    if run.step == 8:  # in the middle of the second epoch: wait until the signals have been sent
        (meeting / "there").touch()
        while not (meeting / "sent").exists():
            time.sleep(0.01)
    return result
train.train_step = step
sys.exit(train.main(sys.argv[2:]))
"""


def test_a_run_stopped_by_signals_in_mid_epoch_and_resumed_is_the_same_run(folder, straight, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-W", "error", "-c", CHILD, str(tmp_path), *arguments(folder, out)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + 120
        while not (tmp_path / "there").exists():
            assert child.poll() is None and time.monotonic() < deadline, child.stderr.read()
            time.sleep(0.02)
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGINT)  # an impatient second one harms nothing
        (tmp_path / "sent").touch()
        _, said = child.communicate(timeout=60)
    assert child.returncode == 130 and "stopped and saved at step 8" in said and "Traceback" not in said
    assert {path.name for path in out.iterdir()} == {"last.pt", "log.csv"}
    assert torch.load(out / "last.pt", weights_only=True)["step"] == 8
    assert train.main(arguments(folder, out, "--resume")) == 0
    assert differences(out, straight) == []


FORGOTTEN = {
    "the place in the epoch": lambda run: setattr(run, "step", run.step // STEPS * STEPS),
    "the momentum": lambda run: run.optimiser.state.clear(),
    "the number of updates": lambda run: setattr(run.average, "updates", 0),
}


@pytest.fixture(scope="module")
def stopped(folder, tmp_path_factory):
    """The folder of a run that was stopped after eight steps, in the middle of its second epoch."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    assert interrupted(folder, out, 8) == 130
    return out


def test_a_run_resumed_in_mid_epoch_ends_with_the_same_weights(folder, stopped, straight, tmp_path):
    """The control of the next test, which breaks just this."""
    out = shutil.copytree(stopped, tmp_path / "run")
    assert train.main(arguments(folder, out, "--resume")) == 0
    assert {"model.safetensors", "gates.safetensors", "averaged weights"}.isdisjoint(differences(out, straight))


@pytest.mark.parametrize("what", FORGOTTEN)
def test_a_run_is_another_if_resuming_forgets(what, folder, stopped, straight, tmp_path, monkeypatch):
    restore = Run.restore

    def forgetful(run, state):
        restore(run, state)
        FORGOTTEN[what](run)

    monkeypatch.setattr(Run, "restore", forgetful)
    out = shutil.copytree(stopped, tmp_path / "run")
    assert train.main(arguments(folder, out, "--resume")) == 0
    assert {"model.safetensors", "averaged weights"} & set(differences(out, straight))


def test_the_rate_goes_on_where_it_was(folder, stopped, tmp_path, monkeypatch):
    out, rates = shutil.copytree(stopped, tmp_path / "run"), []

    def watched(run, *rest):
        result = train_step(run, *rest)
        rates.append(run.optimiser.param_groups[0]["lr"])
        return result

    monkeypatch.setattr(train, "train_step", watched)
    assert train.main(arguments(folder, out, "--resume")) == 0
    recipe = Recipe(lr=0.05)
    assert rates == [learning_rate(recipe, step / 12) for step in range(8, 12)]


def last_line(capsys):
    """The last line on stderr, which must be a sentence and not a traceback."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.rstrip().replace("\r", "\n").splitlines()[-1]


@pytest.mark.parametrize("option, value", [("lr", "0.06"), ("batch-size", "8"), ("epochs", "3"), ("seed", "4")])
def test_resuming_with_another_recipe_is_refused_naming_the_field(option, value, folder, stopped, capsys):
    state = (stopped / "last.pt").read_bytes()
    assert train.main(arguments(folder, stopped, "--resume", f"--{option}", value)) == 2
    said = last_line(capsys)
    assert option.replace("-", "_") in said and value in said and "--" not in said.partition("recipe")[0]
    assert (stopped / "last.pt").read_bytes() == state


def test_a_folder_that_holds_a_run_is_not_overwritten(folder, stopped, capsys):
    state = (stopped / "last.pt").read_bytes()
    assert train.main(arguments(folder, stopped)) == 2
    assert "already holds a run: add --resume" in last_line(capsys)
    assert (stopped / "last.pt").read_bytes() == state


def test_resuming_without_a_run_is_refused(folder, tmp_path, capsys):
    assert train.main(arguments(folder, tmp_path / "new", "--resume")) == 2
    assert "new/ holds no run to resume" in last_line(capsys)


def test_resuming_with_other_pictures_is_refused(folder, stopped, tmp_path, capsys):
    """The same recipe over a folder that has lost a picture would be another run, batch by batch."""
    out, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(stopped, out)
    shutil.copytree(folder, moved)
    next((moved / "train" / CLASSES[0]).iterdir()).unlink()
    assert train.main(arguments(moved, out, "--resume")) == 2
    assert "learned from other pictures (pictures: 96 → 95)" in last_line(capsys)


def foreign(_):
    """A file that torch.save wrote, but not for a run."""
    buffer = io.BytesIO()
    torch.save({"a": 1}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("harm", [lambda state: state[: len(state) // 2], lambda state: b"not a state", foreign])
def test_resuming_from_a_damaged_state_is_one_sentence(harm, folder, stopped, tmp_path, capsys):
    out = shutil.copytree(stopped, tmp_path / "run")
    (out / "last.pt").write_bytes(harm((stopped / "last.pt").read_bytes()))
    assert train.main(arguments(folder, out, "--resume")) == 2
    assert "last.pt" in last_line(capsys)


# ---- what a run must survive --------------------------------------------------------------------------------------


def test_a_non_finite_loss_stops_with_the_step_named_and_the_last_state_goes_on(
    folder, straight, tmp_path, monkeypatch, capsys
):
    out, calls = tmp_path / "run", []

    def poisoned(*inputs):
        calls.append(inputs)
        return augment(*inputs) * (float("nan") if len(calls) == 9 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(data, "augment", poisoned)
        assert train.main(arguments(folder, out)) == 1
    assert "The loss is nan at step 8 (epoch 2)" in last_line(capsys)
    assert torch.load(out / "last.pt", weights_only=True)["step"] == STEPS
    assert not (out / "model.safetensors").exists()
    assert train.main(arguments(folder, out, "--resume")) == 0
    assert differences(out, straight) == []


def finite(state):
    tensors = {**state["model"], **{f"average {name}": t for name, t in state["average"].items()}}
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def test_a_rate_that_is_far_too_high_stops_the_run_with_the_step_named(folder, tmp_path, capsys):
    high = ["--lr", "100", "--batch-size", "96", "--epochs", "12", "--early-epochs", "0", "--warmup", "0.1"]
    assert train.main(arguments(folder, tmp_path / "run", *high)) == 1
    said = last_line(capsys)
    assert "step" in said and "--lr" in said
    assert finite(torch.load(tmp_path / "run" / "last.pt", weights_only=True))


def test_weights_that_are_no_longer_finite_are_never_saved(folder, tmp_path, monkeypatch, capsys):
    def harmed(run, *rest):
        result = train_step(run, *rest)
        if run.step == 2 * STEPS:
            with torch.no_grad():
                run.model.classifier[3].bias[0] = float("inf")
        return result

    monkeypatch.setattr(train, "train_step", harmed)
    with suppress(ValueError, IndexError):  # what it stops with is the test above
        assert train.main(arguments(folder, tmp_path / "run")) == 1
    assert not (tmp_path / "run" / "model.safetensors").exists()
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert state["step"] == STEPS and finite(state)


@pytest.fixture
def full_disk(monkeypatch):
    """torch.save succeeds once; then it writes a kilobyte and finds the disk full."""
    true_save, saves = torch.save, []

    def save(state, path):
        saves.append(path)
        if len(saves) == 1:
            return true_save(state, path)
        whole = io.BytesIO()
        true_save(state, whole)
        Path(path).write_bytes(whole.getvalue()[:1024])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    return saves


def test_a_save_that_breaks_off_leaves_the_last_state_whole(folder, straight, full_disk, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with suppress(OSError):
        assert train.main(arguments(folder, out)) != 0
    assert len(full_disk) == 2
    assert {path.name for path in out.iterdir()} == {"last.pt", "log.csv"}  # no temporary file is left
    assert torch.load(out / "last.pt", weights_only=True)["step"] == STEPS
    monkeypatch.undo()
    assert train.main(arguments(folder, out, "--resume")) == 0
    assert differences(out, straight) == []


def test_a_full_disk_is_one_sentence(folder, full_disk, tmp_path, capsys):
    assert train.main(arguments(folder, tmp_path / "run")) == 1
    assert "No space left" in last_line(capsys)


# ---- what a run leaves --------------------------------------------------------------------------------------------


def test_a_finished_folder_is_a_checkpoint(straight):
    checkpoint = mnv3.load(straight)
    assert checkpoint.labels == CLASSES and checkpoint.name == "textures-small"
    assert checkpoint.spec == mnv3.Spec.of("small", 0.35, 3, 2)
    assert checkpoint.gates.n.tolist() == [96, 32, 32, 32]
    assert checkpoint.metrics["weights"] in ("averaged", "newest")
    assert checkpoint.metrics["held_out"]["n"] == 24
    assert checkpoint.metrics["recipe"]["lr"] == 0.05 and len(checkpoint.metrics["log"]) == 2
    assert (checkpoint.preprocessing.resize, checkpoint.preprocessing.crop) == (32, 32)


def test_a_finished_folder_can_be_explained(folder, straight):
    explanation = mnv3.explain(mnv3.load(straight), folder / "test" / "2" / "0.jpg")
    assert {guess.label for guess in explanation.top(5)} == set(CLASSES)  # three, though five were asked for


def test_no_path_of_the_host_is_published(straight, folder):
    for name in ("config.json", "metrics.json", "README.md", "gates.safetensors", "model.safetensors"):
        assert str(folder.parent).encode() not in (straight / name).read_bytes(), name


def test_weights_are_stored_as_fp16_and_batchnorm_as_fp32(straight):
    from safetensors.torch import load_file

    stored = load_file(straight / "model.safetensors")
    model = read_checkpoint(straight).model
    norms = {name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert len(norms) == 34
    for name, tensor in stored.items():
        owner, _, kind = name.rpartition(".")
        if owner in norms:
            assert tensor.dtype == (torch.int64 if kind == "num_batches_tracked" else torch.float32), name
        elif kind == "weight":
            assert tensor.dtype == torch.float16, name
    assert all(tensor.dtype == torch.float32 for tensor in model.parameters())


def test_the_published_figures_are_those_of_the_stored_file(folder, straight):
    """Recomputed from the file alone, through the way that the app takes."""
    checkpoint = mnv3.load(straight)
    paths = sorted((folder / "test").glob("*/*"))
    with torch.inference_mode():
        logits = torch.stack([checkpoint.model(checkpoint.preprocess(open_picture(p))[None])[0] for p in paths])
    labels = torch.tensor([checkpoint.labels.index(path.parent.name) for path in paths])
    published = checkpoint.metrics["test"]
    assert published["n"] == len(paths) == 36
    assert published["top1"] == pytest.approx((logits.argmax(1) == labels).double().mean().item(), abs=1e-4)
    assert published["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), abs=2e-4)


def test_the_measured_network_is_read_back_from_the_file(folder, straight, tmp_path):
    """A file that was changed after storing is measured as it is: here it answers the same to everything."""
    out = shutil.copytree(straight, tmp_path / "run")
    in_memory = read_checkpoint(out)
    changed = read_checkpoint(out)
    changed.model.classifier[3].weight.zero_()
    changed.model.classifier[3].bias.zero_()
    changed.save(out, half=True)
    train.measure(in_memory, read_folder(folder / "test", 32, CLASSES), out)
    assert json.loads((out / "metrics.json").read_text())["test"]["loss"] == round(math.log(3), 4)


def saying(model, index):
    """Makes the network answer class `index` to everything."""
    with torch.no_grad():
        model.classifier[3].bias.zero_()[index] = 1e4


@pytest.mark.parametrize("better, worse", [("averaged", "newest"), ("newest", "averaged")])
def test_the_weights_that_do_better_on_held_out_pictures_are_stored(better, worse, folder, tmp_path):
    everything = read_folder(folder / "train", 32)
    learned, held_out = hold_out(everything, 24, 0)
    mostly_first = held_out.subset(torch.tensor([0, 1, 2, 3, 4, 5, 8, 16]))
    assert mostly_first.labels.bincount().tolist() == [6, 1, 1]
    run = new_run(Recipe(width=0.35, data=str(folder)), 3)
    run.log = [dict.fromkeys(("train_top1", "heldout_top1", "heldout_top1_average"), 0.5) | {"epoch": 1, "seconds": 1}]
    networks = {"averaged": run.average.model, "newest": run.model}
    saying(networks[better], 0)
    saying(networks[worse], 2)
    mean, std = colour_statistics(everything)
    prepared = Preprocessing(32, 32, "bilinear", mean, std)
    folder = train.Folder(train.Options(tmp_path), prepared, "textures", everything.classes)
    checkpoint = train.store(run, learned, mostly_first, (torch.tensor(mean), torch.tensor(std)), folder)
    assert checkpoint.metrics["weights"] == better and checkpoint.metrics["held_out"]["top1"] == 0.75
    assert mnv3.load(tmp_path).model.classifier[3].bias.tolist() == [1e4, 0, 0]


def test_test_pictures_are_opened_only_after_the_checkpoint_is_stored(folder, tmp_path, monkeypatch):
    out, opened = tmp_path / "run", []

    def watched(path):
        opened.append((path.parent.parent.name, (out / "model.safetensors").exists()))
        return open_picture(path)

    monkeypatch.setattr(data, "open_picture", watched)
    assert train.main(arguments(folder, out, "--epochs", "1")) == 0
    assert opened == [("train", False)] * 121 + [("test", True)] * 36  # of the first of them, its size


def test_a_test_split_may_lack_a_class(folder, straight, tmp_path):
    out, few = shutil.copytree(straight, tmp_path / "run"), tmp_path / "test"
    for name in CLASSES[1:]:
        shutil.copytree(folder / "test" / name, few / name)
    train.measure(read_checkpoint(out), read_folder(few, 32, CLASSES), out)
    assert mnv3.load(out).metrics["test"]["n"] == 24


def test_fewer_held_out_pictures_than_classes_still_end_in_a_checkpoint(folder, tmp_path):
    assert train.main(arguments(folder, tmp_path / "run", "--holdout", "2", "--epochs", "1")) == 0
    assert isinstance(mnv3.load(tmp_path / "run"), Checkpoint)


# ---- the command line ---------------------------------------------------------------------------------------------

# other values than the defaults; numbers are changed below
OTHER = {
    "variant": "large", "data": "elsewhere", "init": "cifar10-small", "teacher": "cifar10-large", "precision": "bf16",
    "optimiser": "adamw", "schedule": "constant", "policy": "rand",
}  # fmt: skip


@pytest.mark.parametrize("name", [f.name for f in fields(Recipe)])
def test_every_field_of_the_recipe_has_an_option(name):
    parser = argparse.ArgumentParser()
    training.recipe_arguments(parser)
    option, default = "--" + name.replace("_", "-"), asdict(Recipe())[name]
    value = OTHER[name] if name in OTHER else not default if isinstance(default, bool) else default + 1
    words = [option if value else option.replace("--", "--no-")] if isinstance(default, bool) else [option, str(value)]
    assert vars(parser.parse_args([])) == {"recipe": "cifar"}
    given = vars(parser.parse_args(words))
    assert given == {"recipe": "cifar", name: value} and type(given[name]) is type(default)


@pytest.mark.parametrize("words, found", [
    ([], {"epochs": 18, "optimiser": "sgd"}),
    (["--recipe", "article", "--data", "x"], {"variant": "article-large", "epochs": 10, "batch_size": 148, "lr": 1e-3}),
    (["--recipe", "article", "--lr", "0.2"], {"optimiser": "adam", "lr": 0.2}),  # also where it is the default
    (["--init", "cifar10-large", "--recipe", "cifar"], {"variant": "large", "init": "cifar10-large"}),
])  # fmt: skip
def test_the_command_line_comes_before_inits_network_and_that_before_the_recipe(words, found):
    parser = argparse.ArgumentParser()
    training.recipe_arguments(parser)
    recipe, source = training.chosen_recipe(vars(parser.parse_args(words)))
    assert found.items() <= asdict(recipe).items()
    assert (source is not None) == bool(recipe.init)


def test_help_shows_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    for f in fields(Recipe):
        assert f"--{f.name.replace('_', '-')} " in shown and f"({f.default})" in shown
    assert "--resume" in shown and "--out" in shown


@pytest.mark.parametrize(
    "option, value",
    [
        ("lr", "0"), ("lr", "nan"), ("lr", "101"), ("epochs", "0"), ("batch-size", "1"), ("early-epochs", "3"),
        ("warmup", "1.5"), ("label-smoothing", "-0.1"), ("shift", "32"), ("ema", "1.0"), ("norm-momentum", "0.0"),
        ("seed", "-1"), ("size", "7"), ("weight-decay", "inf"), ("holdout", "0"), ("holdout", "120"), ("width", "0"),
        ("width", "nan"), ("strides", "77"), ("strides", "-1"), ("variant", "medium"), ("batch-size", "97"),
        ("device", "toaster"), ("precision", "int4"), ("teacher", "cifar10-large"),
        ("optimiser", "lion"), ("schedule", "step"), ("policy", "auto"), ("accumulate", "3"), ("dropout", "1.0"),
        ("teacher-weight", "2.0"), ("temperature", "0.0"), ("erase", "nan"), ("mixup", "-1.0"), ("cutmix", "inf"),
        ("smallest-crop", "0.0"), ("variant", "article-large"),
    ],
)  # fmt: skip
def test_a_bad_value_is_one_sentence_and_status_2(option, value, folder, tmp_path, capsys):
    assert train.main(arguments(folder, tmp_path / "run", f"--{option}", value)) == 2
    said = last_line(capsys)
    assert said.startswith("train.py: ") and said.count("train.py") == 1
    assert option.replace("-", "_") in said and value in said
    assert not (tmp_path / "run" / "last.pt").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, so asking for it is right")
def test_a_gpu_that_is_not_there_is_one_sentence(folder, tmp_path, capsys):
    assert train.main(arguments(folder, tmp_path / "run", "--device", "cuda")) == 2
    assert "cuda" in last_line(capsys)


@pytest.mark.parametrize("words", [["--epochs", "many"], ["--no-such-option"], []])
def test_words_that_argparse_refuses_end_in_status_2(words, folder, tmp_path, capsys):
    given = arguments(folder, tmp_path / "run", *words) if words else ["--data", str(folder)]
    with pytest.raises(SystemExit) as stopped:
        train.main(given)
    assert stopped.value.code == 2
    assert (words[0] if words else "--out") in last_line(capsys)


def test_a_data_folder_that_is_not_there_is_one_sentence(tmp_path, capsys):
    assert train.main(arguments(tmp_path / "nowhere", tmp_path / "run")) == 2
    assert "`data` (='nowhere') is no folder here" in last_line(capsys)
