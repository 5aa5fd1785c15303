"""The app as visitors meet it: headless Chromium uploads, clicks, pastes and reads the answer from the page."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from app_server import App
from PIL import Image

import mnv3
from mnv3 import classes
from mnv3.catalogue import bundled_names
from mnv3.checkpoints import read_checkpoint
from mnv3.faithfulness import put_to_trial

pytest_plugins = ["app_server"]

EXAMPLES = Path(__file__).parent.parent / "examples"
FROG, TRUCK = EXAMPLES / "frog.png", EXAMPLES / "fire-engine.png"
CAR = EXAMPLES / "car.png"
BLOCKS = {"Large": 8, "Small": 9}
PATIENCE = 60_000  # milliseconds; a second on a quiet machine
SWITCHES = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="session")
def chromium():
    path = shutil.which("chromium")
    if not path:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs Debian's chromium: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def returning(chromium):
    """A visitor's browser that keeps Gradio's scripts from one test to the next, which saves half of a page's start."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    yield context
    context.close()


@pytest.fixture
def visit(chromium, returning, app_url):
    """visit(query="", **context) -> the app at 1280×800; a test's second visitor has a browser of their own.

    Afterwards none of the pages may have had an error in its console or asked anyone but the app for anything.
    """
    contexts, pages, wrong = [], [], []

    def console(message):
        if message.type == "error":
            wrong.append(f"console: {message.text} {message.location}")

    def request(asked):
        if not asked.url.startswith((app_url, "data:", "blob:")):
            wrong.append(f"request: {asked.url[:200]}")

    def make(query="", script="", **context):
        if context or pages:
            contexts.append(chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **context}))
        page = (contexts[-1] if contexts else returning).new_page()
        page.add_init_script(script)
        pages.append(page)
        page.set_default_timeout(PATIENCE)
        page.on("console", console)
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.on("request", request)
        watch(page)
        page.goto(app_url + "/" + query)
        page.locator("#notes .hint").wait_for()
        return page

    yield make
    for opened in (*pages, *contexts):
        opened.close()
    assert not wrong


@pytest.fixture
def page(visit):
    return visit()


@pytest.fixture(scope="session")
def explained():
    """explained(model, picture) -> the package's own Explanation, computed once."""
    known = {}

    def make(model, picture):
        if (model, picture) not in known:
            known[model, picture] = mnv3.explain(mnv3.load(f"cifar10-{model.lower()}"), picture)
        return known[model, picture]

    return make


UNDER_WAY = {}  # page -> what it has asked of the app's handlers and has no reply to
LISTEN = """
window.unanswered = () => [...asked].filter(event => !answered.has(event))
const asked = new Set(), answered = new Set(), plainly = window.fetch
const read = async (stream, text = '') => {
  for (const decoder = new TextDecoder();;) {
    const {value, done} = await stream.read()
    if (done) return
    const messages = (text + decoder.decode(value, {stream: true})).split('\\n\\n')
    text = messages.pop()
    for (const message of messages.map(line => JSON.parse(line.slice('data: '.length))))
      if (message.msg == 'process_completed') answered.add(message.event_id)
  }
}
window.fetch = async (...request) => {
  const reply = await plainly(...request), url = String(request[0]?.url ?? request[0])
  if (url.includes('/queue/join') && reply.ok) asked.add((await reply.clone().json()).event_id)
  if (url.includes('/queue/data')) read(reply.clone().body.getReader()).catch(() => {})  // the page hangs up
  return reply
}
"""


def watch(page):
    """Notes what is under way; not by streams of answers, of which Gradio may leave one open that nothing comes by."""
    waiting = UNDER_WAY[page] = set()
    page.add_init_script(LISTEN)
    page.on("request", lambda asked: waiting.add(asked) if re.search("/queue/join|/run/", asked.url) else None)
    for over in ("requestfinished", "requestfailed"):
        page.on(over, lambda asked: waiting.discard(asked))


def settled(page):
    """Until the page has nothing under way, and has had the time to ask for more, however slow it is."""
    quiet, end = 0, time.monotonic() + PATIENCE / 1000
    while quiet < 4:
        assert time.monotonic() < end, f"the page still asks: {UNDER_WAY[page]} {page.evaluate('unanswered()')}"
        page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
        quiet = 0 if UNDER_WAY[page] or page.evaluate("unanswered().length") else quiet + 1


def sent(page, button):
    """Clicks, and returns once the app has been asked."""
    with page.expect_request(re.compile("/queue/join")):
        button.click()


NEWS = ["class_view", "show", "tested_map"]  # who is asked, once each, when there is something new


def asked_from_now_on(page):
    """The names of the handlers that the page asks for, a list that grows."""
    names = page.evaluate("window.gradio_config.dependencies.map(handler => handler.api_name.replace(/_\\d$/, ''))")
    asked = []

    def note(request):
        if "/queue/join" in request.url:
            asked.append(names[request.post_data_json["fn_index"]])

    page.on("request", note)
    return asked


def upload(page, picture):
    page.locator("#picture input[type=file]").set_input_files(picture)


def copy(page, picture):
    """Puts a PNG on the browser's clipboard, for a page that was given leave to."""
    page.evaluate(
        """bytes => navigator.clipboard.write(
            [new ClipboardItem({'image/png': new Blob([new Uint8Array(bytes)], {type: 'image/png'})})])""",
        list(picture.read_bytes()),
    )


def example(page, picture):
    page.locator(f"#examples img[src$='/{picture.name}']").click()


def choose_weights(page, weights):
    page.locator("#weights input").click()
    page.get_by_role("option", name=weights, exact=True).click()


def on_page(page):
    """The predictions as the page shows them: [(label, probability), ...]."""
    meters = page.locator("#predictions meter").all()
    return [(meter.get_attribute("aria-label"), float(meter.get_attribute("value"))) for meter in meters]


def wait_for(page, expected):
    """Until the page shows this explanation's five likeliest classes, in order and number -> the likeliest."""
    top = [[guess.label, guess.probability] for guess in expected.top()]
    page.wait_for_function(
        """([top, name]) => {
            const meters = [...document.querySelectorAll('#predictions meter')]
            return document.querySelector('#notes')?.innerText.includes(name) && meters.length == top.length
                && meters.every((m, i) => Math.abs(m.getAttribute('value') - top[i][1]) < 1e-4)
        }""",
        arg=[top, expected.checkpoint.name],
    )
    said, best = on_page(page)[0], expected.top(1)[0]
    alike = {guess.label for guess in expected.top() if best.probability - guess.probability < 1e-4}
    assert said[0] in alike  # one class, unless the network hasn't learned anything
    return said[0]


def header(page):
    return page.locator("#panel thead th.effect").inner_text()


def not_blank(path):
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500


# Look -----------------------------------------------------------------------------------------------------------


def test_upload_and_read_the_answer(page, explained, tmp_path):
    upload(page, FROG)
    expected = explained("Large", FROG)
    label = wait_for(page, expected)
    names = [row.locator("th").inner_text().split()[0] for row in page.locator("#panel tbody tr").all()]
    assert sorted(names) == sorted([block.name for block in expected.blocks] + ["all"]) and len(names) == 9
    assert f"‘{label}’" in header(page)
    for image, words in zip(page.locator("#pictures img").all(), ("as the network got it", label), strict=True):
        assert words in image.get_attribute("alt")
        assert image.evaluate("image => image.complete && image.naturalWidth > 0")
    facts = page.locator("#notes").inner_text()
    assert "cifar10-large" in facts and "10 kinds of things" in facts and "32×32" in facts
    for image in page.locator("#panel img").all():
        assert image.get_attribute("alt") is not None
    page.screenshot(path=tmp_path / "large.png")
    assert not_blank(tmp_path / "large.png")


def test_small_reads_the_frog(page, explained):
    upload(page, FROG)
    wait_for(page, explained("Large", FROG))
    page.get_by_label("Small").check()
    expected = explained("Small", FROG)
    assert wait_for(page, expected) == expected.top(1)[0].label
    assert page.locator("#panel tbody tr").count() == BLOCKS["Small"] + 1


def test_an_example_is_one_click(page, explained):
    example(page, TRUCK)
    wait_for(page, explained("Large", TRUCK))


def test_ask_about_another_class(page, explained):
    page.get_by_label("Small").check()
    example(page, TRUCK)
    expected = explained("Small", TRUCK)
    wait_for(page, expected)
    third = expected.top()[2]
    spinner = page.locator("#predictions [data-testid=status-tracker]")
    assert spinner.evaluate("shown => getComputedStyle(shown).pointerEvents") == "none", "it would swallow a click"
    page.locator("#predictions button").nth(2).click()
    page.locator("#panel thead th.effect", has_text=f"‘{third.label}’").wait_for()
    page.locator(f"#pictures img[alt*='{third.label}']").wait_for()
    effect = expected.effects(third.index)[-1].probability
    shown = page.locator("#panel tbody tr", has_text="every block").inner_text().replace("−", "-")
    assert float(re.search(r"Δp\s+([-+]?[\d.]+)", shown)[1]) == pytest.approx(effect, abs=6e-4)
    example(page, FROG)  # a new picture is asked about its own likeliest class
    label = wait_for(page, explained("Small", FROG))
    page.locator("#panel thead th.effect", has_text=f"‘{label}’").wait_for()


def test_removing_the_picture_brings_the_hint_back(page, explained):
    upload(page, FROG)
    wait_for(page, explained("Large", FROG))
    page.get_by_label("Remove Image").click()
    page.locator("#notes .hint").wait_for()
    assert on_page(page) == [] and page.locator("#panel table").count() == 0
    upload(page, TRUCK)
    wait_for(page, explained("Large", TRUCK))


def test_paste_a_picture(visit, explained):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    copy(page, FROG)
    page.get_by_label("Paste from clipboard").click()
    page.locator("#panel table").wait_for()
    assert on_page(page) and page.locator("#panel tbody tr").count() == BLOCKS["Large"] + 1


def test_ctrl_v_anywhere_pastes_over_what_is_there(visit, explained):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    for picture in (FROG, CAR):  # the second while the first is on show
        copy(page, picture)
        page.keyboard.press("Control+V")
        wait_for(page, explained("Large", picture))


@pytest.mark.parametrize(
    "language, none, kept", [("en-US", "No camera", "Ctrl+V instead"), ("zh-CN", "没有找到", "Ctrl+V。")]
)
def test_a_camera_or_clipboard_that_the_browser_does_not_give_is_said(visit, explained, language, none, kept):
    """This browser has no camera, and its clipboard is not this page's. The next click is for another way."""
    page = visit(permissions=["camera"], locale=language)
    alert, ways = page.locator("#picture [role=alert]"), page.locator("#picture .source-selection button")
    page.get_by_label("Capture from camera").click()
    page.get_by_title("grant webcam access").click()
    alert.filter(has_text=none).wait_for()
    page.get_by_label("Paste from clipboard").click()
    alert.filter(has_text=kept).wait_for()
    assert alert.count() == 1
    ways.first.click()
    upload(page, FROG)
    wait_for(page, explained("Large", FROG))
    assert alert.count() == 0


def test_a_file_that_is_no_picture(page, explained, tmp_path):
    (tmp_path / "notes.jpg").write_text("hello, I am no picture")
    upload(page, tmp_path / "notes.jpg")
    alert = page.locator("#notes [role=alert]")
    alert.wait_for()
    assert "can't be read" in alert.inner_text() and "/" not in alert.inner_text()
    assert on_page(page) == []
    page.get_by_label("Remove Image").click()
    page.locator("#notes .hint").wait_for()
    upload(page, FROG)
    wait_for(page, explained("Large", FROG))


def test_weights_that_need_fetching(page, explained):
    example(page, FROG)
    wait_for(page, explained("Large", FROG))
    choose_weights(page, "ImageNet · torchvision")
    alert = page.locator("#notes [role=alert]")
    alert.filter(has_text="Fetch weights").wait_for()
    assert on_page(page) == []
    fetch = page.locator("#fetch")
    fetch.wait_for()
    assert "MB" in fetch.inner_text()
    fetch.click()
    alert.filter(has_text="could not be fetched").wait_for()
    assert fetch.is_enabled()
    choose_weights(page, "CIFAR-10 · bundled")
    wait_for(page, explained("Large", FROG))
    fetch.wait_for(state="hidden")


SLOW_LISTS = """
const asked = window.fetch
window.fetch = async (...request) => {  // what Gradio does not queue
  if (String(request[0]?.url ?? request[0]).includes('/run/')) await new Promise(done => setTimeout(done, 1000))
  return asked(...request)
}
"""


def test_weights_that_only_large_has(visit, explained):
    """Small takes over with weights that it has, and without an error, however long their list is under way."""
    page = visit(script=SLOW_LISTS)
    example(page, FROG)
    wait_for(page, explained("Large", FROG))
    choose_weights(page, "ImageNet · torchvision V1")
    page.locator("#notes [role=alert]").filter(has_text="Fetch weights").wait_for()
    page.get_by_role("tab", name="Classes").click()
    page.locator("#classview [role=alert]").filter(has_text="Fetch weights").wait_for()
    page.evaluate(
        """() => {
            window.said = ''
            const note = () => window.said += document.querySelector('#right').textContent
            new MutationObserver(note).observe(document.querySelector('#right'), {childList: true, subtree: true})
        }"""
    )
    page.get_by_label("Small").check()
    page.locator("#classview table.specific tr").nth(8).wait_for()
    assert page.locator("#weights input").input_value() == "CIFAR-10 · bundled"
    page.get_by_role("tab", name="Look").click()
    wait_for(page, explained("Small", FROG))
    said = page.evaluate("window.said")
    assert "gate variance" in said and "has no weights" not in said, "not even while the list was under way"


# Inside a block -------------------------------------------------------------------------------------------------


def barcode(page, block):
    settled(page)  # a panel that is drawn anew loses the tip and the focus
    box = page.locator(f"#panel .barcode[role=slider][data-block='{block}']")
    box.scroll_into_view_if_needed()
    return box


def channel_said(expected, block, channel):
    gate, reference = expected.gates[block][channel], expected.reference.reference()[block][channel]
    z = f"{expected.z_scores[block][channel]:+.1f}".replace("-", "−")
    return f"gate {gate:.3f} · reference {reference:.3f} · z {z}"


def plain(locator):
    return locator.inner_text().replace("\u00a0", " ")


def saving(page, button):
    """Clicks and returns (the file's name, its path)."""
    with page.expect_download() as download:
        button.click()
    return download.value.suggested_filename, Path(download.value.path())


def test_a_cell_tells_its_numbers_and_opens_its_channel(page, explained):
    example(page, FROG)
    expected = explained("Large", FROG)
    wait_for(page, expected)
    box, channels = barcode(page, 2), expected.blocks[2].channels
    place = {"x": (33 + 0.5) / channels * box.bounding_box()["width"], "y": 6}
    box.hover(position=place)
    assert plain(page.locator(".mnv3-tip:visible")) == f"b6 · channel 33 · {channel_said(expected, 2, 33)}"
    box.click(position=place)
    inside = page.locator("#panel td.detail")
    inside.get_by_text(f"Channel 33 of {channels}").wait_for()
    assert channel_said(expected, 2, 33) in plain(inside)
    assert inside.locator("img[alt^='Channel 33 of b6']").evaluate("image => image.naturalWidth") == 256
    assert page.locator("#panel tr[data-open] th").inner_text().startswith("b6")
    moved = expected.most_moved(2, 8)
    inside.locator(f"button[data-channel='{moved[3]}']").click()
    inside.get_by_text(f"Channel {moved[3]} of {channels}").wait_for()
    cell = inside.locator(".barcode").first  # the grid: 32 channels a row
    size = cell.bounding_box()
    cell.click(position={"x": size["width"] * 5.5 / 32, "y": size["height"] * 2.5 / (-(-channels // 32))})
    inside.get_by_text(f"Channel {2 * 32 + 5} of {channels}").wait_for()
    inside.get_by_label("Close b6").click()
    inside.wait_for(state="detached")


def test_a_row_opens_and_closes_and_a_new_picture_shuts_it(page, explained):
    page.get_by_label("Small").check()
    example(page, FROG)
    expected = explained("Small", FROG)
    wait_for(page, expected)
    inside = page.locator("#panel td.detail")
    for block in (8, 0):
        row = page.locator(f"#panel tr[data-block='{block}']").first
        row.locator("td.effect").click()
        inside.get_by_text(f"of {expected.blocks[block].channels}").first.wait_for()
        moved = np.abs(expected.gates[block] - expected.reference.reference()[block])
        channel = int(re.search(r"Channel (\d+) of", inside.inner_text())[1])
        assert moved[channel] == pytest.approx(moved.max(), abs=1e-4)
        assert inside.count() == 1
    page.locator("#predictions button").nth(1).click()  # stays open for another class
    second = expected.top()[1].label
    page.locator("#panel thead th.effect", has_text=f"‘{second}’").wait_for()
    assert inside.count() == 1
    page.locator("#panel tr[data-open] button.row").click()
    inside.wait_for(state="detached")
    page.locator("#panel button.row").nth(3).click()
    inside.wait_for()
    example(page, TRUCK)
    wait_for(page, explained("Small", TRUCK))
    inside.wait_for(state="detached")


def test_a_channel_by_keyboard(page, explained):
    example(page, FROG)
    expected = explained("Large", FROG)
    wait_for(page, expected)
    box, last = barcode(page, 0), expected.blocks[0].channels - 1
    box.focus()
    for key, channel in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", last), ("ArrowRight", last),
                         ("Home", 0), ("PageUp", 8), ("ArrowLeft", 7)):  # fmt: skip
        page.keyboard.press(key)
        assert box.get_attribute("aria-valuenow") == str(channel), key
        said = f"b4 · channel {channel} · {channel_said(expected, 0, channel)}"
        assert box.get_attribute("aria-valuetext") == said == plain(page.locator(".mnv3-tip:visible"))
    page.keyboard.press("Enter")
    page.locator("#panel td.detail").get_by_text("Channel 7 of").wait_for()
    page.locator("#panel button.row").nth(1).focus()
    page.keyboard.press("Enter")
    page.locator("#panel tr[data-open] th", has_text="b5").wait_for()


def test_gates_and_pictures_as_files(page, explained):
    page.get_by_label("Small").check()
    example(page, FROG)
    expected = explained("Small", FROG)
    wait_for(page, expected)
    name, path = saving(page, page.locator("#panel button[data-file=csv]"))
    said, own = (list(csv.reader(text.splitlines())) for text in (path.read_text(), expected.gates_csv()))
    assert name == "cifar10-small-gates.csv" and [row[:3] for row in said] == [row[:3] for row in own]
    gates = [np.array([row[3:5] for row in rows[1:]], float) for rows in (said, own)]  # two engines may have run
    np.testing.assert_allclose(*gates, atol=1e-4)
    name, path = saving(page, page.locator("#panel button[data-file=json]"))
    data = json.loads(path.read_text())
    assert name == "cifar10-small-gates.json" and data["class"] == expected.top(1)[0].label
    for block, gates in zip(data["blocks"], expected.gates, strict=True):
        np.testing.assert_allclose(block["gates"], gates, atol=1e-4)
    page.locator("#panel button.row").nth(2).click()
    page.locator("#panel td.detail").wait_for()
    label = expected.top(1)[0].label
    files = {button.get_attribute("data-save"): button for button in page.locator("button[data-save]").all()}
    channel, block = expected.most_moved(2, 1)[0], expected.blocks[2].name
    assert set(files) == {
        f"cifar10-small-{what}.png"
        for what in ("picture", f"evidence-{label}", f"{block}-channel-{channel}", f"{block}-energy-moved",
                     f"{block}-gates", f"{block}-difference")
    }  # fmt: skip
    for wanted, button in files.items():
        name, path = saving(page, button)
        assert name == wanted
        with Image.open(path) as image:
            assert image.format == "PNG" and image.width >= 256
    name, path = saving(page, files["cifar10-small-picture.png"])
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image.convert("RGB"))[::16, ::16], np.asarray(expected.picture))


# Classes --------------------------------------------------------------------------------------------------------


def test_the_class_view(page, explained):
    page.get_by_role("tab", name="Classes").click()
    page.locator("#classview .hint", has_text="Upload").wait_for()
    example(page, FROG)
    shares = classes.specificity(explained("Large", FROG).reference)
    rows = page.locator("#classview table.specific tr")
    rows.nth(7).wait_for()
    assert [row.inner_text().split()[-1] for row in rows.all()] == [f"{share:.0%}" for share in shares]
    legend = page.locator("#classview .legend")
    for guess in explained("Large", FROG).top(3):
        assert guess.label in legend.inner_text()
    page.locator("#class-kinds input").click()
    page.get_by_role("option", name="truck", exact=True).click()
    legend.filter(has_text="truck").wait_for()
    page.locator("#class-blocks input").click()
    page.get_by_role("option", name="b6", exact=True).click()
    page.locator("#classview svg.plot[aria-label^='Gates of b6']").wait_for()
    assert page.locator("#classview svg.plot").count() == 1
    page.get_by_label("Small").check()  # has a b6 too, and nine blocks
    rows.nth(8).wait_for()
    example(page, TRUCK)
    page.locator(f"#classview figcaption:has-text('{classes.nearest(explained('Small', TRUCK), 3)}')").wait_for()


# Compare --------------------------------------------------------------------------------------------------------


def agreed(page, explanations):
    labels = [explanation.top(1)[0].label for explanation in explanations]
    sentence = page.locator("#comparison .hint", has_text="Both say" if len(set(labels)) == 1 else "They disagree")
    sentence.filter(has_text=labels[1]).wait_for()
    return sentence.inner_text()


def test_compare_large_and_small(page, explained):
    example(page, FROG)
    wait_for(page, explained("Large", FROG))
    page.get_by_role("tab", name="Compare").click()
    both = [explained(model, FROG) for model in BLOCKS]
    agreed(page, both)
    heads = page.locator("#comparison thead th").all_inner_texts()
    assert [name for name in ("cifar10-large", "cifar10-small") if any(name in head for head in heads)] == [
        "cifar10-large", "cifar10-small",
    ]  # fmt: skip
    cells = page.locator("#comparison tbody tr").first.locator("td")
    assert cells.count() == 2
    for cell, explanation in zip(cells.all(), both, strict=True):
        assert all(guess.label in cell.inner_text() for guess in explanation.top(1))
    example(page, TRUCK)  # the open tab follows the picture, and the other one when it is opened
    agreed(page, [explained(model, TRUCK) for model in BLOCKS])
    page.get_by_role("tab", name="Look").click()
    wait_for(page, explained("Large", TRUCK))


def test_a_failed_download_is_told_in_the_open_tab(page, explained):
    example(page, FROG)
    wait_for(page, explained("Large", FROG))
    page.get_by_role("tab", name="Compare").click()
    agreed(page, [explained(model, FROG) for model in BLOCKS])
    choose_weights(page, "ImageNet · torchvision")
    alert = page.locator("#comparison [role=alert]")
    alert.filter(has_text="Fetch weights").wait_for()
    page.locator("#fetch").click()
    alert.filter(has_text="could not be fetched").wait_for()
    page.get_by_role("tab", name="Classes").click()
    alert = page.locator("#classview [role=alert]")
    alert.filter(has_text="Fetch weights").wait_for()
    page.locator("#fetch").click()
    alert.filter(has_text="could not be fetched").wait_for()
    page.get_by_role("tab", name="Compare").click()
    choose_weights(page, "CIFAR-10 · bundled")
    agreed(page, [explained(model, FROG) for model in BLOCKS])


# What torchvision has comes without a network: as the bundled network of that size
FETCHABLE = """
import runpy, sys
sys.path.insert(0, {root!r})
from dataclasses import replace
from mnv3 import choice, engine
load, is_here, fetched = engine.load, choice.is_here, set()

def fetching(name, report=None):
    if not name.startswith("torchvision/"):
        return load(name, report)
    fetched.add(name)
    return replace(load("cifar10-large" if "large" in name else "cifar10-small"), name=name)

engine.load, choice.is_here = fetching, lambda name: name in fetched or is_here(name)
runpy.run_path({root!r} + "/app.py", run_name="__main__")
"""


def test_what_was_fetched_is_news_for_every_tab(chromium, tmp_path):
    (tmp_path / "app.py").write_text(FETCHABLE.format(root=str(EXAMPLES.parent)))
    app = App(tmp_path / "home", tmp_path, code=tmp_path)
    try:
        page = chromium.new_page()
        page.set_default_timeout(PATIENCE)
        watch(page)
        page.goto(app.url)
        example(page, FROG)
        page.locator("#panel table").wait_for()
        choose_weights(page, "ImageNet · torchvision")
        page.get_by_role("tab", name="Trust").click()
        page.locator("#test-map").click()
        page.locator("#trust [role=alert]", has_text="Fetch weights").wait_for()
        page.get_by_role("tab", name="Classes").click()
        page.locator("#classview [role=alert]", has_text="Fetch weights").wait_for()
        page.locator("#fetch").click()
        page.locator("#classview table.specific tr").nth(BLOCKS["Large"] - 1).wait_for()
        page.get_by_role("tab", name="Trust").click()
        page.locator("#trust .hint", has_text="Press").wait_for()
        page.get_by_role("tab", name="Look").click()
        page.locator("#notes", has_text="torchvision/large").wait_for()
        page.close()
    finally:
        app.kill()


# Trust and Models -----------------------------------------------------------------------------------------------


def test_the_map_of_the_picture_on_show(page):
    page.get_by_role("tab", name="Trust").click()
    page.locator("#test-map").click()
    page.locator("#trust .hint", has_text="Upload").wait_for()
    page.get_by_label("Small").check()
    upload(page, FROG)
    page.locator("#trust .hint", has_text="Press").wait_for()
    page.locator("#test-map").click()
    table = page.locator("#trust table.areas").first
    table.wait_for()
    trial = put_to_trial(explanation := mnv3.explain(mnv3.load("cifar10-small"), FROG), explanation.class_index(None))
    for row, measure in zip(table.locator("tbody tr").all(), ("deletion", "insertion"), strict=True):
        shown = [float(cell.inner_text().split()[0]) for cell in row.locator("td").all()]
        expected = [trial.curves.areas(measure, kind).mean() for kind in ("evidence", "centred", "random")]
        assert shown == pytest.approx(expected, abs=1.1e-3), measure
    assert page.locator("#trust svg[role=img] polyline").count() == page.locator("#trust .maps figure").count() == 6
    assert "cifar10-small" in page.locator("#trust").inner_text()
    example(page, TRUCK)  # the answer was to another picture
    page.locator("#trust .hint", has_text="Press").wait_for()
    assert page.locator("#trust table").count() == 0


def test_the_map_of_the_class_on_show(page, explained):
    page.get_by_label("Small").check()
    example(page, TRUCK)
    expected = explained("Small", TRUCK)
    wait_for(page, expected)
    page.locator("#predictions button").nth(1).click()
    asked = expected.top()[1].label
    page.locator("#panel thead th.effect", has_text=f"‘{asked}’").wait_for()
    page.get_by_role("tab", name="Trust").click()
    page.locator("#test-map").click()
    page.locator("#trust p", has_text=f"evidence for ‘{asked}’").wait_for()


def test_a_test_that_fails_is_told(page):
    example(page, FROG)
    choose_weights(page, "ImageNet · torchvision")
    page.get_by_role("tab", name="Trust").click()
    page.locator("#test-map").click()
    page.locator("#trust [role=alert]", has_text="Fetch weights").wait_for()


def test_an_answer_that_is_late_does_not_cover_the_question(page):
    """The picture changes while its map is tested: the result must not appear beside the new picture."""
    page.get_by_label("Small").check()
    example(page, FROG)
    page.locator("#panel table").wait_for()
    page.get_by_role("tab", name="Trust").click()
    sent(page, page.locator("#test-map"))
    example(page, TRUCK)
    settled(page)
    assert page.locator("#trust table").count() == 0 and "Press" in page.locator("#trust").inner_text()
    page.locator("#test-map").click()
    page.locator("#trust table.areas").first.wait_for()


def test_a_click_while_the_last_one_is_worked_on_is_not_lost(page, explained):
    page.get_by_label("Small").check()
    example(page, FROG)
    wait_for(page, explained("Small", FROG))
    page.get_by_role("tab", name="Trust").click()
    sent(page, page.locator("#test-map"))
    example(page, TRUCK)
    page.locator(f"#picture img[src$='{TRUCK.name}']").wait_for()
    page.locator("#test-map").click()
    page.locator("#trust p", has_text=f"evidence for ‘{explained('Small', TRUCK).top(1)[0].label}’").wait_for()


def models_tab(page):
    page.get_by_role("tab", name="Models").click()
    page.locator("#models table").first.wait_for()
    page.get_by_role("button", name="Use my own").click()
    page.locator("#own-said .hint").wait_for()


def test_the_models_tab(page):
    models_tab(page)
    text = page.locator("#models table").first.inner_text()
    for name in ("cifar10-large", "cifar10-small", "torchvision/large-v2", "timm/mobilenetv3_small_100.lamb_in1k"):
        assert name in text
    for name in BLOCKS:
        assert f"{mnv3.load(f'cifar10-{name.lower()}').measured()['top1']:.1%}" in text
    plots = 2 + 2 * len(bundled_names())  # ImageNet and CIFAR-10; two curves each
    assert page.locator("#models svg[role=img]").count() == plots


@pytest.fixture
def made(small_checkpoint, tmp_path):
    """A folder as train.py writes it."""
    return small_checkpoint().save(tmp_path / "made", half=True)


def give(page, *paths):
    page.locator("#own-files input[type=file]").set_input_files(paths)
    for path in paths:
        page.locator("#own-files", has_text=path.suffix).wait_for()
    page.locator("#open-files").click()


def test_use_my_own(visit, made, small_checkpoint):
    page, other = visit(), visit()
    example(page, FROG)
    page.locator("#panel table").wait_for()
    models_tab(page)
    give(page, *sorted(made.iterdir()))
    page.locator("#own-said .hint", has_text="tiny (yours) is open").wait_for()
    page.locator("#models table", has_text="seen by you alone").wait_for()
    chosen = page.locator("#weights input").input_value()
    assert chosen.startswith("Yours · tiny") and page.get_by_role("radio", name="Small").is_checked()
    page.get_by_role("tab", name="Look").click()
    wait_for(page, mnv3.explain(read_checkpoint(made, "tiny (yours)"), FROG))
    assert "kind " in page.locator("#predictions").inner_text()
    page.get_by_role("tab", name="Compare").click()
    page.locator("#comparison thead", has_text="tiny (yours)").wait_for()
    page.get_by_role("tab", name="Trust").click()
    page.locator("#test-map").click()
    page.locator("#trust p", has_text="tiny (yours)").first.wait_for()
    page.get_by_role("radio", name="Large").check()  # which it is not: back to the list, where Small still has it
    page.wait_for_function("document.querySelector('#weights input').value == 'CIFAR-10 · bundled'")
    page.get_by_role("tab", name="Look").click()
    page.locator("#notes", has_text="cifar10-large").wait_for()
    page.get_by_role("radio", name="Small").check()
    page.locator("#notes", has_text="cifar10-small").wait_for()
    choose_weights(page, chosen)
    page.locator("#notes", has_text="tiny (yours)").wait_for()
    models_tab(other)
    assert "seen by you alone" not in other.locator("#models").inner_text()
    other.get_by_role("radio", name="Small").check()
    settled(other)  # Gradio's list stumbles where its choices change while it opens
    other.locator("#weights input").click()
    other.get_by_role("option", name="torchvision").first.wait_for()
    assert not other.get_by_role("option", name="Yours").count() and other.get_by_role("option").count() > 1


def test_what_is_no_checkpoint(page, made, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"\x80\x04K\x01.")
    models_tab(page)
    page.locator("#open-files").click()
    alert = page.locator("#own-said [role=alert]")
    alert.filter(has_text="lacks config.json").wait_for()
    give(page, made / "config.json", tmp_path / "model.pt")
    alert.filter(has_text="lacks model.safetensors").wait_for()
    assert page.locator("#weights input").input_value() == "CIFAR-10 · bundled"


@pytest.mark.parametrize("repo", ["../x", "/etc", "user/repo"])
def test_a_repo_that_cannot_be_opened(page, repo):
    models_tab(page)
    page.locator("#own-repo textarea, #own-repo input").fill(repo)
    page.locator("#open-repo").click()
    word = "out of reach" if repo == "user/repo" else "not a Hub repo id"
    page.locator("#own-said [role=alert]", has_text=word).wait_for()


def test_trust_and_models_on_a_phone(visit, tmp_path):
    page = visit("?__theme=light", viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)

    grounds = set()

    def readable_by_day_and_night(places):
        for dark in (False, True):
            page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
            readable(page, places)
            grounds.add(page.evaluate("getComputedStyle(document.querySelector('gradio-app')).backgroundColor"))

    page.get_by_label("Small").check()
    example(page, FROG)
    page.locator("#panel table").wait_for()
    page.get_by_role("tab", name="Trust").click()
    page.locator("#test-map").click()
    page.locator("#trust table").first.wait_for()
    assert overflow(page) <= 0
    readable_by_day_and_night("#trust :is(p, small, li, th, td)")
    models_tab(page)
    assert overflow(page) <= 0
    readable_by_day_and_night("#models :is(p, small, th, td)")
    assert len(grounds) == 2
    page.screenshot(path=tmp_path / "models.png", full_page=True)
    assert not_blank(tmp_path / "models.png")


def choose_column(page, title):
    """One more of Compare's columns; the list stays open for the next."""
    option = page.get_by_role("option", name=title, exact=True)
    if not option.is_visible():
        page.locator("#columns input").click()
    option.click()


def test_compare_chosen_checkpoints(page, explained):
    example(page, FROG)
    wait_for(page, explained("Large", FROG))
    page.get_by_role("tab", name="Compare").click()
    agreed(page, [explained(model, FROG) for model in BLOCKS])
    choose_column(page, "Small · CIFAR-10 · bundled")
    page.locator("#comparison [role=alert]", has_text="Choose 2 to 4 checkpoints").wait_for()
    choose_column(page, "Large · CIFAR-10 · bundled")
    agreed(page, [explained(model, FROG) for model in ("Small", "Large")])
    heads = page.locator("#comparison thead th").all_inner_texts()[1:]
    assert [head.split()[0] for head in heads] == ["cifar10-small", "cifar10-large"]
    assert page.locator("#comparison .barcode").first.get_attribute("role") is None, "a click opens nothing here"
    choose_column(page, "Small · ImageNet · torchvision (to fetch)")
    page.locator("#comparison [role=alert]", has_text="Fetch weights").wait_for()


def many(page, pictures):
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Many pictures at once").click()
    page.locator("#many-files input[type=file]").set_input_files(pictures)
    page.locator("#many-files").get_by_text(pictures[-1].stem).first.wait_for()
    page.locator("#many-compare").click()


def test_many_pictures_at_once(page, explained, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    pictures = [tmp_path / "notes.png", FROG, TRUCK, CAR]
    many(page, pictures)
    page.locator("#many-shown .hint", has_text="4 of 4 pictures").wait_for()
    rows = [row.inner_text().replace("\t", " ") for row in page.locator("#many-shown tbody tr").all()]
    said = {p: [explained(model, p).top(1)[0] for model in BLOCKS] for p in pictures[1:]}
    apart = [p for p in pictures[1:] if said[p][0].label != said[p][1].label]
    alike = [p for p in pictures[1:] if p not in apart]
    for row, picture in zip(rows, [*apart, *alike], strict=False):
        words = [f"{guess.label} {guess.probability:.0%}" for guess in said[picture]]
        assert row == " ".join([picture.name, *words])
    assert rows[-1].startswith("notes.png") and "can't be read" in rows[-1] and len(rows) == 4
    name, path = saving(page, page.locator("#many-shown a.save"))
    lines = path.read_text().splitlines()
    assert name == "mnv3-compared.csv" and len(lines) == 5
    assert lines[0].startswith("picture,cifar10-large,cifar10-large probability,cifar10-small,")
    assert lines[1].startswith(f"{[*apart, *alike][0].name},{said[[*apart, *alike][0]][0].label},")


def test_a_cancelled_comparison_leaves_the_page_usable(page, explained, tmp_path):
    slow = tmp_path / "slow.png"  # small, but long to decode
    Image.new("RGB", (6300, 6300), "teal").save(slow, compress_level=9)
    pictures = [shutil.copy(slow, tmp_path / f"{number}.png") for number in range(80)]
    many(page, pictures)
    bar, words = page.get_by_role("progressbar", name="Comparing"), page.locator("#many-shown .hint")
    bar.wait_for()
    words.filter(has_text=f"of {len(pictures)} pictures").wait_for()
    page.locator("#many-cancel").click()
    bar.wait_for(state="hidden")
    settled(page)  # what was under way has ended
    said = words.inner_text()
    assert not said.startswith(f"{len(pictures)} of"), "it was done before it was cancelled"
    page.get_by_role("tab", name="Look").click()
    example(page, FROG)
    wait_for(page, explained("Large", FROG))
    page.get_by_role("tab", name="Compare").click()
    agreed(page, [explained(model, FROG) for model in BLOCKS])
    assert words.inner_text() == said


# Impatient, elsewhere, otherwise --------------------------------------------------------------------------------


def test_two_visitors_at_once(visit, explained):
    pages, pictures = [visit(), visit()], [FROG, TRUCK]
    for visitor in pages:
        visitor.get_by_label("Small").check()
    for _ in range(3):
        for visitor, picture in zip(pages, pictures, strict=True):
            example(visitor, picture)
        for visitor, picture in zip(pages, pictures, strict=True):
            wait_for(visitor, explained("Small", picture))
        pictures.reverse()


def test_the_last_click_counts(page, explained, tmp_path):
    """A slow answer to an old question must not cover the quick answer to a newer one."""
    slow = np.zeros((6300, 6300, 3), np.uint8)  # as large as pictures may be
    slow[:, ::2] = 40, 90, 200
    Image.fromarray(slow).save(tmp_path / "slow.png", compress_level=1)
    page.get_by_label("Small").check()
    upload(page, tmp_path / "slow.png")
    wait_for(page, explained("Small", tmp_path / "slow.png"))
    sent(page, page.locator("#explain"))
    example(page, FROG)
    wait_for(page, explained("Small", FROG))
    settled(page)  # by then what is late has arrived
    wait_for(page, explained("Small", FROG))


def test_hasty_clicks(page, explained):
    names = sorted(EXAMPLES.glob("*.jpg"))
    for picture in (*names, TRUCK, FROG):
        example(page, picture)
    page.get_by_label("Small").check()
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("tab", name="Look").click()
    page.get_by_label("Large").check()
    page.get_by_label("Small").check()
    wait_for(page, explained("Small", FROG))
    settled(page)
    wait_for(page, explained("Small", FROG))
    assert f"‘{explained('Small', FROG).top(1)[0].label}’" in header(page)


def drop(page, picture):
    """Drags a file over what the page shows as its picture."""
    page.evaluate(
        """([bytes, name]) => {
            const dataTransfer = new DataTransfer(), place = document.querySelector('#picture .upload-container')
            dataTransfer.items.add(new File([new Uint8Array(bytes)], name, {type: 'image/png'}))
            place.dispatchEvent(new DragEvent('drop', {dataTransfer, bubbles: true, cancelable: true}))
        }""",
        [list(picture.read_bytes()), picture.name],
    )


def test_a_new_picture_is_asked_about_once(page, explained):
    asked = asked_from_now_on(page)

    def asks(act, *arguments, shown, times=1):
        act(page, *arguments)
        wait_for(page, explained("Large", shown)) if shown else page.locator("#notes .hint").wait_for()
        settled(page)
        assert sorted(asked) == sorted(NEWS * times), (act.__name__, arguments)
        asked.clear()

    def remove(page):
        page.get_by_label("Remove Image").click()

    asks(upload, FROG, shown=FROG)
    asks(example, TRUCK, shown=TRUCK)
    asks(example, TRUCK, shown=TRUCK)
    asks(remove, shown=None)
    asks(example, TRUCK, shown=TRUCK)
    asks(remove, shown=None)
    asks(upload, FROG, shown=FROG)
    asks(example, TRUCK, shown=TRUCK)
    asks(drop, CAR, shown=CAR, times=2)  # the old picture goes at once, the new one comes when it is here
    asks(example, TRUCK, shown=TRUCK)


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


def test_a_phone(visit, explained, tmp_path):
    page = visit(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    assert overflow(page) <= 0
    upload(page, FROG)
    wait_for(page, explained("Large", FROG))
    assert overflow(page) <= 0
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    assert not_blank(tmp_path / "phone.png")
    page.get_by_role("tab", name="Compare").click()
    agreed(page, [explained(model, FROG) for model in BLOCKS])
    assert overflow(page) <= 0
    cells = page.locator("#comparison tbody tr").first.locator("td")
    right = [cell.evaluate("cell => cell.getBoundingClientRect().right") for cell in cells.all()]
    assert max(right) <= 390, "both columns must be seen without scrolling sideways"


def test_the_keyboard_is_enough(page, explained):
    example(page, FROG)
    label = wait_for(page, explained("Large", FROG))
    third = page.locator("#predictions button").nth(2)
    name = third.locator("meter").get_attribute("aria-label")
    third.focus()
    page.keyboard.press("Enter")
    page.locator("#panel thead th.effect", has_text=f"‘{name}’").wait_for()
    page.locator("#picture button").first.focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "explain":
            break
    else:
        pytest.fail("Tab never reaches Explain")
    page.keyboard.press("Enter")  # asks about the likeliest class again
    page.locator("#panel thead th.effect", has_text=f"‘{label}’").wait_for()


CONTRAST = """selector => [...document.querySelectorAll(selector)].filter(e => e.offsetParent).map(element => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true})
    const rgba = colour => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1)
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data
        return [r, g, b, a / 255]
    }
    const over = (top, below, alpha) => [0, 1, 2].map(i => top[i] * alpha + below[i] * (1 - alpha))
    const chain = []
    for (let e = element; e; e = e.parentElement) chain.unshift(e)
    let ground = [255, 255, 255], opacity = 1
    for (const e of chain) {
        const style = getComputedStyle(e), colour = rgba(style.backgroundColor)
        opacity *= style.opacity
        ground = over(colour, ground, colour[3] * opacity)
    }
    const ink = rgba(getComputedStyle(element).color)
    const light = colour => colour.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0)
    const [low, high] = [light(over(ink, ground, ink[3] * opacity)), light(ground)].sort((a, b) => a - b)
    return [element.innerText, (high + 0.05) / (low + 0.05)]
})"""


def readable(page, selector):
    """Every text has 4.5 to 1, once Gradio has faded it in."""
    from playwright.sync_api import TimeoutError

    with contextlib.suppress(TimeoutError):  # the assertion below says which
        page.wait_for_function(f"selector => ({CONTRAST})(selector).every(([_, r]) => r >= 4.5)", arg=selector,
                               timeout=20_000)  # fmt: skip
    texts = page.evaluate(CONTRAST, selector)
    assert texts and [(text, round(ratio, 2)) for text, ratio in texts if ratio < 4.5] == []
    return texts


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_small_print_can_be_read(visit, explained, theme):
    page = visit(f"?__theme={theme}")
    example(page, FROG)
    wait_for(page, explained("Large", FROG))
    assert len(readable(page, ".mnv3 small, .mnv3 p, .mnv3 th, .mnv3 td span")) > 20
    readable(page, "#model [class*=info], #weights [class*=info]")


# Languages ------------------------------------------------------------------------------------------------------


def test_chinese_and_english_each_whole(visit, explained):
    """By the browser's language: what Gradio puts in and what the server writes, before and after an answer."""
    small = explained("Large", FROG)
    for locale, chinese in (("zh-CN", True), ("en-US", False)):
        page = visit(locale=locale)
        assert (page.locator("html").get_attribute("lang") == "zh-Hans") == chinese
        example(page, FROG)
        wait_for(page, small)
        page.locator("#panel table").wait_for()
        tabs, words = page.locator("#right [role=tab]").all_inner_texts(), page.locator("body").inner_text()
        hanzi = [line for line in words.splitlines() if re.search(r"[\u4e00-\u9fff]", line)]
        assert ("观察" in tabs) == ("门控值，每格一个通道" in words) == bool(hanzi) == chinese
        for word in ("Picture", "Weights", "Explain", "Examples", "Block", "mattered most", "parameters", "Look"):
            assert bool(re.search(rf"\b{word}\b", words)) == (not chinese), word


# The camera -----------------------------------------------------------------------------------------------------

CAMERA = """
const canvas = document.createElement('canvas'), brush = canvas.getContext('2d')
canvas.width = canvas.height = 256
const draw = () => {  // red on the left, blue on the right, for ever
  brush.fillStyle = '#f00'; brush.fillRect(0, 0, 128, 256)
  brush.fillStyle = '#00f'; brush.fillRect(128, 0, 128, 256)
}
setInterval(draw, 50); draw()
navigator.mediaDevices.getUserMedia = async () => canvas.captureStream(20)
navigator.mediaDevices.enumerateDevices = async () => [{deviceId: 'one', kind: 'videoinput', label: 'one', groupId: ''}]
"""


def bluer_side(picture):
    """'left' or 'right', of what is red on one side and blue on the other, once it is painted."""
    end = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end:
        pixels = np.array(Image.open(io.BytesIO(picture.screenshot())).convert("RGB"), float)
        height, width = pixels.shape[:2]
        middle = pixels[height // 3 : height // 2]
        blue = [(part[..., 2] - part[..., 0]).mean() for part in (middle[:, : width // 2], middle[:, width // 2 :])]
        if abs(blue[0] - blue[1]) > 50:
            return "left" if blue[0] > blue[1] else "right"
    pytest.fail("one side is as blue as the other")


def test_the_camera_its_picture_and_the_networks_have_one_handedness(visit):
    page = visit(script=CAMERA)
    page.get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#picture video')?.videoWidth == 256")
    sides = [bluer_side(page.locator("#picture video"))]
    asked = asked_from_now_on(page)
    page.get_by_label("capture photo").click()
    page.locator("#pictures .big").first.wait_for()
    settled(page)
    assert sorted(asked) == NEWS
    for picture in ("#picture img", "#pictures .big"):
        sides.append(bluer_side(page.locator(picture).first))
    assert len(set(sides)) == 1, sides
