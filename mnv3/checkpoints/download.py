"""From the Hugging Face Hub: fetching a checkpoint's files, with time limits, a size limit and sentences."""

from __future__ import annotations

import errno
import hashlib
import io
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..errors import InputError
from .checkpoint import CONFIG, WEIGHTS
from .reading import MAX_JSON_BYTES, MAX_WEIGHT_BYTES

TIMEOUT = 10  # seconds without a byte before a server counts as out of reach
SLOWEST = 10_000  # bytes of a file a second, over each such time; what comes slower has stopped coming
TURNS = 3  # how often a Hub that is asked too much is asked
Progress = Callable[[int, int], None]  # bytes done, bytes in all
T = TypeVar("T")
_watched = threading.local()  # .pace of the file that this thread fetches
# of a cache that can't be written: full, not ours, read-only, or a file where a folder should be
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class TooSlow(Exception):
    """A file of which too little arrives."""


def is_repo_id(name: object) -> bool:
    """Whether it is 'user/repo' as the Hub writes it: nothing else is ever asked for there, least of all a path."""
    part = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
    written = isinstance(name, str) and re.fullmatch(f"{part}/{part}", name)
    return bool(written) and not any(mark in name for mark in ("..", "--")) and not name.endswith(".git")


def limit_patience() -> None:
    """Lets the Hub's client give up after TIMEOUT seconds of silence, and at once where the Hub asks for a longer wait.

    By itself it waits as long as it is told, for an hour in the middle of a request. A host's own client is left alone.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import _http

    def no_long_wait(response) -> None:
        limit, told = _http.parse_ratelimit_headers(response.headers), response.headers.get("Retry-After", "")
        wait = limit.reset_in_seconds if limit and limit.remaining == 0 else int(told) if told.isdecimal() else 0
        if response.status_code == 429 and wait >= TIMEOUT:
            raise HfHubHTTPError("asked too much", response=response)

    def no_long_silence(request) -> None:
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT)
        if pace := getattr(_watched, "pace", None):
            pace.check()  # the client asks again and again where nothing comes

    def limited():
        client = _http.default_client_factory()
        hooks = client.event_hooks
        client.event_hooks = {"request": [no_long_silence, *hooks["request"]],
                              "response": [*hooks["response"], no_long_wait]}  # fmt: skip
        return client

    if _http._GLOBAL_CLIENT_FACTORY is _http.default_client_factory:
        set_client_factory(limited)
        constants.DOWNLOAD_CHUNK_SIZE = None  # bytes as they come: by itself it tells of every 10 MB


def cached(repo: str) -> Path | None:
    """The repo's folder in the Hub cache, if config and weights are there. Touches no network."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = [try_to_load_from_cache(repo, file) for file in (CONFIG, WEIGHTS)]
    except (OSError, ValueError):  # a cache that may not be read, or whose notes are no text
        return None
    return Path(found[0]).parent if all(isinstance(path, str) for path in found) else None


def damaged(folder: Path) -> str:
    """The name of a file in this folder of the Hub cache that is no longer what was fetched; '' if there is none."""
    return next((path.name for path in sorted(folder.iterdir()) if not _whole(path)), "")


def _whole(path: Path) -> bool:
    """Whether a cached file still has the hash that the cache calls it by; True for a copy, whose name tells none."""
    name = path.resolve().name
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", name):
        return True
    with open(path, "rb") as file:
        if len(name) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest() == name
        data = file.read()  # as Git names it; the Hub does so for small files alone. Some mirrors name the bare bytes
    return name in (hashlib.sha1(start + data).hexdigest() for start in (b"blob %d\0" % len(data), b""))


def fetch_repo(
    repo: str, files: tuple[str, ...], progress: Progress | None, apart: str | Path | None = None,
    most: int | None = None,
) -> Path:
    """CONFIG and the other `files` that the repo has, in the Hub cache; what is there already if they can't be had.

    For a visitor, `apart` is a folder of its own to fetch to, without the host's cache and its token, which may open
    what the visitor may not see. At most `most` bytes, or MAX_WEIGHT_BYTES. File by file, since snapshot_download asks
    for the file list without a time limit. Raises InputError.
    """
    from huggingface_hub.errors import RemoteEntryNotFoundError

    if not is_repo_id(repo):
        raise InputError(f"{repo!r:.80} is not a Hub repo id: it has the form 'user/repo'.")
    limit_patience()
    try:
        return _fetched(repo, files, progress, apart, most or MAX_WEIGHT_BYTES)
    except InputError:
        raise
    except RemoteEntryNotFoundError:
        raise InputError(f"{repo} has no {CONFIG}: it is not a checkpoint of mnv3.") from None
    except Exception as error:  # whatever httpx2 raises, and what the Hub refuses
        reason = _reason(repo, error, bool(apart))
    if apart or not (folder := cached(repo)):
        raise InputError(reason)
    if name := damaged(folder):
        raise InputError(f"{repo}'s {name} in the local cache is damaged and the Hub can't be asked: try again later.")
    return folder


def _fetched(repo: str, files: tuple[str, ...], progress: Progress | None, apart, most: int) -> Path:
    """Asks the Hub for the newest commit and fetches what it has of the files, each whole."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    token = {"token": False} if apart else {}
    source = {"repo_id": repo, "cache_dir": apart, "etag_timeout": TIMEOUT, **token}
    url = hf_hub_url(repo, CONFIG)
    found = patiently(lambda: get_hf_file_metadata(url, timeout=TIMEOUT, **token))
    if (found.size or 0) > MAX_JSON_BYTES:
        raise InputError(f"{repo}'s {CONFIG} has {found.size:,} bytes: at most {MAX_JSON_BYTES:,} are read.")
    folder = _fetch_all({**source, "revision": found.commit_hash}, files, progress, most)
    if not apart:  # by branch and last, so that the cache takes this commit for the newest once it is there whole
        patiently(lambda: hf_hub_download(filename=CONFIG, **source))
    return folder


def _fetch_all(source: dict, files: tuple[str, ...], progress: Progress | None, most: int) -> Path:
    """The folder of this commit with what it has of the files, once their sizes are known to be within bounds."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    fetch, plan, done = partial(hf_hub_download, **source), [], 0
    for name in files:
        ask = partial(fetch, filename=name, dry_run=True)
        try:
            file = patiently(ask)
        except RemoteEntryNotFoundError:
            if name == CONFIG:
                raise
            continue
        if not file.will_download and not _whole(path := Path(file.local_path)):
            path.resolve().unlink()
            file = patiently(ask)
        plan.append(file)
    size = sum(file.file_size or 0 for file in plan if file.will_download)
    if size > most:
        raise InputError(f"{source['repo_id']} has {size / 1e6:.0f} MB: at most {most / 1e6:.0f} MB are fetched.")
    for file in plan:
        pace = _watched.pace = _Pace()
        try:
            path = patiently(partial(fetch, filename=file.filename, tqdm_class=_reporting(progress, done, size, pace)))
        finally:
            _watched.pace = None
        done += (file.file_size or 0) * file.will_download
    return Path(path).parent


class _Pace:
    """How fast a file comes, over all tries to get it; what comes a second time counts for nothing."""

    def __init__(self):
        self.since, self.at_least = time.monotonic(), SLOWEST * TIMEOUT
        self.here = self.most = 0

    def check(self, more: int = 0) -> None:
        """`more` bytes are here. Raises TooSlow after TIMEOUT seconds that brought too few."""
        self.here += more
        self.most = max(self.most, self.here)
        if (now := time.monotonic()) - self.since <= TIMEOUT:
            return
        if self.most < self.at_least:
            raise TooSlow
        self.since, self.at_least = now, self.most + SLOWEST * TIMEOUT


def patiently(ask: Callable[[], T]) -> T:
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
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    if isinstance(error, RepositoryNotFoundError) and visitor:  # a gated one is one of these
        return f"{repo} is not among the Hub's public repos: check the spelling, or upload its files instead."
    if isinstance(error, TooSlow):
        return f"{repo} hardly comes in, less than {SLOWEST // 1000} kB of it a second: try again later."
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
    if isinstance(error, OfflineModeIsEnabled):
        return f"{repo} is not in the local cache and HF_HUB_OFFLINE keeps the Hub out: unset it and try again."
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return f"{repo} can't be kept, since the cache is full or can't be written: set HF_HOME to a folder with room."
    return f"{repo} is not in the local cache and the Hub can't be reached: check the network and try again."


def _reporting(progress: Progress | None, before: int, size: int, pace: _Pace):
    """A tqdm for huggingface_hub that holds a file to its pace, reports bytes to `progress`, and draws nothing."""
    from tqdm import tqdm

    class Reporting(tqdm):
        monitor_interval = 0  # else a thread for each such class, for ever

        def __init__(self, *args, **kwargs):
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": False, "file": io.StringIO()})

        def update(self, n=1):
            super().update(n)
            pace.check(n)
            if progress:
                progress(before + int(self.n), size)

    return Reporting
