"""Pictures for training: folders read once, small pictures kept in memory as uint8 and augmented in batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import InputError
from .images import open_picture

PICTURE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm"}
MAX_RESIDENT = 4 * 2**30  # bytes of pictures kept in memory
MAX_UNREADABLE = 0.01  # share of files that may be unreadable before the folder is refused


@dataclass
class Pictures:
    """Pictures of one size with their classes: images (N, 3, H, W) uint8, labels (N,) int64."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> Pictures:
        return Pictures(self.images[index], self.labels[index], self.classes)

    def to(self, device: torch.device) -> Pictures:
        return Pictures(self.images.to(device), self.labels.to(device), self.classes)


def read_folder(folder: Path, size: int, classes: tuple[str, ...] | None = None, progress=iter) -> Pictures:
    """Reads folder/<class>/<picture>, each picture size × size pixels, classes in the order of their names.

    `classes` are the training split's: another split must have no class beside them, so that indices can't
    shift. Hidden folders are passed over. Unreadable files are named and skipped up to MAX_UNREADABLE.
    Raises InputError for a missing folder, an empty class, fewer than two classes or a wrong size.
    """
    found = find_classes(folder, classes)
    classes = classes or tuple(found)
    files = [(path, label) for label, name in enumerate(classes) for path in found.get(name, [])]
    if len(files) * 3 * size * size > MAX_RESIDENT:
        raise InputError(f"{len(files)} pictures of {size}×{size} don't fit in {MAX_RESIDENT / 2**30:.0f} GB.")
    images, labels, unreadable = np.empty((len(files), size, size, 3), np.uint8), [], []
    for path, label in progress(files):
        try:
            picture = open_picture(path)
        except InputError as error:
            unreadable.append(f"{path.parent.name}/{path.name}: {error}")
            continue
        if picture.size != (size, size):
            width, height = picture.size
            raise InputError(f"{path.parent.name}/{path.name} is {width}×{height}: this run needs {size}×{size}.")
        images[len(labels)] = np.asarray(picture)
        labels.append(label)
    _report(folder, unreadable, len(files))
    for label in {classes.index(name) for name in found} - set(labels):
        raise InputError(f"Class folder {folder.name}/{classes[label]} has no readable picture: mend or remove it.")
    images = torch.from_numpy(images[: len(labels)]).permute(0, 3, 1, 2).contiguous()
    return Pictures(images, torch.tensor(labels), classes)


def find_classes(folder: Path, classes: tuple[str, ...] | None = None) -> dict[str, list[Path]]:
    """Class names in order, each with its picture files; opens none of them.

    With `classes`, the training split's, one beside them is refused. Raises InputError as read_folder says.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder.name}/: the data folder needs train/ and test/ in it.")
    found = {}
    for child in sorted(child for child in folder.iterdir() if child.is_dir() and not _hidden(child)):
        files = sorted(p for p in child.iterdir() if p.suffix.lower() in PICTURE_ENDINGS and p.name[0] != ".")
        if not files:
            raise InputError(f"Class folder {folder.name}/{child.name} has no pictures: fill or remove it.")
        if classes and child.name not in classes:
            raise InputError(f"{folder.name}/ has a class {child.name!r} that the training split lacks: remove it.")
        found[child.name] = files
    if len(found) < 2 and not classes:
        raise InputError(f"{folder.name}/ has {len(found)} class folder: training needs at least two.")
    return found


def _hidden(child: Path) -> bool:
    return child.name.startswith((".", "__"))


def _report(folder: Path, unreadable: list[str], total: int) -> None:
    for child in sorted(folder.iterdir()):
        if child.is_dir() and _hidden(child):
            print(f"passed over {folder.name}/{child.name}, which is not a class")
    for line in unreadable[:20]:
        print(f"skipped {line}")
    if len(unreadable) > MAX_UNREADABLE * total:
        raise InputError(f"{len(unreadable)} of {total} files in {folder.name}/ can't be read: remove or mend them.")


def hold_out(pictures: Pictures, count: int, seed: int) -> tuple[Pictures, Pictures]:
    """Splits off `count` pictures, the same share of each class, by the seed alone: (rest, held out)."""
    if not 0 < count < len(pictures):
        raise InputError(f"`holdout` (={count}) must lie between 1 and the {len(pictures)} training pictures.")
    order = torch.randperm(len(pictures), generator=generator(seed, 0, 0))
    by_class = order[torch.argsort(pictures.labels[order], stable=True)]
    # Evenly spaced places in a list sorted by class take each class's share, to within one picture.
    taken = torch.zeros(len(pictures), dtype=torch.bool)
    taken[by_class[torch.linspace(0, len(pictures) - 1, count).round().long()]] = True
    return pictures.subset(~taken), pictures.subset(taken)


def generator(*numbers: int) -> torch.Generator:
    """A generator that is a function of the numbers alone, so that a resumed run draws what it would have."""
    mixed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> 1))


def augment(images: Tensor, random: torch.Generator, shift: int) -> Tensor:
    """Mirrors half the pictures and moves each by up to `shift` pixels, edges reflected: (N, 3, H, W) uint8."""
    n, _, height, width = images.shape
    flip = torch.rand(n, generator=random) < 0.5
    moves = torch.randint(0, 2 * shift + 1, (2, n), generator=random).to(images.device)
    flip = flip.to(images.device)
    padded = F.pad(images.float(), (shift,) * 4, mode="reflect").to(torch.uint8)
    padded = torch.where(flip.view(-1, 1, 1, 1), padded.flip(3), padded)
    rows = moves[0][:, None] + torch.arange(height, device=images.device)  # (N, H)
    columns = moves[1][:, None] + torch.arange(width, device=images.device)  # (N, W)
    index = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) -> float32 in channels_last, (x / 255 − mean) / std."""
    x = images.to(torch.float32).div_(255).sub_(mean.view(1, 3, 1, 1)).div_(std.view(1, 3, 1, 1))
    return x.contiguous(memory_format=torch.channels_last)


def colour_statistics(pictures: Pictures) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each colour in 0..1, rounded to four places: the run's preprocessing."""
    values = pictures.images.float().div(255)
    return tuple(
        tuple(round(float(v), 4) for v in statistic) for statistic in (values.mean((0, 2, 3)), values.std((0, 2, 3)))
    )
