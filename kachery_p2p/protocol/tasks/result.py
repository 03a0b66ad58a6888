"""Results of tasks, signed by the node that computed them.

The signature, with the context "task result", is over the msgpack array of the fields before it. It
proves who says that this is the result, and nothing about its being right: whether that node may
provide results on a channel is for the caller to check.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput, ForgedResult, ProtocolViolation
from kachery_p2p.protocol.feeds.feed import Millis
from kachery_p2p.protocol.identity import SIGNATURE_BYTES, NodeKey, verify

from .task import FunctionId, Payload, TaskKey, TaskType

CONTEXT: Final = b"task result"
"""What a result's signature is for."""


class TaskResult(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What ``node`` signed: that the task with this ``key`` gave this ``payload``.

    ``key`` and ``node`` (a public key) are 32 bytes, ``timestamp`` (ms) is when it was computed.
    """

    key: TaskKey
    function: FunctionId
    type: TaskType
    node: Annotated[bytes, Meta(min_length=32, max_length=32)]
    timestamp: Millis
    payload: Payload
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


def sign_result(
    signer: NodeKey, *, key: bytes, function: str, type: TaskType, timestamp: int, payload: Payload
) -> TaskResult:
    """A result of this node's own.

    Args:
        signer: the node's key.
        key: of the task, from :func:`.task.task_key`.
        function, type: as the backend registered it.
        timestamp: ms.
        payload: what the function returned.

    Raises:
        BadInput: a value out of range.
    """
    blank = bytes(SIGNATURE_BYTES)
    unsigned = TaskResult(key, function, type, signer.public, timestamp, payload, blank)
    try:
        codec.convert(TaskResult, codec.plain(unsigned))
    except ProtocolViolation as error:
        raise BadInput(what="task result", reason=error.fields["reason"]) from None
    return replace(unsigned, signature=signer.sign(CONTEXT, _signed_bytes(unsigned)))


def check_result(
    result: TaskResult,
    source: str = "another node",
    *,
    key: bytes | None = None,
    function: str | None = None,
    type: TaskType | None = None,
) -> None:
    """That the node which is named in it signed a result: about 60 microseconds.

    Args:
        result: decoded, so within its bounds.
        source: who sent it, for errors.
        key, function, type: what it is to be the result of; None where that does not matter. All
            types of a function have the same keys, so who wants a pure calculation says so.

    Raises:
        ForgedResult: it is unsigned, or of something else; names ``source``.
    """
    wanted = (key, function, type)
    names = ("task", "function", "type")
    for name, found, asked in zip(
        names, (result.key, result.function, result.type), wanted, strict=True
    ):
        if asked is not None and found != asked:
            raise _forged(result, source, f"it is of another {name} than was asked for")
    if not verify(result.node, CONTEXT, _signed_bytes(result), result.signature):
        raise _forged(result, source, f"node {result.node.hex()} did not sign it")


def _signed_bytes(result: TaskResult) -> bytes:
    return codec.pack(codec.plain(result)[:-1])


def _forged(result: TaskResult, source: str, reason: str) -> ForgedResult:
    what = f"A result of task function {result.function!r} (task {result.key.hex()})"
    return ForgedResult(what=what, source=source, reason=reason)
