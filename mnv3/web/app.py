"""mnv3, the app: what MobileNetV3 sees in a picture, and what its SE attention did. Run: python app.py

build_demo() is thin: handlers turn inputs into an Explanation (mnv3.explain) and that into HTML (mnv3.page).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import gradio as gr
from starlette.middleware import Middleware

from mnv3.errors import InputError

from ..explanation import batch
from ..inference import reference
from . import api, browser, selection
from .handlers import (
    START,
    _inside,
    _selected,
    class_view,
    compare_many,
    fetch,
    fetch_button,
    fetch_here,
    gates_file,
    models_overview,
    open_files,
    open_repo,
    sentences,
    show,
    test_map,
    tested_map,
    weights_list,
)
from .server import Bounded, cleaning, disk_full, mcp_wanted, satisfy_zero_gpu
from .uploads import files_input, picture_input
from .views import block as views_block
from .views import classes, explore, trust
from .zh import CHINESE

MAX_UPLOAD = "50mb"
QUEUE = 32  # visitors who may wait; more are told that the app is busy
AT_ONCE = 2  # explanations at a time; others wait in the queue
SESSIONS = 300  # Gradio keeps what each last saw, half a megabyte; of more than these the longest unused is forgotten
USE_OWN = "Use my own: a repo of the Hub, or the files of a folder that train.py wrote"
OWN = (
    "Only you see what you open here, and it goes when others need the room. Weights are read as safetensors, never as "
    "pickles."
)
MANY = (
    f"Choose up to {batch.MOST_PICTURES} pictures, or none to compare the examples: each gets a row with what every "
    "checkpoint says, disagreements first."
)
KNOWS = "What the network was trained on decides what it can name."
ABOUT = "What MobileNetV3 sees in your picture, and what its attention did to it."
WHOLE = {english: words for english, words in CHINESE.items() if "{" not in english}  # the browser fills in nothing
I18N = gr.I18n(**dict.fromkeys(("zh", "zh-CN", "zh-TW"), WHOLE))


def empty(sentence: str) -> str:
    """An empty state that is there before any handler ran: the browser puts its language's words in."""
    return explore.hint("{}").format(I18N(sentence))


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
                            pictures = gr.HTML("", elem_id="pictures", js_on_load=views_block.SCRIPT)
                    notes = gr.HTML(empty(START), elem_id="notes")
                    panel = gr.HTML("", elem_id="panel", js_on_load=views_block.SCRIPT)
                with gr.Tab(I18N("Compare"), id="compare") as compare_tab:
                    columns = _columns(mine)
                    _many(weights, columns)
                    comparison = gr.HTML(empty(START), elem_id="comparison", js_on_load=views_block.SCRIPT)
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
    family = selection.default_family()
    variant = next(variant for variant in selection.variants() if family in selection.families(variant))
    image = picture_input(label=I18N("Picture"), height=230, elem_id="picture",
                          sources=["upload", "clipboard", "webcam"], buttons=[],
                          alt_text=I18N("Your picture"))  # fmt: skip
    model = gr.Radio(selection.variants(), value=variant, label=I18N("Model"), elem_id="model",
                     info=I18N("Large costs nearly four times as many multiply-adds."))  # fmt: skip
    weights = gr.Dropdown(selection.families(variant), value=family, label=I18N("Weights"), elem_id="weights",
                          info=I18N(KNOWS))  # fmt: skip
    # before all other listeners of `model`: the browser awaits it, so none gets a pair that doesn't fit
    model.input(weights_list, [model, weights, mine], weights, **QUIET)
    fetch_weights = gr.Button(I18N("Fetch weights"), visible=False, elem_id="fetch")
    button = gr.Button(I18N("Explain"), variant="primary", elem_id="explain")
    examples = gr.Examples([[str(path)] for path in reference.example_pictures()], image, label=I18N("Examples"),
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
    columns = gr.Dropdown(selection.comparable([]), label=I18N("Checkpoints"), multiselect=True, max_choices=batch.MOST,
                          allow_custom_value=True, elem_id="columns",
                          info=I18N("Two to four; Large and Small of the chosen weights while empty."))  # fmt: skip
    mine.change(lambda mine: gr.Dropdown(choices=selection.comparable(mine)), mine, columns, api_visibility="private")
    return columns


def _many(weights, columns) -> None:
    """Many pictures at once: what is compared is what the columns above are."""
    with gr.Accordion(I18N("Many pictures at once"), open=False, elem_id="many"):
        files = files_input(label=I18N(f"Pictures, up to {batch.MOST_PICTURES}"), height=150, elem_id="many-files")
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
    shown = gr.HTML(empty(trust.START), elem_id="trust", min_height=120)
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
    if selection.host_settings().own:
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
    if selection.host_settings().own:
        outputs = [said, mine, model, weights]
        shared = {**private, "concurrency_id": "own", "concurrency_limit": AT_ONCE}
        for opened_own in (fetching.click(open_repo, [repo, model, mine], outputs, **shared),
                           opening.click(open_files, [files, model, mine], outputs, **shared)):  # fmt: skip
            opened_own.then(models_overview, mine, overview, **private)


def _endpoints(family: str) -> None:
    """/predict, /explain, /compare, /trust, /models and /fetch for programs; only the picture has no default."""
    shared = {"concurrency_id": "network", "concurrency_limit": AT_ONCE}
    picture = picture_input(label="image", visible=False)
    model = gr.Textbox("Large", label="model: Large or Small", visible=False)
    weights = gr.Textbox(family, label="weights", visible=False)
    top_k = gr.Number(5, label="top_k", visible=False)
    target = gr.Textbox("", label="target class, the likeliest if empty", visible=False)
    checkpoints = gr.Dropdown([entry.name for entry in selection.offered()], value=[], multiselect=True, visible=False,
                              allow_custom_value=True, label="checkpoints")  # fmt: skip
    label, data, text = gr.Label(visible=False), gr.JSON(visible=False), gr.Textbox(visible=False)
    hidden = gr.Button(visible=False)
    hidden.click(sentences(api.predict), [picture, model, weights, top_k], label, api_name="predict", **shared)
    hidden.click(sentences(api.explain), [picture, model, weights, target], data, api_name="explain", **shared)
    hidden.click(sentences(api.compare), [picture, weights, checkpoints], data, api_name="compare", **shared)
    hidden.click(sentences(api.trust), [picture, model, weights, target], data, api_name="trust", **shared)
    hidden.click(api.models, None, data, api_name="models")
    hidden.click(fetch, [model, weights], text, api_name="fetch", concurrency_id="fetch", concurrency_limit=1)


FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none from the network
CONTRAST = {"block_info_text_color": "*neutral_600", "block_info_text_color_dark": "*neutral_300",
            "button_primary_background_fill": "*primary_700", "button_primary_background_fill_dark": "*primary_700",
            "button_primary_background_fill_hover": "*primary_800",
            "button_primary_background_fill_hover_dark": "*primary_800"}  # else 1.9 and 2.8 to 1


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

