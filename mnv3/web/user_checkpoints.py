"""Checkpoints that visitors bring: files made by train.py, or a Hub repo, each read from a folder that then goes.

Nothing a visitor types is opened as a path, the Hub is asked without the host's token and past its cache, and what was
opened lives in memory under a name that can't be guessed, so that only who opened it can use it.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..checkpoints.checkpoint import CONFIG, GATES, METRICS, WEIGHTS, Checkpoint
from ..checkpoints.download import Progress, fetch_repo
from ..checkpoints.reading import MAX_JSON_BYTES, read_checkpoint, read_config
from ..checkpoints.registry import TIMM, Entry
from ..errors import InputError
from ..nets.spec import gated_blocks, multiply_adds, parameters

READ = (CONFIG, WEIGHTS, GATES, METRICS)  # what is taken of an upload; the first two must be there
MOST_BYTES = 50_000_000  # of weights, on disk
MOST_MULTIPLY_ADDS = 3_000_000_000  # of one picture: 14 times Large at 224², so that nobody keeps the others waiting
FEWEST_ROWS = 11  # of a causal batch, as Small's
MOST_NUMBERS = 2**28  # in all maps of one, 6 times Large's at 224²: a batch of the largest takes 2 GB
KEPT, KEPT_PER_VISITOR = 8, 2  # the oldest go first
PREFIX = "own-"
_lock = threading.Lock()
_kept: OrderedDict[str, tuple[str, Checkpoint]] = OrderedDict()


def from_files(files: Sequence[tuple[str, str | Path]]) -> Checkpoint:
    """The checkpoint of uploaded files (the name it had, where it lies now); others than READ are left alone.

    Raises InputError.
    """
    found: dict[str, Path] = {}
    for name, path in files:
        if name in found:
            raise InputError(f"The upload has two files named {name}: send the files of one folder.")
        if name in READ:
            found[name] = Path(path)
    for name in (CONFIG, WEIGHTS):
        if name not in found:
            sent = ", ".join(repr(str(name))[:40] for name, _ in files[:5]) or "nothing"
            raise InputError(f"The upload lacks {name} (it has {sent}): send the files that train.py wrote, no others.")
        if not found[name].is_file():
            raise InputError(f"{name} is no longer here, since uploads are kept for an hour or two: send it again.")
    with TemporaryDirectory() as folder:
        for name, path in found.items():
            most = MAX_JSON_BYTES if name.endswith(".json") else MOST_BYTES
            if path.stat().st_size > most:
                raise InputError(f"{name} has {path.stat().st_size:,} bytes: at most {most:,} are read.")
            shutil.copyfile(path, Path(folder) / name)
        return _read(Path(folder))


def from_hub(repo: object, progress: Progress | None = None) -> Checkpoint:
    """The checkpoint of a public Hub repo 'user/repo'. Raises InputError; no other text is ever taken for a place."""
    repo = repo.strip() if isinstance(repo, str) else ""
    repo = re.sub(r"https://huggingface\.co/|/$", "", repo)
    if repo in TIMM:
        raise InputError(f"{repo} is in the list of weights already: choose it there.")
    with TemporaryDirectory() as folder:
        return _read(fetch_repo(repo, READ, progress, folder, MOST_BYTES), repo)


def _read(folder: Path, name: str | None = None) -> Checkpoint:
    config = read_config(folder)  # before the weights, which are refused by it
    spec, side = config["spec"], config["preprocessing"].crop
    cost = multiply_adds(spec, side)
    if cost > MOST_MULTIPLY_ADDS:
        raise InputError(
            f"This network takes {cost / 1e9:,.1f} billion multiply-adds for a picture: up to "
            f"{MOST_MULTIPLY_ADDS / 1e9:.0f} billion can be run for visitors here."
        )
    # a causal batch has a row a block and two more; Trust takes hundreds of passes of any network
    rows = max(FEWEST_ROWS, len(gated_blocks(spec, side)) + 2)
    numbers = rows * sum(layer.outputs * layer.side**2 for layer in spec.layers(side))
    if numbers > MOST_NUMBERS:
        raise InputError(
            f"This network's maps hold {numbers / 1e6:,.0f} million numbers for {rows} pictures of {side}×{side} "
            f"pixels at once: up to {MOST_NUMBERS / 1e6:.0f} million fit for visitors here."
        )
    checkpoint = read_checkpoint(folder, name)
    return replace(checkpoint, name=f"{checkpoint.name} (yours)")  # never mistaken for a bundled one


def keep(checkpoint: Checkpoint, visitor: str) -> str:
    """Keeps it for the visitor and returns the name it can be had by; past the limits the oldest ones go."""
    name = PREFIX + secrets.token_urlsafe(16)
    with _lock:
        own = [key for key, (whose, _) in _kept.items() if whose == visitor]
        for key in own[: max(0, len(own) + 1 - KEPT_PER_VISITOR)]:
            del _kept[key]
        while len(_kept) >= KEPT:
            _kept.popitem(last=False)
        _kept[name] = visitor, checkpoint
    return name


def is_own(name: object) -> bool:
    """Whether a name is one that keep() gave, whether or not it is still kept."""
    return isinstance(name, str) and name.startswith(PREFIX)


def kept(name: str) -> Checkpoint:
    """The checkpoint that keep() named so. Raises InputError if it is gone."""
    with _lock:
        if name not in _kept:
            raise InputError("These weights of yours are no longer kept here: open them again in the tab Models.")
        _kept.move_to_end(name)
        return _kept[name][1]


def entries(names: Sequence[str]) -> list[Entry]:
    """The catalogue's view of a visitor's own, those that are still kept."""
    with _lock:
        found = [(name, _kept[name][1]) for name in names if name in _kept]
    return [
        Entry(
            name, name, checkpoint.spec.variant, f"Yours · {checkpoint.name.removesuffix(' (yours)')} · {name[4:8]}",
            "here", 4 * parameters(checkpoint.spec) / 1e6,
        )
        for name, checkpoint in found
    ]  # fmt: skip
