"""A training killed (SIGKILL) at random moments, each time resumed, ends as one that nothing interrupted.

    python tests/benchmarks/kills.py [--kills 20] [--seed 0] [--write]

Saves after every step, so that kills fall into saves too. Prints, for each kill, the step that was saved by then.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
RUN = "import sys, train; train.SAVE_EVERY = 0; sys.exit(train.main(sys.argv[1:]))"
FEW = ("--width 0.35 --holdout 24 --epochs 40 --early-epochs 1 --batch-size 16 --lr 0.05 --ema 0.8 --device cpu "
       "--workers 0")  # fmt: skip


def pictures(folder):
    for k, name in enumerate("abc"):
        for i in range(52):
            split = "train" if i < 40 else "test"
            coarse = np.random.default_rng(1000 * k + i).integers(0, 256, (4 + 4 * k, 4 + 4 * k, 3), dtype=np.uint8)
            path = folder / split / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(coarse).resize((32, 32), Image.Resampling.NEAREST).save(path)
    return folder


def run(data, out, *more, seconds=None):
    """What the run returned, or None if it was killed after `seconds` from its first step."""
    command = [sys.executable, "-c", RUN, "--data", data, "--out", out, *FEW.split(), *more]
    log = open(out.parent / "log", "ab")
    with log, subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=log, stderr=log) as child:
        if seconds is None:
            return child.wait()
        before = (out / "last.pt").stat().st_mtime_ns if (out / "last.pt").exists() else 0
        while child.poll() is None and not ((out / "last.pt").exists()
                                            and (out / "last.pt").stat().st_mtime_ns != before):  # fmt: skip
            time.sleep(0.01)
        time.sleep(seconds)
        child.kill()
    return None if child.returncode == -9 else child.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="keep the result as kills.json")
    given = parser.parse_args()
    moments, folder = random.Random(given.seed), Path(tempfile.mkdtemp(prefix="kills-"))
    data, out, straight = pictures(folder / "data"), folder / "run", folder / "straight"
    steps, halves = [], 0
    for number in range(given.kills):
        status = run(data, out, *["--resume"] * (number > 0), seconds=moments.uniform(0, 0.6))
        assert status in (None, 0), f"kill {number}: not resumable, see {folder}/log"
        halves += len(list(out.glob(".last.pt.*")))
        steps.append(torch.load(out / "last.pt", weights_only=True)["step"])
        print(f"kill {number + 1}: step {steps[-1]}{' (it had ended)' if status == 0 else ''}", flush=True)
    assert run(data, out, "--resume") == run(data, straight) == 0, f"see {folder}/log"
    from training_help import differences

    from tests.benchmarks.timing import keep

    apart = differences(out, straight)
    left = [path.name for path in out.glob(".*")]
    print(f"{given.kills} kills, {halves} of them in the middle of a save; differs from an uninterrupted run: "
          f"{apart or 'nothing'}; left behind: {left or 'nothing'}")  # fmt: skip
    if given.write:
        keep(__file__, {"seed": given.seed, "kills": given.kills, "in the middle of a save": halves,
                        "steps by then": steps, "differs": apart, "left behind": left})  # fmt: skip
    return bool(apart or left)


if __name__ == "__main__":
    sys.exit(main())
