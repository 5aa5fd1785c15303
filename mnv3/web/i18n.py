"""The page in two languages: English in the code, Simplified Chinese in mnv3/chinese.py, found by the English sentence.

What a program gets, a host reads, or a checkpoint calls itself and its classes stays as it is; so do refusals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import isgeneratorfunction

from .zh import CHINESE

_chinese: ContextVar[bool] = ContextVar("chinese", default=False)  # of whoever is being answered


def say(sentence: str, /, **named: object) -> str:
    """The sentence in the language of whoever is being answered, with what its braces name put in (str.format)."""
    return known(sentence).format(**named)


def known(text: str) -> str:
    """A text that a checkpoint brings, in that language if it is one of ours; anyone else's stays as it is."""
    return CHINESE.get(text, text) if _chinese.get() else text


def wants_chinese(languages: str) -> bool:
    """Whether a browser that sends this Accept-Language has a Chinese page.

    The first one counts, since it is what the browser calls its own, by which Gradio chooses its part's words.
    """
    return languages.strip().lower().startswith("zh")


@contextmanager
def speaking(chinese: bool) -> Iterator[None]:
    """What is said within is in Chinese, or in English."""
    token = _chinese.set(chinese)
    try:
        yield
    finally:
        _chinese.reset(token)


def spoken(languages: Callable[[], str]) -> Callable[[Callable], Callable]:
    """Decorates a handler, whose words are then in the language that `languages()`, an Accept-Language, asks for."""

    def decorate(handler: Callable) -> Callable:
        @wraps(handler)
        def once(*arguments, **named):
            with speaking(wants_chinese(languages())):
                return handler(*arguments, **named)

        @wraps(handler)
        def step_by_step(*arguments, **named):
            answers, chinese = handler(*arguments, **named), wants_chinese(languages())
            while True:
                with speaking(chinese):  # each step may run in another thread
                    try:
                        answer = next(answers)
                    except StopIteration:
                        return
                yield answer

        return step_by_step if isgeneratorfunction(handler) else once

    return decorate
