"""The `mnv3` command: explain a picture, list and publish checkpoints, measure evidence maps, start the app."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import InputError

COMMANDS = {
    "explain": "what a network says of a picture, and what its SE gates did to the answer",
    "models": "the checkpoints that can be opened by name, and whether they are on this machine",
    "push": "publish a checkpoint folder on the Hugging Face Hub",
    "faithfulness": "measure evidence maps on a folder of test pictures",
    "app": "start the app in this terminal; GRADIO_SERVER_NAME and GRADIO_SERVER_PORT choose its address",
}


def explain(words: Sequence[str]) -> int:
    """`mnv3 explain PICTURE`: a short text, or everything as JSON, all gates as CSV, the page as one HTML file."""
    parser = argparse.ArgumentParser(prog="mnv3 explain", description=COMMANDS["explain"])
    parser.add_argument("picture", help="a picture file")
    parser.add_argument("--model", choices=["large", "small"], default="large", help="(%(default)s)")
    parser.add_argument("--checkpoint", help="by any name that mnv3.load takes, in place of --model")
    parser.add_argument("--target", default="", metavar="CLASS", help="class to explain; the likeliest by default")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--json", action="store_true", help="print the whole explanation as JSON")
    kind.add_argument("--csv", action="store_true", help="print every gate as CSV")
    kind.add_argument("--html", type=Path, metavar="FILE", help="write one page that needs no server")
    given = parser.parse_args(words)

    from .checkpoints.registry import load
    from .distributed import fetching
    from .explanation.explanation import explain as explained
    from .web import selection

    if given.checkpoint:
        checkpoint = load(given.checkpoint, fetching(given.checkpoint))
    else:
        checkpoint = selection.opened(given.model.title(), selection.default_family())
    found = explained(checkpoint, given.picture)
    index = found.class_index(given.target or None)
    if given.json:
        print(json.dumps(found.to_dict(found.checkpoint.labels[index]), indent=1, ensure_ascii=False))
    elif given.csv:
        print(found.gates_csv(), end="")
    elif given.html:
        from .web.views.standalone import page

        given.html.write_text(page(found, index, Path(given.picture).name), encoding="utf-8")
        print(f"written: {given.html}")
    else:
        print(in_words(found, index))
    return 0


def in_words(found, index: int) -> str:
    """The five likeliest classes, and what every SE block did to the class `index`, as lines of text."""
    label = found.checkpoint.labels[index]
    lines = [f"{found.checkpoint.name}:"]
    lines += [f"  {guess.probability:6.1%}  {guess.label}" for guess in found.top()]
    if not found.blocks:
        return "\n".join([*lines, "It has no SE blocks, so there are no gates to explain."])
    lines.append(f"Effect of each SE block's gates on '{label}', against the block's usual gates:")
    names = [*(f"SE block {number}" for number in range(1, len(found.blocks) + 1)), "all of them"]
    for name, effect in zip(names, found.effects(index), strict=False):
        lines.append(f"  {name:12} {100 * effect.probability:+6.1f} points, {effect.logit:+6.2f} logit")
    return "\n".join(lines)


def models(words: Sequence[str]) -> int:
    """`mnv3 models`: name, what it knows, and its state, a line each."""
    argparse.ArgumentParser(prog="mnv3 models", description=COMMANDS["models"]).parse_args(words)
    from .checkpoints.registry import catalogue

    for entry in catalogue():
        print(f"{entry.name:44} {entry.state:9} {entry.megabytes:6.1f} MB  {entry.title}")
    return 0


def push(words: Sequence[str]) -> int:
    from .checkpoints.publish import main

    return main(["push", *words])


def faithfulness(words: Sequence[str]) -> int:
    from .explanation.faithfulness import main

    return main(list(words))


def app(words: Sequence[str]) -> int:
    argparse.ArgumentParser(prog="mnv3 app", description=COMMANDS["app"]).parse_args(words)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # no network at start; read when gradio is imported
    from .web.app import main

    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status. What a user can put right is one sentence on stderr and status 2."""
    listed = "\n".join(f"  {name:13} {words}" for name, words in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="mnv3",
        usage="mnv3 COMMAND …",
        description="Looks inside MobileNetV3.",
        epilog=f"commands:\n{listed}\n\nmnv3 COMMAND --help has more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=[*COMMANDS], metavar="COMMAND", help="one of those below")
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = parser.parse_args(words[:1])
    commands = {"explain": explain, "models": models, "push": push, "faithfulness": faithfulness, "app": app}
    try:
        return commands[given.command](words[1:])
    except InputError as error:
        print(f"mnv3: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"mnv3: {error.filename or 'a file'}: {error.strerror}.", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `mnv3 … | head`
        return 0


if __name__ == "__main__":
    sys.exit(main())
