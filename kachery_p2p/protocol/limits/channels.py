"""Limits of channels: documents, members, invitations, guests."""

from __future__ import annotations

from typing import Final

from .units import MIB

MAX_CHANNEL_DOCUMENT: Final = 1 * MIB
"""Bytes of one signed channel document: about 5,000 members."""
MAX_MEMBERS: Final = 5_000
MAX_BOOTSTRAPS: Final = 32
MAX_CHANNELS: Final = 256
"""Channels that one node is on."""
MAX_CHANNEL_NAME: Final = 100
"""Characters."""
MAX_URL: Final = 2_000
"""Characters."""
MAX_LABEL: Final = 200
"""Characters of a node's label."""
MAX_HELLO_URLS: Final = 8
"""Addresses at which a node says that it can be reached."""
MAX_CARD: Final = 250
"""Bytes of the addresses that a node says in its local network: one string of a TXT record has 255."""
MAX_NEIGHBOURS: Final = 256
"""Members of whose addresses in the local network a node keeps; the oldest go first."""
MAX_NEIGHBOUR_SERVICES: Final = 1_024
"""Nodes in the local network, members or not, that are asked for their cards."""
MAX_FILE_LABEL: Final = 1_000
"""Characters of the label in a URI: a file name (255), or a whole path in URIs of old."""

MAX_INVITATION_TEXT: Final = 20_000
"""Characters of the text in which an invitation line comes."""
MAX_INVITATION_BOOTSTRAPS: Final = 4
"""Bootstraps that an invitation names: the line shall stay one that can be pasted."""
MAX_INVITATION_USES: Final = 1_000
"""Newcomers that one invitation lets in."""
MAX_INVITATIONS: Final = 1_000
"""Invitations to one channel that a node keeps, used up and revoked ones included."""
JOIN_SECONDS: Final = 10.0
"""A newcomer tries again for so long if the node that admits cannot be reached."""
INVITATION_SECONDS: Final = 7 * 24 * 3600.0
"""How long an invitation is good if nothing else is said."""
MAX_ADMISSIONS: Final = 500
"""Admissions that count next to one channel's document, until its owner takes them into it."""
ADMISSIONS_PER_NOTE: Final = 30
"""So that a note fits a header: an admission has at most 1.3 kB, if its label is in Chinese."""
MAX_GUESTS: Final = 64
"""Links of one node to those who hold an invitation and are not members yet. For one more, the one
that does nothing for longest makes room."""
GUEST_SECONDS: Final = 20.0
"""Such a link is closed if its guest has not become a member within this."""

MAX_PASS_SCOPE: Final = 16
"""Contents that one visitor pass is for: a link shall stay one that can be sent in a message."""
MAX_PASS_USES: Final = 1_000_000
"""Visitors of a link whose uses are counted."""
MAX_LINK_RUNNERS: Final = 8
"""Nodes that a link names as those whose word counts for what a task gave."""
MAX_VIEW_DATA: Final = 4_096
"""Bytes of the JSON that a link to a view carries itself; more is content, which the JSON names."""
MAX_VIEW_TITLE: Final = 200
"""Characters of the title of a view."""
VISITOR_APPEND_BYTES: Final = 16_777_216
"""Bytes of messages that the visitors of one link may append while a node runs: what a person decides
in a browser is small, and a link that leaked shall not fill a disk."""
MAX_VISITOR_MESSAGES: Final = 1_000
"""Messages that a visitor appends at once."""
MAX_PASSES: Final = 10_000
"""Share links on one channel that a node remembers; those that are over make room."""
PASS_SECONDS: Final = 7 * 24 * 3600.0
"""How long a share link is good if nothing else is said."""
MAX_PASS_SECONDS: Final = 366 * 24 * 3600.0
"""The longest: what is shared for ever is forgotten, and stays open."""
MAX_VISITORS: Final = 1_024
"""Links of one node to visitors; for one more, the one that was idle longest goes."""
MAX_VISITOR_TASKS: Final = 64
"""Tasks that one node does for all its visitors at once: members come first."""
MAX_VISITOR_TASKS_EACH: Final = 4
"""And for one of them."""
MAX_VISITOR_RESULTS: Final = 64
"""Files of results that a visitor may fetch from who computed them, the newest."""
MAX_CIRCUITS_PER_VISITOR: Final = 8
"""Circuits that a proxy opens for one visitor: to holders of what its link is to."""
MAX_REVOCATIONS: Final = 1_000
"""Revocations of one member that others keep until the passes are over by themselves."""
REVOCATIONS_PER_NOTE: Final = 60
"""So that a note fits a header: a revocation has about 180 bytes."""

MAX_MADE_DOCUMENTS: Final = 64
"""Documents of a channel that its owner's node knows to have made itself, by their digests: as many as
may be made before one of them is known to others."""
