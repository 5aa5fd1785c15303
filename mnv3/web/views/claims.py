"""The section Claims of the Models tab, as HTML whole in itself: what README has as tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from ...claims import HEAD, SWEEP_HEAD, Claim, claims, read, sweep
from ..i18n import say

CSS = """
.mnv3 table.claims td:nth-child(2) { min-width: 180px; } .mnv3 table.claims code { overflow-wrap: anywhere; }
.mnv3 details > summary { cursor: pointer; padding: 10px 0; }
"""


def section() -> str:
    """Every claim with its number, how it was measured and the verdict; below, what each network costs.

    In English for everyone, and marked so: README's tables word for word. The heading says it in other languages.
    """
    data = read()
    return (
        f"<h2>{say('Claims')}</h2><div lang='en'><p>What the article that this project grew from says of "
        "MobileNetV3, and what became of it. Verdicts are computed wherever a number decides; README has the rules.</p>"
        f"{_table('models claims', HEAD, [_cells(claim) for claim in claims(data)])}"
        "<details><summary>What each network costs</summary>"
        f"{_table('models', SWEEP_HEAD, [[escape(cell) for cell in row] for row in sweep(data)])}</details></div>"
    )


def _cells(claim: Claim) -> list[str]:
    how = re.sub(r"`(.+?)`", r"<code>\1</code>", escape(claim.how))
    return [escape(claim.said), escape(claim.number), how, f"<b>{escape(claim.verdict)}</b>"]


def _table(kind: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """On a narrow page a row becomes a list, each cell with its column's name before it."""
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        f"<tr><th scope='row'>{row[0]}</th>"
        + "".join(f"<td data-label='{escape(name)}'>{cell}</td>" for name, cell in zip(head[1:], row[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    return f"<table class='{kind}'><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"
