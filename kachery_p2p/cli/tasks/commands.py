"""``task``: what is on offer, requesting it, looking after it. Serving is in :mod:`.backend`."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any, Final

import click

from kachery_p2p.cli import completions
from kachery_p2p.cli.output import (
    Output,
    clean,
    columns,
    json_text,
    pass_output,
    say,
    with_output,
    write,
)
from kachery_p2p.client import sync
from kachery_p2p.client.tasks.requests import TaskRequest
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import TASK_BACKEND_SECONDS
from kachery_p2p.protocol.tasks.task import TASK_TYPES, TaskType

from .backend import backend

_LOOK_SECONDS: Final = 0.1
_LET_GO_SECONDS: Final = 3.0
"""After Ctrl-C, for the task to be cancelled."""


@click.group()
def task() -> None:
    """Run functions on other nodes: see what is on offer, request it, or serve functions of your own.

    \b
    Example:
      kachery-p2p task list
      kachery-p2p task request count_captain.1 --kwargs '{"text_uri": "sha1://..."}' --wait
      kachery-p2p task backend functions.py: --channel lab     # on the computer that runs them
    """


@task.command("list")
@click.option(
    "--channel",
    shell_complete=completions.channels,
    help="Only on this channel (name or id); default: all.",
)
@with_output
@pass_output
def list_(output: Output, channel: str | None) -> None:
    """List the functions that nodes offer: type, channel, node, its backend, and how busy that is.

    \b
    Example:
      kachery-p2p task list
      kachery-p2p task list --channel lab --json
    """
    found = sync.get_offers(channel)
    offers = sorted(found["offers"], key=lambda each: (each["function"], each["node"]))
    rows = [
        (
            each["function"],
            each["type"],
            each["channel"],
            each["node"][:8],
            each["label"] or "-",
            each["backend"] or "-",
            f"{each['running']} of {each['slots']} running",
            f"{each['queued']} queued",
            "" if each["allowed"] else "not allowed by that node",
        )
        for each in offers
    ]
    output.result({"offers": offers, "silent": found["silent"]}, columns(rows))
    for silent in found["silent"]:
        output.note(f"no answer: {silent}")


@task.command()
@click.argument("function", metavar="ID", shell_complete=completions.functions)
@click.option("--kwargs", "text", metavar="JSON", default="{}", help="Arguments, an object.")
@click.option(
    "--type", "kind", type=click.Choice(TASK_TYPES), default=TASK_TYPES[0], show_default=True
)
@click.option(
    "--channel",
    shell_complete=completions.channels,
    help="Only on this channel (name or id); default: any.",
)
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds for the whole.")
@click.option(
    "--backend-timeout",
    type=click.FloatRange(min=0),
    default=TASK_BACKEND_SECONDS,
    show_default=True,
    help="Seconds to wait for a node that offers it.",
)
@click.option("--retries", type=click.IntRange(min=0), default=0, help="After failures.")
@with_output
@pass_output
def request(
    output: Output,
    function: str,
    text: str,
    kind: TaskType,
    channel: str | None,
    wait: bool,
    timeout: float | None,
    backend_timeout: float,
    retries: int,
) -> None:
    """Have a function run by a node that offers it.

    With --wait the result goes to standard output, as JSON (NaN is null) unless it is bytes, and what
    the function prints to standard error. Without it, the task id is printed once the calculation or
    action has its place: it goes on there, and a request with --wait finds a calculation's result.

    \b
    Example:
      kachery-p2p task request add.1 --kwargs '{"a": 1, "b": 2}' --wait
      kachery-p2p task request measure.1 --type action --channel lab --wait --timeout 60
    """
    if not wait and kind == "query":
        reason = "the answer to a query is for whoever waits for it; add --wait"
        raise BadInput(what=function, reason=reason)
    made = sync.request_task(
        function,
        _arguments(text),
        kind,
        channel,
        timeout_sec=timeout,
        backend_timeout_sec=backend_timeout,
        retries=retries,
    )
    try:
        _follow(output, made, until_placed=not wait)
    except KeyboardInterrupt:
        made.cancel()
        made.ended_within(_LET_GO_SECONDS)
        raise
    if not wait and made.status in _PLACED:
        output.result({"task": made.task_id, "status": made.status}, [made.task_id])
        return
    value = made.result
    if not wait:
        output.result({"task": made.task_id, "status": made.status}, [made.task_id])
    elif output.json:
        described = {
            "task": made.task_id,
            "status": made.status,
            "result": plain(value),
            "from_cache": made.from_cache,
            "node": made.node,
        }
        output.result(described, [])
    elif isinstance(value, bytes):
        write(value)
    else:
        output.result(None, [json_text(plain(value))])


_PLACED: Final = ("queued", "ready", "running")


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(what="--kwargs", reason=f"it is not JSON ({error})") from error


def _follow(output: Output, made: TaskRequest, *, until_placed: bool) -> None:
    """Wait, and show how it goes on, on standard error."""
    status, shown, step = "", 0, ""
    while True:
        ended = made.ended_within(_LOOK_SECONDS)
        if made.status != status:
            status = made.status
            output.note(f"{made.task_id}: {status}")
        # Only what a person can tell apart: a function may say more than there is time to read.
        fraction, message = made.progress
        told = _progress(fraction, message)
        if told and told != step:
            step = told
            output.note(f"{made.task_id}: {told}")
        log = made.log
        if len(log) > shown and not output.quiet and sys.stderr is not None:
            lines = log[shown:].split("\n")
            say("\n".join(clean(line) for line in lines), end=False)
        shown = len(log)
        if ended or (until_placed and status in _PLACED):
            return


def _progress(fraction: float | None, message: str) -> str:
    done = "" if fraction is None else f"{fraction:.0%}"
    return f"{done} {message}".strip()


def plain(value: Any) -> Any:
    """A result as JSON has it: arrays and tuples are lists; what has no such form is its repr."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return repr(value)


@task.command()
@click.argument("task_id", metavar="[TASK]", required=False)
@with_output
@pass_output
def show(output: Output, task_id: str | None) -> None:
    """List the tasks that this node asked for or runs, with how far they say that they are, and those
    that ended a short while ago.

    \b
    Example:
      kachery-p2p task show
      kachery-p2p task show 31ab5c...
    """
    tasks = sync.show_tasks(task_id)
    rows = [
        (
            each["task"],
            each["function"],
            each["state"],
            _progress(each["fraction"], each["message"]) or "-",
            each["side"],
            # Of what runs here, the label is the backend's.
            (each["side"] == "requested" and each["label"]) or (each["node"] or "")[:8] or "-",
            each["channel"] or "-",
            f"{datetime.fromtimestamp(each['since']).astimezone():%F %T}",
            each["reason"],
        )
        for each in tasks
    ]
    output.result(tasks, columns(rows))


@task.command()
@click.argument("task_id", metavar="TASK")
@with_output
@pass_output
def cancel(output: Output, task_id: str) -> None:
    """Cancel a task that this node asked for.

    \b
    Example:
      kachery-p2p task cancel 31ab5c...
    """
    sync.cancel_task(task_id)
    output.result({"cancelled": task_id}, [f"cancelled {task_id}"])


task.add_command(backend)
