import asyncio

import numpy as np
import pytest
from spikes import publish, spike_times

import kachery_p2p as kc

RECORDING = np.zeros(1000)
RECORDING[[100, 500]] = 5.0


def test_on_one_node(kachery_node):
    uri = publish(RECORDING)
    assert spike_times(uri, threshold=2.0) == [100, 500]


def test_what_nobody_published_is_not_there(kachery_node):
    assert spike_times("sha1://" + "0" * 40 + "/recording.npy", threshold=2.0) is None


def test_from_one_computer_to_another(kachery_network):
    with kachery_network["A"].at():
        uri = publish(RECORDING)
    with kachery_network["B"].at():
        assert spike_times(uri, threshold=2.0) == [100, 500]


def test_with_the_cable_pulled(kachery_network):
    with kachery_network["A"].at():
        uri = publish(RECORDING)
    kachery_network.cut("B")
    with kachery_network["B"].at(), pytest.raises(kc.KacheryError):
        spike_times(uri, threshold=2.0)
    kachery_network.restore("B")
    kachery_network.wait_linked("B")
    with kachery_network["B"].at():
        assert spike_times(uri, threshold=2.0) == [100, 500]


@pytest.mark.kachery_network(["lab", "home"], roles={"home": "request-files"})
def test_one_that_may_only_read(kachery_network):
    with kachery_network["home"].at():
        uri = publish(RECORDING)
    with kachery_network["lab"].at(), pytest.raises(kc.errors.AccessDenied):
        spike_times(uri, threshold=2.0)


@pytest.mark.kachery_network(2, processes=True)
def test_after_a_crash(kachery_network):
    with kachery_network["A"].at():
        uri = publish(RECORDING)
    kachery_network["A"].kill()
    kachery_network["A"].start()
    kachery_network.wait_linked("A")
    kachery_network.settle("A")
    with kachery_network["B"].at():
        assert spike_times(uri, threshold=2.0) == [100, 500]


def test_async_code(kachery_network):
    async def main():
        with kachery_network["A"].at():
            uri = await kc.astore_npy(RECORDING)
        with kachery_network["B"].at():
            return await kc.aload_npy(uri)

    assert np.array_equal(asyncio.run(main()), RECORDING)
