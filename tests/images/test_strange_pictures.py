"""Any bytes give the picture that a person sees or one sentence: a fixed sample of what tests/benchmarks/pictures.py
runs by the thousand."""

import time
from functools import cache

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from strange_pictures import harmed, opened, ordinary

import mnv3
from mnv3.images.preprocessing import Preprocessing

SAMPLE = settings(derandomize=True, database=None, deadline=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip


@cache
def small():
    return mnv3.load("cifar10-small")


@torch.inference_mode()
def agree(picture, sent):
    """Same top-1 and probabilities as what a person sees, to 1e-3."""
    inputs = [small().preprocess(source) for source in (picture, np.ascontiguousarray(sent.seen))]
    ours, plain = small().model(torch.stack(inputs)).softmax(1).numpy()
    apart, sure = np.abs(ours - plain).max(), np.diff(np.sort(plain))[-1] > 2e-3  # else either of two may be first
    assert apart <= 1e-3 and (ours.argmax() == plain.argmax() or not sure), f"{apart:.4f} apart: {sent}"


@settings(SAMPLE, max_examples=100)
@given(sent=ordinary())
def test_an_ordinary_file_is_what_a_person_sees(sent):
    picture = opened(sent.data)
    assert not isinstance(picture, str), f"{sent} was refused: {picture}"
    assert picture.size == sent.seen.shape[1::-1]
    assert np.abs(np.asarray(picture, np.int16) - sent.seen).max() <= 1, sent
    agree(picture, sent)


@settings(SAMPLE, max_examples=150)
@given(sent=harmed())
def test_a_harmed_file_is_a_picture_or_one_sentence(sent):
    began = time.thread_time()
    picture = opened(sent.data)
    if not isinstance(picture, str):
        seen = Preprocessing(36, 32, "bilinear", (0, 0, 0), (1, 1, 1))(picture)
        assert seen.shape == (3, 32, 32) and bool(torch.isfinite(seen).all())
    assert time.thread_time() - began < 2, sent
