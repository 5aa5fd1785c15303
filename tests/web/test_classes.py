"""The Class view: the share of variance by hand, words that say what the bars show, curves of the right numbers."""

from dataclasses import replace

import numpy as np
import pytest
from test_page import ALLOWED, EVIL, Page

import mnv3
from mnv3 import explain
from mnv3.checkpoints.checkpoint import GateStatistics
from mnv3.explanation import class_gates
from mnv3.inference.reference import example_pictures
from mnv3.visual import svg
from mnv3.web.views import classes, explore


@pytest.fixture(scope="module")
def explanation(small_checkpoint):
    return explain(small_checkpoint(), example_pictures()[0])


def statistics(*blocks):
    """Statistics of blocks, each a list of gates of shape (n_k, C), one for each class."""
    counts = [len(gates) for gates in blocks[0]]
    rows = [[np.concatenate(block), *block] for block in blocks]
    return GateStatistics(
        np.array([sum(counts), *counts]),
        tuple(np.stack([gates.mean(0) for gates in block]) for block in rows),
        tuple(np.stack([((gates - gates.mean(0)) ** 2).sum(0) for gates in block]) for block in rows),
        "made-up pictures",
    )


def gates(*values):
    return np.array(values, float)[:, None]


@pytest.mark.parametrize(
    "block, share",
    [
        ([gates(0.2, 0.2), gates(0.6, 0.6)], 1),  # the class decides all
        ([gates(0.2, 0.6), gates(0.6, 0.2)], 0),  # the class decides nothing
        # means 0.2 and 0.5, overall 0.35: between 4 · 0.15² = 0.09, within 2 · 2 · 0.1² = 0.04
        ([gates(0.1, 0.3), gates(0.4, 0.6)], 0.09 / 0.13),
        # three against one: overall 0.3; between 3 · 0.1² + 1 · 0.3² = 0.12, within 2 · 0.1² = 0.02
        ([gates(0.1, 0.2, 0.3), gates(0.6)], 0.12 / 0.14),
        # two channels, weighted by what they vary: (0.09 + 0) / (0.13 + 0.16)
        ([np.array([[0.1, 0.2], [0.3, 0.6]]), np.array([[0.4, 0.6], [0.6, 0.2]])], 0.09 / 0.29),
        ([gates(0.5, 0.5), gates(0.5, 0.5)], None),  # a gate that never moves depends on nothing
    ],
)
def test_the_share_of_variance_by_hand(block, share):
    (found,) = class_gates.specificity(statistics(block))
    assert found is None if share is None else found == pytest.approx(share, abs=1e-12)


def test_without_class_statistics_there_is_no_share(small_checkpoint):
    made = statistics([gates(0.1, 0.9)])
    overall = replace(made, n=made.n[:1], mean=(made.mean[0][:1],), m2=(made.m2[0][:1],))
    assert class_gates.specificity(overall) is None
    without = explain(replace(small_checkpoint(), gates=None), example_pictures()[0])
    shown = Page(classes.view(without, [], []))
    assert "no gate statistics for each class" in shown.text and "train.py" in shown.text and not shown.images


@pytest.mark.parametrize("name", ["cifar10-small", "cifar10-large"])
def test_bundled_gates_are_within_and_between_classes_what_they_are_overall(name):
    """M2 overall = between + within: the file's rows fit together, so the shares are of something."""
    found = mnv3.load(name).gates
    for mean, m2 in zip(found.mean, found.m2, strict=True):
        between = (found.n[1:, None] * (mean[1:] - mean[0]) ** 2).sum(0)
        np.testing.assert_allclose(between + m2[1:].sum(0), m2[0], rtol=1e-3, atol=1e-3)
    shares = class_gates.specificity(found)
    assert all(0 < share < 1 for share in shares) and max(shares) > 2 * min(shares)


def test_a_bar_for_each_block_shallow_to_deep(explanation):
    shares = class_gates.specificity(explanation.reference)
    rows = Page(classes.view(explanation, [], [])).rows
    assert len(rows) == len(shares) == 9
    for block, share, row in zip(explanation.blocks, shares, rows, strict=True):
        assert row.startswith(block.name) and row.endswith(f"{share:.0%}")


def test_the_summary_says_which_block_depends_most_and_least(explanation):
    say = lambda *shares: Page(f"<p>{classes.summary(explanation, shares)}</p>").text  # noqa: E731
    b = [block.name for block in explanation.blocks]
    assert say(0.1, 0.6, 0.2) == (
        f"{b[1]}’s gates depend most on the class: 60% of their variance is between classes. {b[0]}’s depend least: "
        f"10%. After {b[1]} it falls again, to 20% in {b[2]}, the deepest."
    )
    assert "falls again" not in say(0.1, 0.6, 0.59) + say(0.1, 0.2, 0.6)
    assert "No gate of this network ever varies" in say(None, None)
    assert "least" not in say(None, 0.5)
    assert class_gates.extremes([0.1, None, 0.6, 0.2]) == [0, 2] and class_gates.extremes([None]) == []


def test_curves_are_the_gates_and_the_class_means(explanation):
    (every, three, own), x, y = classes._profile(explanation, 8, [3])
    shown = class_gates.sampled(explanation.blocks[8].channels)
    assert (every.name, three.name, own.name) == ("all classes", "kind 3", "this picture")
    np.testing.assert_allclose(three.ys, explanation.reference.mean[8][4][shown])
    np.testing.assert_allclose(every.ys, explanation.reference.mean[8][0][shown])
    np.testing.assert_allclose(own.ys, explanation.gates[8][shown])
    assert x.high >= shown[-1] and y.low <= min(own.ys) and y.high >= max(own.ys)


@pytest.mark.parametrize("channels", [1, 8, 50, 51, 960])
def test_channels_of_a_plot_are_spread_over_the_block(channels):
    shown = class_gates.sampled(channels)
    assert len(set(shown)) == len(shown) == min(50, channels)
    assert shown[0] == 0 and shown[-1] == channels - 1


def test_a_class_without_pictures_has_no_mean_gates(explanation):
    """Neither as a curve nor as the nearest, even to gates that are all closed."""
    own = explanation.reference
    n, mean = own.n.copy(), tuple(block.copy() for block in own.mean)
    n[1 + 5] = 0
    for block in mean:
        block[1 + 5] = 0
    closed = [np.zeros_like(block) for block in explanation.gates]
    made = replace(explanation, gates=closed, reference=replace(own, n=n, mean=mean))
    label = explanation.checkpoint.labels[5]
    assert label not in classes.nearest(made, 2)
    assert label not in classes.view(made, [2], [5, 6])


def test_the_nearest_classes(explanation):
    mean = explanation.reference.mean[2][6].astype(np.float32)
    made = replace(explanation, gates=[*explanation.gates[:2], mean, *explanation.gates[3:]])
    assert classes.nearest(made, 2).startswith("nearest to kind 5 0.000, kind ")


def test_the_chosen_blocks_and_classes_are_drawn(explanation):
    html = classes.view(explanation, [1, 4], [7, 2])
    labels = [attributes["aria-label"] for tag, attributes in Page(html).elements if tag == "svg" and
              attributes.get("role") == "img"]  # fmt: skip
    assert [label.split(" by ")[0] for label in labels] == ["Gates of b4", "Gates of b7"]
    assert "kind 7" in html and "kind 2" in html
    likeliest = [guess.label for guess in explanation.top(3)]
    legend = Page(classes.view(explanation, [], [])).text.partition("over them:")[2]
    assert all(label in legend.partition("nearest")[0] for label in likeliest)


def test_texts_of_a_stranger_are_texts(small_checkpoint):
    checkpoint = small_checkpoint(EVIL)
    checkpoint = replace(
        checkpoint, labels=tuple(f"{EVIL} {k}" for k in range(10)), gates=replace(checkpoint.gates, source=EVIL)
    )
    shown = Page(classes.view(explain(checkpoint, example_pictures()[0]), [], []))
    assert {tag for tag, _ in shown.elements} <= ALLOWED | {"svg", "line", "text", "polyline", "polygon"}
    assert EVIL in shown.text and "<script" not in shown.html


def test_a_network_without_se_says_so(explanation, monkeypatch):
    monkeypatch.setitem(vars(explanation), "blocks", ())
    assert "no squeeze-and-excitation blocks" in classes.view(explanation, [], [])


def test_the_css_fetches_nothing_and_draws_each_line_in_its_own_way():
    assert "url(" not in classes.CSS and classes.CSS.count("{") == classes.CSS.count("}")
    looks = {f"line{3 + k}" for k in range(classes.MOST_CLASSES)}
    assert all(f".{look} " in svg.CSS + classes.CSS for look in looks) and explore.CSS
