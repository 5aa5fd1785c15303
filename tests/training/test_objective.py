"""What a step minimises: the loss with a teacher, and pictures augmented as functions of the seed and the step."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import ranks
import torch
from torch import nn
from torchvision.transforms import v2
from training_help import FAST, MIDDLE, labelled, new_run

from mnv3.images.preprocessing import Preprocessing
from mnv3.training.augment import erased
from mnv3.training.run import objective, train_step

# ---- a teacher ----------------------------------------------------------------------------------------------------


def taught(answer, mean=(0.5,) * 3, std=(0.25,) * 3, **changes):
    """A run of two classes whose teacher answers answer(x) and sees pictures in `mean` and `std`."""
    run = new_run(replace(FAST, **changes), 2)
    run.teacher = SimpleNamespace(model=answer, preprocessing=Preprocessing(32, 32, "bilinear", mean, std))
    return run


@pytest.mark.parametrize("weight, temperature", [(0.3, 2.0), (1.0, 4.0), (0.0, 1.0)])
def test_the_loss_with_a_teacher_by_hand(weight, temperature):
    """(1 - w) × cross-entropy + w × T² × KL(teacher ‖ student), both softened by T (Hinton et al. 2015)."""
    own, lesson = [[2.0, -1.0], [0.5, 1.0]], [[1.0, 3.0], [-2.0, 0.0]]
    run = taught(lambda x: torch.tensor(lesson), teacher_weight=weight, temperature=temperature)
    run.forward = lambda x: torch.tensor(own)

    def share(logits, t=1.0):
        powers = [math.exp(z / t) for z in logits]
        return [power / sum(powers) for power in powers]

    expected = 0.0
    for z, taught_z, label in zip(own, lesson, (0, 1), strict=True):
        student, teacher = share(z, temperature), share(taught_z, temperature)
        apart = sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True))
        expected += ((1 - weight) * -math.log(share(z)[label]) + weight * temperature**2 * apart) / 2
    loss, right = objective(run, torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(expected, rel=1e-5) and right.tolist() == [1, 1]


def test_a_teacher_sees_pictures_in_its_own_normalisation():
    seen = []
    run = taught(lambda x: seen.append(x) or torch.zeros(len(x), 2), (0.4, 0.5, 0.6), (0.2, 0.1, 0.5))
    run.normal = (0.5,) * 3, (0.25,) * 3
    run.forward = lambda x: torch.zeros(len(x), 2)
    objective(run, torch.full((2, 3, 4, 4), 2.0), torch.tensor([0, 1]))  # 2 is 1.0 in 0..1
    torch.testing.assert_close(seen[0][1, :, 2, 3], torch.tensor([0.6 / 0.2, 0.5 / 0.1, 0.4 / 0.5]))


@pytest.mark.parametrize("weight, follows", [(1.0, "teacher"), (0.0, "labels")])
def test_a_student_that_sees_only_the_teachers_answers_moves_to_them(weight, follows):
    """The teacher says the opposite of every label."""
    pictures = labelled(4, 4, size=32)
    known = pictures.images.float().flatten(1)

    def opposite(x):
        nearest = torch.cdist((x * 0.25 + 0.5).flatten(1) * 255, known).argmin(1)
        return 4.0 * nn.functional.one_hot(1 - pictures.labels[nearest], 2)

    run = taught(opposite, teacher_weight=weight, temperature=1.0, mirror=False, norm_momentum=0.3, dropout=0.0)
    run.normal = (0.5,) * 3, (0.25,) * 3
    top1s = [train_step(run, pictures, *MIDDLE)[1] for _ in range(40)]
    assert top1s[-1] == (0 if follows == "teacher" else 1)


# ---- augmentation -------------------------------------------------------------------------------------------------

AUGMENTED = [
    {"policy": "trivial"}, {"policy": "rand"}, {"erase": 1.0}, {"mixup": 0.5}, {"cutmix": 1.0},
    {"mixup": 0.5, "cutmix": 1.0, "policy": "trivial", "erase": 0.5},
]  # fmt: skip


def shown(steps, noise=0, pictures=None, **changes):
    """What the network is shown in each of `steps`, after torch was seeded with `noise`."""
    run = new_run(replace(FAST, mirror=False, **changes), 2)
    seen, network = [], run.forward
    run.forward = lambda x: seen.append(x.clone()) or network(x)
    torch.manual_seed(noise)
    for step in steps:
        run.step = step
        train_step(run, pictures or labelled(4, 4, size=32), *MIDDLE)
    return seen


def apart(x):
    """The pictures, in no order."""
    return {picture.numpy().tobytes() for picture in x.contiguous()}


@pytest.mark.parametrize("changes", AUGMENTED, ids=lambda changes: " ".join(changes))
def test_augmentation_is_a_function_of_the_seed_and_the_step(changes):
    straight = shown((0, 1, 2), **changes)
    assert torch.equal(shown((2,), noise=5, **changes)[0], straight[2])  # as a resumed run begins with it
    for other in (shown((0,), seed=1, **changes)[0], straight[1], shown((0,))[0]):
        assert apart(straight[0]) != apart(other)


def test_each_step_draws_anew():
    """Shown by one picture eight times over, which no order changes."""
    one = labelled(4, 4, size=32)
    first, second = shown((0, 1), pictures=replace(one, images=one.images[:1].repeat(8, 1, 1, 1)), erase=1.0)
    assert len(apart(first) & apart(second)) < 8 == len(apart(first))


def test_pictures_are_not_altered_alike():
    """Each loses a rectangle of its own."""
    plain, erased = shown((0,))[0], shown((0,), erase=1.0)[0]
    lost = [(a != b).any(0) for a, b in zip(plain, erased, strict=True)]
    assert all(0 < one.sum() < 32 * 32 // 2 for one in lost)
    assert len({one.numpy().tobytes() for one in lost}) == 8


def test_rectangles_are_as_torchvision_draws_them():
    """Over 4,000 pictures: how many lose one, its area and its aspect. Each is one whole rectangle."""
    torch.manual_seed(0)
    white = torch.ones(4000, 1, 32, 32)
    erase = v2.RandomErasing(0.4)
    ours, theirs = ((x == 0)[:, 0] for x in (erased(white, 0.4), torch.stack([erase(one) for one in white])))
    figures = []
    for lost in (ours, theirs):
        some = lost[lost.any(-1).any(-1)]
        heights, widths = some.any(2).sum(1), some.any(1).sum(1)
        assert torch.equal(heights * widths, some.sum((1, 2)))
        areas, aspects = some.float().mean((1, 2)), (heights / widths).log()
        assert areas.max() < 0.37 and areas.min() > 0.01
        figures.append([len(some) / 4000, areas.mean(), areas.std(), aspects.std(), lost[:, :16].sum() / lost.sum()])
    for name, own, other, most in zip("share area spread aspect top".split(), *figures, (0.03, 0.01, 0.006, 0.06, 0.04),
                                      strict=True):  # fmt: skip
        assert abs(float(own - other)) < most, name


def test_dropout_is_a_function_of_the_seed_and_the_step_and_of_the_recipe():
    def loss(noise, rate):
        run = new_run(replace(FAST, dropout=rate), 2)
        torch.manual_seed(noise)
        with torch.no_grad():  # at its start the network answers 0 to all
            run.model.classifier[3].weight.mul_(100)
        return train_step(run, labelled(4, 4, size=32), *MIDDLE)[0]

    assert loss(0, 0.5) == loss(1, 0.5) != loss(0, 0.0)


@pytest.mark.parametrize("changes", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_what_is_mixed_has_the_share_of_each_picture_as_its_target(changes):
    """A black picture of class 0 and a white one of class 1: the share of white is seen, the loss follows by hand."""
    run, seen = new_run(replace(FAST, **changes), 2), []
    logits = torch.tensor([[1.0, -1.0], [-2.0, 3.0]])
    run.forward = lambda x: seen.append(x) or logits
    torch.manual_seed(4)
    loss, _ = objective(run, torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)]), torch.tensor([0, 1]))
    white = seen[0].mean((1, 2, 3))
    assert 0.02 < white[0] < 0.98 and white.sum().item() == pytest.approx(1)
    assert set(seen[0].unique().tolist()).issubset({0, 1}) is ("cutmix" in changes)
    named = -(torch.stack([1 - white, white], 1) * logits.log_softmax(1)).sum(1).mean()
    assert loss.item() == pytest.approx(named.item(), rel=1e-5)


@pytest.mark.parametrize("parts", [2, 4])
def test_the_gradient_of_parts_is_that_of_the_whole_where_pictures_do_not_mix(parts):
    """BatchNorm keeps still here; while it learns, it normalises each part by the part's own statistics."""
    whole, split = ranks.gradient(1), ranks.gradient(parts)
    for name, expected in whole.items():
        assert 0 < expected.abs().max() and (split[name] - expected).abs().max() < 1e-3 * expected.abs().max(), name
