"""The queue of runs behind the claims goes on where it was left; claims.json, README and page say the same."""

import argparse
import json
from pathlib import Path

import pytest

from mnv3 import claims
from mnv3.tables import Spec
from mnv3.training import RECIPES, Recipe, chosen_recipe, recipe_arguments
from tests.benchmarks import claims as bench


def recipe(job):
    """The Recipe that a job's options make."""
    parser = argparse.ArgumentParser()
    recipe_arguments(parser)
    return chosen_recipe(vars(parser.parse_args(job.options.split())))[0]


def test_what_is_compared_is_trained_alike():
    recipes = {job.name: recipe(job) for job in bench.jobs()}
    assert len(recipes) == len(bench.jobs()) == 2 + 2 + 4 * claims.SEEDS + 2 + 1
    own = ("variant", "width", "seed")
    rest = lambda r: {k: v for k, v in vars(r).items() if k not in own}  # noqa: E731
    short = [r for name, r in recipes.items() if "article" not in name]
    assert all(rest(r) == rest(short[0]) for r in short) and short[0].strides == 1
    for name, r in recipes.items():
        if "article" in name:  # its rate for its small network, for both Smalls
            lr = 0.01 if "small" in name else 0.001
            assert vars(r) == vars(Recipe(**{**RECIPES["article"], "variant": r.variant, "lr": lr}))
    for seed in range(claims.SEEDS):
        found = {r.variant for r in short if r.seed == seed and r.width == 1 and r.variant.startswith("small")}
        assert found == {"small", *claims.ABLATIONS}


@pytest.fixture
def queue(monkeypatch, tmp_path):
    """A queue of two runs whose commands are only written down; each leaves what a finished run leaves."""
    ran = []

    def pretend(command):
        ran.append(command)
        out = Path(command[command.index("--out") + 1])
        out.mkdir(parents=True, exist_ok=True)
        (out / "last.pt").touch()
        (out / "metrics.json").write_text(json.dumps({"test": {"top1": 0.5, "n": 10}}))
        return 0, False

    monkeypatch.setattr(bench, "jobs", lambda: [bench.Job(name, f"--variant {name}") for name in ("small", "v2")])
    monkeypatch.setattr(bench, "run", pretend)
    monkeypatch.setattr(claims, "FILE", tmp_path / "claims.json")
    return ran


def names(queue):
    return [command[command.index("--name") + 1] for command in queue]


def test_the_queue_does_each_run_once_and_goes_on_with_one_that_was_begun(queue, tmp_path):
    state = tmp_path / "state"
    assert bench.train("cifar10", state, "") == 0 and names(queue) == ["small", "v2"]
    assert not any("--resume" in command for command in queue)
    assert bench.train("cifar10", state, "") == 0 and len(queue) == 2
    (state / "small" / "metrics.json").write_text("{}")  # stopped before its test pictures
    assert bench.train("cifar10", state, "") == 0
    assert names(queue) == ["small", "v2", "small"] and "--resume" in queue[2]


def test_what_claims_json_has_is_not_run_again(queue, tmp_path):
    claims.FILE.write_text(json.dumps({"runs": {"small": {}}, "speed": {}}))
    assert bench.train("cifar10", tmp_path / "state", "") == 0 and names(queue) == ["v2"]


def test_a_queue_that_is_told_to_stop_begins_no_further_run(queue, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "run", lambda command: queue.append(command) or (130, True))
    assert bench.train("cifar10", tmp_path, "") == 130 and len(queue) == 1


def test_a_run_that_fails_does_not_keep_the_others(queue, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "run", lambda command: queue.append(command) or (1, False))
    assert bench.train("cifar10", tmp_path, "") == 1 and len(queue) == 2
    assert "failed: small, v2" in capsys.readouterr().out


def test_every_run_is_of_a_network_that_there_is():
    for job in bench.jobs():
        r = recipe(job)
        assert "article" in r.variant or Spec.of(r.variant, r.width, 10, r.strides)
