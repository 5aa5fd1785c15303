"""The largest pictures that are read, of every kind, mode and compression: each under 2 s and 300 MB, or refused.

    python -m tests.benchmarks.limits [name ...]

As many pixels as the kind's limit allows, or as fit into the limit of bytes. Each is opened in a process of its own,
for a network of 224 pixels, once as grain, which is the worst for what unpacks bits, and once as a smooth scene. Prints
processor seconds, MB at the peak above what the process had before, and what came. Linux only, as the memory is the
kernel's count.
"""

import io
import json
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
MOST_SECONDS, MOST_MB = 2, 300
KINDS = {  # name: kind, mode, how it is written
    "JPEG": ("JPEG", "RGB", {"quality": 90}), "JPEG progressive": ("JPEG", "RGB", {"quality": 90, "progressive": True}),
    "JPEG CMYK": ("JPEG", "CMYK", {"quality": 90}), "PNG": ("PNG", "RGB", {"compress_level": 1}),
    "PNG RGBA": ("PNG", "RGBA", {"compress_level": 1}), "PNG LA": ("PNG", "LA", {"compress_level": 1}),
    "PNG 16 bit": ("PNG", "I;16", {"compress_level": 1}), "PNG palette": ("PNG", "P", {"compress_level": 1}),
    "PNG 1 bit": ("PNG", "1", {}), "WebP": ("WEBP", "RGB", {"quality": 90, "method": 0}),
    "WebP lossless": ("WEBP", "RGB", {"lossless": True, "method": 0, "quality": 0}),
    "WebP RGBA": ("WEBP", "RGBA", {"quality": 90, "method": 0}), "GIF": ("GIF", "P", {}), "BMP": ("BMP", "RGB", {}),
    "BMP palette": ("BMP", "P", {}), "BMP 1 bit": ("BMP", "1", {}),
    **{f"TIFF {mode} {how}": ("TIFF", mode, {"compression": how})
       for mode, how in [("RGB", "raw"), ("RGB", "tiff_lzw"), ("RGB", "tiff_adobe_deflate"), ("RGB", "packbits"),
                         ("RGB", "zstd"), ("RGB", "jpeg"), ("RGB", "lzma"), ("LA", "raw"), ("LA", "tiff_lzw"),
                         ("LA", "zstd"), ("1", "group4"), ("1", "group3"), ("CMYK", "tiff_lzw"), ("RGBA", "zstd"),
                         ("I;16", "zstd"), ("I", "zstd"), ("F", "zstd"), ("P", "tiff_lzw")]},
    "AVIF": ("AVIF", "RGB", {"quality": 90, "speed": 10}), "AVIF 4:4:4": ("AVIF", "RGB", {
        "quality": 100, "subsampling": "4:4:4", "speed": 10}), "AVIF RGBA": ("AVIF", "RGBA", {"speed": 10}),
    "JPEG 2000": ("JPEG2000", "RGB", {}), "JPEG 2000 RGBA": ("JPEG2000", "RGBA", {}),
    "JPEG 2000 lossy": ("JPEG2000", "RGB", {"irreversible": True, "quality_mode": "rates", "quality_layers": [10]}),
    "JPEG 2000 16 bit": ("JPEG2000", "I;16", {}), "JPEG 2000 tiled": ("JPEG2000", "RGB", {"tile_size": (256, 256)}),
    "PPM": ("PPM", "RGB", {}), "PGM": ("PPM", "L", {}), "PGM 16 bit": ("PPM", "I;16", {}), "PBM": ("PPM", "1", {}),
    "ICO": ("ICO", "png", {}), "ICO bitmap": ("ICO", "bitmap", {}),
    "PPM in digits": ("PPM", "plain", {}),
}  # fmt: skip


def drawn(mode, width, height, smooth):
    random = np.random.default_rng(0)
    bands = {"RGB": 3, "P": 1, "RGBA": 4, "CMYK": 4, "LA": 2}.get(mode, 1)
    array = random.integers(0, 256, (height, width, bands), dtype=np.uint8)
    if smooth:
        ramp = (np.linspace(0, 120, width)[None] + np.linspace(0, 120, height)[:, None]).astype(np.uint8)
        array = ramp[..., None] + array % 8
    if mode in ("I;16", "I", "F"):
        deep = array[..., 0].astype(np.uint16) * 257
        return Image.fromarray(deep if mode == "I;16" else deep.astype(np.int32 if mode == "I" else np.float32))
    if mode == "1":
        return Image.fromarray(array[..., 0] > 127)
    if mode == "P":
        image = Image.fromarray(array[..., 0])
        image.putpalette(bytes(range(256)) * 3)
        return image
    return Image.fromarray(array[..., 0]) if bands == 1 else Image.fromarray(array, mode)


def icon(image, how):
    """One that large: Pillow writes none of more than 256 pixels a side."""
    if how == "png":
        image.save(buffer := io.BytesIO(), "PNG", compress_level=1)
        inside = buffer.getvalue()
    else:
        mask = bytes(-(-image.width // 32) * 4 * image.height)
        head = struct.pack("<IiiHHIIiiII", 40, image.width, 2 * image.height, 1, 32, 0, 0, 0, 0, 0, 0)
        inside = head + image.tobytes("raw", "BGRA") + mask
    return b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(inside), 22) + inside


def written(kind, mode, options, pixels, smooth):
    """A file of about so many pixels, or fewer if it would be too large to be read."""
    from mnv3.images.decode import MAX_BYTES, MAX_KIND_BYTES

    most = MAX_KIND_BYTES.get(kind, MAX_BYTES)
    for _ in range(6):
        side = int(pixels**0.5) // 8 * 8
        if mode == "plain":
            data = b"P3 %d %d 255 " % (side, side) + b"1 " * (3 * side * side)
        elif kind == "ICO":
            data = icon(drawn("RGBA", side, side, smooth), mode)
        else:
            drawn(mode, side, side, smooth).save(buffer := io.BytesIO(), kind, **options)
            data = buffer.getvalue()
        if len(data) <= most:
            return side, data
        pixels *= 0.97 * most / len(data)


def opened(path):
    """In a process of its own: processor seconds, MB at the peak, and what came."""
    from pictures import forget, peak

    from mnv3.errors import InputError
    from mnv3.images.decode import open_picture

    open_picture(ROOT / "examples" / "frog.png", 448)
    forget()
    before, began = peak()[1], time.process_time()
    try:
        picture = open_picture(path, 448)
        came = f"{picture.width}x{picture.height}"
    except InputError as error:
        came = f"refused: {error}"
    return time.process_time() - began, (peak()[0] - before) / 1e6, came


def main():
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(opened(sys.argv[2])))
        return 0
    from mnv3.images.decode import MEGAPIXELS

    wrong = []
    print("| | | side | file, MB | seconds | MB | came |\n|-|-|-|-|-|-|-|")
    for name in sys.argv[1:] or KINDS:
        kind, mode, options = KINDS[name]
        for smooth in (False, True):
            try:
                side, data = written(kind, mode, options, MEGAPIXELS[kind] * 1_000_000, smooth)
            except Exception as error:  # what this Pillow can't write
                print("|", name, "|", f"not written: {error!r:.60}", "|", flush=True)
                break
            with tempfile.NamedTemporaryFile() as file:
                file.write(data)
                file.flush()
                child = subprocess.run([sys.executable, __file__, "--child", file.name], capture_output=True, text=True)
            if child.returncode:
                print(child.stderr[-500:])
                wrong.append(name)
                continue
            seconds, took, came = json.loads(child.stdout)
            bad = seconds > MOST_SECONDS or took > MOST_MB
            wrong += [name] * bad
            row = [name, "smooth" if smooth else "grain", str(side), f"{len(data) / 1e6:.1f}", f"{seconds:.2f}",
                   f"{took:.0f}", came[:90] + " **over**" * bad]  # fmt: skip
            print("|", " | ".join(row), "|", flush=True)
    print(f"over the limits: {', '.join(dict.fromkeys(wrong)) or 'none'}")
    return bool(wrong)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
