"""To the Hugging Face Hub: a checkpoint's folder, published in one commit.

python -m mnv3.hub push FOLDER user/repo [--private]

The token is the one that huggingface_hub finds: HF_TOKEN, or what `hf auth login` stored. Whatever the client raises
is said in words of our own, so that neither the token nor a signed address gets into a log.

Nothing in the package imports this module: `python -m` warns about a module that its package has already loaded.
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from ..basics import TELL_EVERY
from ..errors import InputError
from .card import model_card
from .checkpoint import CARD, FILES
from .download import TIMEOUT, is_repo_id, limit_patience, patiently
from .reading import read_checkpoint

PUBLISHED = (*FILES, "curves.png", "confusion.png")  # not the saved state, nor anything else that lies in the folder
LOGIN = "set HF_TOKEN or run `hf auth login`"


def check_write(repo: str, private: bool = False) -> None:
    """Makes sure, before hours of training, that the token may write to `repo`; makes the repo if there is none.

    Raises InputError: no token, a read-only one, another's namespace, a public repo where a private one is wanted,
    the Hub out of reach.
    """
    try:
        with _client() as api, _telling(lambda: f"asking the Hub whether {repo:.100} may be written to"):
            made_with = patiently(api.whoami).get("auth", {}).get("accessToken", {})
            if made_with.get("role") == "read":
                raise InputError("the token is read-only: make one with write access on the Hub's settings page")
            _open_repo(api, repo, private)
            # create_repo is content with a repo that is there and may not be written to; this asks for the right itself
            patiently(lambda: api.auth_check(repo, write=True))
    except Exception as error:  # whatever httpx2 raises, and what the Hub refuses
        raise InputError(f"{repo!r:.100} can't be published to, since {_reason(repo, error)}.") from None


def push(folder: str | os.PathLike, repo: str, private: bool = False, message: str = "A checkpoint of mnv3") -> str:
    """Publishes the folder's checkpoint in one commit, making the repo if there is none. Returns the commit's URL.

    The folder is only read. Raises InputError: what is no repo id, a folder that is no whole checkpoint, or, with the
    command that tries again, whatever the Hub or the network refuses.
    """
    if not is_repo_id(repo):
        raise InputError(f"{repo!r:.100} is not a Hub repo id: it has the form 'user/repo'.")
    return _send(_contents(Path(folder), repo), folder, repo, private, message, telling=True)


class Pusher:
    """Publishes along the way, in the background: at most one push at a time, and none that fails stops a training."""

    def __init__(self, repo: str, private: bool = False):
        self.repo, self.private = repo, private
        self._thread: threading.Thread | None = None

    def start(self, folder: str | os.PathLike) -> None:
        """Publishes the folder as it is now; it may be written to again at once. Skipped while a push is under way."""
        if self._thread and self._thread.is_alive():
            return
        try:
            contents = _contents(Path(folder), self.repo)
        except InputError as error:
            return self._warn(error)
        # a daemon, so that a network that hangs can't keep an interrupted training from ending
        self._thread = threading.Thread(target=self._run, args=(contents, folder), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until no push is under way."""
        if self._thread:
            self._thread.join()

    def _run(self, contents: dict[str, bytes], folder: str | os.PathLike) -> None:
        try:
            _send(contents, folder, self.repo, self.private, "A checkpoint of mnv3, while it is trained")
        except InputError as error:
            self._warn(error)

    def _warn(self, error: InputError) -> None:
        print(f"mnv3.hub: the training goes on, but: {error}", file=sys.stderr, flush=True)


def _contents(folder: Path, repo: str) -> dict[str, bytes]:
    """What is to be published, by name: read strictly from a copy, so what was checked is what is sent."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder.name!r:.80}: give the folder that train.py or save() wrote.")
    try:
        with tempfile.TemporaryDirectory() as copy:
            for name in PUBLISHED:
                if (folder / name).is_file():
                    shutil.copy(folder / name, copy)
            checkpoint = read_checkpoint(Path(copy))
            contents = {path.name: path.read_bytes() for path in Path(copy).iterdir()}
    except OSError as error:
        raise InputError(f"{folder.name!r:.80} can't be copied to be published: {error.strerror}.") from None
    return contents | {CARD: model_card(checkpoint, repo).encode()}


def _send(
    contents: dict[str, bytes], folder: str | os.PathLike, repo: str, private: bool, message: str, telling: bool = False
) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    sent: dict[str, io.BytesIO] = {}
    try:
        with _client() as api, _telling(lambda: _under_way(repo, sent)) if telling else nullcontext():
            there = _open_repo(api, repo, private)
            # an older checkpoint's gates must not stay beside these weights
            stale = [CommitOperationDelete(name) for name in PUBLISHED if name in there and name not in contents]

            def commit():
                # buffers go by plain HTTP, whose time limits are ours and which the tests can follow; Xet takes only
                # paths. New ones each time, since the client leaves one that it couldn't send at its end
                buffers = {name: io.BytesIO(data) for name, data in sorted(contents.items())}
                files = [CommitOperationAdd(name, buffer) for name, buffer in buffers.items()]
                sent.update(buffers)  # now, since each has been read for its hash, which is no sending
                return api.create_commit(repo, [*files, *stale], commit_message=message)

            return patiently(commit).commit_url
    except Exception as error:  # whatever httpx2 raises, and what the Hub refuses
        again = f"python -m mnv3.hub push {shlex.quote(str(folder))} {shlex.quote(repo)}{' --private' * private}"
        raise InputError(
            f"{repo!r:.100} was not published, since {_reason(repo, error)}; every file is still here, "
            f"and this tries again: `{again}`"
        ) from None


@contextmanager
def _telling(what: Callable[[], str]) -> Iterator[None]:
    """A line on stderr every TELL_EVERY seconds, so that nobody takes a slow network for a hang and stops it."""
    over, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(TELL_EVERY):
            print(f"mnv3.hub: {what()}, {time.monotonic() - began:.0f} s so far", file=sys.stderr, flush=True)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _under_way(repo: str, sent: dict[str, io.BytesIO]) -> str:
    """What is being sent. The client reads a buffer as the network takes it, and puts it back to its start."""
    places = [(name, buffer.tell(), buffer.getbuffer().nbytes) for name, buffer in list(sent.items())]
    parts = [f"{name} {at / 1e6:.1f} of {size / 1e6:.1f} MB" for name, at, size in places if at]
    return f"publishing to {repo:.100}, {', '.join(parts) or 'waiting for the Hub'}"


def _open_repo(api, repo: str, private: bool) -> set[str]:
    """The names of the repo's files, once it is there. Raises InputError and what the client raises."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError

    if not is_repo_id(repo):
        raise HFValidationError
    if not get_token():
        raise LocalTokenNotFoundError
    # None: as the namespace has it by default
    patiently(lambda: api.create_repo(repo, private=private or None, exist_ok=True))
    found = patiently(lambda: api.model_info(repo, timeout=TIMEOUT))
    if private and not found.private:
        raise InputError("the repo is there already and public: make it private on the Hub, or choose another name")
    return {file.rfilename for file in found.siblings or []}


@contextmanager
def _client():
    """The client's API, which soon gives up, and draws and warns nothing."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import are_progress_bars_disabled, logging
    from huggingface_hub.utils import disable_progress_bars as no_bars
    from huggingface_hub.utils import enable_progress_bars as bars_again

    limit_patience()
    # how the client hands bytes to httpx2 is its own business, also where warnings are errors
    warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # its warnings hold signed addresses; what goes wrong in the end is raised
    # its bars would draw over the training's; who set the variable has decided, and the client objects to another word
    bars = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled()
    if bars:
        no_bars()
    try:
        yield HfApi()
    finally:
        logging.set_verbosity(level)
        if bars:
            bars_again()


def _reason(repo: str, error: Exception) -> str:
    """Why, and what to do: the part of a sentence that follows 'since'."""
    import httpx2
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client wraps what stopped the upload of a file
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, HFValidationError):
        return "it is not a Hub repo id: it has the form 'user/repo'"
    if isinstance(error, LocalTokenNotFoundError):
        return f"there is no token: {LOGIN}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE keeps the Hub out: unset it"
    if isinstance(error, HfHubHTTPError):
        return _refusal(repo, error.response.status_code)
    if isinstance(error, OSError | httpx2.HTTPError):
        return "the Hub can't be reached: check the network"
    return f"the Hub or the client's settings are not as expected: {LOGIN}, and try again later"


def _refusal(repo: str, status: int) -> str:
    namespace = repo.split("/")[0]
    if status == 401:
        return f"the Hub does not know the token: {LOGIN}"
    if status in (403, 404):
        return f"the token may not write there: it needs write access, and {namespace!r} must be you or a team of yours"
    if status == 429:
        return "the Hub has had too many requests from you: wait some minutes"
    return f"the Hub answered with status {status}: wait some minutes"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mnv3.hub", description="Publishes checkpoints on the Hub.")
    command = parser.add_subparsers(required=True, metavar="push").add_parser("push", help="publish a folder")
    command.add_argument("folder", type=Path, help="the folder that train.py or save() wrote")
    command.add_argument("repo", metavar="user/repo", help="where to; made if it is not there")
    command.add_argument("--private", action="store_true", help="make that repo a private one")
    given = parser.parse_args(arguments)
    try:
        print(f"published: {push(given.folder, given.repo, given.private)}")
        return 0
    except InputError as error:
        print(f"mnv3.hub: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
