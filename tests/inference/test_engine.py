"""The fast engine answers what torch answers, or does not serve."""

import gc
import logging
import random
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

import mnv3
from mnv3.checkpoints.checkpoint import Checkpoint
from mnv3.checkpoints.registry import bundled_names
from mnv3.images.preprocessing import Preprocessing
from mnv3.inference import onnx_graph
from mnv3.inference import reference as inference_reference
from mnv3.inference import session as inference_session
from mnv3.nets.factory import network
from mnv3.nets.layers import SqueezeExcitation
from mnv3.nets.spec import SMALL, Spec
from mnv3.nets.tutorial import ArticleSpec

SPECS = {
    "Large": Spec.of("large", 0.5, 10, 2),
    "Small": Spec.of("small", 0.5, 10, 2),
    "minimalistic, without SE": Spec.of("small", 0.5, 10, 2, minimalistic=True),
    "one SE block": replace(
        Spec.of("small", 1.0, 10, 2), rows=tuple(row._replace(se=i == 4) for i, row in enumerate(SMALL))
    ),
    "sigmoid gates and timm's eps": replace(Spec.of("small", 0.5, 10, 2), gate="sigmoid", eps=1e-5),
    "the article's Large": ArticleSpec("article-large", 10),
}


@pytest.fixture(scope="module")
def nets(structured, recalibrated):
    """Checkpoints of every kind whose answers differ from picture to picture."""
    torch.manual_seed(0)
    prepared = Preprocessing(32, 32, "bilinear", (0.5,) * 3, (0.25,) * 3)
    found = {}
    for name, spec in SPECS.items():
        model = recalibrated(network(spec), structured(32, 64))
        for number in model.gated:  # gates as steep as the fixture makes them magnify rounding a hundred times
            se = next(m for m in model.features[number].modules() if isinstance(m, SqueezeExcitation))
            se.fc2.weight.div_(4)
        found[name] = Checkpoint(name, model, tuple("abcdefghij"), prepared, "scenes")
    return found


def both(checkpoint, inputs, held=False):
    """The same pass in ONNX Runtime and in torch; held: of one picture, each block in turn held at its reference."""
    session = inference_session.fast(checkpoint, wait=True)
    assert session is not None
    reference = [np.linspace(0, 1, c, dtype=np.float32) for c in checkpoint.model.channels]
    with torch.inference_mode():
        if held:
            return session.causal(inputs, reference), inference_session._causal_in_torch(checkpoint, inputs, reference)
        return session.run(inputs), inference_session._in_torch(checkpoint, inputs)


def shapes(out):
    return [each.shape for each in (out.logits, out.features, *out.gates, *out.energy)]


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_every_output_is_torchs(name, held, nets, structured):
    if held and not nets[name].model.channels:
        return
    for size, count in ((64, 1 if held else 5), (96, 1)):
        fast, slow = both(nets[name], structured(count, size, seed=2), held)
        assert shapes(fast) == shapes(slow)
        assert inference_session.disagreement(fast, slow) < 1e-4
    if held:  # each question has an answer of its own, but for a single block, where holding it is holding all
        apart = np.abs(slow.logits[:, None] - slow.logits).max(2) > 1e-5
        blocks = len(nets[name].model.channels)
        assert apart.sum() == (blocks + 2) * (blocks + 1) - 2 * (blocks == 1)


def test_logits_alone_are_the_passs(nets, structured):
    inputs = structured(3, 64, seed=6)
    for checkpoint in nets.values():
        fast, _ = both(checkpoint, inputs)
        logits, milliseconds = inference_session.logits(checkpoint, inputs)
        np.testing.assert_allclose(logits, fast.logits, rtol=1e-5, atol=1e-6)
        assert milliseconds > 0


def test_torch_standing_in_is_not_timed_for_the_network(nets, structured, monkeypatch):
    """A network isn't as slow as torch is while the session is made; where torch serves for good, it is."""
    checkpoint, inputs = nets["Small"], structured(1, 64, seed=6)
    coming = Future()
    monkeypatch.setattr(inference_session, "_sessions", {checkpoint: coming})
    logits, milliseconds = inference_session.logits(checkpoint, inputs)
    assert milliseconds is None
    coming.set_result(None)
    again, milliseconds = inference_session.logits(checkpoint, inputs)
    assert milliseconds > 0 and np.array_equal(logits, again)


def test_waiting_for_a_turn_is_not_the_networks_time(nets, structured, monkeypatch):
    checkpoint, turns = nets["Small"], threading.Semaphore(1)
    inference_session.fast(checkpoint, wait=True)
    monkeypatch.setattr(inference_session, "_turns", turns)
    with ThreadPoolExecutor(1) as pool:
        with turns:
            asked = pool.submit(inference_session.logits, checkpoint, structured(1, 64))
            time.sleep(1)
            assert not asked.done()
        assert asked.result()[1] < 900


def test_it_serves_once_it_is_ready_and_torch_until_then(nets, structured, monkeypatch):
    fresh, served = replace(nets["Small"]), []
    run, started = inference_session.Session.run, ThreadPoolExecutor(1)
    monkeypatch.setattr(inference_session, "_preparing", started)
    monkeypatch.setattr(inference_session.Session, "run", lambda *given: served.append(1) or run(*given))
    wait = threading.Event()
    started.submit(wait.wait, 30)  # the preparation waits behind it
    try:
        early = inference_session.run(fresh, structured(1, 64))
        assert not served
    finally:
        wait.set()
    inference_session.fast(fresh, wait=True)
    served.clear()
    assert inference_session.disagreement(inference_session.run(fresh, structured(1, 64)), early) < 2e-5 and served == [
        1
    ]
    started.shutdown()


def spoilt(writer, change):
    """A writer whose graphs are wrong in one way."""

    class Spoilt(writer):
        def node(self, kind, *inputs, **more):
            return super().node(*change(kind, inputs, more), **more)

    return Spoilt


def no_gates(kind, inputs, more):
    return ("Relu", inputs[0]) if kind == "Mul" and "gates" in inputs[1] else (kind, *inputs)


def no_shortcut(kind, inputs, more):
    return ("Identity", inputs[0]) if kind == "Add" else (kind, *inputs)


def other_reference(kind, inputs, more):
    return ("Mul", inputs[0], inputs[0]) if kind == "Mul" and "reference" in inputs[1] else (kind, *inputs)


def another_row(kind, inputs, more):
    """The row that holds a block is made from the one that holds all of them."""
    return (kind, *inputs[::-1]) if kind == "Concat" and "Mul" in inputs[0] and more == {"axis": 0} else (kind, *inputs)


def no_padding(kind, inputs, more):
    if kind == "Conv" and "pads" in more:
        more["pads"] = [0, 0, 0, 0]
    return (kind, *inputs)


def sigmoid_of_itself(kind, inputs, more):
    if kind == "HardSigmoid":
        more["alpha"] = 0.2  # ONNX's default, which is not h-swish's 1/6
    return (kind, *inputs)


WRONG = {
    "_Writer": [no_gates, no_shortcut, no_padding, sigmoid_of_itself],
    "_Causal": [no_shortcut, other_reference, another_row, no_padding],
}


@pytest.mark.parametrize("writer, change", [(writer, change) for writer in WRONG for change in WRONG[writer]])
def test_a_wrong_graph_never_serves(writer, change, nets, structured, monkeypatch, caplog):
    monkeypatch.setattr(onnx_graph, writer, spoilt(getattr(onnx_graph, writer), change))
    fresh = replace(nets["Small"])
    with caplog.at_level(logging.WARNING):
        assert inference_session.fast(fresh, wait=True) is None
    assert "runs in torch" in caplog.text
    with torch.inference_mode():
        slow = inference_session._in_torch(fresh, structured(1, 64))
    assert inference_session.disagreement(inference_session.run(fresh, structured(1, 64)), slow) == 0


@pytest.mark.parametrize("place", [0, -1])
def test_a_graph_that_gives_no_number_anywhere_is_wrong(place, nets, structured):
    """Python's max passes over a NaN that isn't the first."""
    fast, slow = both(nets["Small"], structured(1, 64), False)
    energy = [each.copy() for each in fast.energy]
    energy[place][:] = np.nan
    assert not inference_session.disagreement(fast._replace(energy=energy), slow) <= inference_session.MOST_APART


def test_a_network_that_no_graph_is_written_for_runs_in_torch(nets, structured, caplog):
    fresh = replace(nets["Small"], model=network(SPECS["Small"]).eval())
    fresh.model.features[1] = torch.nn.Sequential(fresh.model.features[1])
    with caplog.at_level(logging.WARNING):
        assert inference_session.fast(fresh, wait=True) is None
    assert "no ONNX for a Sequential" in caplog.text


def test_a_session_goes_with_its_checkpoint(nets):
    fresh = replace(nets["Small"])
    session = weakref.ref(inference_session.fast(fresh, wait=True))
    assert session() is not None
    del fresh
    gc.collect()
    assert session() is None


def test_threads_share_a_session(nets, structured):
    checkpoint, inputs = nets["Small"], [structured(n, 64, seed=n) for n in range(1, 5)]
    alone = [inference_session.fast(checkpoint, wait=True).run(x) for x in inputs]

    def visitor(seed):
        order = list(range(4)) * 5
        random.Random(seed).shuffle(order)
        return [inference_session.disagreement(inference_session.run(checkpoint, inputs[i]), alone[i]) for i in order]

    with ThreadPoolExecutor(4) as pool:
        assert max(max(found) for found in pool.map(visitor, range(4))) < 1e-5


@pytest.mark.parametrize("name", bundled_names())
def test_the_bundled_networks_are_served_fast(name):
    checkpoint = mnv3.load(name)
    assert inference_session.fast(checkpoint, wait=True) is not None
    explanation = mnv3.explain(checkpoint, inference_reference.example_pictures()[0])
    with torch.inference_mode():
        logits = checkpoint.model(checkpoint.preprocess(inference_reference.example_pictures()[0])[None])[0]
    np.testing.assert_allclose(explanation.logits, logits, atol=1e-4)
