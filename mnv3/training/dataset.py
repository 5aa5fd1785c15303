"""Pictures for training: small ones live on the device as uint8, large ones are decoded by workers for each batch."""

from __future__ import annotations

import errno
import hashlib
import http.client
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from ..basics import MAX_LABEL_LENGTH, cores, fits, generator
from ..distributed import gathered, say, world
from ..errors import InputError
from ..images.decode import open_picture
from ..images.folders import find_classes
from ..images.preprocessing import Preprocessing
from .augment import _policy, augment, jittered, normalise, resized_crops

MAX_RESIDENT = 4 * 2**30  # bytes of pictures kept in memory
MAX_UNREADABLE = 0.01  # share of files that may be unreadable before the folder is refused
ROOM = 50  # characters that train.py puts behind the folder's name in a checkpoint's name and data: variant, counts
TEST_SHARE = 0.2  # of a folder that has no test pictures of its own
DOWNLOADS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}  # what --data can name: torchvision.datasets' class
ENDED = RuntimeError, OSError, EOFError  # how a worker's end is told; a signal meant for the run may have ended it
Found = dict[str, list[Path]]  # class name -> its picture files, in order
Named = list[tuple[str, str]]  # of each picture class/name, and a digest of its content


@dataclass
class Pictures:
    """Pictures of one size with their classes: images (N, 3, H, W) uint8, labels (N,) int64.

    members: name and digest of each, where they were read by a Source.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    members: Named = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> Pictures:
        return Pictures(self.images[index], self.labels[index], self.classes, _picked(self.members, index))

    def to(self, device: torch.device) -> Pictures:
        return Pictures(self.images.to(device), self.labels.to(device), self.classes, self.members)

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
    members: Named = field(default_factory=list, repr=False)
    _ahead: tuple[int, Iterator] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> Files:
        places = torch.arange(len(self))[index]  # a mask or places
        members = _picked(self.members, places)
        paths = [self.paths[i] for i in places]
        return replace(self, paths=paths, labels=self.labels[places], members=members, _ahead=None)

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


def _picked(members: Named, index: Tensor) -> Named:
    """The members at places, or where a mask is set."""
    return [members[i] for i in torch.arange(len(members))[index.cpu()].tolist()] if members else []


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
        raise InputError(f"{named(path)}: {error}") from None


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
    skipped: list[str] = field(default_factory=list)  # class/name of what read() could not read

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
            read = _read_resident(split, files, size, self.classes, found, progress)
        else:
            read = _check_files(split, files, self.classes, found, preprocessing, workers, progress)
        self.skipped += sorted({named(path) for path, _ in files} - {name for name, _ in read.members})
        return read

    def members(self, split: str) -> Named:
        """A split's files by class and name, with a digest of each; none of them is opened as a picture."""
        if self.name in DOWNLOADS and not self.splits:
            return _numbered(np.asarray(_dataset(self.name, split == "train").data))
        paths = [path for name in self.classes for path in self.splits[split].get(name, [])]
        rank, processes = world()
        with ThreadPoolExecutor(cores()) as pool:
            digests = gathered(list(pool.map(content, paths[rank::processes])), len(paths))
        return [(named(path), digest) for path, digest in zip(paths, digests, strict=True)]


def named(path: Path) -> str:
    """A picture's class and name: what it is called wherever --data lies."""
    return f"{path.parent.name}/{path.name}"


_digest = partial(hashlib.blake2b, digest_size=8)  # against slips, not against forgers: whoever trains is trusted


def content(path: Path) -> str:
    """A digest of the file's content, 16 hexadecimal digits; '' for a file that can't be read."""
    try:
        if path.is_file():  # a named pipe would be waited for
            with open(path, "rb") as file:
                return hashlib.file_digest(file, _digest).hexdigest()
    except OSError:
        pass
    return ""


def _numbered(images: np.ndarray) -> Named:
    """A download's pictures (N, H, W, 3) by number."""
    return [(str(i), _digest(image.tobytes()).hexdigest()) for i, image in enumerate(images)]


def open_source(data: str, seed: int, tested: set[str] | None = None) -> Source:
    """What --data names, looked for in this order: 1. a folder; 2. cifar10 or cifar100, which torchvision downloads.

    A folder has train/ and test/ (or val/; with both, val/ is for choices and test/ for the one measurement), or
    the classes themselves, of which a share is split off by the seed for testing; or, where a run goes on, `tested`
    (class/name), since one file more or less would draw another share. Raises InputError.
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
        found = find_classes(folder)
        train, test = _split(found, seed) if tested is None else _split_as(found, tested)
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


def _split_as(found: Found, tested: set[str]) -> tuple[Found, Found]:
    """Each class's files, those that `tested` names set apart for testing."""
    train = {name: [file for file in files if named(file) not in tested] for name, files in found.items()}
    test = {name: [file for file in files if named(file) in tested] for name, files in found.items()}
    return train, {name: files for name, files in test.items() if files}


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
    data = np.asarray(dataset.data)
    images = torch.from_numpy(data).permute(0, 3, 1, 2).contiguous()
    return Pictures(images, torch.tensor(dataset.targets), tuple(dataset.classes), _numbered(data))


def _first_size(files: list[tuple[Path, int]]) -> tuple[int, int] | None:
    for path, _ in files[:20]:
        try:
            return open_picture(path).size
        except InputError:
            continue
    return None


def _read_resident(split: str, files, size: int, classes, found: Found, progress) -> Pictures:
    images, labels, members, unreadable = np.empty((len(files), size, size, 3), np.uint8), [], [], []
    for path, label in progress(files):
        try:
            picture = _opened(path)
        except InputError as error:
            unreadable.append(str(error))
            continue
        if picture.size != (size, size):
            found = f"{named(path)} is {picture.size[0]}×{picture.size[1]}"
            raise InputError(f"{found}: this run needs {size}×{size}, as the first picture has.")
        images[len(labels)] = np.asarray(picture)
        labels.append(label)
        members.append((named(path), content(path)))
    _report(split, unreadable, len(files), classes, found, labels)
    images = torch.from_numpy(images[: len(labels)]).permute(0, 3, 1, 2).contiguous()
    return Pictures(images, torch.tensor(labels), classes, members)


def _check_files(split: str, files, classes, found: Found, preprocessing, workers: int, progress) -> Files:
    """Decodes each file once, a share of them in each process, so that no epoch meets one that can't be read."""

    def checked(file: tuple[Path, int]) -> tuple[str, str]:
        """(digest, what is wrong with it)"""
        try:
            _opened(file[0])
        except InputError as error:
            return "", str(error)
        return content(file[0]), ""

    rank, processes = world()
    with ThreadPoolExecutor(cores()) as pool:  # Pillow decodes without Python's lock
        found_out = gathered(list(progress(pool.map(checked, files[rank::processes]))), len(files))
    readable = [(*file, digest) for file, (digest, why) in zip(files, found_out, strict=True) if not why]
    labels = [label for _, label, _ in readable]
    _report(split, [why for _, why in found_out if why], len(files), classes, found, labels)
    members = [(named(path), digest) for path, _, digest in readable]
    return Files([path for path, *_ in readable], torch.tensor(labels), classes, preprocessing, workers=workers,
                 members=members)  # fmt: skip


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


def colour_statistics(pictures: Pictures) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each colour in 0..1, rounded to four places: the run's preprocessing."""
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in pictures.images.unbind(1)]).double()
    values = torch.arange(256, dtype=torch.float64, device=counts.device) / 255  # no copy of the pictures as floats
    n = counts.sum(1)
    mean = counts @ values / n
    std = ((counts * (values - mean[:, None]) ** 2).sum(1) / (n - 1)).sqrt()
    return tuple(tuple(round(float(v), 4) for v in statistic) for statistic in (mean, std))
