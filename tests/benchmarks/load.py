"""The app under a crowd: python -m tests.benchmarks.load [--write]

`python app.py` as it is, with no network. Two clients that ask back to back, then 32 at once, for a minute each, with a
different picture each, through /explain of both bundled networks; every answer is held against the picture's own. Then
2,000 more explanations, and what the server's memory has grown by.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mnv3.distributed import machine
from tests.app_server import App
from tests.benchmarks.timing import report

RESULT = Path(__file__).with_name("load.json")
SECONDS, CLIENTS, EXPLANATIONS = 60, 32, 2_000
MODELS = ("Large", "Small")
BUSY = ("full", "busy")  # in the sentence of a full queue


def picture(number: int, folder: Path) -> Path:
    """A smooth scene of its own, 300 × 200 pixels."""
    coarse = np.random.default_rng(number).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = folder / f"{number}.png"
    Image.fromarray(coarse).resize((300, 200), Image.Resampling.BICUBIC).save(path)
    return path


def posted(app: App, path: Path) -> tuple[int, str]:
    """The file sent as a browser does: status and answer."""
    edge = b"mnv3"
    head = b'Content-Disposition: form-data; name="files"; filename="picture.png"\r\nContent-Type: image/png\r\n\r\n'
    body = b"--" + edge + b"\r\n" + head + path.read_bytes() + b"\r\n--" + edge + b"--\r\n"
    kind = {"Content-Type": f"multipart/form-data; boundary={edge.decode()}"}
    return app.request("/gradio_api/upload", body, kind)[::2]


def upload(app: App, path: Path) -> dict:
    """The file sent and stored: what stands for it in a call."""
    return {"path": json.loads(posted(app, path)[1])[0], "meta": {"_type": "gradio.FileData"}}


def ask(app: App, sent: dict, number: int) -> tuple[str, object]:
    return app.call("explain", sent, MODELS[number % 2], "CIFAR-10 · bundled", "")


def told(answer: list) -> str:
    """What tells one picture's explanation from another's."""
    return json.dumps([answer[0]["top"], answer[0]["blocks"]], sort_keys=True)


class Crowd:
    """Clients that ask back to back for some seconds, or until a number of answers."""

    def __init__(self, app: App, places: list[dict], expected: list[str]):
        self.app, self.places, self.expected = app, places, expected

    def run(self, clients: int, seconds: float = 1e9, answers: int = 10**9) -> dict:
        counted, taken, end = Counter(), [], time.monotonic() + seconds

        def client(number: int) -> None:
            while time.monotonic() < end and len(taken) < answers:
                began = time.monotonic()
                kind, answer = ask(self.app, self.places[number], number)
                if kind == "complete":
                    taken.append(time.monotonic() - began)
                    counted["mixed"] += told(answer) != self.expected[number]
                else:
                    counted["busy" if any(word in str(answer) for word in BUSY) else f"error: {answer}"] += 1

        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed = time.monotonic() - began
        return {
            "explanations": len(taken), "a second": round(len(taken) / elapsed, 1),
            "median ms": round(1000 * statistics.median(taken)),
            "p95 ms": round(1000 * sorted(taken)[int(0.95 * len(taken))]),
            "another's answer": counted.pop("mixed", 0), "refused as busy": counted.pop("busy", 0),
            "errors": dict(counted),
        }  # fmt: skip


def megabytes(app: App) -> float:
    """What the server keeps in memory (VmRSS)."""
    status = Path(f"/proc/{app.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def measured() -> dict:
    with tempfile.TemporaryDirectory() as folder:
        app = App(Path(folder) / "home", folder)
        try:
            places = [upload(app, picture(number, Path(folder))) for number in range(CLIENTS)]
            expected = [told(ask(app, place, number)[1]) for number, place in enumerate(places)]
            time.sleep(5)  # the fast engine is ready
            expected = [told(ask(app, place, number)[1]) for number, place in enumerate(places)]
            assert len(set(expected)) == CLIENTS
            crowd = Crowd(app, places, expected)
            crowd.run(2, seconds=5)
            two, all_at_once = crowd.run(2, SECONDS), crowd.run(CLIENTS, SECONDS)
            before = megabytes(app)
            crowd.run(4, answers=EXPLANATIONS)
            after = megabytes(app)
        finally:
            app.kill()
    return {
        "machine": machine(torch.device("cpu")), "2 clients": two, f"{CLIENTS} clients": all_at_once,
        "throughput, 32 / 2 clients": round(all_at_once["a second"] / two["a second"], 2),
        "server's memory, MB": {"warm": round(before), f"after {EXPLANATIONS} more": round(after),
                                "growth": round(after / before - 1, 3)},
    }  # fmt: skip


if __name__ == "__main__":
    report(__doc__, RESULT, measured)
