"""What training reads: folders of pictures, what is held out, and how pictures are augmented."""

import errno
import http.client
import math
import multiprocessing
import os
import re
import shutil
import signal
import urllib.error
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_help import MIDDLE, grown, labelled, noise, numbers, read_folder, write

from mnv3 import InputError
from mnv3.basics import generator
from mnv3.images.decode import open_picture
from mnv3.images.folders import find_classes
from mnv3.images.preprocessing import Preprocessing
from mnv3.training import dataset
from mnv3.training.augment import augment, normalise
from mnv3.training.dataset import Files, Pictures, colour_statistics, hold_out, open_source
from mnv3.training.recipe import Recipe

# ---- pictures held out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_class, count", [((50, 50), 20), ((500, 300, 200), 100), ((7, 90, 3), 33), ((5, 5), 8)])
def test_held_out_pictures_are_each_classs_share_and_none_is_learned_from(per_class, count):
    everything = labelled(*per_class)
    learned, held_out = hold_out(everything, count, seed=1)
    assert len(held_out) == count
    assert sorted(numbers(learned) + numbers(held_out)) == list(range(len(everything)))
    for k, size in enumerate(per_class):
        share = count * size / len(everything)
        assert abs(int((held_out.labels == k).sum()) - share) <= 1
    for part in (learned, held_out):  # pictures and labels stay together
        assert torch.equal(part.labels, everything.labels[numbers(part)])


def test_what_is_held_out_is_decided_by_the_seed_alone():
    everything = labelled(300, 300)
    first = numbers(hold_out(everything, 60, seed=1)[1])
    torch.manual_seed(12345)
    np.random.seed(54321)
    assert numbers(hold_out(everything, 60, seed=1)[1]) == first
    assert numbers(hold_out(everything, 60, seed=2)[1]) != first


@pytest.mark.parametrize("count", [0, -1, 20, 21, 0.99])
def test_holding_out_nothing_or_everything_is_refused(count):
    with pytest.raises(InputError, match=rf"`holdout` \(={count}\)"):
        hold_out(labelled(10, 10), count, seed=0)


def test_the_last_picture_of_a_class_is_not_held_out():
    """Places are spread from the first to the last in a list sorted by class: these two are rare."""
    learned, held_out = hold_out(labelled(1, 20, 2), 4, seed=0)
    assert learned.labels.bincount().tolist()[0] == 1 and held_out.labels.tolist().count(0) == 0
    assert len(learned) + len(held_out) == 23 and len(held_out) == 3
    learned, held_out = hold_out(labelled(5, 5), 9, seed=1)
    assert sorted(learned.labels.tolist()) == [0, 1] and len(held_out) == 8
    with pytest.raises(InputError, match="classes of one picture"):
        hold_out(labelled(1, 1, 1), 2, seed=0)


# ---- augmentation and normalisation -------------------------------------------------------------------------------


def possible(picture, shift):
    """{bytes: (mirrored, down, right)} for every way in which `augment` may show a picture (3, H, W)."""
    _, height, width = picture.shape
    ways = {}
    for mirrored in (False, True):
        flipped = picture[:, :, ::-1] if mirrored else picture
        padded = np.pad(flipped, ((0, 0), (shift, shift), (shift, shift)), mode="reflect")
        for down in range(2 * shift + 1):
            for right in range(2 * shift + 1):
                ways[padded[:, down : down + height, right : right + width].tobytes()] = (mirrored, down, right)
    return ways


@pytest.mark.parametrize("shift", [0, 2])
def test_augmented_pictures_are_mirrored_and_moved_and_nothing_else(shift):
    pictures = noise(400, 3, 7, 9)
    augmented = augment(torch.from_numpy(pictures), generator(3), shift)
    assert augmented.dtype == torch.uint8 and augmented.shape == pictures.shape
    seen = [
        possible(before, shift)[np.ascontiguousarray(after).tobytes()]  # a KeyError: no mirrored and moved picture
        for before, after in zip(pictures, augmented.numpy(), strict=True)
    ]
    moves = range(2 * shift + 1)
    assert {way[1] for way in seen} == set(moves) and {way[2] for way in seen} == set(moves)
    assert 150 < sum(mirrored for mirrored, _, _ in seen) < 250


def test_augmentation_is_a_function_of_the_generator():
    pictures = torch.from_numpy(noise(32, 3, 8, 8))
    first = augment(pictures, generator(0, 2, 7), 2)
    torch.manual_seed(99)
    assert torch.equal(augment(pictures, generator(0, 2, 7), 2), first)
    assert not torch.equal(augment(pictures, generator(0, 2, 8), 2), first)
    assert torch.equal(pictures, torch.from_numpy(noise(32, 3, 8, 8))), "the pictures kept for training were changed"


def test_generators_differ_with_every_one_of_their_numbers():
    draws = {torch.rand((), generator=generator(a, b, c)).item() for a in (0, 1) for b in (0, 1) for c in (0, 1)}
    assert len(draws) == 8


def test_normalised_values_by_hand():
    picture = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    out = normalise(picture, torch.tensor([0.5, 0.4, 0.2]), torch.tensor([0.5, 0.1, 0.4]))
    assert out.dtype == torch.float32 and out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out[1, :, 2, 3], torch.tensor([-1.0, -2.0, 2.0]))


def test_training_and_the_app_normalise_alike():
    mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    picture = noise(32, 32, 3)
    served = Preprocessing(32, 32, "bilinear", mean, std)(open_picture(picture))
    resident = torch.from_numpy(picture).permute(2, 0, 1)[None]
    torch.testing.assert_close(normalise(resident, torch.tensor(mean), torch.tensor(std))[0], served)


def test_colour_statistics():
    images = torch.zeros(100, 3, 8, 8, dtype=torch.uint8)
    images[:50, 0], images[:, 1], images[:25, 2] = 255, 51, 204
    mean, std = colour_statistics(Pictures(images, torch.zeros(100), ("a",)))
    assert mean == pytest.approx((0.5, 0.2, 0.2), abs=1e-4)
    assert std == pytest.approx((0.5, 0, 0.8 * math.sqrt(0.25 * 0.75)), abs=1e-3)
    assert all(type(value) is float for value in mean + std)  # for config.json


# ---- folders of pictures ------------------------------------------------------------------------------------------


def test_classes_stand_in_the_order_of_their_names(tmp_path):
    for name, grey in (("20", 200), ("1", 10), ("2", 20), ("10", 100)):
        write(tmp_path / name / "x.png", np.full((8, 8, 3), grey, np.uint8))
    read = read_folder(tmp_path, 8)
    assert read.classes == ("1", "10", "2", "20")
    assert read.labels.tolist() == [0, 1, 2, 3]
    assert read.images.dtype == torch.uint8 and read.images.shape == (4, 3, 8, 8)
    assert read.images[:, 0, 0, 0].tolist() == [10, 100, 20, 200]


def test_another_split_takes_its_classes_from_the_training_split(tmp_path):
    learned = read_folder(grown(tmp_path / "train", "a", "b", "c"), 8)
    tested = read_folder(grown(tmp_path / "test", "b", "c", count=2), 8, learned.classes)
    assert tested.classes == ("a", "b", "c")
    assert tested.labels.tolist() == [1, 1, 2, 2]


def test_a_class_that_training_lacks_is_refused_by_name(tmp_path):
    learned = read_folder(grown(tmp_path / "train", "a", "b", "c"), 8)
    with pytest.raises(InputError, match="test/ has a class 'd'"):
        read_folder(grown(tmp_path / "test", "b", "c", "d"), 8, learned.classes)


def test_hidden_folders_and_files_are_passed_over(tmp_path):
    grown(tmp_path, "a", "b", ".ipynb_checkpoints", "__MACOSX")
    (tmp_path / ".git").mkdir()
    (tmp_path / "notes.txt").write_text("not a class")
    (tmp_path / "a" / "._0.png").write_bytes(b"\0\5\26\7" + bytes(78))
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    read = read_folder(tmp_path, 8)
    assert read.classes == ("a", "b") and read.labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("name", [b"stra\xdfe", b"x" * 201], ids=["Latin-1", "long"])
def test_a_name_that_no_checkpoint_could_keep_is_refused_before_training_not_after(name, tmp_path):
    """An archive of an older system unpacks to names that are no UTF-8: saving would fail, after the last epoch."""
    for folder in (b"cat", name):
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), folder)))
        path.mkdir()
        (path / "1.png").write_bytes(b"")
    with pytest.raises(InputError, match="rename it"):
        find_classes(tmp_path)


def test_an_empty_class_is_named(tmp_path):
    grown(tmp_path, "a", "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="/empty has no pictures"):
        read_folder(tmp_path, 8)
    (tmp_path / "empty" / "labels.txt").write_text("none")
    with pytest.raises(InputError, match="/empty has no pictures"):
        read_folder(tmp_path, 8)


def test_pictures_a_folder_too_deep_are_called_so(tmp_path):
    grown(tmp_path / "pets" / "photos", "cat", "dog")
    with pytest.raises(InputError, match="pets/photos has no pictures: .* or give --data that"):
        find_classes(tmp_path / "pets")


def test_what_a_class_has_beside_pictures_is_told(tmp_path, capsys):
    """A phone's .heic and a folder below were left out without a word."""
    grown(tmp_path / "pets", "cat", "dog")
    grown(tmp_path / "pets" / "cat", "more")
    (tmp_path / "pets" / "dog" / "1.heic").touch()
    (tmp_path / "pets" / "dog" / ".DS_Store").touch()
    assert {name: len(files) for name, files in find_classes(tmp_path / "pets").items()} == {"cat": 3, "dog": 3}
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("passed over 2 in") and line.endswith("pets/cat/more, …")


@pytest.mark.parametrize("classes", [(), ("only",)])
def test_fewer_than_two_classes_are_refused(classes, tmp_path):
    with pytest.raises(InputError, match=f"has {len(classes) or 'no'} class.* two or more, .*/<class>/"):
        read_folder(grown(tmp_path, *classes), 8)


def test_a_missing_train_folder_is_said_without_the_hosts_paths(tmp_path):
    with pytest.raises(InputError, match="no folder train/.*train/ and test/") as caught:
        read_folder(tmp_path / "train", 8)
    assert str(tmp_path) not in str(caught.value)


def test_a_picture_of_another_size_is_named_with_its_size(tmp_path):
    grown(tmp_path, "a", "b")
    write(tmp_path / "b" / "wide.png", noise(8, 9, 3))
    with pytest.raises(InputError, match=r"b/wide\.png is 9×8: this run needs 8×8"):
        read_folder(tmp_path, 8)


def test_unreadable_files_are_named_and_skipped_up_to_the_limit(tmp_path, capsys):
    grown(tmp_path, "a", "b", count=60)
    (tmp_path / "a" / "07.jpg").write_bytes(b"")
    read = read_folder(tmp_path, 8)  # one in 121
    assert len(read) == 120 and read.labels.bincount().tolist() == [60, 60]
    assert torch.equal(read.images[-1], torch.from_numpy(noise(8, 8, 3, seed=sum(b"9.png"))).permute(2, 0, 1))
    assert "skipped a/07.jpg: " in capsys.readouterr().out
    (tmp_path / "b" / "text.png").write_text("not a picture")
    with pytest.raises(InputError, match="2 of 122 files"):
        read_folder(tmp_path, 8)
    assert "skipped b/text.png: " in capsys.readouterr().out


def test_a_class_with_no_readable_picture_is_named(tmp_path):
    grown(tmp_path, "a", "b", count=100)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "broken.png").write_bytes(b"")
    with pytest.raises(InputError, match="/c has no"):
        read_folder(tmp_path, 8)


def test_16_bit_pictures_are_scaled_not_white(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        sixteen = np.random.default_rng(seed).integers(0, 65536, (8, 8), dtype=np.uint16)
        write(tmp_path / name / "16.png", sixteen)
        write(tmp_path / name / "8.png", (sixteen >> 8).astype(np.uint8))
    images = read_folder(tmp_path, 8).images.float()
    assert images.flatten(1).std(1).min() > 50
    assert (images[0::2] - images[1::2]).abs().max() <= 1


def test_pictures_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = noise(8, 8, 3)
    write(tmp_path / "a" / "turned.png", np.rot90(upright).copy(), exif=exif)
    write(tmp_path / "b" / "upright.png", upright)
    turned, plain = read_folder(tmp_path, 8).images
    assert torch.equal(turned, plain)


# ---- what --data names --------------------------------------------------------------------------------------------


def names(found):
    return {name: [path.name for path in files] for name, files in found.items()}


def test_a_single_folder_is_split_by_the_seed_into_parts_that_share_nothing(tmp_path):
    grown(tmp_path / "pets", "cat", "dog", count=10)
    grown(tmp_path / "pets", "hen", count=2)
    source = open_source(str(tmp_path / "pets"), seed=1)
    train, test = (names(source.splits[split]) for split in ("train", "test"))
    assert (source.name, source.classes) == ("pets", ("cat", "dog", "hen"))
    assert {name: len(files) for name, files in test.items()} == {"cat": 2, "dog": 2, "hen": 1}  # a fifth, one at least
    for name, files in names(find_classes(tmp_path / "pets")).items():
        assert sorted(train[name] + test[name]) == files
    torch.manual_seed(99)
    again, other = (open_source(str(tmp_path / "pets"), seed).splits for seed in (1, 2))
    assert names(again["test"]) == test and names(again["train"]) == train and names(other["test"]) != test


def test_a_class_of_one_picture_cannot_be_split(tmp_path):
    grown(tmp_path, "cat", "dog")
    grown(tmp_path, "hen", count=1)
    with pytest.raises(InputError, match="'hen' has 1 picture"):
        open_source(str(tmp_path), 0)


@pytest.mark.parametrize(
    "there, roles", [
        ("train test", {"train": "train", "test": "test"}),
        ("train val", {"train": "train", "test": "val"}),
        ("train val test", {"train": "train", "test": "test", "validation": "val"}),
    ],
)  # fmt: skip
def test_the_test_folder_is_for_testing_and_val_for_choices_or_for_testing_where_there_is_none(there, roles, tmp_path):
    for folder in there.split():
        grown(tmp_path / folder, "a", "b")
    splits = open_source(str(tmp_path), 0).splits
    assert {role: found["a"][0].parent.parent.name for role, found in splits.items()} == roles


@pytest.mark.parametrize(
    "there, said", [
        ("train", "no folder test/"), ("test", "no folder train/"), ("val test", "no folder train/"),
        ("train empty", "test/ has no class folder"), ("train loose", "test/ has no class folder"),
    ],
)  # fmt: skip
def test_a_missing_or_empty_split_is_a_sentence_before_any_picture_is_opened(there, said, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "open_picture", lambda path: pytest.fail("a picture was opened"))
    for folder in set(there.split()) - {"empty", "loose"}:
        grown(tmp_path / folder, "a", "b")
    if "empty" in there or "loose" in there:
        (tmp_path / "test").mkdir()
    if "loose" in there:
        write(tmp_path / "test" / "1.png")
    with pytest.raises(InputError, match=said):
        open_source(str(tmp_path), 0)


def test_no_data_at_all_is_a_sentence_and_not_the_folder_that_one_stands_in(tmp_path, monkeypatch):
    monkeypatch.chdir(grown(tmp_path, "a", "b"))
    assert open_source(".", 0).classes == ("a", "b")
    with pytest.raises(InputError, match=r"`data` \(=''\) is missing"):
        open_source("", 0)


class Downloaded:
    """What torchvision's CIFAR10 and CIFAR100 are, after a download that isn't made here."""

    asked = []

    def __init__(self, root, train, download):
        assert download and root.name == "datasets"
        self.asked.append((type(self).__name__, train))
        count = 30 if train else 10
        self.data, self.targets = noise(count, 32, 32, 3, seed=count), [i % 10 for i in range(count)]
        self.classes = [f"kind {k}" for k in range(10)]


@pytest.mark.parametrize("name, kind", [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar_is_downloaded_by_name_where_no_folder_is_called_so(name, kind, tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, kind, type(kind, (Downloaded,), {"asked": []}))
    source, prepared = open_source(name, 0), Preprocessing(32, 32, "bilinear", (0,) * 3, (1,) * 3)
    train, test = source.read("train", prepared), source.read("test", prepared)
    assert getattr(datasets, kind).asked == [(kind, True), (kind, True), (kind, False)]
    classes = tuple(f"kind {k}" for k in range(10))  # a teacher's labels are a tuple, and must be equal to them
    assert (source.name, source.classes, train.classes, len(train), len(test)) == (name, classes, classes, 30, 10)
    assert torch.equal(train.images[7], torch.from_numpy(noise(30, 32, 32, 3, seed=30)[7]).permute(2, 0, 1))
    assert train.labels[:12].tolist() == [*range(10), 0, 1]
    with pytest.raises(InputError, match=r"`size` \(=64\) doesn't fit cifar"):
        source.read("train", replace(prepared, resize=64, crop=64))
    grown(tmp_path / name, "a", "b")
    assert open_source(name, 0).classes == ("a", "b")


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), ConnectionResetError("reset"), http.client.IncompleteRead(b"half"),
              TimeoutError(), RuntimeError("File not found or corrupted.")],
)  # fmt: skip
def test_a_download_that_fails_is_one_sentence(error, monkeypatch):
    from torchvision import datasets

    def failing(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "CIFAR10", failing)
    with pytest.raises(InputError, match="cifar10 could not be fetched: check the network") as caught:
        open_source("cifar10", 0)
    assert caught.value.__suppress_context__


def test_a_disk_that_the_download_fills_is_not_put_down_to_the_network(monkeypatch):
    from torchvision import datasets

    def failing(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(datasets, "CIFAR10", failing)
    with pytest.raises(OSError, match="No space left"):
        open_source("cifar10", 0)


# ---- large pictures -----------------------------------------------------------------------------------------------

PREPARED = Preprocessing(36, 32, "bicubic", (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
LARGE = Recipe(size=32, batch_size=4, epochs=6, early_epochs=0, policy="trivial")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """train/ with twelve pictures of two classes, no two of them of one size."""
    folder = tmp_path_factory.mktemp("large")
    for i in range(12):
        write(folder / "train" / "ab"[i % 2] / f"{i}.png", noise(40 + 3 * i, 60 - 2 * i, 3, seed=i))
    grown(folder / "test", "a", "b", count=1)
    return folder


def opened(folder, workers=0):
    files = open_source(str(folder), 0).read("train", PREPARED, workers)
    assert isinstance(files, Files)
    return files


def private_memory(process):
    """MB that no other process has a part in."""
    (line,) = re.findall(r"Private_Dirty: +(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text())
    return int(line) / 1024


def test_ctrl_c_as_the_first_worker_is_started_ends_none(large):
    """It comes to the server too, which needs seconds for its imports: a run ended in 'Connection refused'."""
    server, helped = dataset.forkserver._forkserver, opened(large, workers=1)
    server._stop()
    dataset._fork_server()
    started = server._forkserver_pid
    os.kill(started, signal.SIGINT)
    helped.training_batch(LARGE, 0)
    worker = helped._ahead[1]._workers[0]
    os.kill(worker.pid, signal.SIGINT)
    for step in range(1, 6):  # more than a worker has ready
        helped.training_batch(LARGE, step)
    assert server._forkserver_pid == started and helped._ahead[1]._workers[0] is worker
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # here it is heard


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # on one core torch advises against it
def test_large_pictures_are_the_same_whatever_the_workers_and_wherever_the_run_goes_on(large):
    alone, helped, resumed = opened(large), opened(large, workers=2), opened(large)
    straight = [alone.training_batch(LARGE, step) for step in range(12)]
    for step in range(2, 12):  # from the middle of the first epoch into later ones
        if step == 3:
            for worker in helped._ahead[1]._workers:
                assert private_memory(worker.pid) < 100, "each has a torch of its own"
                worker.kill()  # as the machine does where memory is short
        for images, labels in (helped.training_batch(LARGE, step), resumed.training_batch(LARGE, step)):
            assert torch.equal(images, straight[step][0]) and torch.equal(labels, straight[step][1])
    assert not torch.equal(straight[0][0], straight[3][0])
    assert images.shape == (4, 3, 32, 32) and images.dtype == torch.uint8
    seen = torch.cat([labels for _, labels in straight[:3]])
    assert seen.bincount().tolist() == [6, 6]


def test_a_worker_that_is_ended_while_pictures_are_measured_is_replaced(large):
    batches, read = [], opened(large, workers=1).evaluation(torch.arange(12), MIDDLE, 2)
    for number, batch in enumerate(read):
        batches.append(batch)
        if number == 1:
            for worker in multiprocessing.active_children():
                worker.kill()
                worker.join()
    assert torch.equal(torch.cat(batches), torch.cat(list(opened(large).evaluation(torch.arange(12), MIDDLE, 2))))


def test_the_same_picture_looks_otherwise_in_the_next_epoch_and_under_another_seed(large):
    one = opened(large).subset(torch.tensor([0, 1]))
    recipe = replace(LARGE, batch_size=2, policy="none")
    first, next_epoch = ({p.numpy().tobytes() for p in one.training_batch(recipe, step)[0]} for step in (0, 1))
    other_seed = {p.numpy().tobytes() for p in one.training_batch(replace(recipe, seed=1), 0)[0]}
    assert len(first | next_epoch) == 4 and len(first | other_seed) > 2


def test_large_pictures_are_measured_exactly_as_the_app_shows_them_to_the_network(large):
    files = opened(large)
    batches = list(files.evaluation(torch.arange(12), MIDDLE, 5))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    for path, x in zip(files.paths, torch.cat(batches), strict=True):
        assert torch.equal(x, PREPARED(open_picture(path)))


def test_files_held_out_keep_their_labels(large):
    learned, held_out = hold_out(opened(large), 4, 0)
    assert len(learned) == 8 and held_out.labels.tolist() == [0, 0, 1, 1]
    for part in (learned, held_out):
        assert [path.parent.name for path in part.paths] == ["ab"[k] for k in part.labels]


def test_an_unreadable_large_file_is_named_and_skipped_up_to_the_limit(large, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(large, tmp_path / "large")
    (folder / "train" / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    with pytest.raises(InputError, match="1 of 13 files in train/ can't be read"):
        opened(folder)
    monkeypatch.setattr(dataset, "MAX_UNREADABLE", 0.1)
    capsys.readouterr()
    assert len(opened(folder)) == 12
    said = capsys.readouterr().out
    assert "skipped a/broken.jpg: " in said and str(tmp_path) not in said


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_goes_bad_while_training_is_named_and_nothing_else(workers, large, tmp_path):
    folder = shutil.copytree(large, tmp_path / "large")
    files = opened(folder, workers)
    for name in ("0.png", "2.png", "4.png"):
        (folder / "train" / "a" / name).write_bytes(b"\x89PNG and no more")
    for read in (
        lambda: [files.training_batch(LARGE, step) for step in range(3)],
        lambda: list(files.evaluation(torch.arange(12), MIDDLE, 12)),
    ):
        with pytest.raises(InputError, match=r"^a/\d\.png: This PNG picture is") as caught:
            read()
        assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
        if workers:  # each of them takes seconds to start
            break


def test_a_share_without_pictures_measures_none(large):
    assert list(opened(large).evaluation(torch.arange(0), MIDDLE, 5)) == []
    assert list(labelled(3, 3).evaluation(torch.arange(0), MIDDLE, 5)) == []


def test_pictures_too_many_for_memory_are_read_from_their_files(large, tmp_path, monkeypatch):
    grown(tmp_path / "small", "a", "b", count=5)
    prepared = replace(PREPARED, resize=8, crop=8)
    assert isinstance(open_source(str(tmp_path / "small"), 0).read("train", prepared), Pictures)
    monkeypatch.setattr(dataset, "MAX_RESIDENT", 8 * 3 * 8 * 8 - 1)
    assert isinstance(open_source(str(tmp_path / "small"), 0).read("train", prepared), Files)
