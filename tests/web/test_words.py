"""The page in Chinese: every sentence has its own, with the same places; and nothing of a page is left in English."""

import ast
import importlib
import re
import threading
from dataclasses import replace
from pathlib import Path
from string import Formatter

import numpy as np
import pytest
from test_page import Page

from mnv3 import explain
from mnv3.checkpoints.registry import IMAGENET, Entry
from mnv3.explanation import batch
from mnv3.explanation.faithfulness import MEASURES, put_to_trial
from mnv3.web import browser
from mnv3.web.i18n import known, say, speaking, spoken, wants_chinese
from mnv3.web.views import block, classes, compare, explore, trust
from mnv3.web.views import models as views_models
from mnv3.web.zh import CHINESE

ROOT = Path(__file__).parents[2]
VIEWS = "explore block compare classes trust models claims".split()
ROOMS = ["mnv3.web.app", "mnv3.web.handlers", *(f"mnv3.web.views.{name}" for name in VIEWS)]
HANZI = re.compile(r"[\u4e00-\u9fff]")


def file_of(room):
    return ROOT / (room.replace(".", "/") + ".py")


def asked_for(room):
    """The sentences that a file says or shows: literals, and the values of its constants, where these are texts."""
    tree, module = ast.parse(file_of(room).read_text()), importlib.import_module(room)
    for call in ast.walk(tree):
        name = getattr(call, "func", None) and getattr(call.func, "id", "")
        if name not in ("say", "known", "I18N", "empty") or not isinstance(call, ast.Call):
            continue
        for part in ast.walk(call.args[0]):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value
            elif isinstance(part, ast.Name):
                value = getattr(module, part.id, None)
                yield from value.values() if isinstance(value, dict) else [value] if isinstance(value, str) else []


OTHERWISE = [  # what no call names: values that are put together, or come from a table in between
    *(measure.title() for measure in MEASURES), trust.FASTER, trust.ALIKE, trust.SLOWER,
    trust.POINTS_ELSEWHERE, trust.KNOWS_MORE, trust.MIDDLE_AS_GOOD, trust.MIDDLE_BETTER,
    "smaller is better", "larger is better", *views_models.SHARES.values(), "test pictures", views_models.VALIDATION,
    "training pictures", "example pictures", "training pictures, without those held out", trust.START,
    "CIFAR-10 as re-encoded JPEGs", IMAGENET, f"ImageNet-21k, then {IMAGENET}",
    f"Pictures, up to {batch.MOST_PICTURES}", "Both say {label} ({said}).", "All say {label} ({said}).",
    *(words for why in browser.REFUSED.values() for words in why.values()),
]  # fmt: skip
IN_PARTS = {"Pictures, up to ", "deletion", "random", "centred"}  # what the search finds besides sentences


def every_sentence():
    found = {sentence for room in ROOMS for sentence in asked_for(room)} - IN_PARTS
    return found | set(OTHERWISE)


def test_every_sentence_has_its_chinese_and_none_is_left_over():
    assert len(every_sentence()) > 200
    assert every_sentence() - set(CHINESE) == set()
    assert set(CHINESE) - every_sentence() == set(), "nothing says these any more"


def places(sentence):
    return sorted((name, form) for _, name, form, _ in Formatter().parse(sentence) if name is not None)


def test_both_sides_fill_in_the_same_places():
    for english, chinese in CHINESE.items():
        assert places(english) == places(chinese), english
        assert re.findall("<.*?>", english) == re.findall("<.*?>", chinese), english
        assert HANZI.search(chinese) or chinese == "0", english


# Whole pages -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def explanations(small_checkpoint, structured):
    picture = (np.clip(structured(1, 40, seed=3)[0].numpy() * 60 + 128, 0, 255)).astype(np.uint8).transpose(1, 2, 0)
    return [replace(explain(small_checkpoint(name), picture), milliseconds=1.5) for name in ("tiny", "other")]


def models(explanation):
    entry = Entry("tiny", "made · up", "small", "Small · made · up", "here", 1.0)
    result = {"top1": 0.5, "n": 100, "pictures": "test pictures"}
    spec = explanation.checkpoint.spec
    log = [{"epoch": k, "train_top1": 0.5, "heldout_top1": 0.5, "train_loss": 1.0} for k in (1, 2)]
    made = [views_models.Model(entry, entry.title, spec, 32, "–", "–", result, log) for _ in range(2)]
    return [*made, views_models.Model(entry, entry.title, spec, 32, "–", "else", result)]


PAGES = {
    "look": lambda e: (
        explore.facts(e[0]) + explore.pictures(e[0], 2) + explore.panel(e[0], 2, (3, block.opened(e[0], 3)))
    ),
    "compare": lambda e: compare.comparison(e),
    "many": lambda e: compare.many([batch.Row("a.png", tuple(e[0].top(1)))], [e[0].checkpoint], 300),
    "classes": lambda e: classes.view(e[0], [], []),
    "trust": lambda e: trust.trust(e[0], 2, put_to_trial(e[0], 2)),
    "models": lambda e: views_models.overview(models(e[0])),
}
NAMES = re.compile(  # what stays: names of networks, files, methods and people, and texts that checkpoints brought
    r"kind \d|tiny|other|made · up|a hundred scenes|Grad-CAM|Squeeze-and-Excitation|BatchNorm|Petsiuk|Adebayo|logit|"
    r"Small|Large|top-1|python -m mnv3\.faithfulness|CSV|JSON|PNG|a\.png|torchvision|timm|train\.py|safetensors"
)


TOLD = {"alt", "title", "aria-label", "data-words", "data-label"}


@pytest.mark.parametrize("kind", PAGES)
def test_nothing_of_a_page_is_left_in_english(kind, explanations):
    def read(chinese):
        with speaking(chinese):
            shown = Page(re.sub(r"<div lang='en'>.*?</div>", "", PAGES[kind](explanations)))
        told = [a[name] for _, a in shown.elements for name in a.keys() & TOLD]
        return " ".join([shown.text, *told])

    left = re.findall(r"(?a)(?<![\w.-])[A-Za-z]{3,}(?![\w.-])", NAMES.sub("", read(True)))  # no word of a file's name
    assert left == [] and HANZI.search(read(True))
    assert not HANZI.search(read(False)), "the English page has none of it"


# Who gets which -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "languages, chinese",
    [("zh-CN,zh;q=0.9,en;q=0.8", True), ("ZH", True), ("zh-TW", True), (" zh", True),
     ("en-US,en;q=0.9,zh;q=0.8", False), ("", False), ("de", False)],
)  # fmt: skip
def test_the_browsers_own_language_counts(languages, chinese):
    assert wants_chinese(languages) is chinese


def test_two_visitors_at_once_are_answered_each_in_their_own():
    """A handler's words, and each step of one that answers in steps, wherever it is run."""
    asked = {"en": "en", "zh": "zh"}
    both = threading.Barrier(2, timeout=30)

    def run(name, said):
        @spoken(lambda: asked[name])
        def handler(sentence):
            both.wait()
            return say(sentence)

        @spoken(lambda: asked[name])
        def steps():
            for _ in range(2):
                both.wait()
                yield say("Close")

        said[name] = [handler("Close"), *steps(), say("Close")]

    said = {}
    threads = [threading.Thread(target=run, args=(name, said)) for name in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {"en": ["Close"] * 4, "zh": [CHINESE["Close"]] * 3 + ["Close"]}


def test_between_the_steps_nothing_is_in_another_language():
    steps = spoken(lambda: "zh")(lambda: (yield say("Close")))()
    assert next(steps) == CHINESE["Close"] and say("Close") == "Close"


def test_a_strangers_text_is_no_pattern():
    with speaking(True):
        assert known("{0.__class__} {") == "{0.__class__} {"
        assert say("{name} says {label} ({share:.0%})", name="{x}", label="{", share=1) == "{x} 判断为 {（100%）"
