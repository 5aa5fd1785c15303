"""What the page's controls call: inputs in, HTML and component updates out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import wraps
from hashlib import sha256

import gradio as gr
from gradio.context import LocalContext

import mnv3
from mnv3.errors import InputError

from ..basics import MAX_LABEL_LENGTH
from ..checkpoints.registry import Entry
from ..explanation import batch
from ..explanation.faithfulness import published, put_to_trial
from ..inference import cache, reference
from . import api, selection, user_checkpoints
from .i18n import say, spoken
from .views import block as views_block
from .views import classes, compare, explore, models, trust

START = "Upload, paste or take a picture, or click one of the examples: the answer appears here."


def languages() -> str:
    """The Accept-Language of whoever is being answered; '' where nobody is."""
    request = LocalContext.request.get(None)
    return getattr(request, "headers", {}).get("accept-language", "") if request else ""


in_their_language = spoken(languages)


def refusal(sentence: str) -> gr.Error:
    """What Gradio shows and sends to whoever can put it right; the host's log is spared a stack trace."""
    return gr.Error(sentence, print_exception=False)


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
    return f"{fetched(selection.chosen(model, weights), progress).name} is here."


def fetched(entry: Entry, progress: gr.Progress) -> mnv3.Checkpoint:
    """Downloads, checks and opens a checkpoint, telling the bytes to `progress`."""
    progress(0, desc=say("Fetching {name}", name=entry.name))

    def report(done: int, total: int) -> None:
        progress((done, total or None), unit="bytes")

    return cache.checkpoint(entry.name, report)


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
        return None, explore.hint(say(START)), "", "", explore.hint(say(START))
    try:
        if tab == "compare":
            shown = compare.comparison(api.explain_each(image, weights, columns))
            return gr.skip(), gr.skip(), gr.skip(), gr.skip(), shown
        explanation = mnv3.explain(selection.opened(model, weights), image)
        index = explanation.class_index(asked_class(explanation, target, what_is_on_show(image, model, weights)))
    except InputError as error:
        words = explore.problem(str(error))
        return None, words, "", "", words
    label = api.shares(explanation.top())
    row = opened_row(explanation, inside, what_is_on_show(image, model, weights))
    shown = explore.pictures(explanation, index), explore.panel(explanation, index, row)
    return label, explore.facts(explanation), *shown, gr.skip()


@in_their_language
def class_view(tab: str, image, model: str, weights: str, blocks: list[str] | None, kinds: list[str] | None):
    """The Classes tab: its answer, and what its two lists offer; what this network doesn't know leaves them."""
    if tab != "classes":
        return gr.skip(), gr.skip(), gr.skip()
    try:
        explanation = mnv3.explain(selection.opened(model, weights), image)
    except InputError as error:
        return explore.hint(say(START)) if image is None else explore.problem(str(error)), gr.skip(), gr.skip()
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
    files = files or [(path.name, str(path)) for path in reference.example_pictures()]
    rows, shown = [], time.monotonic()
    try:
        checkpoints = selection.several(weights, columns)
        yield compare.many(rows, checkpoints, len(files))
        for found in batch.look_at(files[: batch.MOST_PICTURES], checkpoints):
            rows += found
            if time.monotonic() - shown > batch.WAIT:
                shown = time.monotonic()
                yield compare.many(rows, checkpoints, len(files))
    except InputError as error:
        yield explore.problem(str(error))
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
    return block, views_block.opened(explanation, block, channel)


def gates_file(image, model: str, weights: str, target: dict | None, event: gr.EventData) -> dict | None:
    """Every gate as a file for the browser to save: its name, its text. The server keeps nothing."""
    try:
        explanation = mnv3.explain(selection.opened(model, weights), image)
        kind = "json" if event._data.get("kind") == "json" else "csv"
        asked = asked_class(explanation, target, what_is_on_show(image, model, weights))
        text = explanation.gates_csv() if kind == "csv" else json.dumps(explanation.to_dict(asked), indent=1)
        return {"name": explore.file_name(explanation, "gates", ending=f".{kind}"), "text": text}
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
        return explore.hint(say(START))
    progress(0, desc=say("Explaining the picture"))
    try:
        explanation = mnv3.explain(selection.opened(model, weights), image)
        index = explanation.class_index(asked_class(explanation, target, what_is_on_show(image, model, weights)))
        told = {"desc": say("Testing"), "unit": say("runs")}
        trial = put_to_trial(explanation, index, progress=lambda done, whole: progress((done, whole), **told))
    except InputError as error:
        return explore.problem(str(error))
    return trust.trust(explanation, index, trial, published(explanation.checkpoint))


@in_their_language
def tested_map(asked, answer: str, image, model: str, weights: str, target: dict | None, fetches: int) -> str:
    """The answer, if it is to what is on show; the picture may have changed while it was worked out, or since."""
    same = asked == [what_is_on_show(image, model, weights), target, fetches]
    return answer if same else explore.hint(say(trust.START))


def listed(model: str, mine: list[str]) -> list[tuple[str, str]]:
    """What the Weights list has for a model, and the visitor's own: (title, name)."""
    others = [variant for variant in selection.variants() if variant != model]
    own = user_checkpoints.entries(mine)
    fitting = [(entry.title, entry.name) for entry in own if entry.variant.title() not in others]
    return [*((name, name) for name in selection.families(model)), *fitting]


def weights_list(model: str, weights: str, mine: list[str] = ()):
    """The Weights list of a model and the visitor's own; the choice is left alone where it exists.

    Sent back, it would undo what the visitor chose while the list was under way.
    """
    choices = listed(model, mine)
    if weights in [name for _, name in choices]:
        return gr.Dropdown(choices=choices)
    return gr.Dropdown(choices=choices, value=selection.default_family())


@in_their_language
def models_overview(mine: list[str]) -> str:
    """The Models tab: what is offered, and the visitor's own."""
    return models.overview(models.models([*selection.offered(), *user_checkpoints.entries(mine)]))


@in_their_language
def open_files(files, model: str, mine: list[str], request: gr.Request):
    """Opens uploaded files for this visitor."""
    return _opened_own(lambda: user_checkpoints.from_files(files or []), model, mine, request)


@in_their_language
def open_repo(
    repo: str, model: str, mine: list[str], request: gr.Request, progress=gr.Progress()  # noqa: B008
):  # fmt: skip
    """Fetches and opens a Hub repo for this visitor."""
    progress(0, desc=say("Fetching"))

    def report(done: int, total: int) -> None:
        progress((done, total or None), unit="bytes")

    return _opened_own(lambda: user_checkpoints.from_hub(repo, report), model, mine, request)


def _opened_own(read: Callable[[], mnv3.Checkpoint], model: str, mine: list[str], request: gr.Request):
    """What happened in words, the visitor's own, the Model choice, and the Weights list with the new one chosen."""
    try:
        if not selection.host_settings().own:
            raise InputError("This host has closed ‘use my own’: run the app yourself to open your own weights.")
        checkpoint = read()
    except InputError as error:
        return explore.problem(str(error)), mine, gr.skip(), gr.skip()
    name = user_checkpoints.keep(checkpoint, request.session_hash or "")
    mine = [entry.name for entry in user_checkpoints.entries([*mine, name])]
    variant = checkpoint.spec.variant.title()
    model = variant if variant in selection.variants() else model
    words = say("{name} is open, for you alone, and chosen in Look, Compare, Classes and Trust.", name=checkpoint.name)
    return explore.hint(words), mine, gr.Radio(value=model), gr.Dropdown(choices=listed(model, mine), value=name)


@in_their_language
def fetch_button(weights: str):
    """Shown while a size of the chosen weights is not on this machine."""
    entries = selection.missing(weights)
    size = sum(entry.megabytes for entry in entries)
    return gr.Button(say("Fetch weights ({megabytes:.0f} MB)", megabytes=size), visible=bool(entries))


@in_their_language
def fetch_here(weights: str, times: int, progress=gr.Progress()):  # noqa: B008
    """Fetches for the page: a failure is a sentence in every tab that shows a network, and the page stays usable."""
    try:
        for entry in selection.missing(weights):
            fetched(entry, progress)
        words, times = explore.hint(say("The weights ‘{weights}’ are here.", weights=weights)), times + 1
    except InputError as error:
        words = explore.problem(str(error))
    return words, words, words, times


def _selected(image, model: str, weights: str, event: gr.SelectData) -> dict:
    """The class that was clicked, and what was on show."""
    label = event.value if isinstance(event.value, str) and len(event.value) <= MAX_LABEL_LENGTH else None
    return {"label": label, "of": what_is_on_show(image, model, weights)}


def _inside(image, model: str, weights: str, event: gr.EventData) -> dict:
    """What was clicked in the panel, {"block", "channel"} or neither to close the row, and what was on show."""
    clicked = event._data if isinstance(event._data, dict) else {}
    numbers = {name: clicked.get(name) if type(clicked.get(name)) is int else None for name in ("block", "channel")}
    return {**numbers, "of": what_is_on_show(image, model, weights)}
