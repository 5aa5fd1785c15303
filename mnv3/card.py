"""The model card: a checkpoint's README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .tables import multiply_adds, parameters

if TYPE_CHECKING:
    from .checkpoints import Checkpoint


def model_card(checkpoint: Checkpoint) -> str:
    """Markdown with the Hub's front matter; every figure comes from the checkpoint's metrics."""
    spec, side = checkpoint.spec, checkpoint.preprocessing.crop
    lines = [
        "---", "library_name: mnv3", "pipeline_tag: image-classification", "---",
        f"# {checkpoint.name}", "",
        f"MobileNetV3-{spec.variant.title()}, width {spec.width:g}, for {checkpoint.knows}. "
        f"Trained on {checkpoint.data}.", "",
        "| | |", "|-|-|",
        f"| parameters | {parameters(spec):,} |",
        f"| multiply-adds at {side}×{side} | {multiply_adds(spec, side):,} |",
    ]  # fmt: skip
    if result := checkpoint.measured():
        lines += [f"| top-1 on {result['n']:,} {result['pictures']}, single crop | {result['top1']:.2%} |"]
    machine = checkpoint.metrics.get("machine")
    if isinstance(machine, dict) and {"hardware", "torch", "minutes"} <= machine.keys():
        lines += [f"| trained on | {machine['hardware']}, torch {machine['torch']}, {machine['minutes']} minutes |"]
    lines += ["", "Everything that was measured, and how, is in metrics.json."]
    lines += ["", "```python", "import mnv3", 'checkpoint = mnv3.load(".")  # this file\'s folder, or its Hub repo id',
              'print(mnv3.explain(checkpoint, "picture.jpg").top())', "```", ""]  # fmt: skip
    return "\n".join(lines)
