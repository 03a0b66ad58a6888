"""What goes into a task and what comes out: arguments to text, results to payloads, and back.

Arguments are JSON; a numpy array anywhere in them is stored as a file, and its URI goes in its
place. A result is written as JSON if it comes back from that as it was, an array as npy, bytes as
they are, and anything else as one of the package's own pickles (:mod:`.values.pickles`), so that a
tuple arrives as a tuple. A result of more than ``MAX_INLINE_RESULT`` bytes is stored, and its URI
travels.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Final

from kachery_p2p.client.files import loads, stores
from kachery_p2p.client.session import portal
from kachery_p2p.client.values import codecs, pickles
from kachery_p2p.local import places
from kachery_p2p.protocol.errors import BadInput, KacheryError, NotFound
from kachery_p2p.protocol.limits import MAX_FEED_MESSAGE_DEPTH, MAX_INLINE_RESULT
from kachery_p2p.protocol.tasks.task import ARRAY_KEY, ParcelFormat, Payload, canonical_kwargs

_LABELS: dict[ParcelFormat, str] = {
    "json": "result.json", "npy": "result.npy", "bytes": "result.dat", "pkl": "result.pkl",
}  # fmt: skip


_APPEAR_SECONDS: Final = 5.0
"""What was stored on another node a moment ago may not be known here yet; so long it is looked for."""
_PAUSE_SECONDS: Final = 0.05

# --- arguments -----------------------------------------------------------------------------------


async def encode_kwargs(kwargs: Any, channel: str | None = None) -> bytes:
    """The canonical text of arguments, after storing the arrays that are in them.

    Raises:
        BadInput: something in them is neither JSON nor a numpy array; names the argument.
        Others as :func:`store_npy`, if there is an array.
    """
    if isinstance(kwargs, dict):
        kwargs = await _stored(kwargs, channel, MAX_FEED_MESSAGE_DEPTH)
    return canonical_kwargs(kwargs)


async def _stored(value: Any, channel: str | None, depth: int) -> Any:
    """``value`` with the URIs of its arrays in their place."""
    if depth < 0:
        return value  # it will be refused for its depth
    if type(value) is dict:
        if value.keys() == {ARRAY_KEY}:
            reason = f"a dict with the single key {ARRAY_KEY!r} stands for an array; rename the key"
            raise BadInput(what="task arguments", reason=reason)
        return {key: await _stored(item, channel, depth - 1) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [await _stored(item, channel, depth - 1) for item in value]
    if _is_array(value):
        return {ARRAY_KEY: await stores.astore_npy(value, "array.npy", channel=channel)}
    return value


def decode_kwargs(text: bytes, channel: str | None = None) -> dict[str, Any]:
    """The arguments that a text says, with their arrays. It blocks while those are loaded.

    Raises:
        NotFound: nobody reachable has one of the arrays.
        Others as :func:`load_npy`.
    """
    arguments: dict[str, Any] = json.loads(text)
    return {name: _loaded(value, channel) for name, value in arguments.items()}


def _loaded(value: Any, channel: str | None) -> Any:
    if type(value) is dict:
        if value.keys() == {ARRAY_KEY}:
            return portal.run(lambda: _load(value[ARRAY_KEY], "npy", channel), name="load_npy")
        return {key: _loaded(item, channel) for key, item in value.items()}
    if type(value) is list:
        return [_loaded(item, channel) for item in value]
    return value


def _is_array(value: Any) -> bool:
    np = sys.modules.get("numpy")  # where numpy was never imported, no value is of its types
    return np is not None and type(value) in (np.ndarray, np.memmap)


# --- results -------------------------------------------------------------------------------------


def encode_result(value: Any) -> tuple[ParcelFormat, bytes | memoryview]:
    """A result as bytes, and how they were written.

    Raises:
        BadInput, UnsafePickle: it is nothing that can be sent; says what in it.
    """
    if type(value) in (bytes, bytearray):
        return "bytes", bytes(value)
    if _is_array(value) and not value.dtype.hasobject:
        return "npy", codecs.npy_to_bytes(value).cast("B")
    try:
        data = json.dumps(value, separators=(",", ":"), allow_nan=False)
        if json.loads(data) == value:
            return "json", data.encode("ascii")
    except (TypeError, ValueError, RecursionError):
        pass  # not JSON; or a comparison that numpy refuses
    try:
        return "pkl", pickles.dumps(value)
    except BadInput as error:
        kind = type(value)
        name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
        reason = f"what it returned (a {name}) cannot be sent: {error}"
        raise BadInput(what="task result", reason=reason) from error


_store_bytes = portal.twin(stores.astore_bytes, asks_only=True)


async def apack(value: Any, channel: str | None = None) -> Payload:
    """A result as a payload; a large one is stored. Raises as :func:`encode_result` and
    :func:`store_bytes`."""
    written, data = await asyncio.to_thread(encode_result, value)
    if len(data) <= MAX_INLINE_RESULT:
        return Payload(written, bytes(data))
    return Payload(
        written, None, await stores.astore_bytes(data, _LABELS[written], channel=channel)
    )


def pack(value: Any, channel: str | None = None) -> Payload:
    """As :func:`apack`, in a thread or process that runs tasks."""
    written, data = encode_result(value)
    if len(data) <= MAX_INLINE_RESULT:
        return Payload(written, bytes(data))
    return Payload(written, None, _store_bytes(data, _LABELS[written], channel=channel))


async def aunpack(payload: Payload, channel: str | None = None) -> Any:
    """The value in a payload.

    Raises:
        NotFound: nobody reachable has the file in which it lies.
        BadInput, UnsafePickle: it was not written as it says; nothing was run.
        Others as :func:`load_bytes`.
    """
    if payload.uri is not None:
        return await _load(payload.uri, payload.format, channel)
    assert payload.data is not None
    match payload.format:
        case "json":
            return codecs.bytes_to_json(payload.data)
        case "npy":
            return codecs.bytes_to_npy(payload.data)
        case "pkl":
            return pickles.loads(payload.data)
        case "bytes":
            return payload.data


async def _load(uri: str, written: ParcelFormat, channel: str | None) -> Any:
    """What a file holds, after fetching it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _APPEAR_SECONDS
    pause = _PAUSE_SECONDS
    # As a whole into the storage first: its hash is then verified, and others can have it.
    while await loads.aload_file(uri, channel=channel) is None:
        if loop.time() + pause > deadline or places.offline_dir() is not None:
            asked = "all who are on a common channel and could be asked were asked"
            raise NotFound(what=uri, detail=asked)
        await asyncio.sleep(pause)
        pause *= 2
    match written:
        case "json":
            return await loads.aload_json(uri, channel=channel)
        case "npy":
            return await loads.aload_npy(uri, channel=channel)
        case "pkl":
            return await loads.aload_pkl(uri, channel=channel)
        case "bytes":
            return await loads.aload_bytes(uri, channel=channel)


def reason_of(error: BaseException) -> str:
    """An exception in one line, as a traceback ends with."""
    if isinstance(error, KacheryError) and type(error).__module__.startswith("kachery_p2p."):
        return str(error)
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
