"""A run leaves a checkpoint, a resumed run is the same run, and what goes wrong costs nothing that was saved."""

import errno
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from training_help import (
    CLASSES,
    ROOT,
    STEPS,
    arguments,
    differences,
    grown,
    interrupted,
    last_line,
    new_run,
    noise,
    read_folder,
    write,
)

import mnv3
import train
from mnv3 import InputError
from mnv3.basics import cores
from mnv3.checkpoints.checkpoint import Checkpoint
from mnv3.checkpoints.reading import read_checkpoint
from mnv3.distributed import only_run_in
from mnv3.images.decode import open_picture
from mnv3.images.preprocessing import Preprocessing
from mnv3.training import dataset
from mnv3.training import dataset as training_dataset
from mnv3.training import run as training_run
from mnv3.training.augment import augment
from mnv3.training.dataset import colour_statistics, hold_out
from mnv3.training.recipe import Recipe
from mnv3.training.run import Run, learning_rate, train_step

# ---- whole runs ---------------------------------------------------------------------------------------------------


def test_a_run_leaves_whole_files_and_a_row_for_each_epoch(straight):
    assert sorted(path.name for path in straight.iterdir()) == [
        "README.md", "config.json", "confusion.png", "curves.png", "gates.safetensors", "last.pt", "log.csv",
        "metrics.json", "model.safetensors",
    ]  # fmt: skip
    head, *rows = (straight / "log.csv").read_text().splitlines()
    assert head.startswith("epoch,lr,train_loss") and head.endswith("seconds")
    assert [row.partition(",")[0] for row in rows] == ["1", "2"]


def test_a_run_is_a_function_of_its_recipe(textures, straight, tmp_path):
    assert train.main(arguments(textures, tmp_path / "again")) == 0
    assert differences(tmp_path / "again", straight) == []
    assert train.main(arguments(textures, tmp_path / "other", "--seed", "1")) == 0
    assert "model.safetensors" in differences(tmp_path / "other", straight)


def test_a_run_stopped_at_an_epochs_end_and_resumed_is_the_same_run(textures, straight, tmp_path):
    out = tmp_path / "run"
    assert interrupted(textures, out, STEPS) == 130
    assert torch.load(out / "last.pt", weights_only=True)["step"] == STEPS
    assert not (out / "model.safetensors").exists()
    assert train.main(arguments(textures, out, "--resume")) == 0
    assert differences(out, straight) == []


CHILD = """
import sys, time
from pathlib import Path
import train
meeting, true_step = Path(sys.argv[1]), train.train_step
def step(run, *rest):
    result = true_step(run, *rest)
    if run.step == 8:  # in the middle of the second epoch: wait until the signals have been sent
        (meeting / "there").touch()
        while not (meeting / "sent").exists():
            time.sleep(0.01)
    return result
train.train_step = step
sys.exit(train.main(sys.argv[2:]))
"""


def test_a_run_stopped_by_signals_in_mid_epoch_and_resumed_is_the_same_run(textures, straight, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-W", "error", "-c", CHILD, str(tmp_path), *arguments(textures, out)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + 120
        while not (tmp_path / "there").exists():
            assert child.poll() is None and time.monotonic() < deadline, child.stderr.read()
            time.sleep(0.02)
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGINT)  # an impatient second one harms nothing
        (tmp_path / "sent").touch()
        _, said = child.communicate(timeout=60)
    assert child.returncode == 130 and "stopped and saved at step 8" in said and "Traceback" not in said
    assert {path.name for path in out.iterdir()} == {"last.pt", "log.csv"}
    assert torch.load(out / "last.pt", weights_only=True)["step"] == 8
    assert train.main(arguments(textures, out, "--resume")) == 0
    assert differences(out, straight) == []


FORGOTTEN = {
    "the place in the epoch": lambda run: setattr(run, "step", run.step // STEPS * STEPS),
    "the momentum": lambda run: run.optimiser.state.clear(),
    "the number of updates": lambda run: setattr(run.average, "updates", 0),
}


@pytest.fixture(scope="module")
def stopped(textures, tmp_path_factory):
    """The folder of a run that was stopped after eight steps, in the middle of its second epoch."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    assert interrupted(textures, out, 8) == 130
    return out


def test_a_run_resumed_in_mid_epoch_on_data_that_was_moved_ends_with_the_same_weights(
    textures, stopped, straight, tmp_path, capsys
):
    """The control of the next test, which breaks just this."""
    out, moved = shutil.copytree(stopped, tmp_path / "run"), tmp_path / "moved" / "textures"
    assert train.main(arguments(moved, out, "--resume")) == 2
    assert "`data` (='textures') is no folder here: give one" in last_line(capsys)
    shutil.copytree(textures, moved)
    assert train.main(arguments(moved, out, "--resume")) == 0
    assert {"model.safetensors", "gates.safetensors", "averaged weights"}.isdisjoint(differences(out, straight))


@pytest.mark.parametrize("what", FORGOTTEN)
def test_a_run_is_another_if_resuming_forgets(what, textures, stopped, straight, tmp_path, monkeypatch):
    restore = Run.restore

    def forgetful(run, state):
        restore(run, state)
        FORGOTTEN[what](run)

    monkeypatch.setattr(Run, "restore", forgetful)
    out = shutil.copytree(stopped, tmp_path / "run")
    assert train.main(arguments(textures, out, "--resume")) == 0
    assert {"model.safetensors", "averaged weights"} & set(differences(out, straight))


def test_the_rate_goes_on_where_it_was(textures, stopped, tmp_path, monkeypatch):
    out, rates = shutil.copytree(stopped, tmp_path / "run"), []

    def watched(run, *rest):
        result = train_step(run, *rest)
        rates.append(run.optimiser.param_groups[0]["lr"])
        return result

    monkeypatch.setattr(train, "train_step", watched)
    assert train.main(arguments(textures, out, "--resume")) == 0
    recipe = Recipe(lr=0.05)
    assert rates == [learning_rate(recipe, step / 12) for step in range(8, 12)]


@pytest.mark.parametrize("option, value", [("lr", "0.06"), ("batch-size", "8"), ("epochs", "3"), ("seed", "4")])
def test_resuming_with_another_recipe_is_refused_naming_the_field(option, value, textures, stopped, capsys):
    state = (stopped / "last.pt").read_bytes()
    assert train.main(arguments(textures, stopped, "--resume", f"--{option}", value)) == 2
    said = last_line(capsys)
    assert option.replace("-", "_") in said and value in said and "--" not in said.partition("recipe")[0]
    assert (stopped / "last.pt").read_bytes() == state


@pytest.mark.parametrize("name", ["README.md", "model.safetensors"])
def test_a_folder_that_holds_something_else_is_not_written_over(name, textures, tmp_path, monkeypatch, capsys):
    """`--out .` in somebody's repository made its README a model card."""
    (tmp_path / name).write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert train.main(arguments(textures, Path("."))) == 2
    assert f"{tmp_path.name}/ holds another {name}" in last_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"


def test_an_out_that_is_a_file_is_named(textures, tmp_path, capsys):
    (tmp_path / "notes").write_text("mine")
    for out in (tmp_path / "notes", tmp_path / "notes" / "run"):
        assert train.main(arguments(textures, out)) == 2
        assert (said := last_line(capsys)).startswith("train.py: `out` (='") and "choose another --out" in said
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize("data, out", [("flat", "flat/run"), ("flat", "flat/a/run"), ("split", "split/train/run")])
def test_an_out_among_the_classes_is_refused_and_not_made(data, out, tmp_path, monkeypatch, capsys):
    """Its folder was a class without pictures, to this run and to every other, and then one of curves.png."""
    grown(tmp_path / "flat", "a", "b")
    grown(tmp_path / "split" / "train", "a", "b")
    grown(tmp_path / "split" / "test", "a", "b")
    monkeypatch.chdir(tmp_path)
    assert train.main(arguments(data, Path(out))) == 2
    assert f"`out` (='{out}') lies among the classes of --data" in last_line(capsys) and not Path(out).exists()
    train.check_apart(Path("split/run"), "split")
    train.check_apart(Path("runs/flat"), "flat")


def test_an_out_without_a_name_is_not_the_folder_that_one_is_in(textures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        train.main(["--data", str(textures), "--out", ""])
    assert "--out: '' names no folder: give one" in last_line(capsys) and list(tmp_path.iterdir()) == []


NO_UTF8 = os.fsdecode(b"stra\xdfe")


@pytest.mark.parametrize(
    "option, text", [
        ("name", "x" * 201), ("name", " "), ("name", NO_UTF8), ("data_note", "x" * 201), ("data_note", NO_UTF8),
        ("out", NO_UTF8), ("data", NO_UTF8), ("data", "x" * 151),
    ],
    ids=lambda value: ascii(value)[:12],
)  # fmt: skip
def test_words_that_no_checkpoint_can_hold_are_refused_before_training(
    option, text, textures, tmp_path, monkeypatch, capsys
):
    """They were found out at the last save, or in the folder that it left, which nothing could open."""
    folder, out, more = textures, tmp_path / "run", []
    if option == "data":
        folder = shutil.copytree(textures, tmp_path / text)
    elif option == "out":
        out = tmp_path / text
    else:
        more = [f"--{option.replace('_', '-')}", text]
    monkeypatch.setattr(train, "train_step", lambda *_: pytest.fail("a step was taken"))
    assert train.main(arguments(folder, out, *more)) == 2
    assert f"`{option}` (='" in (said := last_line(capsys)) and "UTF-8" in said


def test_a_skipped_picture_whose_name_cannot_be_printed_ends_no_run(textures, tmp_path, capsys):
    moved = shutil.copytree(textures, tmp_path / "moved")
    (moved / "train" / CLASSES[0] / f"{NO_UTF8}.jpg").write_bytes(b"")
    assert train.main(arguments(moved, tmp_path / "run", "--epochs", "1")) == 0
    assert r"skipped 10/stra\udcdfe.jpg: " in capsys.readouterr().out


def test_a_folder_that_holds_a_run_is_not_overwritten(textures, stopped, capsys):
    state = (stopped / "last.pt").read_bytes()
    assert train.main(arguments(textures, stopped)) == 2
    assert "already holds a run: add --resume" in last_line(capsys)
    assert (stopped / "last.pt").read_bytes() == state


def test_two_runs_in_one_folder_refuse_each_other(textures, stopped, tmp_path, capsys, monkeypatch):
    """However the other one ends: a killed process leaves no lock behind."""
    out = shutil.copytree(stopped, tmp_path / "run")
    code = "import sys, time; from pathlib import Path; from mnv3.distributed import only_run_in\n"
    code += "with only_run_in(Path(sys.argv[1])): print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, out], cwd=ROOT, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        for words in (["--resume"], []):
            assert train.main(arguments(textures, out, *words)) == 2
            assert last_line(capsys) == (
                "train.py: Another run is at work in run/: wait for its end, or choose another --out."
            )
        with monkeypatch.context() as second:  # of torchrun's processes the first has it for all
            second.setenv("RANK", "1")
            with only_run_in(out):
                pass
        other.kill()
    with only_run_in(out), pytest.raises(InputError, match="Another run"), only_run_in(out):
        pass
    with only_run_in(out):
        pass
    assert {path.name for path in out.iterdir()} == {"last.pt", "log.csv"}


def test_resuming_without_a_run_is_refused(textures, tmp_path, capsys):
    assert train.main(arguments(textures, tmp_path / "new", "--resume")) == 2
    assert "new/ holds no run to resume" in last_line(capsys)


def test_resuming_with_other_pictures_is_refused(textures, stopped, tmp_path, capsys):
    """The same recipe over a folder that has lost pictures would be another run, batch by batch."""
    out, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(stopped, out)
    shutil.copytree(textures, moved)
    for name in ("0.jpg", "1.png"):  # one in 120 may be dropped
        (moved / "train" / CLASSES[0] / name).unlink()
    assert train.main(arguments(moved, out, "--resume")) == 2
    assert "learned from other pictures (2 of 120 missing: 10/0.jpg, 10/1.png)" in last_line(capsys)


@pytest.mark.parametrize("part", ["classes", "step", "optimiser"])
def test_resuming_from_a_state_that_lacks_a_part_is_one_sentence(part, textures, stopped, tmp_path, capsys):
    out = shutil.copytree(stopped, tmp_path / "run")
    state = torch.load(out / "last.pt", weights_only=True)
    del state[part]
    torch.save(state, out / "last.pt")
    assert train.main(arguments(textures, out, "--resume")) == 2
    assert "give those" in (said := last_line(capsys)) or "another version's" in said


def test_pictures_of_one_colour_are_refused_with_what_can_be_done(tmp_path, capsys):
    for name in "ab":
        for i in range(20):
            write(tmp_path / "pets" / name / f"{i}.png", np.full((32, 32, 3), 7, np.uint8))
    few = ("--holdout", "2", "--epochs", "1", "--early-epochs", "0")
    assert train.main(arguments(tmp_path / "pets", tmp_path / "run", *few)) == 2
    assert "give --no-standardise" in last_line(capsys)
    assert train.main(arguments(tmp_path / "pets", tmp_path / "run", *few, "--no-standardise")) == 0


def foreign(_):
    """A file that torch.save wrote, but not for a run."""
    buffer = io.BytesIO()
    torch.save({"a": 1}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("harm", [lambda state: state[: len(state) // 2], lambda state: b"not a state", foreign])
def test_resuming_from_a_damaged_state_is_one_sentence(harm, textures, stopped, tmp_path, capsys):
    out = shutil.copytree(stopped, tmp_path / "run")
    (out / "last.pt").write_bytes(harm((stopped / "last.pt").read_bytes()))
    assert train.main(arguments(textures, out, "--resume")) == 2
    assert "last.pt" in last_line(capsys)


# ---- what a run must survive --------------------------------------------------------------------------------------


def test_a_non_finite_loss_stops_with_the_step_named_and_the_last_state_goes_on(
    textures, straight, tmp_path, monkeypatch, capsys
):
    out, calls = tmp_path / "run", []

    def poisoned(*inputs):
        calls.append(inputs)
        return augment(*inputs) * (float("nan") if len(calls) == 9 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(training_dataset, "augment", poisoned)
        assert train.main(arguments(textures, out)) == 1
    assert "The loss is nan at step 8 (epoch 2)" in last_line(capsys)
    assert torch.load(out / "last.pt", weights_only=True)["step"] == STEPS
    assert not (out / "model.safetensors").exists()
    assert train.main(arguments(textures, out, "--resume")) == 0
    assert differences(out, straight) == []


def finite(state):
    tensors = {**state["model"], **{f"average {name}": t for name, t in state["average"].items()}}
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def test_a_rate_that_is_far_too_high_stops_the_run_with_the_step_named(textures, tmp_path, capsys):
    high = ["--lr", "100", "--batch-size", "96", "--epochs", "12", "--early-epochs", "0", "--warmup", "0.1"]
    assert train.main(arguments(textures, tmp_path / "run", *high)) == 1
    said = last_line(capsys)
    assert "step" in said and "--lr" in said
    assert finite(torch.load(tmp_path / "run" / "last.pt", weights_only=True))


def test_weights_that_are_no_longer_finite_are_never_saved(textures, tmp_path, monkeypatch, capsys):
    def harmed(run, *rest):
        result = train_step(run, *rest)
        if run.step == 2 * STEPS:
            with torch.no_grad():
                run.model.classifier[3].bias[0] = float("inf")
        return result

    monkeypatch.setattr(train, "train_step", harmed)
    with suppress(ValueError, IndexError):  # what it stops with is the test above
        assert train.main(arguments(textures, tmp_path / "run")) == 1
    assert not (tmp_path / "run" / "model.safetensors").exists()
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert state["step"] == STEPS and finite(state)


@pytest.fixture
def full_disk(monkeypatch):
    """A state is saved once; then a kilobyte is written and the disk found full."""
    true_write, saves = train.write_state, []

    def write_state(state, path):
        saves.append(path)
        true_write(state, path)
        if len(saves) > 1:
            os.truncate(path, 1024)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(train, "write_state", write_state)
    return saves


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_that_is_really_full_is_called_so():
    """torch.save itself raises a RuntimeError about a position in its archive."""
    with pytest.raises(OSError, match="No space left"):
        train.write_state({"a": torch.zeros(100_000)}, "/dev/full")


def test_a_save_that_breaks_off_leaves_the_last_state_whole(textures, straight, full_disk, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with suppress(OSError):
        assert train.main(arguments(textures, out)) != 0
    assert len(full_disk) == 2
    assert {path.name for path in out.iterdir()} == {"last.pt", "log.csv"}  # no temporary file is left
    assert torch.load(out / "last.pt", weights_only=True)["step"] == STEPS
    monkeypatch.undo()
    assert train.main(arguments(textures, out, "--resume")) == 0
    assert differences(out, straight) == []


def test_a_full_disk_is_one_sentence(textures, full_disk, tmp_path, capsys):
    assert train.main(arguments(textures, tmp_path / "run")) == 1
    assert "No space left" in (said := last_line(capsys)) and "go on with --resume. The state that was" in said


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), torch.OutOfMemoryError("CUDA")])
def test_before_the_first_state_the_remedy_is_not_resume_which_would_be_refused(
    error, textures, straight, tmp_path, monkeypatch, capsys
):
    def failing(*_):
        raise error

    out, place = tmp_path / "run", "write_state" if isinstance(error, OSError) else "train_step"
    with monkeypatch.context() as patch:
        patch.setattr(train, place, failing)
        assert train.main(arguments(textures, out)) == 1
    said = last_line(capsys)
    assert "give the same command again" in said and "--resume" not in said and "another --out" not in said
    assert train.main(arguments(textures, out)) == 0
    assert differences(out, straight) == []


def test_a_folder_that_may_not_be_read_is_named(textures, tmp_path, monkeypatch, capsys):
    def forbidden(*_):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "pets" / "cat"))

    monkeypatch.setattr(train, "open_source", forbidden)
    assert train.main(arguments(textures, tmp_path / "run")) == 1
    assert last_line(capsys).startswith("train.py: Permission denied ('pets/cat'): check --data and --out.")


# ---- what a run leaves --------------------------------------------------------------------------------------------


def test_a_finished_folder_is_a_checkpoint(straight):
    checkpoint = mnv3.load(straight)
    assert checkpoint.labels == CLASSES and checkpoint.name == "textures-small"
    assert checkpoint.spec == mnv3.Spec.of("small", 0.35, 3, 2)
    assert checkpoint.gates.n.tolist() == [96, 32, 32, 32]
    assert checkpoint.metrics["weights"] in ("averaged", "newest")
    assert checkpoint.metrics["held_out"]["n"] == 24
    assert checkpoint.metrics["recipe"]["lr"] == 0.05 and len(checkpoint.metrics["log"]) == 2
    assert (checkpoint.preprocessing.resize, checkpoint.preprocessing.crop) == (32, 32)


def test_a_finished_folder_can_be_explained(textures, straight):
    explanation = mnv3.explain(mnv3.load(straight), textures / "test" / "2" / "0.jpg")
    assert {guess.label for guess in explanation.top(5)} == set(CLASSES)  # three, though five were asked for


def test_no_path_of_the_host_is_published(straight, textures):
    for name in ("config.json", "metrics.json", "README.md", "gates.safetensors", "model.safetensors"):
        assert str(textures.parent).encode() not in (straight / name).read_bytes(), name


def test_weights_are_stored_as_fp16_and_batchnorm_as_fp32(straight):
    from safetensors.torch import load_file

    stored = load_file(straight / "model.safetensors")
    model = read_checkpoint(straight).model
    norms = {name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert len(norms) == 34
    for name, tensor in stored.items():
        owner, _, kind = name.rpartition(".")
        if owner in norms:
            assert tensor.dtype == (torch.int64 if kind == "num_batches_tracked" else torch.float32), name
        elif kind == "weight":
            assert tensor.dtype == torch.float16, name
    assert all(tensor.dtype == torch.float32 for tensor in model.parameters())


def test_the_published_figures_are_those_of_the_stored_file(textures, straight):
    """Recomputed from the file alone, through the way that the app takes."""
    checkpoint = mnv3.load(straight)
    paths = sorted((textures / "test").glob("*/*"))
    with torch.inference_mode():
        logits = torch.stack([checkpoint.model(checkpoint.preprocess(open_picture(p))[None])[0] for p in paths])
    labels = torch.tensor([checkpoint.labels.index(path.parent.name) for path in paths])
    published = checkpoint.metrics["test"]
    assert published["n"] == len(paths) == 36
    assert published["top1"] == pytest.approx((logits.argmax(1) == labels).double().mean().item(), abs=1e-4)
    assert published["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), abs=2e-4)


def test_the_measured_network_is_read_back_from_the_file(textures, straight, tmp_path):
    """A file that was changed after storing is measured as it is: here it answers the same to everything."""
    out = shutil.copytree(straight, tmp_path / "run")
    in_memory = read_checkpoint(out)
    changed = read_checkpoint(out)
    changed.model.classifier[3].weight.zero_()
    changed.model.classifier[3].bias.zero_()
    changed.save(out, half=True)
    train.measure(in_memory, read_folder(textures / "test", 32, CLASSES), out)
    assert json.loads((out / "metrics.json").read_text())["test"]["loss"] == round(math.log(3), 4)


def saying(model, index):
    """Makes the network answer class `index` to everything."""
    with torch.no_grad():
        model.classifier[3].bias.zero_()[index] = 1e4


@pytest.mark.parametrize("better, worse", [("averaged", "newest"), ("newest", "averaged")])
def test_the_weights_that_do_better_on_held_out_pictures_are_stored(better, worse, textures, tmp_path):
    everything = read_folder(textures / "train", 32)
    learned, held_out = hold_out(everything, 24, 0)
    mostly_first = held_out.subset(torch.tensor([0, 1, 2, 3, 4, 5, 8, 16]))
    assert mostly_first.labels.bincount().tolist() == [6, 1, 1]
    run = new_run(Recipe(width=0.35, data=str(textures)), 3)
    run.log = [dict.fromkeys(("train_top1", "heldout_top1", "heldout_top1_average"), 0.5) | {"epoch": 1, "seconds": 1}]
    networks = {"averaged": run.average.model, "newest": run.model}
    saying(networks[better], 0)
    saying(networks[worse], 2)
    mean, std = colour_statistics(everything)
    prepared = Preprocessing(32, 32, "bilinear", mean, std)
    textures = train.Folder(train.Options(tmp_path), prepared, "textures", everything.classes)
    checkpoint = train.store(run, learned, mostly_first, (torch.tensor(mean), torch.tensor(std)), textures)
    assert checkpoint.metrics["weights"] == better and checkpoint.metrics["held_out"]["top1"] == 0.75
    assert mnv3.load(tmp_path).model.classifier[3].bias.tolist() == [1e4, 0, 0]


def test_test_pictures_are_opened_only_after_the_checkpoint_is_stored(textures, tmp_path, monkeypatch):
    out, opened = tmp_path / "run", []

    def watched(path):
        opened.append((path.parent.parent.name, (out / "model.safetensors").exists()))
        return open_picture(path)

    monkeypatch.setattr(dataset, "open_picture", watched)
    assert train.main(arguments(textures, out, "--epochs", "1")) == 0
    assert opened == [("train", False)] * 121 + [("test", True)] * 36  # of the first of them, its size


def test_a_test_split_may_lack_a_class(textures, straight, tmp_path):
    out, few = shutil.copytree(straight, tmp_path / "run"), tmp_path / "test"
    for name in CLASSES[1:]:
        shutil.copytree(textures / "test" / name, few / name)
    train.measure(read_checkpoint(out), read_folder(few, 32, CLASSES), out)
    assert mnv3.load(out).metrics["test"]["n"] == 24


def test_fewer_held_out_pictures_than_classes_still_end_in_a_checkpoint(textures, tmp_path):
    assert train.main(arguments(textures, tmp_path / "run", "--holdout", "2", "--epochs", "1")) == 0
    assert isinstance(mnv3.load(tmp_path / "run"), Checkpoint)


# ---- killed, and signalled with its workers -----------------------------------------------------------------------

KILLED = """
import os, signal, sys
import train
saves, true_write = [], train.write_state
def write_state(state, path):
    saves.append(path)
    true_write(state, path)
    if len(saves) == 2:  # the second epoch's: half of it is on the disk
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
train.write_state = write_state
train.main(sys.argv[1:])
"""


def test_a_run_that_is_killed_in_the_middle_of_a_save_goes_on_from_the_last_state(textures, straight, tmp_path):
    out = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", KILLED, *arguments(textures, out)]
    assert subprocess.run(command, cwd=ROOT, env=environment, capture_output=True).returncode == -signal.SIGKILL
    assert torch.load(out / "last.pt", weights_only=True)["step"] == STEPS
    assert len(list(out.glob(".last.pt.*"))) == 1  # what was being written
    assert train.main(arguments(textures, out, "--resume")) == 0
    assert differences(out, straight) == [] and list(out.glob(".*")) == []


@pytest.mark.parametrize("words", [[], ["--resume"]], ids=["new", "resumed"])
def test_what_a_killed_save_left_is_cleared_and_nothing_else(words, textures, stopped, tmp_path):
    """Of the checkpoint's files too, tens of megabytes each time; of an editor's files in the folder none."""
    out = shutil.copytree(stopped, tmp_path / "run") if words else tmp_path / "run"
    out.mkdir(exist_ok=True)
    for name in ("last.pt", "model.safetensors", "gates.safetensors", "metrics.json", "README.md", "curves.png"):
        (out / f".{name}.abc_de12").touch()
    others = {".README.md.swp", ".model.safetensors.backup2", ".config.json.~", ".mine"}
    for name in others:
        (out / name).touch()
    assert train.main(arguments(textures, out, *words)) == 0
    assert {path.name for path in out.glob(".*")} == others


def test_a_folder_that_is_refused_is_left_as_it_is(textures, stopped, tmp_path):
    out = shutil.copytree(stopped, tmp_path / "run")
    (out / ".last.pt.abc_de12").touch()
    assert train.main(arguments(textures, out)) == 2
    assert (out / ".last.pt.abc_de12").exists()


ORPHAN = """
import os, sys, time
from pathlib import Path
import train
meeting, deadline = Path(sys.argv[1]), time.monotonic() + 60
with train.Stopping() as stopping:
    (meeting / "asked before").write_text(str(stopping.asked))
    (meeting / "there").touch()
    while not stopping.asked and time.monotonic() < deadline:
        time.sleep(0.02)
    (meeting / "after").write_text(str(stopping.asked))
    (meeting / "done").touch()
"""
AGENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"


@pytest.mark.parametrize("under", ["torchrun", "a shell"])
def test_a_process_whose_torchrun_was_killed_is_asked_to_stop(under, tmp_path):
    """It went on to the run's end, out of reach; one on its own may outlive its shell, as nohup has it."""
    environment = {k: v for k, v in os.environ.items() if k != "LOCAL_RANK"}
    if under == "torchrun":
        environment["LOCAL_RANK"] = "0"
    code = ORPHAN if under == "torchrun" else ORPHAN.replace("+ 60", "+ 12")
    with subprocess.Popen([sys.executable, "-c", AGENT, code, str(tmp_path)], cwd=ROOT, env=environment) as agent:
        wait_for(tmp_path / "there")
        agent.kill()
    wait_for(tmp_path / "done")
    assert (tmp_path / "asked before").read_text() == "False"
    assert (tmp_path / "after").read_text() == str(under == "torchrun")


def wait_for(path):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def scenery(tmp_path_factory):
    """One folder of three classes of 40 large pictures, hardly two of them of one size."""
    folder = tmp_path_factory.mktemp("scenery") / "scenery"
    for k, name in enumerate(CLASSES):
        for i in range(40):
            coarse = noise(4 + 4 * k, 4 + 4 * k, 3, seed=1000 * k + i)
            picture = Image.fromarray(coarse).resize((60 + i, 80 - i % 7), Image.Resampling.NEAREST)
            path = folder / name / f"{i}.{'png' if i % 2 else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    return folder


LARGE = "--init cifar10-small --size 32 --strides 2 --policy trivial --mixup 0.2 --erase 0.2 --workers 0".split()
WIDE = ["--width", "1.0", *LARGE]  # the last --width counts


def test_a_run_on_large_pictures_stopped_in_mid_epoch_and_resumed_is_the_same_run(scenery, tmp_path):
    straight, out = tmp_path / "straight", tmp_path / "run"
    assert train.main(arguments(scenery, straight, *WIDE)) == 0
    assert interrupted(scenery, out, 6, *WIDE) == 130  # of four steps in an epoch
    assert torch.load(out / "last.pt", weights_only=True)["step"] == 6
    assert train.main(arguments(scenery, out, *WIDE, "--resume")) == 0
    assert differences(out, straight) == []
    checkpoint = mnv3.load(straight)
    known = mnv3.load("cifar10-small").preprocessing
    assert checkpoint.preprocessing == known and checkpoint.labels == CLASSES
    assert checkpoint.metrics["test"]["n"] == 24 and checkpoint.metrics["held_out"]["n"] == 24
    assert checkpoint.gates.n.tolist()[0] == 120 - 24 - 24
    assert checkpoint.metrics["recipe"]["init"] == "cifar10-small"


def test_signals_to_all_processes_of_a_run_stop_it_and_its_workers_and_save(scenery, tmp_path):
    """As Ctrl-C in a terminal does, and a scheduler's SIGTERM."""
    out = tmp_path / "run"
    words = arguments(scenery, out, *WIDE, "--workers", "1", "--batch-size", "8")
    command = [sys.executable, "-c", CHILD, str(tmp_path), *words]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as child:
        deadline = time.monotonic() + 120
        while not (tmp_path / "there").exists():
            assert child.poll() is None and time.monotonic() < deadline, child.stderr.read()
            time.sleep(0.02)
        os.killpg(child.pid, signal.SIGINT)
        os.killpg(child.pid, signal.SIGTERM)
        (tmp_path / "sent").touch()
        _, said = child.communicate(timeout=60)
    assert child.returncode == 130 and "stopped and saved at step" in said and "Traceback" not in said, said
    assert torch.load(out / "last.pt", weights_only=True)["step"] == 8


def test_a_gpu_without_memory_is_one_sentence(textures, stopped, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …")

    monkeypatch.setattr(train, "train_step", full)
    assert train.main(arguments(textures, tmp_path / "run")) == 1
    assert "or add --accumulate 2" in last_line(capsys)
    monkeypatch.undo()
    out = shutil.copytree(stopped, tmp_path / "stopped")
    monkeypatch.setattr(train, "train_step", full)
    assert train.main(arguments(textures, out, "--resume")) == 1
    said = last_line(capsys)
    assert "free it and go on with --resume, or start anew with another --out and --accumulate" in said, "recipe"


def test_a_loss_that_is_no_number_ends_in_what_can_be_done(textures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        training_run, "objective", lambda run, x, labels: (run.model(x).sum() * torch.nan, labels.float())
    )
    assert train.main(arguments(textures, tmp_path / "run")) == 1
    assert "anew with a lower --lr and another --out" in last_line(capsys), "--resume refuses another recipe"


def test_test_pictures_that_cannot_be_read_cost_no_training(textures, tmp_path, monkeypatch, capsys):
    """They are opened last, so what is wrong with them is known last."""
    moved, out = shutil.copytree(textures, tmp_path / "moved"), tmp_path / "run"
    broken = moved / "test" / CLASSES[0] / "0.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    assert train.main(arguments(moved, out, "--epochs", "1")) == 2
    assert "1 of 36 files in test/ can't be read" in (said := last_line(capsys)) and "--resume" in said
    assert "test" not in mnv3.load(out).metrics
    broken.write_bytes(whole)
    monkeypatch.setattr(train, "train_step", lambda *_: pytest.fail("a step was taken"))
    assert train.main(arguments(moved, out, "--epochs", "1", "--resume")) == 0
    assert mnv3.load(out).metrics["test"]["n"] == 36


def test_large_pictures_held_out_are_read_once_for_both_sets_of_weights(scenery, tmp_path, monkeypatch):
    read, evaluation = [], dataset.Files.evaluation

    def watched(files, index, *rest):
        read.append((len(files), len(index)))
        return evaluation(files, index, *rest)

    monkeypatch.setattr(dataset.Files, "evaluation", watched)
    assert train.main(arguments(scenery, tmp_path / "run", *WIDE, "--epochs", "1")) == 0
    # after the epoch and for the choice; gates; test
    assert read == [(24, 24), (24, 24), (72, 72), (24, 24)]


def test_going_on_with_another_number_of_processes_is_said(textures, stopped, tmp_path, capsys):
    out = shutil.copytree(stopped, tmp_path / "run")
    state = torch.load(out / "last.pt", weights_only=True)
    assert state["processes"] == 1
    torch.save({**state, "processes": 4}, out / "last.pt")
    assert train.main(arguments(textures, out, "--resume")) == 0
    assert "note: 4 processes before and 1 now" in capsys.readouterr().out


@pytest.mark.parametrize("size, accumulate, fits", [(32, 2, True), (16, 2, True), (12, 2, False), (8, 2, False)])
def test_each_process_needs_two_pictures_in_each_part(size, accumulate, fits, monkeypatch):
    monkeypatch.setattr(train, "world", lambda: (0, 4))
    recipe = Recipe(batch_size=size, accumulate=accumulate)
    if fits:
        return train.check_hardware(recipe, torch.device("cpu"))
    with pytest.raises(InputError, match=rf"`batch_size` \(={size}\) must divide by accumulate × 4 processes"):
        train.check_hardware(recipe, torch.device("cpu"))


def test_the_cores_are_shared_by_the_processes_on_a_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert cores() == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert cores() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert cores() == 1
