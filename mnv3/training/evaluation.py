"""Predictions, scores and gate statistics of a data set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from ..checkpoints.checkpoint import GateStatistics
from ..distributed import summed, world
from .dataset import Files, Pictures
from .run import together


@torch.inference_mode()
def predict(forward: Callable, pictures: Pictures | Files, mean: Tensor, std: Tensor, batch_size: int = 250) -> Tensor:
    """Logits (N, K) of every picture, once each, no augmentation.

    Each process answers for every world-th picture; the places of the others are zero until they are added up, so
    each picture counts once, whatever their number.
    """
    rank, processes = world()
    mine = torch.arange(rank, len(pictures), processes)
    read = pictures.evaluation(mine, (mean, std), batch_size)
    answers = together(lambda: [forward(x).float() for x in read], pictures, mean.device)
    if processes == 1:
        return torch.cat(answers)
    classes = torch.tensor([answers[0].shape[1] if answers else 0], device=mean.device)
    dist.all_reduce(classes, dist.ReduceOp.MAX)
    logits = torch.zeros(len(pictures), int(classes), device=mean.device)
    if answers:
        logits[mine.to(mean.device)] = torch.cat(answers)
    return summed(logits)


def score(logits: Tensor, labels: Tensor) -> dict:
    """n, top-1, top-5 (where there are more than five classes), mean loss, calibration error, top-1 per class.

    Calibration error is the expected one over 15 equal bins of the top probability (Guo et al. 2017).
    """
    probabilities = logits.softmax(1)
    confidence, guess = probabilities.max(1)
    right = (guess == labels).float()
    bins = (confidence * 15).long().clamp(max=14)
    sums = torch.zeros(3, 15, dtype=torch.float64)
    for row, values in zip(sums, (torch.ones_like(right), confidence, right), strict=True):
        row.index_add_(0, bins.cpu(), values.double().cpu())
    of_class = [right[labels == k] for k in range(logits.shape[1])]
    per_class = [round(r.mean().item(), 4) if len(r) else None for r in of_class]
    result = {"n": len(labels), "top1": round(right.mean().item(), 4)}
    if logits.shape[1] > 5:
        result["top5"] = round((logits.topk(5).indices == labels[:, None]).any(1).float().mean().item(), 4)
    result["loss"] = round(F.cross_entropy(logits, labels).item(), 4)
    result["calibration_error"] = round(float((sums[1] - sums[2]).abs().sum() / len(labels)), 4)
    return {**result, "top1_per_class": per_class}


@torch.inference_mode()
def gate_statistics(
    model: nn.Module, pictures: Pictures | Files, mean: Tensor, std: Tensor, source: str
) -> GateStatistics:
    """n, mean and M2 of every gate over the pictures, overall and per class; each process looks at its share of them.

    What is added up, in float64, are differences from the share's first picture, so that no gate need be kept.
    """
    rank, processes = world()
    mine, kinds = torch.arange(rank, len(pictures), processes), len(pictures.classes)
    labels = pictures.labels.cpu()[mine]
    start = [torch.zeros(channels, dtype=torch.float64) for channels in model.channels]
    sums = [torch.zeros(2, kinds, len(s), dtype=torch.float64) for s in start]  # of differences and their squares

    def add_up() -> None:
        batches = zip(pictures.evaluation(mine, (mean, std), 250), labels.split(250), strict=False)
        for number, (x, answers) in enumerate(batches):
            gates = [gate.double().cpu() for gate in model.explained(x).gates]
            start[:] = start if number else [gate[0] for gate in gates]
            for total, gate, first in zip(sums, gates, start, strict=True):
                total[0].index_add_(0, answers, gate - first)
                total[1].index_add_(0, answers, (gate - first) ** 2)

    together(add_up, pictures, mean.device)
    count = labels.bincount(minlength=kinds).double()
    n = torch.cat([count.sum()[None], count])
    found = [_mean_and_m2(total, first, n, mean.device) for total, first in zip(sums, start, strict=True)]
    counts = summed(n.clone().to(mean.device)).long().cpu().numpy()
    return GateStatistics(counts, tuple(m for m, _ in found), tuple(m2 for _, m2 in found), source)


def _mean_and_m2(total: Tensor, first: Tensor, n: Tensor, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """(groups, C) twice, over all processes, from this one's sums of differences from `first`, and its counts."""
    differences, squares = (torch.cat([s.sum(0)[None], s]) for s in total)  # first of all classes together
    n = n[:, None]
    mine = first + differences / n.clamp(min=1)
    m2 = (squares - differences**2 / n.clamp(min=1)).clamp(min=0)
    counts, offsets = (summed(v.to(device, copy=True)).cpu() for v in (n, n * mine))
    mean = offsets / counts.clamp(min=1)
    return mean.float().numpy(), summed((m2 + n * (mine - mean) ** 2).to(device)).cpu().float().numpy()
