"""Class view, after section 7.2 of the squeeze-and-excitation paper (Hu et al., arXiv 1709.01507): where gates know
the class.

Everything comes from the checkpoint's gates.safetensors: n, mean and M2 of every gate over the training pictures of
each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from ...explanation.class_gates import CHANNELS, extremes, sampled, specificity
from ...explanation.explanation import Explanation
from ...visual import svg
from ..i18n import known, say
from .explore import NO_BLOCKS, hint

MOST_CLASSES, MOST_BLOCKS = 4, 4  # beyond that nobody tells the lines apart
NO_CLASSES = (
    "This checkpoint brings no gate statistics for each class, so there is nothing to hold this picture against: "
    "checkpoints made by train.py have them, weights from torchvision and timm do not."
)
FROM = "From {pictures:,} {source}, {kinds} classes."
SHARE = (
    "The share is between-class over total variance (η²), summed over a block’s channels: at 100% gates depend on the "
    "class alone, and gates that ignore it get {chance:.2%} by chance. It says that gates differ between classes, not "
    "that the network needs them to: for that, see the effects in Look. After the squeeze-and-excitation paper, "
    "section 7.2."
)
CSS = """
.mnv3 .classview { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start; }
.mnv3 .classview > * { flex: 1 1 300px; min-width: 0; }
.mnv3 table.specific th { width: 22%; } .mnv3 table.specific td.share { width: 18%; }
.mnv3 .line3 { stroke: #009e73; stroke-dasharray: 9 3; } .mnv3 .line4 { stroke: #cc79a7; stroke-dasharray: 4 2; }
.mnv3 .line5 { stroke: #56b4e9; stroke-dasharray: 10 3 2 3; } .mnv3 .line6 { stroke: #b58900; stroke-dasharray: 3 4; }
"""


def view(explanation: Explanation, blocks: Sequence[int], classes: Sequence[int]) -> str:
    """The Class view: a bar per block, shallow to deep, and for the chosen blocks the classes' mean gates.

    blocks, classes: indices; without any, the most and the least class-specific block, and the three likeliest classes.
    """
    if not explanation.blocks:
        return hint(say(NO_BLOCKS))
    shares = specificity(explanation.reference)
    if shares is None:
        return hint(say(NO_CLASSES))
    classes = classes or [guess.index for guess in explanation.top(3)]
    blocks = blocks or extremes(shares) or [0]
    statistics = explanation.reference
    pictures, kinds = int(statistics.n[1:].sum()), len(statistics.n) - 1
    chance = (kinds - 1) / max(pictures - 1, 1)
    plots = "".join(
        f"<figure><figcaption><b>{explanation.blocks[b].name}</b>: {escape(nearest(explanation, b))}"
        f"<small>{_sampled(explanation, b)}</small></figcaption>"
        f"{svg.lines(_title(explanation, b), *_profile(explanation, b, classes))}</figure>"
        for b in blocks
    )
    curves, _, _ = _profile(explanation, 0, classes)
    return (
        f"<div class='mnv3'><p class='hint'>{summary(explanation, shares)}</p>"
        f"<p>{say('How much of each block’s gate variance lies between classes, shallow to deep:')}</p>"
        f"{_bars(explanation, shares)}"
        f"<p>{say('Mean gates of each class over the training pictures, and this picture’s gates over them:')}</p>"
        f"{svg.legend(curves)}<div class='classview'>{plots}</div>"
        f"<p><small>{say(FROM, pictures=pictures, source=escape(known(statistics.source)), kinds=kinds)} "
        f"{say(SHARE, chance=chance)}</small></p></div>"
    )


def summary(explanation: Explanation, shares: Sequence[float | None]) -> str:
    """Which block's gates depend most on the class, and which least, in words."""
    known = [(share, i) for i, share in enumerate(shares) if share is not None]
    if not known:
        return say("No gate of this network ever varies, so none depends on the class.")
    (low, least), (high, most) = min(known), max(known)
    name = [block.name for block in explanation.blocks]
    words = say(
        "<b>{block}</b>’s gates depend most on the class: {share:.0%} of their variance is between classes.",
        block=name[most], share=high,
    )  # fmt: skip
    if most != least:
        words += " " + say("<b>{block}</b>’s depend least: {share:.0%}.", block=name[least], share=low)
    last, deepest = known[-1]
    if deepest != most and last < 0.75 * high:
        words += " " + say(
            "After {block} it falls again, to {share:.0%} in {deepest}, the deepest.",
            block=name[most], share=last, deepest=name[deepest],
        )  # fmt: skip
    return words


def _bars(explanation: Explanation, shares: Sequence[float | None]) -> str:
    rows = []
    for block, share in zip(explanation.blocks, shares, strict=True):
        bar = "" if share is None else f"<i class='amount' style='left:0;width:{100 * share:.1f}%'></i>"
        rows.append(
            f"<tr><th scope='row'>{block.name}<small>{block.side}², {say('{count} gates', count=block.channels)}"
            f"</small></th>"
            f"<td><div class='bar'>{bar}</div></td>"
            f"<td class='share'>{say('gates never vary') if share is None else f'{share:.0%}'}</td></tr>"
        )
    return f"<table class='specific'><tbody>{''.join(rows)}</tbody></table>"


def _sampled(explanation: Explanation, block: int) -> str:
    channels = explanation.blocks[block].channels
    if channels > CHANNELS:
        some = say("{some} of {count} channels, evenly spaced", some=CHANNELS, count=channels)
    else:
        some = say("all {count} channels", count=channels)
    return say("{some}; each plot has its own scale", some=some)


def _profile(explanation: Explanation, block: int, classes: Sequence[int]):
    """Curves of mean gates over channels: all classes, each chosen class, this picture on top; with both axes."""
    shown, mean = sampled(explanation.blocks[block].channels), explanation.reference.mean[block]
    xs = shown.tolist()
    curves = [svg.Line(say("all classes"), xs, mean[0][shown].tolist(), 2)]
    for look, k in enumerate(classes, 3):
        if not explanation.reference.n[1 + k]:
            continue  # its mean is 0 for want of pictures: the only one of a class may be held out of training
        curves.append(svg.Line(explanation.checkpoint.labels[k], xs, mean[1 + k][shown].tolist(), look))
    curves.append(svg.Line(say("this picture"), xs, explanation.gates[block][shown].tolist(), 0))
    heights = [y for curve in curves for y in curve.ys]
    across = svg.numbers(say("channel"), 0, max(1, int(shown[-1])))
    return curves, across, svg.numbers(say("gate"), min(heights), max(heights))


def nearest(explanation: Explanation, block: int) -> str:
    """'nearest to frog 0.020, cat 0.028': the classes whose mean gates are nearest, by mean |difference|.

    Classes without a picture have no mean and are left out.
    """
    distance = np.abs(explanation.reference.mean[block][1:] - explanation.gates[block]).mean(1)
    labels = explanation.checkpoint.labels
    known_ones = [k for k in np.argsort(distance, kind="stable") if explanation.reference.n[1 + k]]
    two = ", ".join(f"{labels[k]} {distance[k]:.3f}" for k in known_ones[:2])
    return say("nearest to {classes}", classes=two)


def _title(explanation: Explanation, block: int) -> str:
    """What a screen reader says instead of the plot."""
    name, near = explanation.blocks[block].name, nearest(explanation, block)
    return say("Gates of {block} by channel; this picture is {nearest}", block=name, nearest=near)
