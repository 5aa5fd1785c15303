"""Converts tensors and configurations of torchvision and timm to this project's."""

from __future__ import annotations

import math
import re

import torch

from ..errors import InputError
from ..images.preprocessing import Preprocessing
from ..nets.spec import Spec


def from_torchvision_v2(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """torchvision's names in MobileNetV2's blocks -> MobileNetV3's, whose projection is one module, not two."""
    renamed = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"features\.(\d+)\.conv\.(\d)\.(.+)", name):
            row, place, rest = int(match[1]), int(match[2]), match[3]
            projection = 1 if row == 1 else 2  # the first block alone doesn't expand
            part = place if place < projection else f"{projection}.{place - projection}"
            name = f"features.{row}.block.{part}.{rest}"
        renamed[name] = tensor
    return renamed


def timm_preprocessing(config: dict) -> Preprocessing:
    """timm's pretrained_cfg -> resize to floor(size / crop_pct), crop to size, its own mean, std and filter."""
    size = config["input_size"][-1]
    return Preprocessing(
        math.floor(size / config["crop_pct"]), size, config["interpolation"],
        tuple(config["mean"]), tuple(config["std"]),
    )  # fmt: skip


def from_timm(tensors: dict[str, torch.Tensor], spec: Spec) -> dict[str, torch.Tensor]:
    """timm's names -> torchvision's. Raises InputError naming a tensor that has no place here."""
    blocks = sorted({tuple(map(int, m.groups())) for n in tensors if (m := re.match(r"blocks\.(\d+)\.(\d+)\.", n))})
    places = {f"blocks.{stage}.{i}": number for number, (stage, i) in enumerate(blocks, 1)}
    renamed = {_timm_name(name, places, spec): tensor for name, tensor in tensors.items()}
    hidden = renamed.get("classifier.0.weight")  # a 1×1 convolution there, a linear layer here
    if hidden is not None and hidden.dim() == 4:
        renamed["classifier.0.weight"] = hidden.flatten(1)
    return renamed


def _timm_name(name: str, places: dict[str, int], spec: Spec) -> str:
    outer = {
        "conv_stem": "features.0.0",
        "bn1": "features.0.1",
        "conv_head": "classifier.0",
        "classifier": "classifier.3",
    }
    part, _, kind = name.rpartition(".")
    if part in outer:
        return f"{outer[part]}.{kind}"
    if match := re.fullmatch(r"(blocks\.\d+\.\d+)\.(.+)", part):
        number, last = places[match[1]], len(spec.rows) + 1
        inner = {"conv": "0", "bn1": "1"} if number == last else _timm_block(spec, number) if number < last else {}
        if match[2] in inner:
            return f"features.{number}.{'' if number == last else 'block.'}{inner[match[2]]}.{kind}"
    raise InputError(f"timm's tensor {name[:80]!r} has no place in this network.")


def _timm_block(spec: Spec, number: int) -> dict[str, str]:
    """timm's layer names in the table's row `number` -> torchvision's numbers."""
    row = spec.rows[number - 1]
    inputs = spec.rows[number - 2].out if number > 1 else spec.stem
    expands = row.expand != inputs
    depthwise, se = int(expands), int(expands) + 1
    last = se + row.se
    names = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3") if expands else ("conv_dw", "bn1", "conv_pw", "bn2")
    order = [0, depthwise, last] if expands else [depthwise, last]
    inner = {}
    for place, (conv, norm) in zip(order, zip(names[::2], names[1::2], strict=True), strict=True):
        inner[conv], inner[norm] = f"{place}.0", f"{place}.1"
    if row.se:
        inner["se.conv_reduce"], inner["se.conv_expand"] = f"{se}.fc1", f"{se}.fc2"
    return inner
