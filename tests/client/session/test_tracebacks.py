"""What a user sees of an error: the line that they wrote and the sentence."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable

import pytest

import kachery_p2p as kc
from kachery_p2p.client.session.tracebacks import TRACEBACK_VARIABLE, without_our_frames
from kachery_p2p.client.tasks.requests import TaskRequest
from kachery_p2p.protocol.errors import InternalError, KacheryError, NotFound, TaskFailed


def frames(call: Callable[[], object]) -> list[str]:
    """The functions on the way from this test to where the error was raised."""
    with pytest.raises(KacheryError) as caught:
        call()
    return [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


def look_up() -> None:
    try:
        raise OSError("the socket is gone")
    except OSError as error:
        raise NotFound(what="it", detail="nobody was asked") from error


def test_neither_our_frames_nor_our_causes_are_shown() -> None:
    with pytest.raises(NotFound) as caught:
        without_our_frames(look_up)()
    shown = "".join(traceback.format_exception(caught.value))
    assert "in look_up" not in shown
    assert "socket is gone" not in shown
    assert "nobody was asked" in shown


def test_all_is_shown_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACEBACK_VARIABLE, "full")
    with pytest.raises(NotFound) as caught:
        without_our_frames(look_up)()
    shown = "".join(traceback.format_exception(caught.value))
    assert "in look_up" in shown
    assert "socket is gone" in shown


def test_a_fault_of_ours_and_an_error_of_somebody_elses_are_shown_whole() -> None:
    def broken() -> None:
        raise InternalError(what="it", reason="a bug")

    def divide() -> None:
        raise ZeroDivisionError

    assert frames(without_our_frames(broken))[-1] == "broken"
    with pytest.raises(ZeroDivisionError) as caught:
        without_our_frames(divide)()
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "divide"


def test_a_request_that_failed_shows_the_line_that_waited_for_it() -> None:
    async def make() -> TaskRequest:
        return TaskRequest(bytes(16), "f.1", "query", None, None)

    request = asyncio.run(make())

    def fail() -> None:
        raise TaskFailed(function="f.1", node="31ab", reason="it raised", traceback="")

    try:
        fail()
    except TaskFailed as error:
        request._outcome.set_exception(error)
    for call in (request.wait, lambda: request.result):
        for _ in range(2):  # what was kept does not grow by each look at it
            names = frames(call)
            assert "fail" not in names
            assert names[-1] == "call"


def test_a_stream_without_a_node_shows_the_line_that_reads_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    subfeed = kc.Feed(bytes(32)).load_subfeed("primes")
    assert frames(lambda: next(subfeed.message_stream()))[-1] == "message_stream"
