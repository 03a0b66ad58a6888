"""A feed under fire: numbered messages flow to three readers while everything is killed at random.

Real daemons (a proxy, the writer's node, three readers' nodes), each with a client process of its own.
Between the proxy and the others stands a forwarder that cuts links. Every process may be killed with
SIGKILL at any moment; it is started again, and goes on from what it can find out: a reader from the
messages that it has written down, the writer from what its node says that the feed has.

    ./scripts/trial feeds --kills 200 --messages 20000 [--seed S] [--relaxed]

What must hold: every reader ends with exactly the messages 0..N-1, in order; what was acknowledged to
the writer is never gone again; everybody ends within bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from tests.daemons import free_port
from tests.trial import Script, Trial, from_command_line

READERS: Final = ("r1", "r2", "r3")
END_SECONDS: Final = 60.0
"""After the last kill, everything that was written must have come within so long."""
_KILL_WITHIN: Final = 0.15
"""Seconds from the moment that more may be written to the kill."""

WRITER: Final = """
import json, os, random, sys, time
import kachery_p2p as kc
uri, total, acknowledged, quota = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
subfeed = None

def acked():
    with open(acknowledged) as file:
        return max((int(line) for line in file), default=0)

def look():
    global subfeed
    # An append whose answer was lost may be there, or not: who knows is the feed.
    while True:
        try:
            subfeed = subfeed or kc.load_subfeed(uri)
            there = subfeed.get_num_local_messages()
            break
        except (kc.errors.LinkClosed, kc.errors.DaemonNotRunning):
            time.sleep(0.02)
    if there < acked():
        sys.exit(f"LOST: {acked()} messages were acknowledged, {there} are there")
    return there

log = os.open(acknowledged, os.O_WRONLY | os.O_APPEND)
n = look()
while n < total:
    allowed = int(open(quota).read() or 0)
    if n >= allowed:
        time.sleep(0.005)
        continue
    count = min(random.choice((1, 1, 1, 1, 1, 1, 7, 40)), allowed - n)
    messages = [{"n": number, "by": os.getpid()} for number in range(n, n + count)]
    try:
        if count == 1:
            numbers = [subfeed.append_message(messages[0])]
        else:
            numbers = subfeed.append_messages(messages)
    except (kc.errors.LinkClosed, kc.errors.DaemonNotRunning) as error:
        print(error.code, flush=True)
        n = look()
        continue
    if numbers != list(range(n, n + count)):
        sys.exit(f"WRONG NUMBERS: {numbers} from {n}")
    n += count
    os.write(log, b"%d\\n" % n)
"""

READER: Final = """
import json, os, sys, time
import kachery_p2p as kc
uri, total, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
have = sum(1 for _ in open(path))
log = os.open(path, os.O_WRONLY | os.O_APPEND)
while have < total:
    try:
        subfeed = kc.load_subfeed(uri)
        subfeed.set_position(have)
        for message in subfeed.message_stream():
            os.write(log, json.dumps(message).encode() + b"\\n")
            have += 1
            if have == total:
                break
    except kc.KacheryError as error:
        # As a user would: look what is wrong, and go on from where one was.
        print(error.code, error, flush=True)
        time.sleep(0.1)
"""


class Forwarder:
    """A TCP port before another one; :meth:`cut` breaks one of the connections through it."""

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self._target = port
        self._open: dict[int, tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait()

    def _run(self, started: threading.Event) -> None:
        async def serve() -> None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            started.set()

        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(serve())
        self._loop.run_forever()

    async def _accept(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        try:
            far, onward = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            back.transport.abort()
            return
        key = id(back)
        self._open[key] = (back, onward)
        try:
            await asyncio.gather(_pump(near, onward), _pump(far, back))
        finally:
            del self._open[key]

    def cut(self, rng: random.Random) -> bool:
        """Whether there was a connection to cut; it ends with a reset on both sides."""

        async def work() -> bool:
            if not self._open:
                return False
            for writer in self._open[rng.choice(sorted(self._open))]:
                writer.transport.abort()
            return True

        return asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    def close(self) -> None:
        async def work() -> None:
            self._server.close()
            for pair in list(self._open.values()):
                for writer in pair:
                    writer.transport.abort()
            # They end by themselves: what they read from is gone.
            await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))

        asyncio.run_coroutine_threadsafe(work(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


class FeedTrial(Trial):
    """See the module.

    Args:
        messages: how many flow.
        relaxed: all daemons run with their durability relaxed, which a kill must not show.
        others: as :class:`~tests.trial.Trial`.
    """

    def __init__(
        self, folder: Path, *, messages: int, relaxed: bool = False, **options: Any
    ) -> None:
        durability = {"durability": "relaxed" if relaxed else "full"}
        super().__init__(folder, ("writer", *READERS), options=durability, **options)
        self.messages = messages
        self.errors: Counter[str] = Counter()
        """What clients heard, by error code."""
        self.end_seconds = 0.0
        """From the last kill until everybody had everything."""
        self._forwarder = Forwarder(int(self.daemons["proxy"].url.rpartition(":")[2]))
        self._acknowledged = folder / "acknowledged"
        self._quota = folder / "quota"
        self._got = {name: folder / f"{name}.jsonl" for name in READERS}
        for path in (self._acknowledged, *self._got.values()):
            path.touch()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._forwarder.close()

    def set_up(self) -> None:
        self.meet("writer", f"ws://127.0.0.1:{self._forwarder.port}")
        writer = self.daemons["writer"]
        made = "import kachery_p2p as kc; print(kc.create_feed().load_subfeed('n').uri)"
        uri = writer.python(made).strip()
        total = str(self.messages)
        self._allow(0)
        files = (str(self._acknowledged), str(self._quota))
        self.scripts["writer"] = Script(writer, "writer", WRITER, uri, total, *files)
        for name in READERS:
            got = str(self._got[name])
            self.scripts[name] = Script(self.daemons[name], name, READER, uri, total, got)

    def _allow(self, messages: int) -> None:
        """The writer may write so many messages in all."""
        new = self._quota.with_suffix(".new")
        new.write_text(str(messages))
        new.replace(self._quota)

    # --- trouble -----------------------------------------------------------------------------

    def run(self) -> None:
        for number in range(self.kills):
            self._allow(self.messages * (number + 1) // (self.kills + 1))
            time.sleep(self.rng.uniform(0, _KILL_WITHIN))
            back = list(self.down)
            self._trouble(number)
            self.bring_back(back)
            self._check_scripts()
        self.bring_back(self.down)
        self._allow(self.messages)
        self.end_seconds = self.wait(self._all_ended, END_SECONDS)
        self._check_scripts()
        self._check()

    def _all_ended(self) -> bool:
        self._check_scripts()
        return all(script.status is not None for script in self.scripts.values())

    def _trouble(self, number: int) -> None:
        what = self.rng.choice(["node", "node", "client", "cut"])
        if what == "cut" and self._forwarder.cut(self.rng):
            self.note(number, "cut a link", "link")
        elif what == "client":
            self.kill(number, self.scripts, what)
        else:
            self.kill(number, self.daemons, "node")

    def kind(self, name: str) -> str:
        return "reader" if name in READERS else name

    # --- what must hold ----------------------------------------------------------------------

    def state(self) -> str:
        counts = {name: path.read_bytes().count(b"\n") for name, path in self._got.items()}
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        return f"written {self.acknowledged}, {told}"

    @property
    def acknowledged(self) -> int:
        """How many messages the writer was told are appended."""
        return max((int(line) for line in self._acknowledged.read_text().split()), default=0)

    def _check_scripts(self) -> None:
        for name, script in self.scripts.items():
            if f"{name}'s client" in self.down:
                continue
            said = script.said.read_text()
            assert script.status in (None, 0), f"{name}'s client ended with:\n{said[-3000:]}"

    def _check(self) -> None:
        for name, script in self.scripts.items():
            for line in script.said.read_text().splitlines():
                self.errors[f"{self.kind(name)}: {line.split(' ')[0]}"] += 1
        assert self.acknowledged == self.messages
        read = {name: _messages(path) for name, path in self._got.items()}
        for name, messages in read.items():
            numbers = [message["n"] for message in messages]
            assert numbers == list(range(self.messages)), f"{name} has not got the numbers in order"
        assert read["r1"] == read["r2"] == read["r3"], "readers got different messages"


def _messages(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _told(trial: FeedTrial) -> list[str]:
    last = trial.messages - 1
    return [
        f"errors that clients heard: {dict(sorted(trial.errors.items()))}",
        f"3 readers have exactly 0..{last}, in order; nothing acknowledged was lost",
        f"{trial.end_seconds:.1f} s from the last kill to the end",
    ]


if __name__ == "__main__":
    sys.exit(from_command_line(FeedTrial, _told, ["relaxed"], kills=200, messages=20_000, seed=1))
