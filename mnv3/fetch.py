"""From the Hugging Face Hub: fetching a checkpoint's files, with time limits, a size limit and sentences."""

from __future__ import annotations

import errno
import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .checkpoints import CONFIG, MAX_JSON_BYTES, MAX_WEIGHT_BYTES, WEIGHTS
from .errors import InputError

TIMEOUT = 10  # seconds without a byte before a server counts as out of reach
TURNS = 3  # how often a Hub that is asked too much is asked
Progress = Callable[[int, int], None]  # bytes done, bytes in all
T = TypeVar("T")


def is_repo_id(name: object) -> bool:
    """Whether it is 'user/repo' as the Hub writes it: nothing else is ever asked for there, least of all a path."""
    part = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
    written = isinstance(name, str) and re.fullmatch(f"{part}/{part}", name)
    return bool(written) and not any(mark in name for mark in ("..", "--")) and not name.endswith(".git")


def limit_patience() -> None:
    """Lets the Hub's client give up after TIMEOUT seconds of silence, and at once where the Hub asks for a longer wait.

    By itself it waits as long as it is told, for an hour in the middle of a request. A host's own client is left alone.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import _http

    def no_long_wait(response) -> None:
        limit, told = _http.parse_ratelimit_headers(response.headers), response.headers.get("Retry-After", "")
        wait = limit.reset_in_seconds if limit and limit.remaining == 0 else int(told) if told.isdecimal() else 0
        if response.status_code == 429 and wait >= TIMEOUT:
            raise HfHubHTTPError("asked too much", response=response)

    def limited():
        client = _http.default_client_factory()
        client.timeout = TIMEOUT
        client.event_hooks = {**client.event_hooks, "response": [*client.event_hooks["response"], no_long_wait]}
        return client

    if _http._GLOBAL_CLIENT_FACTORY is _http.default_client_factory:
        set_client_factory(limited)


def cached(repo: str) -> Path | None:
    """The repo's folder in the Hub cache, if config and weights are there. Touches no network."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repo, file) for file in (CONFIG, WEIGHTS)]
    return Path(found[0]).parent if all(isinstance(path, str) for path in found) else None


def fetch_repo(
    repo: str, files: tuple[str, ...], progress: Progress | None, apart: str | Path | None = None,
    most: int | None = None,
) -> Path:
    """CONFIG and the other `files` that the repo has, in the Hub cache; the cache alone if the Hub is out of reach.

    For a visitor, `apart` is a folder of its own to fetch to, without the host's cache and its token, which may open
    what the visitor may not see. At most `most` bytes, or MAX_WEIGHT_BYTES. File by file, since snapshot_download asks
    for the file list without a time limit. Raises InputError.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import RemoteEntryNotFoundError

    if not is_repo_id(repo):
        raise InputError(f"{repo!r:.80} is not a Hub repo id: it has the form 'user/repo'.")
    limit_patience()
    token = {"token": False} if apart else {}
    where = {"cache_dir": apart, **token}
    try:
        url = hf_hub_url(repo, CONFIG)
        size = _patiently(lambda: get_hf_file_metadata(url, timeout=TIMEOUT, **token)).size or 0
    except RemoteEntryNotFoundError:
        raise InputError(f"{repo} has no {CONFIG}: it is not a checkpoint of mnv3.") from None
    except Exception as error:  # whatever httpx2 raises, and what the Hub refuses
        if not apart and (folder := cached(repo)):
            return folder
        raise InputError(_reason(repo, error, bool(apart))) from None
    if size > MAX_JSON_BYTES:
        raise InputError(f"{repo}'s {CONFIG} has {size:,} bytes: at most {MAX_JSON_BYTES:,} are read.")
    try:
        # by branch, so that the cache knows its commit; the others by that commit, so that they belong together
        config = Path(_patiently(lambda: hf_hub_download(repo, CONFIG, etag_timeout=TIMEOUT, **where)))
        source, others = {"repo_id": repo, "revision": config.parent.name, **where}, [f for f in files if f != CONFIG]
        _fetch_others(source, others, progress, most or MAX_WEIGHT_BYTES)
    except InputError:
        raise
    except Exception as error:
        raise InputError(_reason(repo, error, bool(apart))) from None
    return config.parent


def _fetch_others(source: dict, files: list[str], progress: Progress | None, most: int) -> None:
    """The files that this commit has, once their sizes are known to be within bounds."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    fetch, plan, done = {"etag_timeout": TIMEOUT, **source}, [], 0
    for file in files:
        try:
            plan.append(_patiently(lambda file=file: hf_hub_download(filename=file, **fetch, dry_run=True)))
        except RemoteEntryNotFoundError:
            continue
    size = sum(file.file_size or 0 for file in plan if file.will_download)
    if size > most:
        raise InputError(f"{source['repo_id']} has {size / 1e6:.0f} MB: at most {most / 1e6:.0f} MB are fetched.")
    for file in plan:
        bar = {"tqdm_class": _reporting(progress, done, size)} if progress else {}
        _patiently(lambda file=file, bar=bar: hf_hub_download(filename=file.filename, **fetch, **bar))
        done += (file.file_size or 0) * file.will_download


def _patiently(ask: Callable[[], T]) -> T:
    """ask(), again after a Retry-After of a few seconds; who is told to come back much later is told so at once."""
    for turn in range(1, TURNS + 1):
        try:
            return ask()
        except Exception as error:
            response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
            wait = response.headers.get("Retry-After", "") if response is not None else ""
            if turn == TURNS or response is None or response.status_code != 429 or not re.fullmatch(r"\d", wait):
                raise
            time.sleep(int(wait))


def _reason(repo: str, error: Exception, visitor: bool) -> str:
    """A sentence; a visitor is told nothing that only the host could do."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if isinstance(error, RepositoryNotFoundError) and visitor:  # a gated one is one of these
        return f"{repo} is not among the Hub's public repos: check the spelling, or upload its files instead."
    if visitor and not isinstance(error, HfHubHTTPError):
        return f"{repo} can't be fetched, since the Hub is out of reach from here: upload its files instead."
    if isinstance(error, GatedRepoError):
        return f"{repo} is gated: accept its terms on the Hub, set HF_TOKEN, and try again."
    if isinstance(error, RepositoryNotFoundError):
        return f"{repo} was not found on the Hub: check the spelling, or, if it is private, set HF_TOKEN."
    if isinstance(error, HfHubHTTPError) and error.response.status_code == 429:
        return f"The Hub has had too many requests, so that {repo} can't be fetched now: wait some minutes."
    if isinstance(error, HfHubHTTPError):
        return f"The Hub answered {repo} with status {error.response.status_code}: try again in a few minutes."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return f"{repo} can't be kept, since the cache is full or can't be written: set HF_HOME to a folder with room."
    return f"{repo} is not in the local cache and the Hub can't be reached: check the network and try again."


def _reporting(progress: Progress, before: int, size: int):
    """A tqdm for huggingface_hub that reports bytes to `progress` and draws nothing."""
    from tqdm import tqdm

    class Reporting(tqdm):
        def __init__(self, *args, **kwargs):
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": False, "file": io.StringIO()})

        def update(self, n=1):
            super().update(n)
            progress(before + int(self.n), size)

    return Reporting
