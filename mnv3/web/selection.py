"""Which checkpoints can be chosen, and the one that a choice means: catalogue, host's settings, visitor's own."""

from __future__ import annotations

import os

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.registry import Entry, catalogue, is_here
from ..errors import InputError
from ..explanation import batch
from ..inference import cache
from . import settings, user_checkpoints

VARIANTS = ("Large", "Small")


def host_settings() -> settings.Settings:
    """What the host set by environment variables. Raises InputError."""
    return settings.read(os.environ, catalogue())


def offered() -> list[Entry]:
    """The catalogue, less what the host does not offer."""
    entries = catalogue()
    allowed = settings.read(os.environ, entries)
    return [entry for entry in entries if allowed.offers(entry)]


def variants() -> list[str]:
    """Large and Small, or the one that the host offers."""
    there = {entry.variant for entry in offered()}
    return [variant for variant in VARIANTS if variant.lower() in there]


def families(variant: str) -> list[str]:
    """The Weights list for Large or Small, as the catalogue has it."""
    names = [entry.family for entry in offered() if entry.variant == variant.lower()]
    return list(dict.fromkeys(names))


def default_family() -> str:
    """The host's choice, else ImageNet weights when both sizes are in the local cache, else the bundled ones."""
    if family := host_settings().default:
        return family
    entries = offered()
    for family in dict.fromkeys(entry.family for entry in entries):
        states = {entry.variant: entry.state for entry in entries if entry.family == family}
        if states == {"large": "here", "small": "here"}:
            return family
    return families(variants()[0])[-1]


def chosen(model: str, weights: str) -> Entry:
    """The catalogue's entry for Large | Small and a family (or a checkpoint's own name). Raises InputError."""
    if model not in VARIANTS:
        raise InputError(f"There is no model {str(model)[:40]!r}: choose Large or Small.")
    entries = [entry for entry in offered() if entry.variant == model.lower()]
    for entry in entries:
        if weights in (entry.family, entry.name):
            return entry
    known = ", ".join(entry.family for entry in entries)
    if not known:
        raise InputError(f"{model} is not offered here: choose {' or '.join(variants())}.")
    raise InputError(f"{model} has no weights {str(weights)[:60]!r}: choose one of {known}.")


def opened(model: str, weights: str) -> Checkpoint:
    """The chosen checkpoint, if it is on this machine; nothing is fetched without being asked for."""
    if user_checkpoints.is_own(weights):
        return user_checkpoints.kept(weights)
    entry = chosen(model, weights)
    if not is_here(entry.name):
        raise InputError(
            f"The weights ‘{entry.family}’ for {model} are not on this machine yet: press ‘Fetch weights’ (programs: "
            "call /fetch), or choose others."
        )
    return cache.checkpoint(entry.name)


def several(weights: str, names: list[str] | None) -> list[Checkpoint]:
    """The checkpoints to compare, by name; without names both sizes of the weights. Raises InputError.

    What comes in one size, a visitor's own too, is put beside both of the default weights.
    """
    if names:
        if not isinstance(names, list | tuple):
            raise InputError(f"The checkpoints to compare are a list of names, not {names!r:.60}.")
        names = list(dict.fromkeys(map(str, names)))
        if not batch.FEWEST <= len(names) <= batch.MOST:
            raise InputError(f"Choose {batch.FEWEST} to {batch.MOST} checkpoints to compare, not {len(names)}.")
        return [named(name) for name in names]
    sizes = VARIANTS[:1] if user_checkpoints.is_own(weights) else [v for v in VARIANTS if weights in families(v)]
    default = default_family()
    alone = [opened(sizes[0], weights)] if len(sizes) == 1 and weights != default else []
    return alone + [opened(variant, default if alone else weights) for variant in VARIANTS]


def named(name: str) -> Checkpoint:
    """A checkpoint by its name in the catalogue or a visitor's own, if it is here. Raises InputError."""
    if user_checkpoints.is_own(name):
        return user_checkpoints.kept(name)
    known = [entry.name for entry in offered()]
    if name not in known:
        raise InputError(f"There is no checkpoint {name[:60]!r} here: choose from {', '.join(known)}.")
    if not is_here(name):
        raise InputError(
            f"The weights of {name} are not on this machine yet: choose them under Weights and press ‘Fetch weights’ "
            "(programs: call /fetch), or compare others."
        )
    return cache.checkpoint(name)


def missing(weights: str) -> list[Entry]:
    """The sizes of a family that are not on this machine: Compare needs both, so both are fetched."""
    return [entry for entry in offered() if entry.family == weights and not is_here(entry.name)]


def comparable(mine: list[str]) -> list[tuple[str, str]]:
    """What Compare's columns can be: (title, name)."""
    entries = [*offered(), *user_checkpoints.entries(mine)]
    return [(f"{e.title}{'' if e.state == 'here' else ' (to fetch)'}", e.name) for e in entries if e.variant]
