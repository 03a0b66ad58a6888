"""A real Chromium without a window, driven by its DevTools protocol, each time with a fresh profile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from kachery_p2p.node.web.page import FOLDER
from tests.patience import patience


def require_browser(*, page: bool = True) -> None:
    """Skip the test where there is no browser, or no page."""
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    if page and not (FOLDER / "index.html").exists():
        pytest.skip("the page is not built: run ./scripts/web")


class Tab:
    """One page. ``requests``: the URLs that it asked for; ``troubles``: what it logged as an error, and
    what its security policy stopped."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self.session = session
        self.requests: list[str] = []
        self.troubles: list[str] = []
        self.frames: list[Tab] = []
        """Those in it that have a process of their own, as sandboxed ones do."""

    async def send(self, method: str, **params: Any) -> Any:
        return await self._browser.send(method, params, self.session)

    async def open(self, url: str) -> None:
        await self.send("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """The value of an expression of JavaScript, once it is there."""
        result = await self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until an expression is true; its value."""
        deadline = time.monotonic() + patience(60)
        while not (value := await self.run(script)):
            if time.monotonic() > deadline:
                text = await self.run("document.body.innerText")
                raise AssertionError(f"never: {script}\n{text}\n{self.troubles}")
            await asyncio.sleep(0.02)
        return value

    async def text(self, selector: str) -> str:
        return str(await self.run(f"document.querySelector({json.dumps(selector)})?.innerText"))

    async def status(self, wanted: str) -> str:
        """Wait until the page's status has this in it; the status."""
        script = "(document.getElementById('status')?.textContent ?? '')"
        return str(await self.until(f"{script}.includes({json.dumps(wanted)}) && {script}"))

    async def click(self, name: str) -> None:
        """A click on the button of that name, as a user's, once it is there."""
        buttons = "[...document.querySelectorAll('button')]"
        found = f"{buttons}.find(b => b.textContent === {json.dumps(name)})"
        await self.until(f"(button => button ? (button.click(), true) : false)({found})")

    async def frame(self) -> Tab:
        """The frame in it, once it is there."""
        deadline = time.monotonic() + patience(60)
        while not self.frames:
            assert time.monotonic() < deadline, "there is no frame"
            await asyncio.sleep(0.02)
        return self.frames[-1]

    def heard(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif method == "Runtime.exceptionThrown":
            self.troubles.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.troubles.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.troubles.append(str(params["args"]))


class Browser:
    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tabs: dict[str, Tab] = {}

    async def listen(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                waiting = self._waiting.pop(message["id"], None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
            elif (tab := self._tabs.get(message.get("sessionId", ""))) is not None:
                if message["method"] == "Target.attachedToTarget":
                    frame = Tab(self, message["params"]["sessionId"])
                    self._tabs[frame.session] = frame
                    tab.frames.append(frame)
                else:
                    tab.heard(message["method"], message["params"])

    async def send(self, method: str, params: dict[str, Any], session: str = "") -> Any:
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        call = {"id": number, "method": method, "params": params}
        await self._socket.send(json.dumps(call | ({"sessionId": session} if session else {})))
        async with asyncio.timeout(patience(60)):
            answer = await waiting
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    async def tab(self, *, before: str = "", downloads: Path | None = None) -> Tab:
        """A new tab; ``before`` is run in each page before its own scripts."""
        target = await self.send("Target.createTarget", {"url": "about:blank"})
        attached = await self.send(
            "Target.attachToTarget", {"targetId": target["targetId"], "flatten": True}
        )
        tab = self._tabs[attached["sessionId"]] = Tab(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Network", "Log"):
            await tab.send(f"{domain}.enable")
        await tab.send(
            "Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=False, flatten=True
        )
        if before:
            await tab.send("Page.addScriptToEvaluateOnNewDocument", source=before)
        if downloads is not None:
            where = {"behavior": "allow", "downloadPath": str(downloads)}
            await self.send("Browser.setDownloadBehavior", where)
        return tab


@contextlib.asynccontextmanager
async def chromium(*flags: str, page: bool = True) -> AsyncIterator[Browser]:
    """A browser with a profile of its own, which is gone afterwards."""
    require_browser(page=page)
    with TemporaryDirectory(prefix="kp-chromium", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            "chromium", *_flags(profile, flags), stderr=asyncio.subprocess.DEVNULL
        )
        try:
            place = Path(profile) / "DevToolsActivePort"
            deadline = time.monotonic() + patience(60)
            while not place.exists() or len(place.read_text().splitlines()) < 2:
                assert process.returncode is None, "chromium ended at its start"
                assert time.monotonic() < deadline, "chromium does not start"
                await asyncio.sleep(0.02)
            port, path = place.read_text().splitlines()
            async with connect(
                f"ws://127.0.0.1:{port}{path}", max_size=None, compression=None, ping_interval=None
            ) as socket:
                browser = Browser(socket)
                listening = asyncio.ensure_future(browser.listen())
                try:
                    yield browser
                    await browser.send("Browser.close", {})
                finally:
                    listening.cancel()
                    await asyncio.wait([listening])
            async with asyncio.timeout(patience(60)):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _flags(profile: str, more: Iterable[str]) -> list[str]:
    return [
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
        f"--user-data-dir={profile}", *more, "about:blank",
    ]  # fmt: skip
