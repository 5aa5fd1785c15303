"""How cost grows with resolution, batch and width: python -m tests.benchmarks.cost [--write]

The explained pass in our engine, on random weights, beside its multiply-adds. All take turns; medians in milliseconds.
--write keeps the result as cost.json and draws it as cost.svg, which the README shows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mnv3.checkpoints.checkpoint import Checkpoint
from mnv3.distributed import machine
from mnv3.explanation import batch as explanation_batch
from mnv3.inference import reference
from mnv3.inference import session as inference_session
from mnv3.nets.spec import multiply_adds
from mnv3.visual import svg
from tests.benchmarks.speed import checkpoint
from tests.benchmarks.timing import medians, report, turns

RESULT = Path(__file__).with_name("cost.json")
SIDES, BATCHES, WIDTHS = (96, 128, 160, 192, 224, 256, 288, 320), (1, 2, 4, 8, 16, 32, 64), (0.35, 0.5, 0.75, 1.0, 1.25)
ROUNDS, SETTLE, CALLS = 9, 2, 3
PICTURES = 100


def explained(net: Checkpoint, count: int, side: int):
    """A pass over `count` pictures of side × side pixels, to be called."""
    session, inputs = inference_session.fast(net, wait=True), torch.randn(count, 3, side, side)
    return lambda: session.run(inputs)


def row(net: Checkpoint, side: int, milliseconds: float, count: int = 1) -> dict:
    """Of one picture: milliseconds, millions of multiply-adds, and how many of them a microsecond does."""
    million = multiply_adds(net.spec, side) / 1e6
    return {"ms": round(milliseconds / count, 3), "MAdds (M)": round(million, 1),
            "MAdds / µs": round(1000 * million * count / milliseconds)}  # fmt: skip


def grown(variant: str) -> dict:
    """All three ways in one run, in turns: a machine that is slower for a while is so for all of them."""
    net, nets = checkpoint(variant), {width: checkpoint(variant, width) for width in WIDTHS}
    ways = {("resolution", side): (net, 1, side) for side in SIDES}
    ways |= {("batch", count): (net, count, 224) for count in BATCHES}
    ways |= {("width", width): (nets[width], 1, 224) for width in WIDTHS}
    taken = medians(turns({way: explained(*what) for way, what in ways.items()}, ROUNDS, 1, SETTLE, CALLS), 3)
    found = {"resolution": {}, "batch": {}, "width": {}}
    for (kind, step), (of, count, side) in ways.items():
        found[kind][step] = row(of, side, taken[kind, step], count)
    return found | {"straight line": {way: straight(found[way]) for way in ("resolution", "width")}}


def straight(rows: dict[float, dict]) -> dict[str, float]:
    """ms = fixed + slope · multiply-adds by least squares, and by how much of itself a row is off it at most."""
    million, ms = (np.array([row[key] for row in rows.values()]) for key in ("MAdds (M)", "ms"))
    slope, fixed = np.polyfit(million, ms, 1)
    off = np.abs(fixed + slope * million - ms) / ms
    figures = {"fixed ms": fixed, "ms per 100 M": 100 * slope, "off at most": off.max()}
    return {name: round(float(value), 2) for name, value in figures.items()}


def many() -> dict:
    """A hundred pictures as 'Many pictures' takes them, beside the engine's own batches and what comes before them.

    They are the examples again and again, about 600 pixels wide: a photograph of 12 megapixels takes longer to decode
    than both networks take.
    """
    nets = [checkpoint(variant) for variant in ("large", "small")]
    sessions, batch = [inference_session.fast(net, wait=True) for net in nets], torch.randn(PICTURES, 3, 224, 224)
    examples = reference.example_pictures()
    sent = [(str(number), examples[number % len(examples)]) for number in range(PICTURES)]

    def in_batches(size: int):
        for session in sessions:
            for begin in range(0, PICTURES, size):
                session.logits(batch[begin : begin + size])

    def prepared():
        for begin in range(0, PICTURES, explanation_batch.BATCH):
            paths = [path for _, path in sent[begin : begin + explanation_batch.BATCH]]
            list(explanation_batch.decoding.map(lambda path: explanation_batch.inputs(path, nets), paths))

    app, before = "as the app does", "decoding and resizing alone, two threads"
    ways = {app: lambda: list(explanation_batch.look_at(sent, nets)), before: prepared} | {
        f"the engine alone, batches of {size}": lambda size=size: in_batches(size) for size in (1, 4, 8, 16, 50)
    }
    taken = medians(turns(ways, ROUNDS, 1), 0)
    best = min(ms for name, ms in taken.items() if "engine" in name)
    return {
        "ms": taken, "the engine's best / the app": round(best / taken[app], 2),
        "the engine's best / the app without decoding and resizing": round(best / (taken[app] - taken[before]), 2),
    }  # fmt: skip


def measured() -> dict:
    import onnxruntime

    where = machine(torch.device("cpu")) | {"onnxruntime": onnxruntime.__version__}
    found = {"machine": where, "n": ROUNDS * CALLS} | {name: grown(name) for name in ("large", "small")}
    found[f"{PICTURES} pictures, Large and Small, 224×224"] = many()
    return found


def drawing(found: dict) -> str:
    """Milliseconds a picture against multiply-adds: a line for resolution and one for width, a plot for each net."""
    parts = []
    for number, name in enumerate(("large", "small")):
        ways = {way: [(r["MAdds (M)"], r["ms"]) for r in found[name][way].values()] for way in ("resolution", "width")}
        curves = [svg.Line(way, *zip(*points, strict=True), look) for look, (way, points) in enumerate(ways.items())]
        xs, ys = zip(*(point for points in ways.values() for point in points), strict=True)
        axes = svg.numbers("multiply-adds (millions)", 0, max(xs)), svg.numbers("ms", 0, max(ys))
        parts.append(f'<text x="{20 + 390 * number}" y="20">{name.title()}: orange resolution 96 to 320, blue width '
                     f'0.35 to 1.25</text><svg x="{390 * number}" y="30" width="380" height="245">'
                     f"{svg.lines(name, curves, *axes)}</svg>")  # fmt: skip
    style = f"svg {{ font-family: sans-serif; font-size: 11px; color: #222; }} {svg.CSS}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" class="mnv3" width="790" height="280" viewBox="0 0 790 280">'
        f'<style>{style}</style><rect width="790" height="280" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    report(__doc__, RESULT, measured, drawing)
