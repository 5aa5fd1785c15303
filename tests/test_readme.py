"""What README.md promises: commands that are the real ones, figures from the metrics files, a valid Space."""

import json
import re
from pathlib import Path

import pytest
import yaml

import mnv3
from mnv3.explanation.faithfulness import published
from mnv3.nets.factory import read_spec
from mnv3.nets.spec import multiply_adds, parameters
from tests.benchmarks import table

pytest_plugins = ["app_server"]

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
    from mnv3.checkpoints.registry import TIMM

    for line in front_matter["preload_from_hub"]:
        repo, files = line.split(" ")
        assert repo in TIMM and repo in front_matter["models"] and files == "config.json,model.safetensors"


@pytest.mark.parametrize("name", sorted(path.parent.name for path in (ROOT / "mnv3" / "weights").glob("*/config.json")))
def test_the_table_quotes_the_metrics_files(name):
    folder = ROOT / "mnv3" / "weights" / name
    metrics, config = (json.loads((folder / file).read_text()) for file in ("metrics.json", "config.json"))
    spec, machine = read_spec(config["spec"]), metrics["machine"]
    assert metrics["test"]["n"] == 10_000
    row = (
        f"| `{name}` | {metrics['test']['top1']:.2%} | {parameters(spec):,} | {multiply_adds(spec, 32):,} "
        f"| {machine['hardware']}, torch {machine['torch']} | {machine['minutes']:.0f} |"
    )
    assert row in README.splitlines()


def test_the_table_for_hosts_has_every_variable_that_is_read():
    from mnv3.web import settings

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


def test_the_tables_of_how_fast_are_made_from_what_was_measured():
    assert table.written(README) == README
    assert table.written(README.replace("| timm eager |", "| timm eager | 1")) == README, "this could not have failed"


def test_every_local_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_every_example_has_its_source_and_licence():
    table = (ROOT / "examples" / "README.md").read_text()
    for picture in (ROOT / "examples").iterdir():
        if picture.suffix in (".jpg", ".png"):
            assert f"| `{picture.name}` |" in table


def snippet(first):
    """README's Python block that starts so."""
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if b.startswith(first))
    return block


def test_the_snippets_for_programs_run(app_url, monkeypatch):
    """Line by line, against a running app, with what README says that the first call gives."""
    monkeypatch.chdir(ROOT)
    names, answers = {}, {}
    for line in snippet("from gradio_client").replace("http://127.0.0.1:7860", app_url).splitlines():
        if line.startswith("client."):
            answers[re.search(r'api_name="/(\w+)"', line)[1]] = eval(line, names)
        else:
            exec(line, names)
    assert set(answers) == {"predict", "explain", "compare", "trust", "models"}
    said = re.search(r"^# (\{'label': 'frog', .*)…\}, …\]\}$", README, re.MULTILINE)[1]
    assert str(answers["predict"]).startswith(said)
    assert answers["explain"]["checkpoint"] == "cifar10-small" and answers["compare"]["agreement"]
    assert {"here", "download"} <= {entry["state"] for entry in answers["models"]}


def test_the_snippet_without_the_app_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(snippet("import mnv3\n\ncheckpoint"), names)
    assert names["explanation"].top()[0].label == "frog"


def test_what_was_decided_for_hosts_is_what_the_app_does():
    from mnv3.web import app, server

    part = README.split("## Host it yourself")[1].split("## What a host can set")[0]
    source = Path(app.__file__).read_text()
    for words in ("run_history=False", "ssr_mode=False"):
        assert words in part and words in source
    assert f"queue(max_size={app.QUEUE})" in part and server.KEEP_FILES == (3600, 3600)
    assert f"{app.MAX_UPLOAD.removesuffix('mb')} MB" in part and app.AT_ONCE == 2
    assert f"state_session_capacity={app.SESSIONS}" in part and "state_session_capacity=SESSIONS" in source


@pytest.fixture
def runs():
    """What the runs that README quotes beside Security wrote, by the benchmark's name."""
    folder = ROOT / "tests" / "benchmarks"
    return {name: json.loads((folder / f"{name}.json").read_text())
            for name in ("pictures", "differential", "faults", "kills", "full_disk")}  # fmt: skip


def harm_done(runs):
    """(benchmark, what was done, what came) as README has them."""
    ordinary, harmed, same = runs["pictures"]["ordinary"], runs["pictures"]["harmed"], runs["differential"]
    kills, disk = runs["kills"], runs["full_disk"]
    apart = [max(way["apart"] for name, way in same["most apart"].items() if name.startswith(size))
             for size in ("ordinary", "large")]  # fmt: skip
    assert kills["differs"] == kills["left behind"] == disk["failed"] == []
    yield "pictures", f"{ordinary['tried']:,} files as programs write them, of {ordinary['kinds']} kinds", (
        f"{ordinary['predicted']:,} seen as a viewer shows them, {ordinary['refused']} refused, "
        f"{ordinary['failed']} failed"
    )
    yield "pictures", f"{harmed['tried']:,} harmed files, of {harmed['kinds']} kinds", (
        f"{harmed['predicted']} read, {harmed['refused']:,} refused in a sentence, {harmed['failed']} failed; at most "
        f"{harmed['slowest, ms']} ms of processor time and {harmed['most, MB']} MB"
    )
    yield "differential", (
        f"{same['ordinary']} pictures of {same['kinds']} kinds and {same['large']} JPEGs of 12 megapixels, through the "
        "app, a `data:` URI and `mnv3.explain`, against torchvision's transforms"
    ), f"probabilities at most {apart[0]:.1e} and {apart[1]:.1e} apart, {same['wrong']} wrong"
    crowd = runs["faults"]["crowd"]
    assert crowd["right"] + crowd["told that the queue is full"] == crowd["times"] * crowd["visitors at once"]
    yield "faults", f"{crowd['visitors at once']} visitors at once, {crowd['times']} times", (
        f"{crowd['right']} answers, each to one's own picture; {crowd['told that the queue is full']} told that the "
        "queue is full"
    )
    yield "kills", f"a training killed (SIGKILL) {kills['kills']} times, saving after every step, and resumed", (
        f"the end is that of an uninterrupted run; {kills['in the middle of a save']} of the kills fell into a save"
    )
    yield "full_disk", f"{', '.join(disk['tried'])}, with room for {disk['room'][0]} to {disk['room'][-1]}", (
        "a sentence each, what was whole stays whole, and with room again it goes on"
    )


def test_what_was_done_to_it_is_quoted_from_the_runs(runs):
    rows = [f"| `{name}` | {what} | {came} |" for name, what, came in harm_done(runs)]
    assert [row for row in rows if row not in README.splitlines()] == []
    for about in (run["machine"] for run in runs.values()):
        words = f"{about['cores used']} core of {about['hardware']}, Python {about['python']}, torch {about['torch']}"
        assert f"{words}, Pillow {about['Pillow']}" in " ".join(README.split())
