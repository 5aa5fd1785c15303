"""What each process of test_processes.py does: torchrun ranks.py TEXTURES FOLDER."""

import contextlib
import io
import os
import sys
import time
import warnings
from pathlib import Path

import torch
from training_help import FAST, MIDDLE, arguments, frozen_run, labelled, numbers

import mnv3
import train
from mnv3.distributed import meet
from mnv3.images.preprocessing import Preprocessing
from mnv3.training import dataset, evaluation
from mnv3.training import dataset as training_dataset
from mnv3.training import run as training_run
from mnv3.training.dataset import Pictures, open_source


def stop(textures, folder, rank):
    """A run that waits after step 8, in the second process, until the test has sent it SIGTERM.

    Its exit status, this process's last step and that of the saved state, and the folder's files.
    """
    true_step, done = train.train_step, []

    def step(run, *rest):
        result = true_step(run, *rest)
        done.append(run.step)
        if run.step == 8 and rank == 1:
            (folder / "process").write_text(str(os.getpid()))
            while not (folder / "sent").exists():
                time.sleep(0.01)
        return result

    train.train_step, out = step, folder / "stopped"
    status = train.main(arguments(textures, out))
    train.train_step = true_step
    state = torch.load(out / "last.pt", weights_only=True)
    return status, done[-1], state["step"], sorted(path.name for path in out.iterdir())


def odd():
    """23 pictures, which no number of processes divides, of three of ten classes."""
    pictures = labelled(9, 8, 6, size=32)
    return Pictures(pictures.images, pictures.labels, tuple(f"kind {k}" for k in range(10)))


def files(textures):
    """Seven pictures that are read for each batch, of two classes."""
    source = open_source(str(textures), 0)
    source.resident = False
    read = source.read("train", Preprocessing(36, 32, "bilinear", (0.5,) * 3, (0.25,) * 3))
    return read.subset(torch.tensor([0, 1, 2, 3, 40, 41, 42]))


def measured(textures):
    """Logits and gate statistics of pictures in memory, of files, and of one picture alone."""
    model, found = mnv3.load("cifar10-small").model, {}
    for name, pictures in (("odd", odd()), ("files", files(textures)), ("one", odd().subset(torch.tensor([4])))):
        gates = evaluation.gate_statistics(model, pictures, *MIDDLE, "pictures")
        found[name] = evaluation.predict(model, pictures, *MIDDLE)
        found[f"{name} n"] = torch.from_numpy(gates.n)
        found |= {f"{name} mean {i}": torch.from_numpy(mean) for i, mean in enumerate(gates.mean)}
        found |= {f"{name} m2 {i}": torch.from_numpy(m2) for i, m2 in enumerate(gates.m2)}
    return found


def steps():
    """The pictures of three steps, and all that one process has after them."""
    seen, augment = [], training_dataset.augment
    training_dataset.augment = lambda images, *rest: (
            seen.append(numbers(Pictures(images, images, ()))) or augment(images, *rest)
        )
    run = training_run.Run.new(FAST, mnv3.Spec.of("small", 0.35, 10, 2), torch.device("cpu"))
    for _ in range(3):
        training_run.train_step(run, odd(), *MIDDLE)
    training_dataset.augment = augment
    return {"seen": seen, "model": run.model.state_dict(), "average": run.average.model.state_dict()}


def gradient(accumulate):
    """Of one step in which BatchNorm keeps still: what it adds up must not depend on who computed it."""
    run = frozen_run(accumulate)
    training_run.train_step(run, odd(), *MIDDLE)
    return {name: p.grad for name, p in run.model.named_parameters()}


def work(textures, folder, rank):
    """All in one process group: whole runs end theirs."""
    end, training_run.dist.destroy_process_group = training_run.dist.destroy_process_group, lambda: None
    stopped = stop(textures, folder, rank)
    meet(torch.device("cpu"))  # both have looked at the folder
    again = train.main(arguments(textures, folder / "stopped", "--resume"))
    straight = train.main(arguments(textures, folder / "straight"))
    found = {"stopped": stopped, "status": [again, straight], "measured": measured(textures), "steps": steps()}
    found |= {"gradient": gradient(1), "in parts": gradient(2), "gone": gone(textures, folder, rank)}
    training_run.dist.destroy_process_group = end
    torch.save({**found, "refused": refused(folder)}, folder / f"rank {rank}")


def gone(textures, folder, rank):
    """A run in which the second process can't read a picture of step 3; status, what was said, and the state's step."""
    true_batch, most = dataset.Files.training_batch, dataset.MAX_RESIDENT

    def batch(files, recipe, step, share):
        if step == 3 and rank == 1:
            raise mnv3.InputError("10/0.jpg: it is gone.")
        return true_batch(files, recipe, step, share)

    dataset.Files.training_batch, dataset.MAX_RESIDENT = batch, 0
    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = train.main(arguments(textures, folder / "gone", "--workers", "0"))
    dataset.Files.training_batch, dataset.MAX_RESIDENT = true_batch, most
    return status, said.getvalue(), torch.load(folder / "gone" / "last.pt", weights_only=True)["step"]


def refused(folder):
    """(exit status, what was said) where the first process finds no data, while the second waits for it."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        return train.main(arguments(folder / "nowhere", folder / "none")), said.getvalue()


if __name__ == "__main__":
    warnings.simplefilter("error")
    work(*map(Path, sys.argv[1:]), int(os.environ["RANK"]))
