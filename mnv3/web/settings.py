"""What a host can set by environment variables; README, 'What a host can set', is the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..checkpoints.registry import Entry
from ..errors import InputError

WEIGHTS, OFFERED, OWN, MCP = "MNV3_WEIGHTS", "MNV3_OFFERED", "MNV3_OWN", "MNV3_MCP"


@dataclass(frozen=True)
class Settings:
    """`default` is a family of weights, '' where the app decides; `offered` families, empty for all."""

    default: str
    offered: tuple[str, ...]
    own: bool  # whether visitors may open their own checkpoints
    mcp: bool  # whether programs may call over MCP too

    def offers(self, entry: Entry) -> bool:
        return not self.offered or entry.family in self.offered


def read(environment: Mapping[str, str], entries: Sequence[Entry]) -> Settings:
    """The settings, names resolved against the catalogue. Raises InputError naming the variable and what it may be."""
    offered = [_family(OFFERED, name, entries) for name in environment.get(OFFERED, "").split(";") if name.strip()]
    default = environment.get(WEIGHTS, "").strip()
    default = _family(WEIGHTS, default, entries) if default else ""
    if offered and default and default not in offered:
        raise InputError(f"{WEIGHTS} (={default!r:.80}) is not among those of {OFFERED}: add it there.")
    own = environment.get(OWN, "").strip().lower() or "open"
    if own not in ("open", "closed"):
        raise InputError(f"{OWN} (={own!r:.40}) must be open or closed.")
    mcp = environment.get(MCP, "").strip() or "0"
    if mcp not in ("0", "1"):
        raise InputError(f"{MCP} (={mcp!r:.40}) must be 0 or 1.")
    return Settings(default, tuple(offered), own == "open", mcp == "1")


def _family(variable: str, name: str, entries: Sequence[Entry]) -> str:
    """The family that a name stands for: its own, or that of a checkpoint, which is easier to type."""
    entries = [entry for entry in entries if entry.variant in ("large", "small")]  # what the page can choose
    for entry in entries:
        if name.strip() in (entry.family, entry.name):
            return entry.family
    known = "; ".join(entry.name for entry in entries)
    raise InputError(f"{variable} has {name.strip()!r:.80}, which is not in the catalogue: choose from {known}.")
