"""The model card: a checkpoint's README.md."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..nets.spec import multiply_adds, parameters

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

MOST_CLASSES = 20  # rows of the table of classes: a card is read, not searched
DATASETS = {r"CIFAR-10\b": "uoft-cs/cifar10", r"ImageNet-1k\b": "ILSVRC/imagenet-1k"}  # how data begins: Hub dataset


def model_card(checkpoint: Checkpoint, repo: str | None = None) -> str:
    """Markdown with the Hub's front matter; every figure comes from the checkpoint's metrics.

    With `repo`, the Hub id it is published under, the snippet loads it by that.
    """
    spec, side = checkpoint.spec, checkpoint.preprocessing.crop
    name, comment = (repo, "") if repo else (".", "  # this file's folder, or its Hub repo id")
    lines = [
        "---", _front_matter(checkpoint), "---",
        f"# {checkpoint.name}", "",
        f"{spec.title}, for {checkpoint.knows}. "
        f"Trained on {checkpoint.data}.", "",
        "| | |", "|-|-|",
        f"| parameters | {parameters(spec):,} |",
        f"| multiply-adds at {side}×{side} | {multiply_adds(spec, side):,} |",
        *_figures(checkpoint), "",
        "Everything that was measured, and how, is in metrics.json.", "",
        "```python", "import mnv3", f'checkpoint = mnv3.load("{name}"){comment}',
        'print(mnv3.explain(checkpoint, "picture.jpg").top())', "```", "",
        *_classes(checkpoint),
    ]  # fmt: skip
    return "\n".join(lines)


def _front_matter(checkpoint: Checkpoint) -> str:
    """YAML as the Hub reads it. model-index holds what was measured on test pictures, and nothing else."""
    from huggingface_hub import EvalResult, ModelCardData  # late: loading a checkpoint needs no client

    known = next((id for start, id in DATASETS.items() if re.match(start, checkpoint.data)), None)
    test, results = _test(checkpoint), {}
    if test:
        about = {
            "task_type": "image-classification", "dataset_type": known or "other",
            "dataset_name": checkpoint.data, "dataset_split": "test",
        }  # fmt: skip
        kinds = (("accuracy", "top-1", test["top1"]), ("top_5_accuracy", "top-5", _share(test.get("top5"))))
        results["eval_results"] = [
            EvalResult(**about, metric_type=kind, metric_name=name, metric_value=value)
            for kind, name, value in kinds
            if value is not None
        ]
        results["model_name"] = checkpoint.name
    data = ModelCardData(
        library_name="mnv3", pipeline_tag="image-classification", license=_license(checkpoint),
        tags=["image-classification", "mobilenetv3", "squeeze-and-excitation"],
        datasets=[known] if known else None, **results,
    )  # fmt: skip
    return data.to_yaml(original_order=["library_name", "pipeline_tag", "license", "tags", "datasets"])


def _license(checkpoint: Checkpoint) -> str | None:
    """This program's own for what it trained from scratch; weights that began as another's keep that one's terms."""
    recipe = checkpoint.metrics.get("recipe")
    return "mit" if isinstance(recipe, dict) and not recipe.get("init") else None


def _figures(checkpoint: Checkpoint) -> list[str]:
    lines = []
    if result := checkpoint.measured():
        lines += [f"| top-1 on {result['n']:,} {result['pictures']}, single crop | {result['top1']:.2%} |"]
    test = _test(checkpoint) or {}
    if (top5 := _share(test.get("top5"))) is not None:
        lines += [f"| top-5 on the same | {top5:.2%} |"]
    if (error := _share(test.get("calibration_error"))) is not None:
        lines += [f"| calibration error: how far certainty is from accuracy | {error:.2%} |"]
    machine = checkpoint.metrics.get("machine")
    if isinstance(machine, dict) and {"hardware", "torch", "minutes"} <= machine.keys():
        lines += [f"| trained on | {machine['hardware']}, torch {machine['torch']}, {machine['minutes']} minutes |"]
    return lines


def _classes(checkpoint: Checkpoint) -> list[str]:
    """top-1 by class, of the 20 that are recognised worst where there are more; none if it was not measured."""
    shares = (_test(checkpoint) or {}).get("top1_per_class")
    if not isinstance(shares, list) or len(shares) != len(checkpoint.labels):
        return []
    rows = [(label, _share(share)) for label, share in zip(checkpoint.labels, shares, strict=True)]
    rows, title = [row for row in rows if row[1] is not None], "top-1"
    if len(rows) > MOST_CLASSES:
        rows, title = sorted(rows, key=lambda row: row[1])[:MOST_CLASSES], f"top-1, the {MOST_CLASSES} lowest"
    plain = lambda label: " ".join(label.split()).replace("|", "\\|")  # noqa: E731
    table = [f"| {plain(label)} | {share:.1%} |" for label, share in rows]
    return [f"| class | {title} |", "|-|-|", *table, ""] if table else []


def _test(checkpoint: Checkpoint) -> dict | None:
    """What was measured on test pictures, if it was; measured() also takes what others published."""
    result = checkpoint.measured()
    return result if result and result["pictures"] == "test pictures" else None


def _share(value: object) -> float | None:
    """The value if it can be a share; metrics.json may be a stranger's."""
    return value if type(value) is float and 0 <= value <= 1 else None
