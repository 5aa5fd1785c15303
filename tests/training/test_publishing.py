"""A run publishes what it made, along the way and at the end, and whatever the Hub does costs no training."""

import re
import time

import pytest
import torch
from hub_standin import TOKEN
from huggingface_hub import set_client_factory
from huggingface_hub.utils import _http
from training_help import CLASSES, arguments, interrupted

import mnv3
import train
from mnv3.checkpoints import publish
from mnv3.training import recipe as training_recipe
from mnv3.training.recipe import chosen_recipe

REPO = "user/repo"


@pytest.fixture
def online(hub, monkeypatch):
    """The stand-in Hub, and a token for it; silence and retries take no time."""
    sleep = time.sleep
    monkeypatch.setattr("mnv3.checkpoints.publish.TIMEOUT", 1)
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: sleep(min(seconds, 0.02)))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield hub
    set_client_factory(_http.default_client_factory)


@pytest.fixture(autouse=True)
def token_stays_secret(online, tmp_path, capfd):
    """Neither the token nor a path of this machine is in what was pushed; the token isn't in what was said."""
    yield
    assert TOKEN not in "".join(capfd.readouterr())
    for files in online.repos.values():
        for name, content in files.items():
            assert TOKEN.encode() not in content and str(tmp_path.parent.parent).encode() not in content, name


def last_said(capfd):
    """The last line of all that was printed, in which the token is not."""
    out, err = capfd.readouterr()
    assert TOKEN not in out + err and "Traceback" not in err
    return (out if out.rstrip().rpartition("\n")[2].startswith("published") else err).rstrip().splitlines()[-1]


def push(textures, out, *more):
    return train.main(arguments(textures, out, "--push-to-hub", REPO, *more))


@pytest.mark.parametrize("behaviour", ["forbids", "drops"])
def test_a_refusal_is_known_before_any_step(behaviour, online, textures, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(train, "train_step", lambda *_: pytest.fail("a step was taken"))
    online.behaviour = behaviour
    assert push(textures, tmp_path / "run") == 2
    assert "can't be published to" in last_said(capfd)
    assert list((tmp_path / "run").iterdir()) == []


def test_what_would_be_refused_without_the_hub_leaves_no_repo_there(online, textures, tmp_path):
    assert push(textures, tmp_path / "run", "--variant", "article-small") == 2
    assert push(tmp_path / "nowhere", tmp_path / "run") == 2
    assert online.requests == [] and online.created == []


def test_a_finished_run_loads_from_the_hub_and_answers_the_same(online, textures, tmp_path, structured, capfd):
    assert push(textures, tmp_path / "run", "--epochs", "1", "--private") == 0
    assert last_said(capfd).startswith(f"published: {online.url}/{REPO}/commit/") and REPO in online.private
    ((_, _, names, _),) = online.commits
    assert names == {path.name for path in (tmp_path / "run").iterdir()} - {"last.pt"}
    pictures, pushed, local = structured(4, 32), mnv3.load(REPO), mnv3.load(tmp_path / "run")
    assert torch.equal(pushed.model(pictures), local.model(pictures)) and pushed.labels == CLASSES
    assert pushed.metrics["test"]["n"] == 36 and pushed.metrics["recipe"]["data"] == local.data


def test_along_the_way_the_averaged_weights_are_published_without_figures(online, textures, tmp_path, monkeypatch):
    first, start = [], publish.Pusher.start

    def started(pusher, folder):
        start(pusher, folder)
        pusher.wait()
        first.append((mnv3.load(REPO), torch.load(tmp_path / "run" / "last.pt", weights_only=True)["average"]))

    monkeypatch.setattr(publish.Pusher, "start", started)
    assert push(textures, tmp_path / "run", "--push-every", "1") == 0
    ((checkpoint, average),) = first  # of two epochs; the last is published with its figures
    assert [title for _, title, _, _ in online.commits] == [
        "A checkpoint of mnv3, while it is trained", "A checkpoint of mnv3",
    ]  # fmt: skip
    assert "test" not in checkpoint.metrics and checkpoint.metrics["log"][-1]["epoch"] == 1
    for name, tensor in checkpoint.model.state_dict().items():
        torch.testing.assert_close(tensor, average[name], rtol=2e-3, atol=1e-4, msg=name)  # fp16
    assert mnv3.load(REPO).metrics["test"]["n"] == 36


def test_a_push_that_fails_along_the_way_does_not_stop_the_training(online, textures, tmp_path, monkeypatch, capfd):
    wait = publish.Pusher.wait

    def waited(pusher):
        wait(pusher)
        online.behaviour = "well"

    monkeypatch.setattr(publish.Pusher, "wait", waited)
    online.behaviour = "cuts"
    assert push(textures, tmp_path / "run", "--push-every", "1") == 0
    assert capfd.readouterr().err.count("mnv3.hub: the training goes on, but") == 1
    assert len(online.commits) == 1 and mnv3.load(REPO).metrics["test"]["n"] == 36


def test_a_connection_that_breaks_at_the_end_leaves_all_here_and_names_the_command(
    online, textures, tmp_path, monkeypatch, capfd
):
    out, measure = tmp_path / "run", train.measure

    def measured(*inputs):
        measure(*inputs)
        online.behaviour = "cuts"

    monkeypatch.setattr(train, "measure", measured)
    assert push(textures, out, "--epochs", "1", "--private") == 1
    assert f"`python -m mnv3.hub push {out} {REPO} --private`" in last_said(capfd)
    assert mnv3.load(out).metrics["test"]["n"] == 36 and online.commits == []
    online.behaviour = "well"
    assert publish.main(["push", str(out), REPO, "--private"]) == 0
    assert mnv3.load(REPO).metrics == mnv3.load(out).metrics


def test_what_is_fetched_to_begin_from_is_told_of(online, small_checkpoint, tmp_path, monkeypatch, capfd):
    """Weights of --init and --teacher come over the network, at their first time."""
    monkeypatch.setattr("mnv3.distributed.TELL_EVERY", 0)
    for name in ("begin", "teach"):
        online.add(f"user/{name}", small_checkpoint().save(tmp_path / name))
    recipe, _ = chosen_recipe({"recipe": "cifar", "init": "user/begin", "teacher": "user/teach"})
    train.teacher_for(recipe, small_checkpoint().labels, torch.device("cpu"))
    said = capfd.readouterr().err
    for name in ("begin", "teach"):
        assert re.search(f"^fetching user/{name}: \\S+ of [1-9].\\d MB$", said, re.MULTILINE), said


def test_what_is_fetched_is_fetched_by_one_process(textures, tmp_path, monkeypatch, capfd, small_checkpoint):
    """The others wait, and find it in the cache."""
    alone, loaded = [], []

    def first_alone(work, device):
        alone.append(True)
        result = work()
        alone.pop()
        return result

    def load(name, progress):
        loaded.append((name, bool(alone)))
        return small_checkpoint()

    monkeypatch.setattr(train, "first_alone", first_alone)
    for place in (train, training_recipe):
        monkeypatch.setattr(place, "load", load)
    words = ["--init", "user/begin", "--teacher", "user/teach"]
    assert train.main(["--data", str(textures), "--out", str(tmp_path / "run"), *words]) == 2
    assert "knows other classes" in last_said(capfd)
    assert loaded == [("user/begin", True), ("user/teach", True)]


def test_a_finished_run_can_be_published_later_by_resuming_it(online, textures, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert train.main(arguments(textures, out, "--epochs", "1")) == 0
    monkeypatch.setattr(train, "train_step", lambda *_: pytest.fail("a step was taken"))
    assert push(textures, out, "--epochs", "1", "--resume") == 0
    assert mnv3.load(REPO).metrics["test"]["n"] == 36


@pytest.mark.parametrize("words", [["--private"], ["--push-every", "2"]])
def test_wishes_for_publishing_without_a_repo_are_refused(words, textures, tmp_path, capfd):
    assert train.main(arguments(textures, tmp_path / "run", *words)) == 2
    assert "needs --push-to-hub" in last_said(capfd)


def test_a_run_that_is_told_to_stop_waits_for_no_push(online, textures, tmp_path, monkeypatch):
    """Whoever told it gives it seconds, and what would be pushed is on the disk."""
    monkeypatch.setattr(publish.Pusher, "wait", lambda pusher: pytest.fail("it waited"))
    assert interrupted(textures, tmp_path / "run", 8, "--push-to-hub", REPO, "--push-every", "1") == 130
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == 8
