"""What the article claims of MobileNetV3, beside what was measured: claims.json has the figures, this the verdicts.

A verdict is computed wherever a number decides. README and the app show what `claims` returns.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .nets.spec import Spec, gated_blocks, multiply_adds, parameters
from .nets.tutorial import ArticleSpec

FILE = Path(__file__).with_suffix(".json")
SEEDS = 3
ABLATIONS = ("small-no-se", "small-relu", "small-3x3")
WIDTHS = (0.5, 0.75, 1.0)
SIZES = (16, 24, 32, 48, 64)  # test resolutions of a network that was trained at 32

HOLDS, CONDITIONS, NOT, NOT_V3 = (
    "holds", "holds with conditions", "does not hold", "is not what MobileNetV3 has",
)  # fmt: skip
UNDECIDED = "not decided by these runs"  # a difference within the noise is no condition under which a claim holds
OPEN, PARTLY = "not measured yet", "not measured in full yet"
TRAIN = "python -m tests.benchmarks.claims train"
SPEED = "python -m tests.benchmarks.claims speed"
MARKS = "<!-- claims -->", "<!-- end of claims -->"  # where README's table of them stands
PAPER = {"v2": 0.720, "large": 0.752, "small": 0.674}  # top-1 on ImageNet's 50,000 validation pictures, 224²
TORCHVISION = {"v2": (0.71878, 0.72154), "large": (0.74042, 0.75274), "small": (0.67668, None)}  # V1 and V2 weights
SWEPT_WIDTHS, SWEPT_SIDES = (0.35, 0.5, 0.75, 1.25), (96, 128, 160, 192, 256)  # the paper's
WAYS = ("ours 1", "bare 1", "ours 32", "bare 32")  # our explained pass, bare ONNX Runtime; pictures at once
HEAD = ("the article claims", "measured", "how", "verdict")
SWEEP_HEAD = ("network, 1,000 classes", "side", "parameters", "multiply-adds", *(f"ms, {way}" for way in WAYS))
COUNTED = "counted from the tables, 224², 1,000 classes"


@dataclass(frozen=True)
class Claim:
    """One claim in the article's sense, the number that bears on it, how that was come by, and the verdict."""

    said: str
    number: str
    how: str
    verdict: str


def read() -> dict:
    """What `python -m tests.benchmarks.claims collect` wrote: `runs` by name, `speed` by network; empty without it."""
    return json.loads(FILE.read_text()) if FILE.is_file() else {"runs": {}, "speed": {}}


def claims(data: dict) -> list[Claim]:
    """Every claim, those that numbers decide first. data: as `read` returns it."""
    runs, speed = data["runs"], data["speed"]
    return [
        _imagenet(), _operations(), _parameters(), _cifar(runs), _faster(speed),
        _articles_sizes(), _articles_accuracy(runs), _articles_gates(runs),
        _ablation(runs, "small-no-se", "Squeeze-and-excitation makes it more accurate"), _held(runs),
        _ablation(runs, "small-relu", "h-swish makes it more accurate than ReLU"),
        _ablation(runs, "small-3x3", "5×5 kernels make it more accurate than 3×3 alone"),
        _widths(runs), _resolutions(runs), _heads(), *_words(),
    ]  # fmt: skip


# what numbers decide ------------------------------------------------------------------------------------------------


def _imagenet() -> Claim:
    pairs = [(PAPER["large"], PAPER["v2"]), *zip(TORCHVISION["large"], TORCHVISION["v2"], strict=True)]
    said = ", ".join(f"{100 * large:.1f} against {100 * v2:.1f}" for large, v2 in pairs)
    return Claim(
        "MobileNetV3 (Large) is more accurate than MobileNetV2 on ImageNet",
        f"top-1 {said} %; Small, at {100 * PAPER['small']:.1f} %, is not",
        "published: the paper, then torchvision's V1 and V2 weights; 50,000 validation pictures",
        _all(large > v2 for large, v2 in pairs),
    )


def _operations() -> Claim:
    v2, large, small = (multiply_adds(Spec.of(v)) for v in ("v2", "large", "small"))
    number = f"{large / 1e6:.1f} M multiply-adds (Small {small / 1e6:.1f} M) against {v2 / 1e6:.1f} M"
    return Claim("It takes fewer operations than MobileNetV2", number, COUNTED, _all([large < v2]))


def _parameters() -> Claim:
    v2, large, small = (parameters(Spec.of(v)) for v in ("v2", "large", "small"))
    number = f"Large {large:,} against {v2:,}; Small has {small:,}, but not the 75.2 %"
    return Claim("It has fewer parameters than MobileNetV2", number, COUNTED, _all([large < v2]))


def _cifar(runs: dict) -> Claim:
    said, found = "It is more accurate than MobileNetV2 on CIFAR-10, trained alike", _of(runs, "large", "v2")
    if not found:
        return _open(said, runs, ("large", "v2"))
    large, v2 = found
    costs = [f"{parameters(s) / 1e6:.2f} M parameters and {multiply_adds(s, 32) / 1e6:.1f} M multiply-adds"
             for s in (Spec.of(name, 1.0, 10, 1) for name in ("large", "v2"))]  # fmt: skip
    number = f"top-1 {_percent(large)} against {_percent(v2)}, with {costs[0]} against {costs[1]}"
    return Claim(said, number, f"{_how(found)}; 32², the first stride of both at 1", _apart(large, v2))


def _faster(speed: dict) -> Claim:
    said, taken = "It is faster than MobileNetV2", speed.get("networks", {})
    if not {"v2", "large"} <= set(taken):
        return Claim(said, "–", f"`{SPEED}`", OPEN)
    large, v2 = taken["large"], taken["v2"]
    times = "; ".join(f"{way}: {large[way]:g} against {v2[way]:g}" for way in WAYS)
    how = (
        f"median ms of Large against V2, our engine and bare ONNX Runtime, batch 1 and 32, 224², n = {speed['n']}, "
        f"{_machine([speed])}; the paper measured phones"
    )
    return Claim(said, times, how, _share([large[way] < v2[way] for way in WAYS]))


def _articles_sizes() -> Claim:
    specs = large, small, papers = *(ArticleSpec(f"article-{s}", 1000) for s in ("large", "small")), Spec.of("small")
    sizes = [f"{parameters(s) / 1e6:.1f} M parameters and {multiply_adds(s) / 1e6:,.0f} M multiply-adds" for s in specs]
    number = f"its ‘Small’ has {sizes[1]}, its ‘Large’ {sizes[0]}; the paper's Small {sizes[2]}"
    return Claim("Of the article's own two networks, Small is the smaller", number, "counted from its listing, 224², "
                 "1,000 classes", _all([parameters(small) < parameters(large)]))  # fmt: skip


ARTICLES = ("article-large", "article-recipe-large", "article-small", "article-recipe-small")
ARTICLE_WORDS = ("its Large", "the paper's Large", "its Small", "the paper's Small")


def _articles_accuracy(runs: dict) -> Claim:
    said, found = "The article's listings do what MobileNetV3 does, under its own recipe", _of(runs, *ARTICLES)
    if not found:
        return _open(said, runs, ARTICLES)
    number = ", ".join(f"{name} {_percent(run)}" for name, run in zip(ARTICLE_WORDS, found, strict=True))
    verdicts = [_apart(found[0], found[1]), _apart(found[2], found[3])]
    verdict = verdicts[0] if len(set(verdicts)) == 1 else CONDITIONS
    return Claim(said, f"top-1: {number}", _how(found) + "; Adam, 10 epochs, final map 1×1 in all four", verdict)


def _articles_gates(runs: dict) -> Claim:
    spreads = {name: statistics.mean(runs[name]["gates"]["spread"]) for name in ARTICLES if name in runs}
    number = "sigmoid never reaches 0 or 1, hard-sigmoid does; " + ", ".join(
        f"{words} {spreads[name]:.3f}" for name, words in zip(ARTICLES, ARTICLE_WORDS, strict=True) if name in spreads
    )
    how = "how much a gate varies over the training pictures (standard deviation), mean over blocks and channels"
    missing = f"; the rest by `{TRAIN}`" if len(spreads) < len(ARTICLES) else ""
    return Claim("Its sigmoid gates are MobileNetV3's", number, how + missing, NOT_V3)


def _ablation(runs: dict, other: str, said: str) -> Claim:
    pairs = _pairs(runs, "small", other)
    if not pairs:
        return _open(said, runs, ["small-seed0", f"{other}-seed0"])
    ours, others = ([run["top1"] for run in found] for found in zip(*pairs, strict=True))
    ratio = multiply_adds(Spec.of(other, strides=1), 32) / multiply_adds(Spec.of("small", strides=1), 32)
    number = f"top-1 {_spread(ours)} whole, {_spread(others)} {_less(other)} ({100 * (ratio - 1):+.0f} % multiply-adds)"
    return _over_seeds(said, number, [run for pair in pairs for run in pair], _overlap(ours, others))


def _held(runs: dict) -> Claim:
    said = "The answer hangs on gates that look at the picture"
    found = [run for run in _seeds(runs, "small") if run.get("held") is not None]
    if not found:
        return _open(said, runs, ["small-seed0"])
    without = [run["top1"] for run in _seeds(runs, "small-no-se")]
    whole, held = ([run[key] for run in found] for key in ("top1", "held"))
    beside = f"; trained without SE {_spread(without)}, which is another question" if without else ""
    number = f"top-1 {_spread(whole)} with its gates, {_spread(held)} with all held at their mean{beside}"
    return _over_seeds(said, number, found, _overlap(whole, held))


def _over_seeds(said: str, number: str, found: Sequence[dict], verdict: str) -> Claim:
    """A claim that SEEDS decide: with fewer, the number there is and the command that makes the rest."""
    if len({run["seed"] for run in found}) < SEEDS:
        return Claim(said, number, f"{_how(found)}; the other seeds by `{TRAIN}`", PARTLY)
    return Claim(said, number, _how(found), verdict)


def _widths(runs: dict) -> Claim:
    said = "It comes small, medium and large, by width"
    names = [f"small-width{w}" if w != 1 else "small-seed0" for w in WIDTHS]
    specs = [Spec.of("small", w, 10, 1) for w in WIDTHS]
    costs = " / ".join(f"{multiply_adds(spec, 32) / 1e6:.1f}" for spec in specs)
    note = "Large and Small are two tables, not two widths, and no paper's table is a ‘medium’"
    if not (found := _of(runs, *names)):
        return _open(said, runs, names)
    tops = [run["top1"] for run in found]
    at, accuracies = " / ".join(map(str, WIDTHS)), " / ".join(map(_percent, found))
    number = f"Small at width {at}: top-1 {accuracies}, {costs} M multiply-adds"
    verdict = CONDITIONS if tops == sorted(tops) else NOT
    return Claim(said, number, f"{_how(found)}; {note}", verdict)


def _resolutions(runs: dict) -> Claim:
    said, run = "It adapts to the input's resolution", runs.get("small-seed0", {})
    if not (found := run.get("resolutions")):
        return _open(said, runs, ["small-seed0"])
    own = found["32"]["plain"]
    rows = [f"{size}²: {100 * at['plain']:.1f} → {100 * at['recalibrated']:.1f}" for size, at in found.items()]
    others = [at for size, at in found.items() if size != "32"]
    plain = [own - at["plain"] < 0.01 for at in others]
    better = [at["recalibrated"] > at["plain"] for at in others]
    verdict = HOLDS if all(plain) else CONDITIONS if any(plain) or any(better) else NOT
    how = f"trained at 32², test pictures resized; plain → BatchNorm recalibrated on training pictures; {_how([run])}"
    return Claim(said, f"top-1 at {', '.join(rows)} %", how, verdict)


def _heads() -> Claim:
    return Claim(
        "It serves detection and segmentation",
        "torchvision's SSDLite on it 21.3 box mAP, its LR-ASPP 57.9 mIoU; the paper: detection over 25 % faster than "
        "with V2 at about its accuracy, segmentation 34 %",
        "published, COCO val2017 (for LR-ASPP with VOC's labels); here only that `mnv3.backbone` gives the maps that "
        "torchvision's does",
        CONDITIONS,
    )


# what the paper's design decides ------------------------------------------------------------------------------------


def _words() -> list[Claim]:
    """Claims that no measurement decides: what the paper has in their place."""
    large = Spec.of("large")
    right = large.gate == "hardsigmoid" and {row.act for row in large.rows} | {large.act} == {"RE", "HS"}
    paper = "the paper, sections 4 and 5; mnv3/nets/spec.py"
    return [
        Claim("Swish and hard-sigmoid gates", "h-swish, a piecewise stand-in for swish, in the stem, the deeper blocks "
              f"and the head; hard-sigmoid in all {len(gated_blocks(large))} and {len(gated_blocks(Spec.of('small')))} "
              "SE blocks", paper, _all([right])),
        Claim("MobileNetV2's bottleneck has max-pooling", "neither network has any: strides of 2 halve the maps", paper,
              NOT_V3),
        Claim("Three candidate blocks, small, medium and large", "one block, whose kernel, widths, SE and activation "
              "the table gives row by row", paper, NOT_V3),
        Claim("An inner-product activation that reduces features to a scalar", "nothing of the kind; the nearest is "
              "SE's gate, one number a channel", paper, NOT_V3),
        Claim("An adaptive inverted residual block", "V2's inverted residual with SE after the depthwise convolution; "
              "only gates depend on the picture", paper, NOT_V3),
        Claim("Network search by reinforcement learning that adapts it to the data set", "the authors searched once, "
              "by reinforcement learning, on ImageNet and for phones' latency (then NetAdapt); the tables that came "
              "out are fixed", paper, NOT_V3),
        Claim("A tool that measures which weights matter most, for compression", "gates weigh channels picture by "
              "picture; NetAdapt shrank layers by measured latency before publication", paper, NOT_V3),
    ]  # fmt: skip


# figures and verdicts -----------------------------------------------------------------------------------------------


def _all(true: Iterable[bool]) -> str:
    return HOLDS if all(true) else NOT


def _share(true: Sequence[bool]) -> str:
    return HOLDS if all(true) else CONDITIONS if any(true) else NOT


def _apart(one: dict, other: dict) -> str:
    """Of one run each: beyond what 95 % of draws of so many test pictures differ by, or within it."""
    noise = 1.96 * math.sqrt(sum(run["top1"] * (1 - run["top1"]) / run["n"] for run in (one, other)))
    difference = one["top1"] - other["top1"]
    return HOLDS if difference > noise else NOT if difference < -noise else UNDECIDED


def _overlap(ours: Sequence[float], others: Sequence[float]) -> str:
    """Of several seeds: all of one above all of the other, all below, or neither."""
    return HOLDS if min(ours) > max(others) else NOT if max(ours) < min(others) else UNDECIDED


def _of(runs: dict, *names: str) -> list[dict] | None:
    return [runs[name] for name in names] if all(name in runs for name in names) else None


def _seeds(runs: dict, variant: str) -> list[dict]:
    return [runs[name] for s in range(SEEDS) if (name := f"{variant}-seed{s}") in runs]


def _pairs(runs: dict, one: str, other: str) -> list[tuple[dict, dict]]:
    """Two variants' runs, of each seed that both have."""
    names = [(f"{one}-seed{s}", f"{other}-seed{s}") for s in range(SEEDS)]
    return [(runs[a], runs[b]) for a, b in names if a in runs and b in runs]


def _less(variant: str) -> str:
    return Spec.of(variant).title.partition("Small ")[2].partition(",")[0]


def _percent(run: dict) -> str:
    return f"{100 * run['top1']:.1f} %"


def _spread(top1s: Sequence[float]) -> str:
    """Mean and the spread (standard deviation over seeds), in percent."""
    spread = f" ± {100 * statistics.stdev(top1s):.1f}" if len(top1s) > 1 else ""
    return f"{100 * statistics.mean(top1s):.1f}{spread} %"


def _how(runs: Sequence[dict]) -> str:
    seeds = len({run["seed"] for run in runs})
    count = f"{seeds} seeds each" if seeds > 1 else "one run each" if len(runs) > 1 else "one run"
    return f"{count}, {runs[0]['n']:,} test pictures of CIFAR-10, {_machine(runs)}"


def _machine(measured: Sequence[dict]) -> str:
    machines = {f"{m['machine']['hardware']}, torch {m['machine']['torch']}" for m in measured}
    return " or ".join(sorted(machines))


def _open(said: str, runs: dict, names: Sequence[str]) -> Claim:
    """A claim whose runs are not all there: what is, and the command that makes the rest."""
    there = [f"{name} {_percent(runs[name])}" for name in names if name in runs]
    if not there:
        return Claim(said, "–", f"`{TRAIN}`", OPEN)
    return Claim(said, f"so far {', '.join(there)}", f"`{TRAIN}` goes on", PARTLY)


# what networks cost -------------------------------------------------------------------------------------------------


def networks() -> dict[str, tuple[Spec | ArticleSpec, int]]:
    """Name -> (description, side): the networks against each other, then widths and resolutions."""
    found = {name: (Spec.of(name), 224) for name in ("v2", "large", "small")}
    found |= {name: (ArticleSpec(name, 1000), 224) for name in ("article-large", "article-small")}
    for size in ("large", "small"):
        found |= {f"{size}-width{w}": (Spec.of(size, w), 224) for w in SWEPT_WIDTHS}
        found |= {f"{size}-at{side}": (Spec.of(size), side) for side in SWEPT_SIDES}
    return found


def sweep(data: dict) -> list[tuple[str, ...]]:
    """A row a network: title, side, parameters, multiply-adds, milliseconds in WAYS ('–' where not measured)."""
    taken = data["speed"].get("networks", {})
    return [
        (_name(spec), f"{side}²", f"{parameters(spec):,}", f"{multiply_adds(spec, side) / 1e6:,.1f} M",
         *(f"{taken[name][way]:g}" if name in taken else "–" for way in WAYS))
        for name, (spec, side) in networks().items()
    ]  # fmt: skip


def _name(spec: Spec | ArticleSpec) -> str:
    return spec.title.partition(",")[0] if isinstance(spec, ArticleSpec) else spec.title


# README -------------------------------------------------------------------------------------------------------------


def markdown(data: dict) -> str:
    """README's tables."""
    rows = [(c.said, c.number, c.how, f"**{c.verdict}**") for c in claims(data)]
    speed = data["speed"]
    how = f"n = {speed['n']}, {_machine([speed])}" if speed else f"not measured yet: `{SPEED}`"
    return "\n".join([
        *_lines(HEAD, rows), "", f"<details><summary>What each network costs: milliseconds, medians ({how})</summary>",
        "", *_lines(SWEEP_HEAD, sweep(data)), "", "</details>",
    ])  # fmt: skip


def _lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["-"] * len(head), *rows)]
