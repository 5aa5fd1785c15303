"""Does a map depend on what the network learned? Networks with randomised weights to compare it with.

Adebayo et al. 2018, as it is done here: the values of every learned tensor are permuted, which keeps their sizes and
undoes what was learned; BatchNorm's statistics are taken anew from the example pictures, since without that such a
network answers the same to everything; the map for the same class is compared with the original's, cell by cell, by
Spearman's rank correlation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..basics import generator
from ..checkpoints.checkpoint import Checkpoint
from ..errors import InputError
from ..inference import reference, session
from .explanation import class_evidence


def calibration(checkpoint: Checkpoint) -> Tensor:
    """The example pictures as this network's inputs (N, 3, H, W). Raises InputError for fewer than two."""
    paths = reference.example_pictures()[: max(2, session.rows_at_once(checkpoint))]
    inputs = list(reference.example_inputs(checkpoint, paths))
    if len(inputs) < 2:
        raise InputError("There are no example pictures to set BatchNorm by: put pictures into examples/.")
    return torch.stack(inputs)


@torch.no_grad()
def randomised(checkpoint: Checkpoint, seed: int, pictures: Tensor) -> Checkpoint:
    """The checkpoint with each learned tensor's values permuted and BatchNorm's statistics taken from `pictures`."""
    model = deepcopy(checkpoint.model)
    for number, tensor in enumerate(model.parameters()):
        shuffled = torch.randperm(tensor.numel(), generator=generator(seed, number))
        tensor.copy_(tensor.flatten()[shuffled].view_as(tensor))
    recalibrate(model, [pictures])
    return replace(checkpoint, model=model)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Takes BatchNorm's statistics anew from these inputs, each (N, 3, H, W); the network is in eval mode after it."""
    norms = [module for module in model.eval().modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over what it sees
        norm.train()
    for batch in batches:
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def evidence_maps(checkpoint: Checkpoint, pictures: Tensor, classes: Sequence[int]) -> np.ndarray:
    """Class evidence of pictures (N, 3, H, W), each for its class: (N, h, w).

    Past the engine, which would prepare a session for each randomised network that is used once.
    """
    step, parts = session.rows_at_once(checkpoint), []
    for at in range(0, len(pictures), step):
        with torch.inference_mode():
            features = checkpoint.model.features(pictures[at : at + step]).numpy()
        parts.append(class_evidence(checkpoint, features, classes[at : at + step]))
    return np.concatenate(parts)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of two arrays of one shape, equal values sharing their mean rank; NaN if one is constant."""
    ranks = [_ranks(np.ravel(values)) for values in (a, b)]
    deviations = [r - r.mean() for r in ranks]
    scale = np.sqrt(np.prod([(d**2).sum() for d in deviations]))
    return float((deviations[0] * deviations[1]).sum() / scale) if scale > 0 else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]
