"""Thousands of files that nobody thought of: each is a picture or one sentence, in under 2 s and 300 MB.

    python tests/benchmarks/pictures.py [--ordinary 1000] [--harmed 2000] [--seed 0] [--write]

Prints, for each kind of file, how many were tried, predicted, refused and failed, the slowest and the hungriest. What
is too slow, too hungry, answered wrongly, raises anything but InputError or ends the process has failed, and is kept in
the folder that is named at the end. Linux only: the memory is the kernel's count of the process's peak.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
MOST_SECONDS, MOST_BYTES = 2, 300_000_000


def peak():
    """The most memory this process had since `forget`, and what it has now: bytes."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS")]


def forget():
    Path("/proc/self/clear_refs").write_text("5")


def looked_at(sent, judge):
    """One file's row: kind, outcome, milliseconds of processor time, bytes it took at its peak, and what was wrong."""
    from strange_pictures import opened

    forget()
    before, began, wrong = peak()[1], time.thread_time(), ""
    try:
        outcome = "refused" if isinstance(picture := opened(sent.data), str) else "predicted"
        seconds, took = time.thread_time() - began, peak()[0] - before
        wrong = judge(sent, picture) or ""
    except Exception as error:
        outcome, seconds, took, wrong = "failed", time.thread_time() - began, peak()[0] - before, repr(error)
    if seconds > MOST_SECONDS or took > MOST_BYTES:
        wrong = wrong or f"{seconds:.2f} s, {took / 1e6:.0f} MB"
    return [sent.kind, "failed" if wrong else outcome, round(1000 * seconds, 1), took, wrong]


def judged(sent, picture):
    """What is wrong with the network's answer; the ordinary ones must be answered as what a person sees."""
    from test_strange_pictures import agree, small

    if isinstance(picture, str):
        return f"refused: {picture}" if sent.seen is not None else ""
    if sent.seen is None:
        return "" if small().preprocess(picture).isfinite().all() else "not finite"
    try:
        agree(picture, sent)
    except AssertionError as error:
        return str(error)


def child(which, count, seed, folder):
    """Runs one strategy, a line for each file; the file under test lies in `folder` should the process end with it."""
    import strange_pictures
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from test_strange_pictures import small

    small()
    warnings.simplefilter("ignore")
    kept = Path(folder)

    @seeded(seed)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(sent=getattr(strange_pictures, which)())
    def run(sent):
        (kept / f"{which}-now").write_bytes(sent.data)
        row = looked_at(sent, judged)
        if row[1] == "failed":
            (kept / f"{which}-{len(list(kept.iterdir()))}.{sent.kind}").write_bytes(sent.data)
        print(json.dumps(row), flush=True)

    run()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ordinary", type=int, default=1000)
    parser.add_argument("--harmed", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="keep the result as pictures.json")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return child(given.child[0], getattr(given, given.child[0]), given.seed, given.child[1])
    from tests.benchmarks.timing import keep

    folder, ended, failures, found = tempfile.mkdtemp(prefix="strange-"), [], 0, {}
    for which in ("ordinary", "harmed"):
        words = [sys.executable, __file__, "--child", which, folder, f"--{which}", str(getattr(given, which))]
        made = subprocess.run([*words, "--seed", str(given.seed)], stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
        rows = [json.loads(line) for line in made.stdout.splitlines() if line.startswith("[")]
        found[which] = report(which, rows)
        failures += found[which]["failed"]
        if made.returncode:
            ended.append(f"{which}: the process ended with {made.returncode}; its last file is {which}-now")
    print(*ended, f"what failed is in {folder}" if failures or ended else "none failed", sep="\n")
    if given.write and not ended:
        keep(__file__, {"seed": given.seed, **found})
    return bool(failures or ended)


def report(which, rows):
    """Prints the table of one strategy; its last line, of all kinds."""
    kinds = defaultdict(list)
    for row in rows:
        kinds[row[0]].append(row)
        if row[4]:
            print(f"  failed: {row[4]:.300}")
    print(f"\n{which}\n\n| kind | tried | predicted | refused | failed | slowest, ms | most, MB |\n|-|-|-|-|-|-|-|")
    for kind, own in [*sorted(kinds.items()), ("all", rows)]:
        counts = {outcome: sum(row[1] == outcome for row in own) for outcome in ("predicted", "refused", "failed")}
        slowest, most = max((row[2] for row in own), default=0), max((row[3] for row in own), default=0)
        line = {"tried": len(own), **counts, "slowest, ms": round(slowest), "most, MB": round(most / 1e6)}
        print("|", kind, "|", " | ".join(map(str, line.values())), "|")
    return {"kinds": len(kinds), **line}


if __name__ == "__main__":
    sys.exit(main())
