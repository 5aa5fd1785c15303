"""Several checkpoints beside each other: one picture in columns, or many pictures as a table."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from PIL import Image

from ...checkpoints.checkpoint import Checkpoint
from ...explanation.batch import MOST_PICTURES, Row, in_order, many_csv
from ...explanation.explanation import Explanation, Guess
from ..i18n import say
from .explore import NOT_A_HEATMAP, effect, evidence, gate_legend, map_ground, measured, shift, signed, strip

OTHER_CLASSES = "They know different classes, so other words need not be another opinion."
ALIGNED = "Rows with the same map size stand beside each other; a dash: no SE there."
CSS = """
.mnv3 .block { display: flex; flex-wrap: wrap; gap: 4px 8px; align-items: center; margin: 3px 0; }
.mnv3 .block > b { width: 2.2em; } .mnv3 .block > .barcode { flex: 1 1 90px; }
.mnv3 progress { display: none; appearance: none; width: 100%; height: 8px; margin: 6px 0; border: 0; }
.mnv3 progress, .mnv3 ::-webkit-progress-bar { background: var(--border-color-primary); }
.mnv3 ::-webkit-progress-value { background: #c2410c; } .mnv3 ::-moz-progress-bar { background: #c2410c; }
:has(> [data-testid=status-tracker].generating) progress { display: block; }
.mnv3 table.many { table-layout: auto; } .mnv3 table.many th[scope=row] { min-width: 88px; }
.mnv3 table.many td { min-width: 72px; }
.mnv3 table.many td.apart { font-weight: 600; }
@media (max-width: 640px) { .mnv3 table.many :is(td, th) { padding: 3px; min-width: 0 !important; font-size: 12px; } }
.mnv3 a.save { text-decoration: underline; text-underline-offset: 2px; color: inherit; }
"""


def comparison(explanations: list[Explanation]) -> str:
    """One picture through several checkpoints: a column each, SE blocks aligned by the size of their maps."""
    columns = "".join(f"<th>{escape(e.checkpoint.name)}<small>{_short_facts(e)}</small></th>" for e in explanations)
    lines = [f"<table class='columns'><thead><tr><th class='narrow'></th>{columns}</tr></thead><tbody>"]
    lines.append(_line(say("says"), [_bars(e.top()) for e in explanations]))
    best = [e.top(1)[0].index for e in explanations]
    lines.append(
        _line(
            say("evidence for its top-1"),
            [f"<figure>{evidence(e, i)}</figure>" for e, i in zip(explanations, best, strict=True)],
        )
    )
    sides = sorted({block.side for e in explanations for block in e.blocks}, reverse=True)
    grounds = [map_ground(e) for e in explanations]
    for side in sides:
        cells = [_stage(e, i, under, side) for e, i, under in zip(explanations, best, grounds, strict=True)]
        lines.append(_line(say("SE at {side}×{side}", side=side), cells))
    pairs = zip(explanations, best, strict=True)
    totals = [effect(e.effects(i)[-1], 1.0) if e.blocks else say("no SE") for e, i in pairs]
    lines.append(_line(say("all gates’ effect on its top-1"), totals))
    return (
        f"<div class='mnv3'><p class='hint'>{escape(agreement(explanations))}</p>"
        f"<div class='wide'>{''.join(lines)}</tbody></table></div>"
        f"<p><small>{say('Gates')} {gate_legend()}. {say(ALIGNED)} {say(NOT_A_HEATMAP)}</small></p></div>"
    )


def agreement(explanations: list[Explanation]) -> str:
    """'Both say cat (cifar10-large 98 %, cifar10-small 91 %).' or who says what."""
    tops = [e.top(1)[0] for e in explanations]
    said = [f"{e.checkpoint.name} {top.probability:.0%}" for e, top in zip(explanations, tops, strict=True)]
    if len({top.label for top in tops}) == 1:
        sentence = "Both say {label} ({said})." if len(tops) == 2 else "All say {label} ({said})."
        return say(sentence, label=tops[0].label, said=", ".join(said))
    kinds = len({e.checkpoint.labels for e in explanations})
    otherwise = " " + say(OTHER_CLASSES) if kinds > 1 else ""
    voices = [
        say("{name} says {label} ({share:.0%})", name=e.checkpoint.name, label=top.label, share=top.probability)
        for e, top in zip(explanations, tops, strict=True)
    ]
    return say("They disagree: {voices}.", voices=", ".join(voices)) + otherwise


def _stage(explanation: Explanation, index: int, under: Image.Image, side: int) -> str:
    """The SE blocks of one map size in one column of the comparison."""
    effects = explanation.effects(index)
    parts = []
    for i, block in enumerate(explanation.blocks):
        if block.side == side:
            parts.append(
                f"<div class='block'><b>{block.name}</b>{strip(explanation, i)}{shift(explanation, i, under)}"
                f"<div>Δp {signed(effects[i].probability)}"
                f"<small>Δlogit {signed(effects[i].logit, 2)}</small></div></div>"
            )
    return "".join(parts) or "–"


def _line(title: str, cells: list[str]) -> str:
    return f"<tr><th scope='row'>{title}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _short_facts(e: Explanation) -> str:
    cost = say(
        "{parameters:.2f} M parameters · {multiply_adds:,.1f} M multiply-adds",
        parameters=e.parameters / 1e6, multiply_adds=e.multiply_adds / 1e6,
    )  # fmt: skip
    time = say("{time:.1f} ms", time=e.milliseconds) if e.milliseconds else ""
    return " · ".join(filter(None, (cost, time, measured(e.checkpoint))))


def _bars(guesses: list[Guess]) -> str:
    return "".join(
        f"<div style='margin:2px 0'>{escape(g.label)} <span style='float:right'>{g.probability:.1%}</span>"
        f"<div class='bar'><i class='amount' style='left:0;width:{100 * g.probability:.1f}%'></i></div></div>"
        for g in guesses
    )


def many(rows: Sequence[Row], checkpoints: Sequence[Checkpoint], sent: int) -> str:
    """The rows so far as a table with its CSV, and a bar; `sent` is how many pictures there are in all."""
    bar = f"<progress aria-label='{say('Comparing')}' value='{len(rows)}' max='{min(sent, MOST_PICTURES)}'></progress>"
    if not rows:
        return f"<div class='mnv3'><p class='hint'>{say('None of {sent} pictures yet.', sent=sent)}</p>{bar}</div>"
    names = [checkpoint.name for checkpoint in checkpoints]
    apart, unread = sum(row.apart for row in rows), sum(bool(row.problem) for row in rows)
    words = say(
        "{done} of {sent} pictures: the checkpoints disagree on {apart}{and_unread}.",
        done=len(rows), sent=sent, apart=apart or say("none"),
        and_unread=say(", and {count} could not be read", count=unread) if unread else "",
    )  # fmt: skip
    if sent > MOST_PICTURES:
        words += " " + say("At most {count} are compared at once.", count=MOST_PICTURES)
    head = "".join(f"<th>{escape(name)}</th>" for name in (say("picture"), *names))
    body = "".join(_many_row(row, len(names)) for row in in_order(rows))
    address = "data:text/csv;base64," + base64.b64encode(many_csv(rows, names).encode()).decode()
    return (
        f"<div class='mnv3'><p class='hint'>{words} "
        f"<a class='save' download='mnv3-compared.csv' href='{address}'>{say('Save as CSV')}</a></p>"
        f"{bar}<div class='wide'><table class='many'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        "</div>"
    )


def _many_row(row: Row, columns: int) -> str:
    name = f"<th scope='row'>{escape(row.name)}</th>"
    if row.problem:
        return f"<tr>{name}<td colspan='{columns}'>{escape(row.problem)}</td></tr>"
    kind = " class='apart'" if row.apart else ""
    cells = "".join(f"<td{kind}>{escape(guess.label)} {guess.probability:.0%}</td>" for guess in row.guesses)
    return f"<tr>{name}{cells}</tr>"
