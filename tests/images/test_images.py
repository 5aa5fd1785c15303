"""Whatever file someone sends becomes the picture a viewer would show, or one sentence."""

import io
import re
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, TiffImagePlugin
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from mnv3.errors import InputError
from mnv3.images import decode
from mnv3.images.decode import MAX_BYTES, open_picture
from mnv3.images.preprocessing import Preprocessing

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width, height, depth, colour, rows, *between, after=()):
    """A PNG by hand, for what Pillow doesn't write; `rows` hold their filter bytes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = [header, *between, chunk(b"IDAT", zlib.compress(rows)), *after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def array(source):
    picture = open_picture(source)
    assert picture.mode == "RGB" and picture.info == {} and len(picture.getexif()) == 0
    return np.asarray(picture)


def sentence(source):
    """The refusal of `source`, checked for what every refusal owes its reader."""
    with pytest.raises(InputError) as refusal:
        open_picture(source)
    assert type(refusal.value) is InputError
    text = str(refusal.value)
    assert text and "\n" not in text and text.endswith(".") and ". " not in text and len(text) < 300
    assert not re.search(r"/\w|\\|Traceback|\b0x[0-9a-f]{6}", text), text
    return text


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def scene():
    """Red above, blue at the left: no two orientations look alike."""
    pixels = np.full((40, 24, 3), 128, np.uint8)
    pixels[:, :8] = (0, 0, 255)
    pixels[:16] = (255, 0, 0)
    return Image.fromarray(pixels)


# ---- orientation ------------------------------------------------------------------------------

# What a camera stored so that the tag turns it upright: the inverse of what the tag asks for.
STORED = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
          5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a), 8: lambda a: np.rot90(a, -1),
          7: lambda a: a[::-1, ::-1].swapaxes(0, 1)}  # fmt: skip


def tagged(scene, orientation, kind="JPEG", **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = STORED.get(orientation, STORED[1])(np.asarray(scene))
    return encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", [*range(10), 65535])
def test_every_orientation_comes_upright(scene, orientation):
    shown = array(tagged(scene, orientation, quality=95, subsampling=0)).astype(int)
    assert shown.shape == (40, 24, 3)
    assert np.abs(shown - np.asarray(scene)).max() <= 12


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_in_other_kinds_is_applied_once(scene, kind):
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 95, "subsampling": "4:4:4"}}.get(kind, {})
    for orientation in (3, 6):
        shown = array(tagged(scene, orientation, kind, **options)).astype(int)
        assert shown.shape == (40, 24, 3)
        assert np.abs(shown - np.asarray(scene)).mean() <= 3


@pytest.mark.parametrize("broken_transpose", [False, True])
def test_bad_gps_costs_neither_picture_nor_rotation(monkeypatch, broken_transpose):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[2] = (TiffImagePlugin.IFDRational(0, 0),) * 3
    file = encode(Image.new("RGB", (40, 20), "red"), "JPEG", exif=exif)
    if broken_transpose:
        monkeypatch.setattr(ImageOps, "exif_transpose", lambda *a, **k: 1 / 0)
    assert open_picture(file).size == (20, 40)


@pytest.mark.filterwarnings("ignore:.*EXIF")  # Pillow says so, and goes on
def test_unreadable_exif_costs_nothing():
    file = encode(Image.new("RGB", (8, 6), "red"), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert open_picture(file).size == (8, 6)


@pytest.mark.parametrize("damaged", [b"zz", b"MM\0*\xff"], ids=["no header", "cut"])
def test_damaged_exif_in_a_png_costs_nothing(damaged):
    """Of a JPEG's Pillow warns and goes on; of a PNG's it raises, each time that anyone asks for a tag."""
    file = encode(Image.new("RGB", (8, 6), "red"), "PNG")
    file = file[:33] + chunk(b"eXIf", damaged) + file[33:]  # after the header
    with pytest.raises((SyntaxError, struct.error)):
        Image.open(io.BytesIO(file)).getexif()
    assert open_picture(file).size == (8, 6) and open_picture(file).getpixel((0, 0)) == (255, 0, 0)


# ---- colour -----------------------------------------------------------------------------------


def disc(hidden):
    y, x = np.mgrid[:32, :32]
    inside = (x - 16) ** 2 + (y - 16) ** 2 < 100
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[..., :3] = hidden
    pixels[inside] = (200, 10, 10, 255)
    return pixels, inside


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "array", "PIL"])
@pytest.mark.parametrize("hidden", [0, 255, 90])
def test_what_is_transparent_is_white_whatever_lies_beneath(kind, hidden):
    pixels, inside = disc(hidden)
    image = Image.fromarray(pixels)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    source = {"array": pixels, "PIL": image}.get(kind)
    shown = array(encode(image, kind, **options) if source is None else source)
    assert (shown[inside] == (200, 10, 10)).all() and (shown[~inside] == 255).all()


def palette(colours, indices=((0, 1),)):
    image = Image.fromarray(np.asarray(indices, np.uint8)).convert("P")
    image.frombytes(np.asarray(indices, np.uint8).tobytes())
    image.putpalette(np.asarray(colours, np.uint8).tobytes())
    return image


GREEN_RED = palette([(0, 255, 0), (255, 0, 0)])
WHITE, RED = (255, 255, 255), (255, 0, 0)


def test_transparent_palettes():
    for file in (encode(GREEN_RED, "PNG", transparency=0), encode(GREEN_RED, "GIF", transparency=0),
                 encode(GREEN_RED, "PNG", transparency=bytes([0] + [255] * 255))):  # fmt: skip
        assert array(file).tolist() == [[list(WHITE), list(RED)]]
    half = array(encode(GREEN_RED, "PNG", transparency=bytes([128, 255])))
    assert np.abs(half[0, 0].astype(int) - (127, 255, 127)).max() <= 1


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa", "PA"])
def test_half_transparent_modes(mode):
    if mode == "PA":
        image = GREEN_RED.copy().convert("PA")
        image.putalpha(Image.fromarray(np.array([[0, 255]], np.uint8)))
        expected = [[WHITE, RED]]
    else:
        plain = Image.new("LA", (2, 1), (40, 0))
        plain.putpixel((1, 0), (40, 128))
        image = plain if mode == "LA" else plain.convert(mode if mode == "La" else "RGBA")
        image = image.convert("RGBa") if mode == "RGBa" else image
        grey = 40 * 128 / 255 + 127
        expected = [[WHITE, (grey,) * 3]]
    assert image.mode == mode
    assert np.abs(array(image) - np.array(expected)).max() <= 1.5


@pytest.mark.parametrize("depth, colour, rows, clear, second", [
    (1, 0, b"\0\x40", b"\0\0", 255), (2, 0, b"\0\x40", b"\0\1", 0), (4, 0, b"\0\xa0", b"\0\x0a", 0),
    (8, 0, b"\0\xf0\5", b"\0\xf0", 5), (16, 0, b"\0\xf0\1\5\0", b"\xf0\1", 5),
    (8, 2, b"\0\xf0\xf0\xf0\5\5\5", b"\0\xf0\0\xf0\0\xf0", 5),
    (16, 2, b"\0" + b"\xf0\1" * 3 + b"\5\0" * 3, b"\xf0\1" * 3, 5),
])  # fmt: skip
def test_a_transparent_colour_at_every_depth(depth, colour, rows, clear, second):
    shown = array(png(2, 1, depth, colour, rows, chunk(b"tRNS", clear)))
    assert shown.tolist() == [[[255] * 3, [second] * 3]]


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def tiff(bits, pixels, white=1, kind=1):
    """16x16 grey pixels of `bits` bits; white 0 says that 0 is white, kind 3 that they are floats."""
    tags = {256: 16, 257: 16, 258: bits, 259: 1, 262: white, 273: 134, 277: 1, 278: 16, 279: len(pixels), 339: kind}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


def ramps():
    wide = RAMP.astype(np.uint16) * 257
    yield "PNG", encode(Image.fromarray(wide), "PNG")
    yield "TIFF", encode(Image.fromarray(wide), "TIFF")
    big = Image.frombytes("I;16B", (16, 16), wide.astype(">u2").tobytes())
    yield "TIFF I;16B", encode(big, "TIFF")
    for mode, order in (("I;16", "<u2"), ("I;16L", "<u2"), ("I;16B", ">u2"), ("I;16N", "=u2")):
        yield mode, Image.frombytes(mode, (16, 16), wide.astype(order).tobytes())
    yield "I", Image.fromarray(wide.astype(np.int32))
    yield "I TIFF", encode(Image.fromarray(wide.astype(np.int32)), "TIFF")
    yield "I of 8 bits", Image.fromarray(RAMP.astype(np.int32))
    for top in (1, 255, 65535, 1e9):
        yield f"F to {top:g}", Image.fromarray((RAMP / 255 * top).astype(np.float32))
    yield "F TIFF", encode(Image.fromarray((RAMP / 255).astype(np.float32)), "TIFF")
    yield "PGM", b"P5 16 16 65535\n" + wide.astype(">u2").tobytes()
    twelve = "".join(f"{value >> 4:012b}" for value in wide.flat)
    yield "12-bit TIFF", tiff(12, int(twelve, 2).to_bytes(384))
    yield "uint32 TIFF", tiff(32, (RAMP.astype("<u4") * 16_843_009).tobytes())
    yield "inverted TIFF", tiff(16, (65_535 - wide).astype("<u2").tobytes(), white=0)
    yield "inverted float TIFF", tiff(32, (1 - RAMP / 255).astype("<f4").tobytes(), white=0, kind=3)
    yield "uint16", wide
    yield ">u2", wide.astype(">u2")
    yield "float64", RAMP / 255
    yield "(H,W,1)", RAMP[:, :, None]
    yield "8 bits", encode(Image.fromarray(RAMP), "PNG")
    rgb = np.repeat(wide.astype(">u2"), 3, 1).view(np.uint8).reshape(16, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in rgb)
    yield "16-bit RGB PNG", png(16, 16, 16, 2, rows)


@pytest.mark.parametrize("source", [pytest.param(s, id=name) for name, s in ramps()])
def test_a_ramp_is_scaled_and_never_clipped(source):
    shown = array(source).astype(int)
    assert np.abs(shown - RAMP[:, :, None]).max() <= 1
    assert len(np.unique(shown)) >= 255


@pytest.mark.parametrize("order", "<>")
def test_planes_of_16_bits(order):
    """A TIFF that holds one colour after the other, uncompressed."""
    planes = np.array([[[60_000, 0], [30_000, 9_000]], [[0, 60_000], [200, 50_000]], [[1, 2], [65_535, 257]]])
    whole = 8 + 2 + 9 * 12 + 4
    tags = [(256, 1, 2), (257, 1, 2), (258, 3, whole), (259, 1, 1), (262, 1, 2), (273, 3, whole + 12), (277, 1, 3),
            (279, 3, whole + 24), (284, 1, 2)]  # fmt: skip
    page = b"".join(struct.pack(order + "HHII", tag, 4, count, value) for tag, count, value in tags)
    lists = [16, 16, 16, *(whole + 36 + 8 * plane for plane in range(3)), 8, 8, 8]
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    pixels = planes.astype(order + "u2").tobytes()
    file = start + page + bytes(4) + struct.pack(order + "9I", *lists) + pixels
    assert (array(file) == planes.transpose(1, 2, 0) >> 8).all()


def test_a_dark_picture_of_16_bits_stays_dark():
    """Its largest number says nothing where the file says how many there are."""
    values = np.full((4, 4), 200, np.uint16)
    for dark in (b"P5 4 4 65535\n" + values.astype(">u2").tobytes(), encode(Image.fromarray(values), "PNG")):
        assert not array(dark).any()


def test_numbers_that_are_none():
    values = np.array([[np.nan, -np.inf, np.inf, -3, 0.5, 1]], np.float32)
    assert array(Image.fromarray(values))[0, :, 0].tolist() == [0, 0, 255, 0, 128, 255]


@pytest.mark.parametrize("colour, ink", [((255, 0, 0), (0, 255, 255, 0)), ((255, 255, 255), (0, 0, 0, 0))])
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind, colour, ink):
    shown = array(encode(Image.new("CMYK", (16, 16), ink), kind)).astype(int)
    assert np.abs(shown - colour).max() <= 3


def test_adobe_ycck():
    """Transform 2 in the Adobe marker: the inks as YCC, inverted, as Photoshop writes them."""
    plain = bytearray(encode(Image.new("CMYK", (16, 16), (255, 255, 255, 0)), "JPEG"))
    at = plain.index(b"Adobe")
    plain[at + 11] = 2
    # The stored 0,0,0,255 now means Y = Cb = Cr = 0, which is RGB 0,135,0; inverted as Adobe does: inks
    # 0,135,0 and no black.
    assert np.abs(array(bytes(plain)).astype(int) - (255, 120, 255)).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV", "LAB", "CMYK", "RGBX"])
def test_other_modes(mode):
    if mode == "LAB":
        image, expected = Image.new("LAB", (3, 2), (255, 128, 128)), (255, 255, 255)
    else:
        base = Image.new("RGB", (3, 2), "white" if mode in "1L" else "red")
        image, expected = base.convert(mode), base.getpixel((0, 0))
    assert np.abs(array(image).astype(int) - expected).max() <= 2


def test_stray_transparency_is_no_reason_to_refuse():
    image = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    image.info["transparency"] = 0
    assert (array(image) == RED).all()
    image = Image.new("RGB", (2, 2), RED)
    image.info["transparency"] = "none"
    assert (array(image) == RED).all() and image.info == {"transparency": "none"}


def swapped_profile():
    """An sRGB profile whose red and green primaries are exchanged, so its effect is plain to see."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile).replace(b"sRGB", b"odd_").replace(b"\0s\0R\0G\0B", b"\0o\0d\0d\0_")


def test_icc_profiles():
    green = Image.new("RGB", (8, 8), (0, 200, 0))
    for kind in ("PNG", "TIFF"):
        shown = array(encode(green, kind, icc_profile=swapped_profile())).astype(int)
        assert np.abs(shown - (200, 0, 0)).max() <= 3
    standard = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    damaged = swapped_profile()[:200] + bytes(300)
    for profile in (standard, damaged, b"no profile", swapped_profile() + bytes(2_000_000)):
        image = green.copy()
        image.info["icc_profile"] = profile
        assert (array(image) == (0, 200, 0)).all()


def test_a_profile_that_is_called_srgb_but_is_linear():
    """As GIMP's 'built-in Linear sRGB', which it gives pictures that were worked on in linear light."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    curve = profile.index(b"para\0\0\0\0")  # one for all three
    linear = profile[:curve] + b"curv" + bytes(8) + profile[curve + 12 :]
    assert b"\0s\0R\0G\0B" in linear
    assert (array(encode(Image.new("RGB", (8, 8), (55, 55, 55)), "PNG", icc_profile=linear)) == 128).all()


def test_animations_show_their_first_frame():
    red, green, blue = (Image.new("RGB", (12, 10), c) for c in ("red", "lime", "blue"))
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        file = encode(red, kind, save_all=True, append_images=[green, blue], **options)
        assert np.abs(array(file).astype(int) - RED).max() <= 3, kind


def test_mpo_shows_its_first_picture():
    file = encode(Image.new("RGB", (16, 16), "red"), "MPO", save_all=True,
                  append_images=[Image.new("RGB", (16, 16), "blue")])  # fmt: skip
    assert np.abs(array(file).astype(int) - RED).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "ICO", "JPEG2000"])
def test_every_readable_kind(kind):
    shown = array(encode(Image.new("RGB", (16, 16), "red"), kind)).astype(int)
    assert shown.shape == (16, 16, 3) and np.abs(shown - RED).max() <= 3


# ---- sources ----------------------------------------------------------------------------------


def test_the_content_decides_not_the_name(tmp_path):
    for name, file in (
        ("x.gif", encode(Image.new("LA", (2, 1), (9, 0)), "PNG")),
        ("x.heic", encode(Image.new("L", (2, 1), 255), "GIF")),
    ):
        (tmp_path / name).write_bytes(file)
        assert (array(tmp_path / name) == 255).all() and (array(str(tmp_path / name)) == 255).all()


def test_file_objects_and_bytes_like():
    file = encode(Image.new("RGB", (3, 2), RED), "PNG")
    used = io.BytesIO(file)
    used.seek(0, 2)
    for source in (used, io.BufferedReader(io.BytesIO(file)), bytearray(file), memoryview(file)):
        assert (array(source) == RED).all()


def test_the_callers_picture_is_left_alone():
    image = Image.new("RGB", (3, 2), RED)
    image.info["comment"] = "mine"
    shown = open_picture(image)
    shown.putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == RED and image.info == {"comment": "mine"}


@pytest.mark.parametrize("values", [
    np.array([[0, 255]], np.uint8), np.array([[False, True]]), np.array([[0.0, 1.0]]),
    np.array([[0, 1]], np.float16), np.array([[0, 65535]], np.uint16), np.array([[0.0, 1.0005]]),
    np.array([[[0] * 3, [255] * 3]], np.uint8), np.array([[[0, 0, 0, 1], [0, 0, 0, 0]]], np.float32),
    np.array([[255, 0]], np.uint8)[:, ::-1],
])  # fmt: skip
def test_arrays(values):
    assert array(values).tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize("source, words", [
    (None, "No picture was given: upload, paste or take one first"),
    (b"", "empty"), (5, "int"), ({"image": 1}, "dict"), (True, "bool"),
    ("http://example.org/a.png", "http"), ("https://a/b", "https"), ("file:///etc/passwd", "file"),
    ("data:image/png;base64,AAAA", "data"), ("nothing/here.png", "no picture file"), ("", "no picture file"),
    (".", "no picture file"), ("/dev/zero", "no picture file"), ("a\0b", "file"), ("x" * 5000, "file"),
    (io.StringIO("text"), "binary"), (np.zeros((2, 2, 2), np.uint8), "(2, 2, 2)"),
    (np.zeros(4, np.uint8), "(4,)"), (np.zeros((2, 2), np.int64), "int64"), (np.zeros((0, 4), np.uint8), "4x0"),
    (np.full((2, 2), 255.0), "255"), (np.array([[0, np.nan]]), "nan"), (np.zeros((2, 2), complex), "complex"),
    (np.array([["a"]], object), "object"), (np.broadcast_to(np.uint8(0), (70_000, 2)), "70000"),
    (np.broadcast_to(np.uint8(0), (9_000, 9_000)), "9000x9000"), (Image.new("RGB", (0, 5)), "0x5"),
])  # fmt: skip
def test_refusals_name_what_was_wrong(source, words):
    assert words in sentence(source)


def test_a_closed_file_is_refused():
    file = io.BytesIO(b"x")
    file.close()
    assert "file" in sentence(file)


@pytest.mark.parametrize("file, name", [
    (b"\0\0\0\x18ftypheic" + bytes(12), "HEIC"), (b"\0\0\0\x18ftypmif1" + bytes(12), "HEIC"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'><rect/></svg>", "SVG"),
    (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a --><svg/>", "SVG"),
    ("<?xml version='1.0'?><svg/>".encode("utf-16"), "SVG"),
    (b"<!DOCTYPE html><html></html>", "HTML"), (b"%PDF-1.7\n", "PDF"), (b"PK\3\4" + bytes(40), "ZIP"),
    (b"\0\0\0\x18ftypisom" + bytes(12), "Video"), (b"\x1aE\xdf\xa3" + bytes(9), "Video"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"), (b"8BPS\0\1" + bytes(40), "Photoshop"),
    (b"\xff\n" + bytes(9), "JPEG XL"), (b"\0\0\0\x14ftypqt  " + bytes(9), "Video"), (b"OggS\0\2" + bytes(9), "Sound"),
    (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "Camera raw"), (b"FUJIFILMCCD-RAW 0201" + bytes(99), "Camera raw"),
    (b"IIU\0" + bytes(99), "Camera raw"), (bytes(128) + b"DICM" + bytes(9), "DICOM"), (b"gimp xcf v011", "GIMP"),
    (b"v/1\1\2\0\0\0", "OpenEXR"), (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Office"), (b"\xfd7zXZ\0", "Xz"),
    (b"x" * 257 + b"ustar\x0000", "Tar"), (b"\0\0\2\0\1\0" + bytes(16), "Cursor"), (b"II\xbc\1" + bytes(9), "JPEG XR"),
    (b"hello", "Files of this kind"), (b"\0" * 5000, "Files of this kind"),
])  # fmt: skip
def test_what_is_no_readable_picture_is_named(file, name, tmp_path):
    (tmp_path / "x.png").write_bytes(file)
    for source in (file, tmp_path / "x.png"):
        text = sentence(source)
        assert name in text and ("JPEG or PNG" in text or "git lfs pull" in text)


@pytest.mark.parametrize("tags", [{50706: (1, 4, 0, 0)}, {254: 1, 330: 8}], ids=["DNG", "others"])
def test_a_cameras_raw_file_is_not_taken_for_its_thumbnail(tags):
    page = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        page[tag] = value
    Image.new("RGB", (16, 12), "teal").save(buffer := io.BytesIO(), "TIFF", tiffinfo=page)
    assert "Camera raw" in sentence(buffer.getvalue())
    plain = [(256, 3, 1, 4), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 200),
             (277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 4)]  # fmt: skip
    for mark, raw in ((b"CR\2\0", True), (b"CD\2\0", False)):  # Canon's
        page = struct.pack("<H", 9) + b"".join(struct.pack("<HHII", *tag) for tag in plain) + bytes(4)
        file = (b"II*\0" + struct.pack("<I", 16) + mark + bytes(4) + page).ljust(200, b"\0") + b"\1\2\3\4"
        assert "Camera raw" in sentence(file) if raw else array(file).shape == (1, 4, 3)
    for others in ({254: 1}, {254: 0, 330: 8}):  # a small page alone, or pages inside a whole one: as a viewer shows it
        page = TiffImagePlugin.ImageFileDirectory_v2()
        for tag, value in others.items():
            page[tag] = value
        Image.new("RGB", (16, 12), "teal").save(buffer := io.BytesIO(), "TIFF", tiffinfo=page)
        assert array(buffer.getvalue()).shape == (12, 16, 3)


# ---- incomplete and hostile -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_cut_file_is_called_incomplete(kind):
    file = encode(Image.fromarray(noise(128, 128, 3)), kind)
    for length in (
        12 if kind == "AVIF" else 10,
        100,
        len(file) // 2,
        len(file) - (2 if kind in ("JPEG", "WEBP", "AVIF") else 200),
    ):
        if kind == "GIF" and length == len(file) - 200:
            continue
        assert "incomplete" in sentence(file[:length]), length
    assert "incomplete" in sentence(b"\xff\xd8")


@pytest.mark.parametrize("side", [20_000, 12_000, 7_000, 2**31 - 1])
@pytest.mark.parametrize("strict", [False, True])
def test_bombs_are_refused_by_their_header(side, strict):
    file = png(side, side, 1, 0, b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        started = time.thread_time()
        text = sentence(file)
    assert "too large" in text or "incomplete" in text
    assert time.thread_time() - started < 0.5 and len(file) < 100


def test_bombs_of_other_kinds():
    gif = (
        b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + b"\0\0\0,\0\0\0\0"
        + struct.pack("<HH", 65535, 65535)
        + b"\0\2\0;"
    )
    bmp = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 70, 0, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
    inside = png(9_000, 9_000, 1, 0, zlib.compress(b""))
    ico = b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(inside), 22) + inside
    for file in (gif, bmp, ico, b"P6 9000 9000 255\n", png(1, 40_000_000, 1, 0, b"")):
        assert "too large" in sentence(file)


@pytest.mark.parametrize("kind", ["JPEG2000", "AVIF", "PNG", "WEBP", "TIFF"])
def test_what_takes_too_long_is_called_so_by_every_decoder(kind, monkeypatch):
    """Some take the end of their time for the end of the file."""
    file = encode(Image.new("RGB", (8, 4), RED), kind)
    assert array(file).shape == (4, 8, 3)
    monkeypatch.setattr(decode, "DECODE_SECONDS", -1)
    assert "takes more than 1.5 s" in sentence(file)


@pytest.mark.parametrize("kind", ["JPEG2000", "AVIF"])
def test_what_nothing_can_stop_may_be_less_heavy(kind, monkeypatch):
    file = encode(Image.fromarray(noise(40, 40, 3)), kind)
    monkeypatch.setitem(decode.MAX_KIND_BYTES, kind, len(file))
    assert array(file).shape == (40, 40, 3)
    monkeypatch.setitem(decode.MAX_KIND_BYTES, kind, len(file) - 1)
    assert "too large" in sentence(file)


def test_a_tiff_that_takes_long_to_unpack_may_be_less_large():
    small = encode(Image.new("RGB", (8, 4), RED), "TIFF", compression="lzma")
    assert array(small).shape == (4, 8, 3)
    large = bytearray(small)
    (at,) = struct.unpack_from("<I", small, 4)
    for entry in range(at + 2, at + 2 + 12 * small[at], 12):
        if small[entry : entry + 2] in (struct.pack("<H", 256), struct.pack("<H", 257)):
            struct.pack_into("<HI", large, entry + 2, 4, 1)
            struct.pack_into("<I", large, entry + 8, 4100)
    assert "16 megapixels" in sentence(bytes(large))


def test_a_picture_in_countless_parts_is_refused():
    tags = [(256, 3, 1, 4000), (257, 3, 1, 4000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1),
            (322, 3, 1, 1), (323, 3, 1, 1), (324, 4, 1_000_000, 200), (325, 4, 1_000_000, 200)]  # fmt: skip
    page = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    assert "1000000 parts" in sentence(b"II*\0" + struct.pack("<I", 8) + page + bytes(4_000_200))
    tiled = bytearray(encode(Image.new("L", (3400, 3400)), "JPEG2000", no_jp2=True))
    struct.pack_into(">II", tiled, 24, 14, 14)
    assert "59049 parts" in sentence(bytes(tiled))


def test_big_tiff_is_read():
    pytest.importorskip("PIL", minversion="11.2")
    file = encode(Image.new("RGB", (3, 2), RED), "TIFF", big_tiff=True)
    assert file[2:4] == b"+\0" and (array(file) == RED).all()


def test_too_many_bytes(tmp_path):
    with open(tmp_path / "x.png", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert "50 MB" in sentence(tmp_path / "x.png")
    with open(tmp_path / "x.png", "rb", buffering=0) as file:
        assert "50 MB" in sentence(file)


def compressed_profile(size):
    return chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(size), 9))


TEXT_BOMB = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(64_000_000), 9))


@pytest.mark.parametrize("before, after", [
    ([TEXT_BOMB], []), ([], [TEXT_BOMB]), ([compressed_profile(64_000_000)], []),
    ([compressed_profile(900_000)] * 20_000, []), ([], [compressed_profile(900_000)] * 20_000),
    ([chunk(b"teXt", b"")] * 1_000_000, []),
], ids=["text", "text after", "profile", "profiles", "profiles after", "chunks"])  # fmt: skip
def test_chunk_bombs_end_soon(before, after):
    file = png(1, 1, 8, 0, b"\0\xff", *before, after=after)
    started = time.thread_time()
    try:
        assert (array(file) == 255).all()
    except InputError as refusal:
        assert "incomplete or damaged" in str(refusal) or "to decode" in str(refusal)
    assert time.thread_time() - started < 4


def test_piled_up_scans_end_soon():
    """A progressive JPEG may ask for its last scan again and again, in some bytes each."""
    file = encode(Image.new("L", (6000, 6000)), "JPEG", progressive=True)
    scan = file[file.rindex(b"\xff\xda") : -2]
    started = time.thread_time()
    assert "decode" in sentence(file[:-2] + scan * (300_000 // len(scan)) + file[-2:])
    assert time.thread_time() - started < 5


def test_a_long_gif_comment_ends_soon():
    file = encode(Image.new("L", (4, 4), 255), "GIF")
    at = file.index(b",", 13 + 3)
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * 60_000 + b"\0"
    started = time.thread_time()
    assert "decode" in sentence(file[:13] + comment + file[at:])
    assert time.thread_time() - started < 4


def mutants(count):
    """The same damaged files in every run: flipped bits, cuts, exchanged and repeated pieces."""
    random = np.random.default_rng(7)
    base = Image.fromarray(noise(24, 20, 4, seed=1))
    files = [encode(base, kind) for kind in ("PNG", "WEBP", "TIFF", "AVIF", "ICO")]
    files += [encode(base.convert("RGB"), kind) for kind in ("JPEG", "GIF", "BMP", "PPM", "JPEG2000")]
    files += [tagged(base.convert("RGB"), 6), encode(GREEN_RED, "PNG", transparency=0)]
    files += [encode(base.convert("RGB"), "TIFF", compression=c) for c in ("tiff_lzw", "jpeg", "packbits")]
    for i in range(count):
        file = bytearray(files[i % len(files)])
        reach = len(file) if i % 2 else min(len(file), 200)
        for _ in range(random.integers(1, 6)):
            file[random.integers(reach)] ^= 1 << random.integers(8)
        if i % 3 == 0:
            del file[random.integers(len(file)) :]
        if i % 7 == 0:
            file[10:10] = file[: random.integers(40)]
        yield bytes(file)


@pytest.mark.filterwarnings("default")  # a damaged file's warnings are no errors where the app runs
@pytest.mark.parametrize("strict", [False, True])
def test_damaged_files_give_a_picture_or_a_sentence(strict):
    outcomes = {"picture": 0, "sentence": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        for file in mutants(330):
            try:
                array(file)
                outcomes["picture"] += 1
            except InputError:
                sentence(file)
                outcomes["sentence"] += 1
    assert min(outcomes.values()) > 50, outcomes


# ---- size and preprocessing -------------------------------------------------------------------


def test_large_pictures_come_at_half_size():
    pixels = np.full((3001, 6000, 3), (0, 0, 250), np.uint8)
    pixels[:, 3000:] = RED
    for kind in ("PNG", "JPEG"):
        picture = open_picture(encode(Image.fromarray(pixels), kind))
        assert picture.size == (3000, 1501)
        left, right = np.array(picture.getpixel((1400, 1500))), picture.getpixel((1600, 0))
        assert np.abs(left - (0, 0, 250)).max() <= 3 and np.abs(np.array(right) - RED).max() <= 3


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (3, 4000), (223, 225)])
def test_thin_and_tiny_pictures(size):
    picture = open_picture(encode(Image.new("RGB", size, RED), "PNG"))
    assert picture.size == size
    seen = Preprocessing(256, 224, "bilinear", **IMAGENET).picture(picture)
    assert seen.size == (224, 224) and (np.asarray(seen) == RED).all()


@pytest.mark.parametrize("size", [(69, 5), (5, 69), (1000, 10), (3, 50), (1, 2000), (641, 80), (90, 11)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_beyond_8_to_1_it_is_still_torchvisions_crop(size, interpolation):
    picture = Image.fromarray(noise(*size[::-1], 3))
    for resize, crop in ((36, 32), (32, 32), (37, 32)):
        wanted = reference(resize, crop, interpolation, [0] * 3, [1] * 3)(picture)
        seen = Preprocessing(resize, crop, interpolation, [0] * 3, [1] * 3)(picture)
        assert (seen - wanted).abs().max() <= 1.01 / 255


def reference(resize, crop, interpolation, mean, std):
    return transforms.Compose([
        transforms.Resize(resize, InterpolationMode(interpolation)), transforms.CenterCrop(crop),
        transforms.ToTensor(), transforms.Normalize(mean, std),
    ])  # fmt: skip


SETTINGS = [
    (32, 32, "bilinear"),
    (256, 224, "bilinear"),
    (232, 224, "bilinear"),
    (235, 224, "bicubic"),
    (33, 20, "bicubic"),
]
SIZES = [(32, 32), (33, 32), (500, 375), (375, 500), (223, 225), (7, 5), (256, 300), (80, 640), (641, 83)]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixel_for_pixel_torchvision(settings, size):
    picture = Image.fromarray(noise(size[1], size[0], 3))
    wants, expected = Preprocessing(*settings, **IMAGENET), reference(*settings, **IMAGENET)
    assert np.array_equal(wants.picture(picture), transforms.Compose(expected.transforms[:2])(picture))
    tensor = wants(picture)
    assert tensor.dtype == torch.float32 and tensor.shape == (3, settings[1], settings[1])
    assert tensor.is_contiguous() and (tensor - expected(picture)).abs().max() <= 1e-6


@pytest.mark.parametrize("mutation", [
    {"resize": 257}, {"crop": 223}, {"interpolation": "bicubic"}, {"mean": (0.5, 0.5, 0.5)},
    {"std": (0.5, 0.5, 0.5)}, {"mean": IMAGENET["mean"][::-1]},
], ids=str)  # fmt: skip
def test_every_setting_matters(mutation):
    picture = Image.fromarray(noise(300, 400, 3))
    settings = {"resize": 256, "crop": 224, "interpolation": "bilinear", **IMAGENET}
    expected, other = reference(**settings)(picture), Preprocessing(**{**settings, **mutation})(picture)
    assert expected.shape != other.shape or (expected - other).abs().max() > 0.01


def test_scaled_exactly_once():
    tensor = Preprocessing(32, 32, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.5, 1))(Image.new("RGB", (40, 40), (128,) * 3))
    assert torch.allclose(tensor[:, 5, 5], (torch.tensor(128 / 255) - 0.5) / torch.tensor([0.25, 0.5, 1]), atol=1e-7)


@pytest.mark.parametrize("resize, interpolation, seen", [(256, "bilinear", False), (232, "bilinear", True)])
def test_the_crop_is_the_weights_own(resize, interpolation, seen):
    """A ring that a crop of 0.875 removes and one of 0.966 keeps."""
    pixels = np.zeros((1000, 1000, 3), np.uint8)
    pixels[30:50, 100:900] = 255
    picture = Preprocessing(resize, 224, interpolation, **IMAGENET).picture(Image.fromarray(pixels))
    assert (np.asarray(picture).max() > 100) == seen


GOOD = {
    "resize": 256,
    "crop": 224,
    "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


def test_round_trip():
    wants = Preprocessing.from_dict(GOOD)
    assert wants.to_dict() == GOOD and Preprocessing.from_dict(wants.to_dict()) == wants
    assert wants == Preprocessing(256, 224, "bilinear", **IMAGENET) and hash(wants)


@pytest.mark.parametrize("field, value", [
    *[(size, v) for size in ("resize", "crop") for v in (True, "224", 224.0, None, 7, 0, -1, 1025, 10**400, [224])],
    ("crop", 257), ("interpolation", "nearest"), ("interpolation", None), ("interpolation", ["bilinear"]),
    *[(f, v) for f in ("mean", "std") for v in ([1, 1], [1] * 4, 1, None, "111", [1, 1, True], [1, 1, "1"],
      [1, 1, float("nan")], [1, 1, float("inf")], [1, 1, None], [[1]] * 3, {0: 1, 1: 1, 2: 1}, [1, 1, 10**400])],
    ("std", [1, 1, 0]), ("std", [1, 1, -1]), ("std", [1, 1, 1e-300]),
])  # fmt: skip
def test_a_strangers_preprocessing_is_refused_by_name_and_value(field, value):
    with pytest.raises(InputError) as refusal:
        Preprocessing.from_dict({**GOOD, field: value})
    text = str(refusal.value)
    assert field in text and len(text) < 300 and text.endswith(".")
    if not isinstance(value, list | dict) and value != 10**400:
        assert repr(value) in text


@pytest.mark.parametrize("d, words", [
    (None, "None"), ([1], "[1]"), ({}, "resize"), ({**GOOD, "colour": 1}, "colour"), ({**GOOD, 5: 1}, "5"),
    ({k: v for k, v in GOOD.items() if k != "std"}, "std"),
])  # fmt: skip
def test_unknown_and_missing_fields_are_named(d, words):
    with pytest.raises(InputError, match=re.escape(words) + r".*\.$"):
        Preprocessing.from_dict(d)


def test_only_rgb_is_prepared():
    with pytest.raises(InputError, match="RGBA"):
        Preprocessing.from_dict(GOOD).picture(Image.new("RGBA", (9, 9)))


assert PngImagePlugin.MAX_TEXT_CHUNK <= 1 << 20  # what bounds a text chunk; the bombs above rely on it


# ---- large JPEGs, decoded smaller ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, enough, shown",
    [((4000, 3000), 512, (1000, 750)), ((4000, 3000), 64, (500, 375)), ((3000, 4000), 800, (1500, 2000)),
     ((2000, 1001), 512, (2000, 1001)), ((1600, 1200), 64, (1600, 1200)), ((4000, 3000), None, (4000, 3000)),
     ((6000, 3000), 2000, (3000, 1500))],
)  # fmt: skip
def test_a_large_jpeg_is_decoded_no_smaller_than_is_enough(size, enough, shown):
    file = io.BytesIO()
    Image.new("RGB", size, (200, 30, 60)).save(file, "JPEG")
    assert open_picture(file.getvalue(), enough).size == shown
    file = io.BytesIO()
    Image.new("RGB", (1800, 1300)).save(file, "PNG")
    assert open_picture(file.getvalue(), 64).size == (1800, 1300)


@pytest.mark.parametrize("resize, crop", [(256, 224), (32, 32)])
def test_what_the_network_gets_of_a_large_jpeg_is_a_few_grey_levels_apart(resize, crop):
    random = np.random.default_rng(0)
    scene = np.zeros((1500, 2000, 3), np.float32)
    for cells, weight in ((6, 1.0), (40, 0.5), (300, 0.25)):
        coarse = random.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8)
        scene += weight * np.asarray(Image.fromarray(coarse).resize((2000, 1500), Image.Resampling.BICUBIC))
    file = io.BytesIO()
    Image.fromarray((scene / 1.75).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    prepared = Preprocessing(resize, crop, "bilinear", (0.5,) * 3, (0.25,) * 3)
    whole = np.asarray(prepared.picture(open_picture(file.getvalue())), np.float32)
    scaled = np.asarray(prepared.picture(open_picture(file.getvalue(), prepared.enough)), np.float32)
    assert whole.std() > 20
    assert np.abs(whole - scaled).mean() < 1 and np.abs(whole - scaled).max() < 12


@pytest.mark.parametrize("way", ["bytes", "behind a second header", "text"])
def test_exif_with_thousands_of_tags_costs_neither_memory_nor_the_picture(way):
    """Each of 2,000 entries points at the same 4 kB: Pillow would copy 8 MB, and gigabytes at 60,000."""
    import struct
    import tracemalloc

    from PIL import PngImagePlugin

    entries = b"".join(struct.pack("<HHII", tag, 7, 4096, 24100) for tag in range(2000))
    exif = b"II*\0" + struct.pack("<IH", 8, 2000) + entries + bytes(24100 + 4096)
    file, text, options = io.BytesIO(), PngImagePlugin.PngInfo(), {}
    if way == "text":
        text.add_text("Raw profile type exif", f"\nexif\n{len(exif)}\n{exif.hex()}", zip=True)
    else:
        options["exif"] = exif if way == "bytes" else b"Exif\0\0Exif\0\0" + exif
    Image.new("RGB", (8, 8), (10, 200, 30)).save(file, "PNG", pnginfo=text, **options)
    tracemalloc.start()
    picture = open_picture(file.getvalue())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert picture.getpixel((0, 0)) == (10, 200, 30) and peak < 2_000_000


def test_a_profile_with_elements_of_unbounded_number_is_not_applied(monkeypatch):
    """A D2B tag may hold thousands of curve sets: such a profile never reaches the colour engine."""
    from PIL import ImageCms

    from mnv3.images import decode

    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    count = int.from_bytes(plain[128:132], "big")
    hostile = bytearray(plain.replace(b"sRGB", b"none"))
    hostile[132 + 12 * (count - 1) : 136 + 12 * (count - 1)] = b"D2B0"
    called = []
    monkeypatch.setattr(decode, "_is_srgb", lambda profile: called.append(profile) or True)
    for profile in (bytes(hostile), plain):
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (10, 200, 30)).save(file, "PNG", icc_profile=profile)
        assert open_picture(file.getvalue()).getpixel((0, 0)) == (10, 200, 30)
    assert called == [plain]
