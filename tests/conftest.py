"""What several test files share: pictures, random networks that tell them apart, a Hub on this machine."""

import hashlib
import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the test processes share the cores, a thread each

import numpy as np
import pytest
import torch
from hub_standin import HubStandIn
from PIL import Image

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def structured():
    """structured(n, size, seed=0) -> (n, 3, size, size): smooth random scenes, as bright and as varied as pictures.

    White noise looks the same to a network once it is pooled, so two noise pictures would hardly differ.
    """

    def make(count, size, seed=0):
        random = torch.Generator().manual_seed(seed)
        coarse = torch.randn(count, 3, 4, 4, generator=random)
        scenes = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
        tint = torch.randn(count, 3, 1, 1, generator=random)
        return scenes + tint / 2 + torch.randn(count, 3, size, size, generator=random) / 10

    return make


@pytest.fixture(scope="session")
def recalibrated():
    """recalibrated(model, pictures) -> model in eval mode, whose answers differ from picture to picture.

    A freshly initialised net answers about 1e-9 to anything, so nothing tested on it can fail. Here BatchNorm gets
    random scales and shifts and the statistics of `pictures`; the last layer of each SE block is made stronger,
    so that gates reach 0 and 1 and lie between. Works on any net made of BatchNorm2d, ours or another's.
    """

    @torch.no_grad()
    def recalibrate(model, pictures, seed=0):
        random = torch.Generator().manual_seed(seed)
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.weight.copy_(0.5 + torch.rand(norm.weight.shape, generator=random))
            norm.bias.copy_(0.2 * torch.randn(norm.bias.shape, generator=random))
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over what it sees
        for name, module in model.named_modules():
            if name.endswith(("fc2", "se.conv_expand")):
                module.weight.mul_(4)
                module.bias.copy_(2 * torch.randn(module.bias.shape, generator=random))
        model.train()(pictures)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return model.eval().requires_grad_(False)

    return recalibrate


@pytest.fixture(scope="session")
def disagreement():
    """disagreement(a, b): the largest difference between two nets' logits, in units of what differs between pictures.

    For logits (N, K) of N pictures; the unit is the mean over classes of the standard deviation over pictures.
    """

    def measure(a, b):
        spread = b.std(0).mean().item()
        assert spread > 1e-3, "these logits hardly differ between pictures: no comparison of them could fail"
        return (a - b).abs().max().item() / spread

    return measure


@pytest.fixture(scope="session")
def example_pictures():
    """The pictures in examples/, opened as the app opens them."""
    from mnv3.images.decode import open_picture

    files = sorted(p for p in (ROOT / "examples").iterdir() if p.suffix in (".jpg", ".png"))
    assert files, "examples/ holds no pictures"
    return [open_picture(file) for file in files]


def shared(name):
    """A file of the data that lies beside the repository (or in MNV3_SHARED); skips where there is none, but in CI."""
    path = Path(os.environ.get("MNV3_SHARED", ROOT.parent / "shared")) / "data" / name
    if not path.is_file():
        reason = f"needs {name} in ../shared/data or in $MNV3_SHARED/data"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def needs_data():
    """The CIFAR-10 archive's path; a test that asks for it is skipped, with the reason, where there is no archive."""
    return shared("cifar10-jpeg.tar.xz")


@pytest.fixture(scope="session")
def cifar10_test(needs_data):
    """The first hundred test pictures of each class: (pictures, labels), 1,000 of each, in the classes' order."""
    from mnv3.images.decode import open_picture

    pictures, labels, classes = [], [], []
    with tarfile.open(needs_data) as archive:
        for member in archive:
            split, kind, *name = member.name.split("/")[1:] or [""] if member.isfile() else ["test", ""]
            if split != "test":
                break  # the archive has its test pictures first: the rest need not be unpacked
            if not name or int(name[0].removesuffix(".jpg")) >= 100:
                continue
            if kind not in classes:
                classes.append(kind)
            pictures.append(open_picture(archive.extractfile(member).read()))
            labels.append(kind)
    assert len(pictures) == 1000 and classes == sorted(classes)
    return pictures, np.array([classes.index(label) for label in labels])


@pytest.fixture
def private_caches(tmp_path, monkeypatch):
    """Empty caches of torch and the Hub, no token, no proxy: nothing of the host's gets into a test or out of it."""
    from huggingface_hub import constants

    home = tmp_path / "home"
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "HF_HOME", str(home / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "hf" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return home


@pytest.fixture
def in_torchs_cache(private_caches, monkeypatch):
    """in_torchs_cache(name, content) puts weights there, under a name with their own hash, and returns the path."""
    from mnv3.checkpoints.registry import TORCHVISION

    def put(name, content, **options):
        torch.save(content, kept := io.BytesIO(), **options)
        file = f"net-{hashlib.sha256(kept.getvalue()).hexdigest()[:8]}.pth"
        monkeypatch.setitem(TORCHVISION, name, replace(TORCHVISION[name], file=file))
        path = TORCHVISION[name].path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(kept.getvalue())
        return path

    return put


@pytest.fixture
def hub(private_caches, monkeypatch):
    """A stand-in for the Hub on 127.0.0.1; the installed client talks to it, with a cache of its own."""
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils import _http, close_session

    with HubStandIn() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        close_session()
        yield server
        set_client_factory(_http.default_client_factory)  # which mnv3.fetch has set


@pytest.fixture(scope="session")
def small_checkpoint(structured, recalibrated):
    """small_checkpoint(name="tiny") -> a narrow Small for ten classes, with gate statistics and metrics."""
    from mnv3.checkpoints.checkpoint import Checkpoint, GateStatistics
    from mnv3.images.preprocessing import Preprocessing
    from mnv3.nets.mobilenet import MobileNetV3

    torch.manual_seed(0)
    model = recalibrated(MobileNetV3("small", width=0.35, num_classes=10, strides=2), structured(32, 32))
    with torch.inference_mode():
        gates = [g.double().numpy() for g in model.explained(structured(100, 32, seed=1)).gates]
    groups = [range(100), *[range(k, 100, 10) for k in range(10)]]  # picture i is of class i % 10
    statistics = GateStatistics(
        np.array([len(group) for group in groups]),
        tuple(np.stack([g[group].mean(0) for group in groups]) for g in gates),
        tuple(np.stack([((g[group] - g[group].mean(0)) ** 2).sum(0) for group in groups]) for g in gates),
        "a hundred scenes",
    )
    preprocessing = Preprocessing(36, 32, "bilinear", (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
    metrics = {"test": {"n": 100, "top1": 0.25, "calibration_error": 0.125}}
    labels = tuple(f"kind {k}" for k in range(10))
    made = Checkpoint("tiny", model, labels, preprocessing, "a hundred scenes", statistics, metrics)
    return lambda name="tiny": replace(made, name=name)


@pytest.fixture(scope="session")
def textures(tmp_path_factory):
    """train/ and test/ with three classes of textures, JPEG and PNG, 40 and 12 of each."""
    from training_help import CLASSES, noise

    textures = tmp_path_factory.mktemp("data") / "textures"
    for split, count in (("train", 40), ("test", 12)):
        for k, name in enumerate(CLASSES):
            for i in range(count):
                coarse = noise(4 + 4 * k, 4 + 4 * k, 3, seed=1000 * k + i + 500 * (split == "test"))
                picture = Image.fromarray(coarse).resize((32, 32), Image.Resampling.NEAREST)
                path = textures / split / name / f"{i}.{'png' if i % 2 else 'jpg'}"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
    return textures


@pytest.fixture(scope="session")
def straight(textures, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    from training_help import arguments

    import train

    out = tmp_path_factory.mktemp("runs") / "straight"
    assert train.main(arguments(textures, out)) == 0
    return out
