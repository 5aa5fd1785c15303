"""The primitives against numbers worked out by hand."""

import pytest
import torch

from mnv3.nets.layers import (
    ACTIVATION,
    GATE,
    SLOPE,
    DepthwiseConv2d,
    DepthwiseGradient,
    SqueezeExcitation,
    energy,
    hardswish_slope,
)

TENTHS = torch.arange(-30, 31, dtype=torch.float64) / 10


def by_hand(x):
    """ReLU6(x + 3)/6 for one number, without torch."""
    return min(max(x + 3, 0), 6) / 6


def test_hard_sigmoid_is_relu6_of_x_plus_3_over_6():
    gate = GATE["hardsigmoid"]()
    expected = torch.tensor([by_hand(x) for x in TENTHS.tolist()], dtype=torch.float64)
    torch.testing.assert_close(gate(TENTHS), expected, rtol=0, atol=1e-15)
    assert gate(torch.tensor(2.75)).item() == pytest.approx(0.958333, abs=5e-7)
    assert gate(torch.tensor(0.0)).item() == 0.5


def test_hard_swish_is_x_times_the_hard_sigmoid():
    act = ACTIVATION["HS"]()
    expected = torch.tensor([x * by_hand(x) for x in TENTHS.tolist()], dtype=torch.float64)
    torch.testing.assert_close(act(TENTHS), expected, rtol=0, atol=1e-15)
    for x, y in ((-4, 0), (-3, 0), (-1.5, -0.375), (0, 0), (1, 2 / 3), (3, 3), (5, 5)):
        assert act(torch.tensor(float(x))).item() == pytest.approx(y, abs=1e-7)


def test_gates_reach_exactly_0_and_exactly_1():
    gate = GATE["hardsigmoid"]()(torch.tensor([-100.0, -3.0, -2.9, 2.9, 3.0, 100.0]))
    assert gate[:2].tolist() == [0.0, 0.0] and gate[4:].tolist() == [1.0, 1.0]
    assert 0 < gate[2] < gate[3] < 1


def test_the_articles_gate_is_the_logistic_function():
    assert GATE["sigmoid"]()(torch.tensor(2.75)).item() == pytest.approx(0.939913, abs=5e-7)


@pytest.mark.parametrize("act", ["HS", "RE"])
def test_slopes_are_autograds(act):
    x = torch.cat([TENTHS, torch.tensor([-50.0, -3.01, 3.01, 50.0], dtype=torch.float64)])
    x = x[x.abs() != 3] if act == "HS" else x[x != 0]  # at the corners there is no derivative
    x.requires_grad_()
    ACTIVATION[act]()(x).sum().backward()
    torch.testing.assert_close(SLOPE[act](x.detach()), x.grad, rtol=0, atol=1e-12)


def test_hard_swish_slope_by_hand():
    x = torch.tensor([-4.0, -3.0, -1.5, 0.0, 1.5, 3.0, 4.0])
    torch.testing.assert_close(hardswish_slope(x), torch.tensor([0, 0, 0, 0.5, 1, 1, 1]))


@pytest.fixture
def two_channels():
    """An SE block of two channels and one squeezed: s = relu(2a − b + 1), gates = hσ(3s − 4), hσ(−s)."""
    se = SqueezeExcitation(2, 1, "hardsigmoid")
    with torch.no_grad():
        se.fc1.weight.copy_(torch.tensor([2.0, -1.0]).view(1, 2, 1, 1))
        se.fc1.bias.fill_(1.0)
        se.fc2.weight.copy_(torch.tensor([3.0, -1.0]).view(2, 1, 1, 1))
        se.fc2.bias.copy_(torch.tensor([-4.0, 0.0]))
    return se


def test_squeeze_and_excitation_by_hand(two_channels):
    x = torch.tensor([[[0.0, 1.0], [2.0, 1.0]], [[3.0, 1.0], [1.0, 3.0]]]).unsqueeze(0)  # means a = 1, b = 2
    # s = relu(2 − 2 + 1) = 1; gates = hσ(3 − 4) = 2/6 and hσ(−1) = 2/6
    torch.testing.assert_close(two_channels.gates(x).flatten(), torch.tensor([1 / 3, 1 / 3]))
    torch.testing.assert_close(two_channels(x), x / 3)
    # twice the first channel: a = 2, s = relu(4 − 2 + 1) = 3; gates = hσ(5) = 1 exactly, and hσ(−3) = 0 exactly
    x[:, 0] *= 2
    assert two_channels.gates(x).flatten().tolist() == [1.0, 0.0]
    assert torch.equal(two_channels(x), x * torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    # with a = −2 the squeezed channel is cut at 0 by its ReLU: gates = hσ(−4) = 0, hσ(0) = 1/2
    x[:, 0] *= -1
    assert two_channels.gates(x).flatten().tolist() == [0.0, 0.5]


def test_a_gate_is_the_same_at_every_place_and_each_pictures_own(two_channels):
    x = torch.rand(3, 2, 4, 5)
    gates = two_channels.gates(x)
    assert gates.shape == (3, 2, 1, 1)
    for n in range(3):
        torch.testing.assert_close(two_channels.gates(x[n : n + 1]), gates[n : n + 1])
        torch.testing.assert_close(two_channels(x)[n], x[n] * gates[n])


def test_energy_is_the_mean_magnitude_over_channels_before_and_after_the_gate():
    random = torch.Generator().manual_seed(0)
    h = torch.randn(3, 7, 4, 5, generator=random, dtype=torch.float64)
    gates = torch.rand(3, 7, generator=random, dtype=torch.float64)
    gates[0, :3] = 0
    after = (h * gates.view(3, 7, 1, 1)).abs().mean(1)
    torch.testing.assert_close(energy(h, gates), torch.stack([h.abs().mean(1), after], 1), rtol=0, atol=1e-14)


def test_energy_by_hand():
    h = torch.tensor([[[[1.0, -2.0]], [[3.0, 4.0]]]])  # (1, 2, 1, 2)
    moved = energy(h, torch.tensor([[0.5, 0.0]]))
    assert moved.tolist() == [[[[2.0, 3.0]], [[0.25, 0.5]]]]


@pytest.mark.parametrize("kernel, stride, side", [(3, 1, 8), (3, 2, 8), (3, 2, 7), (5, 1, 4), (5, 2, 8), (5, 2, 7)])
def test_depthwise_gradients_are_autograds(kernel, stride, side):
    layer = DepthwiseConv2d(6, 6, kernel, stride, kernel // 2, groups=6, bias=False).double()
    with torch.autocast("cpu", torch.bfloat16):
        assert type(layer(torch.zeros(1, 6, side, side)).grad_fn).__name__ == "DepthwiseGradientBackward"
    x = torch.randn(2, 6, side, side, dtype=torch.double, generator=torch.manual_seed(0)).requires_grad_()
    plain = torch.nn.functional.conv2d(x, layer.weight, None, stride, kernel // 2, groups=6)
    out = DepthwiseGradient.apply(x, layer.weight, stride, kernel // 2)
    assert torch.equal(out, plain)
    gradient = torch.randn_like(out)
    ours, autograds = (torch.autograd.grad(y, (x, layer.weight), gradient) for y in (out, plain))
    for one, other in zip(ours, autograds, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)
