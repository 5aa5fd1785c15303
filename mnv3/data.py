"""Pictures for training: small ones live on the device as uint8, large ones are decoded by workers for each batch."""

from __future__ import annotations

import errno
import http.client
import math
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate

from .checkpoints import MAX_LABEL_LENGTH, fits
from .errors import InputError
from .images import Preprocessing, open_picture
from .processes import cores, gathered, say, world

PICTURE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm"}
MAX_RESIDENT = 4 * 2**30  # bytes of pictures kept in memory
MAX_UNREADABLE = 0.01  # share of files that may be unreadable before the folder is refused
ROOM = 50  # characters that train.py puts behind the folder's name in a checkpoint's name and data: variant, counts
TEST_SHARE = 0.2  # of a folder that has no test pictures of its own
DOWNLOADS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}  # what --data can name: torchvision.datasets' class
POLICIES = {"none": None, "trivial": "TrivialAugmentWide", "rand": "RandAugment"}  # torchvision.transforms.v2's
ENDED = RuntimeError, OSError, EOFError  # how a worker's end is told; a signal meant for the run may have ended it
Found = dict[str, list[Path]]  # class name -> its picture files, in order


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

    def training_batch(self, recipe, step: int, share: tuple[int, int] = (0, 1)) -> tuple[Tensor, Tensor]:
        """Augmented pictures (n, 3, H, W) uint8 and labels of one step; of it, the places share[0]::share[1]."""
        index = batch_order(len(self), recipe, step)[share[0] :: share[1]].to(self.images.device)
        random = generator(recipe.seed, 2, step, share[0])
        if recipe.crops:
            images = resized_crops(self.images[index], random, recipe.smallest_crop, recipe.mirror)
        else:
            images = augment(self.images[index], random, recipe.shift, recipe.mirror)
        if recipe.jitter:
            images = jittered(images, random, recipe.jitter)
        if change := _policy(recipe.policy):
            torch.manual_seed(int(torch.randint(2**31, (), generator=random)))  # the policy's draws
            images = torch.stack([change(image) for image in images])
        return images, self.labels[index]

    def evaluation(self, index: Tensor, normal: tuple[Tensor, Tensor], batch_size: int) -> Iterator[Tensor]:
        """Normalised pictures in batches, without augmentation."""
        for part in index.to(self.images.device).split(batch_size) if len(index) else ():
            yield normalise(self.images[part], *normal)


@dataclass
class Files:
    """Pictures too many or too large to keep: paths and labels (N,), read by worker processes for each batch.

    Training crops and mirrors as `size` says; evaluation resizes and crops as `preprocessing`, the checkpoint's.
    """

    paths: list[Path]
    labels: Tensor
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    device: torch.device = torch.device("cpu")
    workers: int = 0
    _ahead: tuple[int, Iterator] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> Files:
        places = torch.arange(len(self))[index]  # a mask or places
        return replace(self, paths=[self.paths[i] for i in places], labels=self.labels[places], _ahead=None)

    def to(self, device: torch.device) -> Files:
        return replace(self, device=device, labels=self.labels.to(device), _ahead=None)

    def training_batch(self, recipe, step: int, share: tuple[int, int] = (0, 1)) -> tuple[Tensor, Tensor]:
        """As Pictures', from workers that read ahead in the run's order; a step out of turn starts them anew."""
        try:
            batch = self._next(recipe, step, share)
        except ENDED:
            self._ahead = None
            batch = self._next(recipe, step, share)
        images, labels = _whole(batch)
        return images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def _next(self, recipe, step: int, share: tuple[int, int]):
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = step, iter(_loader(_Training(self, recipe), _Order(len(self), recipe, step, share), self))
        batch = next(self._ahead[1])
        # after a fault, no worker stays
        self._ahead = None if isinstance(batch, InputError) else (step + 1, self._ahead[1])
        return batch

    def evaluation(self, index: Tensor, normal: tuple[Tensor, Tensor], batch_size: int) -> Iterator[Tensor]:
        """Pictures as the app would preprocess them, in batches; `normal` is in the preprocessing already."""
        batches = [part.tolist() for part in index.cpu().split(batch_size)] if len(index) else []
        coming = iter(_loader(_Evaluation(self), batches, self))
        for done in range(len(batches)):
            try:
                batch = next(coming)
            except ENDED:
                coming = iter(_loader(_Evaluation(self), batches[done:], self))
                batch = next(coming)
            yield _whole(batch).to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)


class _Training:
    """What a worker does for one picture of a step; every draw is a function of (seed, step, picture)."""

    def __init__(self, files: Files, recipe):
        from torchvision.transforms import v2

        self.paths, self.labels, self.seed = files.paths, files.labels.tolist(), recipe.seed
        self.crop = v2.RandomResizedCrop(recipe.size, scale=(recipe.smallest_crop, 1), antialias=True)
        self.flip, self.policy = v2.RandomHorizontalFlip(0.5 * recipe.mirror), _policy(recipe.policy)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, int]:
        step, index = place
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator(self.seed, 2, step, index))))
        picture = torch.from_numpy(np.array(_opened(self.paths[index]))).permute(2, 0, 1)
        picture = self.flip(self.crop(picture))
        return (self.policy(picture) if self.policy else picture), self.labels[index]


class _Evaluation:
    def __init__(self, files: Files):
        self.paths, self.preprocessing = files.paths, files.preprocessing

    def __getitem__(self, index: int) -> Tensor:
        return self.preprocessing(_opened(self.paths[index]))


def _opened(path: Path):
    """open_picture with the file named by its last two parts: a path of the host's is nobody else's business."""
    try:
        return open_picture(path)
    except InputError as error:
        raise InputError(f"{path.parent.name}/{path.name}: {error}") from None


class _Items:
    """The dataset, whose batches may hold an InputError: a loader would bring it home inside a traceback."""

    def __init__(self, dataset: _Training | _Evaluation):
        self.dataset = dataset

    def __getitems__(self, places: list) -> list:
        try:
            return [self.dataset[place] for place in places]
        except InputError as error:
            return [error]


def _batch(items: list):
    return items[0] if isinstance(items[0], InputError) else default_collate(items)


def _whole(batch):
    if isinstance(batch, InputError):
        raise batch
    return batch


class _Order:
    """(step, picture) of every batch from `step` to the run's end."""

    def __init__(self, count: int, recipe, step: int, share: tuple[int, int]):
        self.count, self.recipe, self.step, self.share = count, recipe, step, share

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.step, self.recipe.epochs * (self.count // self.recipe.batch_size)):
            order = batch_order(self.count, self.recipe, step)[self.share[0] :: self.share[1]]
            yield [(step, index) for index in order.tolist()]


def _loader(dataset, batches, files: Files) -> DataLoader:
    if files.workers:
        _fork_server()
    context = "forkserver" if files.workers else None
    pinned = files.device.type == "cuda"
    return DataLoader(
        _Items(dataset), batch_sampler=batches, num_workers=files.workers, multiprocessing_context=context,
        pin_memory=pinned, collate_fn=_batch,
    )  # fmt: skip


def _fork_server() -> None:
    """Starts what workers are forked from, unless it is there: a fork of a process whose threads hold locks can hang.

    It imports what takes long, once: a worker would take 1.5 s and 280 MB of its own for it, at every start. Ctrl-C
    signals all processes of a run, which decides itself when to stop, so server and workers have SIGINT blocked from
    birth on. SIGTERM must end a worker, since it is how Python ends those that are left; a run that lost them so has
    others.
    """
    multiprocessing.set_forkserver_preload(["torch", "torchvision.transforms.v2"])
    resource_tracker.ensure_running()  # else the server starts it, and it lets the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _policy(name: str):
    """torchvision's automatic augmentation for uint8 pictures, or None."""
    from torchvision.transforms import v2

    return getattr(v2, POLICIES[name])() if POLICIES[name] else None


def batch_order(count: int, recipe, step: int) -> Tensor:
    """Places of one step's pictures: an epoch's order is a function of (seed, epoch) alone."""
    epoch, position = divmod(step, count // recipe.batch_size)
    order = torch.randperm(count, generator=generator(recipe.seed, 1, epoch))
    return order[position * recipe.batch_size : (position + 1) * recipe.batch_size]


@dataclass
class Source:
    """Where pictures come from: its name, its classes, and for each split its files, none of them opened yet."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Found]  # train, test, and validation where the folder has one; empty for a download
    resident: bool | None = None  # whether its pictures are kept in memory, once that is known

    def read(self, split: str, preprocessing: Preprocessing, workers: int = 0, progress=iter) -> Pictures | Files:
        """All readable pictures of a split: in memory if they are preprocessing.crop pixels square and fit, else Files.

        Other splits are read as the training split was, which must be the first. Unreadable files are named and
        skipped up to MAX_UNREADABLE. Raises InputError.
        """
        if self.name in DOWNLOADS and not self.splits:
            return _downloaded(self.name, split == "train", preprocessing.crop)
        found, size = self.splits[split], preprocessing.crop
        files = [(path, label) for label, name in enumerate(self.classes) for path in found.get(name, [])]
        if self.resident is None:
            self.resident = len(files) * 3 * size * size <= MAX_RESIDENT and _first_size(files) == (size, size)
        if self.resident:
            return _read_resident(split, files, size, self.classes, found, progress)
        return _check_files(split, files, self.classes, found, preprocessing, workers, progress)


def open_source(data: str, seed: int) -> Source:
    """What --data names, looked for in this order: 1. a folder; 2. cifar10 or cifar100, which torchvision downloads.

    A folder has train/ and test/ (or val/; with both, val/ is for choices and test/ for the one measurement), or
    the classes themselves, of which a share is split off by the seed for testing. Raises InputError.
    """
    if not data:
        raise InputError(f"`data` (='') is missing: give a folder of pictures, or {' or '.join(DOWNLOADS)}.")
    folder = Path(data).expanduser().resolve()
    if not folder.is_dir() and data in DOWNLOADS:
        return Source(data, tuple(_dataset(data, True).classes), {})
    if not folder.is_dir():
        raise InputError(f"`data` (={folder.name!r:.80}) is no folder here: give one, or {' or '.join(DOWNLOADS)}.")
    if not fits(folder.name + " " * ROOM):
        most = MAX_LABEL_LENGTH - ROOM
        wanted = f"at most {most} characters of UTF-8"
        raise InputError(f"`data` (={folder.name!r:.80}) can't name a checkpoint: rename it to {wanted}.")
    inside = {child.name for child in folder.iterdir() if child.is_dir()}
    if "train" not in inside and not inside & {"test", "val"}:
        train, test = _split(find_classes(folder), seed)
        return Source(folder.name, tuple(train), {"train": train, "test": test})
    train = find_classes(folder / "train")
    classes = tuple(train)
    test = "val" if "val" in inside and "test" not in inside else "test"
    splits = {"train": train, "test": find_classes(folder / test, classes)}
    if {"test", "val"} <= inside:
        splits["validation"] = find_classes(folder / "val", classes)
    return Source(folder.name, classes, splits)


def _split(found: Found, seed: int) -> tuple[Found, Found]:
    """Each class's files, TEST_SHARE of them (at least one) set apart for testing, by seed and class alone."""
    train, test = {}, {}
    for number, (name, files) in enumerate(found.items()):
        if len(files) < 2:
            raise InputError(f"Class folder {name!r:.80} has 1 picture: a folder that is split needs two per class.")
        order = torch.randperm(len(files), generator=generator(seed, 4, number)).tolist()
        count = max(1, round(TEST_SHARE * len(files)))
        test[name], train[name] = ([files[i] for i in sorted(part)] for part in (order[:count], order[count:]))
    return train, test


def _dataset(name: str, train: bool):
    from torchvision import datasets

    try:
        return getattr(datasets, DOWNLOADS[name])(Path(torch.hub.get_dir()) / "datasets", train=train, download=True)
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # RuntimeError: it arrived damaged
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise  # no fault of the network
        raise InputError(f"{name} could not be fetched: check the network, or give --data a folder.") from None


def _downloaded(name: str, train: bool, size: int) -> Pictures:
    dataset = _dataset(name, train)
    if size != 32:
        raise InputError(f"`size` (={size}) doesn't fit {name}: its pictures are 32×32.")
    images = torch.from_numpy(np.asarray(dataset.data)).permute(0, 3, 1, 2).contiguous()
    return Pictures(images, torch.tensor(dataset.targets), tuple(dataset.classes))


def _first_size(files: list[tuple[Path, int]]) -> tuple[int, int] | None:
    for path, _ in files[:20]:
        try:
            return open_picture(path).size
        except InputError:
            continue
    return None


def _read_resident(split: str, files, size: int, classes, found: Found, progress) -> Pictures:
    images, labels, unreadable = np.empty((len(files), size, size, 3), np.uint8), [], []
    for path, label in progress(files):
        try:
            picture = _opened(path)
        except InputError as error:
            unreadable.append(str(error))
            continue
        if picture.size != (size, size):
            width, height = picture.size
            name = f"{path.parent.name}/{path.name}"
            raise InputError(f"{name} is {width}×{height}: this run needs {size}×{size}, as the first picture has.")
        images[len(labels)] = np.asarray(picture)
        labels.append(label)
    _report(split, unreadable, len(files), classes, found, labels)
    images = torch.from_numpy(images[: len(labels)]).permute(0, 3, 1, 2).contiguous()
    return Pictures(images, torch.tensor(labels), classes)


def _check_files(split: str, files, classes, found: Found, preprocessing, workers: int, progress) -> Files:
    """Decodes each file once, a share of them in each process, so that no epoch meets one that can't be read."""

    def trouble(file: tuple[Path, int]) -> str | None:
        try:
            _opened(file[0])
        except InputError as error:
            return str(error)

    rank, processes = world()
    with ThreadPoolExecutor(cores()) as pool:  # Pillow decodes without Python's lock
        troubles = gathered(list(progress(pool.map(trouble, files[rank::processes]))), len(files))
    readable = [file for file, why in zip(files, troubles, strict=True) if not why]
    labels = [label for _, label in readable]
    _report(split, [why for why in troubles if why], len(files), classes, found, labels)
    return Files([path for path, _ in readable], torch.tensor(labels), classes, preprocessing, workers=workers)


def find_classes(folder: Path, classes: tuple[str, ...] | None = None) -> dict[str, list[Path]]:
    """Class names in order, each with its picture files; opens none of them.

    With `classes`, the training split's, one beside them is refused. Raises InputError for a missing
    folder, an empty class or fewer than two classes.
    """
    if not folder.is_dir():
        wanted = "train/ and test/ (or val/) in it, or the classes themselves, of which a share is split off"
        raise InputError(f"There is no folder {folder.name}/: the data folder needs {wanted}.")
    found, others = {}, []
    for child in sorted(child for child in folder.iterdir() if child.is_dir()):
        if _hidden(child):
            say(f"passed over {folder.name}/{child.name}, which is not a class")
            continue
        inside = sorted(p for p in child.iterdir() if p.name[0] != ".")
        files = [p for p in inside if p.suffix.lower() in PICTURE_ENDINGS]
        others += [p for p in inside if p.suffix.lower() not in PICTURE_ENDINGS]
        if not fits(child.name):
            wanted = f"at most {MAX_LABEL_LENGTH} characters of UTF-8"
            raise InputError(f"Class folder {child.name!r:.80} can't name a class: rename it to {wanted}.")
        if not files:
            deeper = any(p.is_dir() for p in inside)
            remedy = "move them up from the folders in it, or give --data that" if deeper else "fill or remove it"
            raise InputError(f"Class folder {folder.name}/{child.name} has no pictures: {remedy}.")
        if classes and child.name not in classes:
            raise InputError(f"{folder.name}/ has a class {child.name!r} that the training split lacks: remove it.")
        found[child.name] = files
    if others:  # a class with half its pictures in a folder below, or of a kind that isn't read
        first = "/".join(others[0].parts[-3:])
        say(f"passed over {len(others)} in the classes' folders that are not pictures by their names: {first}, …")
    if classes and not found:
        raise InputError(f"{folder.name}/ has no class folder: put its pictures into {folder.name}/<class>/.")
    if len(found) < 2 and not classes:
        count, wanted = len(found) or "no", f"two or more, {folder.name}/<class>/ for the pictures of each"
        raise InputError(f"{folder.name}/ has {count} class folder: training needs {wanted}.")
    return found


def _hidden(child: Path) -> bool:
    return child.name.startswith((".", "__"))


def _report(split: str, unreadable: list[str], total: int, classes, found: Found, labels: list[int]) -> None:
    """Names what was skipped; refuses a split with too much of it, or with a class of which nothing is left."""
    for line in unreadable[:20]:
        say(f"skipped {line}")
    if len(unreadable) > MAX_UNREADABLE * total:
        raise InputError(f"{len(unreadable)} of {total} files in {split}/ can't be read: remove or mend them.")
    for label in {classes.index(name) for name in found} - set(labels):
        raise InputError(f"Class folder {split}/{classes[label]} has no readable picture: mend or remove it.")


def hold_out(pictures: Pictures, count: float, seed: int) -> tuple[Pictures, Pictures]:
    """Splits off `count` pictures (a share if below 1), alike from each class, by the seed alone: (rest, held out).

    The last picture of a class is left to learn from, so fewer may be held out. Raises InputError if none is.
    """
    asked, count = count, max(1, round(count * len(pictures))) if 0 < count < 1 else round(count)
    if not 0 < count < len(pictures):
        raise InputError(f"`holdout` (={asked:g}) must be 1 or more and leave some of the {len(pictures)} pictures.")
    order = torch.randperm(len(pictures), generator=generator(seed, 0, 0))
    by_class = order[torch.argsort(pictures.labels[order], stable=True)]
    # Evenly spaced places in a list sorted by class take each class's share, to within one picture.
    taken = torch.zeros(len(pictures), dtype=torch.bool)
    taken[by_class[torch.linspace(0, len(pictures) - 1, count).round().long()]] = True
    for label in set(pictures.labels.tolist()) - set(pictures.labels[~taken].tolist()):
        taken[by_class[pictures.labels[by_class] == label][0]] = False
    if not taken.any():
        raise InputError(f"`holdout` (={asked}) finds only classes of one picture: give a larger one, or more files.")
    return pictures.subset(~taken), pictures.subset(taken)


def generator(*numbers: int) -> torch.Generator:
    """A generator that is a function of the numbers alone, so that a resumed run draws what it would have."""
    mixed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> 1))


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


def colour_statistics(pictures: Pictures) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each colour in 0..1, rounded to four places: the run's preprocessing."""
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in pictures.images.unbind(1)]).double()
    values = torch.arange(256, dtype=torch.float64, device=counts.device) / 255  # no copy of the pictures as floats
    n = counts.sum(1)
    mean = counts @ values / n
    std = ((counts * (values - mean[:, None]) ** 2).sum(1) / (n - 1)).sqrt()
    return tuple(tuple(round(float(v), 4) for v in statistic) for statistic in (mean, std))
