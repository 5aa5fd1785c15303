"""What visitors bring: hostile uploads, repo ids and paths are refused in one sentence; theirs is theirs alone."""

import json
import os
import pickle
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from mnv3 import InputError
from mnv3.checkpoints import download, reading
from mnv3.checkpoints.registry import Entry
from mnv3.web import user_checkpoints
from mnv3.web.settings import read

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(small_checkpoint, tmp_path):
    return small_checkpoint().save(tmp_path / "made", half=True)


@pytest.fixture(autouse=True)
def nobody_yet(monkeypatch):
    monkeypatch.setattr(user_checkpoints, "_kept", type(user_checkpoints._kept)())


def files(folder, *without, **instead):
    """The folder's files as an upload: [(name, path), ...]."""
    found = [(path.name, path) for path in sorted(folder.iterdir()) if path.name not in without]
    return found + [(name, path) for name, path in instead.items()]


def refused(read, *arguments):
    with pytest.raises(InputError) as caught:
        read(*arguments)
    words = str(caught.value)
    assert 10 < len(words) < 500 and "\n" not in words
    for word in ("/tmp", "/root", str(ROOT), "Traceback"):
        assert word not in words, words
    return words


# Uploads --------------------------------------------------------------------------------------------------------


def test_an_upload_is_read_as_it_was_saved(folder, small_checkpoint):
    found = user_checkpoints.from_files(files(folder))
    assert found.name == "tiny (yours)" and found.labels == small_checkpoint().labels
    assert found.gates.count == 100 and found.metrics["test"]["top1"] == 0.25
    for name, tensor in small_checkpoint().model.state_dict().items():
        assert torch.allclose(found.model.state_dict()[name], tensor, atol=1e-2), name


def test_gates_and_metrics_may_be_missing(folder):
    found = user_checkpoints.from_files(files(folder, "gates.safetensors", "metrics.json", "README.md"))
    assert found.gates is None and found.metrics == {}


def test_an_upload_that_was_cleaned_up_is_asked_for_again(folder):
    """A page may stay open for longer than uploads are kept."""
    sent = files(folder)
    (folder / "config.json").unlink()
    assert "config.json is no longer here" in refused(user_checkpoints.from_files, sent)


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_a_pickle_is_never_opened(folder, tmp_path):
    bomb, sign = tmp_path / "model.pt", tmp_path / "it ran"
    bomb.write_bytes(pickle.dumps(Evil(sign)))
    upload = files(folder, "model.safetensors")
    assert "lacks model.safetensors" in refused(user_checkpoints.from_files, [*upload, ("model.pt", bomb)])
    assert "model.safetensors" in refused(user_checkpoints.from_files, [*upload, ("model.safetensors", bomb)])
    assert "config.json" in refused(user_checkpoints.from_files, [*files(folder, "config.json"), ("config.json", bomb)])
    assert not sign.exists()


@pytest.mark.parametrize(
    "name",
    ["../config.json", "/etc/config.json", "a/../../config.json", "..\\config.json", "CONFIG.JSON", "config.json\0"],
)
def test_names_lead_nowhere(folder, tmp_path, name):
    """Only four names are known; a file under any other is left alone, and nothing is written by it."""
    before = sorted(tmp_path.rglob("*"))
    words = refused(user_checkpoints.from_files, [*files(folder, "config.json"), (name, folder / "config.json")])
    assert "lacks config.json" in words
    assert sorted(tmp_path.rglob("*")) == before
    assert user_checkpoints.from_files([*files(folder), (name, folder / "config.json")]).name == "tiny (yours)"


def test_two_of_a_name_are_refused(folder):
    assert "two files" in refused(
        user_checkpoints.from_files, [*files(folder), ("config.json", folder / "config.json")]
    )


def test_nothing_is_asked_for(folder):
    assert "config.json" in refused(user_checkpoints.from_files, [])


def changed(folder, **change):
    config = json.loads((folder / "config.json").read_text())
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(config))
    return files(folder)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"format": "other"}, "format"), ({"surplus": 1}, "surplus"), ({"labels": ["a"]}, "labels"),
        ({"spec": {"num_classes": 11}}, "labels"), ({"spec": {"stem": 10**9}}, "stem"),
        ({"preprocessing": {"crop": 10**6}}, "crop"), ({"name": "x" * 10**5}, "name"),
        ({"preprocessing": {"resize": 900, "crop": 900}, "spec": {"last": 2048}}, "multiply-adds"),
    ],
)  # fmt: skip
def test_a_hostile_config(folder, change, word):
    assert word in refused(user_checkpoints.from_files, changed(folder, **change))


@pytest.mark.parametrize("se, rows", [(True, 30), (False, 11)])
def test_maps_are_bounded_for_all_rows_of_a_batch(folder, se, rows):
    """28 blocks of kernel 1 take few multiply-adds and fit into 35 MB, but their causal batch of 30 would take 12 GB.
    Without SE there is none, and Trust's passes take their place."""
    row = {"kernel": 1, "expand": 4096, "out": 1, "se": se, "act": "RE", "stride": 1}
    wide = {"rows": [row] * 28, "stem": 1, "last": 1, "hidden": 0, "squeeze": 64}
    sides = {"resize": 90, "crop": 90}
    assert f"for {rows} pictures of 90×90" in refused(
        user_checkpoints.from_files, changed(folder, spec=wide, preprocessing=sides)
    )


def test_a_huge_config_is_not_read(folder):
    (folder / "config.json").write_text("[" * reading.MAX_JSON_BYTES + "]")
    assert "at most" in refused(user_checkpoints.from_files, files(folder))
    (folder / "config.json").write_text("[" * 100_000)
    assert "JSON" in refused(user_checkpoints.from_files, files(folder))


def test_weights_that_are_too_large_are_not_copied(folder, monkeypatch):
    monkeypatch.setattr(user_checkpoints, "MOST_BYTES", 1000)
    copied, real = [], user_checkpoints.shutil.copyfile
    monkeypatch.setattr(
        user_checkpoints.shutil, "copyfile", lambda *paths: copied.append(paths[1].name) or real(*paths)
    )
    assert "at most 1,000" in refused(user_checkpoints.from_files, files(folder))
    assert "model.safetensors" not in copied


@pytest.mark.parametrize("change", ["missing", "surplus", "shape", "nan", "cut"])
def test_wrong_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    name = "features.0.0.weight"
    if change == "missing":
        del tensors[name]
    elif change == "surplus":
        name = "more"
        tensors[name] = torch.zeros(1)
    elif change == "shape":
        tensors[name] = torch.zeros(1, 3, 3, 3)
    elif change == "nan":
        tensors[name] = tensors[name] * float("nan")
    path.write_bytes(safetensors.torch.save(tensors))
    if change == "cut":
        name = "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
    assert name in refused(user_checkpoints.from_files, files(folder))


def test_nothing_is_left_behind(folder, tmp_path, monkeypatch):
    import tempfile

    private = tmp_path / "private"
    private.mkdir()
    modes, real = [], reading.read_checkpoint

    def looking(where, name=None):
        modes.append(stat.S_IMODE(where.stat().st_mode))
        return real(where, name)

    monkeypatch.setattr(tempfile, "tempdir", str(private))
    monkeypatch.setattr(user_checkpoints, "read_checkpoint", looking)
    user_checkpoints.from_files(files(folder))
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    refused(user_checkpoints.from_files, files(folder))
    assert modes == [0o700, 0o700] and list(private.iterdir()) == []


# The Hub --------------------------------------------------------------------------------------------------------

PATHS = [
    "../x", "/etc", "/etc/passwd", "~/x", "./x/y", "..", "a/../b", "x/..", "C:\\x", "file:///etc", "user/repo/more",
    "user", "", "user/re po", "user//repo", "-x/y", ".x/y", "x/.y", "a--b/c", "http://hub.example/user/repo", "ü/ü",
    "u" * 97 + "/r", "datasets/user/repo", "/usr/lib/cifar10-small", "user/re\npo", "user/repo\0", None, 3,
]  # fmt: skip


@pytest.mark.parametrize("repo", PATHS)
def test_what_is_no_repo_id_is_neither_opened_nor_fetched(repo, hub):
    assert "user/repo" in refused(user_checkpoints.from_hub, repo) and hub.requests == []


def test_folders_that_look_like_repos_are_not_opened(hub, folder, monkeypatch):
    """mnv3.load would open an existing folder user/repo: what a visitor types must not."""
    there = folder.parent / "user" / "repo"
    there.parent.mkdir()
    folder.rename(there)
    monkeypatch.chdir(folder.parent)
    assert "public repos" in refused(user_checkpoints.from_hub, "user/repo")


def test_a_repo_is_opened_and_nothing_kept_on_disk(hub, folder, private_caches):
    hub.add("user/repo", folder)
    told = []
    found = user_checkpoints.from_hub(
        " https://huggingface.co/user/repo/ ", lambda done, total: told.append((done, total))
    )
    assert found.name == "user/repo (yours)" and found.gates.count == 100
    assert told and told[-1][0] == told[-1][1]
    left = [path for path in private_caches.rglob("*") if path.is_file()]
    assert left == [], "the host's cache holds a visitor's files"


def test_the_hosts_token_and_cache_open_nothing_for_visitors(hub, folder, monkeypatch):
    """The host may have private repos: fetched, in its cache, and open to its token."""
    from mnv3 import load

    hub.add("host/secret", folder)
    load("host/secret")
    seen, real = [], download.fetch_repo
    hub.behaviour = "unauthorised"
    assert load("host/secret").name == "host/secret", "the host itself has it in its cache"
    assert "public repos" in refused(user_checkpoints.from_hub, "host/secret")
    monkeypatch.setenv("HF_TOKEN", "hf_hostsOwn")
    import huggingface_hub.file_download as client

    real = client.build_hf_headers
    monkeypatch.setattr(client, "build_hf_headers", lambda **named: seen.append(real(**named)) or seen[-1])
    hub.behaviour = "well"
    user_checkpoints.from_hub("host/secret")
    assert seen and not any("authorization" in map(str.lower, headers) for headers in seen)
    seen.clear()
    load("host/secret")
    assert any("authorization" in map(str.lower, headers) for headers in seen), "this test could not have failed"


@pytest.mark.parametrize("behaviour", ["not found", "gated", "overloaded", "drops", "limits"])
def test_failures_of_the_hub_are_sentences_for_visitors(hub, folder, behaviour):
    hub.add("user/repo", folder)
    hub.behaviour, hub.limited, hub.retry_after = behaviour, 99 * (behaviour == "limits"), 3600
    words = refused(user_checkpoints.from_hub, "user/repo")
    assert "HF_TOKEN" not in words and "HF_HOME" not in words


def test_a_repo_that_is_too_large_is_not_fetched(hub, folder, monkeypatch):
    monkeypatch.setattr(user_checkpoints, "MOST_BYTES", 100_000)
    hub.add("user/repo", folder)
    assert "at most" in refused(user_checkpoints.from_hub, "user/repo")
    assert not any("/store/" in path and method == "GET" for method, path in hub.requests)


def test_what_the_list_has_is_chosen_there():
    assert "list of weights" in refused(user_checkpoints.from_hub, "timm/mobilenetv3_small_100.lamb_in1k")


# Kept, for whom, for how long -----------------------------------------------------------------------------------


def test_names_cannot_be_guessed_or_taken(small_checkpoint):
    names = {user_checkpoints.keep(small_checkpoint("cifar10-small"), visitor) for visitor in "ab" for _ in range(2)}
    assert len(names) == 4 and all(user_checkpoints.is_own(name) and len(name) > 20 for name in names)
    for name in ("cifar10-small", "own-", "own-cifar10-small", "own-../x", next(iter(names))[:-1]):
        assert "no longer kept" in refused(user_checkpoints.kept, name)
    for name in (None, 3, "cifar10-small", ["own-x"]):
        assert not user_checkpoints.is_own(name)


def test_each_visitor_has_a_few_and_all_together_some(small_checkpoint):
    mine = [user_checkpoints.keep(small_checkpoint(str(i)), "me") for i in range(user_checkpoints.KEPT_PER_VISITOR + 1)]
    assert [entry.name for entry in user_checkpoints.entries(mine)] == mine[1:]
    refused(user_checkpoints.kept, mine[0])
    others = [user_checkpoints.keep(small_checkpoint(), f"visitor {i}") for i in range(user_checkpoints.KEPT - 2)]
    user_checkpoints.kept(mine[1])  # used, so not the oldest
    user_checkpoints.keep(small_checkpoint(), "one more")
    assert user_checkpoints.kept(mine[1]) and user_checkpoints.kept(others[-1])
    refused(user_checkpoints.kept, mine[2])


def test_entries_say_whose_they_are(small_checkpoint):
    name = user_checkpoints.keep(replace(small_checkpoint(), name="tiny (yours)"), "me")
    (entry,) = user_checkpoints.entries([name, "own-gone"])
    assert entry.name == entry.family == name and entry.variant == "small" and entry.state == "here"
    assert entry.title.startswith("Yours · tiny · ")


# What a host can set --------------------------------------------------------------------------------------------

ENTRIES = [
    Entry("a/large", "ImageNet · a", "large", "", "here", 22),
    Entry("a/small", "ImageNet · a", "small", "", "here", 10),
    Entry("b", "21k, b", "large", "", "download", 22), Entry("mine", "CIFAR-10 · bundled", "small", "", "here", 3),
]  # fmt: skip


def test_settings_by_family_or_checkpoint():
    plain = read({}, ENTRIES)
    assert plain.default == "" and plain.own and all(plain.offers(entry) for entry in ENTRIES)
    few = read({"MNV3_WEIGHTS": "a/small", "MNV3_OFFERED": " 21k, b ; ImageNet · a;", "MNV3_OWN": "Closed"}, ENTRIES)
    assert few.default == "ImageNet · a" and not few.own
    assert [few.offers(entry) for entry in ENTRIES] == [True, True, True, False]
    assert read({"MNV3_OWN": "", "MNV3_OFFERED": ";", "MNV3_WEIGHTS": " "}, ENTRIES) == plain


@pytest.mark.parametrize(
    "variable, value, word",
    [
        ("MNV3_WEIGHTS", "nothing", "choose from a/large"), ("MNV3_OFFERED", "mine; c", "'c'"),
        ("MNV3_OWN", "yes", "closed"),
    ],
)  # fmt: skip
def test_a_bad_setting_is_one_sentence(variable, value, word):
    words = refused(read, {variable: value}, ENTRIES)
    assert variable in words and word in words


def test_what_the_page_cannot_choose_is_no_setting():
    entries = [*ENTRIES, Entry("broken", "broken · bundled", "", "", "failed", 0, "no config")]
    for variable in ("MNV3_OFFERED", "MNV3_WEIGHTS"):
        assert "choose from" in refused(read, {variable: "broken"}, entries)


def test_a_default_that_is_not_offered():
    assert "add it" in refused(read, {"MNV3_WEIGHTS": "mine", "MNV3_OFFERED": "b"}, ENTRIES)
