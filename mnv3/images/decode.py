"""A file someone sent -> a safe RGB picture -> the checkpoint's input tensor.

    picture = open_picture("cat.heic")        # InputError: HEIC pictures can't be read here: ...
    picture = open_picture("cat.jpg")         # PIL, mode RGB, upright, opaque, no metadata
    tensor = preprocessing(picture)           # torch.float32 (3, crop, crop)

The app, the command line and training all come through here, so a picture looks the same to a
network wherever it comes from. What a picture shows is what a viewer shows: EXIF orientation
applied, transparency laid on white, 16 bits scaled to 8, embedded RGB profiles turned to sRGB.
"""

from __future__ import annotations

import io
import os
import re
import struct
import time
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from ..errors import InputError

# What Pillow may open, and up to how many megapixels. The slow or memory-hungry decoders get
# less, so that each stays near 2 s and 300 MB. Never EPS (it runs ghostscript) or exotic kinds.
MEGAPIXELS = {
    "JPEG": 40,
    "PNG": 40,
    "WEBP": 12,
    "GIF": 40,
    "BMP": 40,
    "TIFF": 40,
    "AVIF": 16,
    "JPEG2000": 8,
    "PPM": 40,
    "ICO": 40,
}
LZMA_MEGAPIXELS = 16  # of a TIFF so compressed, which libtiff unpacks in one go
READABLE = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, PPM or ICO"
MAX_MEGAPIXELS = max(MEGAPIXELS.values())
MAX_SIDE = 65_535  # JPEG's own limit; Pillow's table of row pointers is bounded by it
MAX_BYTES = 50_000_000  # of a file
MAX_KIND_BYTES = {"AVIF": 20_000_000, "JPEG2000": 6_000_000}  # 0.07 and 0.19 s a MB, and nothing stops these decoders
MAX_PROFILE_BYTES = 1_000_000  # of an ICC profile; a larger one is ignored
FLOAT_TAGS = re.compile(rb"[DB]2[BD][0-3]")  # of ICC profiles: their elements are unbounded in number, so not applied
MAX_TAGS = 1_000  # of EXIF's first directory: each may point at the same long value
DECODE_SECONDS = 1.5  # of processor time, see _Metered
SLOW = f"This picture takes more than {DECODE_SECONDS:g} s to decode: save it again as JPEG or PNG."
HALVED_ABOVE = 16_000_000  # pixels; larger pictures come back at half size to bound memory
SCALED_ABOVE = 2_000_000  # below it decoding is quick, and every pixel is taken
STRIP_PIXELS = 1_000_000  # converted at a time, for the same reason
MAX_ASPECT = 8  # beyond it only the part that is seen is resized: see Preprocessing.picture
MAX_PARTS = {"TIFF": 65_536, "JPEG 2000": 4_096}  # strips or tiles
WHITE = (255, 255, 255)
# (offset, signature, what it is); looked at only where Pillow can't open the file.
SIGNATURES = [
    (0, b"\xff\xd8", "JPEG"), (0, b"\x89PNG", "PNG"), (0, b"GIF8", "GIF"), (8, b"WEBP", "WebP"),
    (0, b"II*\0\x10\0\0\0CR", "camera raw"), (0, b"IIRO", "camera raw"), (0, b"IIRS", "camera raw"),
    (0, b"IIU\0", "camera raw"), (0, b"MMOR", "camera raw"), (0, b"FUJIFILMCCD-RAW", "camera raw"),
    (0, b"FOVb", "camera raw"), (4, b"ftypcrx", "camera raw"), (0, b"II\xbc", "JPEG XR"),
    (0, b"BM", "BMP"), (0, b"II*\0", "TIFF"), (0, b"MM\0*", "TIFF"), (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"), (4, b"ftypavi", "AVIF"),
    (0, b"\xffO\xffQ", "JPEG 2000"), (4, b"jP  ", "JPEG 2000"), (0, b"\0\0\1\0", "ICO"),
    *[(4, b"ftyp" + brand, "HEIC") for brand in (b"hei", b"hev", b"mif1", b"msf1")],
    *[(4, box, "video") for box in (b"ftyp", b"moov", b"mdat", b"wide")],
    *[(0, start, "video") for start in (b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"FLV\1", b"0&\xb2u")],
    (8, b"AVI ", "video"), (8, b"WAVE", "sound"), (0, b"OggS", "sound"), (0, b"ID3", "sound"), (0, b"fLaC", "sound"),
    (0, b"RIFF", "WebP"), (0, b"%PDF", "PDF"), (0, b"PK\3\4", "ZIP"), (0, b"PK\5\6", "ZIP"),
    (0, b"\x1f\x8b", "gzip"), (0, b"Rar!", "RAR"), (0, b"7z\xbc\xaf", "7-Zip"), (0, b"\xfd7zXZ", "xz"),
    (0, b"BZh", "bzip2"), (0, b"(\xb5/\xfd", "Zstandard"), (257, b"ustar", "tar"),
    (0, b"\xd0\xcf\x11\xe0", "Office"), (0, b"{\\rtf", "RTF"), (0, b"AT&TFORM", "DjVu"), (128, b"DICM", "DICOM"),
    (0, b"8BPS", "Photoshop"), (0, b"gimp xcf", "GIMP"), (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"), (0, b"\xff\n", "JPEG XL"), (4, b"JXL ", "JPEG XL"),
    (0, b"v/1\1", "OpenEXR"), (0, b"#?R", "Radiance"), (0, b"qoif", "QOI"), (0, b"DDS ", "DDS"), (0, b"icns", "ICNS"),
    (0, b"\x8aMNG", "MNG"), (0, b"SIMPLE  =", "FITS"), (40, b" EMF", "EMF"), (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (0, b"\0\0\2\0", "cursor"), (0, b"version https://git-lfs", "Git LFS pointer"),
]  # fmt: skip
TRANSPOSE = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientation -> Image.Transpose


def open_picture(source, enough=None):
    """Read `source` as an upright, opaque 8-bit picture.

    source: str or Path of a local file, bytes, binary file object, PIL image, or NumPy array
        (H,W), (H,W,1), (H,W,3) or (H,W,4) of bool, uint8, uint16, or float in 0..1.
    enough: pixels that the shorter side needs, as Preprocessing.enough says; a JPEG of more than
        SCALED_ABOVE pixels may then come a half, a quarter or an eighth as large, which its decoder does
        in a fraction of the time.
    Returns a fully loaded PIL image in mode RGB that carries no metadata; the first frame of an
        animation; at half size above HALVED_ABOVE pixels. The caller's image isn't changed.
    Raises InputError, one sentence without any path, for whatever can't be read.
    """
    if source is None:
        raise InputError("No picture was given: upload, paste or take one first.")
    kind, began = "", time.thread_time()
    try:
        if isinstance(source, Image.Image):
            image = source
            _check_size(image.size)
        elif isinstance(source, np.ndarray):
            image = _from_array(source)
        else:
            data = _read(source)
            kind = _kind(data)
            image = _open(data, kind, enough)
        image.load()
        return _upright_rgb(image)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = int(re.search(r"\d+|$", str(error)).group() or 0)
        raise InputError(_too_large(f"{pixels / 1e6:.0f} megapixels")) from None
    except Exception:  # on hostile bytes Pillow's decoders raise nearly anything; some take _Metered's for an end
        slow = time.thread_time() - began > DECODE_SECONDS
        raise InputError(SLOW if slow else _damaged(kind)) from None


def _damaged(kind):
    return (f"This {kind + ' ' if kind else ''}picture is incomplete or damaged: "
            "send the whole file, or save it again as JPEG or PNG.")  # fmt: skip


def _unreadable(kind):
    name = {"": "Files of this kind", "HEIC": "HEIC pictures"}.get(kind, f"{kind} files")
    return (f"{name[0].upper()}{name[1:]} can't be read here: save the picture as JPEG or PNG "
            f"(what can be read: {READABLE}).")  # fmt: skip


def _too_large(size, limit=f"{MAX_MEGAPIXELS} megapixels"):
    return f"This picture is too large ({size}, at most {limit} can be read here): save it smaller."


def _read(source):
    """All bytes of a path, bytes-like or file object; InputError where there are none or too many."""
    try:
        if isinstance(source, bytes | bytearray | memoryview):
            data = bytes(source)
        elif isinstance(source, str | os.PathLike):
            name = os.fsdecode(source)
            if address := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", name):
                raise InputError(f"A picture can't be read from an address ({address[1][:10]}:...): "
                                 "save it as a file and give that.")  # fmt: skip
            if not os.path.isfile(name):  # nor a device or pipe, which might never end
                raise InputError("There is no picture file of that name: choose one that exists.")
            with open(name, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        elif hasattr(source, "read"):
            data = _read_all(source)
        else:
            raise InputError(f"A {type(source).__name__} is not a picture: give a file, bytes, "
                             "a Pillow image or a NumPy array.")  # fmt: skip
    except InputError:
        raise
    except Exception:  # permissions, a null in the name, a closed file, whatever a file object raises
        raise InputError("The picture's file can't be read: choose another one.") from None
    if not data:
        raise InputError("The picture's file is empty (0 bytes): choose another one.")
    if len(data) > MAX_BYTES:
        raise InputError(_too_large(f"over {MAX_BYTES // 10**6} MB", f"{MAX_BYTES // 10**6} MB"))
    return data


def _read_all(file):
    if not hasattr(file, "seekable") or file.seekable():
        file.seek(0)
    parts, size = [], 0
    while size <= MAX_BYTES and (part := file.read(MAX_BYTES + 1 - size)):
        if not isinstance(part, bytes):
            raise InputError("The file is open as text: open it in binary mode ('rb').")
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _kind(data):
    """What the bytes are, in a word; "" where nothing is recognised."""
    for offset, signature, kind in SIGNATURES:
        if data.startswith(signature, offset):
            return kind
    head = data[:4096].replace(b"\0", b"").lower()  # so UTF-16 reads as well
    for mark, kind in ((b"<svg", "SVG"), (b"<!doctype html", "HTML"), (b"<html", "HTML")):
        if mark in head:
            return kind
    return "PPM" if re.match(rb"P[1-7fF]\s", data) else ""


class _Metered(io.BytesIO):
    """Bytes that stop giving once the decoder reading them has used up its processor time.

    Pillow walks some files piece by piece (text and profile chunks, comments, progressive scans),
    and a few kB can ask for minutes of it. Processor time, so a busy machine refuses no more.
    """

    def __init__(self, data):
        super().__init__(data)
        self.deadline = time.thread_time() + DECODE_SECONDS

    def read(self, *size):
        if time.thread_time() > self.deadline:
            raise InputError(SLOW)
        return super().read(*size)


def _open(data, kind, enough=None):
    """The picture's header, checked, with its pixels not decoded yet; InputError."""
    if kind == "ICO":  # the one kind that Pillow decodes while it opens it
        for size in _icon_sizes(data):
            _check_size(size, "ICO")
    if kind in MAX_PARTS:  # each costs memory, long before there are as many pixels
        parts = (_tiff_parts if kind == "TIFF" else _jpeg2000_tiles)(data)
        if parts > MAX_PARTS[kind]:
            raise InputError(_too_large(f"in {parts} parts", f"{MAX_PARTS[kind]} parts"))
    try:
        image = Image.open(_Metered(data), formats=list(MEGAPIXELS))
    except UnidentifiedImageError:
        if kind and kind in READABLE:
            raise InputError(_damaged(kind)) from None
        if kind == "Git LFS pointer":
            raise InputError("This is a Git LFS pointer, not the picture it stands for: "
                             "run 'git lfs pull' and send the file again.") from None  # fmt: skip
        raise InputError(_unreadable(kind)) from None
    if kind == "camera raw" or _holds_raw(image):
        raise InputError(_unreadable("camera raw"))
    _check_size(image.size, "lzma" if image.info.get("compression") == "lzma" else image.format)
    _check_size(getattr(image, "_tile_size", (1, 1)), image.format)  # a TIFF's tiles may be larger
    most = MAX_KIND_BYTES.get(image.format, MAX_BYTES)
    if len(data) > most:
        raise InputError(_too_large(f"{len(data) / 1e6:.1f} MB", f"{most // 10**6} MB of its kind"))
    if image.format in ("JPEG", "MPO"):
        image.decodermaxblock = 2048  # smaller bites, so that _Metered sees scans piled in a few kB
        scale = _scale(image.size, enough)
        image.draft(None, (image.width // scale, image.height // scale))
    _mend_transparency(image)
    _mend_planes(image)
    return image


def _holds_raw(image):
    """Whether a TIFF is a camera's raw file, whose first page is only a thumbnail of what a viewer shows."""
    tags = getattr(image, "tag_v2", {})
    return 50706 in tags or tags.get(254) == 1 and 330 in tags  # DNG's version; a small page with others inside


def _scale(size, enough):
    """What a JPEG's sides are divided by while it is decoded: 1, 2, 4 or 8."""
    pixels, least = size[0] * size[1], 2 if size[0] * size[1] > HALVED_ABOVE else 1
    if not enough or pixels <= SCALED_ABOVE:
        return least
    return max(least, next((scale for scale in (8, 4, 2) if min(size) >= scale * enough), 1))


def _icon_sizes(data):
    (count,) = struct.unpack_from("<H", data, 4)
    for entry in range(count):
        (at,) = struct.unpack_from("<I", data, 6 + 16 * entry + 12)
        if data.startswith(b"\x89PNG", at):
            yield struct.unpack_from(">II", data, at + 16)
        else:
            width, height = struct.unpack_from("<ii", data, at + 4)
            yield abs(width), abs(height) // 2


def _tiff_parts(data):
    """The most numbers that any tag of a TIFF's first page lists: its strips or tiles, as a rule."""
    lengths = (length for _, type_, length in _first_directory(data) if type_ not in (1, 2, 7))
    return max(lengths, default=0)  # but for bytes and text


def _first_directory(data):
    """(tag, type, length) of each entry in the first directory of a TIFF, or of EXIF, which is one; struct.error."""
    order = "<" if data.startswith(b"II") else ">"
    entry, first = order + "HHI4x", order + "H"
    (at,) = struct.unpack_from(order + "I", data, 4)
    if data[2:4] in (b"+\0", b"\0+"):  # BigTIFF
        entry, first = order + "HHQ8x", order + "Q"
        (at,) = struct.unpack_from(order + "Q", data, 8)
    (count,) = struct.unpack_from(first, data, at)
    at += struct.calcsize(first)
    page = data[at : at + min(count, 65_535) * struct.calcsize(entry)]
    page = page[: len(page) // struct.calcsize(entry) * struct.calcsize(entry)]
    return list(struct.iter_unpack(entry, page))


def _jpeg2000_tiles(data):
    width, height, left, top, across, down = struct.unpack_from(
        ">6I", data, data.index(b"\xffO\xffQ") + 8)  # fmt: skip
    return -(-width // max(across, 1)) * -(-height // max(down, 1))


def _check_size(size, kind="JPEG"):
    width, height = size
    if width < 1 or height < 1:
        raise InputError(f"The picture is {width}x{height} pixels: give one of at least 1x1.")
    if max(size) > MAX_SIDE:
        raise InputError(_too_large(f"{width}x{height} pixels", f"{MAX_SIDE} pixels a side"))
    limit = LZMA_MEGAPIXELS if kind == "lzma" else MEGAPIXELS.get(kind, MAX_MEGAPIXELS)
    if width * height > limit * 1_000_000:
        raise InputError(_too_large(f"{width}x{height} pixels", f"{limit} megapixels"))


def _mend_transparency(image):
    """Bring a PNG's transparent colour to the 8 bits of its pixels, which Pillow doesn't do."""
    clear = image.info.get("transparency")
    depth = image.tile[0][3] if image.format == "PNG" and image.tile else None
    if depth in ("L;2", "L;4") and isinstance(clear, int):
        image.info["transparency"] = clear * {"L;2": 85, "L;4": 17}[depth]
    elif depth == "RGB;16B" and isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _mend_planes(image):
    """Let a TIFF's uncompressed planes of 16 bits be read so: Pillow takes each of their bytes for a pixel."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(284) == 2 and tags.get(258, (1,))[0] == 16:  # one colour after the other; bits of a sample
        order = "L" if tags.prefix == b"II" else "B"
        image.tile = [
            tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:])) if tile.codec_name == "raw" else tile
            for tile in image.tile
        ]


def _from_array(array):
    """(H,W), (H,W,1), (H,W,3) or (H,W,4) of bool, uint8, uint16, float in 0..1 -> PIL image."""
    if array.ndim not in (2, 3) or array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        raise InputError(f"An array of shape {array.shape} is not a picture: "
                         "give (H,W), (H,W,1), (H,W,3) or (H,W,4).")  # fmt: skip
    _check_size(array.shape[1::-1])
    if array.dtype.kind == "f":
        low, high = array.min(), array.max()
        if not (-0.001 <= low and high <= 1.001):  # NaN fails it too; resizing overshoots a little
            raise InputError(f"The array's numbers reach from {low:.4g} to {high:.4g}: "
                             "scale them to 0..1, or give uint8.")  # fmt: skip
    elif array.dtype.kind != "b" and array.dtype.name not in ("uint8", "uint16"):
        raise InputError(f"An array of {array.dtype.name} is not a picture: "
                         "give uint8, uint16, bool, or float in 0..1.")  # fmt: skip
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(_to_8_bits(np.asarray(array), 1)))


def _to_8_bits(values, full):
    """Numbers of any kind -> uint8; `full` is what counts as white in float and int32."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * 255
    if values.dtype.itemsize == 1:
        return values
    if values.dtype.kind == "u":  # the high byte, as Pillow does for 16-bit RGB
        return (values >> (4 if full == 4095 else 8)).astype(np.uint8)
    if values.dtype.kind == "i" and full == 65_535:  # 16 bits too, in a wider box: the same picture in either
        return (values.clip(0, full) >> 8).astype(np.uint8)
    scaled = np.nan_to_num(values.astype(np.float32), nan=0, posinf=full, neginf=0) * (255 / full)
    return (np.clip(scaled, 0, 255) + 0.5).astype(np.uint8)


def _strips(image):
    """(top, strip) over the whole image, in even heights so that each can be halved."""
    rows = max(2, STRIP_PIXELS // image.width // 2 * 2)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


class _Numbers(NamedTuple):
    """How the numbers of a picture of more than 8 bits are meant, where its mode doesn't say."""

    white: float
    unsigned: bool = False  # 32 bits, which Pillow gives as signed ones
    inverted: bool = False  # 0 is white, which Pillow heeds for 8 bits only

    def of(self, image):
        values = np.asarray(image)
        return values.view(np.uint32).astype(np.float64) if self.unsigned else values


def _numbers(image):
    """White in modes I and F is 1, 255 or 65535, the first that no number exceeds, or else the largest number. Below 0
    and NaN are black, infinity is white."""
    tags = getattr(image, "tag_v2", {})
    bits, kind = (tags.get(tag, (1,))[0] for tag in (258, 339))  # of a sample
    meant = _Numbers(255, (image.mode, bits, kind) == ("I", 32, 1), tags.get(262) == 0)
    if image.mode not in ("I", "F"):
        return meant._replace(white=4095 if bits == 12 else 255)
    if image.mode == "I" and image.format == "PPM":  # scaled to 16 bits by Pillow, however dark
        return meant._replace(white=65_535)
    arrays = (meant.of(strip) for _, strip in _strips(image))
    largest = float(max(np.max(a, where=np.isfinite(a), initial=0) for a in arrays))
    return meant._replace(white=next((white for white in (1, 255, 65_535) if largest <= white), largest))


def _upright_rgb(image):
    """A loaded picture of any mode -> a new RGB one, in strips: both at once may not fit."""
    shrink = 2 if image.width * image.height > HALVED_ABOVE else 1
    numbers = _numbers(image)
    result = Image.new("RGB", (-(-image.width // shrink), -(-image.height // shrink)))
    for top, strip in _strips(image):
        rgb = _opaque_rgb(strip, numbers)
        result.paste(rgb.reduce(shrink) if shrink > 1 else rgb, (0, top // shrink))
    if image.mode in ("RGB", "RGBA", "P"):
        _apply_profile(result, image.info.get("icc_profile"))
        result.info.clear()  # ImageCms leaves its profile there
    try:
        # The tag alone, since ImageOps.exif_transpose rewrites the whole EXIF block and a fault
        # anywhere in it would cost the rotation.
        method = None if _too_many_tags(image) else TRANSPOSE.get(image.getexif().get(0x0112))
    except Exception:
        method = None  # bad metadata never costs the picture
    return result if method is None else result.transpose(method)


def _too_many_tags(image):
    """Whether EXIF's first directory has more than MAX_TAGS entries: Pillow would copy the value of each.

    EXIF is looked for where Pillow does, as bytes or as the text of a PNG, behind any number of its headers.
    """
    data = image.info.get("exif")
    if data is None:
        data = bytes.fromhex("".join(image.info.get("Raw profile type exif", "").split("\n")[3:]))
    while data.startswith(b"Exif\0\0"):
        data = data[6:]
    return len(data) > 0 and len(_first_directory(data)) > MAX_TAGS


def _opaque_rgb(image, numbers):
    """One strip in RGB; what is transparent shows white, whatever colour hides beneath it."""
    clear = image.info.get("transparency")
    if image.mode.startswith("I") or image.mode == "F":
        values = numbers.of(image)
        grey = _to_8_bits(values, numbers.white)
        if numbers.inverted:
            grey = 255 - grey
        if isinstance(clear, int):
            grey = np.where(values == clear, np.uint8(255), grey)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    known = {"1": int, "L": int, "P": int | bytes, "RGB": tuple}.get(image.mode, ())
    if image.mode not in ("LA", "PA", "RGBA") and not isinstance(clear, known):
        image.info.pop("transparency", None)
        if not image.has_transparency_data:
            return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, WHITE)
    white.paste(rgba, mask=rgba)
    return white


def _apply_profile(picture, profile):
    """Turn RGB `picture` from its embedded ICC profile to sRGB, in place; left as it is if that fails.

    Only RGB profiles: CMYK goes by Pillow's plain formula, as in the loaders networks are trained with.
    """
    if not isinstance(profile, bytes) or len(profile) > MAX_PROFILE_BYTES or profile[16:20] != b"RGB ":
        return
    if FLOAT_TAGS.search(profile, 128, 132 + 12 * int.from_bytes(profile[128:132], "big")):
        return
    try:
        if not _is_srgb(profile):
            ImageCms.applyTransform(picture, _to_srgb(profile), inPlace=True)
    except Exception:  # a broken profile shows the picture's bare numbers, as viewers do
        return


@lru_cache(8)
def _is_srgb(profile):
    """Whether it calls itself sRGB, as nearly all do, and is: GIMP's 'built-in Linear sRGB' isn't."""
    if b"sRGB" not in profile and b"\0s\0R\0G\0B" not in profile:
        return False
    grey = ImageCms.applyTransform(Image.new("RGB", (1, 1), (128, 128, 128)), _to_srgb(profile))
    return abs(grey.getpixel((0, 0))[1] - 128) < 16


def _to_srgb(profile):
    embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(embedded, ImageCms.createProfile("sRGB"), "RGB", "RGB")
