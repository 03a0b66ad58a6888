"""Feeds on the nodes of a laboratory: what tests write, read and expect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.feeds.feed import (
    decode_messages,
    encode_message,
    pack_texts,
    subfeed_hash,
)
from tests.node.harness import Lab


@dataclass
class Subfeed:
    """One subfeed, as any node of the laboratory sees it."""

    lab: Lab
    feed: bytes
    name: str = "primes"

    @classmethod
    async def create(cls, lab: Lab, owner: str = "A", name: str = "primes") -> Subfeed:
        made = await lab.call(owner, "feed.create", name=None)
        await lab.announced(owner)
        return cls(lab, made["feed"], name)

    @property
    def where(self) -> tuple[bytes, bytes]:
        return self.feed, subfeed_hash(self.name)

    @property
    def _params(self) -> dict[str, Any]:
        return {"feed": self.feed, "subfeed": subfeed_hash(self.name)}

    def _messages(self, messages: tuple[Any, ...]) -> dict[str, Any]:
        texts = [encode_message(message) for message in messages]
        return self._params | {"name": self.name, "data": pack_texts(texts), "count": len(texts)}

    async def append(self, node: str, *messages: Any) -> int:
        """Append; the number of the first message."""
        made = await self.lab.call(node, "feed.append", **self._messages(messages))
        assert made["count"] == len(messages)
        return int(made["first"])

    async def submit(
        self, node: str, *messages: Any, submission: bytes = bytes(16), timeout: float = 5.0
    ) -> int:
        made = await self.lab.call(
            node,
            "feed.submit",
            submission=submission,
            timeout=timeout,
            **self._messages(messages),
        )
        return int(made["first"])

    async def grant(self, owner: str, *writers: str) -> None:
        rules = {"rules": [{"nodeId": self.lab.id(name), "write": True} for name in writers]}
        await self.lab.call(owner, "feed.set_rules", rules=rules, **self._params)

    async def answer(self, node: str, position: int = 0, **more: Any) -> Any:
        options = {"wait": 0.0, "timeout": 5.0} | more
        return await self.lab.call(node, "feed.read", position=position, **self._params, **options)

    async def read(self, node: str, position: int = 0, **more: Any) -> list[Any]:
        """Everything from a position on that a node can give."""
        found: list[Any] = []
        while True:
            answer = await self.answer(node, position + len(found), **more)
            assert answer["start"] == position + len(found)
            if not answer["data"]:
                return found
            texts = answer["data"].split(b"\n")
            assert len(texts) == sum(count for count, _, _ in answer["runs"])
            found += decode_messages(texts)

    async def next(self, node: str, position: int, wait: float = 10.0) -> list[Any]:
        """The next messages, waiting for them."""
        answer = await self.answer(node, position, wait=wait)
        return decode_messages(answer["data"].split(b"\n")) if answer["data"] else []

    async def error(self, node: str, position: int = 0, **more: Any) -> KacheryError:
        """The error with which reading ends; it must."""
        try:
            found = await self.read(node, position, **more)
        except KacheryError as error:
            return error
        raise AssertionError(f"it was read: {found}")
