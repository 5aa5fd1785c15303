"""Checkpoints by name: the bundled ones, torchvision's and timm's weights, anyone's Hub repo or folder.

`load` finds one; `catalogue` says what there is without touching the network.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..basics import replace_file
from ..errors import InputError
from ..images.preprocessing import Preprocessing
from ..nets.spec import Spec, called
from .checkpoint import CONFIG, FILES, WEIGHTS, Checkpoint, checked_labels
from .convert import from_timm, from_torchvision_v2, timm_preprocessing
from .download import TIMEOUT, Progress, cached, damaged, fetch_repo, is_repo_id
from .reading import MAX_WEIGHT_BYTES, build, read_checkpoint, read_config

BUNDLED = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Entry:
    """One checkpoint that can be chosen. `state` is 'here', 'download' or 'failed'; `why` says what failed."""

    name: str
    family: str  # what the Weights list of the app shows: Large and Small of one origin
    variant: str
    title: str
    state: str
    megabytes: float
    why: str = ""


@dataclass(frozen=True)
class _Torchvision:
    variant: str
    weights: str  # of torchvision.models.MobileNet_V3_{variant}_Weights, or MobileNet_V2_Weights
    file: str
    megabytes: float
    top1: float  # as published, of 50,000 validation pictures; here, since torchvision takes 1.5 s to import

    @property
    def path(self) -> Path:
        """Where torchvision itself would keep the file, so one download serves both."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file

    @property
    def digest(self) -> str:
        """What the SHA-256 of the file begins with."""
        return Path(self.file).stem.rsplit("-", 1)[1]


TORCHVISION = {
    "torchvision/large-v2": _Torchvision("large", "IMAGENET1K_V2", "mobilenet_v3_large-5c1a4163.pth", 22.1, 0.75274),
    "torchvision/large-v1": _Torchvision("large", "IMAGENET1K_V1", "mobilenet_v3_large-8738ca79.pth", 22.1, 0.74042),
    "torchvision/small": _Torchvision("small", "IMAGENET1K_V1", "mobilenet_v3_small-047dcff4.pth", 10.3, 0.67668),
    "torchvision/v2": _Torchvision("v2", "IMAGENET1K_V2", "mobilenet_v2-7ebf99e0.pth", 14.2, 0.72154),  # for programs
}
TIMM = {  # repo: variant, megabytes, top-1 as timm publishes it with the weights
    "timm/mobilenetv3_large_100.ra_in1k": ("large", 22.1, 0.75784),
    "timm/mobilenetv3_large_100.miil_in21k_ft_in1k": ("large", 22.1, 0.77920),
    "timm/mobilenetv3_small_100.lamb_in1k": ("small", 10.2, 0.67636),
}
FAMILIES = {  # what the app's Weights list shows, in the order in which the default is looked for
    "ImageNet · timm": ("timm/mobilenetv3_large_100.ra_in1k", "timm/mobilenetv3_small_100.lamb_in1k"),
    "ImageNet · torchvision": ("torchvision/large-v2", "torchvision/small"),
    "ImageNet · torchvision V1": ("torchvision/large-v1",),
    "ImageNet · timm, 21k-pretrained": ("timm/mobilenetv3_large_100.miil_in21k_ft_in1k",),
    "CIFAR-10 · bundled": ("cifar10-large", "cifar10-small"),
    "CIFAR-10 · the article's": ("cifar10-article-large", "cifar10-article-small"),
    "CIFAR-10 · for comparison": ("cifar10-v2",),
}
IMAGENET = "ImageNet-1k, 1.28 million photographs"
_failures: dict[str, str] = {}  # what failed since the start, and why, for the catalogue


def load(name: str | os.PathLike, progress: Progress | None = None) -> Checkpoint:
    """A checkpoint by bundled name, folder, torchvision or timm name, or Hub repo id 'user/repo'.

    Looked for in this order: 1. a Path, or a text that looks like a path (./x, /x, ~/x, C:\\x): a folder, never
    sent to the network; 2. a bundled name; 3. torchvision's and timm's; 4. an existing folder; 5. the Hub.
    progress(done, total) is called in bytes while something is fetched. Raises InputError in one sentence.
    """
    try:
        checkpoint = _load(name, progress)
    except InputError as error:
        if str(name) in [*TORCHVISION, *TIMM, *bundled_names()]:  # not whatever a visitor types
            _failures[str(name)] = str(error)
        raise
    _failures.pop(str(name), None)
    return checkpoint


def _load(name: str | os.PathLike, progress: Progress | None) -> Checkpoint:
    if not isinstance(name, str | os.PathLike):
        raise InputError(f"A {type(name).__name__} is no checkpoint's name: give a text or a folder.")
    if isinstance(name, os.PathLike) or re.match(r"[./~\\]|[A-Za-z]:[\\/]", name):
        return _load_folder(Path(os.path.expanduser(name)))
    if name in bundled_names():
        return read_checkpoint(BUNDLED / name, name)
    if name in TORCHVISION:
        return _load_torchvision(name, progress)
    if name.startswith("torchvision/"):
        raise InputError(f"There is no {name!r:.80}: torchvision has {', '.join(TORCHVISION)}.")
    if name and os.path.isdir(name):
        return _load_folder(Path(name))
    if not is_repo_id(name):
        raise InputError(
            f"{name!r:.80} is no checkpoint: give {', '.join(bundled_names())}, {', '.join(TORCHVISION)}, "
            "a folder, or a Hub repo id such as 'user/repo'."
        )
    if name.startswith("timm/"):
        return _load_timm(name, progress)
    return read_checkpoint(fetch_repo(name, FILES, progress), name)


def _load_folder(folder: Path) -> Checkpoint:
    if not os.path.isdir(folder):
        raise InputError(f"There is no folder {folder.name!r:.80}: give the folder that train.py or save() wrote.")
    return read_checkpoint(folder)


def bundled_names() -> list[str]:
    """Names of the folders under mnv3/weights/."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG}"))


def catalogue() -> list[Entry]:
    """Every checkpoint that can be chosen: here, to be downloaded, or failed and why. Touches no network."""
    entries = []
    for family, names in FAMILIES.items():
        for name in names:
            if name in TORCHVISION:
                variant, megabytes = TORCHVISION[name].variant, TORCHVISION[name].megabytes
            elif name in TIMM:
                variant, megabytes, _ = TIMM[name]
            else:  # bundled: looked at on disk below
                continue
            state = "here" if _cached(name) else "download"
            entries.append(Entry(name, family, variant, f"{called(variant)} · {family}", state, megabytes))
    entries += [_bundled_entry(name) for name in bundled_names()]
    return [replace(e, state="failed", why=_failures[e.name]) if e.name in _failures else e for e in entries]


def _bundled_entry(name: str) -> Entry:
    family = next((f for f, names in FAMILIES.items() if name in names), f"{name} · bundled")
    size = sum(p.stat().st_size for p in (BUNDLED / name).iterdir()) / 1e6
    try:
        spec = read_config(BUNDLED / name)["spec"]
        if not (BUNDLED / name / WEIGHTS).is_file():
            raise InputError(f"The bundled {name} has no {WEIGHTS}: fetch the repository again.")
    except InputError as error:
        return Entry(name, family, "", name, "failed", size, str(error))
    variant = spec.variant.removeprefix("article-")
    return Entry(name, family, variant, f"{called(variant)} · {family}", "here", size)


def is_here(name: str) -> bool:
    """Whether `load` needs no network for this name."""
    return name in bundled_names() or _cached(name)


def _cached(name: str) -> bool:
    return TORCHVISION[name].path.is_file() if name in TORCHVISION else cached(name) is not None


# torchvision ----------------------------------------------------------------------------------------------------
def torchvision_weights(name: str):
    """torchvision's own entry: where its file is, its transforms, its categories, what was measured."""
    from torchvision import models  # late: the start needs none of it

    source = TORCHVISION[name]
    network = "V2" if source.variant == "v2" else f"V3_{source.variant.title()}"
    return models.get_weight(f"MobileNet_{network}_Weights.{source.weights}")


def _load_torchvision(name: str, progress: Progress | None) -> Checkpoint:
    source, weights = TORCHVISION[name], torchvision_weights(name)
    if not source.path.is_file():
        _download(weights.url, source, name, progress)
    try:
        with open(source.path, "rb") as file:  # torch itself does not notice a changed byte
            if not hashlib.file_digest(file, "sha256").hexdigest().startswith(source.digest):
                raise ValueError
        tensors = torch.load(source.path, weights_only=True, map_location="cpu")
        if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
            raise TypeError
    except (OSError, MemoryError):  # no fault of the file's
        raise InputError(f"The cached file of {name} can't be read: check its rights, and the memory.") from None
    except Exception:  # torch.load raises what pickle or zipfile do
        source.path.unlink(missing_ok=True)  # a visitor could not delete it, and would never get past it
        raise InputError(f"The cached file of {name} was damaged and has been removed: fetch it again.") from None
    wanted = weights.transforms()
    preprocessing = Preprocessing(
        wanted.resize_size[0], wanted.crop_size[0], wanted.interpolation.value, tuple(wanted.mean), tuple(wanted.std)
    )
    labels = checked_labels(weights.meta["categories"], 1000)
    metrics = {"published": {"top1": source.top1, "n": 50_000}}
    spec = Spec.of(source.variant)
    if source.variant == "v2":
        tensors = from_torchvision_v2(tensors)
    return Checkpoint(name, build(spec, tensors), labels, preprocessing, IMAGENET, metrics=metrics)


def _download(url: str, source: _Torchvision, name: str, progress: Progress | None) -> None:
    """Fetches url to its path; the file appears only when whole and when its hash begins as its name says."""
    try:
        source.path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(source.path, lambda temporary: _stream(url, temporary, name, source.digest, progress))
    except OSError:  # what the network does wrong is a sentence already
        raise InputError(f"{name} can't be kept, since its cache can't be written: set TORCH_HOME.") from None


def _stream(url: str, target: str, name: str, digest_start: str, progress: Progress | None) -> None:
    digest, done = hashlib.sha256(), 0
    try:
        with open(target, "wb") as file, urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            total = int(response.headers.get("Content-Length") or 0)
            while block := response.read(1 << 18):
                done += len(block)
                if done > MAX_WEIGHT_BYTES:
                    raise InputError(f"{name} is larger than {MAX_WEIGHT_BYTES / 1e6:.0f} MB: it was not kept.")
                file.write(block)
                digest.update(block)
                if progress:
                    progress(done, total)
    except (http.client.HTTPException, OSError) as error:  # urllib's errors are OSErrors
        reason = "its server can't be reached"
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            reason = f"status {error.code}"
        elif getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full"
        raise InputError(
            f"{name} could not be fetched ({reason}): check the network, or choose weights that are here."
        ) from None
    if not digest.hexdigest().startswith(digest_start):
        raise InputError(f"{name} arrived damaged after {done / 1e6:.1f} MB: try again.")


# timm's weights on the Hub --------------------------------------------------------------------------------------
def _load_timm(repo: str, progress: Progress | None) -> Checkpoint:
    """timm's MobileNetV3: the same function under other names, with BatchNorm's eps at 1e-5."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torchvision.models import MobileNet_V3_Large_Weights

    if repo.startswith("timm/tf_"):
        raise InputError(f"{repo} pads asymmetrically, as TensorFlow does, which this network can't: choose another.")
    if repo not in TIMM:
        raise InputError(f"{repo} is not among timm's weights that are known here: {', '.join(TIMM)}.")
    folder = cached(repo)  # as it is, since these repos don't change
    if not folder or damaged(folder):
        folder = fetch_repo(repo, (CONFIG, WEIGHTS), progress)
    spec = replace(Spec.of(TIMM[repo][0]), eps=1e-5)
    try:
        preprocessing = timm_preprocessing(json.loads((folder / CONFIG).read_text())["pretrained_cfg"])
        tensors = from_timm(load_file(folder / WEIGHTS), spec)
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{repo}'s files in the cache are not timm's: delete them and fetch again.") from None
    labels = checked_labels(MobileNet_V3_Large_Weights.IMAGENET1K_V1.meta["categories"], 1000)
    return Checkpoint(repo, build(spec, tensors), labels, preprocessing, IMAGENET)
