"""Help that ends with what to type: the examples of every command, below its options."""

from __future__ import annotations

import inspect

import click

_BEGIN = "\b\nExample:"


def put_examples_last(command: click.Command) -> None:
    """Move the paragraph of examples of a command, and of all below it, to the end of its help."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    examples = [text for text in paragraphs if text.startswith(_BEGIN)]
    if examples:
        command.help = "\n\n".join(text for text in paragraphs if text not in examples)
        command.epilog = "\n\n".join(examples)
    if isinstance(command, click.Group):
        for child in command.commands.values():
            put_examples_last(child)
