"""The app as programs and strangers meet it: gradio_client on real pictures, hostile files, curl, and no network."""

import asyncio
import base64
import errno
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import AsyncMock
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image

import mnv3
from mnv3 import InputError
from mnv3.checkpoints.registry import Entry
from mnv3.explanation.explanation import softmax
from mnv3.images.decode import open_picture
from mnv3.inference import cache, reference, session
from mnv3.web import api, selection

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported; nor may its client call home
pytest_plugins = ["app_server"]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
FROG, TRUCK = EXAMPLES / "frog.png", EXAMPLES / "fire-engine.png"
CAR = EXAMPLES / "car.png"
BUNDLED, TO_FETCH = "CIFAR-10 · bundled", "ImageNet · torchvision"
SMALL = {"model": "Small", "weights": "cifar10-small"}
BLOCKS = {"Large": 8, "Small": 9}
META = {"meta": {"_type": "gradio.FileData"}}


def awaited(coroutine):
    """Its result, from a thread of its own: a browser's tests leave an event loop running in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


@pytest.fixture(scope="session")
def connect(app_url):
    """connect() -> call(endpoint, picture file or None, **rest): a client of its own on the running app."""
    from gradio_client import Client, handle_file

    def make():
        client = Client(app_url, verbose=False, analytics_enabled=False)

        def call(endpoint, picture, **rest):
            return client.predict(image=picture and handle_file(str(picture)), api_name=endpoint, **rest)

        call.client = client
        return call

    return make


@pytest.fixture(scope="session")
def call(connect):
    return connect()


@pytest.fixture(scope="session")
def bundled():
    return {variant: mnv3.load(f"cifar10-{variant.lower()}") for variant in BLOCKS}


def probabilities(checkpoint, picture):
    """Label -> probability, by the package alone."""
    logits, _ = session.logits(checkpoint, checkpoint.preprocess(picture)[None])
    return dict(zip(checkpoint.labels, softmax(logits[0]), strict=True))


def top(checkpoint, picture):
    """The likeliest class, by the package alone."""
    expected = probabilities(checkpoint, picture)
    return max(expected, key=expected.get)


def confidences(answer):
    """/predict's answer -> label -> probability, in its order."""
    assert set(answer) == {"label", "confidences"}
    said = {guess["label"]: guess["confidence"] for guess in answer["confidences"]}
    assert answer["label"] == next(iter(said)) and len(said) == len(answer["confidences"])
    return said


def one_sentence(text):
    """text, if a visitor may see it: a sentence of our own, without a path, a class of ours, or a trace."""
    assert isinstance(text, str) and 10 < len(text) < 400 and "\n" not in text, text
    for word in ("/tmp", "/home", "/root", str(ROOT), "site-packages", "Traceback", ".py", "<class", "show_error"):
        assert word not in text, text
    return text


def refused(call, endpoint, picture, **rest):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as caught:
        call(endpoint, picture, **rest)
    return one_sentence(str(caught.value))


# Predictions ----------------------------------------------------------------------------------------------------


def test_the_picture_alone_is_enough(call, bundled):
    said = confidences(call("/predict", FROG))
    expected = probabilities(bundled["Large"], FROG)
    assert len(said) == 5 and sum(said.values()) <= 1 + 1e-9
    assert list(said.values()) == sorted(said.values(), reverse=True)
    assert list(said.values()) == pytest.approx(sorted(expected.values(), reverse=True)[:5], abs=1e-5)
    assert said == pytest.approx({label: expected[label] for label in said}, abs=1e-5)


@pytest.mark.parametrize("picture, kind", [(FROG, "frog"), (CAR, "automobile")])
def test_small_names_pictures_as_the_package_does(call, bundled, picture, kind):
    answer = call("/predict", picture, **SMALL)
    expected = probabilities(bundled["Small"], picture)
    assert answer["label"] == top(bundled["Small"], picture) == kind
    assert confidences(answer) == pytest.approx({label: expected[label] for label in confidences(answer)}, abs=1e-5)


def test_large_and_small_are_two_networks(call):
    large, small = (confidences(call("/predict", FROG, model=model, top_k=10)) for model in BLOCKS)
    assert max(abs(large[label] - small[label]) for label in large) > 1e-3


@pytest.mark.parametrize("top_k, count", [(1, 1), (3, 3), (10, 10), (1000, 10)])
def test_top_k(call, top_k, count):
    assert len(confidences(call("/predict", FROG, top_k=top_k, **SMALL))) == count


@pytest.mark.parametrize("weights", [BUNDLED, "cifar10-small"])
def test_weights_by_family_or_by_name(call, bundled, weights):
    said = confidences(call("/predict", TRUCK, model="Small", weights=weights, top_k=10))
    assert said == pytest.approx(probabilities(bundled["Small"], TRUCK), abs=1e-5)


def test_two_visitors_get_their_own_answers(connect, bundled):
    pictures = [FROG, TRUCK, EXAMPLES / "jumbo-jet.png", EXAMPLES / "cat.jpg"]
    expected = {picture: probabilities(bundled["Small"], picture) for picture in pictures}
    wrong = []

    def visit(mine):
        call = connect()
        for turn in range(20):
            picture = mine[turn % 2]
            said = confidences(call("/predict", picture, top_k=10, **SMALL))
            if said != pytest.approx(expected[picture], abs=1e-5):
                wrong.append((picture.name, said))

    threads = [threading.Thread(target=visit, args=(mine,)) for mine in (pictures[:2], pictures[2:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in threads) and not wrong


# /explain and /compare ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", BLOCKS)
def test_explain_is_consistent(call, bundled, model):
    data = call("/explain", FROG, model=model)
    expected = mnv3.explain(bundled[model], FROG)
    assert [block["block"] for block in data["blocks"]] == [block.name for block in expected.blocks]
    assert len(data["blocks"]) == BLOCKS[model] and data["checkpoint"] == bundled[model].name
    for i, block in enumerate(data["blocks"]):
        assert len(block["gates"]) == len(block["reference"]) == block["channels"]
        assert block["gates"] == pytest.approx(expected.gates[i].tolist(), abs=1e-4)
        assert np.shape(block["energy_shift"]) == (block["side"], block["side"])
        assert abs(np.sum(block["energy_shift"])) < 1e-3
        assert set(block["effect"]) == {"probability", "logit"}
    index = expected.class_index(data["class"])
    said = [*(block["effect"] for block in data["blocks"]), data["all_blocks"]]
    for effect, own in zip(said, expected.effects(index), strict=True):
        assert effect == pytest.approx(own._asdict(), abs=1e-4)
    assert np.shape(data["evidence"]) == expected.features.shape[1:] and np.min(data["evidence"]) >= 0
    five = [guess["probability"] for guess in data["top"]]
    assert len(five) == 5 and five == sorted(five, reverse=True) and data["class"] == data["top"][0]["label"]
    assert data["parameters"] == sum(p.numel() for p in bundled[model].model.parameters())
    assert data["reference"]["n"] > 0


def test_explain_another_class(call, bundled):
    data = call("/explain", FROG, target="ship", **SMALL)
    expected = mnv3.explain(bundled["Small"], FROG)
    assert data["class"] == "ship" != data["top"][0]["label"]
    assert data["all_blocks"] == pytest.approx(expected.effects(expected.class_index("ship"))[-1]._asdict(), abs=1e-4)


def test_compare(call, bundled):
    data = call("/compare", TRUCK)
    assert [column["checkpoint"] for column in data["columns"]] == ["cifar10-large", "cifar10-small"]
    tops = [column["top"][0]["label"] for column in data["columns"]]
    assert all(label in data["agreement"] for label in tops)
    assert data["agreement"].startswith("Both say" if tops[0] == tops[1] else "They disagree")
    assert [len(column["blocks"]) for column in data["columns"]] == list(BLOCKS.values())


def test_trust(call, bundled):
    data = call("/trust", FROG, target="frog", **SMALL)
    checkpoint, index = bundled["Small"], bundled["Small"].labels.index("frog")
    p = mnv3.explain(checkpoint, FROG).probabilities[index]
    assert data["class"] == "frog" and data["checkpoint"] == "cifar10-small" and data["cells"] == 16
    for measure, end in (("deletion", 0), ("insertion", -1)):
        for kind, count in (("evidence", 1), ("centred", 1), ("random", 5)):
            found = data[measure][kind]
            assert len(found["areas"]) == len(found["p"]) == count and all(0 < area < 1 for area in found["areas"])
            assert [row[end] for row in found["p"]] == pytest.approx([p] * count, abs=1e-3)
    assert len(data["randomised"]) == 5 and data["protocol"]["steps"] == 32
    again = call("/trust", FROG, **SMALL)
    assert again["randomised"] == pytest.approx(data["randomised"], abs=1e-3)
    assert again["insertion"]["random"]["areas"] == pytest.approx(data["insertion"]["random"]["areas"], abs=1e-3)


def test_compare_checkpoints_by_name(call):
    alone = call("/compare", TRUCK)
    names = ["cifar10-small", "cifar10-large"]
    data = call("/compare", TRUCK, checkpoints=names)
    assert [column["checkpoint"] for column in data["columns"]] == names
    by_name, by_family = data["columns"][0], alone["columns"][1]
    assert {k: by_name[k] for k in ("class", "reference", "knows")} == {
        k: by_family[k] for k in ("class", "reference", "knows")}  # fmt: skip
    # torch may have given the one answer and the session, ready by then, the other
    np.testing.assert_allclose(by_name["evidence"], by_family["evidence"], atol=1e-4)
    for one, other in zip(by_name["blocks"], by_family["blocks"], strict=True):
        np.testing.assert_allclose(one["gates"], other["gates"], atol=1e-4)


@pytest.mark.parametrize(
    "names, words",
    [(["cifar10-small"], "2 to 4"), (["cifar10-small"] * 3, "2 to 4"), (list("abcde"), "2 to 4"),
     (["cifar10-small", "no such"], "no such"), (["cifar10-small", "../x"], "cifar10-large"),
     (["cifar10-small", "torchvision/small"], "Fetch weights"), (["cifar10-small", "own-x"], "open them again")],
)  # fmt: skip
def test_checkpoints_that_cannot_be_compared(call, names, words):
    assert words in refused(call, "/compare", TRUCK, checkpoints=names)


def test_the_api_describes_itself(app):
    status, body = app.get("/gradio_api/info")
    assert status == 200
    endpoints = json.loads(body)["named_endpoints"]
    assert {"/predict", "/explain", "/compare", "/trust", "/models", "/fetch"} == set(endpoints)
    expected = {
        "/predict": {"image": None, "model": "Large", "weights": BUNDLED, "top_k": 5},
        "/explain": {"image": None, "model": "Large", "weights": BUNDLED, "target": ""},
        "/trust": {"image": None, "model": "Large", "weights": BUNDLED, "target": ""},
        "/compare": {"image": None, "weights": BUNDLED, "checkpoints": []},
        "/fetch": {"model": "Large", "weights": BUNDLED},
    }
    for name, defaults in expected.items():
        parameters = {p["parameter_name"]: p for p in endpoints[name]["parameters"]}
        assert list(parameters) == list(defaults), name
        for parameter, described in parameters.items():
            assert described["type"] and described["python_type"]["type"]
            assert described["parameter_has_default"] == (parameter != "image"), (name, parameter)
            assert parameter == "image" or described["parameter_default"] == defaults[parameter], (name, parameter)
    assert {described["parameter_name"] for e in endpoints.values() for described in e["parameters"]} == {
        "image", "model", "weights", "top_k", "target", "checkpoints",
    }  # fmt: skip


# What is refused, in words --------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [0, -1, 1001, 2.5, 1e300, None])
def test_a_bad_top_k(call, top_k):
    assert "top_k" in refused(call, "/predict", FROG, top_k=top_k, **SMALL)


@pytest.mark.parametrize("weights", ["no such weights", "cifar10-large", "", "../cifar10-small", "timm/tf_x", None])
def test_unknown_weights(call, weights):
    assert BUNDLED in refused(call, "/predict", FROG, model="Small", weights=weights)


@pytest.mark.parametrize("target", ["dragon", "Frog", "x" * 10_000])
def test_an_unknown_class(call, target):
    for endpoint in ("/explain", "/trust"):
        assert "airplane" in refused(call, endpoint, FROG, target=target, **SMALL)


def test_an_unknown_model(app):
    kind, words = app.call("predict", picture_data(FROG), "Huge", BUNDLED, 5)
    assert kind == "error" and "Large" in one_sentence(words.replace("<class 'str'>", "text"))


def test_no_picture(call):
    for endpoint in ("/predict", "/explain", "/compare", "/trust"):
        assert "picture" in refused(call, endpoint, None)


def test_weights_to_fetch_are_not_fetched_unasked(app, call):
    before = app.asked()
    for endpoint in ("/predict", "/explain", "/compare"):
        words = refused(call, endpoint, FROG, weights=TO_FETCH)
        assert TO_FETCH in words and "Fetch weights" in words
    assert app.asked() == before


@pytest.mark.parametrize("weights", [TO_FETCH, "ImageNet · timm"])
def test_fetching_without_a_network(app, call, bundled, weights):
    from gradio_client.exceptions import AppError

    before = len(app.asked())
    with pytest.raises(AppError) as caught:
        call.client.predict("Small", weights, api_name="/fetch")
    words = one_sentence(str(caught.value))
    assert "network" in words or "reached" in words, words
    assert len(app.asked()) > before, "the guard saw nothing: no test here could tell what touches the network"
    assert call("/predict", FROG, **SMALL)["label"] == top(bundled["Small"], FROG)


def test_what_is_here_needs_no_fetching(call):
    assert "cifar10-large" in call.client.predict("Large", BUNDLED, api_name="/fetch")


# Files that strangers send --------------------------------------------------------------------------------------


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture_data(source):
    """A picture as the page's clipboard button sends it: bytes in a data: URI, no file."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    return {"url": "data:image/png;base64," + base64.b64encode(data).decode()}


@pytest.fixture
def ask(call, tmp_path):
    """ask(bytes, name) -> label -> probability, all ten, by Small."""

    def make(data, name="picture.png"):
        path = tmp_path / name
        path.write_bytes(data)
        return confidences(call("/predict", path, top_k=10, **SMALL))

    return make


@pytest.fixture(scope="module")
def scene():
    """A photo of 96×64: no side like the other, so that an orientation can't go unnoticed; whole JPEG blocks."""
    return open_picture(TRUCK).resize((96, 64))


def test_every_orientation_of_a_camera(ask, scene):
    exif, upright = Image.Exif(), ask(saved(scene, "JPEG", quality=100, subsampling=0), "upright.jpg")
    turned = {3: "ROTATE_180", 6: "ROTATE_90", 8: "ROTATE_270", 2: "FLIP_LEFT_RIGHT", 5: "TRANSPOSE"}
    for orientation, method in turned.items():
        stored = scene.transpose(Image.Transpose[method])
        exif[0x0112] = orientation
        options = {"quality": 100, "subsampling": 0}
        assert ask(saved(stored, "JPEG", exif=exif, **options), "turned.jpg") == pytest.approx(upright, abs=0.02)
    without = ask(saved(scene.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=100, subsampling=0), "bare.jpg")
    assert without != pytest.approx(upright, abs=0.02), "the tag must matter, or nothing here could fail"


def test_what_hides_beneath_transparency(ask):
    cut_out = Image.open(FROG).convert("RGBA")
    answers = []
    for colour in ((0, 0, 0), (255, 0, 255)):
        pixels = np.array(cut_out)
        pixels[pixels[..., 3] == 0, :3] = colour
        answers.append(ask(saved(Image.fromarray(pixels), "PNG")))
    assert answers[0] == answers[1] == ask(saved(open_picture(FROG), "PNG"))


def test_an_animation_is_its_first_frame(ask, scene):
    frame, other = scene.quantize(64), Image.new("P", scene.size, 1)
    assert ask(saved(frame, "GIF", save_all=True, append_images=[other]), "a.gif") == pytest.approx(
        ask(saved(frame, "PNG")), abs=1e-5
    )


def test_sixteen_bits(ask, scene):
    grey = np.array(scene.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert ask(saved(deep, "PNG")) == pytest.approx(ask(saved(Image.fromarray(grey), "PNG")), abs=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (3000, 2)])
def test_thin_and_tiny_pictures(ask, size):
    assert sum(ask(saved(Image.new("RGB", size, "red"), "PNG")).values()) == pytest.approx(1)


def huge_header():
    """A PNG that says 20,000×20,000 and holds next to nothing."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [head, b"IDAT" + zlib.compress(b"\0" * 60_001)]
    body = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


NO_PICTURES = {
    "text.jpg": (b"hello, I am no picture\n", "can't be read"),
    "cut.jpg": ((EXAMPLES / "cat.jpg").read_bytes()[:9000], "incomplete"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><rect width='9' height='9'/></svg>", "SVG"),
    "empty.png": (b"", "empty"),
    "huge.png": (huge_header(), "too large"),
    "page.png": (b"<!doctype html><script>alert(1)</script>", "HTML"),
    "no ending": (b"\0" * 4096, "can't be read"),
}


@pytest.mark.parametrize("name", NO_PICTURES)
def test_what_is_no_picture_gets_a_sentence(call, bundled, tmp_path, name):
    data, word = NO_PICTURES[name]
    (tmp_path / name).write_bytes(data)
    for endpoint in ("/predict", "/compare"):
        assert word in refused(call, endpoint, tmp_path / name)
    assert call("/predict", FROG, **SMALL)["label"] == top(bundled["Small"], FROG)


def test_pictures_without_a_file(app, bundled):
    data = picture_data(FROG)
    for sent in (data, data["url"], "data:image/png," + quote(FROG.read_bytes())):
        kind, answer = app.call("predict", sent, "Small", BUNDLED, 1)
        assert kind == "complete" and answer[0]["label"] == top(bundled["Small"], FROG)
    for data in ("data:image/png;base64,AAAA", "data:image/png;base64,é", "data:,%%%", "data:,\ud800"):
        kind, words = app.call("predict", {"url": data}, "Small", BUNDLED, 1)
        assert kind == "error" and one_sentence(words)


# What must not be read, fetched or served -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "meta", [META, {}, {"url": "data:,x"}, {"url": "http://127.0.0.1:9/x"}, {**META, "is_stream": True}]
)
@pytest.mark.parametrize("path", [EXAMPLES / "frog.png", "/etc/passwd", ROOT / "app.py", "../examples/frog.png"])
def test_files_of_the_host_are_no_pictures(app, path, meta):
    kind, there = app.call("predict", {"path": str(path), **meta}, "Small", BUNDLED, 5)
    assert kind == "error", "a file that nobody uploaded was read"
    _, missing = app.call("predict", {"path": f"{path}.missing", **meta}, "Small", BUNDLED, 5)
    assert there == missing, "the answer tells which files there are"


@pytest.mark.parametrize("path", ["/etc/passwd", ROOT / "mnv3/weights/cifar10-small/config.json", "../config.json"])
def test_files_of_the_host_are_no_uploads(path):
    """What a stranger may send as the files of a checkpoint, with or without the field that Gradio itself looks at."""
    import gradio as gr
    from gradio.components.file import ListFiles

    from mnv3.web import uploads

    for meta in (META, {}):
        sent = ListFiles(root=[{"path": str(path), "orig_name": "config.json", **meta}])
        with pytest.raises(gr.Error, match="not uploaded"):
            uploads.files_as_sent(sent)


def test_uploads_come_with_the_names_they_had(tmp_path, monkeypatch):
    from gradio.components.file import ListFiles

    from mnv3.web import uploads

    monkeypatch.setattr(uploads, "get_upload_folder", lambda: str(tmp_path))
    sent = ListFiles(root=[{"path": str(tmp_path / "a" / "x.json"), "orig_name": "config.json"},
                           {"path": str(tmp_path / "b" / "model.safetensors")},
                           {"path": str(tmp_path / "c" / "half"), "orig_name": "half \ud83d.png"}])  # fmt: skip
    assert uploads.files_as_sent(sent) == [("config.json", str(tmp_path / "a" / "x.json")),
                                          ("model.safetensors", str(tmp_path / "b" / "model.safetensors")),
                                          ("half ?.png", str(tmp_path / "c" / "half"))]  # fmt: skip
    assert uploads.files_as_sent(None) == []


def test_checkpoints_to_compare_are_a_list(app):
    for given in ("cifar10-small", 5, {"a": 1}):
        kind, words = app.call("compare", picture_data(FROG), BUNDLED, given)
        assert kind == "error" and "a list of names" in one_sentence(words)


def test_a_bare_path_is_no_picture(app):
    for picture, word in ((str(FROG), "not uploaded"), ("\0", "not uploaded"), ({"path": "\ud800"}, "not uploaded"),
                          (["/etc/passwd"], "No picture"), (3, "No picture")):  # fmt: skip
        kind, words = app.call("predict", picture, "Small", BUNDLED, 5)
        assert kind == "error" and word in one_sentence(words)


@pytest.fixture
def counter():
    """A web server on this machine that offers a picture and counts who comes."""
    visits = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            visits.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(FROG.read_bytes())

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", visits
        server.shutdown()
        thread.join()


def addressed(url):
    """The ways to send an address for a picture."""
    return [{"path": url, **META}, {"path": url}, {"path": None, "url": url}, {"path": "x.png", "url": url, **META}]


def test_nobody_can_send_the_app_to_another_server_of_the_host(app, counter):
    url, visits = counter
    for address in (url, url.replace("127.0.0.1", "localhost")):
        for picture in addressed(address + "/frog.png"):
            assert app.call("predict", picture, "Small", BUNDLED, 5)[0] == "error"
    assert not visits


def test_the_address_of_an_upload_stands_for_it(app, bundled):
    """All that MCP clients have of a file is the address it got; the path in it must still be an upload's."""
    from gradio_client import handle_file

    (uploaded,) = httpx.post(app.url + "/gradio_api/upload", files={"files": FROG.read_bytes()}, trust_env=False).json()
    for host in (app.url, "https://someone-mnv3.hf.space"):  # as the app is called from outside, which it can't know
        sent = handle_file(f"{host}/gradio_api/file={quote(uploaded)}")
        kind, answer = app.call("predict", sent, "Small", BUNDLED, 1)
        assert kind == "complete" and answer[0]["label"] == top(bundled["Small"], FROG)
    for path in (FROG, "/etc/passwd", f"{uploaded}/../../../../etc/passwd"):
        kind, words = app.call("predict", handle_file(f"{app.url}/gradio_api/file={path}"), "Small", BUNDLED, 1)
        assert kind == "error" and "not uploaded here" in one_sentence(words)


def test_nobody_can_send_the_app_anywhere_else(app):
    before = app.asked()
    for picture in addressed("http://pictures.example/frog.png"):
        assert app.call("predict", picture, "Small", BUNDLED, 5)[0] == "error"
    assert app.asked() == before


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "app.py", "../app.py", "../../../../etc/passwd", "%2e%2e/app.py", ROOT / "app.py", FROG,
     EXAMPLES / ".." / "app.py", ROOT / "mnv3/weights/cifar10-small/config.json", "file:///etc/passwd"],
)  # fmt: skip
def test_files_of_the_host_are_not_served(app, path):
    for before in ("/gradio_api/file=", "/file=", "/static/../", "/assets/../../"):
        assert app.get(f"{before}{path}")[0] in (403, 404)


# Starting -------------------------------------------------------------------------------------------------------


def test_no_event_has_two_listeners_that_ask_the_server(app):
    """The page repeats an event for all its listeners when it found one busy: two can keep each other busy for ever.

    Of a State's change it tells one listener at a time.
    """
    config = json.loads(app.get("/config")[1])
    kinds = {component["id"]: component["type"] for component in config["components"]}
    asking = Counter(
        (target, event)
        for listener in config["dependencies"]
        if listener["backend_fn"] and listener["api_visibility"] == "private"
        for target, event in listener["targets"]
        if target is not None and kinds[target] != "state"
    )
    assert len(asking) > 15 and {event: count for event, count in asking.items() if count > 1} == {}


def test_starting_touches_no_network(app):
    """With nothing in the environment that would forbid it; that the guard works, the tests of /fetch show."""
    assert app.asked_at_start == []


def test_the_command_of_the_readme(tmp_path, bundled):
    from app_server import App

    server = App(tmp_path, ROOT, guarded=False)
    try:
        status, body = server.get("/")
        assert status == 200 and "MobileNetV3" in body
        kind, answer = server.call("predict", picture_data(TRUCK), "Small", BUNDLED, 1)
        assert kind == "complete" and answer[0]["label"] == top(bundled["Small"], TRUCK)
    finally:
        status = server.stop()
    assert status == 0, "Ctrl-C must end it"
    assert "Traceback" not in server.log.read_text()


def test_a_hosts_mistake_ends_the_command_with_one_sentence():
    environment = {**os.environ, "MNV3_WEIGHTS": "no such"}
    ended = subprocess.run([sys.executable, ROOT / "app.py"], env=environment, capture_output=True, timeout=180)
    (line,) = ended.stderr.decode().splitlines()
    assert ended.returncode == 2 and line.startswith("app.py: ") and "MNV3_WEIGHTS has 'no such'" in line


@pytest.mark.parametrize(
    "name, value, words", [("MNV3_OWN", "perhaps", "open or closed"), ("MNV3_OFFERED", "cifar10-small; x", "'x'")]
)
def test_every_mistake_of_a_host_is_one_sentence_at_the_start(hosted, capsys, name, value, words):
    assert hosted(**{name: value}).main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("app.py: ") and words in line


def test_mcp_without_the_package_it_needs(hosted, monkeypatch, capsys):
    module = hosted(MNV3_MCP="1")
    monkeypatch.setattr("mnv3.web.server.find_spec", lambda name: None)
    assert module.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("app.py: ") and f"pip install 'gradio[mcp]=={version('gradio')}'" in line


@pytest.mark.parametrize("value, wanted", [("1", True), ("0", False), ("", False)])
def test_mcp_only_where_the_host_wants_it(hosted, monkeypatch, value, wanted):
    module = hosted(MNV3_MCP=value)
    monkeypatch.setattr("mnv3.web.server.find_spec", lambda name: name)
    assert module.mcp_wanted() is wanted
    hosted(MNV3_MCP="yes")
    with pytest.raises(InputError, match="MNV3_MCP .='yes'. must be 0 or 1"):
        module.mcp_wanted()


async def tools():
    """What Gradio would offer over MCP: name -> its schema; made without the package that would serve it."""
    from gradio.mcp import GradioMCPServer

    from mnv3.web import app as web_app

    server = GradioMCPServer.__new__(GradioMCPServer)
    server.blocks, server.tool_prefix = web_app.build_demo(), ""
    server.api_info = server.blocks.get_api_info()
    server.tool_to_endpoint = server.get_tool_to_endpoint()
    answer = await server.get_complete_schema(SimpleNamespace(query_params={}))
    return {tool["name"]: tool for tool in json.loads(answer.body)}


def test_tools_say_what_they_do_and_what_each_argument_is():
    found = awaited(tools())
    assert set(found) == {"predict", "explain", "compare", "trust", "models", "fetch"}, "and nothing of the page's"
    for name, tool in found.items():
        assert len(tool["description"]) > 30 and "None" not in tool["description"]
        for argument, schema in tool["inputSchema"]["properties"].items():
            assert len(schema["description"]) > 10, (name, argument)
        assert tool["inputSchema"].get("required", []) == (["image"] if "image" in schema_of(tool) else [])
    assert schema_of(found["compare"])["checkpoints"]["type"] == "array"


def schema_of(tool):
    return tool["inputSchema"]["properties"]


@pytest.fixture
def hosted(monkeypatch):
    """hosted(NAME=value) -> the app's module under a host's settings."""
    from mnv3.web import app as web_app

    def make(**settings):
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        return web_app

    return make


def test_a_host_sets_the_default_and_the_list(hosted):
    hosted(MNV3_WEIGHTS="torchvision/small", MNV3_OFFERED="cifar10-large;torchvision/large-v2")
    assert selection.default_family() == TO_FETCH and selection.families("Small") == [TO_FETCH, BUNDLED]
    assert {entry["family"] for entry in api.models()} == {TO_FETCH, BUNDLED}
    with pytest.raises(InputError, match="choose one of"):
        selection.chosen("Large", "torchvision/large-v1")
    awaited(built())


def test_a_host_offers_one_size_only(hosted):
    hosted(MNV3_OFFERED="torchvision/large-v1")
    assert selection.variants() == ["Large"] and selection.default_family() == "ImageNet · torchvision V1"
    awaited(built())


async def parts(kind):
    """The page's components of a kind, by elem_id."""
    from mnv3.web import app as web_app

    return {block.elem_id: block for block in web_app.build_demo().blocks.values() if isinstance(block, kind)}


def test_a_host_closes_use_my_own(hosted):
    import gradio as gr

    assert "own-files" in awaited(parts(gr.File))
    module = hosted(MNV3_OWN="closed")
    assert "own-files" not in awaited(parts(gr.File))
    words, mine, *_ = module.open_repo("user/repo", "Large", [], gr.Request())
    assert "closed" in words and mine == []


async def built():
    """build_demo() -> the examples on the page. Asynchronous, since Gradio leaves event loops open outside of one."""
    import gradio as gr

    from mnv3.web import app as web_app

    blocks = web_app.build_demo().blocks.values()
    return [sample for block in blocks if isinstance(block, gr.Dataset) for sample in block.samples]


@pytest.fixture
def damaged_examples(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "EXAMPLES", tmp_path)
    (tmp_path / "cat.jpg").write_bytes((EXAMPLES / "cat.jpg").read_bytes())
    (tmp_path / "frog.png").write_bytes(FROG.read_bytes())
    (tmp_path / "damaged.jpg").write_bytes((EXAMPLES / "cat.jpg").read_bytes()[:9000])


async def two_uploads(server):
    """What two uploads in turn are answered: status and text."""
    asking = httpx.ASGITransport(server, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=asking, base_url="http://127.0.0.1") as client:
        answers = [await client.post("/gradio_api/upload", files={"files": ("a.png", b"x")}) for _ in range(2)]
    return [(answer.status_code, answer.text) for answer in answers]


def test_an_upload_to_a_full_disk_is_answered_with_a_sentence(hosted, monkeypatch, capsys):
    import gradio as gr

    module, launched = hosted(), {}
    monkeypatch.setattr(module, "build_demo", lambda: SimpleNamespace(launch=lambda **given: launched.update(given)))
    assert module.main() == 0
    faults = [OSError(errno.ENOSPC, "No space left on device", "/secret/a.png"), OSError(errno.EIO, "I/O", "/secret")]
    monkeypatch.setattr(gr.routes, "upload_fn", AsyncMock(side_effect=faults))

    async def asked():
        demo = gr.Blocks()
        demo.max_file_size = None  # which launch() sets
        return await two_uploads(gr.routes.App.create_app(demo, app_kwargs=launched["app_kwargs"]))

    (full, broken), said = awaited(asked()), capsys.readouterr().err
    assert full == (507, "The app's disk is full: try again later, or tell its host.")
    assert broken == (500, "Internal Server Error"), "other faults stay Gradio's, and in its log"
    assert "disk is full" in said


def test_a_damaged_example_does_not_prevent_the_start(damaged_examples):
    assert len(awaited(built())) == 3


def test_a_damaged_example_spoils_no_visitors_picture(damaged_examples, small_checkpoint):
    without_statistics = replace(small_checkpoint(), gates=None)
    assert mnv3.explain(without_statistics, TRUCK).reference.count == 2


def test_no_examples_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "EXAMPLES", tmp_path / "nothing")
    assert awaited(built()) == []


# A row of the panel that is open ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "clicked, opens",
    [({"block": 2, "channel": 3}, True), ({"block": 2}, True), ({"block": 2, "channel": 10**9}, True), ({}, False),
     ({"block": 99}, False), ({"block": -1}, False), ({"block": "2"}, False), ({"block": True}, False), (None, False),
     ([2], False)],
)  # fmt: skip
def test_what_a_click_opens(bundled, clicked, opens):
    """What a page sends may be anything; what doesn't exist opens nothing, and a new picture shuts what was open."""
    import gradio as gr

    from mnv3.web import handlers

    explanation = mnv3.explain(bundled["Small"], FROG)
    inside = handlers._inside("frog.png", "Small", BUNDLED, gr.EventData(None, clicked))
    row = handlers.opened_row(explanation, inside, ["frog.png", "Small", BUNDLED])
    assert (row is not None) == opens and (not opens or row[0] == 2)
    assert handlers.opened_row(explanation, inside, ["truck.png", "Small", BUNDLED]) is None
    assert handlers.opened_row(explanation, None, []) is None


def test_what_is_kept_of_a_click_is_small(bundled):
    """It is kept for every visitor until they are forgotten, and what a page sends may be anything."""
    import gradio as gr

    from mnv3.web import handlers

    much, event = "x" * 10**6, SimpleNamespace(value="x" * 10**6)
    kept = [
        handlers._selected(much.encode(), "Small", BUNDLED, event),
        handlers._inside(much.encode(), "Small", BUNDLED, gr.EventData(None, {"block": much, "channel": [much]})),
    ]
    assert max(len(str(one)) for one in kept) < 500
    of = [handlers.what_is_on_show(picture, "Small", BUNDLED) for picture in (much.encode(), b"y", much.encode())]
    assert of[0] == of[2] == kept[0]["of"] != of[1]


def test_old_files_are_deleted_though_an_upload_comes_in_the_middle_of_it(tmp_path, monkeypatch):
    """Gradio's own task was over for good then, and the disk of a busy host filled."""
    from mnv3.web import server as web_server

    class Growing(set):
        passes = 0

        def __iter__(self):
            self.passes += 1
            if self.passes == 1:
                raise RuntimeError("Set changed size during iteration")
            return super().__iter__()

    old, new = tmp_path / "digest" / "old", tmp_path / "other" / "new"
    for path in (old, new):
        path.parent.mkdir()
    old.touch()
    (new.parent / "kept").touch()
    monkeypatch.setattr(web_server, "get_upload_folder", lambda: str(tmp_path))
    blocks = SimpleNamespace(blocks={}, temp_file_sets=[Growing({str(old)})])
    monkeypatch.setattr(web_server, "KEEP_FILES", (0.05, 0.01))

    async def serve():
        async with web_server.cleaning(SimpleNamespace(get_blocks=lambda: blocks)):
            for _ in range(500):
                await asyncio.sleep(0.01)
                if not old.parent.exists():
                    break
            assert not old.parent.exists() and blocks.temp_file_sets[0].passes >= 2
            assert (new.parent / "kept").exists()
            monkeypatch.setattr(web_server, "KEEP_FILES", (60, 60))
            new.touch()
            blocks.temp_file_sets[0].add(str(new))

    awaited(serve())
    assert not new.exists(), "what is left goes with the server"


# Which weights speak --------------------------------------------------------------------------------------------


@pytest.fixture
def listed(monkeypatch):
    """listed(state of ImageNet Large, of Small): the app's module with such a catalogue."""
    from mnv3.web import app as web_app

    def make(large, small):
        entries = [
            Entry("a/large", "ImageNet · a", "large", "", large, 22),
            Entry("a/small", "ImageNet · a", "small", "", small, 10),
            Entry("a/large-only", "ImageNet · b", "large", "", large, 22),
            Entry("mine-large", "bundled", "large", "", "here", 8),
            Entry("mine-small", "bundled", "small", "", "here", 3),
            Entry("broken", "broken · bundled", "", "", "failed", 0, "no config"),
        ]
        here = {entry.name for entry in entries if entry.state == "here"}
        monkeypatch.setattr(selection, "catalogue", lambda: entries)
        monkeypatch.setattr(selection, "is_here", here.__contains__)
        return web_app

    return make


@pytest.mark.parametrize(
    "large, small, family",
    [("here", "here", "ImageNet · a"), ("here", "download", "bundled"), ("download", "here", "bundled"),
     ("download", "download", "bundled"), ("failed", "failed", "bundled")],
)  # fmt: skip
def test_imagenet_speaks_where_both_sizes_are_here(listed, large, small, family):
    listed(large, small)
    assert selection.default_family() == family


def test_the_weights_list_follows_the_model(listed):
    listed("download", "download")
    assert selection.families("Large") == ["ImageNet · a", "ImageNet · b", "bundled"]
    assert selection.families("Small") == ["ImageNet · a", "bundled"]


def test_chosen_by_family_or_name(listed):
    listed("download", "download")
    assert selection.chosen("Large", "bundled").name == selection.chosen("Large", "mine-large").name == "mine-large"
    assert selection.chosen("Small", "ImageNet · a").name == "a/small"
    for model, weights in (("Small", "ImageNet · b"), ("Small", "mine-large"), ("small", "bundled"), (None, None)):
        with pytest.raises(InputError) as caught:
            selection.chosen(model, weights)
        one_sentence(str(caught.value))


def test_large_only_weights_and_then_small(listed):
    """The list still shows the old choice when the model changes: no reason for an error."""
    module = listed("download", "download")
    assert module.weights_list("Small", "ImageNet · b").value == "bundled"
    kept = module.weights_list("Small", "ImageNet · a")._constructor_args[0]
    assert kept.keys() == {"choices"}, "a value would undo what is chosen meanwhile"


def test_weights_of_one_size_are_compared_with_the_default_ones(listed, monkeypatch):
    """They were refused, since Small has none of the name."""
    listed("here", "here")
    monkeypatch.setattr(cache, "checkpoint", lambda name: name)
    assert selection.several("ImageNet · b", None) == ["a/large-only", "a/large", "a/small"]
    assert selection.several("bundled", []) == ["mine-large", "mine-small"]
    with pytest.raises(InputError, match="Large has no weights 'ImageNet · c'"):
        selection.several("ImageNet · c", None)
    monkeypatch.setenv("MNV3_OFFERED", "a/large-only")
    with pytest.raises(InputError, match="Small is not offered here: choose Large."):
        selection.several("ImageNet · b", None)


def test_the_fetch_button_is_there_while_a_size_is_missing(listed):
    module = listed("here", "download")
    assert module.fetch_button("ImageNet · a").visible is True
    assert module.fetch_button("bundled").visible is False
    assert [entry.name for entry in selection.missing("ImageNet · a")] == ["a/small"]


def test_a_slow_download_keeps_nobody_waiting(monkeypatch, small_checkpoint):
    """One visitor fetches weights over a slow line; another's, which are here, load all the same."""
    started, arrived, got = threading.Event(), threading.Event(), []

    def load(name, progress=None):
        if name == "far away":
            started.set()
            assert arrived.wait(60)
        return small_checkpoint(name)

    monkeypatch.setattr(cache, "load", load)
    monkeypatch.setattr(cache, "_loaded", type(cache._loaded)())
    fetching = threading.Thread(target=cache.checkpoint, args=("far away",))
    other = threading.Thread(target=lambda: got.append(cache.checkpoint("here")))
    fetching.start()
    assert started.wait(60)
    other.start()
    other.join(5)
    arrived.set()
    waited = not got
    fetching.join(60)
    other.join(60)
    assert not waited and got[0].name == "here"


# ---- on a Space ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", [True, False])
def test_zero_gpu_finds_the_function_it_wants_and_nowhere_else_is_spaces_needed(zero, monkeypatch):
    from mnv3.web import server as web_server

    declared = []
    stub = SimpleNamespace(GPU=lambda duration: declared.append)
    monkeypatch.setitem(sys.modules, "spaces", stub if zero else None)  # None: an import fails
    monkeypatch.setenv("SPACES_ZERO_GPU", "1") if zero else monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    web_server.satisfy_zero_gpu()
    assert len(declared) == zero


NOBODY = 65534
AS_NOBODY = (  # who may read all of this machine's Python, but write only what is its own
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search", "--no-new-privs",
)  # fmt: skip
SPACE = {
    "SYSTEM": "spaces", "SPACE_ID": "someone/mnv3", "SPACE_HOST": "someone-mnv3.hf.space",
    "SPACE_AUTHOR_NAME": "someone", "SPACE_REPO_NAME": "mnv3", "GRADIO_SERVER_NAME": "0.0.0.0",
}  # fmt: skip


def test_it_starts_as_a_space_does_and_answers(tmp_path, bundled):
    """Its variables, not root, the code read-only, no network."""
    from app_server import App

    code, home = tmp_path / "code", tmp_path / "home"
    shutil.copytree(ROOT / "mnv3", code / "mnv3", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(EXAMPLES, code / "examples")
    shutil.copy(ROOT / "app.py", code)
    files = sorted(code.rglob("*"))
    for path in [*files, code]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    home.mkdir()
    before = ()
    if os.geteuid() == 0:
        before = AS_NOBODY
        for folder in (home, *(home / name for name in ("hf", "torch", "tmp", "gradio"))):
            folder.mkdir(exist_ok=True)
            os.chown(folder, NOBODY, NOBODY)
    server = App(home, code, code=code, before=before, more=SPACE)
    try:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        assert not before or f"Uid:\t{NOBODY}" in status
        kind, answer = server.call("predict", picture_data(FROG), "Small", BUNDLED, 1)
        assert kind == "complete" and answer[0]["label"] == top(bundled["Small"], FROG)
        assert server.asked() == []
    finally:
        server.stop()
        code.chmod(0o755)
    assert sorted(code.rglob("*")) == files


@pytest.mark.parametrize(
    "path", ["/gradio_api/file=http://127.0.0.1:1/a.png", "/gradio_api/file=https%3A//127.0.0.1/a.png",
             "/gradio_api/file/http://127.0.0.1:1/a.png",
             "/gradio_api/process_recording", "/monitoring", "/monitoring/summary", "/gradio_api/monitoring"],
)  # fmt: skip
def test_routes_that_the_page_does_not_use_are_not_there(app_url, path):
    for ask in (httpx.get, httpx.post):
        assert ask(app_url.rstrip("/") + path, timeout=20).status_code == 404
