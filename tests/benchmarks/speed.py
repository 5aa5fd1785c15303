"""How fast the explanation is, beside what else there is: python -m tests.benchmarks.speed [--write]

Everything takes turns in one process, so that whatever else the machine does falls on all alike; the first rounds are
left out. Medians in milliseconds, and ratios of each round's neighbours. torch has one thread and two, and ratios are
against the faster: where a core isn't free, two that wait for each other take longer. --write keeps the result as
speed.json, which the README quotes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from mnv3.checkpoints.checkpoint import Checkpoint
from mnv3.distributed import machine
from mnv3.explanation.randomization import recalibrate
from mnv3.images.preprocessing import Preprocessing
from mnv3.inference import onnx_graph
from mnv3.inference import session as inference_session
from mnv3.nets.factory import network
from mnv3.nets.mobilenet import MobileNetV3, Network
from mnv3.nets.spec import Spec
from mnv3.nets.tutorial import ArticleSpec
from tests.benchmarks.timing import against, medians, report, turns

RESULT = Path(__file__).with_name("speed.json")
ROUNDS, SETTLE, CALLS, BATCH = 12, 3, 5, 64


class Bare(onnx_graph._Writer):
    """The same network with nothing but logits: what any program that runs it must do."""

    def gate(self, h, layer, block, positive):
        return self.node("Mul", h, self.gates(h, layer))

    def model(self):
        model = super().model()
        del model.graph.output[0]  # the last map
        return model


class BareSession:
    def __init__(self, model):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 2, 3
        written = Bare(model).model().SerializeToString()
        self.session = onnxruntime.InferenceSession(written, options, ["CPUExecutionProvider"])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.session.run(["logits"], {"images": images})[0]


def settled(spec: Spec | ArticleSpec, side: int) -> Network:
    """The network with random weights, which don't change how long it takes, and with BatchNorm's statistics of its
    own: without them its numbers would be subnormal, which would."""
    torch.manual_seed(0)
    model = network(spec)
    recalibrate(model, [torch.randn(16, 3, side, side)])
    return model.requires_grad_(False)


def checkpoint(variant: str, width: float = 1.0) -> Checkpoint:
    """The network at its full size."""
    model = settled(Spec.of(variant, width), 224)
    prepared = Preprocessing(256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    labels = tuple(map(str, range(1000)))
    return Checkpoint(f"random {variant}", model, labels, prepared, "nothing")


def torchvision_with_hooks(variant: str, ours: MobileNetV3):
    """torchvision's network in eager mode, gates and the inputs of SE blocks collected by forward hooks."""
    from torchvision import models
    from torchvision.ops import SqueezeExcitation

    model = getattr(models, f"mobilenet_v3_{variant}")().eval()
    model.load_state_dict(ours.state_dict())
    kept = []
    for module in model.modules():
        if isinstance(module, SqueezeExcitation):
            module.scale_activation.register_forward_hook(lambda _, inputs, out: kept.append(out))

    def run(images):
        kept.clear()
        return model(images)

    return run


def timm_eager(variant: str):
    import timm

    model = timm.create_model(f"mobilenetv3_{variant}_100").eval()
    recalibrate(model, [torch.randn(16, 3, 224, 224)])
    return model


def in_torch(name: str, way: Callable) -> dict[str, Callable]:
    """The way with each number of threads."""

    def with_threads(count: int) -> Callable:
        def run():
            torch.set_num_threads(count)
            way()

        return run

    return {f"{name}, {count} thread{'s' * (count > 1)}": with_threads(count) for count in (1, 2)}


@torch.inference_mode()
def engines(variant: str) -> dict:
    ours = checkpoint(variant)
    began = time.perf_counter()
    # in this thread: OpenMP no longer waits awake where two threads have its pools
    session = inference_session._prepare(ours)
    prepared = time.perf_counter() - began
    one = torch.randn(1, 3, 224, 224)
    blocks = len(ours.model.gated)
    reference = [np.full(c, 0.5, np.float32) for c in ours.model.channels]
    bare, hooks, timm = BareSession(ours.model), torchvision_with_hooks(variant, ours.model), timm_eager(variant)
    array, many = one.numpy(), torch.randn(BATCH, 3, 224, 224)
    np.testing.assert_allclose(bare(array), session.logits(one), rtol=1e-3, atol=1e-4)
    taken = turns({
        "bare ONNX Runtime": lambda: bare(array),
        "ours: logits, gates, energies, features": lambda: session.run(one),
        "ours: logits alone": lambda: session.logits(one),
        "ours: the causal batch": lambda: session.causal(one, reference),
        **in_torch("torchvision eager with hooks", lambda: hooks(one)),
        **in_torch("timm eager", lambda: timm(one)),
        **in_torch("ours in torch", lambda: inference_session._in_torch(ours, one)),
    }, ROUNDS, 1, SETTLE, CALLS)  # fmt: skip
    ways = {"bare": lambda: bare(many.numpy()), "ours": lambda: session.run(many)}
    batch = turns(ways, 5, 1, SETTLE, CALLS)
    faster = min((name for name in taken if name.startswith("torchvision")), key=lambda name: median(taken[name]))
    whole, causal = "ours: logits, gates, energies, features", "ours: the causal batch"
    return {
        "milliseconds": medians(taken, 2),
        "explained / bare": against(taken, whole, "bare ONNX Runtime"),
        "explained / torchvision with hooks": against(taken, whole, faster),
        "causal batch / (L + 2) bare": against(taken, causal, "bare ONNX Runtime", blocks + 2),
        f"explained / bare, batch {BATCH}": against(batch, "ours", "bare"),
        "seconds to prepare": round(prepared, 2), "n": ROUNDS * CALLS,
    }  # fmt: skip


def measured() -> dict:
    import onnxruntime

    where = machine(torch.device("cpu")) | {"onnxruntime": onnxruntime.__version__}
    return {"machine": where} | {variant: engines(variant) for variant in ("large", "small")}


if __name__ == "__main__":
    report(__doc__, RESULT, measured)
