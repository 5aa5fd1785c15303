"""Deletion, insertion, randomised weights: hand-computed values, and negative controls that the measures must see."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import mnv3
from mnv3 import InputError
from mnv3.explanation import faithfulness
from mnv3.explanation.faithfulness import (
    CURVES,
    NETS,
    RANDOM_MAPS,
    STEPS,
    area,
    blurred,
    centred,
    curve,
    enlarged,
    main,
    order,
    published,
    put_to_trial,
    sign_flip_p,
)
from mnv3.explanation.randomization import calibration, evidence_maps, randomised, spearman
from mnv3.inference import reference, session

# Figures by hand ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "curve, under", [([1, 0], 0.5), ([1, 1, 1], 1), ([0, 0, 1], 0.25), ([1, 0.5, 0, 0, 0], 0.25), ([0.2] * 33, 0.2)]
)
def test_area_under_known_curves(curve, under):
    assert area(np.array(curve, float)) == pytest.approx(under)


@pytest.mark.parametrize(
    "a, b, rho",
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1), ([1, 2, 3, 4], [9, 7, 5, 1], -1), ([1, 2, 3], [1, 3, 2], 0.5),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),  # 1 − 6·4 / (5·24)
        ([1, 2, 2, 3], [1, 2, 3, 4], 0.9486833),  # ranks 1 2.5 2.5 4 and 1 2 3 4: 4.5 / √(4.5 · 5)
        ([[0, 1], [2, 9]], [[0, 1], [2, 3]], 1),
    ],
)  # fmt: skip
def test_spearman_of_small_vectors(a, b, rho):
    assert spearman(np.array(a, float), np.array(b, float)) == pytest.approx(rho)


def test_spearman_of_a_constant_is_not_a_number():
    assert np.isnan(spearman(np.zeros(4), np.arange(4.0)))


@pytest.mark.parametrize(
    "differences, p",
    [([1, 2, 3], 2 / 8), ([1, -1], 1), ([1, 1, 1, 1], 2 / 16), ([3, 1, -1], 6 / 8), ([0, 0, 0], 1), ([2.5], 1)],
)  # 3, 1, −1: the sums are ±5 once each, ±3 twice, ±1 once, so that 6 of 8 are as large as 3
def test_sign_flip_p_of_known_cases(differences, p):
    assert sign_flip_p(np.array(differences, float)) == pytest.approx(p)


def test_drawn_sign_flips_agree_with_all_of_them(monkeypatch):
    differences = np.random.default_rng(0).normal(0.4, 1, 12)
    exact = sign_flip_p(differences)  # 4,096 patterns
    monkeypatch.setattr(faithfulness, "FLIPS", 4000)
    assert 0.02 < exact < 0.98 and sign_flip_p(differences) == pytest.approx(exact, abs=0.03)


def test_chance_and_a_clear_difference_are_told_apart():
    random = np.random.default_rng(1)
    assert sign_flip_p(random.normal(0, 1, 200)) > 0.05
    assert sign_flip_p(random.normal(0.5, 1, 200)) < 0.001


# Maps, orders, baselines ----------------------------------------------------------------------------------------


def test_pixels_go_highest_first_and_ties_by_lot():
    values = np.array([[0, 0], [0, 1.0]])
    taken = order(values, 8, np.random.default_rng(0))
    assert sorted(taken) == list(range(64))
    assert set(taken[:9]) <= {8 * y + x for y in range(4, 8) for x in range(4, 8)}
    other = order(values, 8, np.random.default_rng(1))
    flat = enlarged(values, 8).ravel()
    zeros = int((flat == 0).sum())
    assert zeros > 10 and list(flat[taken]) == list(flat[other]) == sorted(flat, reverse=True)
    assert list(taken[-zeros:]) != list(other[-zeros:]) != sorted(other[-zeros:])


def test_the_map_is_enlarged_as_the_page_shows_it():
    values = np.random.default_rng(0).random((4, 4)).astype(np.float32)
    bicubic = np.asarray(Image.fromarray(values).resize((32, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(enlarged(values, 32), np.maximum(bicubic, 0))


def test_the_centre_comes_first_and_the_corners_last():
    values = centred(4, 4)
    assert values.max() == values[1, 1] == pytest.approx(values[2, 2]) and values.min() == values[0, 0]
    assert np.array_equal(values, values.T) and np.allclose(values, values[::-1, ::-1])
    taken = order(values, 32, np.random.default_rng(0))
    distance = np.hypot(taken // 32 - 15.5, taken % 32 - 15.5)
    assert distance[:100].max() < 8 and {0, 31, 992, 1023} <= set(taken[-40:])


def test_blurring_keeps_the_mean_and_loses_detail():
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    soft = blurred(picture)
    assert soft.shape == picture.shape and soft.std() < picture.std() / 4
    assert torch.allclose(soft.mean((1, 2)), picture.mean((1, 2)), atol=0.03)
    assert torch.allclose(blurred(torch.full((3, 40, 40), 0.7)), torch.full((3, 40, 40), 0.7), atol=1e-5)


class Quadrant(torch.nn.Module):
    """A network that knows one thing: class 1 is as likely as the lower right quarter is bright."""

    spec = mnv3.Spec.of("small", 0.35, 10, 2)

    def forward(self, images):
        bright = images[:, 0, images.shape[2] // 2 :, images.shape[3] // 2 :].mean((1, 2))
        return torch.stack([torch.zeros_like(bright), 20 * bright - 18], 1)


@pytest.fixture
def quadrant(small_checkpoint):
    return replace(small_checkpoint(), model=Quadrant())


def test_a_curve_starts_and_ends_with_its_pictures(quadrant):
    start, end = torch.ones(3, 32, 32), torch.zeros(3, 32, 32)
    taken = order(np.array([[0, 0], [0, 1.0]]), 32, np.random.default_rng(0))
    p = curve(quadrant, start, end, taken, 1)
    known = lambda bright: 1 / (1 + np.exp(18 - 20 * bright))  # noqa: E731
    assert p.shape == (STEPS + 1,) and p[[0, -1]] == pytest.approx([known(1), known(0)])
    assert (np.diff(p) <= 1e-6).all()
    gone = np.isin(taken[: 1024 // 4], [32 * y + x for y in range(16, 32) for x in range(16, 32)]).mean()
    assert 0.5 < gone < 1 and p[STEPS // 4] == pytest.approx(known(1 - gone), rel=1e-3)


def test_a_true_map_beats_both_controls_and_a_false_one_loses(quadrant):
    """The negative control: the measure must react to what the map says."""
    picture = torch.zeros(3, 32, 32)
    picture[:, 16:, 16:] = 1
    true, false = np.zeros((4, 4)), np.zeros((4, 4))
    true[2:, 2:], false[:2, :2] = 1, 1
    good, bad = (faithfulness.faithfulness(quadrant, picture, values, 1) for values in (true, false))
    for control in ("random", "centred"):
        assert good.areas("deletion", "evidence")[0] < good.areas("deletion", control).mean() - 0.05
        assert good.areas("insertion", "evidence")[0] > good.areas("insertion", control).mean() + 0.05
        assert bad.areas("deletion", "evidence")[0] > bad.areas("deletion", control).mean() + 0.05
        assert bad.areas("insertion", "evidence")[0] < bad.areas("insertion", control).mean() - 0.05
    assert len(good.areas("deletion", "random")) == RANDOM_MAPS and np.ptp(good.areas("deletion", "random")) > 0.01


def test_the_seed_decides_everything(small_checkpoint, structured):
    checkpoint, picture = small_checkpoint(), structured(1, 32)[0]
    values = 1 + np.random.default_rng(0).random((4, 4))  # nowhere 0, so that no pixels are equal
    first, again, other = (faithfulness.faithfulness(checkpoint, picture, values, 1, seed) for seed in (0, 0, 1))
    near = lambda curves: pytest.approx(curves, abs=1e-4)  # noqa: E731, the engine may change in between
    assert again.deletion["random"] == near(first.deletion["random"]) != other.deletion["random"]
    assert other.insertion["evidence"] == near(first.insertion["evidence"])


def test_large_pictures_go_through_in_parts(small_checkpoint, structured, monkeypatch):
    checkpoint, picture = small_checkpoint(), structured(1, 32)[0]
    taken, end = np.arange(1024), torch.zeros(3, 32, 32)
    whole = curve(checkpoint, picture, end, taken, 2)
    monkeypatch.setattr(session, "MOST_NUMBERS", 20_000)
    assert 1 <= session.rows_at_once(checkpoint) < 10
    assert curve(checkpoint, picture, end, taken, 2) == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("values, word", [(np.zeros((4, 4)), "0 everywhere"), (np.ones((1, 1)), "single cell")])
def test_a_map_that_says_nothing_is_refused_in_words(small_checkpoint, structured, values, word):
    with pytest.raises(InputError, match=word):
        faithfulness.faithfulness(small_checkpoint(), structured(1, 32)[0], values, 0)


# Randomised weights ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled():
    return mnv3.load("cifar10-small")


def test_randomised_networks_hold_the_same_numbers_elsewhere(bundled):
    examples = calibration(bundled)
    before = {name: value.clone() for name, value in bundled.model.state_dict().items()}
    other = randomised(bundled, 0, examples)
    for (name, own), new in zip(bundled.model.named_parameters(), other.model.parameters(), strict=True):
        assert torch.equal(own.flatten().sort()[0], new.flatten().sort()[0]), name
        assert own.numel() < 20 or not torch.equal(own, new), name
    assert all(torch.equal(before[name], value) for name, value in bundled.model.state_dict().items())
    assert not any(module.training for module in other.model.modules())
    assert [n.momentum for n in other.model.modules() if hasattr(n, "momentum")] == [
        n.momentum for n in bundled.model.modules() if hasattr(n, "momentum")
    ]


def test_without_recalibration_a_random_network_answers_the_same_to_everything(bundled):
    """Why BatchNorm is set anew: then answers differ between pictures, without they hardly do."""
    examples = calibration(bundled)
    torch.manual_seed(0)
    fresh = replace(bundled, model=mnv3.MobileNetV3(spec=bundled.spec).eval())
    spread = lambda c: float(session.logits(c, examples)[0].std(0).mean())  # noqa: E731
    assert spread(fresh) < 1e-6 < 0.01 < spread(randomised(bundled, 0, examples))


def test_seeds_make_different_networks(bundled):
    examples = calibration(bundled)
    nets = [randomised(bundled, seed, examples) for seed in (0, 0, 1)]
    first, again, other = (session.logits(net, examples)[0] for net in nets)
    assert first == pytest.approx(again, abs=1e-3) and not np.allclose(first, other, atol=0.01)


def test_the_correlation_sees_whether_a_map_depends_on_the_weights(bundled):
    """Class evidence changes with the weights; a map of the picture's brightness, which knows none, does not."""
    examples = calibration(bundled)
    classes = session.logits(bundled, examples)[0].argmax(1)
    own = evidence_maps(bundled, examples, classes)
    brightness = lambda pictures: torch.nn.functional.adaptive_avg_pool2d(pictures.mean(1), 4).numpy()  # noqa: E731
    found, blind = [], []
    for seed in range(4):
        net = randomised(bundled, seed, examples)
        found += [spearman(a, b) for a, b in zip(own, evidence_maps(net, examples, classes), strict=True)]
        blind += [spearman(a, b) for a, b in zip(brightness(examples), brightness(examples), strict=True)]
    same = [spearman(a, b) for a, b in zip(own, evidence_maps(bundled, examples, classes), strict=True)]
    assert np.nanmean(same) == pytest.approx(1) and np.mean(blind) == pytest.approx(1)
    assert abs(np.nanmean(found)) < 0.3


def test_evidence_of_many_is_that_of_each(bundled, monkeypatch):
    pictures = reference.example_pictures()[:3]
    explanations = [mnv3.explain(bundled, path) for path in pictures]
    inputs = torch.stack([bundled.preprocess(path) for path in pictures])
    monkeypatch.setattr(session, "MOST_NUMBERS", 40_000)
    for found, explanation, k in zip(evidence_maps(bundled, inputs, [3, 5, 6]), explanations, (3, 5, 6), strict=True):
        assert found == pytest.approx(explanation.evidence(k), abs=1e-5)


def test_no_examples_to_set_batchnorm_by(bundled, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "EXAMPLES", tmp_path)
    with pytest.raises(InputError, match="example pictures"):
        calibration(bundled)


# One picture's trial, and many pictures' ------------------------------------------------------------------------


def test_a_trial_counts_its_steps_and_is_plain_numbers(bundled):
    explanation, steps = mnv3.explain(bundled, reference.example_pictures()[0]), []
    index = explanation.class_index(None)
    trial = put_to_trial(explanation, index, progress=lambda done, whole: steps.append((done, whole)))
    assert steps == [(i, CURVES + NETS) for i in range(1, CURVES + NETS + 1)]
    p = explanation.probabilities[index]
    assert trial.curves.deletion["evidence"][0, 0] == pytest.approx(p, abs=1e-5)
    assert trial.curves.insertion["random"][:, -1] == pytest.approx([p] * RANDOM_MAPS, abs=1e-5)
    plain = json.loads(json.dumps(trial.to_dict()))
    assert len(plain["deletion"]["random"]["areas"]) == RANDOM_MAPS and len(plain["randomised"]) == NETS
    (own,) = plain["insertion"]["evidence"]["areas"]
    assert own == pytest.approx(area(trial.curves.insertion["evidence"][0]), abs=1e-4)


@pytest.fixture
def folder(tmp_path):
    """Test pictures in class folders, made of the examples."""
    for number, path in enumerate(reference.example_pictures()[:6]):
        kind = tmp_path / "test" / f"class {number % 2}"
        kind.mkdir(parents=True, exist_ok=True)
        (kind / path.name).write_bytes(path.read_bytes())
    return tmp_path / "test"


@pytest.fixture
def measured(folder, tmp_path, monkeypatch):
    """What the command wrote, quickly: fewer steps, and only two nets."""
    monkeypatch.setattr(faithfulness, "STEPS", 4)
    monkeypatch.setattr(faithfulness, "NETS", 2)
    out = tmp_path / "faithfulness.json"
    assert main(["--data", str(folder), "--n", "5", "--checkpoint", "cifar10-small", "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_the_command_writes_what_it_measured(measured, capsys):
    assert measured["n"] + measured["skipped"] == 5 and measured["data"] == "test" and measured["seed"] == 0
    for measure in ("deletion", "insertion"):
        for control in ("random", "centred"):
            areas, found = measured["areas"][measure], measured["differences"][measure][control]
            assert found["mean"] == pytest.approx(areas["evidence"] - areas[control], abs=2e-4)
            assert 0 < found["p"] <= 1
    assert len(measured["randomised"]["by_net"]) <= 2 and measured["randomised"]["cells"] == 16
    assert {"hardware", "torch", "numpy", "python", "minutes"} <= measured["machine"].keys()


def test_figures_are_quoted_beside_the_weights_they_were_measured_on_and_no_others(
    measured, bundled, tmp_path, monkeypatch
):
    (tmp_path / "cifar10-small").mkdir()
    monkeypatch.setattr(faithfulness, "BUNDLED", tmp_path)
    file = tmp_path / "cifar10-small" / "faithfulness.json"
    assert published(bundled) is None
    file.write_text(json.dumps(measured))
    assert published(bundled) == measured
    assert published(replace(bundled, name="cifar10-small (yours)")) is None
    assert published(randomised(bundled, 0, calibration(bundled))) is None, "other weights under the same name"
    for broken in ("", "[]", '{"n": 3}', json.dumps({**measured, "n": "many"}), json.dumps({**measured, "areas": 3})):
        file.write_text(broken)
        assert published(bundled) is None


@pytest.mark.parametrize(
    "change, word",
    [
        (["--n", "7"], "must lie between 2 and the 6"), (["--n", "1"], "between"),
        (["--checkpoint", "nothing"], "nothing"),
    ],
)  # fmt: skip
def test_what_the_command_refuses(folder, tmp_path, capsys, change, word):
    given = ["--data", str(folder), "--n", "5", "--checkpoint", "cifar10-small", "--out", str(tmp_path / "out.json")]
    assert main(given + change) == 2
    assert word in capsys.readouterr().err and not (tmp_path / "out.json").exists()
    assert main([*given, "--data", str(tmp_path / "none")]) == 2
