"""What a host fears, done to `python app.py`: python -m tests.benchmarks.faults [kills crowd left disk] [--write]

kills  SIGKILL at random moments while eight visitors ask, then a start in the same folders: it answers, and rightly
crowd  fifty visitors at once: each has the answer to its own picture, or is told that the queue is full
left   pages that are closed while their 200 pictures are compared: how soon the next visitor's are
disk   uploads and data: URIs, with files kept for seconds instead of an hour: how much lies on the disk

Each --times 10, unless told otherwise. Linux, no network; one core is enough. Ends with 1 if anything but that came.
"""

import argparse
import base64
import json
import random
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

from tests.app_server import ROOT, App
from tests.benchmarks.load import picture, upload
from tests.benchmarks.timing import keep

SMALL = ("Small", "cifar10-small")
SHORT_LIVED = """
import importlib.util, sys
sys.path.insert(0, {root!r})
spec = importlib.util.spec_from_file_location("mnv3_app", {root!r} + "/app.py")
module = importlib.util.module_from_spec(spec)
sys.modules["mnv3_app"] = module
spec.loader.exec_module(module)
module.KEEP_FILES = (2, 4)
sys.exit(module.main())
"""


def expected(path):
    """The likeliest class and its probability, by the package alone."""
    import mnv3

    top = mnv3.explain(mnv3.load(SMALL[1]), path).top(1)[0]
    return top.label, top.probability


def data_uri(path):
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def right(answer, wanted):
    label, probability = wanted
    first = answer[0]["confidences"][0]
    return first["label"] == label and abs(first["confidence"] - probability) < 1e-4


def kills(folder, times):
    moments, wanted = random.Random(0), [expected(picture(number, folder)) for number in range(8)]
    outcomes, home = Counter(), folder / "home"
    for _ in range(times):
        app = App(home, folder)

        def visitor(number, app=app):
            try:
                while True:
                    place = upload(app, folder / f"{number}.png")
                    kind, answer = app.call("predict", place, *SMALL, 5)
                    outcomes["right" if kind == "complete" and right(answer, wanted[number]) else "WRONG"] += 1
            except Exception:  # the server is gone, in the middle of whatever it did
                outcomes["broken off"] += 1

        threads = [threading.Thread(target=visitor, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(moments.uniform(0.5, 4))
        app.kill()
        for thread in threads:
            thread.join()
    app = App(home, folder)
    for number in range(8):
        kind, answer = app.call("predict", upload(app, folder / f"{number}.png"), *SMALL, 5)
        outcomes["right after all" if kind == "complete" and right(answer, wanted[number]) else "WRONG"] += 1
    app.kill()
    print(f"kills: {times} times; {dict(outcomes)}")
    return outcomes["WRONG"] == 0 and outcomes["right after all"] == 8, {"times": times, **outcomes}


def crowd(folder, times):
    app, outcomes, slowest = App(folder / "home", folder), Counter(), []
    paths = [picture(number, folder) for number in range(50)]
    wanted, places = [expected(path) for path in paths], [upload(app, path) for path in paths]
    together = threading.Barrier(50)

    def visitor(number):
        together.wait()
        began = time.monotonic()
        try:
            kind, answer = app.call("predict", places[number], *SMALL, 5)
            outcomes["right" if kind == "complete" and right(answer, wanted[number]) else f"WRONG: {answer}"] += 1
        except AssertionError as error:  # app.call's: the call was not taken
            outcomes["told that the queue is full" if "Queue is full" in str(error) else f"WRONG: {error}"] += 1
        slowest.append(time.monotonic() - began)

    for _ in range(times):
        threads = [threading.Thread(target=visitor, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    kind, answer = app.call("predict", places[0], *SMALL, 5)
    alive = kind == "complete" and right(answer, wanted[0])
    app.kill()
    print(f"crowd: {times} × 50 at once; {dict(outcomes)}; slowest {max(slowest):.1f} s; alive after: {alive}")
    found = {"visitors at once": 50, "times": times, **outcomes, "slowest, s": round(max(slowest), 1)}
    return alive and not any(outcome.startswith("WRONG") for outcome in outcomes), found


def comparing(app, session, files):
    """Starts a comparison of many pictures as the page does, and returns its stream of events."""
    listeners = json.loads(app.get("/config")[1])["dependencies"]
    one = next(d for d in listeners if d["api_name"] == "compare_many")
    data = [files, "CIFAR-10 · bundled", ["cifar10-small", "cifar10-large"]]
    status, body = app.post("/gradio_api/queue/join", {"data": data, "fn_index": one["id"], "session_hash": session})
    assert status == 200, body
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(f"{app.url}/gradio_api/queue/data?session_hash={session}", timeout=300)


def seconds_to_first_table(stream, last=False):
    """Or to the last one; AssertionError if there is none."""
    began = time.monotonic()
    for line in stream:
        if (b"process_generating" in line and not last) or b"process_completed" in line:
            assert b'"success":true' in line, line[:500]
            return time.monotonic() - began
    raise AssertionError("the stream ended without a table")


def left(folder, times):
    app, waits = App(folder / "home", folder), []
    paths = [picture(number, folder) for number in range(200)]
    many = [upload(app, path) for path in paths]
    with comparing(app, "stays", many) as stream:
        whole = seconds_to_first_table(stream, last=True)
    for number in range(times):
        leaving = comparing(app, f"leaves{number}", many)
        seconds_to_first_table(leaving)
        leaving.close()
        with comparing(app, f"next{number}", many[:2]) as stream:
            waits.append(seconds_to_first_table(stream))
    app.kill()
    print(f"left: a comparison of 200 takes {whole:.1f} s; each time that a page left one, {times} in all, the next "
          f"visitor's two pictures came after at most {max(waits):.1f} s")  # fmt: skip
    return max(waits) < whole / 2, {"times": times, "a whole one, s": round(whole, 1), "next, s": round(max(waits), 1)}


def on_disk(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def disk(folder, times):
    code = folder / "code"
    code.mkdir()
    (code / "app.py").write_text(SHORT_LIVED.format(root=str(ROOT)))
    app, sizes = App(folder / "home", folder, code=code), []
    places = [app.home / name for name in ("gradio", "tmp")]
    examples = sum(on_disk(place) for place in places)  # which the app shows and keeps
    for number in range(30 * times):
        path = picture(number, folder)
        if number % 2:
            app.call("explain", upload(app, path), *SMALL, "")
        else:
            app.call("explain", {"url": data_uri(path)}, *SMALL, "")
        path.unlink()
        sizes.append(sum(on_disk(place) for place in places) - examples)
    time.sleep(9)
    after = sum(on_disk(place) for place in places) - examples
    app.kill()
    halves = max(sizes[: len(sizes) // 2]), max(sizes[len(sizes) // 2 :])
    print(f"disk: {len(sizes)} pictures, files kept for 4 s; at most {halves[0]:.2f} MB in the first half, "
          f"{halves[1]:.2f} MB in the second, {after:.2f} MB in the end")  # fmt: skip
    found = {"pictures": len(sizes), "first half, MB": round(halves[0], 2), "second half, MB": round(halves[1], 2)}
    return halves[1] < 1.5 * halves[0] and after < 0.01, {**found, "in the end, MB": round(after, 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    faults = {"kills": kills, "crowd": crowd, "left": left, "disk": disk}
    parser.add_argument("names", nargs="*", choices=[*faults, []])
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--write", action="store_true", help="keep the result as faults.json")
    given, failed, results = parser.parse_args(), [], {}
    for name in given.names or faults:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            right, results[name] = faults[name](Path(folder), given.times)
            failed += [name] * (not right)
    print(f"failed: {', '.join(failed) or 'none'}")
    if given.write:
        keep(__file__, {**results, "failed": failed})
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
