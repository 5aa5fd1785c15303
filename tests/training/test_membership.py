"""A run that goes on learns from, chooses by and is measured on the pictures that it began with, or says why not."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_help import CLASSES, arguments, differences, interrupted, labelled, last_line, noise, numbers, write

import mnv3
import train
from mnv3 import InputError
from mnv3.images.preprocessing import Preprocessing
from mnv3.training import dataset
from mnv3.training.dataset import hold_out, open_source
from mnv3.training.membership import Membership, each_once


@pytest.fixture(scope="module")
def stopped(textures, tmp_path_factory):
    """{kind: (data folder, folder of its run)}: each stopped in its second epoch; 'flat' is split by the run itself."""
    found = {}
    for kind, folder in (("flat", textures / "train"), ("split", textures)):
        out = tmp_path_factory.mktemp("runs") / kind
        assert interrupted(folder, out, 7) == 130
        found[kind] = folder, out
    return found


@pytest.fixture
def again(stopped, tmp_path):
    """again(kind, harm) -> (exit status, folder) of the run resumed on data to which harm(parts) was done.

    parts: {'learned' | 'held_out' | 'test': its files, by class and name}.
    """

    def resume(kind, harm):
        folder, out = stopped[kind]
        moved, copied = shutil.copytree(folder, tmp_path / "moved" / folder.name), shutil.copytree(out, tmp_path / kind)
        members = saved(copied)
        under = {"learned": "train", "held_out": "train", "test": "test"} if kind == "split" else {}
        harm({part: [moved / under.get(part, "") / name for name, _ in getattr(members, part)] for part in PARTS})
        return train.main(arguments(moved, copied, "--resume")), copied

    return resume


PARTS = ("learned", "held_out", "test")


def saved(out):
    return Membership.unpacked(torch.load(out / "last.pt", weights_only=True)["members"])


def renamed(parts):
    """Every file of the first class, the last first."""
    folder = parts["test"][0].parent
    for i, file in enumerate(sorted(folder.iterdir(), reverse=True)):
        file.rename(folder / f"new{i:02}{file.suffix}")


def exchanged(one, other):
    def harm(parts):
        a, b = (next(f for f in parts[part] if f.suffix == ".png") for part in (one, other))
        content = a.read_bytes()
        a.write_bytes(b.read_bytes())
        b.write_bytes(content)

    return harm


def added(parts):
    write(parts["learned"][0].with_name("one more.png"), noise(32, 32, 3, seed=5))


def moved_to_test(parts):
    file = parts["learned"][0]
    file.rename(parts["test"][0].with_name(f"other{file.suffix}"))


def copied_to_test(parts):
    shutil.copy(parts["held_out"][0], parts["test"][0])


HARMS = {
    "renamed": (renamed, "of 120 missing: 10/0.jpg, 10/1.png"),
    "learned and test exchanged": (exchanged("learned", "test"), "1 new or changed: 10/"),
    "held out and test exchanged": (exchanged("held_out", "test"), "1 new or changed: 10/"),
    "learned and held out exchanged": (exchanged("learned", "held_out"), "2 new or changed: 10/"),
    "one more": (added, "1 new or changed: 10/one more.png"),
}
ONLY_SPLIT = {
    "moved to test": (moved_to_test, "learned from 1 of the 37 test pictures (10/other"),
    "copied over a test picture": (copied_to_test, "learned from 1 of the 36 test pictures (10/0.jpg)"),
}
CASES = [("flat", name, *what) for name, what in HARMS.items() if "renamed" not in name]
CASES += [("split", name, *what) for name, what in {**HARMS, **ONLY_SPLIT}.items() if name != "renamed"]


@pytest.mark.parametrize("kind, name, harm, said", CASES, ids=lambda v: v.replace(" ", "-") if type(v) is str else "")
def test_a_run_is_not_resumed_where_pictures_have_changed_places(kind, name, harm, said, again, stopped, capsys):
    status, out = again(kind, harm)
    line = last_line(capsys)
    assert status == 2 and said in line and "give it the" in line and "another --out" in line
    assert (out / "last.pt").read_bytes() == (stopped[kind][1] / "last.pt").read_bytes()
    assert not (out / "model.safetensors").exists()


@pytest.mark.parametrize("kind", ["flat", "split"])
def test_renamed_pictures_are_not_dealt_out_anew(kind, again, capsys):
    """Of a folder that a run splits, 30 of 36 test pictures had been learned from: 75 % top-1 instead of 44 %."""
    status, out = again(kind, lambda parts: renamed({"test": parts["learned"]}))
    assert status == 2 and "new or changed: 10/new00" in (said := last_line(capsys)) and "missing: 10/" in said
    assert "under their names" in said and not (out / "model.safetensors").exists()


def test_test_pictures_that_nothing_was_learned_from_may_change_and_it_is_said(again, capsys):
    def harm(parts):
        parts["test"][0].unlink()
        write(parts["test"][1], noise(32, 32, 3, seed=6))

    status, out = again("split", harm)
    said = capsys.readouterr().out
    assert status == 0 and mnv3.load(out).metrics["test"]["n"] == 35
    assert (
        said.count("note: test pictures are others than before (1 new or changed: 10/1.png; 1 missing: 10/0.jpg)") == 1
    )


def test_test_pictures_that_are_exchanged_while_a_run_learns_are_not_measured(textures, tmp_path, monkeypatch, capsys):
    moved, out, store = shutil.copytree(textures, tmp_path / "moved"), tmp_path / "run", train.store

    def stored(*inputs):
        shutil.copy(moved / "train" / CLASSES[0] / "0.jpg", moved / "test" / CLASSES[0] / "0.jpg")
        return store(*inputs)

    monkeypatch.setattr(train, "store", stored)
    assert train.main(arguments(moved, out, "--epochs", "1")) == 2
    assert "learned from 1 of the 36 test pictures (10/0.jpg)" in last_line(capsys)
    assert "test" not in mnv3.load(out).metrics


def test_a_test_picture_that_is_a_training_picture_from_the_start_is_noted(textures, tmp_path, capsys):
    moved = shutil.copytree(textures, tmp_path / "moved")
    shutil.copy(moved / "train" / CLASSES[0] / "0.jpg", moved / "test" / CLASSES[0] / "0.jpg")
    assert train.main(arguments(moved, tmp_path / "run", "--epochs", "1")) == 0
    assert "note: 1 of 36 test pictures are training pictures too: 10/0.jpg" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["learned", "held_out"])
@pytest.mark.parametrize("kind", ["flat", "split"])
def test_one_picture_in_a_hundred_may_be_missing_is_named_and_stays_dropped(kind, part, again, capsys):
    lost = []

    def harm(parts):
        lost.append(f"{parts[part][3].parent.name}/{parts[part][3].name}")
        parts[part][3].unlink()

    if kind == "flat":  # of 96 training pictures none may be
        status, _ = again(kind, harm)
        assert status == 2 and f"1 of 96 missing: {lost[0]}" in last_line(capsys)
        return
    status, out = again(kind, harm)
    assert status == 0 and f"dropped 1 of 120 training pictures that can no longer be read: {lost[0]}" in (
        capsys.readouterr().out
    )
    checkpoint, members = mnv3.load(out), saved(out)
    assert [name for name, _ in members.dropped] == lost and len(members.learned) == 96
    assert checkpoint.gates.n.tolist()[0] == 96 - (part == "learned")
    assert checkpoint.metrics["held_out"]["n"] == 24 - (part == "held_out")
    assert train.main(arguments(out.parent / "moved" / "textures", out, "--resume")) == 0
    assert "dropped" not in capsys.readouterr().out


def members_of(pictures):
    """Pictures of `labelled` as if read from files."""
    names = [(f"{pictures.classes[k]}/{i}.png", f"{i:016x}") for i, k in enumerate(pictures.labels.tolist())]
    return replace(pictures, members=names)


def without(pictures, *lost):
    return pictures.subset(torch.tensor([i for i in range(len(pictures)) if i not in lost]))


def test_a_dropped_pictures_place_goes_to_one_of_its_class_and_no_other_place_changes(capsys):
    everything = members_of(labelled(200, 200))
    learned, held_out = hold_out(everything, 40, 0)
    begun = Membership(learned.members, held_out.members, [("class 0/t.png", "f" * 16)])
    lost = [numbers(learned)[7], numbers(learned)[300], numbers(held_out)[5]]
    went_on, chosen_by, kept = begun.again(without(everything, *lost), None, "run")
    before, after = numbers(learned), numbers(went_on)
    assert [i for i in range(len(before)) if before[i] != after[i]] == [7, 300]
    assert torch.equal(went_on.labels, learned.labels) and not set(lost) & set(after)
    assert numbers(chosen_by) == [n for n in numbers(held_out) if n not in lost]
    assert sorted(numbers(each_once(went_on))) == sorted(set(before) - set(lost))
    assert kept.learned == begun.learned and len(kept.dropped) == 3
    again, _, _ = kept.again(everything, None, "run")  # one that is back stays dropped
    assert numbers(again) == after
    with pytest.raises(InputError, match="2 of 400 missing"):  # with the three before that is more than 1 %
        kept.again(without(everything, *lost, before[9], before[10]), None, "run")


def test_a_class_of_which_every_picture_is_gone_is_refused():
    everything = members_of(labelled(1, 200))
    begun = Membership(everything.members[:150], everything.members[150:], [])
    with pytest.raises(InputError, match="Class 'class 0' has no picture left"):
        begun.again(without(everything, 0), None, "run")


def test_what_could_not_be_read_at_the_start_may_be_mended_and_is_still_left_out(textures, stopped, tmp_path):
    moved, out = shutil.copytree(textures, tmp_path / "moved"), tmp_path / "run"
    broken = moved / "train" / CLASSES[0] / "broken.jpg"
    broken.write_bytes(b"")
    assert interrupted(moved, out, 7) == 130 and saved(out).skipped == ["10/broken.jpg"]
    shutil.copy(textures / "train" / CLASSES[0] / "2.jpg", broken)
    assert train.main(arguments(moved, out, "--resume")) == 0
    assert mnv3.load(out).gates.n.tolist() == [96, 32, 32, 32]


def test_names_that_are_no_utf8_are_kept_in_the_state(tmp_path):
    odd = os.fsdecode(b"a/stra\xdfe.png")
    begun = Membership([(odd, "0" * 16)], [("b/\n.png", "1" * 16)], [], [odd], [(odd, "0" * 16)])
    torch.save({"members": begun.packed()}, tmp_path / "state")
    assert saved_in(tmp_path / "state") == begun


def saved_in(path):
    return Membership.unpacked(torch.load(path, weights_only=True)["members"])


def test_members_of_files_and_of_a_download_are_known_by_their_content(textures, monkeypatch):
    source = open_source(str(textures), 0)
    named = source.members("test")
    prepared = Preprocessing(32, 32, "bilinear", (0.5,) * 3, (0.25,) * 3)
    source.read("train", prepared)
    assert source.read("test", prepared).members == named and len({digest for _, digest in named}) == 36
    source.resident = False
    assert source.read("test", prepared).members == named and source.skipped == []
    images = noise(6, 4, 4, 3)
    numbered = dataset._numbered(np.concatenate([images, images[:1]]))
    assert [name for name, _ in numbered] == list("0123456") and numbered[0][1] == numbered[6][1] != numbered[1][1]


# ---- what the run began from --------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["init", "teacher"])
def test_another_checkpoint_under_the_same_name_is_refused(option, textures, straight, tmp_path, capsys):
    begun, out = shutil.copytree(straight, tmp_path / "begun"), tmp_path / "run"
    words = [f"--{option}", str(begun)]
    assert interrupted(textures, out, 7, *words) == 130
    other = mnv3.load(begun)
    kept = {name: tensor.clone() for name, tensor in other.model.state_dict().items()}
    with torch.no_grad():
        other.model.classifier[3].bias[0] += 1
    other.save(begun, half=True)
    assert train.main(arguments(textures, out, *words, "--resume")) == 2
    assert f"`{option}` (='" in (said := last_line(capsys)) and "is another checkpoint than when" in said
    other.model.load_state_dict(kept)
    replace(other, name="renamed").save(begun, half=True)
    assert train.main(arguments(textures, out, *words, "--resume")) == 0


def test_a_checkpoint_with_another_preprocessing_is_another_one(straight):
    checkpoint = mnv3.load(straight)
    other = replace(checkpoint, preprocessing=replace(checkpoint.preprocessing, resize=36))
    assert train.pin(checkpoint) != train.pin(other) and train.pin(checkpoint) == train.pin(mnv3.load(straight))
    assert train.pin(None) == ""


def test_processes_that_have_read_different_files_do_not_train_together(monkeypatch):
    """Each reads for itself; a Hub repo may have a new commit between two of them."""
    begun = Membership([("a/1.png", "0" * 16)], [], [])
    kept = {"members": begun.packed(), "preprocessing": {}, "pins": {"init": "", "teacher": "1"}}
    train.same_everywhere(kept)
    monkeypatch.setattr(
        train, "gathered", lambda part, count: [*part, part[0] | {"pins": {"init": "", "teacher": "2"}}]
    )
    with pytest.raises(InputError, match="have read different files .pins., which.*same command again"):
        train.same_everywhere(kept)


def test_a_state_of_an_older_version_goes_on_with_a_warning(textures, stopped, straight, tmp_path, capsys):
    """It kept number and classes alone. To refuse it would throw away training in which nothing need be wrong."""
    out = shutil.copytree(stopped["split"][1], tmp_path / "run")
    state = torch.load(out / "last.pt", weights_only=True)
    torch.save({k: v for k, v in state.items() if k not in ("members", "preprocessing", "pins")}, out / "last.pt")
    assert train.main(arguments(textures, out, "--resume")) == 0
    assert "last.pt is of an older version, which kept number and classes" in capsys.readouterr().out
    assert differences(out, straight) == [] and len(saved(out).learned) == 96


def test_a_state_whose_pictures_are_damaged_is_one_sentence(textures, stopped, tmp_path, capsys):
    out = shutil.copytree(stopped["split"][1], tmp_path / "run")
    state = torch.load(out / "last.pt", weights_only=True)
    torch.save(state | {"members": state["members"][:20]}, out / "last.pt")
    assert train.main(arguments(textures, out, "--resume")) == 2
    assert "last.pt is damaged" in last_line(capsys)


# ---- pictures that go while a run learns --------------------------------------------------------------------------

FILES = ["--workers", "0", "--epochs", "2"]


@pytest.fixture
def as_files(textures, tmp_path, monkeypatch):
    """A copy of the data, of which every picture is read from its file for each batch."""
    monkeypatch.setattr(dataset, "MAX_RESIDENT", 0)
    return shutil.copytree(textures, tmp_path / "moved")


@pytest.mark.parametrize("part, step", [("learned", 8), ("held_out", 8), ("held_out", 12), ("learned", 12)])
def test_a_picture_that_goes_while_a_run_learns_costs_no_step_of_it(
    part, step, as_files, tmp_path, monkeypatch, capsys
):
    """It ended with exit 2, with nothing saved since the last state, and no way on from there."""
    out, gone, learn = tmp_path / "run", [], train.learn
    with monkeypatch.context() as patch:
        true_step, held = train.train_step, []

        def kept(run, learned, held_out, *rest):
            held.append({"learned": learned, "held_out": held_out}[part])
            return learn(run, learned, held_out, *rest)

        def stepped(run, *rest):
            result = true_step(run, *rest)
            if run.step == step:
                for path in held[0].paths if part == "learned" and step == 8 else held[0].paths[:1]:
                    gone.append((path, path.read_bytes()))
                    path.unlink()
            return result

        patch.setattr(train, "learn", kept)
        patch.setattr(train, "train_step", stepped)
        assert train.main(arguments(as_files, out, *FILES)) == 2
    said, state = last_line(capsys), torch.load(out / "last.pt", weights_only=True)
    named = any(f"{path.parent.name}/{path.name}: " in said for path, _ in gone)
    assert named and "--resume" in said and "1%" in said and "put the picture back" in said
    assert state["step"] == (12 if part == "held_out" else step) and not (out / "model.safetensors").exists()
    for path, content in gone[1:]:  # all but one are put back
        path.write_bytes(content)
    assert train.main(arguments(as_files, out, *FILES, "--resume")) == 0
    lost = f"{gone[0][0].parent.name}/{gone[0][0].name}"
    assert f"dropped 1 of 120 training pictures that can no longer be read: {lost}" in capsys.readouterr().out
    checkpoint = mnv3.load(out)
    assert [row["epoch"] for row in checkpoint.metrics["log"]] == [1, 2]
    assert checkpoint.gates.n.tolist()[0] == 96 - (part == "learned")
    assert [name for name, _ in saved(out).dropped] == [lost]


def test_a_run_whose_picture_was_put_back_is_the_same_run(as_files, tmp_path, monkeypatch):
    straight, out, true_step, gone = tmp_path / "straight", tmp_path / "run", train.train_step, []
    assert train.main(arguments(as_files, straight, *FILES)) == 0

    def stepped(run, learned, *rest):
        result = true_step(run, learned, *rest)
        if run.step == 8:
            gone.extend((path, path.read_bytes()) for path in learned.paths)
            for path in learned.paths:
                path.unlink()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", stepped)
        assert train.main(arguments(as_files, out, *FILES)) == 2
    for path, content in gone:
        path.write_bytes(content)
    assert train.main(arguments(as_files, out, *FILES, "--resume")) == 0
    assert differences(out, straight) == []
