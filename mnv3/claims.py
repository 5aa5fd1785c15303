"""What the article claims of MobileNetV3, beside what was measured: claims.json has the figures, this the verdicts."""

from __future__ import annotations

import json
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")
SEEDS = 3
ABLATIONS = ("small-no-se", "small-relu", "small-3x3")
WIDTHS = (0.5, 0.75, 1.0)


def read() -> dict:
    """What `python -m tests.benchmarks.claims collect` wrote: `runs` by name, `speed` by network; empty without it."""
    return json.loads(FILE.read_text()) if FILE.is_file() else {"runs": {}, "speed": {}}
