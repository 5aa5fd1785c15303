"""Random crops and colour changes of a whole batch."""

from dataclasses import replace

import torch

from mnv3.basics import generator
from mnv3.training.augment import jittered, resized_crops
from mnv3.training.dataset import Pictures
from mnv3.training.recipe import Recipe


def ramp(count=64, side=32):
    """Pictures whose red is the column and whose green is the row, times 7."""
    places = torch.arange(side, dtype=torch.uint8) * 7
    blank = torch.zeros(side, side, dtype=torch.uint8)
    return torch.stack([places.expand(side, side), places[:, None].expand(side, side), blank]).repeat(count, 1, 1, 1)


def test_a_crop_of_the_whole_area_keeps_the_means():
    pictures = ramp()
    spans = resized_crops(pictures, generator(1), 1.0, mirror=False).float()
    assert (spans.mean((2, 3)) - pictures.float().mean((2, 3))).abs().max() < 20  # the aspect alone is cut


def test_crops_keep_the_share_that_was_asked_for_and_mirror_half():
    crops = resized_crops(ramp(512), generator(2), 0.25).float() / 7
    width = (crops[:, 0, :, -1] - crops[:, 0, :, 0]).mean(1)
    height = (crops[:, 1, -1] - crops[:, 1, 0]).mean(1)
    area = width.abs() * height / 31**2
    assert 0.2 < area.min() < 0.35 and 0.8 < area.max() <= 1.01
    assert 0.4 < (width < 0).float().mean() < 0.6 and height.min() > 0


def test_crops_and_colours_are_functions_of_the_seed():
    pictures = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    for change in (lambda g: resized_crops(pictures, g, 0.3), lambda g: jittered(pictures, g, 0.4)):
        assert torch.equal(change(generator(3)), change(generator(3)))
        assert not torch.equal(change(generator(3)), change(generator(4)))


def test_colours_change_by_no_more_than_the_strength():
    grey = torch.full((256, 3, 4, 4), 100, dtype=torch.uint8)
    means = jittered(grey, generator(5), 0.3).float().mean((1, 2, 3))
    assert 69 <= means.min() < 80 and 120 < means.max() <= 131
    assert torch.equal(jittered(grey, generator(5), 0.0), grey)


def test_a_training_batch_is_cropped_and_coloured_as_the_recipe_says():
    pictures = Pictures(ramp(16), torch.arange(16), tuple("abcdefghijklmnop"))
    recipe = Recipe(batch_size=8, smallest_crop=0.3, crops=True)
    random = generator(recipe.seed, 2, 0, 0)
    cropped = resized_crops(pictures.images[:8], random, 0.3)  # all sixteen are alike, so their order plays no part
    assert torch.equal(pictures.training_batch(recipe, 0)[0], cropped)
    coloured = pictures.training_batch(replace(recipe, jitter=0.4), 0)[0]
    assert torch.equal(coloured, jittered(cropped, random, 0.4)) and not torch.equal(coloured, cropped)
