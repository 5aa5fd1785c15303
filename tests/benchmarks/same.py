"""Prints a digest of everything the app answers: run it before and after a change that must change nothing, and diff.

    python -m tests.benchmarks.same > before.txt

Every endpoint's answer for every example and both sizes, the page's components in both languages, the bytes of a saved
checkpoint, and the command lines' help. Times and the order of downloads are left out.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
UNSTABLE = re.compile(
    r'"(seconds|milliseconds|elapsed|session_hash|app_id|path|url|_id|id|event_id)": ("[^"]*"|[\d.e-]+)'
)


def digest(value) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", UNSTABLE.sub("", text)).encode()).hexdigest()[:16]


def answers(app) -> None:
    import base64

    for path in sorted((ROOT / "examples").glob("*.*")):
        if path.suffix not in (".png", ".jpg"):
            continue
        kind = "png" if path.suffix == ".png" else "jpeg"
        picture = {"url": f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"}
        for model in ("Large", "Small"):
            for name in ("predict", "explain"):
                print(name, model, path.name, digest(app.call(name, picture, model)))
        print("compare", path.name, digest(app.call("compare", picture)))
    print("models", digest(app.call("models")))


def main() -> None:
    from app_server import App

    with tempfile.TemporaryDirectory() as home:
        app = App(Path(home) / "home", home)
        try:
            answers(app)
            for language in ("en", "zh"):
                status, _, body = app.request("/config", headers={"Accept-Language": language})
                components = [(c["type"], c["props"]) for c in json.loads(body)["components"]]
                texts = re.sub(r"127\.0\.0\.1:\d+", "", json.dumps(components, sort_keys=True, ensure_ascii=False))
                print("config", language, status, digest(re.sub(r'"/[^"]*/', '"', texts)))
        finally:
            app.kill()
        import mnv3

        folder = mnv3.load("cifar10-small").save(Path(home) / "saved")
        for file in sorted(Path(folder).iterdir()):
            print("saved", file.name, hashlib.sha256(file.read_bytes()).hexdigest()[:16])
    for command in (["train.py"], ["-m", "mnv3.hub"], ["-m", "mnv3.faithfulness"]):
        done = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True,
                              env={**os.environ, "COLUMNS": "120"})  # fmt: skip
        print("help", *command, digest(done.stdout + done.stderr))


if __name__ == "__main__":
    main()
