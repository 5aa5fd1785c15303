"""What training reads: folders of pictures, what is held out, and how pictures are augmented."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from training_help import grown, labelled, noise, numbers, write

from mnv3 import InputError
from mnv3.data import Pictures, augment, colour_statistics, generator, hold_out, normalise, read_folder
from mnv3.images import Preprocessing, open_picture

# ---- pictures held out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_class, count", [((50, 50), 20), ((500, 300, 200), 100), ((7, 90, 3), 33), ((5, 5), 9)])
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


@pytest.mark.parametrize("count", [0, -1, 20, 21])
def test_holding_out_nothing_or_everything_is_refused(count):
    with pytest.raises(InputError, match=rf"`holdout` \(={count}\)"):
        hold_out(labelled(10, 10), count, seed=0)


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


def test_an_empty_class_is_named(tmp_path):
    grown(tmp_path, "a", "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="/empty has no pictures"):
        read_folder(tmp_path, 8)
    (tmp_path / "empty" / "labels.txt").write_text("none")
    with pytest.raises(InputError, match="/empty has no pictures"):
        read_folder(tmp_path, 8)


@pytest.mark.parametrize("classes", [(), ("only",)])
def test_fewer_than_two_classes_are_refused(classes, tmp_path):
    with pytest.raises(InputError, match=f"has {len(classes)} class.* at least two"):
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
