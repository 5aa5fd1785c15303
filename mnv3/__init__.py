"""mnv3: MobileNetV3, and what its squeeze-and-excitation gates did to a picture.

checkpoint = mnv3.load("cifar10-small")
explanation = mnv3.explain(checkpoint, "cat.jpg")
"""

from .checkpoints.checkpoint import Checkpoint
from .checkpoints.registry import catalogue, load
from .errors import InputError
from .explanation.explanation import Explanation, explain
from .nets.backbone import backbone
from .nets.mobilenet import MobileNetV3
from .nets.spec import Spec

__all__ = [
    "Checkpoint", "Explanation", "InputError", "MobileNetV3", "Spec", "backbone", "catalogue", "explain", "load",
]  # fmt: skip
