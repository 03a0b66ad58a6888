"""Who but a feed's owner may write to a subfeed of it.

Invariants: rules that exist came through :meth:`AccessRules.parse`, so each names another node, and
whoever is not named may not write. They are local to the owner's node, which alone accepts messages.

Non-goals: keeping rules, roles on a channel (those are checked as well).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct, field

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.identity import check_node_id
from kachery_p2p.protocol.limits import MAX_FEED_WRITERS


class AccessRule(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether one node may submit messages."""

    node_id: str = field(name="nodeId")
    write: bool


class AccessRules(Struct, frozen=True, forbid_unknown_fields=True):
    """Who but the owner may write to a subfeed, in the form that kachery's users know:
    ``{"rules": [{"nodeId": <64 hex digits>, "write": true}, ...]}``."""

    rules: list[AccessRule]

    @classmethod
    def parse(cls, value: Any) -> AccessRules:
        """Rules from such a dict.

        Raises:
            BadInput: it has another form, names a node twice, or has more than
                ``MAX_FEED_WRITERS`` rules.
        """
        try:
            rules = msgspec.convert(value, codec.known(cls))
        except (ValueError, LookupError, RecursionError) as error:
            # numpy's numbers raise an IndexError of their own in there.
            raise BadInput(what="access rules", reason=str(error)) from error
        if len(rules.rules) > MAX_FEED_WRITERS:
            reason = f"{len(rules.rules)} rules, more than the {MAX_FEED_WRITERS} allowed"
            raise BadInput(what="access rules", reason=reason)
        nodes = [check_node_id(rule.node_id) for rule in rules.rules]
        if len(set(nodes)) < len(nodes):
            raise BadInput(what="access rules", reason="they name a node twice")
        return rules

    def may_write(self, node_id: str) -> bool:
        """Whether a rule lets this node write; who has none may not."""
        return any(rule.write and rule.node_id == node_id for rule in self.rules)

    def plain(self) -> dict[str, Any]:
        """The dict that :meth:`parse` takes."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found
