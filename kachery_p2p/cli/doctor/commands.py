"""``doctor``: looks at this computer's node and its channels, and, for a URI, at why it does not come.

Each check says what is so; one that fails says what to do. The daemon looks, since it has the links;
what its answers mean is said here, and for a URI in :mod:`.uri`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from kachery_p2p._version import __version__
from kachery_p2p.cli import completions
from kachery_p2p.cli.channels.commands import roles_text
from kachery_p2p.cli.output import Output, delay_text, pass_output, quoted, size_text, with_output
from kachery_p2p.client import doctor as client
from kachery_p2p.client.session import portal
from kachery_p2p.protocol.errors import (
    AccessDenied,
    ClockSkew,
    DaemonNotPermitted,
    DaemonNotRunning,
    KacheryError,
    LocalError,
    NotAMember,
    ReadOnlyUser,
    StorageFull,
    Unreachable,
    VersionMismatch,
)
from kachery_p2p.protocol.limits import CLOCK_WARNING_SECONDS, LOW_DISK_BYTES

from .diagnosis import (
    Check,
    error_of,
    exit_status,
    failure,
    in_order,
    ok,
    problem,
    summary,
    warning,
)
from .uri import check_uri

_CONNECTED = "connected"


@click.command()
@click.argument("uri", required=False)
@click.option(
    "--channel",
    shell_complete=completions.channels,
    help="For a URI: look on this channel only (name or id).",
)
@with_output
@pass_output
def doctor(output: Output, uri: str | None, channel: str | None) -> int:
    """Say what is wrong and what to do about it; for a URI, why it does not come.

    Checks the node, your rights, versions, disks, the clock, each bootstrap node and the channels'
    roles. With a sha1:// or feed:// URI it asks everybody who should have it, and loads it for some
    seconds; what came is kept. The exit status is 0 if there is no problem, else that of the first.

    \b
    Example:
      kachery-p2p doctor
      kachery-p2p doctor sha1://2aae.../results.csv
      kachery-p2p doctor feed://31ab.../primes --json
    """
    checks = _examine(uri, channel)
    status = exit_status(checks)
    lines = [line for check in in_order(checks) for line in check.lines()]
    value = {"ok": status == 0, "checks": [check.plain() for check in in_order(checks)]}
    output.result(value, [*lines, "", summary(checks)])
    return status


def _examine(uri: str | None, channel: str | None) -> list[Check]:
    try:
        node = portal.run(client.aexamine_node, name="doctor")
    except LocalError as error:
        return [_no_node(error)]
    except VersionMismatch as error:
        return [_other_version(error)]
    checks = [*check_node(node)]
    if uri is not None:
        seen = portal.run(lambda: client.aexamine_uri(uri, channel), name="doctor")
        checks += check_uri(seen, node)
    return checks


def _no_node(error: LocalError) -> Check:
    about = "socket" if isinstance(error, DaemonNotPermitted) else "node"
    if type(error) is DaemonNotRunning:  # one that hangs, or is elsewhere, has another remedy
        reason = error.fields["reason"]
        return problem(
            about,
            f"No node runs on this computer, or none that you can see ({reason}).",
            "Start one with 'kachery-p2p daemon start'. If it ended by itself, its last words are "
            "in the node.log of its state folder (~/.local/state/kachery-p2p).",
            error.code,
        )
    return failure(about, error)


def _other_version(error: VersionMismatch) -> Check:
    ours, theirs = error.fields.get("ours"), error.fields.get("theirs")
    return problem(
        "versions",
        f"The running node and this command are of different versions: one speaks protocol {ours}, "
        f"the other {theirs}.",
        "Restart the node with this version: stop it, then 'kachery-p2p daemon start'. If it is not "
        "yours, ask whoever runs it to upgrade ('pip install -U kachery_p2p').",
        error.code,
    )


def check_node(node: dict[str, Any]) -> Iterator[Check]:
    """All that concerns no URI, from the near to the far."""
    yield ok("node", f"{node['label'] or 'it'} runs (pid {node['pid']})")
    yield _rights(node)
    yield from _versions(node)
    for folder in node["folders"]:
        yield _folder(folder)
    for origin in node["origins"]:
        yield _origin(origin)
    yield from _clock(node)
    for bootstrap in node["bootstraps"]:
        yield _bootstrap(bootstrap, node)
    for channel in node["channels"]:
        yield _channel(channel, node)
    if not node["channels"]:
        yield warning(
            "channels",
            "This node is on no channel, so it shares with nobody.",
            "Join one with 'kachery-p2p channel join INVITATION', or make one: see 'kachery-p2p "
            "channel create --help'.",
        )


# --- this computer -----------------------------------------------------------------------------


def _rights(node: dict[str, Any]) -> Check:
    if not node["read_only"]:
        return ok("socket", f"you may use the node ({node['socket']})")
    return warning(
        "socket",
        "You may load from this node, but store and change nothing.",
        "Ask whoever runs the node, or start one of your own.",
        ReadOnlyUser.code,
    )


def _versions(node: dict[str, Any]) -> Iterator[Check]:
    if node["version"] == __version__:
        yield ok("versions", f"node and command are {__version__} (protocol {node['protocol']})")
    else:
        yield warning(
            "versions",
            f"The node is version {node['version']}, this command {__version__}.",
            "Restart the node: 'kachery-p2p daemon stop', then 'kachery-p2p daemon start'.",
        )


def _folder(folder: dict[str, Any]) -> Check:
    about, path = folder["what"], folder["path"]
    if folder["error"] is not None:
        return _unusable(about, path, error_of(folder["error"]))
    room = f"{size_text(folder['free'])} free in {path}"
    if folder["free"] < LOW_DISK_BYTES:
        return warning(about, f"Little room is left: {room}.", "Free some before it is full.")
    return ok(about, room)


def _origin(origin: dict[str, Any]) -> Check:
    about = "archive" if origin["archive"] else "origin"
    if origin["state"] != "ok":
        remedy = "See 'kachery-p2p origins --refresh' once that is mended."
        return problem(about, _first_sentence(origin["error"]) + ".", remedy, origin["state"])
    if origin["damaged"]:
        return warning(
            about,
            f"{origin['damaged']} files in {origin['url']} are not what their names say, and are not "
            "offered.",
            "The node's log (node.log in its state folder) names them. Put good ones there.",
        )
    listed = "not listed yet" if origin["listed"] is None else _count(origin["objects"], "file")
    return ok(about, f"{origin['url']}: {listed}")


def _unusable(about: str, path: str, error: KacheryError) -> Check:
    if isinstance(error, StorageFull):
        return problem(
            about,
            f"The disk is full: nothing can be written in {path}. What is stored is unharmed.",
            "Free some room there, or start the node with folders elsewhere ('daemon start "
            "--storage-dir', '--state-dir').",
            error.code,
        )
    return problem(
        about,
        str(error),
        f"Let the node's user write in {path}, and look whether its disk is in order.",
        error.code,
    )


def _clock(node: dict[str, Any]) -> Iterator[Check]:
    now = f"{datetime.fromtimestamp(node['clock'], UTC):%F %T} UTC"
    skews = [link["skew"] for link in node["links"] if link["skew"] is not None]
    refused = [each for each in node["bootstraps"] if each["code"] == ClockSkew.code]
    remedy = (
        f"This computer says that it is {now}. Compare with a clock that is right; "
        "'timedatectl' shows and sets it ('sudo timedatectl set-ntp true')."
    )
    if refused:
        suspect = (
            "probably the other's" if any(abs(skew) < CLOCK_WARNING_SECONDS for skew in skews)
            else "probably this one's"
        )  # fmt: skip
        told = "; ".join(f"{each['url']}: {_first_sentence(each['error'])}" for each in refused)
        yield problem("clock", f"A clock is wrong, {suspect}: {told}", remedy, ClockSkew.code)
    elif any(abs(skew) > CLOCK_WARNING_SECONDS for skew in skews):
        worst = max(skews, key=abs)
        yield warning("clock", f"It differs by {abs(worst):.0f} s from another node's.", remedy)
    elif skews:
        yield ok("clock", f"{now}; agrees with {_count(len(skews), 'node')}")
    else:
        yield ok("clock", f"{now}; nobody is connected to compare it with")


# --- the others --------------------------------------------------------------------------------


def _bootstrap(bootstrap: dict[str, Any], node: dict[str, Any]) -> Check:
    about, url = "bootstrap", bootstrap["url"]
    channels = _names([c for c in node["channels"] if url in [b["url"] for b in c["bootstraps"]]])
    if bootstrap["state"] == _CONNECTED:
        links = [x for x in node["links"] if x["node"] == bootstrap["node"] and x["via"] is None]
        rtt = next((f", {delay_text(x['rtt'])}" for x in links if x["rtt"] is not None), "")
        return ok(about, f"connected to {url}{rtt}, for {channels}")
    code, told = bootstrap["code"], _first_sentence(bootstrap["error"])
    if code == ClockSkew.code:
        return warning(about, f"{url} refuses this node for its clock.", "See 'clock'.", code)
    if code == NotAMember.code:
        return _refused(bootstrap, node)
    if code == VersionMismatch.code:
        return problem(
            "versions",
            f"{url} runs another version of kachery_p2p: {told}",
            "Upgrade the older of the two ('pip install -U kachery_p2p'), then restart it.",
            code,
        )
    return problem(
        about,
        f"No connection to {url}, which {channels} needs: {told or 'it does not answer'}",
        "Is that node running, and does its address still hold? Does a firewall here let this "
        "connection out? The node keeps trying by itself.",
        code or Unreachable.code,
    )


def _refused(bootstrap: dict[str, Any], node: dict[str, Any]) -> Check:
    """This node believes that it is a member, and that bootstrap node does not."""
    about, url = "bootstrap", bootstrap["url"]
    on_it = [c for c in node["channels"] if url in [b["url"] for b in c["bootstraps"]]]
    connected = {b["url"] for b in node["bootstraps"] if b["state"] == _CONNECTED}
    cut_off = [
        c for c in on_it if c["member"] and not connected & {b["url"] for b in c["bootstraps"]}
    ]
    text = f"{url} refuses this node: it is no member of {_names(cut_off or on_it)} there."
    if not cut_off:
        remedy = "See the channel. If this node was added a moment ago, look again in a minute."
        return warning(about, text, remedy, NotAMember.code)
    return problem(
        about,
        f"{text} Nobody else on it talks to this node: it was removed, or that node has not joined.",
        "If this node was added a moment ago, look again in a minute. If it was removed, its owner can "
        "let it in again ('kachery-p2p channel invite').",
        NotAMember.code,
    )


def _names(channels: list[dict[str, Any]]) -> str:
    return ", ".join(repr(channel["name"]) for channel in channels)


def _channel(channel: dict[str, Any], node: dict[str, Any]) -> Check:
    about, name = f"channel {channel['name']!r}", quoted(channel["name"])
    granted, wanted = set(channel["granted"]), set(channel["wanted"])
    if channel["expired"]:
        return problem(
            about, "Its document has expired: it grants nothing any more.",
            "It is this node's own: make another one ('kachery-p2p channel create')."
            if channel["owner"] else "Ask its owner for a fresh export, and join it.",
            AccessDenied.code,
        )  # fmt: skip
    if not channel["bootstraps"]:
        return problem(
            about, "It has no proxy any more, so that its members do not find one another.",
            "Its owner makes another one ('kachery-p2p channel create --bootstrap URL').",
            Unreachable.code,
        )  # fmt: skip
    if not channel["member"]:
        return problem(
            about,
            "This node is not a member of it.",
            f"Ask its owner to run 'kachery-p2p channel add-node {name} {node['node_id']}', or for "
            "an invitation ('kachery-p2p channel invite').",
            NotAMember.code,
        )
    if not granted:
        return problem(
            about,
            "Its owner has granted this node no role.",
            f"Ask the owner to run 'kachery-p2p channel set-roles {name} {node['node_id']} all'.",
            AccessDenied.code,
        )
    if off := sorted(granted - wanted - {"proxy"}):
        return warning(
            about,
            f"Granted, but switched off on this node: {roles_text(off)}.",
            f"To switch all on: 'kachery-p2p channel export {name} | kachery-p2p channel join -'.",
        )
    if not channel["secret"] and granted - {"proxy"}:
        return problem(
            about,
            "This node has not been given the channel's secret, so it can look up nothing.",
            "Ask its owner for a fresh export, and join it.",
            AccessDenied.code,
        )
    return ok(about, f"member with the roles {roles_text(channel['effective'])}")


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
