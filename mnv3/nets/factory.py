"""From a description to its network: Spec or TutorialSpec, or a dict of config.json."""

from __future__ import annotations

from .mobilenet import MobileNetV3, Network
from .spec import Spec, keys
from .tutorial import ARTICLE, ArticleNet, ArticleSpec


def network(spec: Spec | ArticleSpec) -> Network:
    """The network that a description describes, freshly initialised."""
    return ArticleNet(spec) if isinstance(spec, ArticleSpec) else MobileNetV3(spec=spec)


def read_spec(data: object) -> Spec | ArticleSpec:
    """The inverse of to_dict of either, strict: an unknown or missing key is an InputError that names it."""
    if isinstance(data, dict) and isinstance(variant := data.get("variant"), str) and variant in ARTICLE:
        return ArticleSpec(**keys("spec", data, ("variant", "num_classes")))
    return Spec.from_dict(data)
