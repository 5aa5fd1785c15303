"""Many pictures through several networks."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch

from ..checkpoints.checkpoint import Checkpoint
from ..errors import InputError
from ..images.decode import open_picture
from ..images.preprocessing import Preprocessing
from ..inference import session
from .explanation import Guess, likeliest, softmax

FEWEST, MOST = 2, 4  # checkpoints beside each other
MOST_PICTURES = 200  # at once
BATCH = 16  # of them through a network together
WAIT = 1  # second, until there is news
decoding = ThreadPoolExecutor(2, "decode")  # Pillow lets go of the interpreter's lock


# Many pictures --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Row:
    """One picture's top-1 by each checkpoint; or none, and in `problem` the sentence why."""

    name: str
    guesses: tuple[Guess, ...] = ()
    problem: str = ""

    @property
    def apart(self) -> bool:
        """Whether the checkpoints disagree."""
        return len({guess.label for guess in self.guesses}) > 1


def look_at(pictures: Sequence[tuple[str, object]], checkpoints: Sequence[Checkpoint]) -> Iterator[list[Row]]:
    """Top-1 of every (name, anything open_picture takes) by each checkpoint, the rows of a batch at a time.

    A batch is full with BATCH pictures, beyond which engines gain nothing, or after WAIT seconds of decoding: whoever
    watches or cancels waits for one. A picture that can't be read is a row too.
    """
    size = min(BATCH, *(session.rows_at_once(c) for c in checkpoints))
    for begin in range(0, len(pictures), size):
        names, sources = zip(*pictures[begin : begin + size], strict=True)
        prepared, batch, since = decoding.map(partial(inputs, checkpoints=checkpoints), sources), [], time.monotonic()
        for named in zip(names, prepared, strict=True):
            batch.append(named)
            if time.monotonic() - since > WAIT:
                yield _rows(batch, checkpoints)
                batch, since = [], time.monotonic()
        if batch:
            yield _rows(batch, checkpoints)


def _rows(batch: Sequence[tuple[str, dict | InputError]], checkpoints: Sequence[Checkpoint]) -> list[Row]:
    """What the networks say of (name, what `inputs` made of the picture)."""
    read = [found for _, found in batch if not isinstance(found, InputError)]
    stacked = {way: torch.stack([found[way] for found in read]) for way in (read[0] if read else ())}
    guesses = zip(*(_top1(c, stacked[c.preprocessing]) for c in checkpoints if read), strict=True)
    return [
        Row(name, problem=str(found)) if isinstance(found, InputError) else Row(name, next(guesses))
        for name, found in batch
    ]


def inputs(source: object, checkpoints: Sequence[Checkpoint]) -> dict[Preprocessing, torch.Tensor] | InputError:
    """What the networks get of a picture: decoded once, and prepared once for those that want the same."""
    ways = {c.preprocessing for c in checkpoints}
    try:
        picture = open_picture(source, max(way.enough for way in ways))
        return {way: way(picture) for way in ways}
    except InputError as error:
        return error


def _top1(checkpoint: Checkpoint, inputs: torch.Tensor) -> list[Guess]:
    logits, _ = session.logits(checkpoint, inputs)
    return [likeliest(p, checkpoint.labels, 1)[0] for p in softmax(logits)]


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Disagreements first, what can't be read last; otherwise as sent."""
    return sorted(rows, key=lambda row: 2 if row.problem else 0 if row.apart else 1)


def many_csv(rows: Sequence[Row], names: Sequence[str]) -> str:
    """A line a picture, disagreements first: its name, top-1 and probability by each checkpoint, agree, problem."""
    file = io.StringIO()
    write = csv.writer(file).writerow
    columns = [column for name in names for column in (name, f"{name} probability")]
    write([_cell(text) for text in ("picture", *columns, "agree", "problem")])
    for row in in_order(rows):
        said = [text for guess in row.guesses for text in (_cell(guess.label), f"{guess.probability:.4f}")]
        agree = "" if row.problem else "no" if row.apart else "yes"
        write([_cell(row.name), *(said or [""] * len(columns)), agree, _cell(row.problem)])
    return file.getvalue()


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula: names and labels may be a stranger's."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
