"""What may import what: a package imports only those that its row names, and Gradio is imported in web/ alone."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mnv3"
EVERYONES = {"errors", "basics", "distributed"}
MAY = {
    "nets": set(),
    "images": set(),
    "visual": set(),
    "checkpoints": {"nets", "images"},
    "inference": {"checkpoints", "nets"},
    "explanation": {"inference", "checkpoints", "nets", "images"},
    "training": {"checkpoints", "nets", "images", "visual"},
    "web": {"explanation", "inference", "checkpoints", "nets", "images", "visual", "claims"},
}


def imported(file):
    """The absolute names of the modules that a file imports, those inside functions too."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(parts[: len(parts) - node.level]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms(file):
    return {name.split(".")[1] for name in imported(file) if name.startswith("mnv3.")}


@pytest.mark.parametrize("room", MAY)
def test_a_package_imports_only_what_lies_below_it(room):
    known = EVERYONES | MAY[room] | {room, *(p.stem for p in PACKAGE.glob("*.py")), *MAY}
    files = list((PACKAGE / room).rglob("*.py"))
    assert len(files) > 1
    for file in files:
        assert (rooms(file) & known) - EVERYONES - MAY[room] - {room} == set(), file


def test_what_every_package_may_import_imports_none_of_them():
    for name in EVERYONES:
        assert rooms(PACKAGE / f"{name}.py") <= EVERYONES, name


def test_gradio_is_imported_in_web_alone():
    uses = {p for p in PACKAGE.rglob("*.py") if any(n.split(".")[0] == "gradio" for n in imported(p))}
    assert uses and {p.relative_to(PACKAGE).parts[0] for p in uses} == {"web"}
    assert not any("gradio" in n for p in (PACKAGE / "web" / "views").glob("*.py") for n in imported(p))


def test_no_package_or_module_has_the_name_of_a_public_function():
    import mnv3

    modules = {p.stem for p in PACKAGE.glob("*.py")} | {p.name for p in PACKAGE.iterdir() if p.is_dir()}
    assert modules & {name for name in mnv3.__all__ if name[0].islower()} == set()
