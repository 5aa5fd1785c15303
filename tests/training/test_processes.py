"""Two processes, as torchrun starts them, learn and measure what one does; all stop where one was told to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ranks
import torch
from training_help import differences

import mnv3
from mnv3.images.decode import open_picture
from mnv3.training.dataset import batch_order
from mnv3.training.evaluation import score

SCRIPT = Path(ranks.__file__)


def torchrun(*words):
    """Two processes of ranks.py over gloo on this machine's loopback."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SCRIPT.parent.parent),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command += ["--nproc-per-node", "2", str(SCRIPT), *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def two(textures, tmp_path_factory):
    """What each of two processes found, their folder, and what was said; the second got SIGTERM in their first run."""
    folder = tmp_path_factory.mktemp("ranks")
    with torchrun(textures, folder) as runner:
        deadline = time.monotonic() + 120
        while not (folder / "process").exists() or not (folder / "process").read_text():
            assert runner.poll() is None and time.monotonic() < deadline, runner.stdout.read()
            time.sleep(0.02)
        os.kill(int((folder / "process").read_text()), signal.SIGTERM)
        (folder / "sent").touch()
        said, _ = runner.communicate(timeout=120)
    assert runner.returncode == 0, said
    return [torch.load(folder / f"rank {rank}", weights_only=True) for rank in (0, 1)], folder, said


def test_all_processes_stop_at_the_same_step_when_one_is_told_to(two):
    found, folder, said = two
    assert said.count("stopped and saved at step 9") == 1, said
    assert [f["stopped"] for f in found] == [(130, 9, 9, ["last.pt", "log.csv"])] * 2


def test_a_run_of_two_that_was_stopped_and_resumed_is_the_same_run(two):
    found, folder, _ = two
    assert [f["status"] for f in found] == [[0, 0], [0, 0]]
    assert differences(folder / "stopped", folder / "straight") == []


def test_what_ends_one_process_is_one_sentence_in_the_others(two):
    (first, why), (second, what) = (found["refused"] for found in two[0])
    assert (first, second) == (2, 1) and "is no folder here" in why and why.count("\n") == 1
    assert what == "train.py: another process of this run has ended: its own line says why.\n"


def test_a_picture_that_one_process_cannot_read_stops_all_at_the_same_step_and_the_state_is_saved(two):
    """The other had BatchNorm's statistics of the step already, and waited for its gradients."""
    for found in two[0]:
        status, said, step = found["gone"]
        assert (status, step) == (2, 3) and "10/0.jpg: it is gone. The state is saved at step 3: put the" in said


def test_the_published_figures_of_a_run_of_two_count_each_test_picture_once(two, textures):
    checkpoint = mnv3.load(two[1] / "straight")
    paths = sorted((textures / "test").glob("*/*"))
    with torch.inference_mode():
        logits = torch.stack([checkpoint.model(checkpoint.preprocess(open_picture(p))[None])[0] for p in paths])
    labels = torch.tensor([checkpoint.labels.index(path.parent.name) for path in paths])
    published, found = checkpoint.metrics["test"], score(logits, labels)
    for kind in ("n", "top1", "top1_per_class"):
        assert published[kind] == found[kind]
    assert published["n"] == 36 and published["loss"] == pytest.approx(found["loss"], abs=2e-4)
    assert checkpoint.gates.n.tolist() == [96, 32, 32, 32]


def test_two_processes_measure_what_one_does(two, textures):
    alone = ranks.measured(textures)
    assert len(alone["odd"]) == 23 and alone["odd n"].tolist() == [23, 9, 8, 6] + [0] * 7
    for found in two[0]:
        assert found["measured"].keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(found["measured"][name], value, atol=2e-4, rtol=2e-4, msg=name)


def test_two_processes_share_out_the_pictures_of_one_in_each_step(two):
    seen = [found["steps"]["seen"] for found in two[0]]
    for step in range(3):
        order = batch_order(23, ranks.FAST, step).tolist()
        assert [seen[0][step], seen[1][step]] == [order[0::2], order[1::2]]


def test_two_processes_have_the_same_weights_statistics_and_average_after_each_step(two):
    one, other = (found["steps"] for found in two[0])
    for kind in ("model", "average"):
        assert [name for name in one[kind] if not one[kind][name].equal(other[kind][name])] == []


@pytest.mark.parametrize("what", ["gradient", "in parts"])
def test_the_gradient_of_two_processes_is_that_of_one(what, two):
    """Up to rounding; also where each has its pictures in two parts."""
    alone = ranks.gradient(1)
    assert min(g.abs().max() for g in alone.values()) > 1e-5
    for found in two[0]:
        for name, expected in alone.items():
            assert (found[what][name] - expected).abs().max() < 1e-3 * expected.abs().max(), name
