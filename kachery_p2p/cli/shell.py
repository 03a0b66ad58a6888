"""``completion``: what makes a shell complete commands, options, files and the node's names on Tab.

The scripts ask the command itself at each Tab, so they need no renewal when commands come and go. Those
for zsh and fish are click's own. That for bash is ours: names come from other computers, and bash puts
what it is given into the line as it stands, so a name with a space, a ``;`` or a ``$`` has to be
escaped before; and where readline breaks words (``:``, ``=``), only what comes after is replaced.
"""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
)

from .output import Output, pass_output, with_output

SHELLS = ("bash", "zsh", "fish")

_BASH: Final = r"""
%(complete_func)s() {
    local response kind value
    response=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_BREAKS="$COMP_WORDBREAKS" \
        %(complete_var)s=bash_complete "$1")
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done <<< "$response"
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""
_PLAIN: Final = re.compile(r"[^\w@%+=:,./-]")
"""What means something to bash, or may."""


class Line(NamedTuple):
    """A command line that is being typed. ``words``: those before the last one; ``last``: what there is
    of that, without its quotes; ``quote``: the one in which it ends; ``kept``: how many characters of
    ``last`` the shell keeps, whatever it is completed to."""

    words: list[str]
    last: str
    quote: str
    kept: int


def read_line(line: str, breaks: str) -> Line:
    """What bash makes of a line up to the cursor. ``breaks``: at what its editor breaks words."""
    words: list[str] = []
    word: str | None = None
    quote, escaped, kept = "", False, 0
    for sign in line:
        if escaped:
            word, escaped = (word or "") + sign, False
        elif sign == "\\" and quote != "'":
            word, escaped = word or "", True
        elif quote:
            if sign == quote:
                quote = ""
            else:
                word = (word or "") + sign
        elif sign in "'\"":
            word, quote = word or "", sign
            kept = len(word)
        elif sign.isspace():
            if word is not None:
                words.append(word)
            word, kept = None, 0
        else:
            word = (word or "") + sign
            kept = len(word) if sign in breaks else kept
    return Line(words, word or "", quote, kept)


class _Bash(BashComplete):
    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = read_line(os.environ["COMP_LINE"], os.environ.get("COMP_BREAKS", ""))
        self._quote = line.quote
        option, equals, _ = line.last.partition("=")
        # What is completed is what comes after it.
        before = len(option + equals) if equals and option.startswith("-") else 0
        self._kept = max(0, line.kept - before)
        return line.words[1:], line.last

    def format_completion(self, item: CompletionItem) -> str:
        if item.type != "plain":
            return super().format_completion(item)
        return f"{item.type},{self._escaped(str(item.value)[self._kept :])}"

    def _escaped(self, text: str) -> str:
        """So that bash, when the line is entered, reads this very text in it."""
        if self._quote == "'":
            return text.replace("'", "'\\''")
        if self._quote:
            return re.sub(r'["$`\\]', r"\\\g<0>", text)
        escaped = _PLAIN.sub(r"\\\g<0>", text)
        return f"\\{escaped}" if escaped.startswith("~") else escaped


add_completion_class(_Bash, "bash")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@with_output
@pass_output
@click.pass_context
def completion(context: click.Context, output: Output, shell: str) -> None:
    """Print a script that makes your shell complete kachery-p2p's commands on Tab.

    Put it where the shell finds it, as below, and open a new terminal.

    \b
    Example:
      kachery-p2p completion bash > ~/.local/share/bash-completion/completions/kachery-p2p
      kachery-p2p completion zsh > ~/.zfunc/_kachery-p2p      # with ~/.zfunc in $fpath
      kachery-p2p completion fish > ~/.config/fish/completions/kachery-p2p.fish
      eval "$(kachery-p2p completion bash)"                   # in this terminal only
    """
    root = context.find_root()
    program = root.info_name or "kachery-p2p"
    variable = f"_{program}_COMPLETE".replace("-", "_").upper()
    kind = get_completion_class(shell)
    assert kind is not None, "one of click's own, or ours"
    made = kind(root.command, {}, program, variable)
    # Not source(): that looks for a bash here first, and the file may be meant for another computer.
    script = made.source_template % made.source_vars()
    output.result({"shell": shell, "script": script}, script.splitlines())
