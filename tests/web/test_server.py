"""What strangers try on the server: files of the host's, other origins, payloads that no page sends."""

import base64
import json
import os
from pathlib import Path

import pytest
from gradio_client import Client

import mnv3
from mnv3.inference.reference import EXAMPLES
from tests.benchmarks import differential

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
pytest_plugins = ["app_server"]

ROOT = Path(__file__).parents[2]
FROG = {"url": "data:image/png;base64," + base64.b64encode((EXAMPLES / "frog.png").read_bytes()).decode()}
SMALL = ["Small", "cifar10-small"]


def bundled_answer():
    """Label -> probability of the frog, by the package alone."""
    checkpoint = mnv3.load(SMALL[1])
    found = mnv3.explain(checkpoint, EXAMPLES / "frog.png").probabilities.tolist()
    return dict(zip(checkpoint.labels, found, strict=True))


def joined(app, number, data):
    """What the queue answers to a listener of the page's own, called past the page."""
    session = f"stranger{number}"
    body = {"data": data, "fn_index": number, "session_hash": session, "event_data": [1]}
    status, text = app.post("/gradio_api/queue/join", body)
    return app.get(f"/gradio_api/queue/data?session_hash={session}")[1] if status == 200 else text


def test_nothing_of_the_host_shows_whatever_a_listener_is_sent_and_the_log_has_it(app):
    """The listeners behind the page's buttons can be called by anyone, with anything: what they raise stays here."""
    listeners = json.loads(app.get("/config")[1])["dependencies"]
    answers = [joined(app, one["id"], [{"x": 1}] * len(one["inputs"])) for one in listeners]
    answers += [str(app.call("predict", *payload)) for payload in (
        [{"path": 5}, *SMALL, 5], [], [{"url": 5}, *SMALL, 5], [FROG, {"a": 1}, [], 5], [FROG, *SMALL, {"a": 1}],
        [[], *SMALL, 5], [{"path": "x\0y"}, *SMALL, 5],
    )]  # fmt: skip
    for answer in answers:
        for word in ("/root", "/home", "/tmp", str(ROOT), "site-packages", "Traceback", '.py", line', str(app.home)):
            assert word not in answer, (word, answer[-2000:])
    assert sum('"error":null' in answer for answer in answers) > 3, "nothing unexpected was raised: nothing could show"
    assert "Traceback" in app.log.read_text()
    kind, answer = app.call("predict", FROG, *SMALL, 10)
    said = {guess["label"]: guess["confidence"] for guess in answer[0]["confidences"]} if kind == "complete" else answer
    assert said == pytest.approx(bundled_answer(), abs=1e-5), "a crash left a trace in the next answer"


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", ".env", "a/../../evil.png", "..%2fevil.png"])
def test_an_upload_lands_where_uploads_do_whatever_it_is_called(app, name):
    body = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\nx\r\n--x--\r\n'
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    status, _, where = app.request("/gradio_api/upload", body.encode(), multipart)
    assert status == 200
    (path,) = json.loads(where)
    assert Path(path).resolve().parent.parent == (app.home / "gradio").resolve()


def test_a_request_is_bounded_unless_it_is_an_upload(app):
    """Its bytes would be kept in memory, as many as anyone likes to send; an upload of many pictures may have more."""
    whole = b'{"data": ["' + b"x" * 80_000_000 + b'"]}'
    for path in ("/gradio_api/call/predict", "/gradio_api/queue/join", "/gradio_api/call/upload"):
        try:
            status, _, said = app.request(path, whole, {"Content-Type": "application/json"})
        except OSError:  # the server hangs up while the rest is being sent
            continue
        assert status == 413 and "80 MB" in said, path
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n' + b"x" * 45_000_000 + b"\r\n"
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    assert app.request("/gradio_api/upload", 2 * part + b"--x--\r\n", multipart)[0] == 200


def test_no_deep_link_is_kept_on_disk(app):
    """Nothing deletes what a session shows once Gradio has written it there."""
    listeners = json.loads(app.get("/config")[1])["dependencies"]
    number = listeners[0]["id"]
    joined(app, number, ["Small", "cifar10-small", None])
    assert app.get(f"/gradio_api/deep_link?session_hash=stranger{number}")[0] == 404
    assert not (app.home / "gradio" / "deep_links").exists()


def test_a_link_among_the_uploads_leads_nowhere(app):
    folder = app.home / "gradio" / "links"
    folder.mkdir(exist_ok=True)
    (folder / "link.txt").symlink_to("/etc/passwd")
    (folder / "folder").symlink_to("/etc")
    for path in ("link.txt", "folder/passwd"):
        status, _, body = app.request(f"/gradio_api/file={folder}/{path}")
        assert status in (403, 404) and "root:" not in body


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example"])
def test_other_sites_may_not_read_what_a_local_app_answers(app, origin):
    for path, data in (("/config", None), ("/gradio_api/call/models", b'{"data": []}')):
        _, headers, _ = app.request(path, data, {"Origin": origin, "Content-Type": "application/json"})
        assert "access-control-allow-origin" not in map(str.lower, headers)
    _, headers, _ = app.request("/config", headers={"Origin": "http://localhost:3000"})
    assert headers["access-control-allow-origin"] == "http://localhost:3000", "this test could not have failed"


def test_every_way_to_an_answer_gives_what_the_plain_one_gives(app, tmp_path):
    """The first 20 files that tests/benchmarks/differential.py compares, by Small; gradio_client, a third of a second
    a call, has four of them."""
    client, small = Client(app.url, verbose=False), differential.NETS[:1]
    files = differential.drawn(20, seed=0, large=0)
    found = [*differential.compared(files[:4], app, client, tmp_path, small),
             *differential.compared(files[4:], app, None, tmp_path, small)]  # fmt: skip
    assert len(found) == 3 * 4 + 2 * 16
    assert [one for one in found if not differential.is_right(one[1], *one[3:])] == []
