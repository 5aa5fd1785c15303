"""A disk that is really full, a tmpfs of 64 MB: python -m tests.benchmarks.full_disk [name ...] [--write]

Linux, as root. For training, saving, the Hub, torchvision's weights and the app's uploads, with from nothing to nearly
enough room left: each says so in a sentence, what was whole stays whole, nothing half-written is left, and with room
again it goes on.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from tests.benchmarks.timing import keep

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks")]
LEFT = (0, 5_000, 0.1, 0.5, 0.95)  # bytes of room, or parts of what is needed
FETCH = """
import sys, mnv3
try:
    print("fetched", mnv3.load(sys.argv[1]).name)
except mnv3.InputError as error:
    print("refused:", error)
"""


class Disk:
    """A tmpfs of 64 MB; left(n) fills it until n bytes are free."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", self.folder], check=True)
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.folder], check=True)

    @contextlib.contextmanager
    def left(self, room):
        filler = self.folder / "filler"
        with open(filler, "wb", buffering=0) as file:
            free = os.statvfs(self.folder).f_bavail * os.statvfs(self.folder).f_frsize
            for _ in range((free - int(room)) // 4096):
                file.write(bytes(4096))
        try:
            yield
        finally:
            filler.unlink()


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rooms(needed):
    return [room if room >= 1 or not room else room * needed for room in LEFT]


def training(disk, folder):
    """Each epoch saves; an epoch more than there was is asked for on a full disk."""
    from kills import pictures, run
    from training_help import differences

    data, out, straight = pictures(folder / "data"), disk.folder / "run", folder / "straight"
    log = disk.folder / "log"
    assert run(data, straight) == 0
    said = []
    status = run(data, out, seconds=0.2)
    assert status is None, "it had ended before it could be stopped"
    for room in rooms((out / "last.pt").stat().st_size):
        log.unlink(missing_ok=True)
        before = torch.load(out / "last.pt", weights_only=True)["step"]
        with disk.left(room + 4096):
            status = run(data, out, "--resume")
        step = torch.load(out / "last.pt", weights_only=True)["step"]
        said.append(log.read_text().strip().splitlines()[-1] if log.exists() and log.read_text().strip() else "")
        left = [path.name for path in out.glob(".*") if path.name != ".lock"]
        print(f"  {room:,.0f} bytes of room: status {status}, step {before} -> {step}, left behind {left}; {said[-1]}")
        assert status == 1 and step >= before and not left
        assert said[-1].startswith("train.py: No space left") and "--resume" in said[-1], said[-1]
    assert run(data, out, "--resume") == 0 and not differences(out, straight)


def saving(disk, folder):
    """A checkpoint over another one."""
    import mnv3

    small, out = mnv3.load("cifar10-small"), disk.folder / "small"
    small.save(out)
    before, size = contents(out), (out / "model.safetensors").stat().st_size
    for room in rooms(size):
        with disk.left(room):
            try:
                small.save(out, half=False)
                raise AssertionError("there was room")
            except OSError as error:
                assert error.errno == 28
        assert contents(out) == before
    print(f"  {len(LEFT)} saves broke off, and the folder is what it was")


def fetched(name, **environment):
    command = [sys.executable, "-c", FETCH, name]
    more = {name: str(value) for name, value in environment.items()}
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **more})
    assert made.returncode == 0, made.stderr[-2000:]
    return made.stdout.strip().splitlines()[-1]


def hub(disk, folder):
    from hub_standin import HubStandIn

    import mnv3

    small = mnv3.load("cifar10-small").save(folder / "repo")
    with HubStandIn() as standin:
        standin.add("user/repo", small)
        home = disk.folder / "hf"
        ask = partial(fetched, "user/repo", HF_HOME=home, HF_ENDPOINT=standin.url)
        for room in rooms((small / "model.safetensors").stat().st_size):
            with disk.left(room):
                said = ask()
            left = [path.name for path in home.rglob("*") if path.is_file() and "incomplete" in path.name]
            print(f"  {room:,.0f} bytes of room: {said}")
            assert said.startswith("refused") and "HF_HOME" in said and not left
        assert ask() == "fetched user/repo"


def torchvision(disk, folder):
    import mnv3
    from mnv3.checkpoints.registry import TORCHVISION, torchvision_weights

    name = "torchvision/small"
    (folder / TORCHVISION[name].file).write_bytes(bytes(TORCHVISION[name].file, "ascii") * 250_000)
    handler = partial(type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}), directory=folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    weights = torchvision_weights(name)
    weights.value.url = f"http://127.0.0.1:{server.server_port}/{TORCHVISION[name].file}"
    os.environ["TORCH_HOME"] = str(disk.folder / "torch")
    for room in rooms(7_000_000):  # the file is larger
        with disk.left(room):
            try:
                mnv3.load(name)
                raise AssertionError("there was room")
            except mnv3.InputError as error:
                print(f"  {room:,.0f} bytes of room: {error}")
                assert "disk is full" in str(error) or "can't be written" in str(error)
        assert not [path for path in (disk.folder / "torch").rglob("*") if path.is_file()]
    server.shutdown()


def uploads(disk, folder):
    """What a visitor is told, and that the app goes on."""
    from app_server import App
    from faults import SMALL, data_uri, expected, picture, right, upload

    from tests.benchmarks.load import posted

    app = App(disk.folder / "home", folder)
    path = picture(1, folder)
    try:
        with disk.left(0):
            status, answer = posted(app, path)
            print(f"  an upload is answered with {status}: {answer[:200]}")
            assert status == 507 and answer == "The app's disk is full: try again later, or tell its host."
            kind, answer = app.call("predict", {"url": data_uri(path)}, *SMALL, 5)
            print(f"  a data: URI is answered with {kind}: {str(answer)[:200]}")
            assert app.get("/config")[0] == 200
        kind, answer = app.call("predict", upload(app, path), *SMALL, 5)
        assert kind == "complete" and right(answer, expected(path)), answer
    finally:
        app.kill()


def main():
    names, failed, tried = [name for name in sys.argv[1:] if name != "--write"], [], []
    for fault in (training, saving, hub, torchvision, uploads):
        if names and fault.__name__ not in names:
            continue
        tried.append(fault.__name__)
        print(fault.__name__, flush=True)
        with tempfile.TemporaryDirectory(prefix="full-") as folder:
            place = Path(folder) / "disk"
            place.mkdir()
            with Disk(place) as disk:
                try:
                    fault(disk, Path(folder))
                except AssertionError as error:
                    failed.append(f"{fault.__name__} ({error!r:.300})")
    print(json.dumps({"failed": failed}))
    if "--write" in sys.argv:
        keep(__file__, {"room": [f"{room:g} bytes" if room >= 1 or not room else f"{room:.0%} of what is needed"
                                 for room in LEFT], "tried": tried, "failed": failed})  # fmt: skip
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
