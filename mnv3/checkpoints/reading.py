"""Reads untrusted checkpoint folders: every size, name, shape and number is validated before it is used."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor

from ..basics import MAX_LABEL_LENGTH, fits, is_utf8
from ..errors import InputError
from ..images.preprocessing import Preprocessing
from ..nets.factory import network, read_spec
from ..nets.mobilenet import Network
from ..nets.spec import Spec, gated_blocks
from ..nets.tutorial import ArticleSpec
from .checkpoint import (
    CONFIG,
    FORMAT,
    GATES,
    METRICS,
    OF,
    WEIGHTS,
    Checkpoint,
    GateStatistics,
    _json,
    _stamps,
    checked_labels,
    weights_digest,
)

T = TypeVar("T")
MAX_JSON_BYTES = 8_000_000
MAX_HEADER_BYTES = 1_000_000  # of a safetensors file; Large's takes 40,000
MAX_WEIGHT_BYTES = 500_000_000
MAX_MAP = 2**25  # numbers in one map, 134 MB: a causal batch holds L + 2 of them
MAX_PICTURES = 10**12  # behind a statistic
WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name


def read_checkpoint(folder: Path, name: str | None = None) -> Checkpoint:
    """Reads a folder strictly. Raises InputError that names the file, the field or the tensor that is wrong.

    Gates and metrics that name other weights than the folder's are wrong too; older ones name none.
    """
    before = _stamps(folder)
    config = read_config(folder)
    spec, labels, preprocessing = config["spec"], config["labels"], config["preprocessing"]
    model = _empty(spec)
    fill(model, read_tensors(folder / WEIGHTS, model))
    gates, belongs = _read_gates(folder / GATES, spec) if (folder / GATES).is_file() else (None, None)
    metrics = _read_json(folder / METRICS) if (folder / METRICS).is_file() else {}
    owners = {GATES: belongs, METRICS: metrics.pop(OF, None)}
    digest = weights_digest(model.state_dict()) if any(owner is not None for owner in owners.values()) else None
    for file, owner in owners.items():
        if owner is not None and owner != digest:
            raise InputError(f"{file} belongs to other weights than {WEIGHTS}: fetch both from one place, write the "
                             f"folder again with Checkpoint.save, or remove {file}.")  # fmt: skip
    if _stamps(folder) != before:
        raise InputError("The folder was written to while it was read: try again.")
    return Checkpoint(name or config["name"], model, labels, preprocessing, config["data"], gates, metrics)


def read_config(folder: Path) -> dict:
    """config.json as Spec, labels, Preprocessing, name and data; cheap, so the catalogue calls it too."""
    data = _read_json(folder / CONFIG)
    keys = ("format", "name", "data", "spec", "preprocessing", "labels")
    for key in keys:
        if key not in data:
            raise InputError(f"{CONFIG} lacks the key {key!r}: write the folder again with Checkpoint.save.")
    for key in data:
        if key not in keys:
            raise InputError(f"{CONFIG} has a key that is not known here: {key[:60]!r}.")
    if data["format"] != FORMAT:
        raise InputError(f"{CONFIG} has format {str(data['format'])[:40]!r}: this version reads {FORMAT!r}.")
    for key in ("name", "data"):
        if not fits(data[key]):
            raise InputError(f"{CONFIG}: `{key}` must be a text of 1 to {MAX_LABEL_LENGTH} characters.")
    spec = read_spec(data["spec"])
    labels = checked_labels(data["labels"], spec.num_classes)
    preprocessing = Preprocessing.from_dict(data["preprocessing"])
    largest = max(layer.outputs * layer.side**2 for layer in spec.layers(preprocessing.crop))
    if largest > MAX_MAP:
        raise InputError(f"{CONFIG} describes a map of {largest:,} numbers: at most {MAX_MAP:,} can be computed here.")
    return {**data, "spec": spec, "labels": labels, "preprocessing": preprocessing}


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"The folder has no {path.name}: it is not a checkpoint of mnv3.")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise InputError(f"{path.name} has {path.stat().st_size:,} bytes: at most {MAX_JSON_BYTES:,} are read.")
    try:
        data = json.loads(path.read_bytes(), object_pairs_hook=partial(_each_once, path.name))
        _json(data)  # refuses NaN, infinity (1e999 too) and lone surrogates, which could not be written again
    except InputError:
        raise
    except (ValueError, RecursionError):
        raise InputError(f"{path.name} is not valid JSON: fetch or write it again.") from None
    if not isinstance(data, dict):
        raise InputError(f"{path.name} must hold an object, not a {type(data).__name__}.")
    return data


def _each_once(file: str, pairs: list[tuple[str, object]]) -> dict:
    """A JSON object, of which readers otherwise take the first or the last of a key that comes twice, each its own."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise InputError(f"{file} has the key {twice[:100]!r} more than once: write it again with each key once.")
    return found


def build(spec: Spec | ArticleSpec, tensors: Mapping[str, Tensor]) -> Network:
    """The network with these weights as float32, in eval mode. Raises InputError naming a tensor that doesn't fit."""
    model = _empty(spec)
    fill(model, tensors)
    return model


def _empty(spec: Spec | ArticleSpec) -> Network:
    """The network without memory for its weights, in eval mode; making it is what loading spends most time on."""
    with torch.device("meta"):
        return network(spec).eval().requires_grad_(False)


def fill(model: Network, tensors: Mapping[str, Tensor]) -> None:
    """Gives an empty network its weights, as float32. Raises InputError naming a tensor that doesn't fit."""
    tensors = unwrapped(tensors)
    check_names_and_shapes({k: tuple(v.shape) for k, v in tensors.items()}, model)
    state = {}
    for name, value in tensors.items():
        whole = name.endswith("num_batches_tracked")
        if (value.dtype != torch.int64) if whole else not value.is_floating_point():
            raise InputError(f"The tensor {name!r} holds {str(value.dtype)[6:]}: this network needs another kind.")
        # a copy, since safetensors maps the file: were it cut short in place, reading on would end the process
        state[name] = value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
        if not torch.isfinite(state[name]).all():
            raise InputError(f"The tensor {name!r} holds NaN or infinity: this checkpoint's training went wrong.")
    model.load_state_dict(state, strict=True, assign=True)
    model.requires_grad_(False)


def check_names_and_shapes(shapes: Mapping[str, tuple[int, ...]], model: Network) -> None:
    """Refuses a missing, surplus or misshapen tensor by name, before any memory is taken for it."""
    wanted = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    for name in wanted:
        if name not in shapes:
            raise InputError(f"The weights lack the tensor {name!r} that this network needs.")
    for name, shape in shapes.items():
        if name not in wanted:
            raise InputError(f"The weights have a tensor that this network does not: {name[:100]!r}.")
        if shape != wanted[name]:
            raise InputError(f"The tensor {name!r} has shape {shape}: this network needs {wanted[name]}.")


def unwrapped(tensors: Mapping[str, T]) -> dict[str, T]:
    """Names without the prefixes that DistributedDataParallel and torch.compile put before every one of them."""
    tensors = dict(tensors)
    for _ in range(4):
        for prefix in WRAPPERS:
            if tensors and all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def read_tensors(path: Path, model: Network) -> dict[str, Tensor]:
    """The weights of a safetensors file, whose header is held against the network before anything is read."""
    try:
        with _open_safetensors(path, MAX_WEIGHT_BYTES) as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            check_names_and_shapes(unwrapped(shapes), model)
            return {name: file.get_tensor(name) for name in shapes}
    except safetensors.SafetensorError:
        raise InputError(f"{path.name} is cut off or not a safetensors file: fetch it again.") from None


def _open_safetensors(path: Path, most: int, framework: str = "pt"):
    if not is_utf8(str(path)):
        raise InputError(f"{path.name} lies in a folder whose name is no UTF-8 and can't be opened: rename it.")
    if not path.is_file():
        raise InputError(f"The folder has no {path.name}: it is not a whole checkpoint.")
    if path.stat().st_size > most:
        raise InputError(f"{path.name} has {path.stat().st_size:,} bytes: at most {most:,} are read.")
    with open(path, "rb") as file:
        start = file.read(8 + MAX_HEADER_BYTES)
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{path.name} is a Git LFS pointer, not the weights: run 'git lfs pull' in its folder.")
    try:
        (size,) = struct.unpack_from("<Q", start)
        if size > MAX_HEADER_BYTES:
            raise ValueError
        json.loads(start[8 : 8 + size], object_pairs_hook=partial(_each_once, path.name))
    except InputError:
        raise
    except (struct.error, ValueError, RecursionError):  # a header that is cut off is no JSON
        raise InputError(f"{path.name} is cut off or not a safetensors file: fetch it again.") from None
    return safetensors.safe_open(path, framework)


def _read_gates(path: Path, spec: Spec | ArticleSpec) -> tuple[GateStatistics, str | None]:
    """The statistics, and the digest of the weights that they are of, if the file has it."""
    blocks = gated_blocks(spec)
    try:
        with _open_safetensors(path, MAX_WEIGHT_BYTES, "np") as file:
            wanted = {"n": ()} | {f"{kind}.{i}": (b.channels,) for i, b in enumerate(blocks) for kind in ("mean", "m2")}
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(s.get_shape()) for name, s in slices.items()}
            for name, s in slices.items():
                if s.get_dtype() not in ("F32", "F64", "I64"):
                    raise InputError(f"{path.name}: {name[:60]!r} is {s.get_dtype()}: it must be F32, F64 or I64.")
            rows = shapes.get("n", (0,))
            for name in shapes.keys() ^ wanted.keys():
                raise InputError(f"{path.name}: the tensor {name[:60]!r} is missing or not known.")
            for name, tail in wanted.items():
                if rows not in ((1,), (1 + spec.num_classes,)) or shapes[name] != rows + tail:
                    raise InputError(f"{path.name}: {name!r} has shape {shapes[name]}, which doesn't fit this network.")
            arrays = {name: file.get_tensor(name) for name in wanted}
            metadata = file.metadata() or {}
            source = metadata.get("source", "training pictures")[:MAX_LABEL_LENGTH]
    except safetensors.SafetensorError:
        raise InputError(f"{path.name} is cut off or not a safetensors file: fetch it again.") from None
    # of numbers within 0..1 no M2 is larger than n / 4
    most = {"n": MAX_PICTURES, "mean": 1, "m2": 0.2501 * arrays["n"][:, None] + 1e-6}
    for name, array in arrays.items():
        if not ((array >= 0) & (array <= most[name.partition(".")[0]])).all():  # NaN fails it too
            raise InputError(f"{path.name}: {name!r} holds a value that no gate statistic can have.")
    pick = lambda kind: tuple(arrays[f"{kind}.{i}"] for i in range(len(blocks)))  # noqa: E731
    return GateStatistics(arrays["n"], pick("mean"), pick("m2"), source), metadata.get(OF)
