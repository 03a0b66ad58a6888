"""Why a file or a feed does not come, in words: what ``doctor`` makes of what the node saw.

It may come over any channel, so what is wrong with one of them is a problem only if nobody on
another gives it; else it is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from kachery_p2p.cli.output import quoted, size_text
from kachery_p2p.protocol.errors import (
    AccessDenied,
    CorruptContent,
    KacheryError,
    NotFound,
    Stalled,
    Unreachable,
)

from .diagnosis import Check, error_of, failure, ok, problem, warning


def check_uri(seen: dict[str, Any], node: dict[str, Any]) -> Iterator[Check]:
    """``seen``: what ``doctor.file`` or ``doctor.feed`` answered, ``node``: what ``doctor.node``."""
    about = "here"
    local = seen["local"]
    if local is not None and not local["damaged"]:
        yield ok(about, _here(local))
        return
    if local is not None:
        yield warning(
            about,
            f"The copy on this disk was damaged ({local['path']}); it was put aside.",
            "Other nodes are asked for it, as below. If this comes again, check the disk.",
            CorruptContent.code,
        )
    comes = seen["trial"] is not None and seen["trial"]["state"] != "failed"
    if not seen["channels"]:
        yield problem(
            "look-up",
            f"{seen['title']} is not here, and this node is on no channel to ask on.",
            "Join a channel with 'kachery-p2p channel join INVITATION'.",
            NotFound.code,
        )
    for channel in seen["channels"]:
        for check in _channel(channel, seen, node):
            yield replace(check, state="warning") if comes and check.state == "problem" else check
    if seen["trial"] is not None:
        yield _trial(seen)


def _here(local: dict[str, Any]) -> str:
    if not local["path"]:
        return "the feed is this node's own"
    checked = "" if local["damaged"] is not None else ", too large to be checked now"
    return f"it is on this computer: {local['path']} ({size_text(local['size'])}{checked})"


def _channel(
    channel: dict[str, Any], seen: dict[str, Any], node: dict[str, Any]
) -> Iterator[Check]:
    about = f"on {channel['name']!r}"
    for holder in channel["holders"]:
        yield _holder(about, holder)
    if not channel["holders"]:
        yield _nobody(about, channel, seen, node)


def _holder(about: str, holder: dict[str, Any]) -> Check:
    name = f"{holder['label'] or 'a node'} ({holder['node'][:8]})"
    if holder["error"] is None:
        size = "" if holder["size"] is None else f", {size_text(holder['size'])}"
        part = ", as far as it has fetched it itself" if holder["partial"] else ""
        route = "directly" if holder["via"] is None else "through a proxy"
        return ok(about, f"{name} has it{size}{part}, and answers {route}")
    error = error_of(holder["error"])
    if isinstance(error, CorruptContent):
        return problem(
            about,
            f"The copy of {name} is damaged on its disk: it does not match its hash any more.",
            f"Ask whoever runs {name} to store the file anew, and to check that disk.",
            error.code,
        )
    if isinstance(error, NotFound):
        return problem(
            about,
            f"{name} said that it has it, but it is gone from its disk, or was damaged there.",
            f"Ask whoever runs {name} to store the file anew.",
            error.code,
        )
    return problem(
        about,
        f"{name} has it, but does not give it: {error}",
        f"Ask whoever runs {name} to run 'kachery-p2p doctor' there.",
        error.code,
    )


def _nobody(
    about: str, channel: dict[str, Any], seen: dict[str, Any], node: dict[str, Any]
) -> Check:
    error = error_of(channel["error"])
    if isinstance(error, AccessDenied):
        return _denied(about, error, channel, node)
    if isinstance(error, Unreachable):
        return problem(
            about,
            f"Nobody could be asked who has {seen['title']}: no proxy of the channel is connected.",
            "See 'bootstrap' in this list.",
            error.code,
        )
    if not isinstance(error, NotFound):
        return failure(about, error)
    asked = ", ".join(channel["asked"]) or "nobody"
    if channel["offline"]:
        names = ", ".join(channel["offline"])
        return problem(
            about,
            f"{names} has {seen['title']}, but is offline: it is not connected to the channel's "
            f"proxies (asked {asked}).",
            f"Ask whoever runs {names} to start that node ('kachery-p2p daemon start'). It comes "
            "by itself then; repeat the call.",
            error.code,
        )
    return problem(
        about,
        f"Nobody has {seen['title']}. Asked: {asked}, where everybody announces what they have; "
        f"{channel['providers']} other member{'' if channel['providers'] == 1 else 's'} may provide "
        f"{channel['kind']}.",
        "Check the URI letter by letter. Ask whoever stored it whether it was on this channel, and "
        "whether it is still in their storage ('kachery-p2p find URI' there).",
        error.code,
    )


def _denied(
    about: str, error: AccessDenied, channel: dict[str, Any], node: dict[str, Any]
) -> Check:
    role, cause, who = (str(error.fields.get(name, "?")) for name in ("role", "cause", "who"))
    name, shown = channel["name"], quoted(channel["name"])
    own = next((each for each in node["channels"] if each["name"] == name), None)
    if not who.startswith("requester"):
        return problem(
            about,
            f"Nobody may give it: {who} lacks the role {role} ({cause}).",
            f"If it is switched off, ask that node's user to switch {role} on ('channel join "
            f"--roles'); if it is not granted, ask the channel's owner ('channel set-roles {shown}').",
            error.code,
        )
    me = node["node_id"]
    if own is not None and not own["member"]:
        return problem(
            about,
            f"This node is not a member, so it may not ask for it (the role {role}).",
            f"Ask the owner to run 'kachery-p2p channel add-node {shown} {me}', or for an invitation.",
            error.code,
        )
    if own is not None and role in own["granted"] and role not in own["wanted"]:
        wanted = ",".join(sorted({*own["wanted"], role}))
        return problem(
            about,
            f"The role {role} was granted to this node, but is switched off here.",
            f"Switch it on: 'kachery-p2p channel export {shown} | kachery-p2p channel join - --roles "
            f"{wanted}'.",
            error.code,
        )
    if own is not None and role not in own["granted"]:
        roles = ",".join(sorted({*own["granted"], role}))
        return problem(
            about,
            f"The role {role} was not granted to this node by the channel's owner.",
            f"Ask the owner to run 'kachery-p2p channel set-roles {shown} {me} {roles}'.",
            error.code,
        )
    return failure(about, error)


def _trial(seen: dict[str, Any]) -> Check:
    trial = seen["trial"]
    if trial["state"] == "done":
        return ok("loading", "it comes: it was loaded just now")
    if trial["state"] == "going":
        return ok("loading", "it was being loaded until doctor stopped; what came is kept")
    error: KacheryError = error_of(trial["error"])
    told = failure("loading", error)
    if isinstance(error, Stalled):
        return replace(told, remedy=f"{told.remedy} See 'kachery-p2p info' for the links.")
    return told
