"""One explanation as a page that needs neither a server nor a network: what `mnv3 explain --html` writes."""

from __future__ import annotations

from html import escape

from ...explanation.explanation import Explanation
from ...visual import svg
from . import block, explore

# what Gradio's theme defines on its page
THEME = """
:root { --body-text-color: #1f2937; --body-text-color-subdued: #4b5563; --border-color-primary: #d1d5db;
  --background-fill-primary: #fff; --background-fill-secondary: #f3f4f6; --block-background-fill: #fff;
  --color-accent: #c2410c; --text-sm: 14px; --text-xs: 12px; --text-md: 16px; --link-text-color: #1d4ed8; }
body { max-width: 1100px; margin: 0 auto; padding: 16px; font: 16px/1.5 system-ui, sans-serif;
  color: var(--body-text-color); }
button { display: none; }
"""


def page(explanation: Explanation, index: int, name: str) -> str:
    """The whole page for the class `index`: answer, pictures, evidence and a row an SE block. name: the picture's."""
    answer = "".join(
        f"<tr><td>{escape(guess.label)}</td><td>{guess.probability:.1%}</td></tr>" for guess in explanation.top()
    )
    title = f"{escape(name)}, seen by {escape(explanation.checkpoint.name)}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{THEME}{explore.CSS}{block.CSS}{svg.CSS}</style><h1>{title}</h1><table>{answer}</table>"
        f"{explore.facts(explanation)}{explore.pictures(explanation, index)}"
        f"{explore.panel(explanation, index)}</html>\n"
    )
