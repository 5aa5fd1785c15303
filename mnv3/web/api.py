"""What programs call, over HTTP or MCP: an uploaded picture and names in, plain data out; app.py makes it endpoints.

Each raises InputError. Gradio reads the docstrings to whoever calls: the API page, and an MCP client's model.
"""

from __future__ import annotations

from dataclasses import asdict

from ..errors import InputError
from ..explanation.explanation import Explanation, Guess, explain_seen, likeliest, softmax
from ..explanation.explanation import explain as explained
from ..explanation.faithfulness import put_to_trial
from ..images.decode import open_picture
from ..inference import session
from . import selection
from .views.compare import agreement


def predict(image, model: str, weights: str, top_k: float) -> dict[str, float]:
    """The likeliest classes of a picture with their probabilities.

    Args:
        image: The picture: a data: URI, or the address that this app gave to a file uploaded to it.
        model: Large or Small.
        weights: A family of weights or a checkpoint's name, as `models` lists them.
        top_k: How many classes to name, from 1 to 1000.
    """
    if not (isinstance(top_k, int | float) and 1 <= top_k <= 1000 and top_k == int(top_k)):
        raise InputError(f"`top_k` (={top_k!r:.20}) must be a whole number from 1 to 1000.")
    checkpoint = selection.opened(model, weights)
    logits, _ = session.logits(checkpoint, checkpoint.preprocess(image)[None])
    return shares(likeliest(softmax(logits[0]), checkpoint.labels, int(top_k)))


def shares(guesses: list[Guess]) -> dict[str, float]:
    """What gr.Label takes: label -> probability."""
    return {guess.label: guess.probability for guess in guesses}


def explain(image, model: str, weights: str, target: str) -> dict:
    """Looks inside MobileNetV3 as it sees a picture: predictions, every squeeze-and-excitation gate with its reference,
    where each block moved activation energy, what its gates did to the answer, and class evidence.

    A gate is one number for a whole channel: it does not say where the network looked.

    Args:
        image: The picture: a data: URI, or the address that this app gave to a file uploaded to it.
        model: Large or Small.
        weights: A family of weights or a checkpoint's name, as `models` lists them.
        target: The class to ask about, by its label; empty for the likeliest.
    """
    return explained(selection.opened(model, weights), image).to_dict(target)


def compare(image, weights: str, checkpoints: list[str] | None) -> dict:
    """Two to four checkpoints on one picture: whether they agree, in words, and each one's explanation.

    Args:
        image: The picture: a data: URI, or the address that this app gave to a file uploaded to it.
        weights: A family of weights, of which Large and Small are compared where no checkpoints are named.
        checkpoints: Names of two to four checkpoints, as `models` lists them; empty for Large and Small.
    """
    explanations = explain_each(image, weights, checkpoints)
    return {"agreement": agreement(explanations), "columns": [e.to_dict() for e in explanations]}


def explain_each(image, weights: str, names: list[str] | None) -> list[Explanation]:
    """One picture by several checkpoints, decoded once: a photograph costs more than two networks."""
    checkpoints = selection.several(weights, names)
    picture = open_picture(image, max(c.preprocessing.enough for c in checkpoints))
    return [explain_seen(checkpoint, checkpoint.preprocessing.picture(picture)) for checkpoint in checkpoints]


def trust(image, model: str, weights: str, target: str) -> dict:
    """Whether a picture's class evidence can be trusted: deletion and insertion against two controls, and whether the
    map changes when the weights are randomised. Takes some seconds.

    Args:
        image: The picture: a data: URI, or the address that this app gave to a file uploaded to it.
        model: Large or Small.
        weights: A family of weights or a checkpoint's name, as `models` lists them.
        target: The class to ask about, by its label; empty for the likeliest.
    """
    explanation = explained(selection.opened(model, weights), image)
    index = explanation.class_index(target)
    trial = put_to_trial(explanation, index)
    return {"checkpoint": explanation.checkpoint.name, "class": explanation.checkpoint.labels[index], **trial.to_dict()}


def models() -> list[dict]:
    """Every checkpoint that can be chosen: name, family, variant, here | download | failed, and why."""
    return [asdict(entry) for entry in selection.offered()]
