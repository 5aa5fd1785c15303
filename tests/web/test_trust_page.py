"""The Trust and Models tabs say what was measured, in whole HTML that fetches nothing; plots keep labels apart."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from test_page import ALLOWED, ATTRIBUTES, EVIL, Page

import mnv3
from mnv3.checkpoints.registry import Entry, bundled_names, catalogue
from mnv3.explanation.faithfulness import NETS, RANDOM_MAPS, STEPS, Faithfulness, Trial, put_to_trial
from mnv3.inference import cache, reference
from mnv3.nets.spec import Spec, multiply_adds, parameters
from mnv3.visual import svg
from mnv3.visual.svg import Axis, Line, Point, label_places, numbers, percent, powers
from mnv3.web import user_checkpoints
from mnv3.web.views import models as views_models
from mnv3.web.views import trust
from mnv3.web.views.models import (
    Model,
    accuracy_against_cost,
    in_order,
    log_of,
    models,
    overview,
    table,
    training_curves,
)

DRAWN = {
    "svg", "line", "polyline", "polygon", "circle", "text", "title", "h2", "h3", "ul", "li", "code", "details",
    "summary",
}  # fmt: skip
DRAWING = {
    "viewbox", "aria-label", "aria-hidden", "x1", "x2", "y1", "y2", "x", "y", "cx", "cy", "r", "points", "text-anchor",
    "width", "height", "data-label", "lang",
}  # fmt: skip


def whole(html):
    """The HTML taken apart, once it is certain that it is whole, known and fetches nothing."""
    shown = Page(html)
    for tag, attributes in shown.elements:
        assert tag in ALLOWED | DRAWN and attributes.keys() <= ATTRIBUTES | DRAWING, (tag, attributes)
    assert not re.search(r"https?:|url\(|@import|javascript:", re.sub(r'src="data:[^"]*"', "", html))
    return shown


def titles(shown):
    return [attributes["aria-label"] for tag, attributes in shown.elements if tag == "svg" and "role" in attributes]


# Trust ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def explanation(small_checkpoint):
    return mnv3.explain(small_checkpoint(), reference.example_pictures()[0])


@pytest.fixture(scope="module")
def index(explanation):
    return next(k for k in range(10) if explanation.evidence(k).any())


@pytest.fixture(scope="module")
def trial(explanation, index):
    return put_to_trial(explanation, index)


def flat(level, maps=1):
    return np.full((maps, STEPS + 1), float(level))


def made(deletion=(0.1, 0.3, 0.2), insertion=(0.8, 0.5, 0.6), correlations=(0.1, -0.1, 0, 0.2, -0.2), cells=4):
    """A trial with given areas: evidence, random, centred."""
    curves = [
        {"evidence": flat(e), "random": flat(r, RANDOM_MAPS), "centred": flat(c)} for e, r, c in (deletion, insertion)
    ]
    values = np.arange(cells**2, dtype=float).reshape(cells, cells)
    return Trial(values, Faithfulness(*curves), [(values, rho) for rho in correlations])


def test_everything_that_was_measured_is_said(explanation, index, trial):
    shown = whole(trust.trust(explanation, index, trial))
    for measure in ("deletion", "insertion"):
        row = next(row for row in shown.rows if row.startswith(measure.title()))
        for kind in ("evidence", "random", "centred"):
            assert f"{trial.curves.areas(measure, kind).mean():.3f}" in row
    assert len(titles(shown)) == 2 and len([tag for tag, _ in shown.elements if tag == "polyline"]) == 6
    assert f"‘kind {index}’" in shown.text and "tiny" in shown.text
    assert shown.text.count("rank correlation") >= NETS + 1
    for word in ("Petsiuk", "Adebayo", "mean colour", "eighth", "trapezoid", "32 equal steps", "they are odd"):
        assert word in shown.text
    assert "Nothing was measured on many pictures" in shown.text


def points(html):
    """The y of the first and last point of each polyline, by its look."""
    found = re.findall(r'<polyline class="line(\d)" points="([^"]*)"', html)
    return {int(look): [float(p.split(",")[1]) for p in path.split()] for look, path in found}


def test_curves_are_drawn_where_their_numbers_are(explanation, index):
    html = trust.trust(explanation, index, made(deletion=(0.0, 0.5, 1.0)))
    drawn = points(html[: html.index("<figcaption>Insertion")])
    height = svg.HEIGHT - svg.TOP - svg.BOTTOM
    expected = {0: svg.TOP + height, 2: svg.TOP + height / 2, 1: svg.TOP}
    for look, down in expected.items():
        assert len(drawn[look]) == STEPS + 1 and drawn[look] == pytest.approx([down] * (STEPS + 1), abs=0.1)


@pytest.mark.parametrize(
    "areas, deletion, insertion",
    [
        ((0.1, 0.3, 0.3), "faster than by the random ones (0.10 against 0.30) and faster than", "more slowly"),
        ((0.1, 0.3, 0.11), "faster than by the random ones (0.10 against 0.30) and about as fast as", "more slowly"),
        ((0.3, 0.3, 0.1), "about as fast as by the random ones (0.30 against 0.30) and more slowly", "faster"),
    ],
)
def test_verdicts_follow_the_areas_in_both_directions(explanation, index, areas, deletion, insertion):
    text = Page(trust.trust(explanation, index, made(areas, areas))).text
    first, second = re.findall(r"(?:Deletion|Insertion): by this map[^:]*: [^.]*\.", text)
    assert deletion in first and insertion in second


@pytest.mark.parametrize(
    "areas, meaning",
    [
        ((0.1, 0.3, 0.3), "it knows more than that things stand in the middle"),
        ((0.1, 0.3, 0.1), "is as good a guess"),
        ((0.2, 0.3, 0.1), "is the better guess"), ((0.3, 0.3, 0.5), "does not point at"),
        ((0.5, 0.3, 0.1), "does not point at"),
    ],
)  # fmt: skip
def test_what_an_area_means(explanation, index, areas, meaning):
    text = Page(trust.trust(explanation, index, made(deletion=areas))).text
    assert meaning in re.search(r"Deletion: by this map[^.]*\.[^.]*\.[^.]*\.[^.]*\.[^.]*\.", text)[0]


@pytest.mark.parametrize(
    "deletion, insertion, correlation, line",
    [
        ((0.1, 0.3, 0.2), (0.8, 0.5, 0.6), 0.1, "This map beats both controls:"),
        ((0.1, 0.3, 0.2), (0.8, 0.5, 0.6), float("nan"), "This map beats both controls:"),
        ((0.1, 0.3, 0.2), (0.8, 0.5, 0.6), 0.9, "hardly changes when all that was learned is lost: don’t build on it,"),
        ((0.1, 0.3, 0.11), (0.8, 0.5, 0.6), 0.1, "which looks at nothing, only by insertion."),
        ((0.1, 0.3, 0.2), (0.8, 0.5, 0.9), 0.1, "which looks at nothing, only by deletion."),
        ((0.1, 0.3, 0.1), (0.8, 0.5, 0.9), 0.1, "but is no better than a Gaussian at the centre"),
        ((0.3, 0.3, 0.5), (0.8, 0.5, 0.6), 0.1, "This map beats random maps by insertion only:"),
        ((0.1, 0.3, 0.2), (0.5, 0.5, 0.4), 0.1, "This map beats random maps by deletion only:"),
        ((0.3, 0.3, 0.5), (0.4, 0.5, 0.3), 0.1, "This map is no better than random maps:"),
    ],
)
def test_one_line_above_the_figures_says_what_they_come_to(
    explanation, index, deletion, insertion, correlation, line
):  # fmt: skip
    text = whole(trust.trust(explanation, index, made(deletion, insertion, (correlation,) * NETS))).text
    above, below = text.split("Does the map find the pixels", 1)
    assert line in above and "none of them shows that a map is right" in above
    assert above.count("This map") == 1 and "Area" in below


@pytest.mark.parametrize(
    "sure, blank, blurred, weak",
    [(5, 0.4, 0.4, False), (5, 0.6, 0.4, True), (5, 0.4, 0.6, True), (-5, 0.4, 0.4, True)],
)
def test_the_line_says_where_a_picture_is_a_weak_test(explanation, index, sure, blank, blurred, weak):
    """A class that isn't likely, or that an even colour or a blurred picture is as well."""
    held = np.where(np.arange(10) == index, sure, np.zeros_like(explanation.held))
    html = trust.trust(replace(explanation, held=held), index, made((blank, 0.9, 0.9), (blurred, 0.2, 0.2)))
    assert ("This picture is a weak test" in html.partition("<h2>")[0]) == weak


@pytest.mark.parametrize(
    "correlations, said",
    [
        ((0.9, 0.8, 1, 0.9, 0.7), "+0.86. The map hardly changes"), ((0.1, -0.1, 0.2, 0, 0), "as much as chance"),
        ((0.4, 0.4, 0.3, 0.5, 0.4), "in part"), ((0.7, 0.6, -0.2, 0.1, 0.3), "as much as chance"),
        ((float("nan"),) * 5, "nothing to compare"),
        ((float("nan"), 0.9, 0.9, 0.9, 0.9), "+0.90"), ((-0.05,) * 5, "−0.05"),
    ],
)  # fmt: skip
def test_what_a_correlation_means(explanation, index, correlations, said):
    shown = whole(trust.trust(explanation, index, made(correlations=correlations)))
    assert said in shown.text and "±0.26" in shown.text  # of 16 cells


def test_headings_go_down_a_level_at_a_time(explanation, index, trial):
    """From the page's h1, by which screen readers move."""
    for html in (trust.trust(explanation, index, trial), overview(models(catalogue()))):
        levels = [1, *(int(tag[1]) for tag, _ in Page(html).elements if re.fullmatch("h[1-6]", tag))]
        assert len(levels) > 3 and all(low <= high + 1 for high, low in pairwise(levels)), levels


def test_what_takes_the_ground_from_under_the_figures_is_said(explanation, index):
    trial = made(deletion=(0.7, 0.7, 0.7), insertion=(0.8, 0.8, 0.8))
    text = Page(trust.trust(explanation, index, trial)).text
    assert "Even blurred" in text and "An even colour alone" in text
    text = Page(trust.trust(explanation, index, made(insertion=(0.3, 0.2, 0.2)))).text
    assert "Even blurred" not in text and "An even colour alone" not in text


def test_what_was_measured_on_many_pictures_is_quoted(explanation, index, trial):
    figures = {"evidence": 0.312, "random": 0.456, "centred": 0.298}
    difference = {"random": {"mean": -0.1, "p": 0.00005}, "centred": {"mean": 0.01, "p": 0.684}}
    found = {
        "n": 500, "areas": {"deletion": figures, "insertion": figures}, "machine": {"hardware": EVIL, "torch": "2"},
        "differences": {"deletion": difference, "insertion": difference}, "randomised": {"nets": 5, "mean": -0.0312},
    }  # fmt: skip
    shown = whole(trust.trust(explanation, index, trial, found))
    assert "500 test pictures" in shown.text and "−0.03 on average" in shown.text and EVIL in shown.text
    rows = [row for row in shown.rows if "0.312" in row]
    assert len(rows) == 2 and all("0.298p = 0.684" in row and "0.456p < 0.001" in row for row in rows)


def test_a_strangers_texts_are_texts(explanation, index, trial):
    checkpoint = replace(explanation.checkpoint, name=EVIL, labels=tuple(f"{EVIL} {k}" for k in range(10)))
    shown = whole(trust.trust(replace(explanation, checkpoint=checkpoint), index, trial))
    assert EVIL in shown.text and any(EVIL in title for title in titles(shown))


# Plots ----------------------------------------------------------------------------------------------------------


def boxes(labels, places):
    found = label_places(labels, places)
    return [
        (left, top, left + len(label) * svg.LETTER, top + svg.LINE)
        for label, (left, top) in zip(labels, found, strict=True)
    ]


@pytest.mark.parametrize("many", [2, 4, 8])
def test_labels_of_a_crowd_stand_apart_and_inside(many):
    random = np.random.default_rng(many)
    places = [(300 + random.uniform(-2, 2), 60 + random.uniform(-12, 12)) for _ in range(many)]
    found = boxes([f"Large · family {i}" for i in range(many)], places)
    for i, a in enumerate(found):
        assert a[0] > svg.LEFT and a[2] <= svg.WIDTH and 0 <= a[1] and a[3] <= svg.HEIGHT - svg.BOTTOM
        assert not any(svg._overlap(a, b) for b in found[:i]), "two labels lie on each other"
        assert not any(svg._overlap(a, (x - 4, y - 4, x + 4, y + 4)) for x, y in places), "a label hides a point"


def test_a_label_stands_beside_its_point_where_there_is_room():
    ((left, top),) = label_places(["Small"], [(200, 100)])
    assert abs(top + svg.LINE / 2 - 100) < 1 and abs(left + 5 * svg.LETTER + 9 - 200) < 1


@pytest.mark.parametrize(
    "axis, ticks",
    [
        (percent("", 0, 1), ["0%", "25%", "50%", "75%", "100%"]),
        (percent("", 0.83, 0.893), ["82%", "84%", "86%", "88%", "90%"]),
        (numbers("", 0, 1), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (numbers("", 1, 12), ["0", "2", "4", "6", "8", "10", "12"]),
        (powers("", 17.5, 66.5), ["20", "50"]), (powers("", 56.5, 216.6), ["50", "100", "200"]),
    ],
)  # fmt: skip
def test_ticks_are_round(axis, ticks):
    assert [text for _, text in axis.ticks] == ticks
    assert all(axis.low <= value <= axis.high + 1e-9 for value, _ in axis.ticks)


@pytest.mark.parametrize("low, high", [(3, 3), (0, 1e-12), (-1e9, 1e9), (5, 5 + 1e-13), (0.9999, 1)])
def test_axes_of_odd_numbers(low, high):
    for axis in (numbers("", low, high), percent("", min(abs(low), 1), min(abs(high), 1))):
        assert 2 <= len(axis.ticks) <= 9 and axis.low < axis.high


def test_a_logarithmic_axis_is_one():
    axis = Axis("", 1, 100, [], log=True)
    assert [axis.share(v) for v in (1, 10, 100)] == pytest.approx([0, 0.5, 1])


def test_the_css_of_these_pages_fetches_nothing():
    for css in (svg.CSS, trust.CSS, views_models.CSS):
        assert not re.search(r"url\(|@import|https?:", css) and css.count("{") == css.count("}") > 4


# Models ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def found():
    return models(catalogue())


def test_the_table_has_every_entry_with_its_figures(found):
    shown = whole(table(found))
    rows = {m.entry.name: next(row for row in shown.rows if m.entry.name in row) for m in found}
    assert len(shown.rows) == len(found) + 1 == len(catalogue()) + 1
    small = mnv3.load("cifar10-small")
    row, result = rows["cifar10-small"], small.measured()
    assert f"{result['top1']:.1%}on {result['n']:,} test pictures" in row and "width 1" in row and "here" in row
    assert f"{parameters(small.spec):,}" in row and f"{multiply_adds(small.spec, 32) / 1e6:,.1f} Mat 32×32" in row
    large = rows["torchvision/large-v2"]
    assert "5,483,032" in large and "216.6 M" in large and "75.3%on 50,000 validation pictures, as published" in large
    assert "21k" in rows["timm/mobilenetv3_large_100.miil_in21k_ft_in1k"].split("ImageNet-1k")[0]


def model(name, top1, data="A", n=100, madds_side=32, title=None):
    entry = Entry(name, name, "small", title or f"Small · {name}", "here", 3.0)
    result = {"top1": top1, "n": n, "pictures": "test pictures"}
    return Model(entry, entry.title, Spec.of("small", 1.0, 10, 2), madds_side, data, data, result)


def test_the_table_calls_networks_by_the_fields_names(found):
    no_se = replace(found[0], spec=Spec.of("small-no-se", 0.75))
    article = next(m for m in found if m.entry.name == "cifar10-article-large")
    rows = [row for m in (no_se, article) for row in whole(table([m])).rows[1:]]
    assert "Small without SE, width 0.75" in rows[0] and "Large as the article built it" in rows[1]


def test_the_best_on_the_same_pictures_come_first(found):
    made = [model("a", 0.7), model("b", 0.9, "B"), model("c", 0.8), model("d", 0.6, "B")]
    away = replace(model("e", 0.95), entry=replace(made[0].entry, name="e", state="download"))
    mine = replace(model("f", 0.1), entry=replace(made[0].entry, name=f"{user_checkpoints.PREFIX}f"))
    assert [m.entry.name[-1] for m in in_order([away, *made, mine])] == list("fcabde")
    shown = [row for row in whole(overview(found)).rows if "cifar10-" in row]
    best = max((m for m in found if m.entry.name.startswith("cifar10-")), key=lambda m: m.result["top1"])
    assert best.entry.name in shown[0], "not the article's, which alphabet would put first"


def test_the_most_accurate_for_their_cost_are_named():
    """Dearer and no more accurate, or as dear and less, is not among them."""
    made = [model("a", 0.7, madds_side=64), model("b", 0.8, madds_side=96), model("c", 0.7, madds_side=128),
            model("d", 0.8, madds_side=128), model("e", 0.9, madds_side=160),
            model("f", 0.85, madds_side=160)]  # fmt: skip
    said = whole(accuracy_against_cost(made[::-1])).text.partition("cost or less:")[2].partition(". ")[0]
    assert re.findall(r"(\w) \d\d\.0%", said) == ["a", "b", "e"]


def test_accuracies_on_other_pictures_are_not_on_one_axis():
    shown = whole(accuracy_against_cost([model("a", 0.9), model("b", 0.8), model("c", 0.7, "B"), model("d", 0.6, "B"),
                                         model("e", 0.5, n=99)]))  # fmt: skip
    first, second = titles(shown)
    assert "a 90.0%" in first and "b 80.0%" in first and "c 70.0%" in second and "d 60.0%" in second
    assert "a 90.0%" not in second and not any("e 50.0%" in title for title in titles(shown))
    assert "Alone on its pictures, and so not drawn: Small · e" in shown.text


def test_nothing_to_plot_is_said():
    assert "nothing to plot" in whole(accuracy_against_cost([model("a", 0.9), model("c", 0.7, "B")])).text
    assert "nothing to plot" in whole(accuracy_against_cost([])).text
    assert "None of these" in whole(training_curves([model("a", 0.9)])).text


def test_the_bundled_logs_are_drawn(found):
    shown = whole(training_curves(found))
    assert len(titles(shown)) == 2 * len(bundled_names())
    log = mnv3.load("cifar10-large").metrics["log"]
    told = next(title for title in titles(shown) if title.startswith("top-1 of Large · CIFAR-10 · bundled"))
    assert f"held out ends at {log[-1]['heldout_top1']:.3g}" in told


@pytest.mark.parametrize(
    "log, kept",
    [
        (None, []), ("rows", []), ({"epoch": 1}, []), ([1, "x", None], []), ([{"epoch": "1", "lr": True}], [{}]),
        ([{"epoch": 1, "train_loss": 2, "x": "<b>"}], [{"epoch": 1.0, "train_loss": 2.0}]),
        ([{"epoch": 10**40, "train_top1": 0.5}], [{"train_top1": 0.5}]),
    ],
)  # fmt: skip
def test_a_strangers_log_is_looked_at(small_checkpoint, log, kept):
    assert log_of(replace(small_checkpoint(), metrics={"log": log})) == kept


@pytest.mark.parametrize(
    "log",
    [
        [{"epoch": 1, "train_top1": 5}, {"epoch": 2, "train_top1": 0.5}],  # no share
        [{"train_top1": 0.1}, {"train_top1": 0.2}],  # no epochs
        [{"epoch": 1, "train_loss": 2}],  # one point
        [{"epoch": 1, "train_loss": 2}, {"epoch": 1, "train_loss": 2}],
        [{"epoch": 2, "train_loss": -1e8}, {"epoch": 1, "train_loss": 1e8}],
    ],
)
def test_odd_logs_draw_something_whole_or_nothing(small_checkpoint, log):
    entry = replace(model("a", 0.5), log=log_of(replace(small_checkpoint(), metrics={"log": log})))
    shown = whole(training_curves([entry]))
    assert "NaN" not in shown.html and "nan" not in shown.html and "inf" not in shown.html


def test_a_visitors_own_stands_out_and_is_escaped(small_checkpoint, monkeypatch):
    monkeypatch.setattr(user_checkpoints, "_kept", type(user_checkpoints._kept)())
    log = [{"epoch": e, "train_loss": 1 / e, "heldout_top1": 0.5} for e in (1, 2, 3)]
    metrics = {"test": {"top1": 0.5, "n": 10_000}, "log": log}
    data = mnv3.load("cifar10-small").data
    evil = replace(small_checkpoint(f"{EVIL} (yours)"), data=EVIL, metrics=metrics)
    honest = replace(small_checkpoint("tiny (yours)"), data=data, metrics=metrics)
    mine = [user_checkpoints.keep(evil, "me"), user_checkpoints.keep(honest, "me")]
    shown = whole(overview(models([*catalogue(), *user_checkpoints.entries(mine)])))
    assert EVIL in shown.text and "seen by you alone" in shown.text
    assert not any(name in shown.html for name in mine), "the name by which it can be had"
    assert shown.html.count('class="own"') == 1, "only the honest one was measured on the bundled ones' pictures"


def test_one_that_cannot_be_read_says_why(monkeypatch):
    def broken(name):
        raise mnv3.InputError(f"The bundled {name} has no weights.")

    monkeypatch.setattr(cache, "checkpoint", broken)
    shown = whole(overview(models(catalogue())))
    assert "failedThe bundled cifar10-small has no weights." in shown.text


def test_lines_and_points_are_escaped():
    axis = numbers("x", 0, 1)
    shown = whole(svg.lines(EVIL, [Line(EVIL, [0, 1], [0, 1], 0)], axis, axis) + svg.legend([Line(EVIL, [], [], 1)]))
    assert EVIL in shown.text and titles(shown) == [EVIL]
    assert EVIL in whole(svg.scatter("t", [Point(1, 0.5, EVIL)], powers(EVIL, 1, 2), axis)).text
