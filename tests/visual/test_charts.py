"""The pictures that a run leaves show what was measured, where it belongs."""

import numpy as np
import pytest
from PIL import Image

from mnv3.visual.charts import COLOURS, NAMES, PAPER, confusion, confusion_matrix, curves, save_png


def log(*averaged):
    """Epochs in which all but the averaged weights stand at 45 %."""
    known = {"train_top1": 0.45, "heldout_top1": 0.45}
    return [{"epoch": n, **known, "heldout_top1_average": value} for n, value in enumerate(averaged, 1)]


def colour(name):
    return tuple(bytes.fromhex(name.removeprefix("#")))


def test_a_curve_goes_through_its_points():
    """The plot is 60 … 696 by 24 … 364 pixels, from 40 % (a multiple of 10 under what there is) to 100 %."""
    image, drawn = curves(log(0.5, 0.7, 0.9)), colour(COLOURS["heldout_top1_average"])
    assert image.size == (720, 420) and image.getpixel((10, 200)) == colour(PAPER)
    middle = [y for y in range(420) if image.getpixel((378, y)) == drawn]
    assert middle and abs(np.mean(middle) - (364 - 340 * (0.7 - 0.4) / 0.6)) < 1.5  # epoch 2 of 3
    assert drawn not in [image.getpixel((378, y)) for y in range(205, 300)]
    beginning = [y for y in range(420) if image.getpixel((61, y)) == drawn]
    assert beginning and abs(np.mean(beginning) - (364 - 340 * 0.1 / 0.6)) < 2.5


def test_curves_that_rise_from_chance_are_not_cut_off():
    image, drawn = curves(log(0.01, 0.5, 1.0)), colour(COLOURS["heldout_top1_average"])
    rows = np.where((np.asarray(image)[:, 60:440] == drawn).all(2))[0]
    assert abs(rows.max() - (364 - 340 * 0.01)) < 2.5
    assert min(y for y in range(420) if image.getpixel((694, y)) == drawn) < 28


def test_a_run_of_one_epoch_has_a_dot_for_each_curve():
    rows = [{"epoch": 1, "train_top1": 0.5, "heldout_top1": 0.7, "heldout_top1_average": 0.9}]
    pixels = np.asarray(curves(rows))[:, 50:80]
    for key in COLOURS:
        assert 20 < (pixels == colour(COLOURS[key])).all(2).sum() < 100, NAMES[key]


def test_a_confusion_matrix_counts_by_hand():
    guesses, labels = np.array([0, 1, 1, 2, 2, 0]), np.array([0, 0, 1, 2, 2, 2])
    assert confusion_matrix(guesses, labels, 4).tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]


def test_a_cell_has_its_rows_share_as_its_shade():
    matrix = np.array([[9, 1, 0], [0, 4, 12], [0, 0, 0]])  # of the last class there are no pictures
    image = confusion(matrix, ("a", "b", "c"))
    start = image.width - 16 - 3 * 44
    for i, row in enumerate(((0.9, 0.1, 0), (0, 0.25, 0.75), (0, 0, 0))):
        for j, share in enumerate(row):
            corner = image.getpixel((start + 44 * j + 2, start + 44 * i + 2))
            assert corner == tuple(int(255 + (end - 255) * share**0.5) for end in (0, 70, 130)), (i, j)
    inside = np.asarray(image)[start + 46 : start + 86, start : start + 42]  # a zero is not written
    assert (inside == 255).all()


@pytest.mark.parametrize("classes, drawn", [(40, True), (41, False)])
def test_more_than_forty_classes_give_no_picture(classes, drawn):
    names = tuple(f"a class with a rather long name, {k}" for k in range(classes))
    image = confusion(np.eye(classes, dtype=int), names)
    assert (image is not None) is drawn
    assert image is None or image.width < 44 * 40 + 250


def test_a_picture_is_written_whole(tmp_path):
    save_png(curves(log(0.5, 0.6)), tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG" and image.size == (720, 420)
