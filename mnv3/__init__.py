"""mnv3: MobileNetV3, and what its squeeze-and-excitation gates did to a picture.

checkpoint = mnv3.load("cifar10-small")
explanation = mnv3.explain(checkpoint, "cat.jpg")
"""

from .catalogue import catalogue, load
from .checkpoints import Checkpoint
from .errors import InputError
from .explain import Explanation, explain
from .model import MobileNetV3
from .pyramid import backbone
from .tables import Spec

__all__ = [
    "Checkpoint", "Explanation", "InputError", "MobileNetV3", "Spec", "backbone", "catalogue", "explain", "load",
]  # fmt: skip
