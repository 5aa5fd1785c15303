"""Explanation -> the tables of the page, as HTML that is whole in itself: pictures inline, nothing fetched.

Every text that comes from a checkpoint or a visitor is escaped here. Colours follow Gradio's light and dark.
"""

from __future__ import annotations

import re
from html import escape

import numpy as np
from PIL import Image

from ...checkpoints.checkpoint import Checkpoint
from ...explanation.explanation import Effect, Explanation
from ...visual.bitmap import (
    DIVERGING,
    FULL_DIFFERENCE,
    SEQUENTIAL,
    data_uri,
    enlarged,
    evidence_overlay,
    flat,
    gate_strip,
    ground,
    legend,
    shift_overlay,
)
from ..i18n import known, say

CSS = """
.mnv3 { font-size: 13px; line-height: 1.35; color: var(--body-text-color); }
.mnv3 p { margin: 4px 0; }
.mnv3 table { width: 100%; border-collapse: collapse; table-layout: fixed; border: 0 !important; margin: 0;
  box-shadow: none; }
.mnv3 thead, .mnv3 tbody, .mnv3 tr { border: 0 !important; background: none !important; }
.mnv3 th, .mnv3 td { padding: 3px 8px; border: 0 !important; text-align: left; vertical-align: middle;
  border-bottom: 1px solid var(--border-color-primary) !important; overflow-wrap: anywhere; background: none; }
.mnv3 thead th { font-weight: 600; vertical-align: bottom; }
.mnv3 small { opacity: .75; display: block; font-weight: 400; font-size: 11px; }
.mnv3 img { margin: 0; display: block; }
.mnv3 .strip { width: 100%; height: 24px; image-rendering: pixelated; }
.mnv3 .map { width: 40px; height: 40px; transition: transform .12s; border-radius: 3px; }
.mnv3 .map:hover, .mnv3 .map:focus { transform: scale(4); transform-origin: right center;
  position: relative; z-index: 20; }
.mnv3 .big { width: 100%; max-width: 190px; image-rendering: pixelated; border-radius: 4px; }
.mnv3 .smooth { image-rendering: auto; }
.mnv3 .bar { position: relative; height: 12px; background: var(--background-fill-secondary); border-radius: 2px; }
.mnv3 .bar i { position: absolute; top: 0; bottom: 0; border-radius: 2px; }
.mnv3 .bar b { position: absolute; top: -2px; bottom: -2px; left: 50%; width: 1px; background: currentColor; }
.mnv3 .scale { width: 70px; height: 8px; display: inline-block; vertical-align: middle; }
.mnv3 .wide { overflow-x: auto; }
.mnv3 .problem { border-left: 4px solid #b34700; padding: 8px 12px; background: var(--background-fill-secondary);
  font-size: 15px; }
.mnv3 .hint { padding: 8px 12px; font-size: 15px; background: var(--background-fill-secondary); border-radius: 4px; }
.mnv3 .gain { background: #d9741a; } .mnv3 .loss, .mnv3 .amount { background: #3d7cc9; }
.mnv3 figure { margin: 0; } .mnv3.pair { display: flex; gap: 12px; }
.mnv3.pair figure { flex: 1 1 130px; max-width: 190px; } .mnv3 figcaption { min-height: 2.9em; }
.mnv3 th .scale { width: 56px; }
.mnv3 .narrow { width: 10%; } .mnv3 .counts { width: 17%; } .mnv3 th.energy { width: 12.5%; }
.mnv3 td.counts span { white-space: nowrap; }
.mnv3 .effect { width: 22%; }
@media (max-width: 640px) {
  .mnv3 table.columns, .mnv3 table.columns thead, .mnv3 table.columns tbody { display: block; }
  .mnv3 table.columns tr { display: grid; grid-template-columns: 1fr 1fr; padding: 3px 0;
    border-bottom: 1px solid var(--border-color-primary) !important; }
  .mnv3 table.columns th, .mnv3 table.columns td { border: 0 !important; padding: 2px 4px; min-width: 0; }
  .mnv3 table.columns th[scope=row], .mnv3 table.columns thead th.narrow { grid-column: 1 / 3; }
  .mnv3 table.columns td > div { flex-wrap: wrap; }
  .mnv3 table.panel, .mnv3 table.panel tbody, .mnv3 table.panel thead { display: block; }
  .mnv3 table.panel tr { display: grid; grid-template-columns: 78px 1fr 52px; align-items: center;
    border-bottom: 1px solid var(--border-color-primary); padding: 3px 0; }
  .mnv3 table.panel th, .mnv3 table.panel td { border: 0 !important; padding: 2px 4px; }
  .mnv3 table.panel thead th { display: none; } .mnv3 table.panel thead th.gates { display: block; grid-column: 1 / 4; }
  .mnv3 table.panel td.counts { grid-row: 2; } .mnv3 table.panel td.effect { grid-row: 2; grid-column: 2 / 4; }
  .mnv3 .narrow, .mnv3 .counts, .mnv3 th.energy, .mnv3 .effect { width: auto; }
}
"""
NO_BLOCKS = "This network has no squeeze-and-excitation blocks, so there are no gates to show."
NOT_A_HEATMAP = (
    "A gate is one number for a whole channel, the same at every place: it is not a heatmap, and it does not say where "
    "the network looked. What varies over the picture is where a block moved activation energy, which says nothing of "
    "a class. Class evidence (Grad-CAM at the last map) does, as coarsely as that map is."
)
EFFECT = (
    "Effect: how much likelier the class is with the gates this picture got than with a block’s gates held at their "
    "reference, later blocks recomputed; not ‘the network without SE’, which would have been trained so."
)


def problem(sentence: str) -> str:
    """A failure as the visitor meets it: one sentence, announced to screen readers."""
    return f'<div class="mnv3"><p class="problem" role="alert">{escape(sentence)}</p></div>'


def hint(sentence: str) -> str:
    """An empty state: what to do."""
    return f'<div class="mnv3"><p class="hint">{escape(sentence)}</p></div>'


def facts(explanation: Explanation) -> str:
    """Who speaks, what it knows, what it costs: one line."""
    checkpoint = explanation.checkpoint
    parts = [
        say(
            "<b>{name}</b> knows {count:,} kinds of things, {side}×{side} pixels",
            name=escape(checkpoint.name), count=len(checkpoint.labels), side=checkpoint.preprocessing.crop,
        ),
        say("{count:,} parameters", count=explanation.parameters),
        say("{count:,.1f} M multiply-adds", count=explanation.multiply_adds / 1e6),
    ]  # fmt: skip
    if explanation.milliseconds:
        parts.append(say("{time:.1f} ms here, the network alone", time=explanation.milliseconds))
    if accuracy := measured(checkpoint):
        parts.insert(1, accuracy)
    return f'<div class="mnv3"><p>{" · ".join(parts)}</p></div>'


def measured(checkpoint: Checkpoint) -> str:
    """'86.1 % top-1 on 10,000 test pictures', from metrics.json; '' where nothing was measured."""
    result = checkpoint.measured()
    if not result:
        return ""
    return say("{top1:.1%} top-1 on {n:,} {of}", top1=result["top1"], n=result["n"], of=known(result["pictures"]))


def pictures(explanation: Explanation, index: int) -> str:
    """The picture as the network got it, and the evidence for class `index`, side by side."""
    side = explanation.checkpoint.preprocessing.crop
    alt = say("The picture as the network got it, {side} by {side} pixels", side=side)
    got = img(enlarged(explanation.picture), alt, "big")
    save = saved(file_name(explanation, "picture"))
    return (
        '<div class="mnv3 pair">'
        f"<figure><figcaption>{save}{say('As the network got it')}"
        f"<small>{say('{side}×{side} pixels, cropped', side=side)}</small></figcaption>{got}</figure>"
        f"<figure>{evidence(explanation, index)}</figure></div>"
    )


def evidence(explanation: Explanation, index: int) -> str:
    """Class evidence as a captioned picture, or in words where there is none."""
    label = escape(explanation.checkpoint.labels[index])
    values = explanation.evidence(index)
    height, width = values.shape
    map_size = say("Grad-CAM, last map, {height}×{width}", height=height, width=width)
    caption = f"{say('Evidence for ‘{label}’', label=label)}<small>{map_size}</small></figcaption>"
    words = "<figcaption>" + caption
    overlay = evidence_overlay(ground(explanation.picture, 256), values)
    if overlay is None:
        return f"{words}<p>{say('No place speaks for this class: the map is 0 everywhere.')}</p>"
    if height * width == 1:
        return f"{words}<p>{say('The last map is a single cell: it can’t say where.')}</p>"
    row, column = np.unravel_index(values.argmax(), values.shape)
    if flat(values):
        return f"{words}<p>{say('Every place speaks for this class alike: the map is the same everywhere.')}</p>"
    alt = say(
        "Evidence for {label}, strongest in row {row}, column {column} of {height} by {width}",
        label=explanation.checkpoint.labels[index], row=row + 1, column=column + 1, height=height, width=width,
    )  # fmt: skip
    shown = img(overlay, alt, "big smooth")
    name = file_name(explanation, "evidence", explanation.checkpoint.labels[index])
    return f"<figcaption>{saved(name)}{caption}{shown}"


def panel(explanation: Explanation, index: int, opened: tuple[int, str] | None = None) -> str:
    """The SE view: a row per block, shallow to deep, so that the eye runs from gates to effect.

    opened: a block's number and the HTML to show below its row (mnv3.detail makes it).
    """
    if not explanation.blocks:
        return hint(say(NO_BLOCKS))
    effects = explanation.effects(index)
    largest = max(0.01, *(abs(effect.probability) for effect in effects))
    label = escape(explanation.checkpoint.labels[index])
    columns = (
        ("narrow", say("Block"), say("map, gates")),
        ("gates", say("Gates, one cell a channel"), gate_legend()),
        ("counts", say("Closed / open"), say("exactly 0 / 1, and mean")),
        ("energy", say("Energy moved"), say("blue: away, orange: to")),
        ("effect", say("Effect on p(‘{label}’)", label=label), say("own gates − reference gates")),
    )
    head = "".join(f"<th class='{kind}'>{title}<small>{below}</small></th>" for kind, title, below in columns)
    rows, under = [], map_ground(explanation)
    for i in range(len(explanation.blocks)):
        inside = opened[1] if opened and opened[0] == i else None
        rows.append(_row(explanation, i, under, effect(effects[i], largest), inside is not None))
        if inside is not None:
            rows.append(f"<tr class='detail'><td colspan='5' class='detail'>{inside}</td></tr>")
    rows.append(
        f"<tr><th scope='row'>{say('all')}</th><td colspan='3'>{say('every block at its reference gates at once')}</td>"
        f"<td class='effect'>{effect(effects[-1], largest)}</td></tr>"
    )
    return (
        f"<div class='mnv3'><p>{_most(explanation, index, effects)} {DOWNLOADS}</p>"
        f"<div class='wide'><table class='panel'><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}"
        "</tbody></table></div>"
        f"<p><small>{_reference(explanation)} {say(EFFECT)} {say(NOT_A_HEATMAP)}</small></p></div>"
    )


def _most(explanation: Explanation, index: int, effects: list[Effect]) -> str:
    """Which block mattered most, in words."""
    most = max(range(len(explanation.blocks)), key=lambda i: abs(effects[i].probability))
    return say(
        "<b>{block}</b> mattered most for ‘{label}’: Δp {change}. Click a row or a cell to look inside. All gates:",
        block=explanation.blocks[most].name, label=escape(explanation.checkpoint.labels[index]),
        change=signed(effects[most].probability),
    )  # fmt: skip


def _reference(explanation: Explanation) -> str:
    count, source = explanation.reference.count, escape(known(explanation.reference.source))
    return say("Reference gates: the mean over {count:,} {source}.", count=count, source=source)


def _row(explanation: Explanation, block: int, under: Image.Image, bar: str, is_open: bool) -> str:
    """One block's row; its first cell is the button that opens and closes it."""
    shown = explanation.blocks[block]
    button = f"<button class='row' aria-expanded='{str(is_open).lower()}'>{shown.name}</button>"
    return (
        f"<tr data-block='{block}'{' data-open' if is_open else ''}>"
        f"<th scope='row'>{button}<small>{shown.side}², {shown.channels}</small></th>"
        f"<td>{strip(explanation, block, slider=True)}</td><td class='counts'>{_counts(explanation, block)}</td>"
        f"<td>{shift(explanation, block, under)}</td><td class='effect'>{bar}</td></tr>"
    )


def strip(explanation: Explanation, block: int, slider: bool = False) -> str:
    """A block's barcode, with the numbers behind it for the page's script: in thousandths, z in tenths.

    As a slider, keys move along its channels and Enter opens one.
    """
    gates, reference = explanation.gates[block], explanation.reference.reference()[block]
    name, z_scores = explanation.blocks[block].name, explanation.z_scores
    words = say(
        "{count} gates of {block}: mean {mean:.2f}, on average {moved:.2f} from the reference",
        count=len(gates), block=name, mean=gates.mean(), moved=explanation.moved(block),
    )  # fmt: skip
    data = {"gates": gates * 1000, "reference": reference * 1000} | ({"z": z_scores[block] * 10} if z_scores else {})
    numbers = "".join(f" data-{kind}='{' '.join(map(str, np.rint(v).astype(int)))}'" for kind, v in data.items())
    control = (
        f" role='slider' tabindex='0' aria-label='{words}{say(': arrow keys choose a channel, Enter shows it')}' "
        f"aria-valuemin='0' aria-valuemax='{len(gates) - 1}' aria-valuenow='0'" if slider else ""
    )  # fmt: skip
    return (
        f"<div class='barcode' data-block='{block}' data-name='{name}' data-columns='{len(gates)}' "
        f"data-words='{say('channel;gate;reference')}'{numbers}{control}>"
        f"{img(gate_strip(gates, reference), words, 'strip')}</div>"
    )


def _counts(explanation: Explanation, block: int) -> str:
    counts = explanation.closed_open(block)
    mean = say("mean {mean:.2f}", mean=explanation.gates[block].mean())
    mean = f"<span>{mean}</span><small>{say('moved {moved:.2f}', moved=explanation.moved(block))}</small>"
    return mean if counts is None else f"<span>{counts[0]} / {counts[1]},</span> {mean}"


def map_ground(explanation: Explanation) -> Image.Image:
    """What the energy maps of all blocks lie on."""
    return ground(explanation.picture, 128)


def shift(explanation: Explanation, block: int, under: Image.Image) -> str:
    """Where a block moved energy, over map_ground, or in words where it moved none."""
    name, side = explanation.blocks[block].name, explanation.blocks[block].side
    if side == 1:
        return f"<small>{say('one cell: nothing can move')}</small>"
    overlay = shift_overlay(under, explanation.shift(block))
    if overlay is None:
        return f"<small>{say('nothing moved')}</small>"
    moved = np.abs(explanation.shift(block)).sum() / 2
    words = say("{block} moved {share:.1%} of the activation energy to other places", block=name, share=moved)
    return img(overlay, words, "map", title=True, focus=True)


def effect(effect: Effect, largest: float) -> str:
    """A signed bar from the middle, with Δp and Δlogit beside it."""
    width = min(50.0, 50 * abs(effect.probability) / largest)
    left = 50 if effect.probability >= 0 else 50 - width
    kind = "gain" if effect.probability >= 0 else "loss"
    return (
        f"<div class='bar'><i class='{kind}' style='left:{left:.1f}%;width:{width:.1f}%'></i><b></b></div>"
        f"Δp {signed(effect.probability)} <span style='opacity:.75'>Δlogit {signed(effect.logit, 2)}</span>"
    )


def signed(value: float, digits: int = 3) -> str:
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"


def scale_img(scale: np.ndarray) -> str:
    return img(legend(scale), "", "scale")


def gate_legend() -> str:
    return say("{gates}, and below, minus reference: {differences}", gates=GATES_SCALE, differences=DIFFERENCE_SCALE)


def file_name(explanation: Explanation, *parts: object, ending: str = ".png") -> str:
    """'cifar10-large-b4-gates.png': what a download is called, whatever a checkpoint calls itself or its classes."""
    name = "-".join(str(part) for part in (explanation.checkpoint.name, *parts))
    return re.sub(r"[^\w.]+", "-", name).strip("-.")[:100] + ending


def saved(name: str) -> str:
    """A button that saves the picture of its figure under this name."""
    name = escape(name, quote=True)
    label = say("PNG: save this picture")
    return f"<button class='save' data-save='{name}' title='{name}' aria-label='{label}'>PNG</button>"


def img(picture, alt: str, kind: str, title: bool = False, focus: bool = False) -> str:
    words = escape(alt, quote=True)
    extra = (f' title="{words}"' if title else "") + (' tabindex="0"' if focus else "")
    return f'<img class="{kind}" src="{data_uri(picture)}" alt="{words}"{extra}>'


GATES_SCALE = f"0 {scale_img(SEQUENTIAL)} 1"
DIFFERENCE_SCALE = f"{signed(-FULL_DIFFERENCE, 1)} {scale_img(DIVERGING)} {signed(FULL_DIFFERENCE, 1)}"
DOWNLOADS = "<button class='save' data-file='csv'>CSV</button> <button class='save' data-file='json'>JSON</button>"
