"""README's tables of 'How fast': python -m tests.benchmarks.table [--measure] [--write]

Prints them from the .json files beside this one; with --measure everything is measured first (a quarter of an hour on a
machine that does nothing else), with --write they go into README.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parent.parent / "README.md"
MEASURED = ("speed", "click", "load", "engines", "cost")
SIZES = ("large", "small")


def read(name: str) -> dict:
    return json.loads((HERE / f"{name}.json").read_text())


def lines(head: Sequence[str], rows: Iterable[Sequence]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["-"] * len(head), *rows))


def where(found: dict) -> str:
    machine = found["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "onnxruntime") if name in machine)
    return f"{machine['hardware']}, {versions}"


def speed() -> str:
    found = read("speed")
    ours = {name: found[name] for name in SIZES}
    times = [(way, *(ours[name]["milliseconds"][way] for name in SIZES)) for way in ours["large"]["milliseconds"]]
    ratios = [(way, *(ours[name][way] for name in SIZES)) for way in ours["large"] if "/" in way]
    note = f"One 224×224 picture, medians in milliseconds, n = {ours['large']['n']}, {where(found)}:"
    return f"{note}\n\n{lines(('', 'Large', 'Small'), [*times, ('**ratios**', '', ''), *ratios])}"


def click() -> str:
    found = read("click")
    rows = [*found["milliseconds"].items(), ("look, Large / constant", found["look, Large / constant"])]
    parts = [(f"in the handler: {name}", ms) for name, ms in found["parts of a click"].items()]
    start = [(f"seconds: {name}", taken) for name, taken in found["seconds to start"].items()]
    note = f"A click, {found['picture']}, medians in milliseconds, n = {found['n']}, {where(found)}:"
    return f"{note}\n\n{lines(('', ''), [*rows, *parts, *start])}"


def engines() -> str:
    found = read("engines")
    rows = [(size, name, *way.values()) for size in SIZES for name, way in found[size].items()]
    note = f"The explained pass in three engines, two threads, n = {found['n']}, {where(found)}:"
    return f"{note}\n\n{lines(('', 'engine', *next(iter(found['large'].values()))), rows)}"


def cost() -> str:
    found = read("cost")
    rows = [
        (f"{way} {step}", *(cell for size in SIZES for cell in list(found[size][way][step].values())))
        for way in ("resolution", "width", "batch") for step in found["large"][way]
    ]  # fmt: skip
    kinds = [f"{size.title()}: {kind}" for size in SIZES for kind in next(iter(found["large"]["width"].values()))]
    note = f"A picture, alone at 224×224 and width 1 but for what is said; medians, n = {found['n']}, {where(found)}:"
    straight = [(f"{size.title()}, by {way}", *line.values()) for size in SIZES
                for way, line in found[size]["straight line"].items()]  # fmt: skip
    head = ("as a straight line", *found["large"]["straight line"]["width"])
    return f"{note}\n\n{lines(('', *kinds), rows)}\n\n{lines(head, straight)}"


def many() -> str:
    (found,) = (value for name, value in read("cost").items() if "pictures" in name)
    rows = [*found["ms"].items(), *((name, ratio) for name, ratio in found.items() if "/" in name)]
    return f"A hundred pictures through Large and Small, milliseconds:\n\n{lines(('', ''), rows)}"


def load() -> str:
    found = read("load")
    crowds = {name: {**crowd, "errors": sum(crowd["errors"].values())} for name, crowd in found.items()
              if name.endswith("clients") and isinstance(crowd, dict)}  # fmt: skip
    rows = [(what, *(crowd[what] for crowd in crowds.values())) for what in next(iter(crowds.values()))]
    memory = [(f"the server's memory, MB: {when}", value) for when, value in found["server's memory, MB"].items()]
    ratio = ("throughput, 32 / 2 clients", found["throughput, 32 / 2 clients"])
    note = f"A minute of /explain, Large and Small, each client with a picture of its own, {where(found)}:"
    return f"{note}\n\n{lines(('', *crowds), rows)}\n\n{lines(('', ''), [ratio, *memory])}"


TABLES = {table.__name__: table for table in (speed, click, engines, cost, many, load)}


def written(text: str) -> str:
    """README's text with every table between its marks made anew."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{table()}\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure first")
    parser.add_argument("--write", action="store_true", help="put the tables into README")
    given = parser.parse_args()
    if given.measure:
        for name in MEASURED:
            subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}", "--write"], check=True)
    for table in TABLES.values():
        print(f"{table()}\n")
    if given.write:
        README.write_text(written(README.read_text()))


if __name__ == "__main__":
    main()
