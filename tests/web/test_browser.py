"""The app as visitors meet it: headless Chromium uploads, clicks, pastes and reads the answer from the page."""

import csv
import io
import json
import re
import time

import numpy as np
import pytest
from PIL import Image
from visitors import (
    BLOCKS,
    CAR,
    EXAMPLES,
    FROG,
    NEWS,
    PATIENCE,
    TRUCK,
    agreed,
    asked_from_now_on,
    choose_weights,
    copy,
    example,
    header,
    not_blank,
    on_page,
    overflow,
    readable,
    saving,
    sent,
    settled,
    upload,
    wait_for,
)

from mnv3.explanation import class_gates
from mnv3.web.views import classes

pytest_plugins = ["app_server", "visitors"]

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
    shares = class_gates.specificity(explained("Large", FROG).reference)
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
