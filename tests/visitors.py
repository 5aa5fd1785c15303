"""Visitors with a browser, headless Chromium, and what they do and read on the page.

A pytest plugin, PYTEST_DONT_REWRITE: `pytest_plugins = ["app_server", "visitors"]` gives `visit`, `page`, `explained`.
"""

import contextlib
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mnv3

EXAMPLES = Path(__file__).parent.parent / "examples"
FROG, TRUCK = EXAMPLES / "frog.png", EXAMPLES / "fire-engine.png"
CAR = EXAMPLES / "car.png"
BLOCKS = {"Large": 8, "Small": 9}
PATIENCE = 60_000  # milliseconds; a second on a quiet machine
SWITCHES = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


WINDOW = {"viewport": {"width": 1280, "height": 800}}


@pytest.fixture(scope="session")
def browsers():
    """Playwright's kind of browser and how to start it."""
    path = shutil.which("chromium")
    if not path:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs Debian's chromium: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium, {"executable_path": path, "args": SWITCHES}


@pytest.fixture(scope="session")
def chromium(browsers):
    kind, how = browsers
    with kind.launch(**how) as browser:
        yield browser


@pytest.fixture(scope="session")
def returning(browsers, tmp_path_factory):
    """A visitor's browser that keeps Gradio's scripts, compiled, which saves more than half of a page's start."""
    kind, how = browsers
    with kind.launch_persistent_context(tmp_path_factory.mktemp("profile"), **how, **WINDOW) as context:
        yield context


@pytest.fixture
def visit(request, returning, app_url):
    """visit(query="", **context) -> the app at 1280×800; a test's second visitor has a browser of their own.

    Afterwards none of the pages may have had an error in its console or asked anyone but the app for anything.
    """
    contexts, pages, wrong = [], [], []

    def console(message):
        if message.type == "error":
            wrong.append(f"console: {message.text} {message.location}")

    def asks(asked):
        if not asked.url.startswith((app_url, "data:", "blob:")):
            wrong.append(f"request: {asked.url[:200]}")

    def make(query="", script="", **context):
        if context or pages:
            contexts.append(request.getfixturevalue("chromium").new_context(**WINDOW | context))
        page = (contexts[-1] if contexts else returning).new_page()
        page.add_init_script(script)
        pages.append(page)
        page.set_default_timeout(PATIENCE)
        page.on("console", console)
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.on("request", asks)
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
        polling=50,  # milliseconds; otherwise with each frame, which costs more than what is waited for
    )
    said, best = on_page(page)[0], expected.top(1)[0]
    alike = {guess.label for guess in expected.top() if best.probability - guess.probability < 1e-4}
    assert said[0] in alike  # one class, unless the network hasn't learned anything
    return said[0]


def header(page):
    return page.locator("#panel thead th.effect").inner_text()


def not_blank(path):
    red, green, blue = np.asarray(Image.open(path).convert("RGB"), np.int32).T
    return len(np.unique(red << 16 | green << 8 | blue)) > 500


def saving(page, button):
    """Clicks and returns (the file's name, its path)."""
    with page.expect_download() as download:
        button.click()
    return download.value.suggested_filename, Path(download.value.path())


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


def agreed(page, explanations):
    labels = [explanation.top(1)[0].label for explanation in explanations]
    sentence = page.locator("#comparison .hint", has_text="Both say" if len(set(labels)) == 1 else "They disagree")
    sentence.filter(has_text=labels[1]).wait_for()
    return sentence.inner_text()


CONTRAST = """selector => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true}), known = {}
    const rgba = colour => known[colour] ??= (() => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1)
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data
        return [r, g, b, a / 255]
    })()
    const over = (top, below, alpha) => [0, 1, 2].map(i => top[i] * alpha + below[i] * (1 - alpha))
    const light = colour => colour.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0)
    return [...document.querySelectorAll(selector)].filter(e => e.offsetParent).map(element => {
        const chain = []
        for (let e = element; e; e = e.parentElement) chain.unshift(e)
        let ground = [255, 255, 255], opacity = 1
        for (const e of chain) {
            const style = getComputedStyle(e), colour = rgba(style.backgroundColor)
            opacity *= style.opacity
            ground = over(colour, ground, colour[3] * opacity)
        }
        const ink = rgba(getComputedStyle(element).color)
        const [low, high] = [light(over(ink, ground, ink[3] * opacity)), light(ground)].sort((a, b) => a - b)
        return [element.innerText, (high + 0.05) / (low + 0.05)]
    })
}"""


def readable(page, selector):
    """Every text has 4.5 to 1, once Gradio has faded it in."""
    from playwright.sync_api import TimeoutError

    with contextlib.suppress(TimeoutError):  # the assertion below says which
        page.wait_for_function(f"selector => ({CONTRAST})(selector).every(([_, r]) => r >= 4.5)", arg=selector,
                               timeout=20_000, polling=200)  # fmt: skip
    texts = page.evaluate(CONTRAST, selector)
    assert texts and [(text, round(ratio, 2)) for text, ratio in texts if ratio < 4.5] == []
    return texts
