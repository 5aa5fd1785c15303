"""What a visitor waits for: python -m tests.benchmarks.click [--write]

A 12-megapixel JPEG goes in through gradio_client and every view of Look comes out, beside the same server answering the
same upload with a constant: Gradio's own round trip, which is the floor. In turns; medians in milliseconds. Networks
of full size at 224×224 with random weights, since the bundled ones are small and nothing is fetched here.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tests.benchmarks.timing import against, medians, report, turns

RESULT = Path(__file__).with_name("click.json")
ROOT = Path(__file__).parent.parent.parent
ROUNDS = 15
SERVER = """
import sys
import gradio as gr
import app
from mnv3 import engine
from tests.benchmarks.speed import checkpoint
nets = {name: checkpoint(name.lower()) for name in app.choice.VARIANTS}
app.choice.opened = lambda model, weights: nets[model]
for net in nets.values():
    engine.fast(net, wait=True)
shown = []
def look(image, model):
    shown[:] = app.show("look", image, model, "", None, None, [])[:4]
    return shown
def compare(image):
    return app.show("compare", image, "Large", "", None, None, [])[4]
with gr.Blocks(analytics_enabled=False) as demo:
    image, model = app.picture_input(), gr.Textbox()
    outputs, button = [gr.Label(), gr.HTML(), gr.HTML(), gr.HTML()], gr.Button()
    button.click(look, [image, model], outputs, api_name="look")
    button.click(lambda image, model: shown, [image, model], outputs, api_name="constant")
    button.click(compare, image, gr.HTML(), api_name="compare")
demo.launch(server_port=int(sys.argv[1]), quiet=True, ssr_mode=False)
"""


def photograph(folder: Path) -> Path:
    """4000 × 3000 pixels with detail at every scale, about as heavy as a phone's."""
    random, size = np.random.default_rng(0), (4000, 3000)
    scene = np.zeros((size[1], size[0], 3), np.float32)
    for cells, weight in ((6, 1.0), (40, 0.5), (300, 0.25), (1500, 0.08)):
        coarse = random.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8)
        scene += weight * np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.float32)
    path = folder / "photograph.jpg"
    Image.fromarray((scene / 1.83).clip(0, 255).astype(np.uint8)).save(path, quality=88)
    return path


def through_the_client(path: Path) -> dict[str, list[float]]:
    """Milliseconds of each way in each round."""
    from gradio_client import Client, handle_file

    port = 47860
    with subprocess.Popen([sys.executable, "-c", SERVER, str(port)], cwd=ROOT) as server:
        try:
            client = waited_for(lambda: Client(f"http://127.0.0.1:{port}", verbose=False))
            ways = {
                "look, Large": lambda: client.predict(handle_file(path), "Large", api_name="/look"),
                "constant": lambda: client.predict(handle_file(path), "Large", api_name="/constant"),
                "look, Small": lambda: client.predict(handle_file(path), "Small", api_name="/look"),
                "compare": lambda: client.predict(handle_file(path), api_name="/compare"),
            }
            return turns(ways, ROUNDS, 2)
        finally:
            server.terminate()


def waited_for(connect, seconds: float = 90):
    end = time.monotonic() + seconds
    while True:
        try:
            return connect()
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def parts(path: Path) -> dict[str, float]:
    """One click in this process, part by part: medians of milliseconds."""
    from mnv3.explanation.explanation import explain, explain_seen
    from mnv3.images import decode
    from mnv3.inference import session
    from mnv3.web import handlers, selection
    from mnv3.web.views import explore
    from tests.benchmarks.speed import checkpoint

    net = checkpoint("large")
    session.fast(net, wait=True)
    selection.opened = lambda model, weights: net
    picture = decode.open_picture(str(path), net.preprocessing.enough)
    explanation = explain(net, picture)
    ways = {
        "the whole handler": lambda: handlers.show("look", str(path), "Large", "", None, None, []),
        "decoding the picture": lambda: decode.open_picture(str(path), net.preprocessing.enough),
        "resizing and normalising": lambda: net.preprocessing.tensor(net.preprocessing.picture(picture)),
        "the network: causal batch, then alone": lambda: explain_seen(net, explanation.picture),
        "pictures of the page": lambda: explore.pictures(explanation, 0),
        "the panel": lambda: explore.panel(explanation, 0),
    }
    return medians(turns(ways, ROUNDS, 2), 1)


def start(picture: Path) -> dict[str, float]:
    """Seconds from the command to a page that answers, beside the imports alone; and from there to the first answer."""
    import urllib.request

    from gradio_client import Client, handle_file

    address = "http://127.0.0.1:47861/"

    def app() -> tuple[float, float]:
        began = time.perf_counter()
        environment = {**os.environ, "GRADIO_SERVER_PORT": "47861"}
        command = [sys.executable, "app.py"]
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as server:
            waited_for(lambda: urllib.request.urlopen(address, timeout=5).read())
            answers = time.perf_counter()
            Client(address, verbose=False).predict(handle_file(picture), api_name="/predict")
            predicted = time.perf_counter()
            server.terminate()
        return answers - began, predicted - answers

    def imports() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch, gradio"], check=True)
        return time.perf_counter() - began

    rounds = [(*app(), imports()) for _ in range(5)][1:]
    return {
        "page answers": round(statistics.median(page for page, _, _ in rounds), 2),
        "import torch, gradio": round(statistics.median(alone for _, _, alone in rounds), 2),
        "ratio": round(statistics.median(page / alone for page, _, alone in rounds), 2),
        "then the first prediction, the client's connection with it": round(
            statistics.median(first for _, first, _ in rounds), 2),
    }  # fmt: skip


def measured() -> dict:
    import torch

    from mnv3.distributed import machine

    with tempfile.TemporaryDirectory() as folder:
        path = photograph(Path(folder))
        taken = through_the_client(path)
        return {
            "machine": machine(torch.device("cpu")), "picture": f"4000×3000 JPEG, {path.stat().st_size / 1e6:.1f} MB",
            "milliseconds": medians(taken, 1), "look, Large / constant": against(taken, "look, Large", "constant"),
            "parts of a click": parts(path), "seconds to start": start(path), "n": ROUNDS,
        }  # fmt: skip


if __name__ == "__main__":
    report(__doc__, RESULT, measured)
