"""How much the gates of each block depend on the class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..checkpoints.checkpoint import GateStatistics

CHANNELS = 50  # in a plot, evenly spaced over the block, as in the paper's figure


def specificity(statistics: GateStatistics) -> list[float | None] | None:
    """How class-specific each SE block's gates are: the share of their variance that lies between classes, 0..1.

    With n_k pictures of class k, m_kc and M2_kc the mean and the sum of squared deviations of channel c over them, and
    m_c = Σ_k n_k m_kc / Σ_k n_k, a block's share is

        Σ_c Σ_k n_k (m_kc − m_c)²  /  Σ_c [ Σ_k n_k (m_kc − m_c)² + Σ_k M2_kc ]

    between-class over total sum of squares (η²), channels weighted by how much they vary. 1: a gate depends on the
    class alone; gates that don't depend on it get (K − 1) / (n − 1) by chance. None for a block whose gates never
    vary; None instead of the list without class statistics.
    """
    if len(statistics.n) < 2:
        return None
    count = statistics.n[1:, None].astype(float)  # (K, 1)
    shares: list[float | None] = []
    for mean, m2 in zip(statistics.mean, statistics.m2, strict=True):
        overall = (count * mean[1:]).sum(0) / max(count.sum(), 1)
        between = (count * (mean[1:] - overall) ** 2).sum()
        total = between + m2[1:].sum()
        shares.append(float(between / total) if total > 1e-9 * count.sum() else None)
    return shares


def extremes(shares: Sequence[float | None]) -> list[int]:
    """The blocks with the largest and the smallest share, shallow first; [] where no gate varies."""
    known = [(share, i) for i, share in enumerate(shares) if share is not None]
    return sorted({min(known)[1], max(known)[1]}) if known else []


def sampled(channels: int) -> np.ndarray:
    """At most CHANNELS channel numbers, evenly spaced, first and last included."""
    return np.linspace(0, channels - 1, min(CHANNELS, channels)).round().astype(int)
