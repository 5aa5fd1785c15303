"""Folders of pictures, one folder a class."""

from __future__ import annotations

from pathlib import Path

from ..basics import MAX_LABEL_LENGTH, fits
from ..distributed import say
from ..errors import InputError

PICTURE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm"}


def find_classes(folder: Path, classes: tuple[str, ...] | None = None) -> dict[str, list[Path]]:
    """Class names in order, each with its picture files; opens none of them.

    With `classes`, the training split's, one beside them is refused. Raises InputError for a missing
    folder, an empty class or fewer than two classes.
    """
    if not folder.is_dir():
        wanted = "train/ and test/ (or val/) in it, or the classes themselves, of which a share is split off"
        raise InputError(f"There is no folder {folder.name}/: the data folder needs {wanted}.")
    found, others = {}, []
    for child in sorted(child for child in folder.iterdir() if child.is_dir()):
        if _hidden(child):
            say(f"passed over {folder.name}/{child.name}, which is not a class")
            continue
        inside = sorted(p for p in child.iterdir() if p.name[0] != ".")
        files = [p for p in inside if p.suffix.lower() in PICTURE_ENDINGS]
        others += [p for p in inside if p.suffix.lower() not in PICTURE_ENDINGS]
        if not fits(child.name):
            wanted = f"at most {MAX_LABEL_LENGTH} characters of UTF-8"
            raise InputError(f"Class folder {child.name!r:.80} can't name a class: rename it to {wanted}.")
        if not files:
            deeper = any(p.is_dir() for p in inside)
            remedy = "move them up from the folders in it, or give --data that" if deeper else "fill or remove it"
            raise InputError(f"Class folder {folder.name}/{child.name} has no pictures: {remedy}.")
        if classes and child.name not in classes:
            raise InputError(f"{folder.name}/ has a class {child.name!r} that the training split lacks: remove it.")
        found[child.name] = files
    if others:  # a class with half its pictures in a folder below, or of a kind that isn't read
        first = "/".join(others[0].parts[-3:])
        say(f"passed over {len(others)} in the classes' folders that are not pictures by their names: {first}, …")
    if classes and not found:
        raise InputError(f"{folder.name}/ has no class folder: put its pictures into {folder.name}/<class>/.")
    if len(found) < 2 and not classes:
        count, wanted = len(found) or "no", f"two or more, {folder.name}/<class>/ for the pictures of each"
        raise InputError(f"{folder.name}/ has {count} class folder: training needs {wanted}.")
    return found


def _hidden(child: Path) -> bool:
    return child.name.startswith((".", "__"))
