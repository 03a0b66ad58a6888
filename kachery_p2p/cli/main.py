"""The ``kachery-p2p`` command: its group, and the boundary at which errors become exit statuses.

Invariants: results go to standard output and nothing else does; an error of the tree is one line on
standard error (and with ``--json`` one line of JSON after it) and its ``exit_status``; a wrong
command line is 2, Ctrl-C 130, a reader that went away (``| head``) 141 and silence.

Non-goal: doing anything. The commands are in the modules beside this one, and they only call
:mod:`kachery_p2p.client`.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import signal
import sys
import traceback

import click

from kachery_p2p._version import __version__
from kachery_p2p.protocol.errors import BadInput, Cancelled, KacheryError, from_wire, to_wire
from kachery_p2p.protocol.limits import PROTOCOL_VERSION

from . import daemon, info, old_names, shell
from .channels import commands as channels
from .channels import invitations, shares, views
from .doctor import commands as doctor
from .examples import put_examples_last
from .feeds import commands as feeds
from .files import commands as files
from .files import keepers, origins, storage
from .output import (
    FULL,
    Output,
    ReaderGone,
    Shown,
    forget_unwritten,
    open_standard_streams,
    output_full,
    pass_output,
    show_error,
    show_error_json,
    with_output,
)
from .status import commands as status
from .tasks import commands as tasks

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
      kachery-p2p channel join INVITATION        # the line that a colleague sent you
      kachery-p2p store results.csv              # prints a URI
      kachery-p2p load sha1://.../results.csv    # on another computer: prints a path

    Results go to standard output, everything else to standard error. If something does not work,
    'kachery-p2p doctor' says why. For completion on Tab see 'kachery-p2p completion --help'.

    \b
    Exit status: 0 done, 2 wrong usage, 3 no node answers, 4 disk, 5 not allowed, 6 another node
    or an origin failed, 7 network, 8 nobody has it, 9 a node runs already, 10 the time was up,
    70 a bug, 71 no files or threads left, 130 interrupted, 141 the reader of a pipe went away.
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


for command in (
    daemon.daemon,
    info.info,
    status.status,
    *files.COMMANDS,
    *storage.COMMANDS,
    *keepers.COMMANDS,
    *origins.COMMANDS,
    shares.share,
    views.view,
    feeds.feed,
    tasks.task,
    channels.channel,
    doctor.doctor,
    shell.completion,
):
    group.add_command(command)
for command in invitations.COMMANDS:
    channels.channel.add_command(command)
put_examples_last(group)
old_names.add_to(group)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line (``sys.argv`` by default) and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # from here on there is a sentence
            signal.signal(signal.SIGINT, signal.default_int_handler)
        open_standard_streams()
        for name in ("COLUMNS", "LINES"):
            if os.environ.get(name) == "0":  # who sets this does not know either
                del os.environ[name]
        return _run(arguments)
    except click.UsageError as error:
        with contextlib.suppress(OSError):
            error.show()
        path = error.ctx.command_path if error.ctx else PROGRAM
        failure: KacheryError = BadInput(what=path, reason=error.format_message())
        if "--json" in arguments:
            show_error_json(failure)
        return failure.exit_status
    except (click.Abort, KeyboardInterrupt):
        failure = Cancelled(what="The command")
    except ReaderGone:
        return _PIPE_CLOSED
    except Shown as error:
        return error.status
    except KacheryError as error:
        failure = error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:  # click wrote a help, or a version
            forget_unwritten()
            failure = output_full()
        else:  # a bug: whoever gets the report needs the traceback
            with contextlib.suppress(OSError):
                traceback.print_exc()
            failure = from_wire(*to_wire(error))
    show_error(failure)
    if "--json" in arguments:
        show_error_json(failure)
    return failure.exit_status


def _run(arguments: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        # Labels come from other computers: the terminal's encoding may not have their letters.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    status = group.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    if sys.stdout is not None:
        sys.stdout.flush()
    return status if isinstance(status, int) else 0
