"""Notebooks, executed by a real kernel that talks to real nodes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.daemons import Daemon, Lab
from tests.daemons import short_folder as make_short_folder

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("ignore:::jupyter_client")]

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
_CELL_SECONDS = 60


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with make_short_folder() as folder, Lab(folder) as made:
        yield made


def notebook(*cells: str) -> nbformat.NotebookNode:
    made = nbformat.v4.new_notebook()
    made.cells = [nbformat.v4.new_code_cell(source) for source in cells]
    return made


def client(of: nbformat.NotebookNode, **options: Any) -> NotebookClient:
    return NotebookClient(of, kernel_name="python3", timeout=_CELL_SECONDS, **options)


def run(daemon: Daemon, *cells: str) -> list[list[Any]]:
    """The outputs of each cell of a notebook on this node's computer."""
    made = notebook("import asyncio, sys\nimport kachery_p2p as kc", *cells)
    client(made).execute(env=daemon.env, cwd=str(daemon.home))
    return [cell.outputs for cell in made.cells[1:]]


def text(outputs: list[Any]) -> str:
    """What a cell printed, and its value."""
    parts = [each.get("text") or each.get("data", {}).get("text/plain", "") for each in outputs]
    return "".join(parts).strip()


def html(outputs: list[Any]) -> str:
    return "".join(each.get("data", {}).get("text/html", "") for each in outputs)


def test_both_forms_of_the_api_in_one_notebook(lab: Lab) -> None:
    uri = lab.a.python(
        "import kachery_p2p as kc, numpy as np; print(kc.store_npy(np.arange(6).reshape(2, 3)))"
    ).strip()
    sync, awaited, many, stored = run(
        lab.b,
        f"kc.load_npy({uri!r}).tolist()",
        f"(await kc.aload_npy({uri!r})).sum()",
        f"len(await asyncio.gather(*(kc.aload_npy({uri!r}) for _ in range(20))))",
        "[kc.load_text(await kc.astore_text('one')), await kc.aload_text(kc.store_text('two'))]",
    )
    assert text(sync) == "[[0, 1, 2], [3, 4, 5]]"
    assert "15" in text(awaited)
    assert text(many) == "20"
    assert text(stored) == "['one', 'two']"


def test_of_an_error_the_cell_is_shown_and_the_sentence(lab: Lab) -> None:
    made = notebook(
        "import kachery_p2p as kc\ndef mine():\n    return kc.load_text('sha1://0123')",
        "mine()",
        "kc.create_feed().load_subfeed('x').append_message(object())",
        "import os; os.environ['KACHERY_P2P_TRACEBACK'] = 'full'\nmine()",
    )
    client(made, allow_errors=True).execute(env=lab.a.env, cwd=str(lab.a.home))
    short, method, full = (
        re.sub(r"\x1b\[[\d;]*m", "", "\n".join(cell.outputs[0].traceback))
        for cell in made.cells[1:]
    )
    assert "return kc.load_text('sha1://0123')" in short
    assert "the hash has 4 digits" in short
    assert "append_message(object())" in method
    for shown in (short, method):
        assert os.path.join("kachery_p2p", "") not in shown
    assert "portal.py" in full


WAITING = {
    "sync": "kc.load_file({uri!r})",
    "async": "await kc.aload_file({uri!r})",
}


@pytest.mark.parametrize("form", WAITING)
async def test_an_interrupt_ends_a_load_and_the_next_cell_works(
    lab: Lab, tmp_path: Path, form: str
) -> None:
    big = tmp_path / f"{form}.dat"
    big.write_bytes(form.encode() * MIB)
    uri = lab.a.cli("store", str(big)).stdout.strip()
    flag = tmp_path / "flag"
    made = notebook(
        "import kachery_p2p as kc, pathlib",
        f"pathlib.Path({str(flag)!r}).touch()\n" + WAITING[form].format(uri=uri),
        "print(kc.load_text(kc.store_text('next')), await kc.aload_text(kc.store_text('and')))",
    )
    runner = client(made, allow_errors=True)
    os.kill(lab.a.pid, signal.SIGSTOP)  # so that only the interrupt can end it
    try:
        async with runner.async_setup_kernel(env=lab.b.env, cwd=str(lab.b.home)):
            await runner.async_execute_cell(made.cells[0], 0)
            waiting = asyncio.create_task(runner.async_execute_cell(made.cells[1], 1))
            while not flag.exists() or not html(made.cells[1].outputs):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # until the bar is there
            interrupted = time.monotonic()
            await runner.km.interrupt_kernel()
            await waiting
            assert time.monotonic() - interrupted < 10
            await runner.async_execute_cell(made.cells[2], 2)
    finally:
        os.kill(lab.a.pid, signal.SIGCONT)
    outputs = made.cells[1].outputs
    ends = [each.ename for each in outputs if each.output_type == "error"]
    assert ends == ["KeyboardInterrupt" if form == "sync" else "CancelledError"]
    assert f"loading {form}.dat" in html(outputs)
    assert text(made.cells[2].outputs) == "next and"


LINK = """
from kachery_p2p.client.display import progress
progress.SHOW_SECONDS = 0.0
print("before")
kc.link_file({path!r})
print("after", "ipywidgets" in sys.modules)
"""


def test_the_bar_is_one_output_that_stays(lab: Lab, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse.dat"
    with sparse.open("wb") as file:
        file.truncate(512 * MIB)
    shown, silent = run(
        lab.a,
        LINK.format(path=str(sparse)),
        f"told = []\nkc.link_file({str(sparse)!r}, progress=told.append)\ntold[-1]['ended']",
    )
    bars = [each for each in shown if each.output_type == "display_data"]
    assert len(bars) == 1
    assert "linking sparse.dat" in bars[0].data["text/html"]
    assert "536.9 MB of 536.9 MB" in bars[0].data["text/html"]
    printed = [each.text for each in shown if each.output_type == "stream"]
    assert "".join(printed) == "before\nafter False\n"
    assert not [each for each in silent if each.output_type == "display_data"]
    assert text(silent) == "True"


def test_handles_look_like_something_and_escape_what_others_wrote(lab: Lab) -> None:
    feed, subfeed, info, request = run(
        lab.a,
        "feed = kc.create_feed('of the notebook')\nfeed",
        "feed.load_subfeed('<b>bold</b>')",
        "kc.node_info()",
        "request = kc.request_task('<i>nobody</i>', {}, backend_timeout_sec=0)\n"
        "request.ended_within(20)\nrequest",
    )
    assert "feed://" in html(feed)
    assert "writeable" in html(feed)
    assert text(feed).startswith("<Feed feed://")
    assert "&lt;b&gt;bold&lt;/b&gt;" in html(subfeed)
    assert lab.a.node_id in html(info)
    assert "lab" in html(info)
    assert "&lt;i&gt;nobody&lt;/i&gt;" in html(request)
    assert "failed" in html(request)
    for each in (subfeed, request):
        assert "<b>bold" not in html(each)
        assert "<i>" not in html(each)


@pytest.mark.parametrize(("name", "plots"), [("two_nodes", 2), ("lazy_recording", 1)])
def test_the_examples_run_from_top_to_bottom(name: str, plots: int) -> None:
    if name == "lazy_recording":
        pytest.importorskip("h5py")
    path = ROOT / "examples" / f"{name}.ipynb"
    made = nbformat.read(path, as_version=4)
    nbformat.validate(made)
    assert path.stat().st_size < 100_000
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    client(made).execute(env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=str(path.parent))
    outputs = [each for cell in made.cells if cell.cell_type == "code" for each in cell.outputs]
    assert len([each for each in outputs if "image/png" in each.get("data", {})]) >= plots
    assert not [each for each in outputs if each.get("name") == "stderr"]
    if name == "lazy_recording":
        amounts = re.findall(r"([\d.]+) of ([\d.]+) MB have come", text(outputs))
        (looked, size), (sliced, _) = [(float(come), float(of)) for come, of in amounts]
        assert looked < sliced < size / 4
