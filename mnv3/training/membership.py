"""Which pictures a run learns from, chooses by and is measured on: kept in its state, so that --resume has the same.

Were the split drawn anew after files were renamed, test pictures would be ones that had been learned from.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..distributed import say
from ..errors import InputError
from .dataset import MAX_UNREADABLE, Files, Named, Pictures


@dataclass(frozen=True)
class Membership:
    """(class/name, digest of the content) of every picture that a run learns from, holds out and is measured on."""

    learned: Named
    held_out: Named
    test: Named
    skipped: list[str] = field(default_factory=list)  # training files that could not be read when the run began
    dropped: Named = field(default_factory=list)  # of learned and held_out, lost while the run went on

    def packed(self) -> Tensor:
        """As bytes, uint8 (n,): a list of a million texts would take torch.load minutes."""
        text = json.dumps(asdict(self)).encode()  # ASCII, since a file's name may be no UTF-8
        return torch.from_numpy(np.frombuffer(zlib.compress(text, 1), np.uint8).copy())

    @classmethod
    def unpacked(cls, packed: Tensor) -> Membership:
        """Raises TypeError, ValueError, KeyError, AttributeError or zlib.error for what packed() did not write."""
        found = json.loads(zlib.decompress(packed.numpy().tobytes()))
        pairs = {name: [(file, digest) for file, digest in found[name]] for name in found.keys() - {"skipped"}}
        return cls(skipped=[str(name) for name in found["skipped"]], **pairs)

    @property
    def test_names(self) -> set[str]:
        return {name for name, _ in self.test}

    def again(
        self, train: Pictures | Files, validation: Pictures | Files | None, run: str
    ) -> tuple[Pictures | Files, Pictures | Files, Membership]:
        """(pictures to learn from, pictures held out, what is kept from now on), as when the run began.

        `train` and `validation` are what can be read now, `run` is the run's name for messages. Up to MAX_UNREADABLE of
        the pictures may be missing: they are named and dropped. A dropped picture's place in the epochs is taken by the
        next of its class, so that no other picture's place changes. Raises InputError for any other difference.
        """
        parts = [(self.learned, train), (self.held_out, validation)]
        if validation is None:
            parts = [(self.learned + self.held_out, train)]
        dropped, skipped, missing, other = set(self.dropped), set(self.skipped), [], []
        gone_before = {name for name, _ in dropped}
        for members, pictures in parts:
            known, found = dict(members), dict(pictures.members)
            missing += [pair for pair in members if pair[0] not in found and pair not in dropped]
            passed = skipped | gone_before
            other += [name for name, digest in found.items() if known.get(name) != digest and name not in passed]
        total = len(self.learned) + len(self.held_out)
        if other or len(missing) + len(dropped) > MAX_UNREADABLE * total:
            why = [f"{len(other)} new or changed: {some(other)}"] if other else []
            why += [f"{len(missing)} of {total} missing: {some([name for name, _ in missing])}"] if missing else []
            raise InputError(
                f"The run in {run}/ learned from other pictures ({'; '.join(why)}): give it the files that it began "
                "with, under their names, or start a new run with another --out."
            )
        if missing:
            say(f"dropped {len(missing)} of {total} training pictures that can no longer be read: "
                f"{some([name for name, _ in missing], len(missing))}")  # fmt: skip
        kept = replace(self, dropped=self.dropped + missing)
        return kept._learned(train), kept._held_out(train if validation is None else validation), kept

    def _learned(self, train: Pictures | Files) -> Pictures | Files:
        at, dropped = _places(train), set(self.dropped)
        places = [None if pair in dropped else at[pair[0]] for pair in self.learned]
        of_class: dict[str, list[int]] = {}
        for place, (name, _) in zip(places, self.learned, strict=True):
            if place is not None:
                of_class.setdefault(name.partition("/")[0], []).append(place)
        for i, (name, _) in enumerate(self.learned):
            if places[i] is None:
                others = of_class.get(kind := name.partition("/")[0])
                if not others:
                    raise InputError(f"Class {kind!r:.80} has no picture left to learn from: put its pictures back.")
                places[i] = others[i % len(others)]
        return train.subset(torch.tensor(places))

    def _held_out(self, pictures: Pictures | Files) -> Pictures | Files:
        at, dropped = _places(pictures), set(self.dropped)
        places = [at[pair[0]] for pair in self.held_out if pair not in dropped]
        if not places:
            raise InputError("No held-out picture is left: put the pictures back that the run began with.")
        return pictures.subset(torch.tensor(places))

    def measured_on(self, test: Named, run: str) -> Membership:
        """With these test pictures, noted where they are others than before.

        Raises InputError if a new or changed one is a picture that the run learned from or chose by.
        """
        known, trained = dict(self.test), {digest for _, digest in self.learned + self.held_out if digest}
        changed = [(name, digest) for name, digest in test if known.get(name) != digest]
        if leaked := [name for name, digest in changed if digest in trained]:
            raise InputError(
                f"The run in {run}/ learned from {len(leaked)} of the {len(test)} test pictures ({some(leaked)}): give "
                "it the test pictures that it began with, or start a new run with another --out."
            )
        missing = sorted(known.keys() - dict(test).keys())
        if changed or missing:
            why = [f"{len(changed)} new or changed: {some([name for name, _ in changed])}"] if changed else []
            why += [f"{len(missing)} missing: {some(missing)}"] if missing else []
            say(f"note: test pictures are others than before ({'; '.join(why)}); none was learned from")
        return replace(self, test=test)

    def note_twins(self) -> None:
        """Says which test pictures are, byte for byte, ones that are learned from: on them top-1 says nothing."""
        trained = {digest for _, digest in self.learned + self.held_out if digest}
        if twins := [name for name, digest in self.test if digest in trained]:
            say(f"note: {len(twins)} of {len(self.test)} test pictures are training pictures too: {some(twins)}; "
                "the measured top-1 will be too high")  # fmt: skip


def some(names: list[str], most: int = 3) -> str:
    """The first `most` names, shortened, with … where there are more."""
    return ", ".join(name[-60:] for name in names[:most]) + (", …" if len(names) > most else "")


def _places(pictures: Pictures | Files) -> dict[str, int]:
    return {name: place for place, (name, _) in enumerate(pictures.members)}


def each_once(pictures: Pictures | Files) -> Pictures | Files:
    """Without the repeats that stand in for dropped pictures, for statistics over all of them."""
    first = {}
    for place, (name, _) in enumerate(pictures.members):
        first.setdefault(name, place)
    return pictures.subset(torch.tensor(list(first.values()))) if len(first) < len(pictures.members) else pictures
