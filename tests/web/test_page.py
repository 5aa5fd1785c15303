"""The page says what the explanation holds, in HTML that is whole, escaped and fetches nothing."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import mnv3
from mnv3 import explain
from mnv3.checkpoints.checkpoint import Checkpoint, GateStatistics
from mnv3.images.preprocessing import Preprocessing
from mnv3.inference.reference import example_pictures
from mnv3.nets.spec import Spec, gated_blocks
from mnv3.visual.bitmap import channel_overlay, gate_strip, ground
from mnv3.web.views import block as views_block
from mnv3.web.views import compare, explore

EVIL = "<script>alert('x')</script> \"quoted\" & <img src=x onerror=alert(1)>"
ALLOWED = {
    "div", "p", "b", "i", "small", "span", "table", "thead", "tbody", "tr", "th", "td", "img", "figure", "figcaption",
    "button", "br",
}  # fmt: skip
VOID = {"img", "br"}
ATTRIBUTES = {"class", "style", "src", "alt", "title", "tabindex", "scope", "colspan", "role"}
ATTRIBUTES |= {f"data-{n}" for n in "block channel close columns file gates name open reference save words z".split()}
ATTRIBUTES |= {f"aria-{n}" for n in "expanded label live pressed valuemax valuemin valuenow".split()}


class Page(HTMLParser):
    """HTML taken apart: elements (tag, attributes), text; fails on a tag that isn't closed where it should be."""

    def __init__(self, html):
        super().__init__()
        self.html, self.open, self.elements, self.texts, self.rows = html, [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"an attribute comes twice in <{tag}>"
        self.elements.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        raise AssertionError(f"<{tag}/> is not HTML")

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.texts.append(data)
        if "tr" in self.open:
            self.rows[-1] += data

    @property
    def text(self):
        return "".join(self.texts)

    @property
    def images(self):
        return [attributes for tag, attributes in self.elements if tag == "img"]


def opened(image, mode=None):
    """The pixels of an <img>."""
    shown = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
    return np.asarray(shown.convert(mode) if mode else shown)


@pytest.fixture(scope="module")
def explanation(small_checkpoint):
    return explain(small_checkpoint(), example_pictures()[0])


@pytest.fixture(scope="module")
def network(recalibrated, structured):
    """network(spec, name) -> an explanation by a recalibrated random network of the spec, for 32 pixels."""

    def make(spec, name="network"):
        torch.manual_seed(0)
        model = recalibrated(mnv3.MobileNetV3(spec=spec), structured(32, 32))
        halves = tuple(np.full((1, block.channels), 0.5, np.float32) for block in gated_blocks(spec))
        statistics = GateStatistics(np.array([9]), halves, halves, "made-up gates") if halves else None
        preprocessing = Preprocessing(36, 32, "bilinear", (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
        labels = tuple(f"kind {k}" for k in range(spec.num_classes))
        return explain(Checkpoint(name, model, labels, preprocessing, "scenes", statistics), example_pictures()[0])

    return make


@pytest.fixture(scope="module")
def large(network):
    return network(Spec.of("large", 0.35, 10, 2), "other")


@pytest.fixture(scope="module")
def without_se(network):
    spec = Spec.of("small", 0.35, 10, 2)
    return network(replace(spec, rows=tuple(row._replace(se=False) for row in spec.rows)), "plain")


@pytest.fixture(scope="module")
def evil(small_checkpoint):
    """An explanation by a checkpoint from a stranger, who put markup wherever a text may stand."""
    checkpoint = small_checkpoint(EVIL)
    checkpoint = replace(
        checkpoint, labels=tuple(f"{EVIL} {k}" for k in range(10)), data=EVIL,
        gates=replace(checkpoint.gates, source=EVIL),
        metrics={"test": {"n": EVIL, "top1": EVIL}, "published": {"n": 5, "top1": EVIL}},
    )  # fmt: skip
    return explain(checkpoint, example_pictures()[0])


def saying(explanation, name, label, probability):
    """The explanation as if checkpoint `name` gave `label` this probability, and kind 9 the rest."""
    held = explanation.held.copy()
    held[0] = -1e9
    held[0, 0], held[0, 9] = np.log(probability), np.log(1 - probability)
    checkpoint = replace(explanation.checkpoint, name=name, labels=(label, *explanation.checkpoint.labels[1:]))
    return replace(explanation, checkpoint=checkpoint, held=held)


PARTS = {
    "panel": lambda e: explore.panel(e, 3),
    "opened panel": lambda e: explore.panel(e, 3, (2, views_block.opened(e, 2))),
    "comparison": lambda e: compare.comparison([e, e]),
    "facts": explore.facts,
    "pictures": lambda e: explore.pictures(e, 3),
    "evidence": lambda e: f"<figure>{explore.evidence(e, 3)}</figure>",
    "problem": lambda e: explore.problem(e.checkpoint.labels[3]),
    "hint": lambda e: explore.hint(e.checkpoint.labels[3]),
}
parts = pytest.mark.parametrize("part", PARTS)


# ---- whole, safe, self-contained ----------------------------------------------------------------------------------


@parts
def test_every_part_is_whole_html_that_fetches_nothing(part, explanation):
    shown = Page(PARTS[part](explanation))
    assert {tag for tag, _ in shown.elements} <= ALLOWED
    assert not re.search(r"https?:|//[a-z]|url\(|@import|javascript:", re.sub(r'src="data:[^"]*"', "", shown.html))
    for image in shown.images:
        assert image["src"].startswith("data:image/webp;base64,")
        assert opened(image).ndim == 3


@parts
def test_texts_from_a_stranger_are_texts(part, evil):
    shown = Page(PARTS[part](evil))
    assert {tag for tag, _ in shown.elements} <= ALLOWED
    for tag, attributes in shown.elements:
        assert attributes.keys() <= ATTRIBUTES, tag
    assert "<script" not in shown.html and "onerror=alert(1)>" not in shown.html
    texts = shown.text + "".join(image["alt"] for image in shown.images)
    for name in re.findall(r"data-save='([^']*)'", shown.html):
        assert re.fullmatch(r"[\w-][\w.-]*\.png", name), "a file's name is a plain one"
    assert EVIL in texts  # as it was written, once a browser has read it


def test_the_parser_of_these_tests_refuses_what_is_broken_or_unescaped():
    for broken in ("<p><b></p></b>", "<div>", "<p>a</p></div>", '<p class="a" class="b"></p>'):
        with pytest.raises(AssertionError):
            Page(broken)
    assert {tag for tag, _ in Page(f"<p>{EVIL}</p>").elements} - ALLOWED == {"script"}


@parts
def test_every_picture_says_what_it_shows(part, explanation):
    images = Page(PARTS[part](explanation)).images
    assert all("alt" in image for image in images)
    assert all(image["alt"] or image["class"] == "scale" for image in images)  # the words 0 … 1 stand beside a scale
    if part in ("panel", "opened panel", "comparison", "pictures", "evidence"):
        assert images


def test_the_css_fetches_nothing():
    for css in (explore.CSS, views_block.CSS):
        assert not re.search(r"url\(|@import|https?:", css)
        assert css.count("{") == css.count("}") > 20
    assert not re.search(r"https?:|import|eval|innerHTML|fetch", views_block.SCRIPT)


def test_a_problem_is_announced(explanation):
    ((_, _), (_, paragraph)) = Page(explore.problem("No such file.")).elements
    assert paragraph == {"class": "problem", "role": "alert"}


# ---- the panel ----------------------------------------------------------------------------------------------------


def signed(value, digits):
    """A number with a real minus sign, 0 without any."""
    rounded = round(value, digits)
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else ''}{abs(rounded):.{digits}f}"


def test_the_panel_has_a_row_for_each_block_with_its_numbers(explanation):
    head, *rows, everything = Page(explore.panel(explanation, 3)).rows
    effects = explanation.effects(3)
    assert "‘kind 3’" in head and len(rows) == 9
    assert len({signed(effect.probability, 3) for effect in effects}) > 3, "these effects hardly differ"
    for i, (block, row) in enumerate(zip(explanation.blocks, rows, strict=True)):
        assert row.startswith(f"{block.name}{block.side}², {block.channels}")
        assert row.endswith(f"Δp {signed(effects[i].probability, 3)} Δlogit {signed(effects[i].logit, 2)}")
        closed, opened_ = explanation.closed_open(i)
        assert f"{closed} / {opened_}, mean {explanation.gates[i].mean():.2f}moved {explanation.moved(i):.2f}" in row
    assert everything.startswith("all")
    assert everything.endswith(f"Δp {signed(effects[-1].probability, 3)} Δlogit {signed(effects[-1].logit, 2)}")


def test_the_panel_draws_each_blocks_gates_and_says_them(explanation):
    strips = [image for image in Page(explore.panel(explanation, 3)).images if image["class"] == "strip"]
    assert len(strips) == 9
    for i, (strip, reference) in enumerate(zip(strips, explanation.reference.reference(), strict=True)):
        assert np.array_equal(opened(strip), np.asarray(gate_strip(explanation.gates[i], reference)))
        assert f"{len(explanation.gates[i])} gates of {explanation.blocks[i].name}" in strip["alt"]
        assert f"mean {explanation.gates[i].mean():.2f}" in strip["alt"]


def test_effects_are_bars_from_the_middle_to_one_scale(explanation):
    bars = re.findall(r"<i class='(\w+)' style='left:([\d.]+)%;width:([\d.]+)%'>", explore.panel(explanation, 3))
    values = [effect.probability for effect in explanation.effects(3)]
    largest = max(0.01, *map(abs, values))
    assert len(bars) == 10 and {kind for kind, _, _ in bars} == {"gain", "loss"}
    for value, (kind, left, width) in zip(values, bars, strict=True):
        wide = 50 * abs(value) / largest
        assert float(width) == pytest.approx(wide, abs=0.06)
        assert kind == ("gain" if value >= 0 else "loss")
        assert float(left) == pytest.approx(50 if value >= 0 else 50 - wide, abs=0.06)


def test_small_effects_are_not_blown_up(explanation):
    """The scale never shows less than one per cent: bars of rounding errors would look like findings."""
    quiet = replace(explanation, held=explanation.held[:1].repeat(11, 0) + np.eye(11, 10, -1, dtype=np.float32) * 1e-4)
    widths = re.findall(r"width:([\d.]+)%'", explore.panel(quiet, 3))
    assert len(widths) == 10 and max(map(float, widths)) < 1


@pytest.mark.parametrize("value, text", [(-0.0004, "0.000"), (0.0004, "0.000"), (-0.0006, "−0.001"), (0.25, "+0.250")])
def test_an_effect_that_rounds_to_nothing_has_no_sign(value, text, explanation):
    p = np.full(11, 0.5)  # of class 3; the other nine share the rest
    p[1] -= value
    held = np.log(np.repeat((1 - p)[:, None] / 9, 10, 1))
    held[:, 3] = np.log(p)
    row = Page(explore.panel(replace(explanation, held=held), 3)).rows[1]
    assert f"Δp {text} " in row


def test_the_reference_is_named_with_its_size(explanation, large):
    assert "Reference gates: the mean over 100 a hundred scenes." in Page(explore.panel(explanation, 3)).text
    assert "Reference gates: the mean over 9 made-up gates." in Page(explore.panel(large, 3)).text


def test_the_panel_says_which_block_mattered_most(explanation):
    effects = [effect.probability for effect in explanation.effects(3)[:-1]]
    most = int(np.argmax(np.abs(effects)))
    said = f"{explanation.blocks[most].name} mattered most for ‘kind 3’: Δp {signed(effects[most], 3)}."
    assert Page(explore.panel(explanation, 3)).text.strip().startswith(said), (
        "before the table, which may need scrolling"
    )


def test_the_panel_says_what_a_gate_is_not(explanation):
    text = Page(explore.panel(explanation, 3)).text
    assert "it is not a heatmap" in text and "not ‘the network without SE’" in text


def test_where_energy_moved_is_drawn_and_said(explanation):
    maps = [image for image in Page(explore.panel(explanation, 3)).images if image["class"] == "map"]
    moving = [i for i in range(9) if np.abs(explanation.shift(i)).max() > 1e-7]
    assert len(maps) == len(moving) > 5
    for image, i in zip(maps, moving, strict=True):
        share = np.abs(explanation.shift(i)).sum() / 2
        assert image["alt"].startswith(f"{explanation.blocks[i].name} moved {share:.1%} of the activation energy")
        assert image["tabindex"] == "0"  # enlarged by keyboard too


def test_where_nothing_moved_it_says_so(explanation):
    still = replace(explanation, energy=[np.zeros_like(energy) for energy in explanation.energy])
    shown = Page(explore.panel(still, 3))
    assert shown.text.count("nothing moved") == 9
    assert not [image for image in shown.images if image["class"] == "map"]


def test_single_cells_are_said_in_words(network):
    """With all five strides 32 pixels end in a single cell."""
    tiny = network(Spec.of("small", 0.35, 10, 0))
    single = sum(block.side == 1 for block in tiny.blocks)
    rows = Page(explore.panel(tiny, 3)).rows[1:10]
    assert 0 < single < 9 and ["one cell: nothing can move" in row for row in rows] == [
        block.side == 1 for block in tiny.blocks
    ]
    spoken_for = next(k for k in range(10) if tiny.evidence(k).any())
    assert "The last map is a single cell: it can’t say where." in explore.evidence(tiny, spoken_for)
    assert not Page(f"<figure>{explore.evidence(tiny, spoken_for)}</figure>").images


def test_sigmoid_gates_are_not_counted(network):
    shown = network(replace(Spec.of("small", 0.35, 10, 2), gate="sigmoid"))
    rows = Page(explore.panel(shown, 3)).rows[1:10]
    assert all(f"moved {shown.moved(i):.2f}" in row and " / " not in row for i, row in enumerate(rows))


# ---- the numbers behind a barcode, and a row that is opened ---------------------------------------------------------


def attributes_of(html, kind):
    """Attributes of the elements with this class."""
    return [attributes for _, attributes in Page(html).elements if kind in (attributes.get("class") or "").split()]


def test_a_barcode_brings_its_numbers(explanation):
    sliders = attributes_of(explore.panel(explanation, 3), "barcode")
    assert len(sliders) == 9 and all(slider["role"] == "slider" and slider["tabindex"] == "0" for slider in sliders)
    for i, slider in enumerate(sliders):
        known = {"gates": explanation.gates[i] * 1000, "reference": explanation.reference.reference()[i] * 1000,
                 "z": explanation.z_scores[i] * 10}  # fmt: skip
        for name, values in known.items():
            said = np.array(slider[f"data-{name}"].split(), int)
            assert len(said) == explanation.blocks[i].channels and np.abs(said - values).max() <= 0.5001
        assert (slider["data-block"], slider["data-name"]) == (str(i), explanation.blocks[i].name)
        assert slider["aria-valuemax"] == str(explanation.blocks[i].channels - 1)


def test_few_reference_pictures_give_no_z_scores(large):
    assert large.reference.count < 50
    assert not any("data-z" in slider for slider in attributes_of(explore.panel(large, 3), "barcode"))
    assert "z" not in views_block.channel_words(large, 0, 0).replace("reference", "")
    assert "no z-scores: they need at least 50" in Page(views_block.opened(large, 0)).text


def test_the_comparison_is_no_slider(explanation):
    """There a click opens nothing, so nothing may promise it to a keyboard or a screen reader."""
    assert not any("role" in box for box in attributes_of(compare.comparison([explanation, explanation]), "barcode"))


def test_only_the_opened_row_says_that_it_is_open(explanation):
    shut, html = explore.panel(explanation, 3), explore.panel(explanation, 3, (4, "<b>what is in it</b>"))
    assert [b["aria-expanded"] for b in attributes_of(shut, "row")] == ["false"] * 9
    assert [b["aria-expanded"] for b in attributes_of(html, "row")] == ["false"] * 4 + ["true"] + ["false"] * 4
    rows = Page(html).rows
    assert rows[6] == "what is in it" and rows[5].startswith(explanation.blocks[4].name)


def test_an_opened_row_shows_the_channel_that_was_asked_for(explanation):
    z = explanation.z_scores[2][5]
    words = f"gate {explanation.gates[2][5]:.3f} · reference {explanation.reference.reference()[2][5]:.3f} · z\u00a0"
    shown = Page(views_block.opened(explanation, 2, 5))
    assert words + signed(float(z), 1) in shown.text
    assert f"Channel 5 of {explanation.blocks[2].channels}" in shown.text
    (channel,) = [image for image in shown.images if image["alt"].startswith("Channel 5 of b")]
    drawn = channel_overlay(ground(explanation.picture, 256), explanation.channels(2)[5])
    assert np.array_equal(opened(channel), np.asarray(drawn))


def test_without_a_channel_it_is_the_one_that_moved_most(explanation):
    distance = np.abs(explanation.gates[2] - explanation.reference.reference()[2])
    html = views_block.opened(explanation, 2)
    assert f"Channel {distance.argmax()} of" in html
    buttons = [attributes for tag, attributes in Page(html).elements if "data-channel" in attributes]
    assert [int(b["data-channel"]) for b in buttons] == np.argsort(-distance, kind="stable")[:8].tolist()
    assert [b["aria-pressed"] for b in buttons] == ["true"] + ["false"] * 7


def test_the_grid_has_a_cell_for_every_channel_and_no_more(explanation):
    for block, name in enumerate(b.name for b in explanation.blocks):
        html, channels = views_block.opened(explanation, block), explanation.blocks[block].channels
        grids = [image for image in Page(html).images if image["class"] == "cells"]
        assert [name in image["alt"] for image in grids] == [True, True]
        for image in grids:
            pixels = opened(image, "RGBA")  # WebP leaves out an alpha that is 255 everywhere
            assert pixels.shape == (-(-channels // 32), min(32, channels), 4)
            assert (pixels[..., 3].ravel() == 255).sum() == channels
            assert (pixels[..., 3].ravel()[:channels] == 255).all()


@pytest.mark.parametrize(
    "values, said",
    [
        (np.zeros((4, 4)), "0 everywhere: nothing comes through"), (np.full((4, 4), 0.25), "+0.25 everywhere"),
        (np.full((1, 1), -0.125), "a single cell of −0.12"), (np.zeros((1, 1)), "0 everywhere"),
        (np.full((4, 4), 7.0) + np.eye(4) * 1e-6, "+7.00 everywhere"), (np.eye(4), ""), (-np.eye(4), ""),
    ],
)  # fmt: skip
def test_a_channel_without_a_place_is_said_in_words(values, said):
    values = values.astype(np.float32)
    assert views_block.unseen(values).startswith(said) and bool(views_block.unseen(values)) == bool(said)
    assert (channel_overlay(Image.new("RGB", (8, 8)), values) is None) == bool(said)


def test_a_dead_channel_is_words_and_no_picture(explanation, monkeypatch):
    maps = np.zeros((explanation.blocks[2].channels, 8, 8), np.float32)
    monkeypatch.setattr(type(explanation), "channels", lambda self, block: maps)
    shown = Page(views_block.opened(explanation, 2, 0))
    assert "This channel is 0 everywhere" in shown.text
    assert {image["class"] for image in shown.images} == {"big smooth", "scale", "cells"}
    assert [image["alt"] for image in shown.images if "smooth" in image["class"]][0].startswith("b5 moved")


def test_counts_of_gates_in_words(explanation):
    gates = np.array([0, 0, 0, 1, 1, *[0.5] * (explanation.blocks[0].channels - 5)], np.float32)
    mean = (np.concatenate([[0, 0], explanation.reference.mean[0][0][2:]])[None], *explanation.reference.mean[1:])
    made = replace(
        explanation, gates=[gates, *explanation.gates[1:]], reference=replace(explanation.reference, mean=mean)
    )
    text = Page(views_block.opened(made, 0)).text
    assert f"3 closed (exactly 0), 2 open (exactly 1), {len(gates) - 5} between" in text
    assert "2 dead: closed in all 100 reference pictures too" in text


def test_file_names_are_plain(explanation):
    assert explore.file_name(explanation, "b4", "channel", 7) == "tiny-b4-channel-7.png"
    named = replace(explanation, checkpoint=replace(explanation.checkpoint, name="../user/repo\\x\n"))
    assert (
        explore.file_name(named, "evidence", 'sea lion / "x"', ending=".csv") == "user-repo-x-evidence-sea-lion-x.csv"
    )
    assert len(explore.file_name(named, "x" * 500)) <= 104


# ---- class evidence and facts -------------------------------------------------------------------------------------


def test_evidence_says_for_which_class_and_where(explanation):
    k = next(k for k in range(10) if explanation.evidence(k).any())
    shown = Page(f"<figure>{explore.evidence(explanation, k)}</figure>")
    row, column = divmod(int(explanation.evidence(k).argmax()), 4)
    assert f"Evidence for ‘kind {k}’" in shown.text and "4×4" in shown.text
    (image,) = shown.images
    assert image["alt"] == f"Evidence for kind {k}, strongest in row {row + 1}, column {column + 1} of 4 by 4"


def test_where_no_place_speaks_for_the_class_it_says_so(explanation):
    nothing = replace(explanation, features=np.zeros_like(explanation.features))
    shown = Page(f"<figure>{explore.evidence(nothing, 3)}</figure>")
    assert "No place speaks for this class" in shown.text and not shown.images


def test_evidence_that_is_the_same_everywhere_is_words(explanation):
    k = next(k for k in range(10) if explanation.evidence(k).any())
    mean = explanation.features.mean((1, 2), keepdims=True)
    even = replace(explanation, features=np.broadcast_to(mean, explanation.features.shape).copy())
    if not even.evidence(k).any():
        even = replace(even, features=-even.features)
    shown = Page(f"<figure>{explore.evidence(even, k)}</figure>")
    assert even.evidence(k).any(), "nothing speaks for the class: another sentence's case"
    assert "the same everywhere" in shown.text and not shown.images


def test_the_picture_is_shown_pixel_by_pixel(explanation):
    got = Page(explore.pictures(explanation, 3)).images[0]
    assert "32 by 32 pixels" in got["alt"]
    assert np.array_equal(opened(got), np.asarray(explanation.picture).repeat(8, 0).repeat(8, 1))


def test_facts_are_the_explanations(explanation):
    text = Page(explore.facts(replace(explanation, milliseconds=12.34))).text
    whole = (
        f"tiny knows 10 kinds of things, 32×32 pixels · 25.0% top-1 on 100 test pictures · "
        f"{explanation.parameters:,} parameters · {explanation.multiply_adds / 1e6:,.1f} M multiply-adds"
    )
    assert text == f"{whole} · 12.3 ms here, the network alone"
    assert Page(explore.facts(replace(explanation, milliseconds=None))).text == whole


@pytest.mark.parametrize(
    "metrics, said",
    [
        ({"test": {"top1": 0.8612, "n": 10_000}}, "86.1% top-1 on 10,000 test pictures"),
        ({"published": {"top1": 0.7526, "n": 50_000}}, "75.3% top-1 on 50,000 validation pictures, as published"),
        ({}, ""), ({"test": "x"}, ""), ({"test": {"top1": "<b>", "n": 1}}, ""), ({"test": {"top1": 0.5}}, ""),
    ],
)  # fmt: skip
def test_accuracy_is_what_was_measured_or_nothing(metrics, said, explanation):
    checkpoint = replace(explanation.checkpoint, metrics=metrics)
    shown = Page(explore.facts(replace(explanation, checkpoint=checkpoint))).text
    assert f"{said} · " in shown if said else "top-1" not in shown


# ---- several checkpoints ------------------------------------------------------------------------------------------


def test_agreement_and_disagreement_are_said(explanation):
    a, b = saying(explanation, "a", "cat", 0.98), saying(explanation, "b", "cat", 0.91)
    c = saying(explanation, "c", "dog", 0.6)
    assert compare.agreement([a, b]) == "Both say cat (a 98%, b 91%)."
    other_words = " They know different classes, so other words need not be another opinion."
    assert compare.agreement([a, c]) == f"They disagree: a says cat (98%), c says dog (60%).{other_words}"
    alike = replace(c, checkpoint=replace(c.checkpoint, labels=a.checkpoint.labels[::-1]))
    alike = replace(alike, held=c.held[:, ::-1])
    a_reversed = replace(a, checkpoint=alike.checkpoint, held=-a.held)
    assert other_words not in compare.agreement([alike, a_reversed])
    assert compare.agreement([a, b, saying(explanation, "d", "cat", 0.7)]) == "All say cat (a 98%, b 91%, d 70%)."
    assert compare.agreement([a, b, c]) == (
        f"They disagree: a says cat (98%), b says cat (91%), c says dog (60%).{other_words}"
    )
    assert compare.agreement([a, c]) in Page(compare.comparison([a, c])).text


def test_the_comparison_has_a_column_each_with_its_own_numbers(explanation, large):
    shown = Page(compare.comparison([explanation, large]))
    head, says, *_, totals = shown.rows
    assert head.startswith("tiny") and "other" in head
    for e in (explanation, large):
        assert f"{e.parameters / 1e6:.2f} M parameters · {e.multiply_adds / 1e6:,.1f} M multiply-adds" in head
        for guess in e.top():
            assert f"{guess.label} {guess.probability:.1%}" in says
        index = e.top(1)[0].index
        assert f"Δp {signed(e.effects(index)[-1].probability, 3)} " in totals
        for effect in e.effects(index)[:-1]:
            assert f"Δp {signed(effect.probability, 3)}Δlogit {signed(effect.logit, 2)}" in shown.text
    columns = [tag for tag, _ in shown.elements].count("th")
    assert columns == 3 + len(shown.rows) - 1


def test_blocks_are_aligned_by_the_size_of_their_maps(explanation, large):
    rows = [row for row in Page(compare.comparison([explanation, large])).rows if row.startswith("SE at ")]
    sides = sorted({block.side for e in (explanation, large) for block in e.blocks}, reverse=True)
    assert [row.partition("×")[0] for row in rows] == [f"SE at {side}" for side in sides]
    for side, row in zip(sides, rows, strict=True):
        names = [block.name for e in (explanation, large) for block in e.blocks if block.side == side]
        assert re.findall(r"b\d+(?=Δp|one|nothing)", row) == names
        lacking = [e for e in (explanation, large) if all(block.side != side for block in e.blocks)]
        assert row.count("–") == len(lacking)
    assert any("–" in row for row in rows)


# ---- a network without SE blocks ----------------------------------------------------------------------------------


def test_without_se_blocks_the_panel_is_a_hint_in_words(without_se):
    shown = Page(explore.panel(without_se, 3))
    assert "no squeeze-and-excitation blocks" in shown.text and shown.images == []


def test_without_se_blocks_the_comparison_says_so(explanation, without_se):
    shown = Page(compare.comparison([explanation, without_se]))
    assert shown.rows[-1].endswith("no SE")
    assert all(row.endswith("–") for row in shown.rows if row.startswith("SE at "))
    assert Page(compare.comparison([without_se, without_se])).rows[-1].endswith("no SEno SE")
    assert "plain" in Page(explore.facts(without_se)).text
