"""Many pictures at once: every picture is a row, disagreements first, and the file says what the table says."""

import base64
import csv
import io
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_page import ALLOWED, EVIL, Page

from mnv3.explanation import batch
from mnv3.explanation.batch import Row
from mnv3.explanation.explanation import Guess, softmax
from mnv3.inference import session
from mnv3.inference.reference import example_pictures
from mnv3.inference.session import logits
from mnv3.web.views import compare


def guess(label, probability=0.5):
    return Guess(0, label, probability)


ALIKE = Row("b.png", (guess("cat", 0.98), guess("cat", 0.9123)))
APART = Row("c.png", (guess("cat", 0.6), guess("dog", 0.4)))
UNREAD = Row("a.png", problem="This file can't be read as a picture.")
ROWS = [UNREAD, ALIKE, APART]


@pytest.fixture(scope="module")
def checkpoints(small_checkpoint):
    first, second = small_checkpoint("one"), small_checkpoint("two")
    return [first, replace(second, labels=first.labels[::-1])]  # the same network under other names: never agrees


def test_a_row_says_what_each_network_says(checkpoints, monkeypatch):
    """Of every picture in every batch, as if it were alone."""
    monkeypatch.setattr(batch, "BATCH", 5)
    pictures = [(str(number), path) for number, path in enumerate(example_pictures()[: batch.BATCH + 2])]
    batches = list(batch.look_at(pictures, checkpoints))
    assert [len(rows) for rows in batches] == [batch.BATCH, 2]
    for (name, path), row in zip(pictures, sum(batches, []), strict=True):
        p = softmax(logits(checkpoints[0], checkpoints[0].preprocess(path)[None])[0][0])
        assert row.name == name and not row.problem
        assert [g.probability for g in row.guesses] == pytest.approx([p.max()] * 2, abs=1e-6)
        assert [g.label for g in row.guesses] == [f"kind {p.argmax()}", f"kind {9 - p.argmax()}"]
        assert row.apart and not replace(row, guesses=row.guesses[:1] * 2).apart


def test_networks_that_want_other_pictures_get_their_own(checkpoints):
    one, path = checkpoints[0], example_pictures()[0]
    half = replace(one.preprocessing, crop=one.preprocessing.crop // 2)
    nets = [one, replace(one, preprocessing=half)]
    [[row]] = batch.look_at([("x", path)], nets)
    wanted = [logits(n, n.preprocess(path)[None])[0] for n in nets]
    assert [g.probability for g in row.guesses] == pytest.approx([softmax(z).max() for z in wanted], abs=1e-6)
    assert row.guesses[0].probability != pytest.approx(row.guesses[1].probability, abs=1e-4)


def test_a_picture_that_cannot_be_read_is_a_row_with_its_sentence(checkpoints):
    path = example_pictures()[0]
    [[first, unread, last]] = batch.look_at([("a", path), ("x", b"?"), ("b", path)], checkpoints)
    assert unread.guesses == () and "can't be read" in unread.problem and not unread.apart
    assert first.guesses == last.guesses and (first.name, last.name) == ("a", "b")
    assert list(batch.look_at([("x", b"?")], checkpoints)) == [[unread]]


def test_a_batch_is_no_larger_than_the_hungriest_network_allows(checkpoints, monkeypatch):
    monkeypatch.setattr(session, "rows_at_once", lambda c: 2 if c is checkpoints[1] else 50)
    assert [len(rows) for rows in batch.look_at([("x", b"?")] * 5, checkpoints)] == [2, 2, 1]


def test_slow_pictures_come_one_by_one_and_say_the_same(checkpoints, monkeypatch):
    pictures = [(path.name, path) for path in example_pictures()[:4]] + [("x", b"?")]
    [together] = batch.look_at(pictures, checkpoints)
    monkeypatch.setattr(batch, "WAIT", -1)
    alone = list(batch.look_at(pictures, checkpoints))
    assert [len(rows) for rows in alone] == [1] * 5
    for [row], expected in zip(alone, together, strict=True):
        assert (row.name, row.problem) == (expected.name, expected.problem)
        for guess, same in zip(row.guesses, expected.guesses, strict=True):
            assert guess.label == same.label and guess.probability == pytest.approx(same.probability, abs=1e-5)


def test_disagreements_come_first_and_what_cannot_be_read_last():
    assert batch.in_order(ROWS) == [APART, ALIKE, UNREAD]
    assert batch.in_order([APART, replace(APART, name="0")])[0] is APART


def test_the_table(checkpoints):
    shown = Page(compare.many(ROWS, checkpoints, 7))
    assert shown.rows == [
        "pictureonetwo", "c.pngcat 60%dog 40%", "b.pngcat 98%cat 91%", "a.pngThis file can't be read as a picture.",
    ]  # fmt: skip
    assert "3 of 7 pictures: the checkpoints disagree on 1, and 1 could not be read." in shown.text
    assert "At most" not in shown.text and "could not" not in Page(compare.many([ALIKE], checkpoints, 1)).text
    assert f"At most {batch.MOST_PICTURES}" in Page(compare.many(ROWS, checkpoints, 201)).text


def test_the_csv_says_what_the_table_says(checkpoints):
    (address,) = [a["href"] for tag, a in Page(compare.many(ROWS, checkpoints, 3)).elements if tag == "a"]
    kind, _, data = address.partition(",")
    assert kind == "data:text/csv;base64"
    text = base64.b64decode(data).decode()
    assert text == batch.many_csv(ROWS, ["one", "two"])
    assert list(csv.reader(io.StringIO(text))) == [
        ["picture", "one", "one probability", "two", "two probability", "agree", "problem"],
        ["c.png", "cat", "0.6000", "dog", "0.4000", "no", ""],
        ["b.png", "cat", "0.9800", "cat", "0.9123", "yes", ""],
        ["a.png", "", "", "", "", "", "This file can't be read as a picture."],
    ]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_no_cell_is_a_formula(text):
    rows = [Row(text, (guess(text), guess("cat")))]
    for row in csv.reader(io.StringIO(batch.many_csv(rows, [text, "two"]), newline="")):
        assert f"'{text}" in row and text not in row


def test_names_and_labels_of_strangers_are_texts(checkpoints):
    rows = [Row(EVIL, (guess(EVIL), guess("cat"))), Row(EVIL, problem=EVIL)]
    shown = Page(compare.many(rows, [replace(checkpoints[0], name=EVIL), checkpoints[1]], 2))
    assert {tag for tag, _ in shown.elements} <= ALLOWED | {"a", "progress"}
    assert shown.text.count(EVIL) == 5 and "<script" not in shown.html
    found = list(csv.reader(io.StringIO(batch.many_csv(rows, [EVIL, "two"]))))
    assert found[1][:2] == [EVIL, EVIL] and found[2][-1] == EVIL


def test_many_pictures_batch_after_batch(checkpoints, monkeypatch, tmp_path):
    """The app's generator: what can't be read ends nothing, more than the limit is said, and each yield is whole."""
    from mnv3.inference import reference
    from mnv3.web import handlers, selection

    monkeypatch.setattr(batch, "MOST_PICTURES", 3)
    monkeypatch.setattr(compare, "MOST_PICTURES", 3)
    monkeypatch.setattr(batch, "BATCH", 2)
    monkeypatch.setattr(selection, "several", lambda weights, names: checkpoints)
    monkeypatch.setattr(handlers, "time", SimpleNamespace(monotonic=iter(range(0, 1000, 2)).__next__))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "black.png")
    sent = [(name, str(tmp_path / name)) for name in ("black.png", "broken.png", "black.png", "black.png")]
    pages = [Page(html) for html in handlers.compare_many(sent, "weights", [])]
    bars = [attributes for page in pages for tag, attributes in page.elements if tag == "progress"]
    assert [(bar["value"], bar["max"]) for bar in bars] == [("0", "3"), ("2", "3"), ("3", "3"), ("3", "3")]
    texts = [page.text for page in pages]
    assert texts[0] == "None of 4 pictures yet." and [text[:4] for text in texts[1:]] == ["2 of", "3 of", "3 of"]
    assert "3 of 4 pictures: the checkpoints disagree on 2, and 1 could not be read. At most 3" in texts[-1]
    monkeypatch.setattr(reference, "example_pictures", lambda: [tmp_path / "black.png"])
    *_, last = handlers.compare_many(None, "weights", [])
    assert Page(last).text.startswith("1 of 1 pictures"), "without files, the examples are compared"


def test_many_pictures_through_a_network_that_answers_with_no_number(checkpoints, monkeypatch):
    from mnv3.web import handlers, selection

    model = deepcopy(checkpoints[0].model)
    model.classifier[-1].weight.fill_(3e38)
    monkeypatch.setattr(selection, "several", lambda weights, names: [replace(checkpoints[0], model=model)])
    _, shown = handlers.compare_many([("x", example_pictures()[0])], "weights", [])
    assert Page(shown).text.startswith("one answers this picture with NaN or infinity")
