"""Training pictures a second: our loop beside a plain torchvision-style one, in one process, taking turns.

    python -m tests.benchmarks.training                                  # 32 px, Small, on this machine's CPU
    python -m tests.benchmarks.training --size 224 --strides 0 --batch 32
    python -m tests.benchmarks.training --device cuda --variant large --precision bf16 --compile

The plain loop: an ImageFolder-like dataset of Pillow pictures, transforms.v2, a DataLoader with workers, then the same
network, optimiser, batch and precision, in the memory format that torch starts with; at 32 px our pictures live on the
device, at 224 px they are files for both.
Warm-up is left out: each loop runs its first --warm-up steps unmeasured, then rounds of --steps in turn; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from mnv3.distributed import machine
from mnv3.images.preprocessing import Preprocessing
from mnv3.nets.spec import Spec
from mnv3.training.dataset import Files, Pictures
from mnv3.training.recipe import AUTOCAST, Recipe
from mnv3.training.run import Run, train_step

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
CLASSES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--size", type=int, default=32)
    option("--variant", default="small")
    option("--strides", type=int, default=2)
    option("--batch", type=int, default=128)
    option("--device", default="cpu")
    option("--precision", default="fp32", choices=("fp32", *AUTOCAST))
    option("--compile", action="store_true")
    option("--workers", type=int, default=2)
    option("--warm-up", type=int, default=5)
    option("--steps", type=int, default=10)
    option("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measured(given, Path(folder)), indent=1))


def measured(given: argparse.Namespace, folder: Path) -> dict:
    steps = given.warm_up + given.steps * given.rounds + 1
    recipe = Recipe(
        variant=given.variant, strides=given.strides, size=given.size, batch_size=given.batch, early_epochs=0,
        epochs=2 + steps * given.batch // 1000, precision=given.precision, compile=given.compile,
    )  # fmt: skip
    files = pictures(folder, given.size, max(1000, given.batch))
    ours, share = our_loop(recipe, files, given), []
    plain = plain_loop(recipe, files, given)
    loops, seconds = {"ours": ours, "plain": plain}, {"ours": [], "plain": []}
    for loop in loops.values():
        take(loop, given.warm_up, given.device)
    for _ in range(given.rounds):
        for name, loop in loops.items():
            seconds[name].append(take(loop, given.steps, given.device))
    share = network_share(recipe, files, given)
    rate = {name: given.steps * given.batch / statistics.median(times) for name, times in seconds.items()}
    ratios = [plain / own for own, plain in zip(seconds["ours"], seconds["plain"], strict=True)]
    return {
        "images_per_second": {name: round(value, 1) for name, value in rate.items()},
        "ours_over_plain": round(statistics.median(ratios), 2), "of_rounds": [round(r, 2) for r in ratios],
        "share_of_our_step_in_the_network": round(share, 3), "n": given.steps * given.rounds,
        "what": vars(given), **machine(torch.device(given.device)),
    }  # fmt: skip


def pictures(folder: Path, size: int, count: int) -> list[Path]:
    """JPEG files: as large as the network's pictures at 32 px, as photographs are (500 × 375) above."""
    random, paths = np.random.default_rng(0), []
    shape = (size, size) if size <= 64 else (500, 375)
    for number in range(count if size <= 64 else 200):
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(coarse).resize(shape, Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths * (1 if size <= 64 else -(-count // 200))


def labels(files: list[Path]) -> torch.Tensor:
    return torch.arange(len(files)) % CLASSES


def own_data(recipe: Recipe, files: list[Path], given) -> Pictures | Files:
    names = tuple(map(str, range(CLASSES)))
    if recipe.size <= 64:
        images = torch.stack([torch.from_numpy(np.array(Image.open(f))).permute(2, 0, 1) for f in files])
        return Pictures(images, labels(files), names).to(torch.device(given.device))
    prepared = Preprocessing(round(recipe.size * 8 / 7), recipe.size, "bilinear", MEAN, STD)
    return Files(files, labels(files), names, prepared, torch.device(given.device), given.workers)


def new_run(recipe: Recipe, given) -> Run:
    spec = Spec.of(recipe.variant, 1.0, CLASSES, recipe.strides)
    return Run.new(recipe, spec, torch.device(given.device), normal=(MEAN, STD))


def our_loop(recipe: Recipe, files: list[Path], given):
    run, data = new_run(recipe, given), own_data(recipe, files, given)
    normal = [torch.tensor(v, device=given.device) for v in (MEAN, STD)]
    while True:
        train_step(run, data, *normal)
        yield


class PillowPictures(Dataset):
    def __init__(self, files: list[Path], size: int):
        crop = [v2.RandomCrop(size, padding=4)] if size <= 64 else [v2.RandomResizedCrop(size, antialias=True)]
        self.files, self.labels = files, labels(files).tolist()
        self.transform = v2.Compose([
            *crop, v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        return self.transform(Image.open(self.files[index]).convert("RGB")), self.labels[index]


def plain_loop(recipe: Recipe, files: list[Path], given):
    run = new_run(recipe, given)  # the same network, optimiser, precision and compilation; the rest is the plain way
    run.model.to(memory_format=torch.contiguous_format)
    loader = DataLoader(
        PillowPictures(files, recipe.size), recipe.batch_size, shuffle=True, drop_last=True, num_workers=given.workers,
        multiprocessing_context="forkserver", persistent_workers=True, pin_memory=given.device == "cuda",
    )  # fmt: skip
    cast = AUTOCAST.get(recipe.precision)
    while True:
        for images, answers in loader:
            x, answers = images.to(given.device), answers.to(given.device)
            run.model.train()
            run.optimiser.zero_grad(set_to_none=True)
            with torch.autocast(given.device, cast, enabled=cast is not None):
                logits = run.forward(x)
            loss = F.cross_entropy(logits.float(), answers, label_smoothing=recipe.label_smoothing)
            run.scaler.scale(loss).backward()
            run.scaler.step(run.optimiser)
            run.scaler.update()
            run.average.update(run.model)
            loss.item()  # the plain loop prints it, as ours shows it
            yield


def take(loop, steps: int, device: str) -> float:
    began = time.perf_counter()
    for _ in range(steps):
        next(loop)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def network_share(recipe: Recipe, files: list[Path], given) -> float:
    """Of our step's time, what forward, backward, optimiser and averaging alone take on a batch that is ready."""
    run = new_run(recipe, given)
    x = torch.randn(recipe.batch_size, 3, recipe.size, recipe.size, device=given.device)
    x, answers = x.contiguous(memory_format=torch.channels_last), torch.arange(recipe.batch_size) % CLASSES
    cast, answers = AUTOCAST.get(recipe.precision), answers.to(given.device)

    def alone():
        while True:
            run.model.train()
            run.optimiser.zero_grad(set_to_none=True)
            with torch.autocast(given.device, cast, enabled=cast is not None):
                logits = run.forward(x)
            loss = F.cross_entropy(logits.float(), answers, label_smoothing=recipe.label_smoothing)
            loss.item()
            loss.backward()
            run.optimiser.step()
            run.average.update(run.model)
            yield

    loops, seconds = (our_loop(recipe, files, given), alone()), ([], [])
    for loop in loops:
        take(loop, given.warm_up, given.device)
    for _ in range(given.rounds):
        for loop, times in zip(loops, seconds, strict=True):
            times.append(take(loop, given.steps, given.device))
    return statistics.median(b / a for a, b in zip(*seconds, strict=True))


if __name__ == "__main__":
    main()
