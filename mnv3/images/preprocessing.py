"""From a picture to the tensor that a network takes."""

from __future__ import annotations

import reprlib
from dataclasses import asdict, dataclass, fields

import numpy as np
from PIL import Image

from ..errors import InputError
from .decode import MAX_ASPECT

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """How a checkpoint wants its pictures; it travels in the checkpoint's own config.json.

    resize, crop: pixels, 8..1024, crop <= resize. interpolation: "bilinear" or "bicubic".
    mean, std: per channel, in units of pixel / 255. Raises InputError for anything else.
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self):
        for name in ("resize", "crop"):
            value = getattr(self, name)
            if type(value) is not int or not 8 <= value <= 1024:
                self._refuse(name, "give a whole number of 8..1024")
        if self.crop > self.resize:
            self._refuse("crop", f"give at most resize (={self.resize})")
        if not isinstance(self.interpolation, str) or self.interpolation not in FILTERS:
            self._refuse("interpolation", "give 'bilinear' or 'bicubic'")
        for name, low in (("mean", -1000), ("std", 0.001)):  # beyond, float32 can overflow
            values = getattr(self, name)
            if not isinstance(values, list | tuple) or len(values) != 3 or not all(
                type(value) in (int, float) and low <= value <= 1000
                for value in values
            ):  # fmt: skip
                self._refuse(name, f"give three numbers of {low}..1000")
            object.__setattr__(self, name, tuple(float(value) for value in values))

    def _refuse(self, name, remedy):
        raise InputError(f"`{name}` (={reprlib.repr(getattr(self, name))}) can't be used: {remedy}.")

    @classmethod
    def from_dict(cls, d):
        """The inverse of to_dict, for a config.json from anyone: InputError names field and value."""
        if not isinstance(d, dict):
            raise InputError(f"Preprocessing (={reprlib.repr(d)}) can't be used: give an object of fields.")
        names = [field.name for field in fields(cls)]
        for name in d:
            if name not in names:
                raise InputError(f"Preprocessing has no field {reprlib.repr(name)}: remove it.")
        for name in names:
            if name not in d:
                raise InputError(f"Preprocessing lacks `{name}` (given: {reprlib.repr(list(d))}): add it.")
        return cls(**d)

    def to_dict(self):
        """What config.json holds: numbers, strings and lists of them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @property
    def enough(self):
        """Pixels of a picture's shorter side beyond which `picture` shows no difference: twice `resize`."""
        return 2 * self.resize

    def picture(self, image):
        """What the network gets to see: RGB (crop x crop) from an RGB picture of open_picture.

        Shorter side to `resize`, then the centre: pixel for pixel torchvision's Resize and CenterCrop.
        """
        if image.mode != "RGB":
            raise InputError(f"The picture is in mode {image.mode}: open it with open_picture.")
        width, height = image.size
        short = min(width, height)
        size = (int(self.resize * width / short), int(self.resize * height / short))
        left, top = (round((side - self.crop) / 2) for side in size)
        if max(width, height) > MAX_ASPECT * short:  # 1x2000 pixels at 256 would be 256x512000: 500 MB for a 2 kB file
            return self._part(image, size, left, top)
        if size != image.size:
            image = image.resize(size, FILTERS[self.interpolation])
        return image.crop((left, top, left + self.crop, top + self.crop))

    def _part(self, image, size, left, top):
        """The crop at left, top of what `image` would be at `size`, without the rest of it."""
        box = []
        for start, side, whole in zip((left, top), size, image.size, strict=True):
            box.append([start * whole / side, min((start + self.crop) * whole / side, whole)])
        (x0, x1), (y0, y1) = box
        return image.resize((self.crop, self.crop), FILTERS[self.interpolation], (x0, y0, x1, y1))

    def tensor(self, seen):
        """What `picture` returned -> torch.float32 (3, crop, crop): (pixel / 255 - mean) / std."""
        import torch  # here, so that reading pictures stays light

        pixels = np.asarray(seen)  # (H, W, 3)
        values = np.arange(256, dtype=np.float32)[:, None] / 255  # looked up, a quarter of the time of reckoning pixels
        values = (values - np.float32(self.mean)) / np.float32(self.std)
        out = np.empty((3, *pixels.shape[:2]), np.float32)
        for channel in range(3):
            np.take(values[:, channel], pixels[:, :, channel], out=out[channel], mode="clip")  # "raise" buffers
        return torch.from_numpy(out)

    def __call__(self, image):
        """RGB picture of any size -> the network's input, torch.float32 (3, crop, crop)."""
        return self.tensor(self.picture(image))
