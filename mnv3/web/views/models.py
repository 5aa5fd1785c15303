"""What the Models tab shows: what can be chosen, accuracy against cost, training curves, as HTML whole in itself.

Figures come from metrics files, which may be a stranger's, and are looked at before they are believed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

from ...checkpoints.checkpoint import Checkpoint
from ...checkpoints.registry import IMAGENET, TIMM, TORCHVISION, Entry
from ...errors import InputError
from ...inference import cache
from ...nets.spec import Spec, called, multiply_adds, parameters
from ...nets.tutorial import ArticleSpec
from ...visual.svg import Axis, Line, Point, legend, lines, numbers, percent, powers, scatter
from ..i18n import known, say
from ..user_checkpoints import is_own, kept
from . import claims

VALIDATION = "validation pictures, as published"
STATES = {"here": "here", "download": "to fetch", "failed": "failed"}
TO_FETCH = "To fetch: choose it in the list Weights, and a button appears."
MOST_ROWS = 5_000  # of a log that are drawn
CSS = """
.mnv3 table.models { table-layout: auto; } .mnv3 table.models td, .mnv3 table.models th { overflow-wrap: break-word; }
.mnv3 table.models td:nth-child(3) { min-width: 110px; }
.mnv3 table.models :is(td, th):last-child { min-width: 58px; }
.mnv3 table.models td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
@media (max-width: 640px) {
  .mnv3 table.models, .mnv3 table.models tbody, .mnv3 table.models tr { display: block; }
  .mnv3 table.models thead { display: none; }
  .mnv3 table.models tr { padding: 6px 0; border-bottom: 1px solid var(--border-color-primary) !important; }
  .mnv3 table.models td.number { white-space: normal; }
  .mnv3 table.models td small { display: inline; } .mnv3 table.models td small::before { content: " "; }
  .mnv3 table.models th, .mnv3 table.models td { display: block; min-width: 0 !important;
    border: 0 !important; padding: 1px 4px; }
  .mnv3 table.models td:not(:empty)::before { content: attr(data-label) ": "; opacity: .75; }
}
""" + claims.CSS


@dataclass(frozen=True)
class Model:
    """What is known of one entry without fetching anything; `spec` None where it can't be read."""

    entry: Entry
    title: str
    spec: Spec | None
    side: int = 0
    data: str = ""  # what it was trained on
    measured_on: str = ""  # whose pictures result speaks of
    result: dict | None = None  # top1, n, pictures
    log: list[dict] = field(default_factory=list)

    @property
    def multiply_adds(self) -> int:
        return multiply_adds(self.spec, self.side)


def models(entries: Sequence[Entry]) -> list[Model]:
    """The entries with what their config and metrics say; one that can't be read says why."""
    return [_model(entry) for entry in entries]


def _model(entry: Entry) -> Model:
    if entry.name in TORCHVISION or entry.name in TIMM:
        top1 = TORCHVISION[entry.name].top1 if entry.name in TORCHVISION else TIMM[entry.name][-1]
        result = {"top1": top1, "n": 50_000, "pictures": VALIDATION}
        data = f"ImageNet-21k, then {IMAGENET}" if "in21k" in entry.name else IMAGENET
        return Model(entry, entry.title, Spec.of(entry.variant), 224, data, "ImageNet-1k", result)
    try:
        checkpoint = kept(entry.name) if is_own(entry.name) else cache.checkpoint(entry.name)
    except InputError as error:
        return Model(Entry(**{**vars(entry), "state": "failed", "why": str(error)}), entry.title, None)
    side, data, result = checkpoint.preprocessing.crop, checkpoint.data, checkpoint.measured()
    return Model(entry, entry.title, checkpoint.spec, side, data, data, result, log_of(checkpoint))


def overview(found: Sequence[Model]) -> str:
    """Table, plots of accuracy against cost, training curves, and the article's claims."""
    found = in_order(found)
    return (
        f'<div class="mnv3">{table(found)}<p><small>{say(TO_FETCH)}</small></p>'
        f'<h2>{say("Accuracy against cost")}</h2>{accuracy_against_cost(found)}'
        f"<h2>{say('How they were trained')}</h2>{training_curves(found)}{claims.section()}</div>"
    )


def in_order(found: Sequence[Model]) -> list[Model]:
    """Those here first, then the visitor's own; of one set of pictures the most accurate first."""
    return sorted(
        found,
        key=lambda model: (
            model.entry.state != "here", not is_own(model.entry.name), model.measured_on,
            -model.result["top1"] if model.result else 0,
        ),
    )  # fmt: skip


def table(found: Sequence[Model]) -> str:
    """A row per entry. top-1 always stands with its n and its pictures."""
    names = (say("Model"), say("Trained on"), "top-1", say("Parameters"), say("Multiply-adds"), "MB", say("State"))
    rows = "".join(_row(model, names) for model in found)
    head = "".join(f"<th>{name}</th>" for name in names)
    return f"<table class='models'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(model: Model, names: Sequence[str]) -> str:
    entry, spec = model.entry, model.spec
    below = say("seen by you alone") if is_own(entry.name) else escape(entry.name)
    title = f"{escape(model.title)}<small>{below}</small>"
    state = say(STATES[entry.state]) + (f"<small>{escape(entry.why)}</small>" if entry.why else "")
    cells = ["", "", "", "", f"{entry.megabytes:.1f}", state]
    if spec:
        accuracy = say("not measured")
        if model.result:
            on = say("on {n:,} {of}", n=model.result["n"], of=escape(known(str(model.result["pictures"]))))
            accuracy = f"{model.result['top1']:.1%}<small>{on}</small>"
        at = say("at {side}×{side}", side=model.side)
        cells[:4] = [
            escape(known(model.data)), accuracy, f"{parameters(spec):,}<small>{_size(spec)}</small>",
            f"{model.multiply_adds / 1e6:,.1f} M<small>{at}</small>",
        ]  # fmt: skip
    kinds = ("", "", " class='number'", " class='number'", " class='number'", "")
    tds = "".join(f"<td{k} data-label='{n}'>{c}</td>" for k, n, c in zip(kinds, names[1:], cells, strict=True))
    return f"<tr><th scope='row'>{title}</th>{tds}</tr>"


def _size(spec: Spec | ArticleSpec) -> str:
    if isinstance(spec, ArticleSpec):
        return say("{size} as the article built it", size=called(spec.variant.removeprefix("article-")))
    return say("{variant}, width {width:g}", variant=escape(called(spec.variant)), width=spec.width)


def accuracy_against_cost(found: Sequence[Model]) -> str:
    """A plot for each set of pictures that at least two were measured on: accuracies on others can't be compared."""
    groups: dict[tuple, list[Model]] = {}
    for model in found:
        if model.spec and model.result:
            groups.setdefault(_measured_on(model), []).append(model)
    drawn = [_cost_plot(key, group) for key, group in groups.items() if len(group) > 1]
    single = [group[0].title for group in groups.values() if len(group) == 1]
    if not drawn:
        words = say("No two of these networks were measured on the same pictures, so there is nothing to plot.")
        return f"<p>{words}</p>"
    words = say("One plot for each set of pictures: accuracies on different pictures don’t go on one axis.")
    if single:
        words += " " + say("Alone on its pictures, and so not drawn: {names}.", names=escape(", ".join(single)))
    return f"<div class='charts'>{''.join(drawn)}</div><p><small>{words}</small></p>"


def _measured_on(model: Model) -> tuple:
    return model.measured_on, model.result["n"], model.result["pictures"]


def _cost_plot(key: tuple, group: Sequence[Model]) -> str:
    data, n, pictures = key
    points = [Point(m.multiply_adds / 1e6, m.result["top1"], _short(m), is_own(m.entry.name)) for m in group]
    xs, ys = [p.x for p in points], [p.y for p in points]
    x = powers(say("million multiply-adds"), min(xs), max(xs))
    y = percent("top-1", min(ys) - 0.01, min(1, max(ys) + 0.01))
    plot = scatter(say("top-1 against multiply-adds: {points}", points="; ".join(map(_told, points))), points, x, y)
    on = say("top-1 on {n:,} {of}", n=n, of=escape(known(str(pictures))))
    caption = f"<figcaption>{escape(known(data))}<small>{on}</small></figcaption>"
    names = escape("; ".join(map(_told, _front(points))))
    best = say("The most accurate for their cost or less: {names}.", names=names)
    return f"<figure>{caption}{plot}<p>{best}</p></figure>"


def _told(point: Point) -> str:
    return say("{name} {top1:.1%} at {cost:,.1f} million", name=point.label, top1=point.y, cost=point.x)


def _front(points: Sequence[Point]) -> list[Point]:
    """Those that no other matches in accuracy at the same cost or less, cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front


def _short(model: Model) -> str:
    """'Large · timm': the plot's title says the rest."""
    name, _, family = model.title.partition(" · ")
    label = f"{name} · {family.rpartition(' · ')[2]}" if not is_own(model.entry.name) else model.title
    return label if len(label) <= 34 else label[:33] + "…"


def log_of(checkpoint: Checkpoint) -> list[dict]:
    """The rows of metrics.json's log, each a dict of finite numbers; what is anything else is left out."""
    log = checkpoint.metrics.get("log")
    rows = log[:MOST_ROWS] if isinstance(log, list) else []
    return [
        {k: float(v) for k, v in row.items() if type(v) in (int, float) and abs(v) < 1e9 and math.isfinite(v)}
        for row in rows
        if isinstance(row, dict)
    ]


SHARES = {"heldout_top1_average": "held out, averaged weights", "heldout_top1": "held out", "train_top1": "training"}


def training_curves(found: Sequence[Model]) -> str:
    """Accuracy and loss by epoch of each that brings a log; in words if none does."""
    drawn = [(model, figures) for model in found if (figures := _curves(model))]
    if not drawn:
        return f"<p>{say('None of these brings the log of its training.')}</p>"
    keys = legend([Line(say(name), (), (), look) for look, name in enumerate(SHARES.values())])
    parts = [f"<h3>{escape(model.title)}</h3><div class='charts'>{figures}</div>" for model, figures in drawn]
    words = say("Training accuracy is on augmented pictures: it may lie below.")
    return f"{keys}{''.join(parts)}<p><small>{words}</small></p>"


def _curves(model: Model) -> str:
    shares = [_series(model.log, key, say(name), look) for look, (key, name) in enumerate(SHARES.items())]
    shares = [curve for curve in shares if all(0 <= y <= 1 for y in curve.ys)]
    losses = [_series(model.log, "train_loss", say("training loss"), 2)]
    return _curve_plot(model, "top-1", shares, percent) + _curve_plot(model, say("training loss"), losses, numbers)


def _series(log: list[dict], key: str, name: str, look: int) -> Line:
    rows = sorted((row["epoch"], row[key]) for row in log if "epoch" in row and key in row)
    return Line(name, [epoch for epoch, _ in rows], [value for _, value in rows], look)


def _curve_plot(model: Model, what: str, curves: Sequence[Line], axis: Callable[[str, float, float], Axis]) -> str:
    """'' where no curve has two points."""
    curves = [curve for curve in curves if len(curve.xs) > 1]
    if not curves:
        return ""
    xs, ys = ([v for curve in curves for v in getattr(curve, side)] for side in ("xs", "ys"))
    ends = "; ".join(say("{name} ends at {value:.3g}", name=curve.name, value=curve.ys[-1]) for curve in curves)
    title = say("{what} of {name} by epoch: {ends}", what=what, name=model.title, ends=ends)
    plot = lines(title, curves[::-1], numbers(say("epoch"), min(xs), max(xs)), axis("", min(ys), max(ys)))
    return f"<figure><figcaption>{what}</figcaption>{plot}</figure>"
