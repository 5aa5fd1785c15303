"""Numbers -> small pictures, with NumPy and Pillow alone: no plotting library, no state, no model.

Two colour scales, both readable by colour-blind people: SEQUENTIAL for amounts (dark blue to yellow, of even
lightness steps) and DIVERGING for signed numbers (blue below, orange above, neutral at 0).
"""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from ..basics import smooth


def _scale(stops: list[str]) -> np.ndarray:
    """(256, 3) uint8 through evenly spaced colours '#rrggbb'."""
    colours = np.array([[int(s[i : i + 2], 16) for i in (1, 3, 5)] for s in stops], float)
    places = np.linspace(0, len(stops) - 1, 256)
    channels = [np.interp(places, np.arange(len(stops)), colours[:, c]) for c in range(3)]
    return np.stack(channels, 1).round().astype(np.uint8)


SEQUENTIAL = _scale(["#00224e", "#31446b", "#666970", "#958f78", "#cbba69", "#fee838"])
DIVERGING = _scale(["#0a4a9e", "#5b93d6", "#f4f4f2", "#f0a04b", "#b34700"])
FULL_DIFFERENCE = 0.5  # of a gate from its reference: the ends of the diverging scale; few gates go beyond


def colours(values: np.ndarray, scale: np.ndarray, low: float, high: float) -> np.ndarray:
    """values (...) -> (..., 3) uint8; low and high take the scale's ends, what lies beyond is clipped."""
    return scale[_index(values, low, high)]


def _index(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Each value's place in a scale of 256 colours, uint8."""
    return np.clip((np.asarray(values) - low) * (255 / (high - low)), 0, 255).round().astype(np.uint8)


def gate_strip(gates: np.ndarray, reference: np.ndarray | None) -> Image.Image:
    """A block's barcode, one pixel a channel: gates from 0 to 1, and below them gate − reference, ±FULL_DIFFERENCE.

    (C,), (C,) -> RGB (C, 2) pixels, or (C, 1) without reference; whoever shows it scales it up without smoothing.
    """
    rows = [colours(gates, SEQUENTIAL, 0, 1)]
    if reference is not None:
        rows.append(colours(gates - reference, DIVERGING, -FULL_DIFFERENCE, FULL_DIFFERENCE))
    return Image.fromarray(np.stack(rows))


def gate_grid(values: np.ndarray, scale: np.ndarray, low: float, high: float, columns: int) -> Image.Image:
    """(C,) -> one pixel a channel, `columns` a row, in reading order: RGBA, transparent where the last row ends."""
    rows = -(-len(values) // columns)
    pixels = np.zeros((rows * columns, 4), np.uint8)
    pixels[: len(values), :3], pixels[: len(values), 3] = colours(values, scale, low, high), 255
    return Image.fromarray(pixels.reshape(rows, columns, 4))


def legend(scale: np.ndarray) -> Image.Image:
    """The colour scale itself, low to high: RGB (256, 1)."""
    return Image.fromarray(scale[None])


def ground(picture: Image.Image, side: int) -> Image.Image:
    """The picture pale and grey, side × side, for overlays to lie on: RGB, made once for all that share it."""
    lightness = picture.convert("L").resize((side, side), Image.Resampling.BICUBIC)
    return lightness.point([round(0.75 * value + 50) for value in range(256)]).convert("RGB")


def shift_overlay(ground: Image.Image, shift: np.ndarray) -> Image.Image | None:
    """Where a block moved energy, over a ground: orange gained, blue lost, scaled to its own largest change.

    None where nothing moved: there is nothing to draw, and a flat colour would look like a finding.
    """
    largest = float(np.abs(shift).max())
    if largest < 1e-7:
        return None
    return _over(ground, shift / largest, DIVERGING, -1, lambda v: np.sqrt(np.abs(v)))


def channel_overlay(ground: Image.Image, values: np.ndarray) -> Image.Image | None:
    """One channel's map (h, w) over a ground: orange above 0, blue below, scaled to its own largest value.

    None where it is the same everywhere, 0 or not: there is no place to show.
    """
    if flat(values):
        return None
    return _over(ground, values / float(np.abs(values).max()), DIVERGING, -1, lambda v: np.sqrt(np.abs(v)))


def flat(values: np.ndarray) -> bool:
    """Whether a map is the same everywhere, but for rounding: a flat colour would look like a finding."""
    return float(np.ptp(values)) <= 1e-5 * float(np.abs(values).max())


def evidence_overlay(ground: Image.Image, evidence: np.ndarray) -> Image.Image | None:
    """Class evidence over a ground, scaled to its own maximum; None where there is none anywhere."""
    largest = float(evidence.max())
    if largest <= 0:
        return None
    return _over(ground, evidence / largest, SEQUENTIAL, 0, lambda values: values)


def _over(ground: Image.Image, values: np.ndarray, scale: np.ndarray, low: float, weight) -> Image.Image:
    """values (h, w) in low..1, enlarged smoothly, in colour over the ground where weight(values) is large."""
    enlarged = np.clip(smooth(values, ground.width), low, 1)
    drawn = Image.fromarray(_index(enlarged, low, 1))
    drawn.putpalette(scale.tobytes())
    opacity = Image.fromarray((0.85 * 255 * weight(enlarged)).round().astype(np.uint8))
    return Image.composite(drawn.convert("RGB"), ground, opacity)


def enlarged(picture: Image.Image, least: int = 256) -> Image.Image:
    """Every pixel as a block, so that what a 32-pixel network sees is seen; larger pictures stay as they are."""
    times = max(1, least // max(picture.size))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def data_uri(picture: Image.Image) -> str:
    """The picture inside a URI, for <img src>: lossless WebP, for a photograph at 224² three quarters of PNG's bytes in
    a third of its time."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True, quality=0, method=0)  # quality: the effort, where nothing is lost
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
