"""The ``kachery-p2p`` command: its group, and the boundary at which errors become exit statuses.

Invariants: results go to standard output and nothing else does; an error of the tree is one line on
standard error (and with ``--json`` one line of JSON after it) and its ``exit_status``; a wrong
command line is 2, Ctrl-C 130, a reader that went away (``| head``) 141 and silence.

Non-goal: doing anything. The commands are in the modules beside this one, and they only call
:mod:`kachery_p2p.client`.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import traceback

import click

from kachery_p2p._version import __version__
from kachery_p2p.protocol.errors import BadInput, Cancelled, KacheryError, to_wire
from kachery_p2p.protocol.limits import PROTOCOL_VERSION

from . import channels, daemon, files, info
from .output import Output, clean, pass_output, with_output

PROGRAM = "kachery-p2p"
_PIPE_CLOSED = 141
"""What a shell shows for a program that SIGPIPE ended, as it would have ended this one."""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name=PROGRAM)
def group() -> None:
    """Share files between scientists' computers, by content.

    \b
    Example:
      kachery-p2p daemon start                   # once per computer
      kachery-p2p channel join lab.channel       # what the channel's owner sent you
      kachery-p2p store results.csv              # prints a URI
      kachery-p2p load sha1://.../results.csv    # on another computer: prints a path

    Results go to standard output, everything else to standard error.

    \b
    Exit status: 0 done, 2 wrong usage, 3 no node, 4 disk, 5 not allowed, 6 another node failed,
    7 network, 8 nobody has it, 70 a bug, 130 interrupted, 141 the reader of a pipe went away.
    """


@group.command()
@with_output
@pass_output
def version(output: Output) -> None:
    """Print the version.

    \b
    Example:
      kachery-p2p version
    """
    python = platform.python_version()
    value = {"version": __version__, "protocol": PROTOCOL_VERSION, "python": python}
    output.result(value, [__version__])


for command in (daemon.daemon, info.info, *files.COMMANDS, channels.channel):
    group.add_command(command)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line (``sys.argv`` by default) and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    for stream in (sys.stdout, sys.stderr):
        # Labels come from other computers: the terminal's encoding may not have their letters.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = group.main(arguments, prog_name=PROGRAM, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.UsageError as error:
        error.show()
        if as_json:
            _show_json(BadInput(what=_command_path(error), reason=error.format_message()))
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail(Cancelled(what="The command"), as_json)
    except BrokenPipeError:
        _give_up_stdout()
        return _PIPE_CLOSED
    except KacheryError as error:
        return _fail(error, as_json)
    except Exception as error:  # a bug: whoever gets the report needs the traceback
        traceback.print_exc()
        code, fields = to_wire(error)
        return _fail(KacheryError.__subclasses__ and _internal(code, fields), as_json)
