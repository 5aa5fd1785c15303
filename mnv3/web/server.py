"""The HTTP server around Gradio: limits, clean-up, and what hosts need."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec

import gradio as gr
from anyio import to_thread
from gradio.processing_utils import get_upload_folder
from gradio.route_utils import delete_files_created_by_app
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from mnv3.errors import InputError

from . import selection

MAX_BODY = 80_000_000  # bytes of any other request: as a data: URI an upload grows by a third
UNUSED = (  # paths that the page doesn't use: Gradio would fetch an address, or write to disk what nothing deletes
    "/gradio_api/file=http", "/gradio_api/file/http", "/gradio_api/process_recording", "/gradio_api/deep_link",
    "/monitoring",
)  # fmt: skip
KEEP_FILES = (3600, 3600)  # seconds between clean-ups, age of what is deleted


def satisfy_zero_gpu() -> None:
    """Declares a GPU function where a Space runs on ZeroGPU, which starts none without; these networks need no GPU.

    It is never called, so it takes none of anyone's GPU time. The `spaces` package is there and nowhere else.
    """
    if os.environ.get("SPACES_ZERO_GPU"):
        import spaces

        spaces.GPU(duration=1)(lambda: None)


def mcp_wanted() -> bool:
    """Whether the host wants MCP tools as well. Raises InputError where Gradio's extra for them is not installed."""
    wanted = selection.host_settings().mcp
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
