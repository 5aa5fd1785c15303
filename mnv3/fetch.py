"""From the Hugging Face Hub: fetching a checkpoint's files, with time limits, a size limit and sentences."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from pathlib import Path

from .checkpoints import CONFIG, MAX_JSON_BYTES, MAX_WEIGHT_BYTES, WEIGHTS
from .errors import InputError

TIMEOUT = 10  # seconds without a byte before a server counts as out of reach
Progress = Callable[[int, int], None]  # bytes done, bytes in all


def cached(repo: str) -> Path | None:
    """The repo's folder in the Hub cache, if config and weights are there. Touches no network."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repo, file) for file in (CONFIG, WEIGHTS)]
    return Path(found[0]).parent if all(isinstance(path, str) for path in found) else None


def fetch_repo(repo: str, files: tuple[str, ...], progress: Progress | None) -> Path:
    """CONFIG and the other `files` that the repo has, in the Hub cache; the cache alone if the Hub is out of reach.

    File by file, since snapshot_download asks for the file list without a time limit. Raises InputError.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError

    try:
        size = get_hf_file_metadata(hf_hub_url(repo, CONFIG), timeout=TIMEOUT).size or 0
    except HFValidationError:
        raise InputError(f"{repo!r:.80} is not a Hub repo id: it has the form 'user/repo'.") from None
    except RemoteEntryNotFoundError:
        raise InputError(f"{repo} has no {CONFIG}: it is not a checkpoint of mnv3.") from None
    except Exception as error:  # whatever httpx2 raises, and what the Hub refuses
        if folder := cached(repo):
            return folder
        raise InputError(_reason(repo, error)) from None
    if size > MAX_JSON_BYTES:
        raise InputError(f"{repo}'s {CONFIG} has {size:,} bytes: at most {MAX_JSON_BYTES:,} are read.")
    try:
        # by branch, so that the cache knows its commit; the others by that commit, so that they belong together
        config = Path(hf_hub_download(repo, CONFIG, etag_timeout=TIMEOUT))
        _fetch_others(repo, config.parent.name, [file for file in files if file != CONFIG], progress)
    except InputError:
        raise
    except Exception as error:
        raise InputError(_reason(repo, error)) from None
    return config.parent


def _fetch_others(repo: str, commit: str, files: list[str], progress: Progress | None) -> None:
    """The files that this commit has, once their sizes are known to be within bounds."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    fetch, plan, done = {"repo_id": repo, "revision": commit, "etag_timeout": TIMEOUT}, [], 0
    for file in files:
        try:
            plan.append(hf_hub_download(filename=file, **fetch, dry_run=True))
        except RemoteEntryNotFoundError:
            continue
    size = sum(file.file_size or 0 for file in plan if file.will_download)
    if size > MAX_WEIGHT_BYTES:
        raise InputError(f"{repo} has {size / 1e6:.0f} MB: at most {MAX_WEIGHT_BYTES / 1e6:.0f} MB are fetched.")
    for file in plan:
        bar = {"tqdm_class": _reporting(progress, done, size)} if progress else {}
        hf_hub_download(filename=file.filename, **fetch, **bar)
        done += (file.file_size or 0) * file.will_download


def _reason(repo: str, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return f"{repo} is gated: accept its terms on the Hub, set HF_TOKEN, and try again."
    if isinstance(error, RepositoryNotFoundError):
        return f"{repo} was not found on the Hub: check the spelling, or, if it is private, set HF_TOKEN."
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
