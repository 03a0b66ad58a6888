"""Publish a recording; find the spikes in one that somebody else published."""

import numpy as np

import kachery_p2p as kc


def publish(recording: np.ndarray) -> str:
    """Store a recording and return the URI under which others load it."""
    return kc.store_npy(recording)


def spike_times(uri: str, threshold: float) -> list[int] | None:
    """The samples at which a recording rises above a threshold. None: nobody has it."""
    recording = kc.load_npy(uri)
    if recording is None:
        return None
    above = recording > threshold
    return [int(i) for i in np.flatnonzero(above[1:] & ~above[:-1]) + 1]
