"""``view``: one link that opens a view, with its data, in a browser."""

from __future__ import annotations

import json
from typing import Any

import click

from kachery_p2p.cli.output import Output, pass_output, with_output
from kachery_p2p.client import sync
from kachery_p2p.protocol.limits import PASS_SECONDS

from .shares import link_options, say_link


@click.command()
@click.argument("view", metavar="FOLDER|SHA1DIR_URI")
@click.option(
    "--data", metavar="URI|JSON", help="What the view is given; it may read the URIs in it."
)
@click.option("--title", metavar="TEXT", default="", help="For people.")
@click.option(
    "--append", metavar="FEED_URI", multiple=True, help="A subfeed to which the view may append."
)
@click.option(
    "--task",
    "tasks",
    metavar="FUNCTION",
    multiple=True,
    help="A function that the view may have run.",
)
@link_options
@with_output
@pass_output
def view(
    output: Output,
    view: str,
    data: str | None,
    title: str,
    append: tuple[str, ...],
    tasks: tuple[str, ...],
    channel: str | None,
    expires: float | None,
    once: bool,
) -> None:
    """Print a link that opens a view in any browser: a folder with an index.html, and its data.

    The view runs in a frame that has no network and no storage. It can read the files and subfeeds that
    --data names, append to those of --append, have the functions of --task run, and nothing else.

    \b
    Example:
      kachery-p2p view my_view --data sha1://.../recording.npy --title "Tuesday"
      kachery-p2p view my_view --data '{"threshold": 5}' --append feed://.../curation
    """
    made = sync.view_info(
        view,
        _value(data),
        title=title,
        append=append,
        tasks=tasks,
        channel=channel,
        expires_in=PASS_SECONDS if expires is None else expires,
        once=once,
    )
    say_link(output, made, once)


def _value(data: str | None) -> Any:
    """JSON, or the text itself: a URI is none."""
    if data is None:
        return None
    try:
        return json.loads(data)
    except ValueError:
        if data.lstrip()[:1] in ("{", "["):
            raise click.BadParameter("It is neither a URI nor JSON.", param_hint="--data") from None
        return data
