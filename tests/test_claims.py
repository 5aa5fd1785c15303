"""The queue of runs behind the claims goes on where it was left; claims.json, README and page say the same."""

import argparse
import copy
import json
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mnv3 import MobileNetV3, claims
from mnv3.checkpoints.reading import read_checkpoint
from mnv3.checkpoints.registry import BUNDLED
from mnv3.nets.spec import Spec
from mnv3.training.dataset import open_source
from mnv3.training.evaluation import predict
from mnv3.training.recipe import RECIPES, Recipe, chosen_recipe, recipe_arguments
from mnv3.web.views import claims as views_claims
from tests.benchmarks import claims as bench


def recipe(job):
    """The Recipe that a job's options make."""
    parser = argparse.ArgumentParser()
    recipe_arguments(parser)
    return chosen_recipe(vars(parser.parse_args(job.options.split())))[0]


def test_what_is_compared_is_trained_alike():
    recipes = {job.name: recipe(job) for job in bench.jobs()}
    assert len(recipes) == len(bench.jobs()) == 3 + 2 + 4 * claims.SEEDS + 2 + 1
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
    monkeypatch.setattr(bench, "evaluate", lambda *_: 0)
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


def test_a_signal_is_passed_on_and_the_command_waited_for():
    """SIGTERM comes while the command runs; this process's own handlers are back afterwards."""
    mine = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        handler = signal.getsignal(signal.SIGTERM)
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        assert bench.run([sys.executable, "-c", "import time; time.sleep(20)"]) == (-signal.SIGTERM, True)
        assert bench.run([sys.executable, "-c", "raise SystemExit(3)"]) == (3, False)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, mine)


def test_the_articles_networks_may_be_bundled_and_others_not(tmp_path):
    assert bench.finished_folder(tmp_path, "article-large") == BUNDLED / "cifar10-article-large"
    assert (BUNDLED / "cifar10-large").is_dir() and bench.finished_folder(tmp_path, "large") is None


def test_what_was_evaluated_is_kept(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(bench, "open_source", lambda *_: "source")

    def noted(folder, source, resolutions):
        asked.append((folder.name, resolutions))
        return {"held": 0.5}

    monkeypatch.setattr(bench, "evaluated", noted)
    for name in ("small-seed0", "small-seed1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text("{}" if name == "v2" else '{"test": {}}')
    for _ in range(2):
        bench.evaluate("cifar10", tmp_path)
    assert asked == [("cifar10-article-large", False), ("small-seed0", True), ("small-seed1", False)]
    assert json.loads((tmp_path / "small-seed1" / "evaluated.json").read_text()) == {"held": 0.5}


def test_every_run_is_of_a_network_that_there_is():
    for job in bench.jobs():
        r = recipe(job)
        assert "article" in r.variant or Spec.of(r.variant, r.width, 10, r.strides)


# ---- finished runs, looked at once more ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(straight, textures):
    return bench.evaluated(straight, open_source(str(textures), 0), resolutions=True)


def test_gates_held_at_test_time_are_every_blocks_mean(straight, textures, tmp_path, recalibrated, structured):
    """A network that says different things of different pictures, all but its first gates' means at 0, so that it
    shows; beside it, SE blocks replaced by hand."""
    torch.manual_seed(0)
    random = recalibrated(MobileNetV3("small", 0.35, 3, 2), structured(32, 32))
    checkpoint = replace(read_checkpoint(straight), model=random)
    means = tuple(np.zeros_like(mean) for mean in checkpoint.gates.mean)
    for mean in means:
        mean[:, :4] = 1
    replace(checkpoint, gates=replace(checkpoint.gates, mean=means)).save(tmp_path)
    found = bench.evaluated(tmp_path, open_source(str(textures), 0))["held"]
    model = copy.deepcopy(checkpoint.model)
    for row, mean in zip(model.gated, means, strict=True):
        layer = model.features[row]
        layer.block[layer.se_at] = Times(torch.from_numpy(mean[0]).float())
    test = open_source(str(textures), 0).read("test", checkpoint.preprocessing)
    normal = [torch.tensor(v) for v in (checkpoint.preprocessing.mean, checkpoint.preprocessing.std)]
    held, own = (
        (predict(m, test, *normal).argmax(1) == test.labels).float().mean().item() for m in (model, checkpoint.model)
    )
    assert found == pytest.approx(held, abs=1e-4)
    assert found != pytest.approx(own, abs=1e-4), "held or not is the same here: this shows nothing"


class Times(torch.nn.Module):
    def __init__(self, gates):
        super().__init__()
        self.gates = gates.view(1, -1, 1, 1)

    def forward(self, x):
        return x * self.gates


def test_at_its_own_resolution_a_network_is_as_good_as_its_metrics_say(straight, evaluated):
    found = evaluated["resolutions"]
    assert list(found) == list(claims.SIZES)
    assert found[32]["plain"] == json.loads((straight / "metrics.json").read_text())["test"]["top1"]
    adds = [at["multiply_adds"] for at in found.values()]
    assert adds == sorted(set(adds)) and any(at["plain"] != at["recalibrated"] for at in found.values())


# ---- verdicts -----------------------------------------------------------------------------------------------------


def run(top1, seed=0, **more):
    machine = {"hardware": "2 × a CPU", "torch": "2.0"}
    return {"top1": top1, "n": 10_000, "seed": seed, "machine": machine, "gates": {"spread": [0.1, 0.3]}, **more}


@pytest.fixture
def whole():
    """Made-up figures for every run, under which all that numbers decide holds."""
    runs = {name: run(top1) for name, top1 in zip(claims.ARTICLES, (0.7, 0.6, 0.8, 0.7), strict=True)}
    runs |= {"large": run(0.9), "v2": run(0.88), "small-width0.5": run(0.8), "small-width0.75": run(0.82)}
    for seed in range(claims.SEEDS):
        runs[f"small-seed{seed}"] = run(0.86 + seed / 1000, seed, held=0.7)
        runs |= {f"{variant}-seed{seed}": run(0.84 + seed / 1000, seed) for variant in claims.ABLATIONS}
    at = {str(size): {"plain": 0.86, "recalibrated": 0.86} for size in claims.SIZES}
    runs["small-seed0"]["resolutions"] = at
    times = {"v2": dict.fromkeys(claims.WAYS, 3.0), "large": dict.fromkeys(claims.WAYS, 2.0)}
    return {"runs": runs, "speed": {"machine": runs["v2"]["machine"], "n": 9, "networks": times}}


def verdicts(data):
    return {claim.said: claim.verdict for claim in claims.claims(data)}


def test_gates_of_the_articles_networks_stand_beside_the_papers(whole):
    whole["runs"]["article-small"]["gates"] = {"spread": [0.02, 0.04]}
    (gates,) = [claim for claim in claims.claims(whole) if "sigmoid gates are" in claim.said]
    assert "its Large 0.200" in gates.number and "its Small 0.030" in gates.number and claims.TRAIN not in gates.how
    del whole["runs"]["article-recipe-small"]
    (gates,) = [claim for claim in claims.claims(whole) if "sigmoid gates are" in claim.said]
    assert "the paper's Small" not in gates.number and claims.TRAIN in gates.how


def test_without_figures_it_says_so_with_the_command_that_makes_them(whole):
    found = claims.claims({"runs": {}, "speed": {}})
    still = [claim for claim in found if claim.verdict == claims.OPEN]
    assert len(still) == 9 and all(c.how in (f"`{claims.TRAIN}`", f"`{claims.SPEED}`") for c in still)
    assert claims.OPEN not in verdicts(whole).values() and len(found) == len(claims.claims(whole)) == 22


@pytest.mark.parametrize("missing", ["small-seed1", "small-relu-seed1"])
def test_with_fewer_seeds_it_says_what_there_is_of_pairs_and_gives_no_verdict(whole, missing):
    del whole["runs"][missing]
    (half,) = [c for c in claims.claims(whole) if "h-swish makes" in c.said]
    assert half.verdict == claims.PARTLY and claims.TRAIN in half.how and "2 seeds each" in half.how
    assert half.number.startswith("top-1 86.1 ± 0.1 % whole, 84.1 ± 0.1 % with ReLU")
    undecided = [c for c in claims.claims(whole) if c.verdict == claims.PARTLY]
    assert len(undecided) == (1 if "relu" in missing else 4)


def test_of_a_comparison_with_one_side_it_says_that_side(whole):
    del whole["runs"]["large"]
    (half,) = [c for c in claims.claims(whole) if "trained alike" in c.said]
    assert (half.number, half.verdict) == ("so far v2 88.0 %", claims.PARTLY)


def change(path, value):
    def changed(data):
        *parents, last = path
        for key in parents:
            data = data[key]
        data[last] = value

    return changed


AT = ("runs", "small-seed0", "resolutions")
FLIPS = [  # (what changes, words of the claim, verdict before, verdict after)
    (change(("runs", "v2", "top1"), 0.92), "CIFAR-10", claims.HOLDS, claims.NOT),
    (change(("runs", "v2", "top1"), 0.897), "CIFAR-10", claims.HOLDS, claims.UNDECIDED),
    (change(("speed", "networks", "large", "bare 32"), 4.0), "faster", claims.HOLDS, claims.CONDITIONS),
    (change(("speed", "networks", "large"), dict.fromkeys(claims.WAYS, 4.0)), "faster", claims.HOLDS, claims.NOT),
    (change(("runs", "article-large", "top1"), 0.5), "listings do", claims.HOLDS, claims.CONDITIONS),
    (change(("runs", "small-no-se-seed1", "top1"), 0.861), "Squeeze", claims.HOLDS, claims.UNDECIDED),
    (change(("runs", "small-seed2", "top1"), 0.8), "h-swish makes", claims.HOLDS, claims.UNDECIDED),
    (change(("runs", "small-seed1", "held"), 0.9), "hangs on gates", claims.HOLDS, claims.UNDECIDED),
    (change(("runs", "small-width0.75", "top1"), 0.79), "by width", claims.CONDITIONS, claims.NOT),
    (change((*AT, "64", "plain"), 0.5), "resolution", claims.HOLDS, claims.CONDITIONS),
]


@pytest.mark.parametrize("number", range(len(FLIPS)))
def test_a_verdict_follows_its_number(number, whole):
    changed, words, before, after = FLIPS[number]
    (said,) = [said for said in verdicts(whole) if words in said]
    was = verdicts(whole)
    changed(whole)
    now = verdicts(whole)
    assert (was.pop(said), now.pop(said)) == (before, after)


def test_what_was_counted_and_published_decides_without_a_run():
    found = verdicts({"runs": {}, "speed": {}})
    assert found["It takes fewer operations than MobileNetV2"] == claims.HOLDS
    assert found["It has fewer parameters than MobileNetV2"] == claims.NOT
    assert found["Of the article's own two networks, Small is the smaller"] == claims.NOT
    assert list(found.values()).count(claims.NOT_V3) == 7


def test_published_figures_are_torchvisions():
    from torchvision import models

    kinds = {"v2": "MobileNet_V2", "large": "MobileNet_V3_Large", "small": "MobileNet_V3_Small"}
    for name, kind in kinds.items():
        published = [w.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100 for w in models.get_model_weights(kind.lower())]
        assert [top1 for top1 in claims.TORCHVISION[name] if top1] == pytest.approx(published)


# ---- README and page ----------------------------------------------------------------------------------------------

README = Path(__file__).parent.parent / "README.md"


def test_readmes_tables_are_made_from_the_file():
    begin, end = claims.MARKS
    assert f"{begin}\n{claims.markdown(claims.read())}\n{end}" in README.read_text()


def test_the_page_shows_every_claim_of_the_file(whole, monkeypatch):
    monkeypatch.setattr(views_claims, "read", lambda: whole)
    whole["runs"]["v2"]["machine"]["hardware"] = "<b>a CPU"
    html = views_claims.section()
    assert html.count("scope='row'") == 22 + len(claims.networks()) and "<b>a CPU" not in html
    for claim in claims.claims(whole):
        assert f"<b>{claim.verdict}</b>" in html
    assert "top-1 90.0 % against 88.0 %" in html and "2 against 3" in html


def test_collecting_keeps_what_the_file_has_and_adds_what_was_finished(straight, tmp_path, monkeypatch):
    file, readme, state = tmp_path / "claims.json", tmp_path / "README.md", tmp_path / "state"
    monkeypatch.setattr(claims, "FILE", file)
    file.write_text(json.dumps({"runs": {"v2": run(0.5)}, "speed": {}}))
    readme.write_text("before\n{}\nold\n{}\nafter\n".format(*claims.MARKS))
    (state / "large").mkdir(parents=True)
    for name in ("metrics.json", "config.json", "model.safetensors", "gates.safetensors"):
        (state / "large" / name).symlink_to(straight / name)
    (state / "large" / "evaluated.json").write_text('{"held": 0.25}')
    assert bench.collect(state, readme) == 0
    runs = claims.read()["runs"]
    assert runs["v2"]["top1"] == 0.5 and runs["large"]["held"] == 0.25
    assert runs["large"]["top1"] == json.loads((straight / "metrics.json").read_text())["test"]["top1"]
    assert len(runs["large"]["gates"]["spread"]) == len(read_checkpoint(straight).model.gated)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "\nold\n" not in text and "| It has fewer" in text


def test_speed_times_each_way_of_every_kind_of_network():
    for spec in (Spec.of("v2", 0.35), Spec.of("small", 0.35)):
        taken = bench.milliseconds(spec, 64, rounds=1)
        assert tuple(taken) == claims.WAYS and min(taken.values()) > 0
