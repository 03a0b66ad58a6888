"""A recording of many channels in a browser: zoomed and panned while it stays where it is.

Beside the recording a *pyramid* is stored: least and greatest values of each 32 samples, then of each
8 of those, and so on. So the browser fetches little for a stretch of any length, and no peak is lost
on the way. It takes about 7 % of the recording's size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from kachery_p2p.client.files.loads import aload_npy
from kachery_p2p.client.files.stores import astore_npy
from kachery_p2p.protocol.errors import BadInput, NotFound
from kachery_p2p.protocol.limits import MIB, PASS_SECONDS
from kachery_p2p.protocol.numbers import real

from .built_in import built_in
from .views import aview_url

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST: Final = 32
"""Samples that one entry of the lowest level stands for: fewer would double what is stored."""
NEXT: Final = 8
"""Entries that one entry of a level above stands for: more would have to be fetched for each pixel."""
_LEAST: Final = 2_048
"""Entries of a level that needs no level above."""


async def aview_timeseries(
    recording: str | NDArray[Any],
    *,
    sampling_rate: float = 1.0,
    start_time: float = 0.0,
    channel_names: Sequence[str] = (),
    title: str = "",
    channel: str | None = None,
    expires_in: float = PASS_SECONDS,
    once: bool = False,
) -> str:
    """A link that shows a recording in any browser; of 2 GB as of 2 MB only what is on screen travels.

    Args:
        recording: samples x channels, or samples alone: real numbers, in C order; or the URI of such an
            array, which was stored with :func:`store_npy`.
        sampling_rate: samples per second.
        start_time: of the first sample, in seconds.
        channel_names: one for each channel; default: their numbers.
        title, channel, expires_in, once: as for :func:`view_url`.

    Raises:
        BadInput: it is no such array. Others as :func:`view_url`.
    """
    rate = real("sampling_rate", sampling_rate)
    begin = real("start_time", start_time)
    if rate <= 0:
        raise BadInput(what="sampling_rate", reason="it is the number of samples per second")
    folder = built_in("timeseries")
    uri = recording if isinstance(recording, str) else await _stored(recording, channel)
    array = await aload_npy(uri, mmap_mode="r", channel=channel)
    if array is None:
        raise NotFound(what=uri, detail="nobody reachable has it")
    check_recording(array, uri if isinstance(recording, str) else "recording")
    channels = 1 if array.ndim == 1 else array.shape[1]
    if channel_names and len(channel_names) != channels:
        reason = f"{len(channel_names)} names for {channels} channels"
        raise BadInput(what="channel_names", reason=reason)
    pyramid, levels = await asyncio.to_thread(make_pyramid, array)
    data = {
        "recording": uri,
        "pyramid": await astore_npy(pyramid, "pyramid.npy", channel=channel) if levels else None,
        "levels": levels,
        "samples": len(array),
        "channel_count": channels,
        "item_size": array.dtype.itemsize,
        "sampling_rate": rate,
        "start_time": begin,
        "channels": [str(name) for name in channel_names],
    }
    return await aview_url(
        folder, data, title=title, channel=channel, expires_in=expires_in, once=once
    )


async def _stored(recording: NDArray[Any], channel: str | None) -> str:
    import numpy as np

    array = np.asarray(recording)
    check_recording(array, "recording")
    return await astore_npy(np.ascontiguousarray(array), "recording.npy", channel=channel)


def check_recording(array: NDArray[Any], what: str) -> None:
    """Raise BadInput if it is nothing that the view shows."""
    if array.ndim not in (1, 2) or 0 in array.shape:
        reason = f"its shape is {array.shape}; it must be samples x channels, or samples alone"
        raise BadInput(what=what, reason=reason)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        reason = f"it has dtype {array.dtype}; integers and floating-point numbers are shown"
        raise BadInput(what=what, reason=reason)
    if not array.flags.c_contiguous:
        reason = (
            "the samples of one moment do not lie side by side in it (Fortran order): store "
            "numpy.ascontiguousarray(array)"
        )
        raise BadInput(what=what, reason=reason)


def make_pyramid(array: NDArray[Any]) -> tuple[NDArray[Any], list[list[int]]]:
    """The levels above a recording, finest first: entries x 2 (least, greatest) x channels.

    Returns:
        that array, and for each level: samples of an entry, its first entry, its entries. An entry at
        the end may stand for fewer samples. Entries of NaN alone are NaN.
    """
    import numpy as np

    samples = array.reshape(len(array), -1)
    level = np.empty((0, 2, samples.shape[-1]), array.dtype)
    levels: list[NDArray[Any]] = []
    below = samples
    while len(below) > _LEAST:
        level = _reduce(below, first=not levels)
        levels.append(level)
        below = level
    index, start = [], 0
    for power, each in enumerate(levels):
        index.append([FIRST * NEXT**power, start, len(each)])
        start += len(each)
    return (np.concatenate(levels) if levels else level), index


def _reduce(below: NDArray[Any], first: bool) -> NDArray[Any]:
    """One level from that below it: samples x channels at ``first``, else entries x 2 x channels."""
    import numpy as np

    factor = FIRST if first else NEXT
    count = -(-len(below) // factor)
    made = np.empty((count, 2, below.shape[-1]), below.dtype.newbyteorder("="))
    # A few MiB at a time: a recording that is mapped may be larger than the memory.
    step = max(1, 8 * MIB // max(1, below[:1].nbytes * factor)) * factor
    for start in range(0, len(below), step):
        part = below[start : start + step]
        edges = np.arange(0, len(part), factor)
        entry = start // factor
        least, greatest = (part, part) if first else (part[:, 0], part[:, 1])
        made[entry : entry + len(edges), 0] = np.fmin.reduceat(least, edges, axis=0)
        made[entry : entry + len(edges), 1] = np.fmax.reduceat(greatest, edges, axis=0)
    return made
