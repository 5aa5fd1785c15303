"""A run as pictures: its curves and its confusion matrix, drawn with Pillow alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..basics import replace_file

INK, FAINT, PAPER = "#222222", "#dddddd", "#ffffff"
COLOURS = {"train_top1": "#888888", "heldout_top1": "#0072b2", "heldout_top1_average": "#d55e00"}  # Okabe and Ito's
NAMES = {
    "train_top1": "training pictures, augmented", "heldout_top1": "held-out pictures, newest weights",
    "heldout_top1_average": "held-out pictures, averaged weights",
}  # fmt: skip
MAX_CLASSES = 40  # names would not be readable beyond


def save_png(image: Image.Image, path: Path) -> None:
    """Written whole or not at all."""
    replace_file(path, lambda temporary: image.save(temporary, "PNG", optimize=True))


def curves(log: list[dict], width: int = 720, height: int = 420) -> Image.Image:
    """Top-1 of every epoch in the run's log: training, held-out, held-out with averaged weights."""
    image = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    left, top, right, bottom = 60, 24, width - 24, height - 56
    values = [row[key] for row in log for key in COLOURS]
    low, high = max(0.0, min(0.9, *values) // 0.1 * 0.1), 1.0

    def place(epoch: float, value: float) -> tuple[float, float]:
        x = left + (right - left) * (epoch - 1) / max(len(log) - 1, 1)
        return x, bottom - (bottom - top) * (value - low) / (high - low)

    for tick in np.arange(low, high + 1e-9, 0.1 if high - low > 0.25 else 0.05):
        y = place(1, tick)[1]
        draw.line([(left, y), (right, y)], FAINT)
        draw.text((left - 8, y), f"{tick:.0%}", INK, font, anchor="rm")
    for epoch in sorted({1, len(log), *range(0, len(log), max(1, -(-len(log) // 8)))} - {0}):
        draw.text((place(epoch, low)[0], bottom + 6), str(epoch), INK, font, anchor="mt")
    draw.text(((left + right) / 2, bottom + 24), "epoch", INK, font, anchor="mt")
    for number, (key, colour) in enumerate(COLOURS.items()):
        points = [place(row["epoch"], row[key]) for row in log]
        draw.line(points, colour, 2) if len(points) > 1 else draw.circle(points[0], 4, colour)  # one epoch: no line
        y = bottom - 58 + 18 * number
        draw.rectangle([right - 252, y - 9, right, y + 9], PAPER)
        draw.line([(right - 250, y), (right - 230, y)], colour, 3)
        draw.text((right - 224, y), f"{NAMES[key]}", INK, font, anchor="lm")
    return image


def confusion_matrix(guesses: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """(K, K) counts: row the true class, column the answer."""
    return np.bincount(labels * classes + guesses, minlength=classes**2).reshape(classes, classes)


def confusion(matrix: np.ndarray, names: tuple[str, ...]) -> Image.Image | None:
    """The matrix as a picture, each row's shares in shades, counts in cells; None over MAX_CLASSES classes."""
    if len(names) > MAX_CLASSES:
        return None
    font, cell = ImageFont.load_default(13), 44
    names = tuple(name if len(name) <= 20 else name[:19] + "…" for name in names)
    margin = int(max(font.getlength(name) for name in names)) + 40
    side = margin + cell * len(names) + 16
    image = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(image)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    for i, row in enumerate(shares):
        draw.text((margin - 8, margin + cell * (i + 0.5)), names[i], INK, font, anchor="rm")
        _upright(image, names[i], (margin + cell * (i + 0.5), margin - 8), font)
        for j, share in enumerate(row):
            x, y = margin + cell * j, margin + cell * i
            shade = tuple(int(255 + (end - 255) * share**0.5) for end in (0, 70, 130))
            draw.rectangle([x, y, x + cell - 2, y + cell - 2], shade)
            if matrix[i, j]:
                ink = PAPER if share > 0.25 else INK
                draw.text((x + cell / 2 - 1, y + cell / 2 - 1), str(matrix[i, j]), ink, font, anchor="mm")
    draw.text((margin, 10), "answer", INK, font)
    draw.text((10, margin), "true", INK, font)
    return image


def _upright(image: Image.Image, text: str, foot: tuple[float, float], font) -> None:
    """Writes text upwards from `foot`."""
    length = int(font.getlength(text)) + 2
    strip = Image.new("RGB", (length, 18), PAPER)
    ImageDraw.Draw(strip).text((0, 9), text, INK, font, anchor="lm")
    image.paste(strip.rotate(90, expand=True), (int(foot[0]) - 9, int(foot[1]) - length))
