"""Publishing on the Hub: the real client against a Hub on 127.0.0.1, which takes, refuses, or breaks off."""

import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_standin import TOKEN
from huggingface_hub import ModelCard
from huggingface_hub.utils import _http

import mnv3
from mnv3 import InputError
from mnv3.checkpoints import publish
from mnv3.checkpoints.card import model_card
from mnv3.checkpoints.checkpoint import FILES
from mnv3.checkpoints.registry import BUNDLED, bundled_names

REPO = "user/repo"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Silence and retries take no time here."""
    sleep = time.sleep
    for module in ("publish", "download"):
        monkeypatch.setattr(f"mnv3.checkpoints.{module}.TIMEOUT", 1)
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: sleep(min(seconds, 0.02)))


@pytest.fixture(autouse=True)
def token_stays_secret(capfd):
    yield
    assert TOKEN not in "".join(capfd.readouterr())


@pytest.fixture
def online(request, monkeypatch):
    """The stand-in Hub, and a token for it."""
    standin = request.getfixturevalue("hub")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return standin


@pytest.fixture
def folder(small_checkpoint, tmp_path):
    """A checkpoint's folder as a training leaves it, with what is nobody else's business."""
    folder = small_checkpoint().save(tmp_path / "run")
    (folder / "curves.png").write_bytes(b"\x89PNG a drawing")
    (folder / "last.pt").write_bytes(b"the state" * 1000)
    (folder / ".model.safetensors.abc").write_bytes(b"half")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(ask):
    with pytest.raises(InputError) as refused:
        ask()
    text = str(refused.value)
    assert text and "\n" not in text and len(text) < 500 and "Error" not in text and TOKEN not in text, text
    assert refused.value.__suppress_context__ or refused.value.__context__ is None  # no traceback of the client's
    return text


def again(folder, options=""):
    return f"`python -m mnv3.hub push {folder} {REPO}{options}`"


def test_what_is_pushed_loads_by_its_id_and_answers_the_same(online, folder, structured, capfd):
    before = contents(folder)
    url = publish.push(folder, REPO, message="first")
    assert url.startswith(f"{online.url}/{REPO}/commit/") and contents(folder) == before
    assert capfd.readouterr().err == ""  # no bars over a training's
    assert online.commits == [(REPO, "first", {*FILES, "curves.png"} & set(before), set())]
    assert any(method == "PUT" for method, _ in online.requests)  # the weights went to the store
    pictures = structured(4, 32)
    pushed, local = mnv3.load(REPO), mnv3.load(folder)
    assert torch.equal(pushed.model(pictures), local.model(pictures)) and pushed.metrics == local.metrics
    card = online.repos[REPO]["README.md"].decode()
    assert card == model_card(local, REPO) and f'mnv3.load("{REPO}")' in card


def test_pushing_again_is_one_more_commit_and_leaves_no_gates_of_another_network(
    online, folder, small_checkpoint, capfd
):
    publish.push(folder, REPO)
    publish.push(folder, REPO)
    assert len(online.commits) == 1  # nothing had changed
    assert capfd.readouterr().err == ""
    replace(small_checkpoint(), gates=None, labels=tuple("abcdefghij")).save(folder)
    publish.push(folder, REPO)
    assert online.commits[1:] == [(REPO, "A checkpoint of mnv3", {"config.json"}, {"gates.safetensors"})]
    assert mnv3.load(REPO).gates is None


@pytest.mark.parametrize("private", [False, True])
def test_private_is_asked_for_when_the_repo_is_made(online, folder, private):
    publish.check_write(REPO, private)
    (made,) = online.created
    assert (made.get("visibility") == "private") is private
    publish.push(folder, REPO, private)
    assert len(online.created) == 1 and (REPO in online.private) is private


def test_what_is_to_be_private_is_not_published_in_a_public_repo(online, folder):
    online.repos[REPO] = {}
    assert "public" in refusal(lambda: publish.check_write(REPO, private=True))
    assert again(folder, " --private") in refusal(lambda: publish.push(folder, REPO, private=True))
    assert online.commits == []


@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
@pytest.mark.parametrize(
    "behaviour, said", [("forbids", "write access"), ("read-only", "read-only"), ("unauthorised", "HF_TOKEN"),
                        ("overloaded", "503"), ("drops", "can't be reached"), ("silent", "can't be reached")]
)  # fmt: skip
def test_before_training_it_is_made_sure_that_the_token_may_write(online, behaviour, said, there):
    """`there`: the client's create_repo(exist_ok=True) is content with a repo that it may only read."""
    if there:
        online.repos[REPO] = {}
    online.behaviour = behaviour
    assert said in refusal(lambda: publish.check_write(REPO))


def test_without_a_token_or_in_anothers_namespace_there_is_a_word_for_it(online, folder, monkeypatch):
    assert "'someone'" in refusal(lambda: publish.check_write("someone/repo"))
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert "does not know the token" in refusal(lambda: publish.check_write(REPO))
    monkeypatch.delenv("HF_TOKEN")
    online.requests.clear()
    assert "`hf auth login`" in refusal(lambda: publish.check_write(REPO))
    assert "`hf auth login`" in refusal(lambda: publish.push(folder, REPO))
    assert online.requests == []


def test_a_token_that_is_no_header_stays_secret(online, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_gehéim")
    for ask in (lambda: publish.check_write(REPO), lambda: publish.push(folder, REPO)):
        assert "hf_geh" not in refusal(ask)


@pytest.mark.parametrize("repo", ["repo", "a/b/c", "../x", "user/re po", "user/", "/tmp/x", "", "user/\udcff"])
def test_what_is_no_repo_id_is_refused(online, folder, repo):
    assert "user/repo" in refusal(lambda: publish.push(folder, repo))
    assert "user/repo" in refusal(lambda: publish.check_write(repo))
    assert all(path == "/api/whoami-v2" for _, path in online.requests)


@pytest.mark.parametrize(
    "behaviour", ["cuts", "cuts commits", "drops", "silent", "forbids", "unauthorised", "overloaded"]
)
def test_a_push_that_fails_leaves_every_file_and_says_how_to_try_again(online, folder, behaviour):
    before = contents(folder)
    online.behaviour = behaviour
    assert again(folder) in refusal(lambda: publish.push(folder, REPO))
    assert contents(folder) == before and online.commits == [] and mnv3.load(folder)
    online.behaviour = "well"
    online.released.set()
    assert publish.push(folder, REPO) and len(online.commits) == 1


@pytest.mark.parametrize("where", ["/api/repos/create", "/preupload/", "/objects/batch", "/store/", "/commit/"])
def test_a_push_that_is_told_to_wait_waits_and_one_that_is_told_so_for_ever_gives_up(online, folder, where):
    told, before = [], contents(folder)
    online.limits = lambda path: where in path and len(told) < 2 and not told.append(path)
    assert publish.push(folder, REPO) and len(told) == 2 and len(online.commits) == 1
    (folder / "curves.png").write_bytes(b"\x89PNG another drawing" * 10_000)  # enough to be stored
    before = contents(folder)
    for wait, most in ((1, 30), (3600, 1)):
        told.clear()
        online.retry_after, online.limits = wait, lambda path: where in path and not told.append(path)
        text = refusal(lambda: publish.push(folder, REPO))
        assert "too many requests" in text and again(folder) in text and 1 <= len(told) <= most
    assert contents(folder) == before and len(online.commits) == 1


def test_the_check_before_training_waits_as_it_is_told(online):
    for path in ("/api/whoami-v2", "/api/repos/create", f"/api/models/{REPO}/auth-check/write"):
        told = []
        online.limits = lambda asked, path=path, told=told: asked == path and len(told) < 2 and not told.append(asked)
        publish.check_write(REPO)
        assert len(told) == 2


def test_a_hub_that_is_gone_is_one_sentence(online, folder):
    online.stop()
    assert "can't be reached" in refusal(lambda: publish.push(folder, REPO))
    assert "can't be reached" in refusal(lambda: publish.check_write(REPO))


@pytest.mark.parametrize("damage", ["weights", "config", "no folder"])
def test_nothing_broken_is_published(online, folder, damage):
    if damage == "weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    elif damage == "config":
        (folder / "config.json").unlink()
    else:
        folder = folder / "nowhere"
    refusal(lambda: publish.push(folder, REPO))
    assert online.requests == []


# ---- along the way ------------------------------------------------------------------------------------------------


def test_a_push_in_the_background_sends_what_there_was_and_skips_while_busy(online, folder, small_checkpoint):
    online.writing.clear()
    pusher = publish.Pusher(REPO, private=True)
    pusher.start(folder)
    replace(small_checkpoint(), labels=tuple("abcdefghij")).save(folder)  # training goes on
    pusher.start(folder)
    online.writing.set()
    pusher.wait()
    assert len(online.commits) == 1 and mnv3.load(REPO).labels == small_checkpoint().labels and REPO in online.private
    pusher.start(folder)
    pusher.wait()
    assert len(online.commits) == 2 and mnv3.load(REPO).labels == tuple("abcdefghij")


def test_a_push_in_the_background_that_fails_warns_and_the_next_one_goes_through(online, folder, capfd):
    pusher = publish.Pusher(REPO)
    pusher.wait()  # nothing to wait for
    online.behaviour = "cuts"
    pusher.start(folder)
    pusher.wait()
    warning = capfd.readouterr().err
    assert again(folder) in warning and warning.count("\n") == 1
    pusher.start(folder / "nowhere")
    assert "nowhere" in capfd.readouterr().err
    online.behaviour = "well"
    pusher.start(folder)
    pusher.wait()
    assert len(online.commits) == 1 and capfd.readouterr().err == ""
    assert threading.active_count() < 20


# ---- the command --------------------------------------------------------------------------------------------------


def test_the_command_publishes_or_says_why_not(online, folder, capfd):
    assert publish.main(["push", str(folder), REPO, "--private"]) == 0
    assert f"{online.url}/{REPO}/commit/" in capfd.readouterr().out and REPO in online.private
    online.behaviour = "forbids"
    (folder / "curves.png").unlink()
    assert publish.main(["push", str(folder), REPO]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and again(folder) in err and TOKEN not in err


@pytest.fixture
def told_soon(monkeypatch):
    """Lines about what is under way come twenty times a second, and nothing is too slow."""
    monkeypatch.setattr(publish, "TELL_EVERY", 0.05)
    for module in ("publish", "download"):
        monkeypatch.setattr(f"mnv3.checkpoints.{module}.TIMEOUT", 10)


def test_a_slow_push_says_how_far_it_is(online, folder, told_soon, capfd):
    (folder / "curves.png").write_bytes(b"\x89PNG a drawing" * 600_000)  # more than the sockets between take in
    online.behaviour = "sips"
    assert publish.main(["push", str(folder), REPO]) == 0
    told = re.findall(r"^mnv3.hub: publishing to user/repo, .*, \d s so far$", capfd.readouterr().err, re.MULTILINE)
    parts = [float(done) for line in told for done in re.findall(r"curves.png (\S+) of 8.4 MB", line)]
    assert len(told) >= 3 and parts == sorted(parts) and 0 < parts[0] < parts[-1]


def test_a_slow_hub_is_told_of_before_training_and_a_push_along_the_way_leaves_that_to_it(
    online, folder, told_soon, monkeypatch, capfd
):
    online.limits = lambda path, told=[]: len(told) < 1 and not told.append(path)  # noqa: B006, once
    monkeypatch.setattr("mnv3.checkpoints.download.time.sleep", lambda seconds: threading.Event().wait(0.35))
    publish.check_write(REPO)
    assert "asking the Hub whether user/repo may be written to, 0 s so far\n" in capfd.readouterr().err
    online.behaviour = "sips"
    pusher = publish.Pusher(REPO)
    pusher.start(folder)
    pusher.wait()
    assert len(online.commits) == 1 and capfd.readouterr().err == ""


def test_the_command_runs_as_a_module(private_caches, folder):
    command = [sys.executable, "-W", "error", "-m", "mnv3.hub", "push", str(folder), REPO]
    home = {"HF_HOME": str(private_caches), "HF_ENDPOINT": "http://127.0.0.1:9", "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2], env=home
    )
    assert ran.returncode == 2 and ran.stdout == "" and ran.stderr.count("\n") == 1
    assert "HF_TOKEN" in ran.stderr and again(folder) in ran.stderr


# ---- the card -----------------------------------------------------------------------------------------------------


def parsed(checkpoint):
    return ModelCard(model_card(checkpoint), ignore_metadata_errors=False).data


def test_the_cards_results_are_the_measured_ones_as_the_hub_reads_them(small_checkpoint):
    test = {"n": 100, "top1": 0.25, "top5": 0.75, "calibration_error": 0.125, "top1_per_class": [0.1] * 9 + [None]}
    checkpoint = replace(small_checkpoint('a "name": #1 | é'), metrics={"test": test, "recipe": {"init": ""}})
    data = parsed(checkpoint)
    values = [(r.task_type, r.dataset_name, r.metric_type, r.metric_value) for r in data.eval_results]
    about = ("image-classification", "a hundred scenes")
    assert values == [(*about, "accuracy", 0.25), (*about, "top_5_accuracy", 0.75)]
    assert data.model_name == checkpoint.name and data.license == "mit" and data.library_name == "mnv3"
    card = model_card(checkpoint)
    assert "12.50%" in card and "| kind 8 | 10.0% |" in card and "kind 9" not in card


def test_the_card_states_nothing_that_was_not_measured(small_checkpoint):
    for metrics in ({}, {"published": {"n": 50_000, "top1": 0.75}}, {"test": {"n": 10, "top1": float("nan")}},
                    {"test": []}, {"recipe": {"init": "torchvision/small"}}):  # fmt: skip
        data = parsed(replace(small_checkpoint(), metrics=metrics))
        assert data.eval_results is None and data.license is None and data.datasets is None
    assert parsed(replace(small_checkpoint(), data="CIFAR-10, 50,000 pictures")).datasets == ["uoft-cs/cifar10"]
    assert parsed(replace(small_checkpoint(), data="CIFAR-100")).datasets is None


def test_the_table_of_classes_has_twenty_rows_at_most(small_checkpoint):
    shares = [k / 100 for k in range(30)]
    test = {"n": 100, "top1": 0.25, "top1_per_class": shares[::-1]}
    checkpoint = replace(small_checkpoint(), labels=tuple(f"a|{k}" for k in range(30)), metrics={"test": test})
    rows = [line for line in model_card(checkpoint).splitlines() if line.startswith("| a")]
    assert len(rows) == 20 and rows[0] == "| a\\|29 | 0.0% |" and rows[-1] == "| a\\|10 | 19.0% |"


@pytest.mark.parametrize("name", bundled_names())
def test_the_bundled_cards_are_what_would_be_written_today(name):
    checkpoint = mnv3.load(name)
    assert (BUNDLED / name / "README.md").read_text() == model_card(checkpoint)
    results = {r.metric_type: r.metric_value for r in parsed(checkpoint).eval_results}
    assert results["accuracy"] == checkpoint.metrics["test"]["top1"]
