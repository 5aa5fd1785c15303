"""Which engine: the explained pass in each that could serve it: python -m tests.benchmarks.engines [--write]

Each takes turns at one 224×224 picture and at a batch, with two threads; then eight threads ask each at once, each with
a picture of its own, and must get what they get alone. Medians in milliseconds; what each needs beside torch, in MB on
disk; seconds until it can serve. AOTInductor needs a C++ compiler, here and wherever a visitor brings a network.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mnv3.distributed import machine
from mnv3.inference import session as inference_session
from mnv3.nets.layers import ConvNormAct
from mnv3.nets.mobilenet import Network
from tests.benchmarks.speed import checkpoint
from tests.benchmarks.timing import medians, report, turns

RESULT = Path(__file__).with_name("engines.json")
ROUNDS, SETTLE, CALLS, BATCH = 8, 3, 5, 8
AT_ONCE, EACH = 8, 5
NEEDS = {"ONNX Runtime": ("onnxruntime", "onnx"), "eager, BatchNorm folded": (), "AOTInductor": ()}  # beside torch
Run = Callable[[torch.Tensor], list[np.ndarray]]


class Flat(nn.Module):
    """explained() as a tuple of tensors, which is what torch.export takes."""

    def __init__(self, model: Network):
        super().__init__()
        self.model = model

    def forward(self, images):
        return tuple(flat(self.model.explained(images)))


def onnx_runtime(net) -> Run:
    session = inference_session._prepare(net)  # in this thread, as in speed.py
    return lambda images: flat(session.run(images))


def flat(out: inference_session.Pass) -> list[np.ndarray]:
    return [out.logits, out.features, *out.gates, *out.energy]


def folded(net) -> Run:
    model = copy.deepcopy(net.model)
    for module in model.modules():
        if isinstance(module, ConvNormAct):
            module[0], module[1] = fuse_conv_bn_eval(module[0], module[1]), nn.Identity()
    model = Flat(model.to(memory_format=torch.channels_last))
    return lambda images: [out.numpy() for out in model(images)]


def inductor(net, count: int) -> Run:
    """For `count` pictures: a package for any number came out slower."""
    images = torch.randn(count, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        exported = torch.export.export(Flat(net.model), (images,))
        path = torch._inductor.aoti_compile_and_package(exported, package_path=f"{folder}/net.pt2")
        compiled = torch._inductor.aoti_load_package(path)
    return lambda images: [out.numpy() for out in compiled(images)]


def together(run: Run) -> bool:
    """Whether threads that ask at once get what each gets alone."""
    pictures = [torch.randn(1, 3, 224, 224) for _ in range(AT_ONCE)]

    @torch.inference_mode()
    def ask(picture):
        return [out.copy() for out in run(picture)]

    alone = [ask(picture) for picture in pictures]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        found = list(threads.map(ask, pictures * EACH))
    pairs = zip(found, alone * EACH, strict=True)
    return all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for one, other in pairs for a, b in zip(one, other, strict=True))


def megabytes(packages: tuple[str, ...]) -> float:
    files = [file for name in packages for file in distribution(name).files or [] if file.locate().is_file()]
    return round(sum(file.locate().stat().st_size for file in files) / 1e6, 1)


def timed(make: Callable[[], Run]) -> tuple[Run, float]:
    began = time.perf_counter()
    run = make()
    with torch.inference_mode():
        run(torch.randn(1, 3, 224, 224))
    return run, round(time.perf_counter() - began, 2)


@torch.inference_mode()
def engines(variant: str) -> dict:
    net = checkpoint(variant)
    made = {
        "ONNX Runtime": timed(lambda: onnx_runtime(net)),
        "eager, BatchNorm folded": timed(lambda: folded(net)),
        "AOTInductor": timed(lambda: inductor(net, 1)),
    }
    one, many = torch.randn(1, 3, 224, 224), torch.randn(BATCH, 3, 224, 224)
    right = flat(inference_session._in_torch(net, one))
    apart = {
        name: max(np.abs(a - b).max() / max(1, np.abs(b).max()) for a, b in zip(run(one), right, strict=True))
        for name, (run, _) in made.items()
    }
    single = medians(turns({n: lambda run=run: run(one) for n, (run, _) in made.items()}, ROUNDS, 1, SETTLE, CALLS), 2)
    batched = {name: run for name, (run, _) in made.items()} | {"AOTInductor": inductor(net, BATCH)}
    batch = medians(turns({n: lambda run=run: run(many) for n, run in batched.items()}, 4, 1, SETTLE, CALLS), 2)
    return {
        name: {
            "ms": single[name], f"ms a picture, batch {BATCH}": round(batch[name] / BATCH, 2),
            "seconds until it serves": seconds, "MB beside torch": megabytes(NEEDS[name]),
            "from torch's outputs at most": float(f"{apart[name]:.1e}"), "eight threads at once": together(run),
        }
        for name, (run, seconds) in made.items()
    }  # fmt: skip


def measured() -> dict:
    import onnxruntime

    torch.set_num_threads(inference_session.THREADS)
    where = machine(torch.device("cpu")) | {"onnxruntime": onnxruntime.__version__}
    return {"machine": where, "n": ROUNDS * CALLS} | {variant: engines(variant) for variant in ("large", "small")}


if __name__ == "__main__":
    report(__doc__, RESULT, measured)
