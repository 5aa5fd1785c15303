"""mnv3, the app: what MobileNetV3 sees in a picture, and what its SE attention did. Run: python app.py

build_demo() is thin: handlers turn inputs into an Explanation (mnv3.explain) and that into HTML (mnv3.page).
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial, wraps
from hashlib import sha256
from importlib.util import find_spec
from urllib.parse import unquote, unquote_to_bytes

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # no network at start; read when gradio is imported

import gradio as gr
from anyio import to_thread
from gradio.context import LocalContext
from gradio.data_classes import ImageData
from gradio.processing_utils import get_upload_folder
from gradio.route_utils import delete_files_created_by_app
from gradio.utils import is_in_or_equal
from gradio_client.utils import is_http_url_like
from pydantic import model_validator
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse

import mnv3
from mnv3 import answers, browser, choice, classes, compare, detail, engine, models_page, own, page, trust_page
from mnv3.catalogue import Entry
from mnv3.checkpoints import MAX_LABEL_LENGTH
from mnv3.errors import InputError
from mnv3.faithfulness import published, put_to_trial
from mnv3.words import CHINESE, say, spoken

MAX_UPLOAD = "50mb"
MAX_BODY = 80_000_000  # bytes of any other request: as a data: URI an upload grows by a third
SERVED = "/gradio_api/file="  # in the address of an upload, before its path
QUEUE = 32  # visitors who may wait; more are told that the app is busy
AT_ONCE = 2  # explanations at a time; others wait in the queue
SESSIONS = 300  # Gradio keeps what each last saw, half a megabyte; of more than these the longest unused is forgotten
UNUSED = (  # paths that the page doesn't use: Gradio would fetch an address, or write to disk what nothing deletes
    "/gradio_api/file=http", "/gradio_api/file/http", "/gradio_api/process_recording", "/gradio_api/deep_link",
    "/monitoring",
)  # fmt: skip
KEEP_FILES = (3600, 3600)  # seconds between clean-ups, age of what is deleted
USE_OWN = "Use my own: a repo of the Hub, or the files of a folder that train.py wrote"
OWN = (
    "Only you see what you open here, and it goes when others need the room. Weights are read as safetensors, never as "
    "pickles."
)
MANY = (
    f"Choose up to {compare.MOST_PICTURES} pictures, or none to compare the examples: each gets a row with what every "
    "checkpoint says, disagreements first."
)
KNOWS = "What the network was trained on decides what it can name."
ABOUT = "What MobileNetV3 sees in your picture, and what its attention did to it."
START = "Upload, paste or take a picture, or click one of the examples: the answer appears here."


WHOLE = {english: words for english, words in CHINESE.items() if "{" not in english}  # the browser fills in nothing
I18N = gr.I18n(**dict.fromkeys(("zh", "zh-CN", "zh-TW"), WHOLE))


def languages() -> str:
    """The Accept-Language of whoever is being answered; '' where nobody is."""
    request = LocalContext.request.get(None)
    return getattr(request, "headers", {}).get("accept-language", "") if request else ""


in_their_language = spoken(languages)


def empty(sentence: str) -> str:
    """An empty state that is there before any handler ran: the browser puts its language's words in."""
    return page.hint("{}").format(I18N(sentence))


def refusal(sentence: str) -> gr.Error:
    """What Gradio shows and sends to whoever can put it right; the host's log is spared a stack trace."""
    return gr.Error(sentence, print_exception=False)


class PictureData(ImageData):
    """Gradio's image data, which a program may also write as the bare text of a data: URI, as tools over MCP do."""

    @model_validator(mode="before")
    @classmethod
    def written_out(cls, sent):
        if isinstance(sent, str):
            return {"url": sent} if sent.startswith("data:") else {"path": sent}
        return sent if isinstance(sent, dict | ImageData) else {}  # for which as_sent gives no picture


def picture_input(**options) -> gr.Image:
    """gr.Image that hands over the sent file as it is: mnv3.images decodes it, and says in words what is wrong.

    By itself gr.Image opens it by its name's ending, drops alpha and clips 16 bits before our code sees it. Only
    this instance is changed, since a subclass would make Gradio write a stub file beside the source.
    """
    image = gr.Image(type="filepath", image_mode=None, **options)
    image.preprocess, image.data_model = as_sent, PictureData
    return uploads_only(image)


def files_input(**options) -> gr.File:
    """gr.File that hands over (the name a file had, where it lies): mnv3.own says in words what is wrong with it."""
    files = gr.File(file_count="multiple", **options)
    files.preprocess = files_as_sent
    return uploads_only(files)


def uploads_only(component):
    """The component, which fetches no address: Gradio itself would fetch any public one, of any size.

    The address of an upload to this app, which is all that MCP clients have for one, stands for the upload: of it only
    the path is read, whatever the host, and uploaded() still checks where that lies.
    """
    into_cache = component.async_move_resource_to_block_cache

    async def of_this_machine(source):
        if is_http_url_like(str(source)) and SERVED in str(source):
            return await into_cache(uploaded(unquote(str(source).partition(SERVED)[2])))
        if is_http_url_like(str(source)):
            raise refusal("Nothing can be read from an address here: save it as a file and send that.")
        return await into_cache(source)

    component.async_move_resource_to_block_cache = of_this_machine
    return component


def uploaded(path: str) -> str:
    """The path, if Gradio stored an upload there.

    Gradio checks where a file lies only if its sender added a `meta` field, so it is checked here: any file of the
    host could be read otherwise.
    """
    try:
        here = is_in_or_equal(path, get_upload_folder())
    except ValueError:  # a null or half a character, which no path has
        here = False
    if not here:
        raise refusal("This file was not uploaded here: upload it first.")
    return path


def files_as_sent(payload) -> list[tuple[str, str]]:
    """Gradio's file data -> (the name it had, the uploaded file's path) of each."""
    if payload is None:
        return []
    names = (str(sent.orig_name or os.path.basename(sent.path)) for sent in payload.root)
    whole = (name.encode(errors="replace").decode() for name in names)  # half a character can't be sent back
    return [(name, uploaded(sent.path)) for name, sent in zip(whole, payload.root, strict=True)]


def as_sent(payload) -> str | bytes | None:
    """Gradio's image data -> the uploaded file's path, or the bytes of a data: URI."""
    if payload is None:
        return None
    if not (payload.url or "").startswith("data:"):
        return payload.path and uploaded(payload.path)
    about, _, content = payload.url.partition(",")
    try:
        if not about.endswith(";base64"):
            return unquote_to_bytes(content)
        return base64.b64decode(content, validate=True)
    except ValueError:
        return b"?"  # which open_picture refuses in its own words


# What programs call ---------------------------------------------------------------------------------------------


def sentences(handler: Callable) -> Callable:
    """Turns what a user can put right into the one sentence that Gradio shows and sends."""

    @wraps(handler)
    def wrapped(*arguments, **named):
        try:
            return handler(*arguments, **named)
        except InputError as error:
            raise refusal(str(error)) from None

    return wrapped


@sentences
def fetch(model: str, weights: str, progress=gr.Progress()) -> str:  # noqa: B008, how Gradio asks for it
    """Downloads weights of the catalogue that are not on this machine yet; they stay in its cache.

    Args:
        model: Large or Small.
        weights: A family of weights or a checkpoint's name, as `models` lists them.
    """
    return f"{fetched(choice.chosen(model, weights), progress).name} is here."


def fetched(entry: Entry, progress: gr.Progress) -> mnv3.Checkpoint:
    """Downloads, checks and opens a checkpoint, telling the bytes to `progress`."""
    progress(0, desc=say("Fetching {name}", name=entry.name))

    def report(done: int, total: int) -> None:
        progress((done, total or None), unit="bytes")

    return engine.checkpoint(entry.name, report)


# What the page shows --------------------------------------------------------------------------------------------


@in_their_language
def show(tab: str, image, model: str, weights: str, target: dict | None, inside: dict | None, columns):
    """The open tab's answer: predictions, notes, pictures and panel of Look, and the table of Compare.

    target, inside: the class asked about and the row of the panel that is open, as `_selected` and `_inside` have
    them. columns: names of checkpoints for Compare.
    """
    if tab == "classes":  # class_view answers
        return (gr.skip(),) * 5
    if image is None:
        return None, page.hint(say(START)), "", "", page.hint(say(START))
    try:
        if tab == "compare":
            shown = compare.comparison(answers.explain_each(image, weights, columns))
            return gr.skip(), gr.skip(), gr.skip(), gr.skip(), shown
        explanation = mnv3.explain(choice.opened(model, weights), image)
        index = explanation.class_index(asked_class(explanation, target, what_is_on_show(image, model, weights)))
    except InputError as error:
        words = page.problem(str(error))
        return None, words, "", "", words
    label = answers.shares(explanation.top())
    row = opened_row(explanation, inside, what_is_on_show(image, model, weights))
    shown = page.pictures(explanation, index), page.panel(explanation, index, row)
    return label, page.facts(explanation), *shown, gr.skip()


@in_their_language
def class_view(tab: str, image, model: str, weights: str, blocks: list[str] | None, kinds: list[str] | None):
    """The Classes tab: its answer, and what its two lists offer; what this network doesn't know leaves them."""
    if tab != "classes":
        return gr.skip(), gr.skip(), gr.skip()
    try:
        explanation = mnv3.explain(choice.opened(model, weights), image)
    except InputError as error:
        return page.hint(say(START)) if image is None else page.problem(str(error)), gr.skip(), gr.skip()
    names, labels = [block.name for block in explanation.blocks], explanation.checkpoint.labels
    blocks = [name for name in blocks or [] if name in names][: classes.MOST_BLOCKS]
    kinds = [label for label in kinds or [] if label in labels][: classes.MOST_CLASSES]
    shown = classes.view(explanation, [names.index(name) for name in blocks], [labels.index(kind) for kind in kinds])
    return shown, gr.Dropdown(choices=names, value=blocks), gr.Dropdown(choices=list(labels), value=kinds)


@in_their_language
def compare_many(files, weights: str, columns: list[str] | None):
    """The table of many pictures, again and again as it grows, so that a cancelled one leaves what it has.

    It has its own bar: Gradio's lies over what is there and fades it, or doesn't, by which of the two comes last.
    files: (name, path) of each; without any, the examples.
    """
    files = files or [(path.name, str(path)) for path in engine.example_pictures()]
    rows, shown = [], time.monotonic()
    try:
        checkpoints = choice.several(weights, columns)
        yield compare.many(rows, checkpoints, len(files))
        for found in compare.look_at(files[: compare.MOST_PICTURES], checkpoints):
            rows += found
            if time.monotonic() - shown > compare.WAIT:
                shown = time.monotonic()
                yield compare.many(rows, checkpoints, len(files))
    except InputError as error:
        yield page.problem(str(error))
    else:
        yield compare.many(rows, checkpoints, len(files))


def what_is_on_show(image, model: str, weights: str) -> list:
    """What a click or a test is of: small enough to be kept for every visitor, so of a data: URI its digest."""
    return [sha256(image).hexdigest() if isinstance(image, bytes) else image, model, weights]


def asked_class(explanation: mnv3.Explanation, target: dict | None, on_show: list) -> str | None:
    """The class that was clicked; None for the likeliest, where none was or it was for what is no longer on show.

    What is clicked is kept with what it was clicked on, here and for rows, rather than forgotten at each change:
    browsers report a change late or twice, which would undo a click.
    """
    if not target or target["of"] != on_show or target["label"] not in explanation.checkpoint.labels:
        return None
    return target["label"]


def opened_row(explanation: mnv3.Explanation, inside: dict | None, on_show: list) -> tuple[int, str] | None:
    """The open row's number and inside; None where none is open, or it was opened on what is no longer on show."""
    if not inside or inside["of"] != on_show:
        return None
    block, channel = inside["block"], inside["channel"]
    if block is None or not 0 <= block < len(explanation.blocks):
        return None
    if channel is None or not 0 <= channel < len(explanation.gates[block]):
        channel = None
    return block, detail.opened(explanation, block, channel)


def gates_file(image, model: str, weights: str, target: dict | None, event: gr.EventData) -> dict | None:
    """Every gate as a file for the browser to save: its name, its text. The server keeps nothing."""
    try:
        explanation = mnv3.explain(choice.opened(model, weights), image)
        kind = "json" if event._data.get("kind") == "json" else "csv"
        asked = asked_class(explanation, target, what_is_on_show(image, model, weights))
        text = explanation.gates_csv() if kind == "csv" else json.dumps(explanation.to_dict(asked), indent=1)
        return {"name": page.file_name(explanation, "gates", ending=f".{kind}"), "text": text}
    except InputError as error:
        raise refusal(str(error)) from None


@in_their_language
def test_map(image, model: str, weights: str, target: dict | None, fetches: int, progress=gr.Progress()):  # noqa: B008
    """What was asked and the Trust tab's answer, for the picture and the class on show; shown by tested_map.

    fetches: how often weights came, since an answer may be that they are missing.
    """
    asked = [what_is_on_show(image, model, weights), target, fetches]
    return asked, _tested(image, model, weights, target, progress), gr.skip()


def _tested(image, model: str, weights: str, target: dict | None, progress: gr.Progress) -> str:
    if image is None:
        return page.hint(say(START))
    progress(0, desc=say("Explaining the picture"))
    try:
        explanation = mnv3.explain(choice.opened(model, weights), image)
        index = explanation.class_index(asked_class(explanation, target, what_is_on_show(image, model, weights)))
        told = {"desc": say("Testing"), "unit": say("runs")}
        trial = put_to_trial(explanation, index, progress=lambda done, whole: progress((done, whole), **told))
    except InputError as error:
        return page.problem(str(error))
    return trust_page.trust(explanation, index, trial, published(explanation.checkpoint))


@in_their_language
def tested_map(asked, answer: str, image, model: str, weights: str, target: dict | None, fetches: int) -> str:
    """The answer, if it is to what is on show; the picture may have changed while it was worked out, or since."""
    same = asked == [what_is_on_show(image, model, weights), target, fetches]
    return answer if same else page.hint(say(trust_page.START))


def listed(model: str, mine: list[str]) -> list[tuple[str, str]]:
    """What the Weights list has for a model, and the visitor's own: (title, name)."""
    others = [variant for variant in choice.variants() if variant != model]
    fitting = [(entry.title, entry.name) for entry in own.entries(mine) if entry.variant.title() not in others]
    return [*((name, name) for name in choice.families(model)), *fitting]


def weights_list(model: str, weights: str, mine: list[str] = ()):
    """The Weights list of a model and the visitor's own; the choice is left alone where it exists.

    Sent back, it would undo what the visitor chose while the list was under way.
    """
    choices = listed(model, mine)
    if weights in [name for _, name in choices]:
        return gr.Dropdown(choices=choices)
    return gr.Dropdown(choices=choices, value=choice.default_family())


@in_their_language
def models_overview(mine: list[str]) -> str:
    """The Models tab: what is offered, and the visitor's own."""
    return models_page.overview(models_page.models([*choice.offered(), *own.entries(mine)]))


@in_their_language
def open_files(files, model: str, mine: list[str], request: gr.Request):
    """Opens uploaded files for this visitor."""
    return _opened_own(lambda: own.from_files(files or []), model, mine, request)


@in_their_language
def open_repo(
    repo: str, model: str, mine: list[str], request: gr.Request, progress=gr.Progress()  # noqa: B008
):  # fmt: skip
    """Fetches and opens a Hub repo for this visitor."""
    progress(0, desc=say("Fetching"))

    def report(done: int, total: int) -> None:
        progress((done, total or None), unit="bytes")

    return _opened_own(lambda: own.from_hub(repo, report), model, mine, request)


def _opened_own(read: Callable[[], mnv3.Checkpoint], model: str, mine: list[str], request: gr.Request):
    """What happened in words, the visitor's own, the Model choice, and the Weights list with the new one chosen."""
    try:
        if not choice.host_settings().own:
            raise InputError("This host has closed ‘use my own’: run the app yourself to open your own weights.")
        checkpoint = read()
    except InputError as error:
        return page.problem(str(error)), mine, gr.skip(), gr.skip()
    name = own.keep(checkpoint, request.session_hash or "")
    mine = [entry.name for entry in own.entries([*mine, name])]
    variant = checkpoint.spec.variant.title()
    model = variant if variant in choice.variants() else model
    words = say("{name} is open, for you alone, and chosen in Look, Compare, Classes and Trust.", name=checkpoint.name)
    return page.hint(words), mine, gr.Radio(value=model), gr.Dropdown(choices=listed(model, mine), value=name)


@in_their_language
def fetch_button(weights: str):
    """Shown while a size of the chosen weights is not on this machine."""
    entries = choice.missing(weights)
    size = sum(entry.megabytes for entry in entries)
    return gr.Button(say("Fetch weights ({megabytes:.0f} MB)", megabytes=size), visible=bool(entries))


@in_their_language
def fetch_here(weights: str, times: int, progress=gr.Progress()):  # noqa: B008
    """Fetches for the page: a failure is a sentence in every tab that shows a network, and the page stays usable."""
    try:
        for entry in choice.missing(weights):
            fetched(entry, progress)
        words, times = page.hint(say("The weights ‘{weights}’ are here.", weights=weights)), times + 1
    except InputError as error:
        words = page.problem(str(error))
    return words, words, words, times


# always_last, since by itself Gradio drops a click that comes while the one before is worked on
QUIET = {"api_visibility": "private", "queue": False, "show_progress": "hidden", "trigger_mode": "always_last"}


def build_demo() -> gr.Blocks:
    """The whole app. Touches no network and loads no network: that waits for the first picture."""
    with gr.Blocks(title="mnv3: look inside MobileNetV3", analytics_enabled=False) as demo:
        gr.HTML(f"<h1>mnv3</h1><p>{I18N(ABOUT)}</p>", elem_id="title")
        tab, target, inside, mine = gr.State("look"), gr.State(None), gr.State(None), gr.State([])
        fetched = gr.State(0)  # how often weights came
        with gr.Row():
            with gr.Column(scale=1, min_width=260, elem_id="left"):
                image, model, weights, fetch_weights, button = _asking(demo, mine)
                bell, bell_of_classes, bell_of_trust = _bells(
                    [image.change, weights.change, model.input, button.click, fetched.change]
                )
            with gr.Column(scale=3, min_width=320, elem_id="right"), gr.Tabs(selected="look"):
                with gr.Tab(I18N("Look"), id="look") as look_tab:
                    with gr.Row():
                        with gr.Column(scale=2, min_width=220):
                            label = gr.Label(label=I18N("Predictions: click a class to ask about it"),
                                             num_top_classes=5, show_heading=False, elem_id="predictions")  # fmt: skip
                        with gr.Column(scale=3, min_width=300):
                            pictures = gr.HTML("", elem_id="pictures", js_on_load=detail.SCRIPT)
                    notes = gr.HTML(empty(START), elem_id="notes")
                    panel = gr.HTML("", elem_id="panel", js_on_load=detail.SCRIPT)
                with gr.Tab(I18N("Compare"), id="compare") as compare_tab:
                    columns = _columns(mine)
                    _many(weights, columns)
                    comparison = gr.HTML(empty(START), elem_id="comparison", js_on_load=detail.SCRIPT)
                with gr.Tab(I18N("Classes"), id="classes") as classes_tab:
                    class_shown = _classes_tab(tab, image, model, weights, bell_of_classes)
                with gr.Tab(I18N("Trust"), id="trust"):
                    _trust_tab(image, model, weights, target, fetched, bell_of_trust)
                with gr.Tab(I18N("Models"), id="models") as models_tab:
                    _models_tab(models_tab, model, weights, mine)
        _wire(tab, target, inside, columns, image, model, weights, button, bell,
              (look_tab, compare_tab, classes_tab), [label, notes, pictures, panel, comparison])  # fmt: skip
        _fetching(fetch_weights, weights, fetched, [notes, comparison, class_shown])
        _endpoints(weights.value)
    demo.queue(max_size=QUEUE, default_concurrency_limit=AT_ONCE)
    return demo


def _asking(demo: gr.Blocks, mine: gr.State) -> tuple:
    """What a visitor asks about, and of which network: picture, Model, Weights, the button that fetches, Explain."""
    family = choice.default_family()
    variant = next(variant for variant in choice.variants() if family in choice.families(variant))
    image = picture_input(label=I18N("Picture"), height=230, elem_id="picture",
                          sources=["upload", "clipboard", "webcam"], buttons=[],
                          alt_text=I18N("Your picture"))  # fmt: skip
    model = gr.Radio(choice.variants(), value=variant, label=I18N("Model"), elem_id="model",
                     info=I18N("Large costs nearly four times as many multiply-adds."))  # fmt: skip
    weights = gr.Dropdown(choice.families(variant), value=family, label=I18N("Weights"), elem_id="weights",
                          info=I18N(KNOWS))  # fmt: skip
    # before all other listeners of `model`: the browser awaits it, so none gets a pair that doesn't fit
    model.input(weights_list, [model, weights, mine], weights, **QUIET)
    fetch_weights = gr.Button(I18N("Fetch weights"), visible=False, elem_id="fetch")
    button = gr.Button(I18N("Explain"), variant="primary", elem_id="explain")
    examples = gr.Examples([[str(path)] for path in engine.example_pictures()], image, label=I18N("Examples"),
                           examples_per_page=20, cache_examples=False, api_visibility="private",
                           elem_id="examples")  # fmt: skip
    # else a click on an example is lost while another one loads
    demo.fns[examples.load_input_event["id"]].trigger_mode = "always_last"
    return image, model, weights, fetch_weights, button


def _bells(events: list[Callable]) -> list[gr.Number]:
    """For `show`, `class_view` and `tested_map` a hidden component each, whose change says that one of the events came.

    No event of a component has more than one listener that asks the server: Gradio's page asks them one after the
    other, each when the one before has its answer; and an event that finds one of them busy is repeated for all of
    them once that one is done, which finds the next one busy. After hasty clicks these three went on asking for ever.
    """
    bells = [gr.Number(visible=False) for _ in range(3)]
    gr.on(events, None, None, bells, js="() => [1, 2, 3].map(Math.random)", api_visibility="private")
    return bells


def _wire(tab, target, inside, columns, image, model, weights, button, bell, tabs, outputs) -> None:
    """What happens on a click. Every listener that runs a network shares one limit, and the newest click wins."""
    label, _, _, panel, _ = outputs
    run = {"fn": show, "inputs": [tab, image, model, weights, target, inside, columns], "outputs": outputs,
           "show_progress": "full", "concurrency_id": "network", "concurrency_limit": AT_ONCE,
           "trigger_mode": "always_last", "api_visibility": "private"}  # fmt: skip
    remember = {**QUIET, "queue": True}  # Gradio reports a changed gr.State for queued listeners only
    button.click(lambda: None, None, target, **remember)  # back to the likeliest class
    label.select(_selected, [image, model, weights], target, **remember)
    panel.click(_inside, [image, model, weights], inside, **remember)
    for chosen_tab in tabs:
        chosen_tab.select(partial(str, chosen_tab.id), None, tab, **remember)
    # One listener for all, so that a visitor's answers come one after the other and the last click has the last word.
    gr.on([bell.change, target.change, inside.change, columns.input, tab.change], **run)
    file = gr.JSON(visible=False)
    asked = panel.save(gates_file, [image, model, weights, target], file, show_progress="hidden",
                       concurrency_id="network", api_visibility="private")  # fmt: skip
    asked.then(None, file, None, js=browser.SAVE_FILE)


def _fetching(button, weights, fetched, outputs) -> None:
    """The button is there for as long as something is missing; what it brought is news for every tab."""
    weights.change(fetch_button, weights, button, **QUIET)
    fetching = button.click(fetch_here, [weights, fetched], [*outputs, fetched], api_visibility="private",
                            concurrency_id="fetch", concurrency_limit=1)  # fmt: skip
    fetching.then(fetch_button, weights, button, **QUIET)


def _columns(mine) -> gr.Dropdown:
    """Which checkpoints Compare puts beside each other; a visitor's own are offered once they are there."""
    columns = gr.Dropdown(choice.comparable([]), label=I18N("Checkpoints"), multiselect=True, max_choices=compare.MOST,
                          allow_custom_value=True, elem_id="columns",
                          info=I18N("Two to four; Large and Small of the chosen weights while empty."))  # fmt: skip
    mine.change(lambda mine: gr.Dropdown(choices=choice.comparable(mine)), mine, columns, api_visibility="private")
    return columns


def _many(weights, columns) -> None:
    """Many pictures at once: what is compared is what the columns above are."""
    with gr.Accordion(I18N("Many pictures at once"), open=False, elem_id="many"):
        files = files_input(label=I18N(f"Pictures, up to {compare.MOST_PICTURES}"), height=150, elem_id="many-files")
        with gr.Row():
            button = gr.Button(I18N("Compare all"), variant="primary", elem_id="many-compare")
            cancel = gr.Button(I18N("Cancel"), elem_id="many-cancel")
        shown = gr.HTML(empty(MANY), elem_id="many-shown", min_height=100)
        comparing = button.click(compare_many, [files, weights, columns], shown, api_visibility="private",
                                 concurrency_id="many", concurrency_limit=1)  # fmt: skip
        cancel.click(None, cancels=comparing, api_visibility="private")


def _classes_tab(tab, image, model, weights, bell) -> gr.HTML:
    """Two lists and the Class view, which is made while the tab is open and returned."""
    with gr.Row():
        most = {"multiselect": True, "allow_custom_value": True, "min_width": 220, "choices": []}
        kinds = gr.Dropdown(label=I18N("Classes"), max_choices=classes.MOST_CLASSES, elem_id="class-kinds",
                            info=I18N("Up to four; the picture’s three likeliest while empty."), **most)  # fmt: skip
        blocks = gr.Dropdown(label=I18N("Blocks"), max_choices=classes.MOST_BLOCKS, elem_id="class-blocks",
                             info=I18N("Up to four; the most and the least class-specific while empty."),
                             **most)  # fmt: skip
    shown = gr.HTML(empty(START), elem_id="classview", min_height=200)
    gr.on([bell.change, tab.change, kinds.input, blocks.input], class_view,
          [tab, image, model, weights, blocks, kinds], [shown, blocks, kinds],
          api_visibility="private", concurrency_id="network", concurrency_limit=AT_ONCE, trigger_mode="always_last",
          show_progress_on=shown)  # fmt: skip
    return shown


def _trust_tab(image, model, weights, target, fetched, bell) -> None:
    """A button, and the answer, which stays for as long as it is the answer to what is on show."""
    with gr.Row():
        button = gr.Button(I18N("Test this map"), variant="primary", scale=0, min_width=220, elem_id="test-map")
    shown = gr.HTML(empty(trust_page.START), elem_id="trust", min_height=120)
    asked, answer, on_show = gr.State(), gr.State(""), [image, model, weights, target, fetched]
    testing = button.click(test_map, on_show, [asked, answer, shown], api_visibility="private",
                           trigger_mode="always_last", concurrency_id="network",
                           concurrency_limit=AT_ONCE)  # fmt: skip
    show_it = {"fn": tested_map, "inputs": [asked, answer, *on_show], "outputs": shown, "api_visibility": "private",
               "show_progress": "hidden"}  # fmt: skip
    testing.then(**show_it)
    gr.on([bell.change, target.change], **show_it)


def _models_tab(models_tab, model, weights, mine) -> None:
    """The overview, made anew when the tab is opened, and ‘use my own’ where the host leaves it open."""
    private = {"api_visibility": "private"}
    if choice.host_settings().own:
        with gr.Accordion(I18N(USE_OWN), open=False, elem_id="own"):
            with gr.Row():
                with gr.Column(min_width=260):
                    repo = gr.Textbox(label=I18N("A public repo of the Hugging Face Hub"), placeholder="user/repo",
                                      max_length=200, info=I18N("One that train.py or mnv3.hub published."),
                                      elem_id="own-repo")  # fmt: skip
                    fetching = gr.Button(I18N("Open from the Hub"), elem_id="open-repo")
                with gr.Column(min_width=260):
                    files = files_input(label="config.json, model.safetensors, …", height=170, elem_id="own-files")
                    opening = gr.Button(I18N("Open these files"), elem_id="open-files")
            said = gr.HTML(empty(OWN), elem_id="own-said")
    overview = gr.HTML(empty("Reading the catalogue."), elem_id="models", min_height=200)
    models_tab.select(models_overview, mine, overview, **private)
    if choice.host_settings().own:
        outputs = [said, mine, model, weights]
        shared = {**private, "concurrency_id": "own", "concurrency_limit": AT_ONCE}
        for opened_own in (fetching.click(open_repo, [repo, model, mine], outputs, **shared),
                           opening.click(open_files, [files, model, mine], outputs, **shared)):  # fmt: skip
            opened_own.then(models_overview, mine, overview, **private)


def _selected(image, model: str, weights: str, event: gr.SelectData) -> dict:
    """The class that was clicked, and what was on show."""
    label = event.value if isinstance(event.value, str) and len(event.value) <= MAX_LABEL_LENGTH else None
    return {"label": label, "of": what_is_on_show(image, model, weights)}


def _inside(image, model: str, weights: str, event: gr.EventData) -> dict:
    """What was clicked in the panel, {"block", "channel"} or neither to close the row, and what was on show."""
    clicked = event._data if isinstance(event._data, dict) else {}
    numbers = {name: clicked.get(name) if type(clicked.get(name)) is int else None for name in ("block", "channel")}
    return {**numbers, "of": what_is_on_show(image, model, weights)}


def _endpoints(family: str) -> None:
    """/predict, /explain, /compare, /trust, /models and /fetch for programs; only the picture has no default."""
    shared = {"concurrency_id": "network", "concurrency_limit": AT_ONCE}
    picture = picture_input(label="image", visible=False)
    model = gr.Textbox("Large", label="model: Large or Small", visible=False)
    weights = gr.Textbox(family, label="weights", visible=False)
    top_k = gr.Number(5, label="top_k", visible=False)
    target = gr.Textbox("", label="target class, the likeliest if empty", visible=False)
    checkpoints = gr.Dropdown([entry.name for entry in choice.offered()], value=[], multiselect=True, visible=False,
                              allow_custom_value=True, label="checkpoints")  # fmt: skip
    label, data, text = gr.Label(visible=False), gr.JSON(visible=False), gr.Textbox(visible=False)
    hidden = gr.Button(visible=False)
    hidden.click(sentences(answers.predict), [picture, model, weights, top_k], label, api_name="predict", **shared)
    hidden.click(sentences(answers.explain), [picture, model, weights, target], data, api_name="explain", **shared)
    hidden.click(sentences(answers.compare), [picture, weights, checkpoints], data, api_name="compare", **shared)
    hidden.click(sentences(answers.trust), [picture, model, weights, target], data, api_name="trust", **shared)
    hidden.click(answers.models, None, data, api_name="models")
    hidden.click(fetch, [model, weights], text, api_name="fetch", concurrency_id="fetch", concurrency_limit=1)


FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none from the network
CONTRAST = {"block_info_text_color": "*neutral_600", "block_info_text_color_dark": "*neutral_300",
            "button_primary_background_fill": "*primary_700", "button_primary_background_fill_dark": "*primary_700",
            "button_primary_background_fill_hover": "*primary_800",
            "button_primary_background_fill_hover_dark": "*primary_800"}  # else 1.9 and 2.8 to 1


def satisfy_zero_gpu() -> None:
    """Declares a GPU function where a Space runs on ZeroGPU, which starts none without; these networks need no GPU.

    It is never called, so it takes none of anyone's GPU time. The `spaces` package is there and nowhere else.
    """
    if os.environ.get("SPACES_ZERO_GPU"):
        import spaces

        spaces.GPU(duration=1)(lambda: None)


def mcp_wanted() -> bool:
    """Whether the host wants MCP tools as well. Raises InputError where Gradio's extra for them is not installed."""
    wanted = choice.host_settings().mcp
    if wanted and find_spec("mcp") is None:
        raise InputError(
            f"MNV3_MCP=1 needs a package that is not installed: run pip install 'gradio[mcp]=={gr.__version__}', or "
            "leave MNV3_MCP unset."
        )
    return wanted


async def disk_full(request: Request, error: OSError) -> PlainTextResponse:
    """What whoever uploads to a full disk is told, where Gradio has nothing but a status of 500."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    with suppress(OSError):  # the log may be on that disk
        print("app.py: an upload was refused, since the disk is full.", file=sys.stderr, flush=True)
    return PlainTextResponse("The app's disk is full: try again later, or tell its host.", status_code=507)


@asynccontextmanager
async def cleaning(server) -> AsyncIterator[None]:
    """While the server runs, deletes uploads and what was made for pages at a certain age; at its end, all of them.

    In place of Gradio's delete_cache, whose task ends for good where an upload comes in the middle of its pass ('Set
    changed size during iteration'): from then on nothing was deleted. Here such a pass begins anew.
    """

    async def clean() -> None:
        every, age = KEEP_FILES
        pause = every
        while True:
            await asyncio.sleep(pause)
            pause = every
            try:
                await to_thread.run_sync(delete_files_created_by_app, server.get_blocks(), age)
                await to_thread.run_sync(delete_empty_folders, age)
            except RuntimeError:
                pause = 0.1
            except OSError as error:  # a file that may not be deleted is no reason to try all the time
                print(f"app.py: old uploads can't be deleted: {error.strerror}", file=sys.stderr, flush=True)

    task = asyncio.create_task(clean())
    try:
        yield
    finally:
        task.cancel()
        delete_files_created_by_app(server.get_blocks(), None)


def delete_empty_folders(age: float) -> None:
    """Those of uploads, one for each content, in which nothing changed for `age` seconds; Gradio leaves them."""
    with suppress(FileNotFoundError), os.scandir(get_upload_folder()) as folders:  # there is none before an upload
        for folder in folders:
            if folder.is_dir(follow_symlinks=False) and time.time() - folder.stat().st_mtime > age:
                with suppress(OSError):  # it holds a file
                    os.rmdir(folder)


class Bounded:
    """Refuses a request of more than MAX_BODY bytes, which Gradio would read whole and keep.

    Its uploads alone go to disk piece by piece, each within MAX_UPLOAD. UNUSED paths are not there. ASGI.
    """

    def __init__(self, app: Callable):
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or path == "/gradio_api/upload":
            return await self.app(scope, receive, send)
        if path.startswith(UNUSED):
            return await PlainTextResponse("There is nothing here.", 404)(scope, receive, send)
        left = MAX_BODY

        async def counted():
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"A request may have {MAX_BODY // 10**6} MB: upload the file, or send less.")
            return message

        await self.app(scope, counted, send)


def main() -> int:
    """Starts the server: GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say where; a Space sets them itself."""
    satisfy_zero_gpu()
    try:
        mcp = mcp_wanted()
        demo = build_demo()
    except InputError as error:  # what the host set
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    demo.launch(
        theme=gr.themes.Default(**FONTS).set(**CONTRAST), head=browser.HEAD, max_file_size=MAX_UPLOAD,
        css=browser.CSS,
        ssr_mode=False,  # it needs Node, and the page is whole without it
        run_history=False,  # a visitor's pictures are not kept in the browser
        state_session_capacity=SESSIONS,
        footer_links=["api"], i18n=I18N, mcp_server=mcp,
        app_kwargs={"exception_handlers": {OSError: disk_full}, "middleware": [Middleware(Bounded)],
                    "lifespan": cleaning},
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
