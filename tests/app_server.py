"""The app in a process of its own, with nothing of this machine's in its environment and no network but loopback.

A pytest plugin, PYTEST_DONT_REWRITE: `pytest_plugins = ["app_server"]` gives a test file `app` and `app_url`, one
server for the whole session. Whatever the app asks of the network is refused and written down.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")  # of this process's environment
STARTS_WITHIN = 180  # seconds; 5 on a quiet machine

GUARD = """
import os, runpy, socket, sys

record, script = sys.argv[1:3]

def refusing(owner, name, host_of, error):
    real = getattr(owner, name)

    def guarded(*arguments, **named):
        host = host_of(*arguments, **named)
        host = host.decode() if isinstance(host, bytes) else host
        if host in (None, "", "localhost", "::1", "0.0.0.0") or str(host).startswith("127."):
            return real(*arguments, **named)
        with open(record, "a") as file:
            print(name, host, file=file)
        raise error

    setattr(owner, name, guarded)

unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
unreachable = OSError(101, "Network is unreachable")
peer = lambda self, address, *_: address[0] if isinstance(address, tuple) else None
refusing(socket, "getaddrinfo", lambda host, *_, **__: host, unknown)
refusing(socket, "gethostbyname", lambda host: host, unknown)
refusing(socket.socket, "connect", peer, unreachable)
refusing(socket.socket, "connect_ex", peer, unreachable)
sys.path.insert(0, os.path.dirname(script))
sys.argv = [script]
runpy.run_path(script, run_name="__main__")
"""


class App:
    """`python app.py` on a free port; guarded, what it asks of the network is refused and listed by `asked()`.

    code: where app.py is; before: a command that runs the command; more: further environment variables.
    """

    def __init__(self, home, folder, guarded=True, code=ROOT, before=(), more=None):
        self.home, self.record, self.log = Path(home), Path(home) / "asked", Path(home) / "log"
        self.home.mkdir(parents=True, exist_ok=True)
        script, self.more = code / "app.py", more or {}
        command = ["-c", GUARD, self.record, script] if guarded else [script]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*before, sys.executable, *map(str, command)], cwd=folder, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, env=self.environment(port),
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
            )  # fmt: skip
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise

    def environment(self, port):
        folders = {"HOME": "", "HF_HOME": "hf", "TORCH_HOME": "torch", "TMPDIR": "tmp", "GRADIO_TEMP_DIR": "gradio"}
        paths = {name: self.home / folder for name, folder in folders.items()}
        for path in paths.values():
            path.mkdir(exist_ok=True)
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        own = {name: str(path) for name, path in paths.items()}
        return {**kept, **own, "GRADIO_SERVER_PORT": str(port), **self.more}

    def wait(self):
        end = time.monotonic() + STARTS_WITHIN
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"the app ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")
            try:
                with urllib.request.urlopen(self.url + "/config", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                if time.monotonic() > end:
                    raise RuntimeError(f"the app does not answer:\n{self.log.read_text()[-3000:]}") from None
                time.sleep(0.1)

    def stop(self):
        """Ctrl-C, as at a terminal; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def kill(self):
        """Ends it at once: stop() would wait for the clients' open connections."""
        self.process.kill()
        self.process.wait()

    def asked(self):
        """What the app asked of the network so far, refused: ['getaddrinfo huggingface.co', ...]."""
        return self.record.read_text().splitlines() if self.record.is_file() else []

    def get(self, path):
        """GET a path, exactly as written: (status, body)."""
        return self.request(path)[::2]

    def post(self, path, body):
        """POST JSON: (status, body)."""
        data = json.dumps(body).encode()
        return self.request(path, data, {"Content-Type": "application/json"})[::2]

    def request(self, path, data=None, headers=None):
        """Any request, past every proxy: (status, headers, body)."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(self.url + path, data, headers or {})
        try:
            with opener.open(request, timeout=120) as answer:
                return answer.status, dict(answer.headers), answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read().decode(errors="replace")

    def call(self, name, *data):
        """An endpoint as curl calls it, past every check of a client: ("complete", [output]) or ("error", sentence)."""
        status, body = self.post(f"/gradio_api/call/{name}", {"data": list(data)})
        assert status == 200, body
        _, events = self.get(f"/gradio_api/call/{name}/{json.loads(body)['event_id']}")
        event, answer = events.strip().split("\n\n")[-1].split("\n", 1)
        kind, answer = event.removeprefix("event: "), json.loads(answer.removeprefix("data: "))
        return kind, answer if kind == "complete" else (answer or {}).get("error")


@pytest.fixture(scope="session")
def app(tmp_path_factory):
    """The app, started from a folder that is not the repository's, without a network."""
    home = tmp_path_factory.mktemp("app")
    server = App(home / "home", home)
    server.asked_at_start = server.asked()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def app_url(app):
    return app.url
