"""Trains a MobileNetV3 and writes a checkpoint folder that the app and mnv3.load open.

    python train.py --data pictures/ --recipe finetune --out runs/mine        # your own pictures, from ImageNet weights
    python train.py --data cifar10 --variant small --out runs/small           # from scratch; cifar10 is downloaded
    python train.py --data cifar10 --variant small --out runs/small --resume  # go on, exactly where it stopped
    python train.py ... --push-to-hub user/repo --private                     # and publish what came out
    torchrun --nproc-per-node 4 train.py --recipe imagenet --data imagenet/ --precision bf16 --out runs/imagenet
    python train.py --help                                                    # every choice and its default

DATA/train/<class>/* is learned from, less the pictures held out for every choice (epoch, averaged weights or
newest; DATA/val/ where it stands beside DATA/test/); DATA/test/<class>/* is measured once, at the end, on the stored
file. A folder that holds the classes themselves is split. Ctrl-C or SIGTERM saves and stops; the same command with
--resume continues the same run, in the middle of an epoch too, bit for bit on the same CPU and versions; a GPU's
kernels may add in another order each time.
How the bundled checkpoints were made is in their metrics.json ("recipe") and in README, 'Train'.
"""

from __future__ import annotations

import argparse
import csv
import errno
import hashlib
import io
import json
import os
import re
import signal
import sys
import time
import zlib
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import torch
from torch import distributed as dist
from tqdm import tqdm

from mnv3.basics import MAX_LABEL_LENGTH, cores, fits, is_utf8, replace_file
from mnv3.checkpoints import publish as checkpoints_publish
from mnv3.checkpoints.checkpoint import FILES, LOG, Checkpoint
from mnv3.checkpoints.reading import read_checkpoint
from mnv3.checkpoints.registry import load
from mnv3.distributed import fetching, first_alone, gathered, left_alone, machine, meet, only_run_in, say, world
from mnv3.errors import InputError
from mnv3.images.preprocessing import Preprocessing
from mnv3.nets.spec import final_side, multiply_adds, parameters
from mnv3.training.dataset import MAX_UNREADABLE, Files, Pictures, Source, colour_statistics, hold_out, open_source
from mnv3.training.evaluation import gate_statistics, predict, score
from mnv3.training.membership import Membership, each_once
from mnv3.training.recipe import Recipe, changed_fields, chosen_recipe, recipe_arguments
from mnv3.training.run import Run, network_spec, set_early, steps_per_epoch, train_step
from mnv3.visual.charts import confusion, confusion_matrix, curves, save_png

STATE = "last.pt"
FULL = (errno.ENOSPC, errno.EDQUOT)
LEAVE_OUT = ("put the picture back, or give the same command with --resume as it is, which leaves out up to "
             f"{MAX_UNREADABLE:.0%} of the training pictures and says which.")  # fmt: skip
PARENT = os.getppid()
SAVE_EVERY = 120  # seconds between saved states: what a pulled plug may cost
IMAGENET_COLOURS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean, std: large pictures aren't read twice for them


@dataclass(frozen=True)
class Options:
    """Where and how a run runs: nothing here changes its result."""

    out: Path
    resume: bool = False
    name: str = ""
    data_note: str = ""
    device: str = "cpu"
    workers: int = 0
    push_to_hub: str = ""
    private: bool = False
    push_every: int = 0

    def __post_init__(self) -> None:
        for name in ("workers", "push_every"):
            if getattr(self, name) < 0:
                raise InputError(f"`{name}` (={getattr(self, name)}) must be 0 or more.")
        for name in ("private", "push_every"):
            if getattr(self, name) and not self.push_to_hub:
                raise InputError(f"`{name}` (={getattr(self, name)}) needs --push-to-hub user/repo.")
        # what the checkpoint can't hold would be found out once it is trained
        for name in ("name", "data_note"):
            if (text := getattr(self, name)) and not (fits(text) and text.strip()):
                raise InputError(f"`{name}` (={text!r:.80}) must be 1 to {MAX_LABEL_LENGTH} characters of UTF-8.")
        if not is_utf8(str(self.out)):
            raise InputError(f"`out` (={str(self.out)!r:.80}) is no UTF-8: choose another --out.")


def named_folder(text: str) -> Path:
    """--out's; the empty text of a variable that isn't set would be the folder that one is in."""
    if not text:
        raise argparse.ArgumentTypeError("'' names no folder: give one, or '.'")
    return Path(text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recipe_arguments(parser)
    option = parser.add_argument
    option("--out", type=named_folder, required=True, help="folder for the checkpoint, the log and the state")
    option("--resume", action="store_true", help="go on with the run in --out")
    option("--name", default="", help="the checkpoint's name (data and variant)")
    option("--data-note", default="", help="what the data is, in words, for the model card")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    option("--device", default=found, help="cpu or cuda (a GPU if there is one)")
    option("--workers", type=int, default=cores(), help="processes that read large pictures (one per core)")
    option("--push-to-hub", default="", metavar="USER/REPO", help="publish the folder there at the end")
    option("--private", action="store_true", help="make that repo a private one")
    option("--push-every", type=int, default=0, metavar="EPOCHS", help="publish along the way too, in the background")
    given = vars(parser.parse_args(arguments))
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may be one that can't be printed, as stderr knows
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options = Options(**{f.name: given[f.name] for f in fields(Options)})
        check_apart(options.out, given.get("data", ""))
        with only_run_in(options.out):
            device = usable(options.device)
            recipe, source = first_alone(lambda: chosen_recipe(given), device)
            return train(recipe, source, options, device)
    except InputError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        saved = os.path.exists(options.out / STATE)
        remedy = f"make room and {once_more(options.out)}" if error.errno in FULL else "check --data and --out"
        reason = error.strerror or "a file can't be read or written"
        if isinstance(error.filename, str | os.PathLike):
            reason += f" ({'/'.join(Path(error.filename).parts[-2:])!r:.100})"
        left = "The state that was saved is whole" if saved else "No state was saved yet"
        print(f"train.py: {reason}: {remedy}. {left}.", file=sys.stderr)
        return 1
    except FloatingPointError as error:
        print(f"train.py: {error} Start anew with a lower --lr and another --out.", file=sys.stderr)
        return 1
    except torch.OutOfMemoryError:
        anew = "start anew with another --out and" if os.path.exists(options.out / STATE) else "add"
        print(f"train.py: the GPU has too little memory: free it and {once_more(options.out)}, or {anew} "
              "--accumulate 2 or more, a smaller --batch-size, or --precision bf16.", file=sys.stderr)  # fmt: skip
        return 1
    except RuntimeError as error:
        if not left_alone(error):
            raise
        print("train.py: another process of this run has ended: its own line says why.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train.py: stopped outside training, where there is nothing to save; a saved state is whole",
              file=sys.stderr)  # fmt: skip
        return 130
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def once_more(out: Path) -> str:
    """How a run that ended goes on: without a saved state, --resume would be refused."""
    return "go on with --resume" if os.path.exists(out / STATE) else "give the same command again"


def check_apart(out: Path, data: str) -> None:
    """Raises InputError if `out`, which isn't made yet, would be a class of the data, or curves.png one's picture."""
    folder, inside = Path(data).expanduser().resolve(), out.resolve()
    if data and folder in inside.parents:
        parts = ("train", "test", "val")
        if inside.relative_to(folder).parts[0] in parts or not (folder / "train").is_dir():
            raise InputError(f"`out` (={str(out)!r:.80}) lies among the classes of --data: choose an --out elsewhere.")


def usable(device: str) -> torch.device:
    """The device, tried before any picture is read; under torchrun this process's own, with the others joined.

    Raises InputError if it can't be used here.
    """
    try:
        if "LOCAL_RANK" in os.environ and device == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        found = torch.empty(0, device=device).device
        if found.type not in ("cpu", "cuda"):  # a Mac's has no float64, which gates would find out after the last epoch
            raise RuntimeError
    except (RuntimeError, AssertionError):
        raise InputError(f"`device` (={device!r:.40}) can't be used here: give cpu, or cuda with a GPU.") from None
    if "LOCAL_RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if found.type == "cuda" else "gloo")
    return found


def train(recipe: Recipe, source: Checkpoint | None, options: Options, device: torch.device) -> int:
    """The whole run: read, learn, choose on held-out pictures, measure once, save, publish. Returns the exit status."""
    out, first = options.out, world()[0] == 0
    check_hardware(recipe, device)
    state = start_state(recipe, out, options.resume)
    say(json.dumps(asdict(recipe)))
    before = saved_membership(state, out) if state else None
    tested = before and before.test_names
    # names only: test pictures are opened when training has ended
    data = first_alone(lambda: open_source(recipe.data, recipe.seed, tested), device)
    teacher = first_alone(lambda: teacher_for(recipe, data.classes, device), device)
    pins = {"init": pin(source), "teacher": pin(teacher)}
    if before:
        check_pins(state, pins, recipe, out)
    spec = network_spec(recipe, len(data.classes), source)
    if options.push_to_hub and first:  # after what costs nothing to check, so that no slip leaves an empty repo
        checkpoints_publish.check_write(options.push_to_hub, options.private)
    learned, held_out, preprocessing, members = read(data, recipe, source, options, before, state)
    learned, held_out = learned.to(device), held_out.to(device)
    colours = preprocessing.mean, preprocessing.std
    run = Run.new(recipe, spec, device, source, teacher, colours)
    notes(run, learned)
    members.note_twins()
    if state:
        go_on(run, state, learned, out)
    normal = tuple(torch.tensor(values, device=device) for values in colours)
    note = options.data_note or f"{data.name}, {len(learned) + len(held_out):,} pictures of {len(data.classes)} classes"
    kept = {"members": members.packed(), "preprocessing": preprocessing.to_dict(), "pins": pins}
    same_everywhere(kept)
    folder = Folder(options, preprocessing, note, data.classes, kept)
    if state and members != before:  # also where no step is left, and so no save
        save_state(run, learned, folder)
    with Stopping() as stopping:
        finished = learn(run, learned, held_out, normal, folder, stopping)
        if not finished:
            say(f"stopped and saved at step {run.step}: the same command with --resume goes on", file=sys.stderr)
            meet(device)  # torchrun ends the others as soon as one has ended, also one that is still saving
            return 130
    try:
        checkpoint = store(run, learned, held_out, normal, folder)
    except InputError as error:
        raise InputError(f"{error} All steps are saved: {LEAVE_OUT}") from None
    try:
        test = data.read("test", preprocessing, options.workers, progress("test"))
        members.measured_on(test.members, out.name)  # hours have passed
    except InputError as error:
        raise InputError(f"{error} The checkpoint is stored; the same command with --resume measures it.") from None
    measure(checkpoint, test.to(device), out)
    return publish(options) if options.push_to_hub and first else 0


def check_hardware(recipe: Recipe, device: torch.device) -> None:
    """Raises InputError for what the recipe alone can't know: no GPU for fp16, too many processes for its batches."""
    processes = world()[1]
    if recipe.precision == "fp16" and device.type != "cuda":
        raise InputError("`precision` (='fp16') needs a GPU: give --precision bf16 or fp32.")
    parts = recipe.accumulate * processes
    if recipe.batch_size % parts or recipe.batch_size < 2 * parts:  # BatchNorm has no statistics of one picture
        raise InputError(f"`batch_size` (={recipe.batch_size}) must divide by accumulate × {processes} processes, "
                         "with two pictures or more in each part.")  # fmt: skip


def notes(run: Run, learned: Pictures | Files) -> None:
    """Says what is likely to disappoint."""
    recipe, steps = run.recipe, run.recipe.epochs * steps_per_epoch(learned, run.recipe)
    if final_side(run.model.spec, recipe.size) == 1:
        say(f"note: {recipe.size} pixels end in a 1×1 map: a higher --strides learns more and shows where")
    if steps * recipe.norm_momentum < 10:
        say(f"note: {steps} steps are few for BatchNorm's --norm-momentum {recipe.norm_momentum}: use a higher one")


def go_on(run: Run, state: dict, learned: Pictures | Files, out: Path) -> None:
    """The saved run's state. Raises InputError if it learned from other pictures."""
    found = data_position(learned)
    if changed := [f"{k}: {state.get(k)} → {v}" for k, v in found.items() if state.get(k) != v]:
        raise InputError(f"The run in {out.name}/ learned from other pictures ({'; '.join(changed):.200}): give those.")
    try:
        run.restore(state)
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError):  # it lacks a part, or a part is another network's
        raise InputError(f"{out.name}/last.pt is another version's: start a new run with another --out.") from None
    say(f"resumed at step {run.step} of {run.recipe.epochs * steps_per_epoch(learned, run.recipe)}")
    if (before := state.get("processes", 1)) != (now := world()[1]):
        say(f"note: {before} processes before and {now} now draw otherwise: the same pictures in each step, but not "
            "the same run")  # fmt: skip


def saved_membership(state: dict, out: Path) -> Membership | None:
    """The saved run's pictures; None, and a warning, where an older version kept none. Raises InputError if damaged."""
    if not {"members", "preprocessing", "pins"} & state.keys():
        say(f"note: {out.name}/last.pt is of an older version, which kept number and classes of its pictures alone: if "
            "any file in --data, or what --init or --teacher name, was changed or renamed since the run began, the "
            "measured top-1 will be wrong; start a new run then")  # fmt: skip
        return None
    try:
        return Membership.unpacked(state["members"])
    except (KeyError, TypeError, ValueError, AttributeError, zlib.error):
        raise InputError(f"{out.name}/last.pt is damaged: start a new run with another --out.") from None


def pin(checkpoint: Checkpoint | None) -> str:
    """SHA-256 of all that decides a checkpoint's answers; '' for none."""
    if checkpoint is None:
        return ""
    config = {k: v for k, v in checkpoint.config.items() if k not in ("name", "data")}
    return hashlib.sha256((json.dumps(config, sort_keys=True) + checkpoint.weights_digest).encode()).hexdigest()


def check_pins(state: dict, pins: dict, recipe: Recipe, out: Path) -> None:
    """Raises InputError if --init or --teacher name another checkpoint than when the run began."""
    saved = state["pins"] if isinstance(state.get("pins"), dict) else {}
    for option, digest in pins.items():
        if saved.get(option) != digest:
            raise InputError(
                f"`{option}` (={getattr(recipe, option)!r:.80}) is another checkpoint than when the run in {out.name}/ "
                "began: put that one back, or start a new run with another --out."
            )


def same_everywhere(kept: dict) -> None:
    """Raises InputError if files or a Hub repo were changed while this run's processes read them, each for itself."""
    members = hashlib.sha256(kept["members"].numpy().tobytes()).hexdigest()
    found = gathered([{**kept, "members": members}], world()[1])
    if changed := [name for name in found[0] if any(other[name] != found[0][name] for other in found)]:
        raise InputError(f"The processes of this run have read different files ({changed[0]}), which were changed "
                         "meanwhile: give the same command again.")  # fmt: skip


def progress(split: str):
    return lambda files: tqdm(files, f"reading {split}", leave=False, disable=world()[0] > 0)


def read(data: Source, recipe: Recipe, source: Checkpoint | None, options: Options, before=None, state=None):
    """(pictures to learn from, pictures held out, preprocessing, Membership); a run that goes on has those of `before`.

    Small pictures have the mean and std of their own.
    """
    workers, run = options.workers, options.out.name
    preprocessing = Preprocessing.from_dict(state.get("preprocessing")) if before else as_prepared(recipe, source)
    learned, held_out = data.read("train", preprocessing, workers, progress("train")), None
    if isinstance(learned, Pictures) and not before:
        colours = preprocessing.mean, preprocessing.std
        if recipe.standardise and not source:
            colours = colour_statistics(learned)
            if min(colours[1]) < 0.001:  # less than Preprocessing takes
                raise InputError("The training pictures have one value throughout in a colour: give --no-standardise.")
        preprocessing = Preprocessing(recipe.size, recipe.size, preprocessing.interpolation, *colours)
    if "validation" in data.splits:
        held_out = data.read("validation", preprocessing, workers, progress("validation"))
    if before:
        learned, held_out, before = before.again(learned, held_out, run)
        return learned, held_out, preprocessing, before.measured_on(data.members("test"), run)
    if held_out is None:
        learned, held_out = hold_out(learned, recipe.holdout, recipe.seed)
    members = Membership(learned.members, held_out.members, data.members("test"), data.skipped)
    return learned, held_out, preprocessing, members


def teacher_for(recipe: Recipe, classes: tuple[str, ...], device: torch.device) -> Checkpoint | None:
    """The checkpoint to learn from. Raises InputError if it tells apart other classes than the data has."""
    if not recipe.teacher:
        return None
    teacher = load(recipe.teacher, fetching(recipe.teacher))
    if teacher.labels != classes:
        raise InputError(f"`teacher` (={recipe.teacher!r:.80}) knows other classes than the data: choose one that was "
                         f"trained on {', '.join(classes)[:80]}.")  # fmt: skip
    teacher.model.to(device)
    return teacher


def as_prepared(recipe: Recipe, source: Checkpoint | None) -> Preprocessing:
    """How large pictures are prepared: as --init's checkpoint has them, or resized to 8/7 of the size and cropped."""
    if source and source.preprocessing.crop == recipe.size:
        return source.preprocessing
    mean, std = IMAGENET_COLOURS if recipe.standardise else ((0.0,) * 3, (1.0,) * 3)
    interpolation = "bilinear"
    if source:
        mean, std, interpolation = (getattr(source.preprocessing, k) for k in ("mean", "std", "interpolation"))
    return Preprocessing(min(1024, round(recipe.size * 8 / 7)), recipe.size, interpolation, mean, std)


@dataclass(frozen=True)
class Folder:
    """What goes into the checkpoint folder beside what was learned."""

    options: Options
    preprocessing: Preprocessing
    note: str
    classes: tuple[str, ...]
    kept: dict = field(default_factory=dict)  # what each saved state holds beside the run's

    def checkpoint(self, run: Run, model, gates=None, metrics=None) -> Checkpoint:
        name = self.options.name or f"{run.recipe.folder_name}-{model.spec.variant}"
        return Checkpoint(name, model, self.classes, self.preprocessing, self.note, gates, metrics or {})


def store(run: Run, learned: Pictures | Files, held_out: Pictures | Files, normal, folder: Folder) -> Checkpoint:
    """Chooses averaged or newest weights on the held-out pictures and writes the folder, weights as fp16."""
    models = {"averaged": run.average.model, "newest": run.model.eval()}
    for model in models.values():
        set_early(model, False)
    logits = answers(models.values(), held_out, normal)
    scores = {name: score(z, held_out.labels) for name, z in zip(models, logits, strict=True)}
    best = max(scores, key=lambda name: scores[name]["top1"])
    device, gates = normal[0].device, None
    if models[best].gated:
        gates = gate_statistics(models[best], each_once(learned), *normal, "training pictures, without those held out")
    minutes = sum(row["seconds"] for row in run.log) / 60
    spec, side = run.model.spec, run.recipe.size
    metrics = {
        "weights": best, "held_out": scores[best], "recipe": published_recipe(run.recipe, folder.note),
        "parameters": parameters(spec), "multiply_adds": multiply_adds(spec, side),
        "machine": machine(device) | {"minutes": round(minutes, 1)}, "log": run.log,
    }  # fmt: skip
    checkpoint = folder.checkpoint(run, models[best].cpu(), gates, metrics)
    if world()[0] == 0:
        checkpoint.save(folder.options.out, half=True)
        save_png(curves(run.log), folder.options.out / "curves.png")
    meet(device)  # the others read the folder once it is there
    return checkpoint


def published_recipe(recipe: Recipe, note: str) -> dict:
    """The recipe without the host's paths: the data in words, a folder's name for a folder."""
    named = {k: getattr(recipe, k) for k in ("init", "teacher")}
    folders = {k: Path(v).expanduser() for k, v in named.items() if v and (v[0] in "./~\\" or os.path.isdir(v))}
    short = {k: folder.resolve().name for k, folder in folders.items()}
    return asdict(recipe) | short | {"data": note}


def measure(checkpoint: Checkpoint, test: Pictures | Files, out: Path) -> None:
    """The test pictures' one use: top-1 and the rest of the stored file, read back, written to metrics.json."""
    stored = read_checkpoint(out)
    device = test.labels.device
    normal = [torch.tensor(v, device=device) for v in (stored.preprocessing.mean, stored.preprocessing.std)]
    logits = predict(stored.model.to(device), test, *normal)
    result = score(logits, test.labels)
    if world()[0] == 0:
        matrix = confusion_matrix(logits.argmax(1).cpu().numpy(), test.labels.cpu().numpy(), logits.shape[1])
        if picture := confusion(matrix, checkpoint.labels):
            save_png(picture, out / "confusion.png")
        # the network that was measured, whatever has become of the folder since it was stored
        replace(stored, metrics={**checkpoint.metrics, "test": result}).save(out, half=True)
        print(f"{checkpoint.name}: {result['top1']:.2%} top-1 on {result['n']:,} test pictures, in {out}/")


def publish(options: Options) -> int:
    """The finished folder to the Hub; it lies in --out whatever comes of it. Returns the exit status."""
    try:
        print(f"published: {checkpoints_publish.push(options.out, options.push_to_hub, options.private)}")
        return 0
    except InputError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1


def write_state(state: dict, path: str) -> None:
    """torch.save by way of memory: of a full disk it makes an error of its own that says nothing of one."""
    torch.save(state, whole := io.BytesIO())
    Path(path).write_bytes(whole.getbuffer())


def start_state(recipe: Recipe, out: Path, resume: bool) -> dict | None:
    """What the run starts from, in this order: 1. the state in `out`, if asked to resume; 2. --init; 3. scratch.

    A folder with a state and no --resume is refused, so that no run is overwritten by a slip; so is one with anything
    else that a checkpoint would replace, such as another README.md, and a changed recipe.
    """
    path = out / STATE
    if not resume:
        if path.exists():
            raise InputError(f"{out.name}/ already holds a run: add --resume to go on, or choose another --out.")
        if taken := [name for name in FILES if name != LOG and (out / name).exists()]:
            held = f"{out.resolve().name}/ holds another {taken[0]}"
            raise InputError(f"{held}, which would be lost: choose another --out.")
        clear_temporaries(out)
        return None
    if not path.exists():
        raise InputError(f"{out.name}/ holds no run to resume: leave --resume away to start one.")
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(state["recipe"], dict):
            raise TypeError
    except Exception:  # torch.load raises what pickle, zipfile or the file system do
        raise InputError(f"{out.name}/last.pt is damaged: start a new run with another --out.") from None
    if changed := changed_fields(state["recipe"], recipe):
        raise InputError(f"The run in {out.name}/ has another recipe ({'; '.join(changed)}): give the same values.")
    clear_temporaries(out)
    return state


def clear_temporaries(out: Path) -> None:
    """Removes what a process left that was killed while it saved, by the names that replace_file gives, and no others.

    An editor's .README.md.swp in the same folder is somebody's.
    """
    names = "|".join(re.escape(name) for name in (STATE, *checkpoints_publish.PUBLISHED))
    for left in out.iterdir() if world()[0] == 0 else ():
        if re.fullmatch(rf"\.({names})\.[a-z0-9_]{{8}}", left.name):
            left.unlink(missing_ok=True)


def orphaned() -> bool:
    """Whether torchrun, which started this process, has ended; on its own a run may outlive the shell it began in."""
    return "LOCAL_RANK" in os.environ and os.getppid() != PARENT


class Stopping:
    """Turns Ctrl-C and SIGTERM into a flag that is looked at between steps, so that a state is saved whole.

    Where torchrun is killed (SIGKILL) it can tell its processes nothing: they see that their parent is another.
    """

    asked = property(lambda self: self.signalled or orphaned())

    def __enter__(self) -> Stopping:
        self.signalled = False
        self.before = {s: signal.signal(s, self.ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def ask(self, *_) -> None:
        self.signalled = True

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def learn(run: Run, learned, held_out, normal, folder: Folder, stopping: Stopping) -> bool:
    """Steps until the recipe's end, or until asked to stop; True at the end. Saves every SAVE_EVERY seconds.

    Raises InputError for a picture that can no longer be read, once the state before it is saved.
    """
    steps, options = steps_per_epoch(learned, run.recipe), folder.options
    total, saved, batch, first = run.recipe.epochs * steps, time.monotonic(), run.recipe.batch_size, world()[0] == 0
    pusher = None
    if options.push_to_hub and options.push_every:
        pusher = checkpoints_publish.Pusher(options.push_to_hub, options.private)
    count = {"total": total * batch, "initial": run.step * batch}
    with tqdm(**count, unit="img", unit_scale=True, mininterval=2, disable=not first) as bar:
        while run.step < total or unmeasured(run, steps):
            stop = stopping.asked
            try:
                if not unmeasured(run, steps):
                    stop = timed_step(run, learned, normal, stopping)
                    bar.update(batch)
                    if run.step % 20 == 0:
                        show(bar, run, steps)
                ended = unmeasured(run, steps)
                due = stop or ended or (first and time.monotonic() - saved > SAVE_EVERY)
                if due:
                    run.check()
                if ended:
                    run.log.append(epoch_row(run, held_out, normal))
            except InputError as error:  # a file has gone since it was checked; nothing of this step is in the weights
                run.check()
                save_state(run, learned, folder)
                meet(normal[0].device)
                raise InputError(f"{error} The state is saved at step {run.step}: {LEAVE_OUT}") from None
            if ended:
                run.losses, run.top1s, run.seconds = [], [], 0.0
                if first:
                    bar.write(" · ".join(f"{k} {v}" for k, v in run.log[-1].items()))
                    write_log(run.log, options.out)
            if due and first:
                save_state(run, learned, folder)
                saved = time.monotonic()
            if pusher and first and ended and len(run.log) % options.push_every == 0 and run.step < total:
                push_on_the_way(run, folder, pusher)
            if stop:
                break
    if pusher and run.step == total:  # who is told to stop has seconds, and the state is saved
        pusher.wait()
    return run.step == total


def unmeasured(run: Run, steps: int) -> bool:
    """Whether an epoch has ended whose row is not in the log: held-out pictures may have failed it."""
    return len(run.log) < run.step // steps


def timed_step(run: Run, learned, normal, stopping: Stopping) -> bool:
    """One step, its loss, top-1 and seconds kept; whether to stop after it."""
    began = time.monotonic()
    loss, top1, any_stop = train_step(run, learned, *normal, stopping.asked)
    run.losses.append(loss)
    run.top1s.append(top1)
    run.seconds += time.monotonic() - began
    # all processes must leave at the same step, so they heed what they told each other in it
    return any_stop if world()[1] > 1 else stopping.asked


def save_state(run: Run, learned: Pictures | Files, folder: Folder) -> None:
    """last.pt, by the first process."""
    if world()[0] == 0:
        state = {**run.state(), **data_position(learned), **folder.kept, "processes": world()[1]}
        replace_file(folder.options.out / STATE, partial(write_state, state))


def show(bar: tqdm, run: Run, steps: int) -> None:
    loss, top1 = (sum(recent) / len(recent) for recent in (run.losses[-20:], run.top1s[-20:]))
    bar.set_postfix(epoch=run.step // steps + 1, loss=f"{loss:.3f}", top1=f"{top1:.1%}")


def answers(models, held_out: Pictures | Files, normal) -> tuple:
    """Each model's logits, the pictures read once for all of them."""
    together = predict(lambda x: torch.cat([model(x).float() for model in models], 1), held_out, *normal)
    return together.chunk(len(models), 1)


def push_on_the_way(run: Run, folder: Folder, pusher: checkpoints_publish.Pusher) -> None:
    """The averaged weights so far as a checkpoint in --out, and to the Hub in the background."""
    metrics = {"recipe": published_recipe(run.recipe, folder.note), "log": run.log}
    folder.checkpoint(run, run.average.model, metrics=metrics).save(folder.options.out, half=True)
    pusher.start(folder.options.out)


def data_position(learned: Pictures | Files) -> dict:
    """What a resumed run must find again, wherever --data lies by then, since its order and batches follow from it."""
    return {"classes": list(learned.classes), "pictures": len(learned)}


def epoch_row(run: Run, held_out: Pictures, normal) -> dict:
    """One line of the log: training loss and top-1, held-out top-1 of the newest and of the averaged weights."""
    set_early(run.average.model, len(run.log) < run.recipe.early_epochs)  # as the epoch that just ended ran
    logits = answers((run.model.eval(), run.average.model), held_out, normal)
    if not all(bool(torch.isfinite(z).all()) for z in logits):
        raise FloatingPointError(f"The answers to held-out pictures are not finite after step {run.step}.")
    newest, average = (score(z, held_out.labels) for z in logits)
    return {
        "epoch": len(run.log) + 1, "lr": round(run.optimiser.param_groups[0]["lr"], 5),
        "train_loss": round(sum(run.losses) / len(run.losses), 4),
        "train_top1": round(sum(run.top1s) / len(run.top1s), 4),
        "heldout_top1": newest["top1"], "heldout_top1_average": average["top1"], "seconds": round(run.seconds, 1),
    }  # fmt: skip


def write_log(log: list[dict], out: Path) -> None:
    with open(out / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, log[0])
        writer.writeheader()
        writer.writerows(log)


if __name__ == "__main__":
    sys.exit(main())
