"""mnv3, the app: what MobileNetV3 sees in a picture, and what its SE attention did. Run: python app.py

build_demo() is thin: handlers turn inputs into an Explanation (mnv3.explain) and that into HTML (mnv3.page).
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial, wraps

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # no network at start; read when gradio is imported

import gradio as gr
from gradio.processing_utils import get_upload_folder
from gradio.utils import is_in_or_equal
from gradio_client.utils import is_http_url_like

import mnv3
from mnv3 import detail, engine, page
from mnv3.catalogue import Entry, catalogue, is_here
from mnv3.errors import InputError
from mnv3.explain import Guess, likeliest, softmax
from mnv3.images import open_picture

VARIANTS = ("Large", "Small")
MAX_UPLOAD = "50mb"
QUEUE = 32  # visitors who may wait; more are told that the app is busy
AT_ONCE = 2  # explanations at a time; others wait in the queue
KEEP_FILES = (3600, 3600)  # seconds between clean-ups, age of what is deleted
START = "Upload, paste or take a picture, or click one of the examples: the answer appears here."


def refusal(sentence: str) -> gr.Error:
    """What Gradio shows and sends to whoever can put it right; the host's log is spared a stack trace."""
    return gr.Error(sentence, print_exception=False)


def picture_input(**options) -> gr.Image:
    """gr.Image that hands over the sent file as it is: mnv3.images decodes it, and says in words what is wrong.

    By itself gr.Image opens it by its name's ending, drops alpha and clips 16 bits before our code sees it. Only
    this instance is changed, since a subclass would make Gradio write a stub file beside the source.
    """
    image = gr.Image(type="filepath", image_mode=None, **options)
    image.preprocess = as_sent
    into_cache = image.async_move_resource_to_block_cache

    async def uploads_only(source):  # Gradio itself would fetch any public address, of any size
        if is_http_url_like(str(source)):
            raise refusal("A picture can't be read from an address: save it as a file and send that.")
        return await into_cache(source)

    image.async_move_resource_to_block_cache = uploads_only
    return image


def as_sent(payload) -> str | bytes | None:
    """Gradio's image data -> the uploaded file's path, or the bytes of a data: URI.

    Gradio checks where a file lies only if its sender added a `meta` field, so it is checked here: any file of the
    host could be read otherwise.
    """
    if payload is None:
        return None
    if not (payload.url or "").startswith("data:"):
        if payload.path and not is_in_or_equal(payload.path, get_upload_folder()):
            raise refusal("This picture was not uploaded here: upload it first.")
        return payload.path
    try:
        return base64.b64decode(payload.url.partition(",")[2], validate=True)
    except ValueError:
        return b"?"  # which open_picture refuses in its own words


def families(variant: str) -> list[str]:
    """The Weights list for Large or Small, as the catalogue has it."""
    names = [entry.family for entry in catalogue() if entry.variant == variant.lower()]
    return list(dict.fromkeys(names))


def default_family() -> str:
    """ImageNet weights when both sizes are in the local cache, else the bundled ones."""
    entries = catalogue()
    for family in dict.fromkeys(entry.family for entry in entries):
        states = {entry.variant: entry.state for entry in entries if entry.family == family}
        if states == {"large": "here", "small": "here"}:
            return family
    return families("Large")[-1]


def chosen(model: str, weights: str) -> Entry:
    """The catalogue's entry for Large | Small and a family (or a checkpoint's own name). Raises InputError."""
    if model not in VARIANTS:
        raise InputError(f"There is no model {str(model)[:40]!r}: choose Large or Small.")
    entries = [entry for entry in catalogue() if entry.variant == model.lower()]
    for entry in entries:
        if weights in (entry.family, entry.name):
            return entry
    known = ", ".join(entry.family for entry in entries)
    raise InputError(f"{model} has no weights {str(weights)[:60]!r}: choose one of {known}.")


def opened(model: str, weights: str) -> mnv3.Checkpoint:
    """The chosen checkpoint, if it is on this machine; nothing is fetched without being asked for."""
    entry = chosen(model, weights)
    if not is_here(entry.name):
        raise InputError(
            f"The weights ‘{entry.family}’ for {model} are not on this machine yet: press ‘Fetch weights’ (programs: "
            "call /fetch), or choose others."
        )
    return engine.checkpoint(entry.name)


def explain_both(image, weights: str) -> list[mnv3.Explanation]:
    """Large and Small on one picture, which is decoded once: a photograph costs more than both networks."""
    checkpoints = [opened(variant, weights) for variant in VARIANTS]
    picture = open_picture(image)
    return [mnv3.explain(checkpoint, picture) for checkpoint in checkpoints]


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
def api_predict(image, model: str, weights: str, top_k: float) -> dict[str, float]:
    """The likeliest classes of a picture with their probabilities."""
    if not (isinstance(top_k, int | float) and 1 <= top_k <= 1000 and top_k == int(top_k)):
        raise InputError(f"`top_k` (={top_k!r:.20}) must be a whole number from 1 to 1000.")
    checkpoint = opened(model, weights)
    logits, _ = engine.logits(checkpoint, checkpoint.preprocess(image)[None])
    return shares(likeliest(softmax(logits[0]), checkpoint.labels, int(top_k)))


def shares(guesses: list[Guess]) -> dict[str, float]:
    """What gr.Label takes: label -> probability."""
    return {guess.label: guess.probability for guess in guesses}


@sentences
def api_explain(image, model: str, weights: str, target: str) -> dict:
    """Predictions, every SE gate with its reference, energy shifts, causal effects and class evidence of a picture."""
    return mnv3.explain(opened(model, weights), image).to_dict(target)


@sentences
def api_compare(image, weights: str) -> dict:
    """Large beside Small on one picture: both explanations and their agreement in words."""
    explanations = explain_both(image, weights)
    return {"agreement": page.agreement(explanations), "columns": [e.to_dict() for e in explanations]}


def api_models() -> list[dict]:
    """Every checkpoint that can be chosen: name, family, variant, here | download | failed, and why."""
    return [asdict(entry) for entry in catalogue()]


@sentences
def api_fetch(model: str, weights: str, progress=gr.Progress()) -> str:  # noqa: B008, how Gradio asks for it
    """Downloads weights that are not on this machine yet; they stay in its cache."""
    return f"{fetch(chosen(model, weights), progress).name} is here."


def fetch(entry: Entry, progress: gr.Progress) -> mnv3.Checkpoint:
    """Downloads, checks and opens a checkpoint, telling the bytes to `progress`."""
    progress(0, desc=f"Fetching {entry.name}")

    def report(done: int, total: int) -> None:
        progress((done, total or None), unit="bytes")

    return engine.checkpoint(entry.name, report)


# What the page shows --------------------------------------------------------------------------------------------


def show(tab: str, image, model: str, weights: str, target: str | None, inside: dict | None):
    """The open tab's answer: predictions, notes, pictures and panel of Look, and the table of Compare.

    inside: the row of the panel that is open, as `_inside` has it.
    """
    if image is None:
        return None, page.hint(START), "", "", page.hint(START)
    try:
        if tab == "compare":
            return gr.skip(), gr.skip(), gr.skip(), gr.skip(), page.comparison(explain_both(image, weights))
        explanation = mnv3.explain(opened(model, weights), image)
        index = explanation.class_index(target if target in explanation.checkpoint.labels else None)
    except InputError as error:
        words = page.problem(str(error))
        return None, words, "", "", words
    label = shares(explanation.top())
    shown = page.pictures(explanation, index), page.panel(explanation, index, opened_row(explanation, inside))
    return label, page.facts(explanation), *shown, gr.skip()


def opened_row(explanation: mnv3.Explanation, inside: dict | None) -> tuple[int, str] | None:
    """The open row's number and inside; None where this network has no such block or channel, as after a change."""
    block, channel = (inside or {}).get("block"), (inside or {}).get("channel")
    if type(block) is not int or not 0 <= block < len(explanation.blocks):
        return None
    if type(channel) is not int or not 0 <= channel < len(explanation.gates[block]):
        channel = None
    return block, detail.opened(explanation, block, channel)


def gates_file(image, model: str, weights: str, target: str | None, event: gr.EventData) -> dict | None:
    """Every gate as a file for the browser to save: its name, its text. The server keeps nothing."""
    try:
        explanation = mnv3.explain(opened(model, weights), image)
        kind = "json" if event._data.get("kind") == "json" else "csv"
        target = target if target in explanation.checkpoint.labels else None
        text = explanation.gates_csv() if kind == "csv" else json.dumps(explanation.to_dict(target), indent=1)
        return {"name": page.file_name(explanation, "gates", ending=f".{kind}"), "text": text}
    except InputError as error:
        raise refusal(str(error)) from None


def weights_list(model: str, weights: str):
    """The Weights list of a model, keeping the choice where it exists."""
    names = families(model)
    return gr.Dropdown(choices=names, value=weights if weights in names else default_family())


def missing(weights: str) -> list[Entry]:
    """The sizes of a family that are not on this machine: Compare needs both, so both are fetched."""
    return [entry for entry in catalogue() if entry.family == weights and not is_here(entry.name)]


def fetch_button(weights: str):
    """Shown while a size of the chosen weights is not on this machine."""
    entries = missing(weights)
    return gr.Button(f"Fetch weights ({sum(e.megabytes for e in entries):.0f} MB)", visible=bool(entries))


def fetch_here(weights: str, fetched: int, progress=gr.Progress()):  # noqa: B008
    """Fetches for the page: a failure is a sentence in both tabs, and the page stays usable."""
    try:
        for entry in missing(weights):
            fetch(entry, progress)
        words, fetched = page.hint(f"The weights ‘{weights}’ are here."), fetched + 1
    except InputError as error:
        words = page.problem(str(error))
    return words, words, fetched


def build_demo() -> gr.Blocks:
    """The whole app. Touches no network and loads no network: that waits for the first picture."""
    family = default_family()
    with gr.Blocks(title="mnv3: look inside MobileNetV3", analytics_enabled=False, delete_cache=KEEP_FILES) as demo:
        gr.HTML("<h1>mnv3</h1><p>What MobileNetV3 sees in your picture, and what its attention did to it.</p>",
                elem_id="title")  # fmt: skip
        tab, target, inside = gr.State("look"), gr.State(None), gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=260, elem_id="left"):
                image = picture_input(label="Picture", height=230, elem_id="picture",
                                sources=["upload", "clipboard", "webcam"], buttons=[],
                                alt_text="Your picture")  # fmt: skip
                model = gr.Radio(VARIANTS, value="Large", label="Model", elem_id="model",
                                 info="Large costs nearly four times as many multiply-adds.")  # fmt: skip
                weights = gr.Dropdown(families("Large"), value=family, label="Weights", elem_id="weights",
                                      info="What the network was trained on decides what it can name.")  # fmt: skip
                fetch_weights = gr.Button("Fetch weights", visible=False, elem_id="fetch")
                button = gr.Button("Explain", variant="primary", elem_id="explain")
                gr.Examples([[str(path)] for path in engine.example_pictures()], image, label="Examples",
                            examples_per_page=20, cache_examples=False, api_visibility="private",
                            elem_id="examples")  # fmt: skip
            with gr.Column(scale=3, min_width=320, elem_id="right"), gr.Tabs(selected="look"):
                with gr.Tab("Look", id="look") as look_tab:
                    with gr.Row():
                        with gr.Column(scale=2, min_width=220):
                            label = gr.Label(label="Predictions: click a class to ask about it", num_top_classes=5,
                                             show_heading=False, elem_id="predictions")  # fmt: skip
                        with gr.Column(scale=3, min_width=300):
                            pictures = gr.HTML("", elem_id="pictures", js_on_load=detail.SCRIPT)
                    notes = gr.HTML(page.hint(START), elem_id="notes")
                    panel = gr.HTML("", elem_id="panel", js_on_load=detail.SCRIPT)
                with gr.Tab("Compare", id="compare") as compare_tab:
                    comparison = gr.HTML(page.hint(START), elem_id="comparison", js_on_load=detail.SCRIPT)
        _wire(tab, target, inside, image, model, weights, fetch_weights, button, look_tab, compare_tab,
              [label, notes, pictures, panel, comparison])  # fmt: skip
        _endpoints(family)
    demo.queue(max_size=QUEUE, default_concurrency_limit=AT_ONCE)
    return demo


def _wire(tab, target, inside, image, model, weights, fetch_weights, button, look_tab, compare_tab, outputs) -> None:
    """What happens on a click. Every listener that runs a network shares one limit, and the newest click wins."""
    label, notes, _, panel, comparison = outputs
    run = {"fn": show, "inputs": [tab, image, model, weights, target, inside], "outputs": outputs,
           "show_progress": "full", "concurrency_id": "network", "concurrency_limit": AT_ONCE,
           "trigger_mode": "always_last", "api_visibility": "private"}  # fmt: skip
    quiet = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
    fetched = gr.State(0)
    remember = {**quiet, "queue": True}  # Gradio reports a changed gr.State for queued listeners only
    news = [image.change, weights.change, model.input, button.click]
    gr.on(news, lambda: (None, None), None, [target, inside], **remember)
    model.input(weights_list, [model, weights], weights, **quiet)
    label.select(_selected, None, target, **remember)
    panel.click(_inside, None, inside, **remember)
    for chosen_tab, name in ((look_tab, "look"), (compare_tab, "compare")):
        chosen_tab.select(partial(str, name), None, tab, **remember)
    # One listener for all, so that a visitor's answers come one after the other and the last click has the last word.
    gr.on([*news, target.change, inside.change, tab.change, fetched.change], **run)
    file = gr.JSON(visible=False)
    asked = panel.save(gates_file, [image, model, weights, target], file, show_progress="hidden",
                       concurrency_id="network", api_visibility="private")  # fmt: skip
    asked.then(None, file, None, js=SAVE_FILE)
    weights.change(fetch_button, weights, fetch_weights, **quiet)
    fetching = fetch_weights.click(fetch_here, [weights, fetched], [notes, comparison, fetched],
                                   api_visibility="private", concurrency_id="fetch", concurrency_limit=1)  # fmt: skip
    fetching.then(fetch_button, weights, fetch_weights, **quiet)


def _selected(event: gr.SelectData) -> str:
    return event.value


def _inside(event: gr.EventData) -> dict:
    """What was clicked in the panel: {"block", "channel"}, or {} to close the row."""
    return event._data if isinstance(event._data, dict) else {}


def _endpoints(family: str) -> None:
    """/predict, /explain, /compare, /models and /fetch for programs; only the picture has no default."""
    shared = {"concurrency_id": "network", "concurrency_limit": AT_ONCE}
    picture = picture_input(label="image", visible=False)
    model = gr.Textbox("Large", label="model: Large or Small", visible=False)
    weights = gr.Textbox(family, label="weights", visible=False)
    top_k = gr.Number(5, label="top_k", visible=False)
    target = gr.Textbox("", label="target class, the likeliest if empty", visible=False)
    label, data, text = gr.Label(visible=False), gr.JSON(visible=False), gr.Textbox(visible=False)
    hidden = gr.Button(visible=False)
    hidden.click(api_predict, [picture, model, weights, top_k], label, api_name="predict", **shared)
    hidden.click(api_explain, [picture, model, weights, target], data, api_name="explain", **shared)
    hidden.click(api_compare, [picture, weights], data, api_name="compare", **shared)
    hidden.click(api_models, None, data, api_name="models")
    hidden.click(api_fetch, [model, weights], text, api_name="fetch", concurrency_id="fetch", concurrency_limit=1)


FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none from the network
CONTRAST = {"block_info_text_color": "*neutral_600", "block_info_text_color_dark": "*neutral_300"}  # else 1.9 to 1
CSS = """
.gradio-container main { padding-top: 4px !important; } footer { margin-top: 8px; }
#picture img { line-height: 190px; text-align: center; }
#title { padding: 0; } #title h1 { margin: 0; display: inline; font-size: 20px; }
#title p { display: inline; margin-left: 12px; } #examples .gallery { gap: 4px; }
#notes .html-container, #panel .html-container, #pictures .html-container { padding: 0; }
:is(#notes, #pictures, #panel) [data-testid=status-tracker] > * { display: none; }
@media (max-width: 640px) {
  #left { display: contents; } #right { order: 1; } #examples { order: 2; }
  #notes:has(.problem), #notes:has(.hint) { order: -1; }
}
"""
SAVE_FILE = """(file) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([file.text], { type: "text/plain" }));
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}"""
PASTE = """<script>
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((f) => f.type.startsWith("image/"));
  if (!file) return;
  event.preventDefault();
  document.querySelector("#picture button[aria-label='Remove Image']")?.click();
  const give = (tries) => {
    const input = document.querySelector("#picture input[type=file]");
    if (!input) return tries && setTimeout(give, 50, tries - 1);
    const files = new DataTransfer();
    files.items.add(file);
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  setTimeout(give, 50, 40);
});
</script>"""  # Ctrl+V anywhere on the page, which Gradio itself hears only on its clipboard button


def main() -> None:
    """Starts the server: GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say where; a Space sets them itself."""
    build_demo().launch(
        theme=gr.themes.Default(**FONTS).set(**CONTRAST), css=CSS + page.CSS + detail.CSS, head=PASTE,
        max_file_size=MAX_UPLOAD,
        ssr_mode=False,  # it needs Node, and the page is whole without it
        run_history=False,  # a visitor's pictures are not kept in the browser
        footer_links=["api"],
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
