"""Pictures made of numbers: each pixel is what its docstring says, and colour-blind people can tell them apart."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from mnv3.basics import smooth
from mnv3.visual.bitmap import (
    DIVERGING,
    FULL_DIFFERENCE,
    SEQUENTIAL,
    colours,
    data_uri,
    enlarged,
    evidence_overlay,
    gate_strip,
    ground,
    legend,
    shift_overlay,
)

PLAIN_GROUND = ground(Image.new("RGB", (32, 32), (120, 120, 120)), 128)


def textured(width=32, height=32):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


# ---- colours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [SEQUENTIAL, DIVERGING])
def test_the_ends_and_the_middle_take_the_scales_colours_and_the_rest_is_clipped(scale):
    assert scale.shape == (256, 3) and scale.dtype == np.uint8
    shown = colours(np.array([[-2.0, 6.0], [2.0, 2.0 + 4 / 255]]), scale, -2, 6)
    assert shown.shape == (2, 2, 3) and shown.dtype == np.uint8
    assert shown[0, 0].tolist() == scale[0].tolist() and shown[0, 1].tolist() == scale[255].tolist()
    assert shown[1, 0].tolist() == scale[128].tolist()
    beyond = colours(np.array([-1e9, -2.1, 6.1, np.inf]), scale, -2, 6)
    assert beyond.tolist() == [scale[i].tolist() for i in (0, 0, 255, 255)]


def test_the_diverging_scale_is_blue_below_neutral_at_zero_and_orange_above():
    below, zero, above = colours(np.array([-1.0, 0.0, 1.0]), DIVERGING, -1, 1).astype(int)
    assert below[2] > below[0] + 100 and above[0] > above[2] + 100
    assert np.ptp(zero) < 6 and zero.min() > 230


def test_a_legend_is_its_scale_from_low_to_high():
    shown = legend(DIVERGING)
    assert shown.size == (256, 1) and np.array_equal(np.asarray(shown)[0], DIVERGING)


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def seen(scale, vision):
    """The scale's colours as CIELAB (256, 3), as such eyes see them."""
    rgb = np.asarray(scale) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = np.moveaxis(np.clip(linear @ VISION[vision].T, 0, 1) @ XYZ.T / (0.95047, 1, 1.08883), -1, 0)
    fx, fy, fz = (np.where(v > 216 / 24389, np.cbrt(v), (24389 / 27 * v + 16) / 116) for v in (x, y, z))
    return np.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], -1)


@pytest.mark.parametrize("vision", VISION)
def test_the_sequential_scale_only_gets_lighter(vision):
    lightness = seen(SEQUENTIAL, vision)[:, 0]
    assert (np.diff(lightness) > -0.01).all() and (np.diff(lightness[::5]) > 0.5).all()
    assert lightness[-1] - lightness[0] > 70
    fifths = np.diff(lightness[::51])
    assert fifths.max() < 2.25 * fifths.min()  # no part of the scale shows far more than another


def distance_of_opposites(scale, vision):
    """The least difference between values of opposite signs and equal size, beyond an eighth of full scale."""
    lab = seen(scale, vision)
    return np.linalg.norm(lab[:112] - lab[::-1][:112], axis=1).min()


@pytest.mark.parametrize("vision", VISION)
def test_gains_and_losses_are_told_apart(vision):
    lab = seen(DIVERGING, vision)
    assert np.linalg.norm(lab[0] - lab[255]) > 60 and distance_of_opposites(DIVERGING, vision) > 20
    assert (np.diff(lab[:127, 0]) > 0).all() and (np.diff(lab[128:, 0]) < 0).all()  # neutral is lightest


def test_by_the_same_measure_red_and_green_are_not_told_apart():
    red_green = np.linspace((0, 160, 0), (208, 48, 0), 256)
    assert distance_of_opposites(red_green, "normal") > 1 > distance_of_opposites(red_green, "deuteranopia") / 20
    assert np.linalg.norm(np.diff(seen(red_green, "deuteranopia")[[0, 255]], axis=0)) < 20


# ---- a block's gates ----------------------------------------------------------------------------------------------


def test_a_strip_has_a_pixel_for_each_gate_and_one_for_its_difference():
    gates = np.array([0.0, 1.0, 0.5, 0.25], np.float32)
    reference = np.array([0.5, 0.5, 0.5, 1.0], np.float32)
    strip = gate_strip(gates, reference)
    assert strip.size == (4, 2) and strip.mode == "RGB"
    pixels = np.asarray(strip)
    assert pixels[0].tolist() == [SEQUENTIAL[i].tolist() for i in (0, 255, 128, 64)]
    assert pixels[1].tolist() == [DIVERGING[i].tolist() for i in (0, 255, 128, 0)]  # −0.75 is clipped
    assert FULL_DIFFERENCE == 0.5


def test_a_strip_without_reference_has_one_row():
    strip = gate_strip(np.array([0.0, 0.2, 1.0]), None)
    assert strip.size == (3, 1) and np.asarray(strip)[0].tolist() == [SEQUENTIAL[i].tolist() for i in (0, 51, 255)]


# ---- overlays -----------------------------------------------------------------------------------------------------


def changed(overlay, picture):
    """How far each pixel is from the bare grey ground, (side, side)."""
    shown = np.asarray(overlay, float)
    return np.abs(shown - np.asarray(ground(picture, overlay.width), float)).max(-1)


def test_the_ground_is_grey_and_pale():
    pixels = np.asarray(ground(textured(), 64))
    assert pixels.shape == (64, 64, 3) and not np.ptp(pixels, 2).any()
    assert pixels.min() >= 50 and pixels.max() <= 242 and np.ptp(pixels) > 50


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (7, 7)])
def test_a_zero_map_has_no_picture(shape):
    assert shift_overlay(ground(textured(), 64), np.zeros(shape)) is None
    assert evidence_overlay(ground(textured(), 64), np.zeros(shape, np.float32)) is None


@pytest.mark.parametrize("row, column", [(0, 0), (0, 3), (3, 0), (2, 1)])
def test_evidence_lies_where_the_map_has_it(row, column):
    evidence = np.zeros((4, 4), np.float32)
    evidence[row, column] = 0.01  # scaled to its own maximum
    overlay = evidence_overlay(ground(textured(), 256), evidence)
    assert overlay.size == (256, 256) and overlay.mode == "RGB"
    change = changed(overlay, textured())
    cells = change.reshape(4, 64, 4, 64).mean((1, 3))
    assert np.unravel_index(cells.argmax(), cells.shape) == (row, column) and cells.max() > 30
    far = [(r, c) for r in range(4) for c in range(4) if max(abs(r - row), abs(c - column)) > 1]
    assert max(cells[place] for place in far) < 2
    assert change[row * 64 + 32, column * 64 + 32] > 30


def test_gained_is_orange_and_lost_is_blue_in_their_places():
    shift = np.zeros((4, 4))
    shift[0, 0], shift[3, 2] = 0.002, -0.001
    pixels = np.asarray(shift_overlay(PLAIN_GROUND, shift), int)
    assert pixels.shape == (128, 128, 3)
    warmth = (pixels[..., 0] - pixels[..., 2]).reshape(4, 32, 4, 32).mean((1, 3))
    assert warmth[0, 0] == warmth.max() > 60 and warmth[3, 2] == warmth.min() < -30
    assert abs(warmth[0, 3]) < 1
    assert warmth[0, 0] > -warmth[3, 2]  # half as much is shown weaker


def test_no_loss_is_painted_where_nothing_was_lost():
    """Smoothing overshoots into the other sign: a visibly blue rim around a gain would be a finding that isn't one."""
    shift = np.zeros((7, 7))
    shift[2:5, 2:5] = 1
    pixels = np.asarray(shift_overlay(PLAIN_GROUND, shift), int)
    assert (pixels[..., 0] - pixels[..., 2]).min() > -12
    shift[0, 0] = -0.5  # what such a blue looks like
    pixels = np.asarray(shift_overlay(PLAIN_GROUND, shift), int)
    assert (pixels[..., 0] - pixels[..., 2]).min() < -40


def test_an_overlay_is_the_maps_colour_over_the_ground_and_the_stronger_the_more_of_it():
    under = ground(textured(), 64)
    evidence = np.random.default_rng(2).random((4, 4)).astype(np.float32)
    values = np.clip(smooth(evidence / evidence.max(), 64), 0, 1)[:, :, None]
    expected = 0.85 * values * colours(values[..., 0], SEQUENTIAL, 0, 1) + (1 - 0.85 * values) * np.asarray(under)
    assert np.abs(np.asarray(evidence_overlay(under, evidence)) - expected).max() < 1.6  # rounded twice


def test_overlays_of_large_and_tiny_numbers_look_alike():
    evidence = np.random.default_rng(1).random((4, 4)).astype(np.float32)
    shown = [np.asarray(evidence_overlay(PLAIN_GROUND, evidence * factor), int) for factor in (1, 1e-5, 1e5)]
    assert max(np.abs(shown[0] - other).max() for other in shown[1:]) <= 2


# ---- enlarging and embedding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, shown", [((32, 32), (256, 256)), ((100, 50), (200, 100)), ((8, 8), (256, 256))])
def test_small_pictures_are_enlarged_pixel_by_pixel(size, shown):
    picture = textured(*size)
    large = enlarged(picture)
    times = shown[0] // size[0]
    assert large.size == shown
    assert np.array_equal(np.asarray(large), np.asarray(picture).repeat(times, 0).repeat(times, 1))


@pytest.mark.parametrize("side", [129, 224, 256, 300])
def test_larger_pictures_stay_as_they_are(side):
    picture = textured(side, side)
    assert np.array_equal(np.asarray(enlarged(picture)), np.asarray(picture))


def test_a_uri_holds_the_same_pixels():
    picture = textured(31, 17)
    head, _, body = data_uri(picture).partition(",")
    assert head == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(body, validate=True))) as back:
        assert back.format == "WEBP" and back.mode == "RGB"
        assert np.array_equal(np.asarray(back), np.asarray(picture))
