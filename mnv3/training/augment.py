"""Random changes of training pictures, a batch at a time on its device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

POLICIES = {"none": None, "trivial": "TrivialAugmentWide", "rand": "RandAugment"}  # torchvision.transforms.v2's


def _policy(name: str):
    """torchvision's automatic augmentation for uint8 pictures, or None."""
    from torchvision.transforms import v2

    return getattr(v2, POLICIES[name])() if POLICIES[name] else None


def augment(images: Tensor, random: torch.Generator, shift: int, mirror: bool = True) -> Tensor:
    """Mirrors half the pictures, moves each by up to `shift` pixels, edges reflected: (N, 3, H, W) uint8."""
    n, _, height, width = images.shape
    flip = torch.rand(n, generator=random) < 0.5 * mirror
    moves = torch.randint(0, 2 * shift + 1, (2, n), generator=random).to(images.device)
    flip = flip.to(images.device)
    padded = F.pad(images.float(), (shift,) * 4, mode="reflect").to(torch.uint8)
    padded = torch.where(flip.view(-1, 1, 1, 1), padded.flip(3), padded)
    rows = moves[0][:, None] + torch.arange(height, device=images.device)  # (N, H)
    columns = moves[1][:, None] + torch.arange(width, device=images.device)  # (N, W)
    index = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def resized_crops(images: Tensor, random: torch.Generator, smallest: float, mirror: bool = True) -> Tensor:
    """A random part of each picture at its full size again, half of them mirrored: (N, 3, H, W) uint8.

    Area and aspect are drawn as torchvision's RandomResizedCrop draws them (Szegedy et al. 2015): `smallest` to 1 of
    the area, 3:4 to 4:3, cut at the picture's sides. One bilinear resampling for the whole batch, on its device.
    """
    n = len(images)
    area, slant, down, right, coin = torch.rand(5, n, generator=random)
    area = smallest + (1 - smallest) * area
    aspect = ((2 * slant - 1) * math.log(4 / 3)).exp()
    height, width = (area / aspect).sqrt().clamp(max=1), (area * aspect).sqrt().clamp(max=1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = torch.where(coin < 0.5 * mirror, -width, width)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (2 * right - 1) * (1 - width)  # the part's centre, in -1 … 1
    theta[:, 1, 2] = (2 * down - 1) * (1 - height)
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    sampled = F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)
    return sampled.round_().to(torch.uint8)


GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601, as torchvision's


def jittered(images: Tensor, random: torch.Generator, strength: float) -> Tensor:
    """Brightness, contrast and saturation of each picture times 1 ± strength, in this order: (N, 3, H, W) uint8."""
    factors = 1 + strength * (2 * torch.rand(3, len(images), 1, 1, 1, generator=random) - 1)
    brightness, contrast, saturation = factors.to(images.device)
    x = (images.float() * brightness).clamp_(0, 255)
    luma = torch.tensor(GREY, device=x.device).view(1, 3, 1, 1)
    mean = (x * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    x = (mean + (x - mean) * contrast).clamp_(0, 255)
    grey = (x * luma).sum(1, keepdim=True)
    return (grey + (x - grey) * saturation).clamp_(0, 255).round_().to(torch.uint8)


def erased(x: Tensor, share: float) -> Tensor:
    """(N, C, H, W) with a rectangle of its own set to 0 in that share of the pictures (Zhong et al. 2017).

    Sizes are as torchvision's RandomErasing draws them: 2 to 33 % of the area, sides from 3:10 to 33:10, cut at the
    picture's. That one goes picture by picture, for which a GPU waits longer than for the network. torch's draws.
    """
    n, _, height, width = x.shape
    chosen, area, slant, down, right = torch.rand(5, n)
    area = height * width * (0.02 + 0.31 * area)
    aspect = (slant * math.log(3.3 / 0.3) + math.log(0.3)).exp()
    masks = []
    for side, place, length in (((area * aspect).sqrt(), down, height), ((area / aspect).sqrt(), right, width)):
        side = side.round().clamp(1, length - 1)
        first = (place * (length - side + 1)).floor()
        at = torch.arange(length)
        masks.append((at >= first[:, None]) & (at < (first + side)[:, None]))
    rows, columns = masks
    lost = rows[:, :, None] & columns[:, None, :] & (chosen < share)[:, None, None]
    return x.masked_fill(lost[:, None].to(x.device), 0)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) -> float32 in channels_last, (x / 255 − mean) / std."""
    x = images.to(torch.float32).div_(255).sub_(mean.view(1, 3, 1, 1)).div_(std.view(1, 3, 1, 1))
    return x.contiguous(memory_format=torch.channels_last)
