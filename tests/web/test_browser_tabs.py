"""Compare, Trust and Models as visitors meet them, in headless Chromium; Look and Classes are in test_browser.py."""

import shutil

import pytest
from app_server import App
from PIL import Image
from visitors import (
    BLOCKS,
    CAR,
    EXAMPLES,
    FROG,
    PATIENCE,
    TRUCK,
    agreed,
    choose_weights,
    example,
    not_blank,
    overflow,
    readable,
    saving,
    sent,
    settled,
    upload,
    wait_for,
    watch,
)

import mnv3
from mnv3.checkpoints.reading import read_checkpoint
from mnv3.checkpoints.registry import bundled_names
from mnv3.explanation.faithfulness import put_to_trial

pytest_plugins = ["app_server", "visitors"]

# Compare --------------------------------------------------------------------------------------------------------


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


def compare_the_frog(page, explained):
    example(page, FROG)
    wait_for(page, explained("Large", FROG))
    page.get_by_role("tab", name="Compare").click()
    agreed(page, [explained(model, FROG) for model in BLOCKS])


def test_a_failed_download_is_told_in_the_open_tab(page, explained):
    compare_the_frog(page, explained)
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
from mnv3.inference import cache
from mnv3.web import selection
load, is_here, fetched = cache.load, selection.is_here, set()

def fetching(name, report=None):
    if not name.startswith("torchvision/"):
        return load(name, report)
    fetched.add(name)
    return replace(load("cifar10-large" if "large" in name else "cifar10-small"), name=name)

cache.load, selection.is_here = fetching, lambda name: name in fetched or is_here(name)
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
    compare_the_frog(page, explained)
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
    Image.new("RGB", (5000, 5000), "teal").save(slow, compress_level=9)
    pictures = [shutil.copy(slow, tmp_path / f"{number}.png") for number in range(60)]
    many(page, pictures)
    bar, words = page.get_by_role("progressbar", name="Comparing"), page.locator("#many-shown .hint")
    bar.wait_for()
    page.locator("#many-cancel").click()
    bar.wait_for(state="hidden")
    settled(page)  # what was under way has ended
    said = words.inner_text()
    assert f"of {len(pictures)} pictures" in said and not said.startswith(str(len(pictures))), "it was not cancelled"
    page.get_by_role("tab", name="Look").click()
    compare_the_frog(page, explained)
    assert words.inner_text() == said
