"""Pictures that nobody thought of, drawn by Hypothesis: ordinary files of every kind, and files that were harmed.

ordinary()  -> Sent, with what a person sees in a viewer
harmed()    -> Sent, of any file that Pillow can write or knows: flipped bits, cuts, pieces swapped, repeated, stuffed
opened(data) -> an RGB picture, or the one sentence; anything else is a fault and raises
"""

import io
import re
import struct
import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mnv3.errors import InputError
from mnv3.images.decode import open_picture

MODES = {  # what each kind that open_picture reads can be written in; P+ is a palette with an alpha for each colour
    "PNG": ["1", "L", "LA", "P", "P+", "RGB", "RGBA", "I;16"], "JPEG": ["L", "RGB", "CMYK"], "WEBP": ["RGB", "RGBA"],
    "GIF": ["L", "P"], "BMP": ["1", "L", "P", "RGB"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"], "AVIF": ["RGB", "RGBA"],
    "JPEG2000": ["L", "LA", "RGB", "RGBA", "I;16"], "PPM": ["1", "L", "RGB", "I;16"], "ICO": ["RGBA"],
}  # fmt: skip
LOSES = {"JPEG": 3, "AVIF": 8}  # kinds that change what is written, even at best quality, by so many greys on average
OPTIONS = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True, "exact": True},
           "AVIF": {"quality": 100, "subsampling": "4:4:4", "speed": 10}}  # fmt: skip
OTHERS = {  # kinds that Pillow writes and open_picture refuses, and the mode that they can be written in
    "BLP": "P", "CUR": "", "DDS": "RGBA", "DIB": "RGB", "EPS": "RGB", "ICNS": "RGBA", "IM": "RGB", "MSP": "1",
    "PALM": "P", "PCX": "RGB", "PDF": "RGB", "QOI": "RGB", "SGI": "RGB", "SPIDER": "F", "TGA": "RGB", "XBM": "1",
}  # fmt: skip
STARTS = {  # of kinds that Pillow knows by these bytes and can't write
    "BUFR": b"BUFR", "DCX": b"\xb1\x68\xde\x3a", "FITS": b"SIMPLE  =                    T", "FLI": b"\0\0\0\0\x11\xaf",
    "FTEX": b"FTEX", "GBR": struct.pack(">5I", 28, 2, 9, 9, 3) + b"GIMP", "GRIB": b"GRIB\0\0\0\1", "HDF5":
    b"\x89HDF\r\n\x1a\n", "IPTC": b"\x1c\x03\x3c", "MCIDAS": b"\0\0\0\0\0\0\0\4", "MPEG": b"\0\0\1\xb3", "PCD": b"PCD_",
    "PIXAR": b"\x80\xe8\0\0", "PSD": b"8BPS\0\1", "SUN": b"\x59\xa6\x6a\x95", "WMF": b"\xd7\xcd\xc6\x9a\0\0",
    "XPM": b"/* XPM */", "XVTHUMB": b"P7 332", "IMT": b"\x0awidth 9\nheight 9\n\x0c",
}  # fmt: skip
SEEN = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a)}  # what a viewer makes of stored pixels by EXIF's orientation # fmt: skip
MOST = 2_000_000  # bytes of a drawn file


@dataclass(frozen=True)
class Sent:
    """A file someone sent. seen: (H, W, 3) uint8, what a viewer shows; None where that can't be told."""

    kind: str
    data: bytes
    seen: np.ndarray | None = None

    def __repr__(self):
        return f"Sent({self.kind}, {len(self.data)} bytes, {self.data[:200]!r})"

    def _repr_pretty_(self, printer, _cycle):  # Hypothesis would print every byte
        printer.text(repr(self))


def opened(data):
    """The picture, or the sentence that a visitor reads; whatever else comes out raises."""
    try:
        picture = open_picture(data)
    except InputError as refusal:
        text = str(refusal)
        assert 10 < len(text) < 300 and "\n" not in text and text.endswith(".") and ". " not in text, text
        assert not re.search(r"/\w|\\|Traceback|\b0x[0-9a-f]{6}", text), text
        return text
    assert picture.mode == "RGB" and picture.info == {} and min(picture.size) > 0
    np.asarray(picture)
    return picture


def scene(width, height, seed, channels=3):
    """Smooth colours, as photographs have, with a little grain: (height, width, channels) uint8."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (4, 5, channels), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return (smooth + random.integers(-4, 5, smooth.shape)).clip(0, 255).astype(np.uint8)


def on_white(colour, alpha):
    alpha = alpha.astype(np.float64)[..., None] / 255
    return np.round(colour * alpha + 255 * (1 - alpha)).astype(np.uint8)


def painted(mode, width, height, seed):
    """(a Pillow image of that mode, what of it is seen)."""
    four = scene(width, height, seed, 4)
    colour, alpha, grey = four[..., :3], four[..., 3], four[..., 0]
    thrice = lambda values: np.repeat(values[..., None], 3, 2)  # noqa: E731
    if mode == "1":
        return Image.fromarray(grey > 127), thrice((grey > 127) * np.uint8(255))
    if mode in ("L", "LA"):
        image = Image.fromarray(grey)
        if mode == "L":
            return image, thrice(grey)
        return Image.merge("LA", (image, Image.fromarray(alpha))), on_white(thrice(grey), alpha)
    if mode in ("P", "P+"):
        image = Image.fromarray(colour).quantize(64)
        index, shown = np.asarray(image), np.asarray(image.convert("RGB"))
        if mode == "P":
            return image, shown
        table = np.random.default_rng(seed).integers(0, 256, 256, dtype=np.uint8)
        image.info["transparency"] = table.tobytes()
        return image, on_white(shown, table[index])
    if mode in ("I;16", "I"):
        deep = grey.astype(np.uint16) * 256 + alpha
        return Image.fromarray(deep if mode == "I;16" else deep.astype(np.int32)), thrice(grey)
    if mode == "F":
        return Image.fromarray(grey.astype(np.float32) / 255), thrice(grey)
    if mode == "RGBA":
        return Image.fromarray(four), on_white(colour, alpha)
    return Image.fromarray(colour).convert(mode), colour


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **OPTIONS.get(kind, {}), **options)
    return buffer.getvalue()


@st.composite
def ordinary(draw):
    """A file as a program writes it: any kind, mode, size, orientation, animated or not."""
    kind = draw(st.sampled_from(list(MODES)))
    mode = draw(st.sampled_from(MODES[kind]))
    side = st.one_of(st.integers(1, 9), st.integers(10, 90))
    width, height, seed = draw(side), draw(side), draw(st.integers(0, 10**6))
    image, seen = painted(mode, width, height, seed)
    options = {}
    if kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") and draw(st.booleans()):
        known = kind == "TIFF"  # whose writer takes no other
        exif, orientation = Image.Exif(), draw(st.integers(known, 9 - known))
        exif[0x0112] = orientation
        options["exif"], seen = exif, SEEN.get(orientation, SEEN[1])(seen)
    if kind in ("GIF", "PNG", "WEBP", "TIFF") and mode in ("L", "P", "RGB", "RGBA") and draw(st.booleans()):
        options |= {"save_all": True, "append_images": [painted(mode, width, height, seed + 1)[0]]}
    if kind == "TIFF" and mode in ("L", "P", "RGB", "RGBA"):
        options["compression"] = draw(st.sampled_from(["raw", "packbits", "tiff_lzw", "tiff_adobe_deflate"]))
    if kind == "JPEG":
        options["progressive"] = draw(st.booleans())
    if kind == "JPEG2000":
        options["irreversible"] = False
    if kind == "ICO":
        options |= {"sizes": [image.size], "bitmap_format": draw(st.sampled_from(["png", "bmp"]))}
    data = encode(image, kind, **options)
    return Sent(kind, data, viewed(kind, data, seen) if kind in LOSES else seen)


def viewed(kind, data, written):
    """What a viewer shows where the kind changes what is written: Pillow's own full decoding, upright, on white."""
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGBA"))
    shown = on_white(shown[..., :3], shown[..., 3])
    apart = np.abs(shown - written.astype(np.int16)).mean()
    assert shown.shape == written.shape and apart <= LOSES[kind], (kind, written.shape, apart)
    return shown


# ---- harm ---------------------------------------------------------------------------------------------------------


@cache
def whole():
    """Files to harm, of every kind that Pillow opens: (kind, bytes)."""
    files = [(kind, encode(painted(mode, 40, 30, seed)[0], kind)) for kind in MODES
             for seed, mode in enumerate(MODES[kind])]  # fmt: skip
    image = painted("RGB", 40, 30, 9)[0]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    files += [(kind, encode(image, kind, exif=exif)) for kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF")]
    files += [(kind, encode(image, kind, save_all=True, append_images=[image])) for kind in ("GIF", "PNG", "WEBP")]
    files += [("JPEG", encode(image, "JPEG", progressive=True)), ("JPEG", encode(image, "MPO"))]
    files += [("TIFF", encode(image, "TIFF", compression=c)) for c in ("tiff_lzw", "jpeg", "packbits", "tiff_deflate")]
    files += [("TIFF", encode(image, "TIFF", big_tiff=True)), ("PNG", encode(image, "PNG", icc_profile=bytes(999)))]
    for kind, mode in OTHERS.items():
        files.append((kind, _other(kind, mode)))
    files += [(kind, start + bytes(range(256)) * 4) for kind, start in STARTS.items()]
    return [(kind, data) for kind, data in files if data]


def _other(kind, mode):
    if kind == "CUR":
        return b"\0\0\2\0" + _other("ICO", "RGBA")[4:]
    if kind == "ICNS":  # whose writer makes files; this is one PNG in its container
        inner = encode(painted("RGBA", 128, 128, 1)[0], "PNG")
        return b"icns" + struct.pack(">I", 16 + len(inner)) + b"ic07" + struct.pack(">I", 8 + len(inner)) + inner
    image = painted(mode, 32, 32, 3)[0]
    if kind == "PALM":
        image = image.convert("RGB").quantize(16).convert("L").point(lambda v: v // 16)
        return encode(image.convert("1"), "PALM")
    return encode(image, kind)


def pieces(data):
    """The file cut where its container is: PNG's chunks, JPEG's segments, RIFF's and JPEG 2000's boxes, or evenly."""
    cuts, at = [0], 0
    if data.startswith(b"\x89PNG"):
        at, step = 8, lambda at: 12 + int.from_bytes(data[at : at + 4], "big")
    elif data.startswith(b"RIFF"):
        at, step = 12, lambda at: 8 + int.from_bytes(data[at + 4 : at + 8], "little") // 2 * 2
    elif data[4:8] in (b"ftyp", b"jP  "):
        step = lambda at: max(8, int.from_bytes(data[at : at + 4], "big"))  # noqa: E731
    elif data.startswith(b"\xff\xd8"):
        at, step = 2, lambda at: 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    else:
        step = lambda at: max(16, len(data) // 40)  # noqa: E731
    while at < len(data) and len(cuts) < 200:
        cuts.append(at)
        at += step(at)
    return [data[a:b] for a, b in zip(cuts, [*cuts[1:], len(data)], strict=True)]


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def stuffing(data, size):
    """A piece of text or profile of about `size` bytes once unpacked, in the words of the file's kind."""
    packed = zlib.compress(bytes(size), 9)
    if data.startswith(b"\x89PNG"):
        return [chunk(b"zTXt", b"x\0\0" + packed), chunk(b"iCCP", b"x\0\0" + packed), chunk(b"tEXt", b"x\0" * 99),
                chunk(b"eXIf", b"MM\0*" + bytes(min(size, 99_999))), chunk(b"tRNS", bytes(range(256)))]  # fmt: skip
    body = b"\xff" * min(size, 65_000)
    if data.startswith(b"\xff\xd8"):
        marks = (b"\xff\xe2", b"ICC_PROFILE\0\1\1"), (b"\xff\xe1", b"Exif\0\0MM\0*"), (b"\xff\xfe", b"")
        return [mark + struct.pack(">H", 2 + len(head + body)) + head + body for mark, head in marks]
    if data.startswith(b"RIFF"):
        return [name + struct.pack("<I", len(body)) + body for name in (b"ICCP", b"EXIF", b"XMP ")]
    if data.startswith(b"GIF"):
        return [b"!\xfe" + (b"\xff" + b"x" * 255) * (1 + len(body) // 256) + b"\0"]
    return [body, struct.pack(">I", 8 + len(body)) + b"free" + body]


def mended(data):
    """With the check sums and lengths that the harm has made wrong set right, so that decoders read on."""
    if data.startswith(b"\x89PNG"):
        parts = [data[:8]]
        for piece in pieces(data)[1:]:
            parts.append(chunk(piece[4:8], piece[8:-4]) if len(piece) >= 12 else piece)
        return b"".join(parts)
    if data.startswith(b"RIFF") and len(data) >= 8:
        return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    return data


HARM = ["bit", "bit", "bit", "number", "number", "cut", "swap", "repeat", "drop", "stuff"]
EXTREMES = [0, 1, 255, 256, 32767, 32768, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1]


@st.composite
def harmed(draw):
    """A whole file, mostly of a kind that open_picture reads, harmed once to five times."""
    kind, data = draw(st.sampled_from([file for file in whole() for _ in range(4 if file[0] in MODES else 1)]))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.one_of(st.integers(0, 199), st.integers(0, 10**6))) % max(1, len(data))
        what = draw(st.sampled_from(HARM))
        if what == "bit":
            data = data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :] if data else data
        elif what == "number":
            form = draw(st.sampled_from([">I", "<I", ">H", "<H"]))
            number = draw(st.sampled_from(EXTREMES)) & (2 ** (8 * struct.calcsize(form)) - 1)
            data = data[:at] + struct.pack(form, number) + data[at + struct.calcsize(form) :]
        elif what == "cut":
            data = data[:at]
        else:
            data = _pieces_harmed(draw, what, data)
        if draw(st.booleans()):
            data = mended(data)
    return Sent(kind, data[:MOST])


def _pieces_harmed(draw, what, data):
    parts = pieces(data)
    place = st.integers(0, 199).map(lambda at: at % len(parts))
    one = draw(place)
    if what == "swap":
        other = draw(place)
        parts[one], parts[other] = parts[other], parts[one]
    elif what == "repeat":
        times = draw(st.sampled_from([2, 3, 300, 30_000]))
        parts[one : one + 1] = [parts[one]] * min(times, 1 + MOST // (1 + len(parts[one])))
    elif what == "drop":
        del parts[one]
    else:
        stuffed = draw(st.sampled_from(stuffing(data, draw(st.sampled_from([0, 99, 900_000, 60_000_000])))))
        parts[one:one] = [stuffed] * draw(st.sampled_from([1, 1, 2, 2000]))
    return b"".join(parts)[: 2 * MOST]
