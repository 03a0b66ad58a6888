"""Every error that kachery_p2p raises, and its code on the wire.

The tree says whose fault it is; the leaf says what the caller can do about it::

    KacheryError
    ├── LocalError                  this call, this user or this machine
    │   ├── BadInput                a value that can never work (also a ValueError)
    │   │   ├── BadUri
    │   │   ├── BadPath
    │   │   ├── UnsafePickle
    │   │   ├── BadChannelDocument  unsigned, tampered, expired, of another version
    │   │   └── BadInvitation       cut short, damaged, over
    │   ├── UnknownChannel
    │   ├── DaemonNotRunning
    │   │   ├── DaemonHangs         it is there and does not answer
    │   │   └── DaemonElsewhere     this home's node runs on another computer
    │   ├── DaemonNotPermitted
    │   ├── DaemonAlreadyRunning
    │   ├── DaemonNotStarted        it was started and ended, or never answered
    │   ├── NeedsNode               offline mode cannot do this
    │   ├── StorageMismatch
    │   ├── StorageInUse
    │   ├── StorageFull
    │   │   ├── StorageLimitReached the limit that the node was given, not the disk's
    │   │   └── ChangeNotKept       it counts, but a restart now would undo it
    │   ├── StorageDamaged
    │   │   └── StorageReadOnly     it can be read, and not written
    │   ├── ContentPinned
    │   ├── CopyLocked              another node deletes its copy and relies on this one
    │   ├── LastCopy                nobody else is known to have it
    │   ├── ReadOnlyUser
    │   ├── UnknownFeed
    │   │   └── FeedDeleted         while it was read
    │   ├── FeedReadOnly            only the node with the feed's key appends
    │   ├── FeedBehind              this node once knew more of its own feed than it does now
    │   ├── UnknownTask             no request of that id, or it ended long ago
    │   └── LoopNotMade             no event loop: no descriptors or threads left, or Python ends
    ├── RemoteError                 another node
    │   ├── AccessDenied            a role is missing; says which, and on which side
    │   ├── NotAMember
    │   ├── InvitationRefused       revoked, used up, over, or never made there
    │   ├── ShareRefused            a share link: the same
    │   ├── NotAWriter
    │   ├── KeepRefused             a keeper does not keep it, and why
    │   ├── NotKept                 fewer keepers have it than were asked for
    │   ├── CorruptContent          bytes that do not match their hash
    │   ├── ForgedFeed              a head, messages or evidence that its key did not sign
    │   ├── FeedForked              its owner signed two histories
    │   ├── ForgedResult            a result that the node named in it did not sign
    │   ├── TaskFailed              the function raised, or could not be run
    │   ├── TaskUnknown             an action that began, and nobody can say whether it ended
    │   ├── TaskNotAllowed          the node does not run this function for others
    │   ├── ProtocolViolation       the peer broke the wire protocol
    │   ├── VersionMismatch
    │   ├── ClockSkew
    │   ├── OriginError             storage elsewhere that a node reads (an origin, an archive)
    │   │   ├── OriginUnreachable
    │   │   ├── OriginSlow          no answer in time
    │   │   ├── OriginRefused       credentials that are wrong, missing or over
    │   │   ├── OriginTruncated     an object that is shorter than it should be
    │   │   ├── OriginObjectGone    it was listed, and is not there any more
    │   │   └── OriginNotWritten    it could not be archived
    │   └── Busy                    a named limit of the other side is reached
    ├── TransportError              the path between
    │   ├── LinkClosed
    │   ├── Unreachable
    │   ├── Stalled                 no progress, whatever the total time
    │   ├── DeadlineExceeded
    │   └── NotKnownYet             somebody has not told yet what it has
    ├── NotFound                    everybody who could have it was asked
    │   ├── NoBackend               nobody offers the task function
    │   └── NobodyKeeps             no keeper for this node is reachable
    ├── Cancelled
    │   └── TaskCancelled
    └── InternalError               a bug of ours

Each class has a ``code`` (its name on the wire and in ``--json``), an ``exit_status`` for the
command line, and a ``text`` from which the sentence is built: the fields named in it in braces are
the fields that must be given. The sentence ends with what to do next.

Only errors that are declared here cross a wire: :func:`to_wire` and :func:`from_wire` are the one
table, both ways.
"""

from __future__ import annotations

import re
import string
from typing import Any, ClassVar, Self, TypeVar

MAX_FIELD_CHARS = 2_000
"""A text field of an error that crosses a wire is cut to this many characters."""
MAX_FIELDS_CHARS = 8_000
"""All fields of an error together, so that it always fits a frame header (64 KiB)."""
MAX_FIELD_DEPTH = 4
"""Containers inside one another in a field; what lies deeper is left out."""

E = TypeVar("E", bound="KacheryError")


class KacheryError(Exception):
    """Root of the tree. ``error.fields`` holds what the sentence was built from."""

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1
    text: ClassVar[str] = "{reason}"

    def __init__(self, /, **fields: Any) -> None:  # so that a field may be called anything
        self.fields: dict[str, Any] = fields
        advice = self.text.rpartition("}")[2]
        inside = (_inside(name, value, advice) for name, value in fields.items())
        sentence = self.text.format_map(_Missing(inside))
        # No template: the first one imports, which an interpreter that ends cannot do.
        super().__init__(_ASKED.sub(lambda found: found[1], sentence))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.fields)

    def again(self) -> Self:
        """The same, to be raised once more. Each ``raise`` of one object adds frames to it: who keeps
        an error that others raise, and is in these frames, would be kept by it in a circle."""
        copy = _rebuild(type(self), self.fields)
        copy.__cause__ = self.__cause__
        return copy

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names of the fields that the sentence needs."""
        return tuple(name for _, name, _, _ in string.Formatter().parse(cls.text) if name)


class _Missing(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"


def _inside(name: str, value: Any, advice: str) -> tuple[str, Any]:
    """A field as it stands in the sentence: a reason may be one itself, with its full stop, and with
    the very advice that follows. Of a long one, the beginning."""
    if isinstance(value, str) and len(value) > MAX_FIELD_CHARS:
        value = value[:MAX_FIELD_CHARS] + "..."
    if name not in _SENTENCES or not isinstance(value, str):
        return name, value
    if advice.startswith(". "):
        value = value.removesuffix(advice)
    return name, value if value.endswith("..") else value.removesuffix(".")


_SENTENCES = frozenset({"reason", "detail", "cause"})
_ASKED = re.compile(r"(?<=\w)([?!])\.(?=\s|$)")
"""A reason that is a question needs no full stop after it."""


def _rebuild(kind: type[E], fields: dict[str, Any]) -> E:
    return kind(**fields)


class LocalError(KacheryError):
    """This call, this user or this machine."""

    code = "local"


class BadInput(LocalError, ValueError):
    """A value that can never work."""

    code = "bad-input"
    exit_status = 2
    text = "{what}: {reason}"


class BadUri(BadInput):
    code = "bad-uri"
    text = (
        "Not a kachery URI: {uri!r}: {reason}. "
        "A URI looks like sha1://<40 hex digits>/<name>, optionally with ?manifest=<40 hex digits>."
    )


class BadPath(BadInput):
    code = "bad-path"
    text = "Cannot use {path!r}: {reason}."


class UnsafePickle(BadInput):
    code = "unsafe-pickle"
    text = (
        "{what} is not allowed in a pickle here: only None, bool, int, float, complex, str, bytes, "
        "range, slice, set, frozenset, list, tuple, dict, dates, Decimal, UUID, paths and numpy "
        "scalars and arrays are. {remedy}."
    )

    def __init__(self, /, **fields: Any) -> None:
        super().__init__(**{"remedy": "Convert it to one of these first"} | fields)


class BadChannelDocument(BadInput):
    code = "bad-channel-document"
    text = "Channel document refused: {reason}. Ask the channel's owner for a fresh export."


class BadInvitation(BadInput):
    code = "bad-invitation"
    text = (
        "Not a usable invitation: {reason}. Ask who sent it for a new one ('kachery-p2p channel "
        "invite'), and paste the whole line."
    )


class UnknownChannel(LocalError):
    code = "unknown-channel"
    exit_status = 2
    text = (
        "This node is on no channel called {channel!r}. See 'kachery-p2p channel list'; join one "
        "with 'kachery-p2p channel join <file>'."
    )


class DaemonNotRunning(LocalError):
    code = "daemon-not-running"
    exit_status = 3
    text = "No kachery-p2p node answers: {reason}. Start one with 'kachery-p2p daemon start'."


class DaemonHangs(DaemonNotRunning):
    code = "daemon-hangs"
    text = (
        "A kachery-p2p node runs here and does not answer: {reason}. If it stays so, end it with "
        "'kachery-p2p daemon stop --force', and see node.log in its state folder for why."
    )


class DaemonElsewhere(DaemonNotRunning):
    code = "daemon-elsewhere"
    text = (
        "This home's kachery-p2p node runs on another computer, {host} (pid {pid}), and only programs "
        "there can talk to it. Work there; or start one for this computer, with folders that the two "
        "do not share: 'kachery-p2p daemon start --state-dir DIR --storage-dir DIR'. What lies in "
        "{storage!r} can be loaded here with local_only=True."
    )


class DaemonNotPermitted(LocalError):
    code = "daemon-not-permitted"
    exit_status = 5
    text = (
        "A kachery-p2p node is there but does not let you in: {reason}. Ask whoever runs it to add "
        "you to its group ('daemon start --auth-group')."
    )


class DaemonAlreadyRunning(LocalError):
    code = "daemon-already-running"
    exit_status = 9
    text = (
        "A kachery-p2p node already runs here: {reason}. Stop it with 'kachery-p2p daemon stop', or "
        "give this one folders of its own (XDG_RUNTIME_DIR, --state-dir, --storage-dir)."
    )


class DaemonNotStarted(LocalError):
    code = "daemon-not-started"
    exit_status = 3
    text = "The kachery-p2p node did not start: {reason}. What it said is in {log}."


class NeedsNode(LocalError):
    code = "needs-node"
    exit_status = 3
    text = (
        "{what} needs a node, and this process is in offline mode. Unset "
        "KACHERY_P2P_OFFLINE_STORAGE_DIR and start a node with 'kachery-p2p daemon start'."
    )


class StorageMismatch(LocalError):
    code = "storage-mismatch"
    exit_status = 2
    text = (
        "KACHERY_STORAGE_DIR is {wanted!r} but the node's storage is {actual!r}. Unset the variable, "
        "or restart the node with --storage-dir {wanted}."
    )


class StorageInUse(LocalError):
    code = "storage-in-use"
    exit_status = 9
    text = (
        "Another node (pid {pid}) already uses {path!r}. Stop that one first, or choose another "
        "folder: two nodes must not share it."
    )


class StorageFull(LocalError):
    code = "storage-full"
    exit_status = 4
    text = (
        "No space left for {what} in {path!r}: free some, then repeat the call; nothing was lost."
    )


class StorageLimitReached(StorageFull):
    """The limit that the node's user set, and nothing that may go is left. Sizes are in bytes."""

    code = "storage-limit-reached"
    text = (
        "No room for {what}: {needed} bytes more would pass the limit of {limit} bytes for {path!r}, "
        "of which {used} are used ({held}), and nothing else may go. Nothing was lost. See "
        "'kachery-p2p du'; delete or unpin something ('kachery-p2p rm URI', 'kachery-p2p unpin URI'), "
        "or raise the limit ('kachery-p2p daemon set --max-storage SIZE'); then repeat the call."
    )


class ChangeNotKept(StorageFull):
    """A change of a channel that counts in memory, and is not on disk."""

    code = "change-not-kept"
    text = (
        "{what} counts already, here and on the nodes that hear of it, but it could not be written in "
        "{path!r}: {reason}. It is written by itself as soon as that works; do not stop this node "
        "before that."
    )


class StorageDamaged(LocalError):
    code = "storage-damaged"
    exit_status = 4
    text = "The storage could not be used: {path!r}: {reason}."


class StorageReadOnly(StorageDamaged):
    code = "storage-read-only"
    text = (
        "{path!r} cannot be written to ({reason}): what lies in that folder can be read, and nothing "
        "can be stored there. Make it writable for this user, or choose another folder ('kachery-p2p "
        "daemon start' has --storage-dir and --state-dir)."
    )


class ContentPinned(LocalError):
    code = "content-pinned"
    exit_status = 2
    text = (
        "{what} is pinned ({pins}), so it was not deleted. End that with "
        "'kachery-p2p {ending}', or say --force."
    )


class CopyLocked(LocalError):
    code = "copy-locked"
    text = (
        "{what} was not deleted: {who} deletes its own copy at this moment and relies on this one, for "
        "{seconds} s more. Repeat the call then, or say --force."
    )


class LastCopy(LocalError):
    """``found``: what those said who might have it, in words."""

    code = "last-copy"
    exit_status = 2
    text = (
        "{what} was stored here, and fewer than {copies} other nodes or archives have shown that they "
        "have a copy that stays ({found}), so it was not deleted. Give it to a keeper ('kachery-p2p "
        "push {what}'), or say --force."
    )


class ReadOnlyUser(LocalError):
    code = "read-only-user"
    exit_status = 5
    text = (
        "User {user} may read from this node but not change anything. Ask whoever runs the node, or "
        "start one of your own."
    )


class UnknownFeed(LocalError):
    code = "unknown-feed"
    exit_status = 8
    text = (
        "This node has no feed called {feed!r}. Create it with 'kachery-p2p feed create NAME', or "
        "with create=True in Python."
    )


class FeedDeleted(UnknownFeed):
    code = "feed-deleted"
    text = "Feed {feed} was deleted here while it was read. Load what others have of it by its URI."


class FeedReadOnly(LocalError):
    code = "feed-read-only"
    exit_status = 5
    text = (
        "Feed {feed} cannot be appended to here: only the node that has its key can. Hand it the "
        "message with submit_message(), which needs the owner's leave ('kachery-p2p feed grant')."
    )


class FeedBehind(LocalError):
    code = "feed-behind"
    exit_status = 4
    text = (
        "This node's copy of its own feed {feed} is older than what it signed before ({reason}); "
        "was a backup restored? Appending now would fork the feed. Connect to a node that holds the "
        "rest; the node takes it back by itself, then repeat the call."
    )


class UnknownTask(LocalError):
    code = "unknown-task"
    exit_status = 8
    text = (
        "This node knows of no task {task!r}; one that ended is forgotten after some minutes. See "
        "'kachery-p2p task show'."
    )


class LoopNotMade(LocalError):
    code = "loop-not-made"
    exit_status = 71
    text = (
        "kachery_p2p cannot have the event loop that it needs: {reason}. Close what this process no "
        "longer needs, then repeat the call; nothing was done."
    )


class RemoteError(KacheryError):
    """Another node refused, failed or misbehaved."""

    code = "remote"
    exit_status = 6


class AccessDenied(RemoteError):
    code = "access-denied"
    exit_status = 5
    text = (
        "Denied on channel {channel!r}: {who} lacks the role {role!r} ({cause}). The channel's owner "
        "grants roles ('channel set-roles'), and the node's own user switches them on "
        "('channel join --roles')."
    )


class NotAMember(RemoteError):
    code = "not-a-member"
    exit_status = 5
    text = (
        "Node {node} is not a member of any channel that {peer} serves. Ask the channel's owner to "
        "run 'kachery-p2p channel add-node <channel> {node}'."
    )


class InvitationRefused(RemoteError):
    code = "invitation-refused"
    exit_status = 5
    text = (
        "The invitation to channel {channel!r} is not good any more: {reason}. Ask who sent it for "
        "a new one ('kachery-p2p channel invite')."
    )


class ShareRefused(RemoteError):
    code = "share-refused"
    exit_status = 5
    text = (
        "The link is not good any more: {reason}. Ask who sent it for a new one "
        "('kachery-p2p share')."
    )


class NotAWriter(RemoteError):
    code = "not-a-writer"
    exit_status = 5
    text = (
        "Node {node} may not write to feed {feed}. Ask the feed's owner to run "
        "'kachery-p2p feed grant {feed} {node}'."
    )


class KeepRefused(RemoteError):
    code = "keep-refused"
    exit_status = 5
    text = (
        "{who} does not keep {what}: {reason}. Nothing of it was kept there. Ask its user, or push it "
        "to another keeper ('kachery-p2p kept keepers')."
    )


class NotKept(RemoteError):
    code = "not-kept"
    text = (
        "{what} is kept by {kept} of the {copies} keepers that were asked for. {detail}. What is kept "
        "stays so; repeat the call to go on."
    )


class CorruptContent(RemoteError):
    code = "corrupt-content"
    text = (
        "{what} from {source} does not match its hash; it was thrown away. Try again to fetch it "
        "from another node, or ask the provider to store the file anew."
    )


class ForgedFeed(RemoteError):
    code = "forged-feed"
    text = (
        "{what} from {source} does not prove what it claims: {reason}. It was thrown away. Try again "
        "to read from another node, or upgrade the one that sent it."
    )


class FeedForked(RemoteError):
    code = "feed-forked"
    text = (
        "The owner of feed {feed} signed two histories of it that exclude one another, so nothing "
        "more of it is accepted. See 'kachery-p2p feed show {feed}'; its owner decides with "
        "'kachery-p2p feed resolve {feed}'."
    )


class ForgedResult(RemoteError):
    code = "forged-result"
    text = (
        "{what} from {source} does not prove what it claims: {reason}. It was thrown away. Repeat "
        "the request to ask another node, or upgrade the one that sent it."
    )


class TaskFailed(RemoteError):
    """What may be given besides: ``traceback``, as the function's own machine printed it."""

    code = "task-failed"
    text = (
        "Task function {function!r} failed on node {node}: {reason}. If the function or its arguments "
        "are at fault, correct them; then request it again."
    )

    def __init__(self, /, **fields: Any) -> None:
        super().__init__(**fields)
        if fields.get("traceback"):
            self.args = (f"{self}\n\nOn that node:\n{fields['traceback']}",)


class TaskUnknown(RemoteError):
    code = "task-unknown"
    text = (
        "Action {function!r} was begun on node {node}, and nobody can say whether it ended: "
        "{reason}. It is not run again by itself: see what it did, then request it anew if it is "
        "to run."
    )


class TaskNotAllowed(RemoteError):
    code = "task-not-allowed"
    exit_status = 5
    text = (
        "Node {node} does not run task function {function!r} for others: it is not on the node's "
        "list of allowed functions. Ask whoever runs that node to add it."
    )


class ProtocolViolation(RemoteError):
    code = "protocol-violation"
    text = "The peer broke the wire protocol: {reason}. The link was closed; check both versions."


class VersionMismatch(RemoteError):
    code = "version-mismatch"
    text = (
        "This node speaks wire protocol {ours}, the peer speaks {theirs}. Upgrade the older of the "
        "two ('pip install -U kachery_p2p')."
    )


class ClockSkew(RemoteError):
    code = "clock-skew"
    text = (
        "The clocks of this node and {peer} differ by {seconds} s, more than the {limit} s allowed. "
        "Set the wrong one right (see 'timedatectl'), then it reconnects by itself."
    )


class OriginError(RemoteError):
    code = "origin"
    text = "{origin}: {reason}. See 'kachery-p2p origins'."


class OriginUnreachable(OriginError):
    code = "origin-unreachable"
    text = "Cannot reach {origin}: {reason}. The node tries again by itself."


class OriginSlow(OriginError):
    code = "origin-slow"
    text = "{origin} did not answer within {seconds} s ({what}). Repeat the call in a while."


class OriginRefused(OriginError):
    code = "origin-refused"
    exit_status = 5
    text = (
        "{origin} refuses access: {reason}. Give the node the right credentials: it reads those in "
        "files anew within a minute, and those in its environment when it is restarted."
    )


class OriginTruncated(OriginError):
    code = "origin-truncated"
    text = "{what} in {origin} is too short: {reason}. Put the whole file there."


class OriginObjectGone(OriginError):
    code = "origin-object-gone"
    text = "{what} was in {origin}, and is not there any more. Is it anywhere else?"


class OriginNotWritten(OriginError):
    code = "origin-not-written"
    text = "{what} was not archived in {origin}: {reason}. What was there is unharmed."


class Busy(RemoteError):
    code = "busy"
    text = "The node at the other end is at its limit: {limit}. Try again in a moment."


class TransportError(KacheryError):
    """The path between two nodes."""

    code = "transport"
    exit_status = 7


class LinkClosed(TransportError):
    code = "link-closed"
    text = "The link to {peer} closed: {reason}. It is opened again by itself; repeat the call."


class Unreachable(TransportError):
    code = "unreachable"
    text = (
        "Cannot reach {what}: {reason}. Check the network and 'kachery-p2p info'; the node keeps "
        "trying by itself."
    )


def reason_of(error: BaseException) -> str:
    """Why, for a sentence that names the place and has an advice of its own."""
    if isinstance(error, Unreachable):
        return str(error.fields["reason"])
    return str(error) or type(error).__name__


class Stalled(TransportError):
    code = "stalled"
    text = (
        "{what} made no progress for {seconds} s (sources: {sources}). What was verified is kept; "
        "repeat the call to go on from there."
    )


class DeadlineExceeded(TransportError):
    code = "deadline-exceeded"
    exit_status = 10
    text = "{what} took longer than {seconds} s. Repeat the call, or allow it more time."


class NotKnownYet(TransportError):
    """Nobody is known to have it, but not everybody has told yet what it has."""

    code = "not-known-yet"
    text = (
        "It is not known yet whether anybody has {what}: still announcing what they have: {who}. "
        "Repeat the call in a moment, or allow it more time."
    )


class NotFound(KacheryError):
    """Everybody who could have it was asked, and nobody has it."""

    code = "not-found"
    exit_status = 8
    text = (
        "Nobody reachable has {what} ({detail}). Check the URI, and that the node that stored it is "
        "running and on the same channel."
    )


class NoBackend(NotFound):
    code = "no-backend"
    text = (
        "Nobody reachable runs the task function {function!r} ({detail}). See 'kachery-p2p task "
        "list' for what is on offer; start a backend for it, or allow the request more time."
    )


class NobodyKeeps(NotFound):
    code = "nobody-keeps"
    text = (
        "Nobody reachable keeps things for this node ({detail}). A member offers it with 'kachery-p2p "
        "channel set CHANNEL --keep-for NODE', or --keep-for all."
    )


class Cancelled(KacheryError):
    code = "cancelled"
    exit_status = 130
    text = "{what} was cancelled. What was verified is kept."


class TaskCancelled(Cancelled):
    code = "task-cancelled"
    text = "Task {function!r} was cancelled ({reason}). Request it again if it is still wanted."


class InternalError(KacheryError):
    code = "internal"
    exit_status = 70
    text = "Internal error of kachery_p2p: {reason}. Please report it with the node's log."


def _leaves(kind: type[KacheryError]) -> dict[str, type[KacheryError]]:
    table = {kind.code: kind}
    for child in kind.__subclasses__():
        table.update(_leaves(child))
    return table


BY_CODE: dict[str, type[KacheryError]] = _leaves(KacheryError)
"""Wire code -> class. Codes are unique; a test checks it."""


def to_wire(error: BaseException) -> tuple[str, dict[str, Any]]:
    """What of ``error`` another process is told: its code and its plain fields."""
    if not isinstance(error, KacheryError):
        error = InternalError(reason=f"{type(error).__name__}: {error}")
    return error.code, _plain_fields(error.fields)


def from_wire(code: str, fields: dict[str, Any]) -> KacheryError:
    """The error that another process named; an unknown code becomes a :class:`RemoteError`."""
    kind = BY_CODE.get(code)
    if kind is None:
        return RemoteError(reason=f"{code[:100]}: {_plain_fields(fields)}")
    return kind(**_plain_fields(fields))


def from_peer(code: str, fields: dict[str, Any]) -> KacheryError:
    """As :func:`from_wire`, for what another *node* says, which is not to be believed.

    Its disk, its user and its bugs are not ours: what would say that this call, this machine or
    this program is at fault becomes a :class:`RemoteError`.
    """
    error = from_wire(code, fields)
    if isinstance(error, LocalError | InternalError | Cancelled):
        return RemoteError(reason=f"The other node says: {error}")
    return error


def _plain_fields(fields: dict[str, Any]) -> dict[str, Any]:
    return _Plainer().mapping(fields, MAX_FIELD_DEPTH)


class _Plainer:
    """Text, numbers and containers of them pass; anything else becomes text. Each text, all of them
    together, and the depth are cut, because the fields may be what a hostile peer sent."""

    def __init__(self) -> None:
        self._left = MAX_FIELDS_CHARS

    def value(self, value: Any, depth: int) -> Any:
        self._left -= 8
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int) and abs(value) < 1 << 63:
            return value
        if isinstance(value, list | tuple | dict) and (depth <= 0 or self._left <= 0):
            return "..."
        if isinstance(value, list | tuple):
            return [self.value(item, depth - 1) for item in value[:100]]
        if isinstance(value, dict):
            return self.mapping(value, depth - 1)
        if isinstance(value, bytes | bytearray | memoryview):
            return self.text(bytes(value[:100]).hex())
        return self.text(value if isinstance(value, str) else str(value))

    def mapping(self, fields: dict[Any, Any], depth: int) -> dict[str, Any]:
        return {
            self.text(key if isinstance(key, str) else repr(key)[:100]): self.value(item, depth)
            for key, item in list(fields.items())[:100]
        }

    def text(self, text: str) -> str:
        text = text[: max(0, min(MAX_FIELD_CHARS, self._left))]
        self._left -= len(text)
        # A file name that is no text, say, must not make the error itself unsendable.
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
