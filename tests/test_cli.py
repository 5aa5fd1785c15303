"""The `mnv3` command, and the package as pip installs it."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mnv3 import cli

pytest_plugins = ["app_server"]
ROOT = Path(__file__).parents[1]
FROG = ROOT / "examples" / "frog.png"


def test_a_picture_is_explained_in_words(capsys):
    assert cli.main(["explain", str(FROG), "--checkpoint", "cifar10-small"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cifar10-small:" and lines[1].split()[1] == "frog"
    assert sum(line.startswith("  SE block") for line in lines) == 9 and "all of them" in lines[-1]


def test_the_same_as_json_and_as_csv(capsys):
    assert cli.main(["explain", str(FROG), "--model", "small", "--checkpoint", "cifar10-small", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["class"] == "frog" and len(found["blocks"]) == 9
    assert cli.main(["explain", str(FROG), "--checkpoint", "cifar10-small", "--csv"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].startswith("block,side,channel,gate")
    assert len(rows) == 1 + sum(len(block["gates"]) for block in found["blocks"])


def test_a_target_class_changes_what_is_explained(capsys):
    words = ["explain", str(FROG), "--checkpoint", "cifar10-small", "--json"]
    assert cli.main([*words, "--target", "cat"]) == 0
    assert json.loads(capsys.readouterr().out)["class"] == "cat"
    assert cli.main([*words, "--target", "unicorn"]) == 2
    assert "knows no class 'unicorn'" in capsys.readouterr().err


def test_a_page_that_needs_no_server(tmp_path, capsys):
    picture, out = tmp_path / "<b>frog.png", tmp_path / "page.html"
    shutil.copyfile(FROG, picture)
    assert cli.main(["explain", str(picture), "--checkpoint", "cifar10-small", "--html", str(out)]) == 0
    page = out.read_text()
    assert "<b>frog" not in page and "&lt;b&gt;frog.png" in page and "frog" in page
    assert "http://" not in page and "https://" not in page.replace("https://www.w3.org", "")


@pytest.mark.parametrize(
    "words, said",
    [(["explain", "nowhere.png"], "no picture file"), (["explain", str(FROG), "--checkpoint", "nothing"], "'nothing'")],
)
def test_what_a_user_can_put_right_is_one_sentence(words, said, capsys):
    assert cli.main(words) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mnv3: ") and said in line


def test_the_checkpoints_are_listed(capsys):
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("cifar10-small ") and " here " in line for line in lines)
    assert any(" download " in line for line in lines)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0 and command in capsys.readouterr().out


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder in which pip installed the wheel, built from the files that git would commit."""
    folder = tmp_path_factory.mktemp("installed")
    tree, site = folder / "tree", folder / "site"
    tree.mkdir()
    for name in ("mnv3", "examples"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    quiet = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*quiet, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, tree], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*quiet, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True)
    return wheel, site


def test_the_wheel_holds_every_file_of_the_package_and_the_examples(installed):
    held = set(zipfile.ZipFile(installed[0]).namelist())
    files = [p for p in (ROOT / "mnv3").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    wanted = {p.relative_to(ROOT).as_posix() for p in files}
    wanted = {name for name in wanted if not name.endswith(".md") or name.startswith("mnv3/weights/")}
    wanted |= {f"mnv3/examples/{p.name}" for p in (ROOT / "examples").iterdir() if p.is_file()}
    assert wanted - held == set()


def test_the_installed_command_explains_an_installed_example(installed, tmp_path):
    site = installed[1]
    environment = {**os.environ, "PYTHONPATH": str(site), "HOME": str(tmp_path)}
    code = "import mnv3\nfrom mnv3.inference.reference import example_pictures\n"
    code += "print(mnv3.__file__, len(example_pictures()))"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert said[0].startswith(str(site)) and int(said[1]) >= 10
    words = ["explain", str(FROG), "--checkpoint", "cifar10-small"]
    done = subprocess.run([sys.executable, "-m", "mnv3", *words], cwd=tmp_path, env=environment, capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert "frog" in done.stdout
    assert (site / "bin" / "mnv3").is_file()


def test_the_app_starts_from_an_installed_wheel(installed, tmp_path):
    from app_server import App

    (tmp_path / "app.py").write_text("import sys\nfrom mnv3.cli import main\n\nsys.exit(main(['app']))\n")
    app = App(tmp_path / "home", tmp_path, code=tmp_path, more={"PYTHONPATH": str(installed[1])})
    try:
        status, body = app.get("/config")
        assert status == 200 and "frog.png" in body
    finally:
        app.kill()
