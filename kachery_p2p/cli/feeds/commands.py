"""``feed``: make feeds, say who may write to them, keep them as files, and remove them.

Reading and writing messages is in :mod:`.messages`, looking at a feed in :mod:`.show`.
"""

from __future__ import annotations

from typing import Any

import click

from kachery_p2p.cli import completions
from kachery_p2p.cli.output import Output, columns, pass_output, with_output
from kachery_p2p.client import sync
from kachery_p2p.protocol.errors import BadInput, UnknownFeed

from .messages import append, tail
from .show import list_, show
from .targets import FEED, SUBFEED, open_subfeed, open_target, parse_target


@click.group()
def feed() -> None:
    """Make, read and write feeds: signed logs of JSON messages that other nodes can follow.

    A feed has subfeeds, and each of them is a log. It is named by its feed:// URI, or on the node
    that made it by its name: myfeed, and myfeed/primes for a subfeed.

    \b
    Example:
      kachery-p2p feed create myfeed                          # prints its URI
      kachery-p2p feed append myfeed/primes '{"p": 2}'
      kachery-p2p feed tail -f feed://31ab.../primes          # on another computer
    """


@feed.command()
@click.argument("name", required=False)
@with_output
@pass_output
def create(output: Output, name: str | None) -> None:
    """Make a feed and print its URI. Its key stays on this node. NAME is for this node only.

    \b
    Example:
      kachery-p2p feed create myfeed
      uri=$(kachery-p2p feed create)
    """
    made = sync.create_feed(name, replace=False)
    output.result({"uri": made.uri, "feed_id": made.feed_id, "name": name}, [made.uri])


@feed.command()
@click.argument("target", metavar=FEED, shell_complete=completions.feeds)
@click.argument("names", metavar="[SUBFEED]...", nargs=-1)
@with_output
@pass_output
def snapshot(output: Output, target: str, names: tuple[str, ...]) -> None:
    """Store the messages that a feed has now as a file, and print its URI.

    The URI opens a feed that never changes. Without a SUBFEED, all subfeeds that are known are in it.

    \b
    Example:
      kachery-p2p feed snapshot myfeed primes
      kachery-p2p feed tail "$(kachery-p2p feed snapshot myfeed)?subfeedName=primes"
    """
    opened, name = open_target(target)
    wanted: list[Any] = [name] if name is not None else []
    wanted += names
    if not wanted:
        # By its hash where the name is not known.
        wanted = [each["name"] or f"~{each['hash']}" for each in opened.show()["subfeeds"]]
    made = opened.create_snapshot(wanted)
    output.result({"uri": made.uri}, [made.uri])


@feed.command()
@click.argument("target", metavar=SUBFEED, shell_complete=completions.feeds)
@click.argument("node", shell_complete=completions.everybody)
@click.option("--revoke", is_flag=True, help="Take it back; what it submitted stays.")
@with_output
@pass_output
def grant(output: Output, target: str, node: str, revoke: bool) -> None:
    """Let another node submit messages to a subfeed, and print all nodes that may.

    The feed's key must be on this node. NODE is a member's label, or a node's id: what
    'kachery-p2p info --id' prints there.

    \b
    Example:
      kachery-p2p feed grant myfeed/answers alice
      kachery-p2p feed grant myfeed/answers 31ab... --revoke
    """
    subfeed = open_subfeed(target)
    node_id = sync.find_member(node)["node"]
    if revoke:
        subfeed.revoke_write_access(node_id=node_id)
    else:
        subfeed.grant_write_access(node_id=node_id)
    rules = subfeed.get_access_rules()
    for rule in rules["rules"]:
        rule["label"] = sync.find_member(rule["nodeId"])["label"]
    lines = columns([[r["nodeId"], r["label"] or "-"] for r in rules["rules"] if r["write"]])
    output.result(rules, lines)


@feed.command()
@click.argument("target", metavar=FEED, shell_complete=completions.feeds)
@click.option("--force", is_flag=True, help="Although its key is on this node; it is destroyed.")
@with_output
@pass_output
def delete(output: Output, target: str, force: bool) -> None:
    """Remove a feed from this node, with all messages. Copies on other nodes stay.

    \b
    Example:
      kachery-p2p feed delete feed://31ab...
      kachery-p2p feed delete myfeed --force
    """
    if parse_target(target)[1] is not None:
        reason = (
            "it names a subfeed, or has a slash in it; only a whole feed can be deleted, by its URI"
        )
        raise BadInput(what=target, reason=reason)
    opened, _ = open_target(target)
    if opened.is_writeable and not force:
        reason = "its key is on this node, and nobody could append without it; add --force"
        raise BadInput(what=target, reason=reason)
    if not opened.delete():
        raise UnknownFeed(feed=target)
    output.result({"deleted": opened.uri}, [f"deleted {opened.uri}"])


@feed.command()
@click.argument("target", metavar=f"{FEED}|{SUBFEED}", shell_complete=completions.feeds)
@with_output
@pass_output
def resolve(output: Output, target: str) -> None:
    """Decide a fork of a feed whose key is here: what this node has is what goes on.

    A feed is forked when two histories of it were signed, as with a copied key or a restored backup;
    see 'feed show'. The decision is signed and goes to all who read the feed: they drop what they have
    of the other history. Without a subfeed, all forks of the feed are decided.

    \b
    Example:
      kachery-p2p feed resolve myfeed/primes
    """
    opened, name = open_target(target)
    names = [name]
    if name is None:
        # Of a fork the node may only hear now that it asks the others.
        names = [f"~{each['hash']}" for each in opened.show()["subfeeds"]]
    subfeeds = [opened.load_subfeed(each) for each in names]
    resolved = [subfeed.uri for subfeed in subfeeds if subfeed.resolve_fork()]
    output.result({"resolved": resolved}, [f"resolved {uri}" for uri in resolved])
    if not resolved:
        output.note("There was no fork.")


for command in (append, tail, show, list_):
    feed.add_command(command)
