"""``completion``: what makes a shell complete commands, options and file names on Tab.

The scripts are click's own. They ask the command itself at each Tab, so they need no renewal when
commands come and go.
"""

from __future__ import annotations

import click

from .output import Output, pass_output, with_output

SHELLS = ("bash", "zsh", "fish")


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
    from click.shell_completion import get_completion_class

    root = context.find_root()
    program = root.info_name or "kachery-p2p"
    variable = f"_{program}_COMPLETE".replace("-", "_").upper()
    kind = get_completion_class(shell)
    assert kind is not None, "one of click's own"
    made = kind(root.command, {}, program, variable)
    # Not source(): that looks for a bash here first, and the file may be meant for another computer.
    script = made.source_template % made.source_vars()
    output.result({"shell": shell, "script": script}, script.splitlines())
