"""What the Trust tab shows: one map's trial as curves, tables and sentences, in HTML that is whole in itself."""

from __future__ import annotations

from html import escape

import numpy as np

from ...explanation.explanation import Explanation
from ...explanation.faithfulness import CONTROLS, MEASURES, RANDOM_MAPS, STEPS, Trial
from ...visual.bitmap import evidence_overlay, ground
from ...visual.svg import Line, legend, lines, numbers, percent
from ..i18n import say
from .explore import img, signed

NAMES = {
    "evidence": "class evidence", "centred": "a Gaussian at the centre", "random": "mean of {count} random maps",
}  # fmt: skip
SHORT = {"evidence": "Evidence", "centred": "Gaussian", "random": "Random"}
LOOKS = {"evidence": 0, "centred": 1, "random": 2}
NEAR = 0.02  # areas that differ by less are called alike
ON_TRIAL = "The map on trial: evidence for ‘{label}’ in this picture by <b>{name}</b>, {height}×{width} cells."
UNCHANGED = 0.5  # a mean rank correlation above it: the map hardly depends on the weights
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # networks -> two-sided 5 % of Student's t for their mean
BEATS_BOTH = "This map beats both controls: random maps, and a Gaussian at the centre, which looks at nothing."
BEATS_CENTRED_BY = {
    "deletion": "This map beats random maps; a Gaussian at the centre, which looks at nothing, only by deletion.",
    "insertion": "This map beats random maps; a Gaussian at the centre, which looks at nothing, only by insertion.",
}
BEATS_RANDOM = "This map beats random maps, but is no better than a Gaussian at the centre, which looks at nothing."
BEATS_RANDOM_BY = {
    "deletion": "This map beats random maps by deletion only: don’t build on it here.",
    "insertion": "This map beats random maps by insertion only: don’t build on it here.",
}
BEATS_NOTHING = "This map is no better than random maps: don’t build on it here."
DEPENDS_ON_NOTHING = (
    "This map hardly changes when all that was learned is lost: don’t build on it, whatever else it passes."
)
WEAK = "This picture is a weak test, as said below."
CANT_SAY = (
    "One picture is one draw. The tests find maps that are wrong; none of them shows that a map is right, nor that "
    "what it marks is the network’s whole reason."
)
FASTER, ALIKE, SLOWER = "faster than", "about as fast as", "more slowly than"
VERDICTS = {
    "deletion": (
        "Deletion: by this map p falls {random} by the random ones ({random_areas}) and {centred} by a Gaussian at the "
        "centre ({centred_areas}): {meaning}."
    ),
    "insertion": (
        "Insertion: by this map p returns {random} by the random ones ({random_areas}) and {centred} by a Gaussian at "
        "the centre ({centred_areas}): {meaning}."
    ),
}
POINTS_ELSEWHERE = "it does not point at what the answer hangs on"
KNOWS_MORE = "it knows more than that things stand in the middle"
MIDDLE_AS_GOOD = "better than chance, but the middle of the picture is as good a guess"
MIDDLE_BETTER = "better than chance, but the middle of the picture is the better guess"
BLURRED = "Even blurred, the picture is ‘{label}’ with p {p:.2f}: there is little left for insertion to show."
BLANK = "An even colour alone is ‘{label}’ with p {p:.2f}: there is little for deletion to take away."
UNLIKELY = (
    "The network gives ‘{label}’ only p {p:.2f} in this picture, so areas are small whatever the map: they say most "
    "for a likely class."
)
MEAN_CORRELATION = "Mean rank correlation with the maps of {nets} randomised networks: <b>{mean}</b>."
CORRELATION = (
    "Rank correlation with the map as learned: 1 is the same order of cells, 0 no relation. Two maps that have "
    "nothing in common still differ from 0: by ±{chance:.2f} (one standard deviation) if their {cells} cells were "
    "independent, by more since neighbours are alike; so the networks’ own spread decides. A low figure is needed but "
    "proves little: it says that the map depends on the weights, not that it is right. What a network can’t help "
    "seeing, such as edges and where the things stand, may keep the figure above 0."
)
UNPUBLISHED = (
    "Nothing was measured on many pictures for these weights. One picture is one draw: {command} measures as many as "
    "you have."
)
PUBLISHED = (
    "For each picture’s likeliest class. p: how often a mean difference from class evidence is as large by chance "
    "(paired sign-flip test). Rank correlation with the maps of {nets} randomised networks: {mean} on average. "
    "Measured on {where}."
)
START = "Press ‘Test this map’ to see whether the class evidence of this picture can be trusted. It takes some seconds."
CSS = """
.mnv3 .charts { display: flex; flex-wrap: wrap; gap: 8px 24px; margin: 6px 0; } .mnv3 .charts figure { flex: 1 1 300px;
  max-width: 400px; min-width: 0; }
.mnv3 .charts figcaption { min-height: 0; font-weight: 600; } .mnv3 .maps { display: flex; flex-wrap: wrap; gap: 10px; }
.mnv3 .maps figure { width: 92px; } .mnv3 .maps img { width: 92px; border-radius: 4px; }
.mnv3 .maps figcaption { min-height: 0; font-size: 12px; } .mnv3 :is(h2, h3) { font-size: 15px;
  margin: 14px 0 2px; }
.mnv3 .none { width: 92px; height: 92px; display: flex; align-items: center; text-align: center; font-size: 11px;
  background: var(--background-fill-secondary); border-radius: 4px; }
.mnv3 table.areas :is(th, td) { overflow-wrap: normal; }
.mnv3 ul { margin: 4px 0; padding-left: 18px; list-style: disc; } .mnv3 table.areas { max-width: 640px; }
#trust .pending .mnv3 { visibility: hidden; }
.mnv3 .verdict { font-size: 14px; }
"""


def trust(explanation: Explanation, index: int, trial: Trial, published: dict | None = None) -> str:
    """The whole answer: deletion and insertion, randomised weights, what was measured on many pictures, protocol."""
    name, label = escape(explanation.checkpoint.name), escape(explanation.checkpoint.labels[index])
    height, width = trial.evidence.shape
    return (
        f'<div class="mnv3"><p>{say(ON_TRIAL, label=label, name=name, height=height, width=width)}</p>'
        f"{_summary(explanation, index, trial)}"
        f"<h2>{say('Does the map find the pixels that the answer hangs on?')}</h2>"
        f"{_verdicts(explanation, index, trial)}{_charts(trial, explanation.checkpoint.labels[index])}{_areas(trial)}"
        f"<h2>{say('Does the map depend on what the network learned?')}</h2>"
        f"{_randomised(explanation, trial)}"
        f"<h2>{say('On many pictures')}</h2>{_published(published)}{protocol()}</div>"
    )


def _charts(trial: Trial, label: str) -> str:
    shares = np.linspace(0, 1, STEPS + 1)
    figures, drawn = [], []
    for measure in MEASURES:
        drawn, done = [], say("share of pixels deleted" if measure == "deletion" else "share of pixels inserted")
        for kind, look in LOOKS.items():
            rows = getattr(trial.curves, measure)[kind]
            band = list(zip(rows.min(0), rows.max(0), strict=True)) if len(rows) > 1 else None
            drawn.append(Line(_name(kind), shares, rows.mean(0), look, band))
        areas = ", ".join(f"{_name(kind)} {trial.curves.areas(measure, kind).mean():.2f}" for kind in LOOKS)
        title = say("Curves: p of {label} over the {done}; areas: {areas}", label=label, done=done, areas=areas)
        better = say("lower is better" if measure == "deletion" else "higher is better")
        plot = lines(title, drawn[::-1], percent(done), numbers("", 0, 1))
        figures.append(
            f"<figure><figcaption>{say(measure.title())}<small>p(‘{escape(label)}’), {better}</small></figcaption>"
            f"{plot}</figure>"
        )
    return f"{legend(drawn)}<div class='charts'>{''.join(figures)}</div>"


def _name(kind: str) -> str:
    return say(NAMES[kind], count=RANDOM_MAPS)


def _areas(trial: Trial) -> str:
    head = "".join(f"<th>{say(SHORT[kind])}</th>" for kind in LOOKS)
    rows = []
    for measure, better in zip(MEASURES, ("smaller is better", "larger is better"), strict=True):
        cells = "".join(f"<td>{_area(trial.curves.areas(measure, kind))}</td>" for kind in LOOKS)
        rows.append(f"<tr><th scope='row'>{say(measure.title())}<small>{say(better)}</small></th>{cells}</tr>")
    return (
        f"<table class='areas'><thead><tr><th>{say('Area')}</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _area(areas: np.ndarray) -> str:
    if len(areas) == 1:
        return f"{areas[0]:.3f}"
    spread = say("{low:.3f} to {high:.3f}", low=areas.min(), high=areas.max())
    return f"{areas.mean():.3f}<small>{spread}</small>"


def _summary(explanation: Explanation, index: int, trial: Trial) -> str:
    """What all of it comes to, in one line, and what that can't say."""
    weak = f" {say(WEAK)}" if _weaknesses(explanation, index, trial) else ""
    return f"<p class='verdict'><b>{_passes(trial)}</b>{weak}<br><small>{say(CANT_SAY)}</small></p>"


def _passes(trial: Trial) -> str:
    """The line: which of the controls the map beats; by both measures, or by which."""
    if trial.correlation > UNCHANGED:
        return say(DEPENDS_ON_NOTHING)
    random, centred = (
        [measure for measure in MEASURES if _outcome(trial, measure, control)[0] == FASTER] for control in CONTROLS
    )
    if len(random) < len(MEASURES):
        return say(BEATS_RANDOM_BY[random[0]]) if random else say(BEATS_NOTHING)
    if len(centred) < len(MEASURES):
        return say(BEATS_CENTRED_BY[centred[0]]) if centred else say(BEATS_RANDOM)
    return say(BEATS_BOTH)


def _verdicts(explanation: Explanation, index: int, trial: Trial) -> str:
    """One sentence a measure, and what takes the ground from under it."""
    sentences = [_verdict(trial, measure) for measure in MEASURES] + _weaknesses(explanation, index, trial)
    return f"<ul class='verdict'>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"


def _weaknesses(explanation: Explanation, index: int, trial: Trial) -> list[str]:
    """Why areas say little in this picture, whatever the map."""
    sentences, label, own = [], explanation.checkpoint.labels[index], explanation.probabilities[index]
    blank, blurred = trial.curves.deletion["evidence"][0, -1], trial.curves.insertion["evidence"][0, 0]
    if blurred > 0.5:
        sentences.append(say(BLURRED, label=label, p=blurred))
    if blank > 0.5:
        sentences.append(say(BLANK, label=label, p=blank))
    if own < 0.2:
        sentences.append(say(UNLIKELY, label=label, p=own))
    return sentences


def _outcome(trial: Trial, measure: str, control: str) -> tuple[str, str]:
    """FASTER, ALIKE or SLOWER than by a control, and the areas: '0.21 against 0.35'."""
    own = float(trial.curves.areas(measure, "evidence")[0])
    other = float(trial.curves.areas(measure, control).mean())
    gain = own - other if measure == "insertion" else other - own
    outcome = ALIKE if abs(gain) < NEAR else FASTER if gain > 0 else SLOWER
    return outcome, say("{own:.2f} against {other:.2f}", own=own, other=other)


def _verdict(trial: Trial, measure: str) -> str:
    """'Deletion: by this map p falls faster than by the random ones (0.21 against 0.35) and about as fast as …'"""
    (random, random_areas), (centred, centred_areas) = (_outcome(trial, measure, control) for control in CONTROLS)
    if random != FASTER:
        meaning = POINTS_ELSEWHERE
    elif centred == FASTER:
        meaning = KNOWS_MORE
    else:
        meaning = MIDDLE_AS_GOOD if centred == ALIKE else MIDDLE_BETTER
    return say(
        VERDICTS[measure], random=say(random), random_areas=random_areas, centred=say(centred),
        centred_areas=centred_areas, meaning=say(meaning),
    )  # fmt: skip


def _randomised(explanation: Explanation, trial: Trial) -> str:
    cells = trial.evidence.size
    chance = 1 / np.sqrt(cells - 1)  # standard deviation of Spearman's coefficient without any relation
    figures = [_map(explanation, trial.evidence, say("as learned"), "1")]
    for number, (values, correlation) in enumerate(trial.randomised, 1):
        words = "–" if np.isnan(correlation) else signed(correlation, 2)
        figures.append(_map(explanation, values, say("randomised {number}", number=number), words))
    return (
        f"<p class='verdict'>{_dependence(trial)}</p><div class='maps'>{''.join(figures)}</div>"
        f"<p><small>{say(CORRELATION, cells=cells, chance=chance)}</small></p>"
    )


def _dependence(trial: Trial) -> str:
    """Whether the nets' mean correlation is another than 0, by a t-test over the nets.

    Their own spread counts, not 1 / √(cells − 1): cells aren't independent, and by that the bundled networks' maps were
    told to be related to those of other pictures in a tenth to a fifth of all cases.
    """
    correlation = trial.correlation
    if np.isnan(correlation):
        return say("The randomised networks have no evidence for this class anywhere, so there is nothing to compare.")
    each = [one for _, one in trial.randomised if not np.isnan(one)]
    beyond = STUDENT[len(each)] * np.std(each, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.inf
    said = say(MEAN_CORRELATION, nets=len(each), mean=signed(correlation, 2))
    if correlation > UNCHANGED:
        meaning = say("The map hardly changes when all that was learned is lost: it can’t be the network’s reason.")
    elif abs(correlation) > beyond:
        meaning = say("The map depends on the weights in part; some of it comes from the picture alone.")
    else:
        meaning = say("The map changes with the weights as much as chance would have it, as it should.")
    return f"{said} {meaning}"


def _map(explanation: Explanation, values: np.ndarray, name: str, correlation: str) -> str:
    overlay = evidence_overlay(ground(explanation.picture, 128), values)
    related = say("rank correlation {value}", value=correlation)
    words = say("Evidence map {name}, {related}", name=name, related=related)
    drawn = f"<div class='none'>{say('0 everywhere')}</div>" if overlay is None else img(overlay, words, "smooth")
    return f"<figure>{drawn}<figcaption>{name}<small>{related}</small></figcaption></figure>"


def _published(found: dict | None) -> str:
    if not found:
        return f"<p>{say(UNPUBLISHED, command='<code>python -m mnv3.faithfulness</code>')}</p>"
    rows = []
    for measure in MEASURES:
        areas, differences = found["areas"][measure], found["differences"][measure]
        cells = f"<td>{areas['evidence']:.3f}</td>"
        for control in ("centred", "random"):
            p = differences[control]["p"]
            cells += f"<td>{areas[control]:.3f}<small>p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}</small></td>"
        rows.append(f"<tr><th scope='row'>{say(measure.title())}</th>{cells}</tr>")
    head = "".join(f"<th>{say(SHORT[kind])}</th>" for kind in LOOKS)
    machine = found.get("machine") if isinstance(found.get("machine"), dict) else {}
    where = escape(f"{machine.get('hardware', say('a machine unknown'))}, torch {machine.get('torch', '?')}")
    test_pictures = say("{count:,} test pictures", count=found["n"])
    mean = signed(found["randomised"]["mean"], 2)
    return (
        f"<table class='areas'><thead><tr><th>{say('Mean area')}<small>{test_pictures}</small></th>{head}</tr>"
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
        f"<p><small>{say(PUBLISHED, nets=found['randomised']['nets'], mean=mean, where=where)}</small></p>"
    )


def protocol() -> str:
    """How it was measured, and what that can't say."""
    points = (say(DELETION_POINT, steps=STEPS), say(ODD_POINT), say(GAUSSIAN_POINT), say(RANDOMISED_POINT))
    items = "".join(f"<li>{point}</li>" for point in points)
    return f"<h2>{say('How this was measured, and what it can’t say')}</h2><ul>{items}</ul>"


DELETION_POINT = (
    "Deletion and insertion (Petsiuk et al. 2018): the map is enlarged to the network’s picture, as the page shows it, "
    "and its pixels are taken highest first in {steps} equal steps. Deletion puts the picture’s mean colour in their "
    "place; insertion brings them back into a blurred picture (Gaussian, an eighth of the side). The area is that "
    "under p over the share of pixels, by the trapezoid rule. Grey: from the lowest to the highest of the random maps."
)
ODD_POINT = (
    "Half-deleted pictures look like nothing the network was trained on, so p may fall because they are odd. The "
    "controls meet the same oddity; what counts is the distance to them, and the areas alone say little."
)
GAUSSIAN_POINT = (
    "Of the Gaussian only the order counts. Photographs show their things in the middle, so it is a strong control, "
    "and a map of few cells may not beat it."
)
RANDOMISED_POINT = (
    "Randomised weights (Adebayo et al. 2018): the values of every learned tensor are permuted, and BatchNorm’s "
    "statistics taken anew from the example pictures; without that such a network answers the same to everything."
)
