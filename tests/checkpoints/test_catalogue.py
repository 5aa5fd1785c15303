"""Checkpoints by name: bundled, torchvision's, timm's, anyone's on the Hub; and what happens when fetching fails.

No test reaches the internet: downloads come from servers on 127.0.0.1, random weights stand in for the published.
"""

import copy
import hashlib
import json
import math
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import timm.data
import torch
import torchvision
from hub_standin import commit
from huggingface_hub import constants

import mnv3
from mnv3 import InputError
from mnv3.checkpoints import registry
from mnv3.inference import session as inference_session

TORCHVISION = {"torchvision/large-v2": "Large", "torchvision/large-v1": "Large", "torchvision/small": "Small"}


@pytest.fixture(autouse=True)
def a_fresh_start(private_caches, monkeypatch):
    """No caches, and nothing has failed yet."""
    monkeypatch.setattr(registry, "_failures", {})


@pytest.fixture
def no_network(monkeypatch):
    """Opening a connection or asking for an address fails the test, whoever catches what."""
    tried = []

    def refuse(*args, **_):
        tried.append(args)
        raise OSError("no test may open a connection")

    for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, refuse)
    yield
    assert not tried


@pytest.fixture
def bundled(tmp_path, monkeypatch, small_checkpoint):
    """A folder of bundled checkpoints of our own, holding cifar10-small."""
    monkeypatch.setattr(registry, "BUNDLED", tmp_path / "weights")
    small_checkpoint("cifar10-small").save(tmp_path / "weights" / "cifar10-small", half=True)
    return tmp_path / "weights"


def entry(name):
    return next(entry for entry in mnv3.catalogue() if entry.name == name)


def both(ours, theirs, pictures):
    """The logits of two networks, in float64, where rounding can't hide a difference nor make one."""
    with torch.inference_mode():
        return [copy.deepcopy(network).double()(pictures.double()) for network in (ours, theirs)]


def refusal(name, **options):
    """The one sentence with which load(name) is refused: no path of the host, no jargon of the client."""
    with pytest.raises(InputError) as refused:
        mnv3.load(name, **options)
    text = str(refused.value)
    assert text and "\n" not in text and len(text) < 700
    assert "Error" not in text and "Exception" not in text and "/home/" not in text and "/tmp/" not in text, text
    return text


# ---- the catalogue and the bundle ---------------------------------------------------------------------------------


def test_the_catalogue_needs_no_network(no_network, bundled):
    entries = mnv3.catalogue()
    published = dict.fromkeys([*registry.TORCHVISION, *registry.TIMM], "download")
    del published["torchvision/v2"]  # for programs alone: the page chooses between Large and Small
    assert {e.name: e.state for e in entries} == {**published, "cifar10-small": "here"}
    assert all(e.family and e.variant in ("large", "small") and e.megabytes > 0 and not e.why for e in entries)
    families = [e.family for e in entries]
    assert len({(e.family, e.variant) for e in entries}) == len(entries)  # one Large and one Small of each family
    assert families == sorted(families, key=list(registry.FAMILIES).index)  # the app's order


def test_a_bundled_checkpoint_loads_by_name(no_network, bundled, small_checkpoint, structured, disagreement):
    checkpoint, pictures = mnv3.load("cifar10-small"), structured(6, 32)
    assert checkpoint.name == "cifar10-small" and checkpoint.gates.count == 100
    assert disagreement(checkpoint.model(pictures), small_checkpoint().model(pictures)) < 0.05


def test_a_broken_bundled_checkpoint_is_listed_with_the_reason(no_network, bundled, small_checkpoint):
    small_checkpoint("cifar10-large").save(bundled / "cifar10-large")
    (bundled / "cifar10-large" / "config.json").write_text("{")
    small_checkpoint("mine").save(bundled / "mine")
    (bundled / "mine" / "model.safetensors").unlink()
    assert (entry("cifar10-large").state, entry("mine").state) == ("failed", "failed")
    assert "config.json" in entry("cifar10-large").why and "model.safetensors" in entry("mine").why
    assert entry("cifar10-small").state == "here" and mnv3.load("cifar10-small")


def test_a_name_that_is_none_is_answered_with_those_there_are(no_network, bundled):
    text = refusal("cifar10-medium")
    assert "cifar10-medium" in text and "cifar10-small" in text and "torchvision/large-v2" in text
    assert "torchvision/small" in refusal("torchvision/medium")


def test_the_real_bundle_is_here_and_whole(no_network):
    least = {"cifar10-large": 0.87, "cifar10-small": 0.88, "cifar10-article-large": 0.65, "cifar10-v2": 0.83}
    assert set(registry.bundled_names()) == set(least)
    for name in registry.bundled_names():
        checkpoint = mnv3.load(name)
        assert entry(name).state == "here" and f"cifar10-{checkpoint.spec.variant}" == name == checkpoint.name
        assert checkpoint.labels == tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
        test = checkpoint.metrics["test"]
        assert test["n"] == 10_000 and test["top1"] >= least[name]
        assert (checkpoint.gates is None) == (checkpoint.model.channels == []) == (name == "cifar10-v2")
        if gates := checkpoint.gates:
            assert len(gates.n) == 11 and gates.count == gates.n[1:].sum() >= 45_000
        stored = safetensors.torch.load_file(registry.BUNDLED / name / "model.safetensors")
        assert all(t.dtype == torch.float16 for t in stored.values() if t.dim() > 1)


def test_a_first_load_does_not_import_the_compiler():
    """torch._dynamo takes longer to import than the first visitor may wait, or who asks train.py for help.

    Initialising a meta tensor imports it, and torchvision does.
    """
    program = (
        "import sys, mnv3, train\nfrom mnv3.checkpoints.registry import bundled_names\n"
        "print([name for name in bundled_names() if mnv3.load(name) and 'torch._dynamo' in sys.modules])"
    )
    root = Path(mnv3.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_real_bundle_is_as_good_as_its_metrics_say(cifar10_test):
    pictures, labels = cifar10_test
    for name in registry.bundled_names():
        checkpoint = mnv3.load(name)
        stated = checkpoint.metrics["test"]["top1"]
        inputs = torch.stack([checkpoint.preprocess(picture) for picture in pictures])
        session = inference_session.fast(checkpoint, wait=True)
        guesses = np.concatenate([session.logits(batch) for batch in inputs.split(250)]).argmax(1)
        chance = np.sqrt(stated * (1 - stated) / len(labels))  # these are a thousand of the ten thousand
        assert abs((guesses == labels).mean() - stated) < 4 * chance


# ---- torchvision's weights ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torchvisions(recalibrated, structured):
    """torchvision's nets with random weights, recalibrated on 64 pixels, which is quicker."""
    make = lambda kind: getattr(torchvision.models, f"mobilenet_v3_{kind.lower()}")(weights=None)  # noqa: E731
    return {kind: recalibrated(make(kind), structured(8, 64)) for kind in ("Large", "Small")}


def published(name):
    """torchvision's own record of these weights: its transforms and class names."""
    source = registry.TORCHVISION[name]
    network = "V2" if source.variant == "v2" else f"V3_{source.variant.title()}"
    return torchvision.models.get_weight(f"MobileNet_{network}_Weights.{source.weights}")


@pytest.mark.parametrize("name", registry.TORCHVISION)
def test_file_names_are_torchvisions_so_that_one_download_serves_both(name):
    ours, theirs = registry.TORCHVISION[name], published(name)
    assert ours.file == theirs.url.rsplit("/", 1)[1]
    assert 100 * ours.top1 == pytest.approx(theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"])
    assert Path(torch.hub.get_dir()) in ours.path.parents


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_weights_in_its_cache_load_by_name(
    name, torchvisions, in_torchs_cache, no_network, example_pictures, structured, disagreement
):
    theirs = torchvisions[TORCHVISION[name]]
    in_torchs_cache(name, theirs.state_dict())
    checkpoint, pictures = mnv3.load(name), structured(4, 64, seed=3)
    assert entry(name).state == "here" and checkpoint.name == name and checkpoint.gates is None
    assert disagreement(*both(checkpoint.model, theirs, pictures)) < 1e-9
    for picture in example_pictures[:3]:
        wanted = published(name).transforms()(picture)
        torch.testing.assert_close(checkpoint.preprocess(picture), wanted, rtol=0, atol=1e-6)
    labels, categories = checkpoint.labels, published(name).meta["categories"]
    assert len(set(labels)) == 1000 and all(a.startswith(b) for a, b in zip(labels, categories, strict=True))


class Trap:
    """Unpickled, it makes a directory that tells of it."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_in_the_cache_is_refused_and_never_run(in_torchs_cache, no_network, tmp_path, zipped):
    marker = tmp_path / "ran"
    hostile = {"features.0.0.weight": Trap(marker)}
    path = in_torchs_cache("torchvision/small", hostile, _use_new_zipfile_serialization=zipped)
    kept = Path(shutil.copy(path, tmp_path / "kept.pth"))
    text = refusal("torchvision/small")
    assert not marker.exists()
    assert "removed" in text and not path.exists()
    assert entry("torchvision/small").state == "failed" and entry("torchvision/small").why == text
    torch.load(kept, weights_only=False)  # the control: the trap is a trap
    assert marker.exists()


@pytest.mark.parametrize("content", [{"features.0.0.weight": torch.zeros(16, 3, 3, 3)}, {"a": 1}, [1, 2], None])
def test_another_networks_file_in_the_cache_is_refused(in_torchs_cache, no_network, content):
    in_torchs_cache("torchvision/small", content)
    refusal("torchvision/small")


def test_a_changed_byte_in_torchs_cache_is_noticed(in_torchs_cache, torchvisions, no_network):
    path = in_torchs_cache("torchvision/small", torchvisions["Small"].state_dict())
    harm(path, "changed")
    assert "damaged" in refusal("torchvision/small") and not path.exists()


class FileServer:
    """Serves one file on 127.0.0.1. `cut` sends less than it promised; `garbage` is no HTTP at all."""

    def __init__(self, data, behaviour="well"):
        self.data, self.behaviour, self.asked = data, behaviour, 0

    def __enter__(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.asked += 1
                if outer.behaviour == "garbage":
                    return self.wfile.write(b"<html>please log in</html>\r\n\r\n")
                if outer.behaviour == "missing":
                    return self.send_error(404)
                self.send_response(200)
                self.send_header("Content-Length", str(len(outer.data)))
                self.end_headers()
                self.wfile.write(outer.data[: len(outer.data) // 2] if outer.behaviour == "cut" else outer.data)

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_address[1]}/"

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.mark.parametrize("fault", [PermissionError(13, "no"), MemoryError()], ids=lambda fault: type(fault).__name__)
def test_a_fault_of_the_machines_costs_no_cached_file(in_torchs_cache, torchvisions, no_network, monkeypatch, fault):
    path = in_torchs_cache("torchvision/small", torchvisions["Small"].state_dict())

    def load(*_, **__):
        raise fault

    monkeypatch.setattr(torch, "load", load)
    assert "can't be read" in refusal("torchvision/small") and path.exists()


@pytest.fixture
def for_download(torchvisions, tmp_path, monkeypatch):
    """torchvision/small's file, and point(url): from now on that is where it is fetched from."""
    torch.save(torchvisions["Small"].state_dict(), tmp_path / "small.pth")
    data = (tmp_path / "small.pth").read_bytes()
    source = registry.TORCHVISION["torchvision/small"]
    file = f"small-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    monkeypatch.setitem(registry.TORCHVISION, "torchvision/small", replace(source, file=file))
    point = lambda url: monkeypatch.setattr(published("torchvision/small").value, "url", url + file)  # noqa: E731
    return data, point


def cache():
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return list(folder.iterdir()) if folder.is_dir() else []


def test_a_download_tells_its_progress_and_is_kept(for_download, torchvisions, structured, disagreement):
    data, point = for_download
    calls = []
    with FileServer(data) as url:
        point(url)
        checkpoint = mnv3.load("torchvision/small", progress=lambda done, total: calls.append((done, total)))
    pictures = structured(4, 64, seed=3)
    assert disagreement(*both(checkpoint.model, torchvisions["Small"], pictures)) < 1e-9
    assert len(calls) > 3 and calls == sorted(calls) and calls[-1] == (len(data), len(data))
    (kept,) = cache()
    assert kept.read_bytes() == data and entry("torchvision/small").state == "here"
    assert mnv3.load("torchvision/small")  # the server is gone: from the cache


def test_a_downloaded_file_can_be_read_by_others(for_download):
    data, point = for_download
    with FileServer(data) as url:
        point(url)
        mnv3.load("torchvision/small")
    (kept,) = cache()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o644


@pytest.mark.parametrize("behaviour", ["cut", "garbage", "missing"])
def test_a_download_that_fails_leaves_nothing_behind(for_download, behaviour):
    data, point = for_download
    with FileServer(data, behaviour) as url:
        point(url)
        text = refusal("torchvision/small")
    assert cache() == [] and "torchvision/small" in text
    assert entry("torchvision/small").state == "failed" and entry("torchvision/small").why == text


def test_a_damaged_download_is_refused_by_its_hash(for_download):
    data, point = for_download
    with FileServer(data[:-1] + b"x") as url:
        point(url)
        assert "damaged" in refusal("torchvision/small")
    assert cache() == []


def test_a_download_may_be_tried_again(for_download):
    data, point = for_download
    point("http://127.0.0.1:9/")  # discard: nothing listens there
    assert "torchvision/small" in refusal("torchvision/small")
    assert entry("torchvision/small").state == "failed" and cache() == []
    with FileServer(data) as url:
        point(url)
        assert mnv3.load("torchvision/small")
    assert entry("torchvision/small").state == "here" and not entry("torchvision/small").why


# ---- the Hub ------------------------------------------------------------------------------------------------------


@pytest.fixture
def repo(hub, small_checkpoint, tmp_path):
    """user/repo on the stand-in Hub, with its folder."""
    folder = small_checkpoint().save(tmp_path / "repo")
    (folder / "pytorch_model.bin").write_bytes(b"x" * 1000)  # what nobody should fetch
    hub.add("user/repo", folder)
    return folder


@pytest.fixture
def same(small_checkpoint, structured):
    """same(checkpoint): whether it answers as the one that was put there."""
    pictures = structured(6, 32)
    return lambda checkpoint: torch.equal(checkpoint.model(pictures), small_checkpoint().model(pictures))


def test_a_hub_repo_loads_by_its_id(repo, hub, same):
    checkpoint = mnv3.load("user/repo")
    assert same(checkpoint) and checkpoint.name == "user/repo" and checkpoint.gates.count == 100
    assert not any("pytorch_model" in path for _, path in hub.requests)
    hub.requests.clear()
    assert same(mnv3.load("user/repo"))
    assert not any(method == "GET" and "/resolve/" in path for method, path in hub.requests)  # not fetched twice


def test_fetching_from_the_hub_tells_its_progress_in_bytes(repo):
    calls, monitors = [], lambda: [thread for thread in threading.enumerate() if type(thread).__name__ == "TMonitor"]
    before = len(monitors())
    mnv3.load("user/repo", progress=lambda done, total: calls.append((done, total)))
    assert len(monitors()) == before  # tqdm's threads, which never end
    most = sum(path.stat().st_size for path in repo.iterdir() if path.suffix != ".bin")
    least = (repo / "model.safetensors").stat().st_size
    assert len(calls) > 5 and calls[-1][0] == calls[-1][1] and least <= calls[-1][1] <= most
    assert all(0 <= done <= total <= most for done, total in calls)


def test_a_new_commit_on_the_hub_is_fetched(repo, hub, small_checkpoint, same):
    assert same(mnv3.load("user/repo"))
    checkpoint = small_checkpoint()
    replace(checkpoint, labels=tuple("abcdefghij")).save(repo)
    hub.add("user/repo", repo)
    assert mnv3.load("user/repo").labels == tuple("abcdefghij")


@pytest.mark.parametrize("progress", [None, lambda done, total: None], ids=["", "progress"])
@pytest.mark.parametrize("trouble", ["stopped", "drops", "silent", "overloaded", "unauthorised"])
def test_without_the_hub_the_cache_serves(repo, hub, same, monkeypatch, trouble, progress):
    mnv3.load("user/repo")
    out_of_order(hub, trouble, monkeypatch)
    assert same(within(15, lambda: mnv3.load("user/repo", progress=progress)))


@pytest.mark.parametrize("trouble", ["stopped", "drops", "silent", "overloaded"])
def test_neither_cached_nor_to_be_had_is_one_sentence_soon(repo, hub, monkeypatch, trouble):
    out_of_order(hub, trouble, monkeypatch)
    assert "user/repo" in within(15, lambda: refusal("user/repo"))


def out_of_order(hub, trouble, monkeypatch):
    # second, so that waiting for silence takes no time here
    monkeypatch.setattr("mnv3.checkpoints.download.TIMEOUT", 1)
    if trouble == "stopped":
        hub.stop()
    else:
        hub.behaviour = trouble


def within(seconds, ask):
    """ask(), unless it takes longer than `seconds`; a call that never returns fails and doesn't hang the tests."""
    answer = []

    def answering():
        try:
            answer.append((ask(), None))
        except BaseException as error:  # handed to the test
            answer.append((None, error))

    thread = threading.Thread(target=answering, daemon=True)
    thread.start()
    thread.join(seconds)
    assert answer, f"no answer within {seconds} s"
    value, error = answer[0]
    if error:
        raise error
    return value


@pytest.mark.parametrize(
    "trouble, said", [("not found", "not found"), ("unauthorised", "not found"), ("gated", "gated")]
)
def test_what_the_hub_refuses_is_said_in_words(repo, hub, trouble, said):
    hub.behaviour = trouble
    text = refusal("user/repo")
    assert "user/repo" in text and said in text and "HF_TOKEN" in text


@pytest.mark.parametrize("refused, wait, turns", [(2, 1, None), (2, 0, None), (math.inf, 1, 3), (math.inf, 3600, 1)])
def test_a_hub_that_is_asked_too_much_is_asked_again_when_it_says_and_not_for_ever(
    repo, hub, same, monkeypatch, refused, wait, turns
):
    waited = []
    monkeypatch.setattr("mnv3.checkpoints.download.time.sleep", waited.append)
    hub.requests.clear()
    hub.limited, hub.retry_after = refused, wait
    if turns is None:
        assert same(mnv3.load("user/repo")) and waited == [wait] * 2
    else:
        assert "too many requests" in refusal("user/repo")
        assert len(hub.requests) == turns and waited == [wait] * (turns - 1)


def test_a_hub_that_is_asked_too_much_in_the_middle_is_asked_again(repo, hub, same, monkeypatch):
    waited = []
    monkeypatch.setattr("mnv3.checkpoints.download.time.sleep", waited.append)
    hub.limits = lambda path: "gates.safetensors" in path and not waited
    assert same(mnv3.load("user/repo")) and len(waited) == 1
    waited.clear()
    hub.limits, hub.retry_after = lambda path: path.startswith("/store/"), 3600
    shutil.rmtree(constants.HF_HUB_CACHE)
    assert "too many requests" in refusal("user/repo") and not waited


@pytest.mark.parametrize(
    "behaviour, there, most", [("half", True, 60), ("stalls", True, 3), ("drops of it", True, 1),
                               ("drops of it", False, 1)]
)  # fmt: skip
def test_a_transfer_that_never_ends_is_given_up_and_costs_nothing_that_is_here(
    repo, hub, small_checkpoint, same, monkeypatch, behaviour, there, most
):
    if there:
        mnv3.load("user/repo")
        other = copy.deepcopy(small_checkpoint().model)
        other.classifier[3].weight.data += 1
        replace(small_checkpoint(), model=other).save(repo)
        hub.add("user/repo", repo)
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.05)))  # between the client's tries
    out_of_order(hub, behaviour, monkeypatch)
    hub.requests.clear()
    for _ in "with a Hub that goes on so, and then without one":
        if there:
            assert same(within(15, lambda: mnv3.load("user/repo")))
        else:
            assert "user/repo" in within(15, lambda: refusal("user/repo"))
        if hub.released.is_set():
            break
        hub.stop()
    assert 1 <= sum(path.startswith("/store/") for _, path in hub.requests) <= most  # by itself the client goes on
    left = [path.name for path in Path(constants.HF_HUB_CACHE).rglob("*.incomplete")]
    assert left == []


@pytest.mark.parametrize("cached", [True, False])
def test_with_hf_hub_offline_the_cache_serves_and_nobody_is_asked(repo, hub, same, monkeypatch, cached):
    if cached:
        mnv3.load("user/repo")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # what the client makes of HF_HUB_OFFLINE=1
    if cached:
        assert same(mnv3.load("user/repo"))
    else:
        assert "HF_HUB_OFFLINE" in refusal("user/repo")
    assert hub.requests == []


def blob(file):
    """Where the cache keeps a file of user/repo."""
    (path,) = Path(constants.HF_HUB_CACHE).glob(f"models--user--repo/snapshots/*/{file}")
    return path.resolve()


def harm(path, how):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if how == "changed" else data[: len(data) // 2])


@pytest.mark.parametrize("how", ["cut", "changed"])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_cache_that_was_damaged_is_mended_or_named_and_never_believed(repo, hub, same, file, how):
    mnv3.load("user/repo")
    harm(blob(file), how)
    assert same(mnv3.load("user/repo"))  # fetched again
    assert blob(file).read_bytes() == (repo / file).read_bytes()
    harm(blob(file), how)
    hub.stop()
    text = refusal("user/repo")
    assert file in text and "damaged" in text


@pytest.mark.parametrize("name", ["bare", "0a1b-something-else"])
def test_a_mirror_that_names_files_otherwise_is_believed(repo, hub, same, name):
    mnv3.load("user/repo")
    kept = blob("config.json")
    (link,) = (path for path in Path(constants.HF_HUB_CACHE).glob("*/snapshots/*/config.json"))
    link.unlink()
    link.symlink_to(kept.rename(kept.with_name(name.replace("bare", hashlib.sha1(kept.read_bytes()).hexdigest()))))
    hub.stop()
    assert same(mnv3.load("user/repo"))


def test_a_cache_that_cannot_be_written_is_said_so_and_still_read(repo, hub, same):
    place = Path(constants.HF_HUB_CACHE)
    place.parent.mkdir(parents=True)
    place.write_text("a file in the folder's place")
    assert "HF_HOME" in refusal("user/repo")
    place.unlink()
    assert same(mnv3.load("user/repo"))
    (repo / "README.md").write_text("a new commit, whose folder can't be made")
    hub.add("user/repo", repo)
    (place / "models--user--repo" / "snapshots" / commit(hub.repos["user/repo"])).write_text("")
    assert same(mnv3.load("user/repo"))


def test_a_cache_whose_notes_are_no_text_holds_nothing(hub, tmp_path):
    name = "timm/mobilenetv3_small_100.lamb_in1k"
    note = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs" / "main"
    note.parent.mkdir(parents=True)
    note.write_bytes(b"\xff\0")
    assert entry(name).state == "download"


def test_a_repo_that_was_renamed_is_found_where_it_is_now(repo, hub, same):
    hub.renamed = {"user/old": "user/repo"}
    assert same(mnv3.load("user/old"))


def test_a_repo_that_is_not_there_is_not_found(hub):
    assert "not found" in refusal("user/nothing")


def test_a_repo_of_something_else_is_no_checkpoint(hub, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("a diary")
    hub.add("user/other", tmp_path / "other")
    assert "user/other" in refusal("user/other")


def test_a_repo_too_large_is_refused_before_it_is_fetched(repo, hub, monkeypatch):
    monkeypatch.setattr("mnv3.checkpoints.download.MAX_WEIGHT_BYTES", 50_000)
    assert "user/repo" in refusal("user/repo")
    fetched = [path for method, path in hub.requests if method == "GET"]
    assert not any("model.safetensors" in path or "/store/" in path for path in fetched)


def test_a_stranger_cannot_send_code(repo, hub, tmp_path):
    marker = tmp_path / "ran"
    torch.save({"features.0.0.weight": Trap(marker)}, repo / "model.safetensors")
    hub.add("user/repo", repo)
    assert "model.safetensors" in refusal("user/repo")
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    ["./nope", "../nope", "/nope/nope", "~/nope", "~nobody-here/nope", "C:\\x\\y", "C:/x/y", "x\\y", ".\\x",
     "\\\\host\\x", "user/..", "../user", "user/re..po", "user/re--po", "user/repo/more", "user/", "/repo",
     "user/re po", "user/repo\n", "user/repo?x", "user/répo", "user/-repo", "https://hf.co/user/repo", "", " ",
     "a\0b/c", "x" * 300 + "/" + "y" * 300, "./" + "x" * 5000],
    ids=lambda name: repr(name)[:24],
)  # fmt: skip
def test_what_is_no_repo_id_makes_no_request(hub, bundled, name):
    refusal(name)
    assert hub.requests == []


def test_a_path_that_looks_like_a_repo_id_is_a_folder_where_one_is_there(hub, repo, tmp_path, monkeypatch, same):
    monkeypatch.chdir(tmp_path)
    replace_at = tmp_path / "user" / "repo"
    replace_at.parent.mkdir()
    repo.rename(replace_at)
    assert same(mnv3.load("user/repo")) and hub.requests == []
    assert same(mnv3.load("./user/repo")) and same(mnv3.load(Path("user/repo")))


def test_a_tilde_is_the_users_home(hub, repo, tmp_path, monkeypatch, same):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert same(mnv3.load("~/repo")) and hub.requests == []


# ---- timm's weights -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def timms(recalibrated, structured):
    """timm's nets with random weights, made once: variant -> network."""
    make = lambda variant: timm.create_model(f"mobilenetv3_{variant}_100", pretrained=False)  # noqa: E731
    return {variant: recalibrated(make(variant), structured(8, 64)) for variant in ("large", "small")}


@pytest.fixture
def timm_repo(hub, timms, tmp_path):
    """timm_repo(name) puts random weights and timm's own config.json under a name of timm's on the stand-in Hub."""

    def put(name, change=lambda tensors: None):
        theirs = timms[registry.TIMM[name][0]]
        folder = tmp_path / name.replace("/", "-")
        folder.mkdir()
        tensors = dict(theirs.state_dict())
        safetensors.torch.save_file(change(tensors) or tensors, folder / "model.safetensors")
        config = timm.models.get_pretrained_cfg(name.removeprefix("timm/")).to_dict()
        keep = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "num_classes")
        config = {key: config[key] for key in keep}
        architecture = name.removeprefix("timm/").split(".")[0]
        (folder / "config.json").write_text(json.dumps({"architecture": architecture, "pretrained_cfg": config}))
        hub.add(name, folder)
        return theirs, folder

    return put


@pytest.mark.parametrize("name", registry.TIMM)
def test_timms_weights_are_the_same_function(name, timm_repo, hub, structured, disagreement, example_pictures):
    theirs, _ = timm_repo(name)
    checkpoint, pictures = mnv3.load(name), structured(4, 64, seed=3)
    assert disagreement(*both(checkpoint.model, theirs, pictures)) < 1e-9
    assert checkpoint.spec.eps == 1e-5 and checkpoint.name == name and len(set(checkpoint.labels)) == 1000
    config = timm.data.resolve_data_config({}, pretrained_cfg=timm.models.get_pretrained_cfg(name[5:]).to_dict())
    transform = timm.data.create_transform(**config, is_training=False)
    for picture in example_pictures[:3]:
        torch.testing.assert_close(checkpoint.preprocess(picture), transform(picture), rtol=0, atol=1e-6)
    hub.stop()
    assert entry(name).state == "here" and mnv3.load(name)


def test_timms_weights_in_the_cache_need_no_network(timm_repo, hub):
    name = "timm/mobilenetv3_small_100.lamb_in1k"
    timm_repo(name)
    mnv3.load(name)
    hub.requests.clear()
    mnv3.load(name)
    assert hub.requests == []


def test_timms_eps_matters(timm_repo, structured, disagreement):
    """The control of the comparison above: with torchvision's eps it is another function."""
    theirs, folder = timm_repo("timm/mobilenetv3_small_100.lamb_in1k")
    tensors = registry.from_timm(safetensors.torch.load_file(folder / "model.safetensors"), mnv3.Spec.of("small"))
    pictures = structured(4, 64, seed=3)
    assert disagreement(*both(registry.build(mnv3.Spec.of("small"), tensors), theirs, pictures)) > 1e-3


TIMM_TENSOR = "blocks.3.0.se.conv_reduce.weight"


@pytest.mark.parametrize(
    "change",
    [lambda t: {k: v for k, v in t.items() if k != TIMM_TENSOR},
     lambda t: t | {"blocks.3.0.conv_xyz.weight": torch.zeros(1)},
     lambda t: t | {"blocks.3.0.bn1.gamma": torch.zeros(1)},
     lambda t: t | {TIMM_TENSOR: t[TIMM_TENSOR][:-1].clone()}],
    ids=["missing", "surplus", "renamed", "misshapen"],
)  # fmt: skip
def test_a_tensor_of_timms_that_does_not_fit_is_refused(timm_repo, change):
    timm_repo("timm/mobilenetv3_small_100.lamb_in1k", change)
    text = refusal("timm/mobilenetv3_small_100.lamb_in1k")
    assert "tensor" in text and ("blocks.3.0" in text or "features." in text)


@pytest.mark.parametrize("config", ["{", "{}", "[]", '{"pretrained_cfg": {"input_size": 3}}', '{"pretrained_cfg": []}'])
def test_a_damaged_config_of_timms_is_refused(timm_repo, hub, config):
    name = "timm/mobilenetv3_small_100.lamb_in1k"
    _, folder = timm_repo(name)
    (folder / "config.json").write_text(config)
    hub.add(name, folder)
    assert name in refusal(name)


def test_timms_tensorflow_ports_and_other_networks_are_refused_without_a_request(hub):
    assert "TensorFlow" in refusal("timm/tf_mobilenetv3_large_100.in1k")
    assert "timm/mobilenetv3_large_100.ra_in1k" in refusal("timm/resnet50.a1_in1k")
    assert hub.requests == []


def test_a_name_is_not_waited_for_longer_than_it_takes(hub, bundled):
    """Offline, the bundled ones and the catalogue come at once."""
    hub.stop()
    began = time.monotonic()
    mnv3.catalogue()
    mnv3.load("cifar10-small")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("name", [None, 5, b"cifar10-small", ["cifar10-small"]])
def test_what_is_no_text_is_no_name(name):
    with pytest.raises(InputError, match="no checkpoint's name"):
        mnv3.load(name)
