"""What README.md promises: commands that are the real ones, figures from the metrics files, a valid Space."""

import json
import re
from pathlib import Path

import pytest
import yaml

import mnv3
from mnv3.faithfulness import published
from mnv3.tables import Spec, multiply_adds, parameters

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
REQUIREMENTS = (ROOT / "requirements.txt").read_text()
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def commands():
    return [line for line in README.splitlines() if line.startswith("python3 -m venv")]


def test_two_commands_install_and_start_and_install_and_test():
    start, test = commands()
    assert start.endswith(".venv/bin/pip install -r requirements.txt && .venv/bin/python app.py")
    assert "tests/requirements.txt" in test and test.endswith("-m pytest")


def test_ci_runs_the_readmes_test_command():
    assert commands()[1] in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.fixture
def front_matter():
    assert README.startswith("---\n"), "a Space reads its settings from the very first line"
    return yaml.safe_load(README.split("---\n")[1])


def test_front_matter_is_what_a_space_accepts(front_matter):
    assert front_matter["sdk"] == "gradio" and (ROOT / front_matter["app_file"]).is_file()
    assert {front_matter["colorFrom"], front_matter["colorTo"]} <= COLOURS
    assert re.fullmatch(r"[\U0001F300-\U0001FAFF]", front_matter["emoji"])
    assert len(front_matter["short_description"]) <= 60
    assert isinstance(front_matter["python_version"], str), "3.10 as a number would be 3.1"
    assert front_matter["license"] == "mit" and "MIT License" in (ROOT / "LICENSE").read_text()


def test_the_spaces_gradio_is_the_one_that_is_tested(front_matter):
    assert f"gradio=={front_matter['sdk_version']}" in REQUIREMENTS.splitlines()


def test_preloaded_weights_are_ones_that_the_catalogue_looks_for(front_matter):
    from mnv3.catalogue import TIMM

    for line in front_matter["preload_from_hub"]:
        repo, files = line.split(" ")
        assert repo in TIMM and repo in front_matter["models"] and files == "config.json,model.safetensors"


@pytest.mark.parametrize("name", ["cifar10-small", "cifar10-large"])
def test_the_table_quotes_the_metrics_files(name):
    folder = ROOT / "mnv3" / "weights" / name
    metrics, config = (json.loads((folder / file).read_text()) for file in ("metrics.json", "config.json"))
    spec, machine = Spec.from_dict(config["spec"]), metrics["machine"]
    assert metrics["test"]["n"] == 10_000
    row = (
        f"| `{name}` | {metrics['test']['top1']:.2%} | {parameters(spec):,} | {multiply_adds(spec, 32):,} "
        f"| {machine['hardware']}, torch {machine['torch']} | {machine['minutes']:.0f} |"
    )
    assert row in README.splitlines()


def test_the_table_for_hosts_has_every_variable_that_is_read():
    from mnv3 import settings

    rows = [line for line in README.splitlines() if line.startswith("| `MNV3_")]
    assert [row.split("`")[1] for row in rows] == [
        settings.WEIGHTS, settings.OFFERED, settings.OWN, settings.MCP,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["cifar10-small", "cifar10-large"])
def test_what_was_measured_of_the_maps_is_quoted(name):
    """Where there is a faithfulness.json, README has its line, and it was measured on the weights beside it."""
    file = ROOT / "mnv3" / "weights" / name / "faithfulness.json"
    if not file.is_file():
        assert f"| `{name}` | deletion |" not in README
        return
    found = published(mnv3.load(name))
    assert found, f"{file.name} was measured on other weights: measure again"
    for measure in ("deletion", "insertion"):
        areas, differences = found["areas"][measure], found["differences"][measure]
        row = (
            f"| `{name}` | {measure} | {found['n']:,} | {areas['evidence']:.3f} | "
            f"{areas['random']:.3f} (p {differences['random']['p']:.3g}) | "
            f"{areas['centred']:.3f} (p {differences['centred']['p']:.3g}) | {found['randomised']['mean']:.2f} |"
        )
        assert row in README.splitlines(), row


def test_every_local_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_every_example_has_its_source_and_licence():
    table = (ROOT / "examples" / "README.md").read_text()
    for picture in (ROOT / "examples").iterdir():
        if picture.suffix in (".jpg", ".png"):
            assert f"| `{picture.name}` |" in table
