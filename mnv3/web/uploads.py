"""What visitors send: pictures and files, validated before any other code opens them."""

from __future__ import annotations

import base64
import os
from urllib.parse import unquote, unquote_to_bytes

import gradio as gr
from gradio.data_classes import ImageData
from gradio.processing_utils import get_upload_folder
from gradio.utils import is_in_or_equal
from gradio_client.utils import is_http_url_like
from pydantic import model_validator

from .handlers import refusal

SERVED = "/gradio_api/file="  # in the address of an upload, before its path


class PictureData(ImageData):
    """Gradio's image data, which a program may also write as the bare text of a data: URI, as tools over MCP do."""

    @model_validator(mode="before")
    @classmethod
    def written_out(cls, sent):
        if isinstance(sent, str):
            return {"url": sent} if sent.startswith("data:") else {"path": sent}
        return sent if isinstance(sent, dict | ImageData) else {}  # for which as_sent gives no picture


def picture_input(**options) -> gr.Image:
    """gr.Image that hands over the sent file as it is: mnv3.images decodes it, and says in words what is wrong.

    By itself gr.Image opens it by its name's ending, drops alpha and clips 16 bits before our code sees it. Only
    this instance is changed, since a subclass would make Gradio write a stub file beside the source.
    """
    image = gr.Image(type="filepath", image_mode=None, **options)
    image.preprocess, image.data_model = as_sent, PictureData
    return uploads_only(image)


def files_input(**options) -> gr.File:
    """gr.File that hands over (the name a file had, where it lies): mnv3.own says in words what is wrong with it."""
    files = gr.File(file_count="multiple", **options)
    files.preprocess = files_as_sent
    return uploads_only(files)


def uploads_only(component):
    """The component, which fetches no address: Gradio itself would fetch any public one, of any size.

    The address of an upload to this app, which is all that MCP clients have for one, stands for the upload: of it only
    the path is read, whatever the host, and uploaded() still checks where that lies.
    """
    into_cache = component.async_move_resource_to_block_cache

    async def of_this_machine(source):
        if is_http_url_like(str(source)) and SERVED in str(source):
            return await into_cache(uploaded(unquote(str(source).partition(SERVED)[2])))
        if is_http_url_like(str(source)):
            raise refusal("Nothing can be read from an address here: save it as a file and send that.")
        return await into_cache(source)

    component.async_move_resource_to_block_cache = of_this_machine
    return component


def uploaded(path: str) -> str:
    """The path, if Gradio stored an upload there.

    Gradio checks where a file lies only if its sender added a `meta` field, so it is checked here: any file of the
    host could be read otherwise.
    """
    try:
        here = is_in_or_equal(path, get_upload_folder())
    except ValueError:  # a null or half a character, which no path has
        here = False
    if not here:
        raise refusal("This file was not uploaded here: upload it first.")
    return path


def files_as_sent(payload) -> list[tuple[str, str]]:
    """Gradio's file data -> (the name it had, the uploaded file's path) of each."""
    if payload is None:
        return []
    names = (str(sent.orig_name or os.path.basename(sent.path)) for sent in payload.root)
    whole = (name.encode(errors="replace").decode() for name in names)  # half a character can't be sent back
    return [(name, uploaded(sent.path)) for name, sent in zip(whole, payload.root, strict=True)]


def as_sent(payload) -> str | bytes | None:
    """Gradio's image data -> the uploaded file's path, or the bytes of a data: URI."""
    if payload is None:
        return None
    if not (payload.url or "").startswith("data:"):
        return payload.path and uploaded(payload.path)
    about, _, content = payload.url.partition(",")
    try:
        if not about.endswith(";base64"):
            return unquote_to_bytes(content)
        return base64.b64decode(content, validate=True)
    except ValueError:
        return b"?"  # which open_picture refuses in its own words
