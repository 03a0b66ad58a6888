"""What is printed of invitations when a member is removed, or loses roles."""

from __future__ import annotations

from typing import Any, Final

from .output import Output, clean, quoted

_DIGITS: Final = 12


def describe_invitations(changed: dict[str, Any]) -> list[str]:
    """Which invitations were revoked, which stay open, and what else there is to know of them."""
    came = changed["came_by"]
    ids = {id[:_DIGITS] for id in came["invitations"]}
    lines = [f"revoked    {_invitation(each, ids)}" for each in changed["revoked"]]
    mine = {each["id"][:_DIGITS] for each in (*changed["revoked"], *changed["open"])}
    if came["admitted_by"]:
        lines += [
            f"came by    {id}, of node {came['admitted_by'][:8]}, which will revoke it"
            for id in sorted(ids - mine)
        ]
    lines += [
        f"came too   {each['node']}  {clean(each['label']) or '-'}" for each in came["companions"]
    ]
    lines += [
        f"let in     {each['node']}  {clean(each['label']) or '-'}" for each in came["let_in"]
    ]
    return lines + [f"open       {_invitation(each, ids)}" for each in changed["open"]]


def note_open(output: Output, changed: dict[str, Any]) -> None:
    """How to revoke what the member may know of besides."""
    if changed["revoked_all"]:
        return
    name = quoted(changed["name"])
    if changed["open"]:
        output.note("It may know of one that is open, too. To revoke one, or all:")
        output.note(f"  kachery-p2p channel revoke-invite {name} ID")
    if changed["admitters"]:
        who = ", ".join(clean(each["label"]) or each["node"][:8] for each in changed["admitters"])
        output.note(f"These members may have made invitations too: {who}. To revoke all:")
    if changed["open"] or changed["admitters"]:
        output.note(f"  kachery-p2p channel revoke-invite {name} --all")


def _invitation(each: dict[str, Any], came_by: set[str]) -> str:
    label = f"  {clean(each['label'])}" if each["label"] else ""
    used = f"used by {len(each['nodes'])} of {each['uses']}"
    mark = ", it came by this one" if each["id"][:_DIGITS] in came_by else ""
    return f"{each['id'][:_DIGITS]}  {used}{mark}{label}"
