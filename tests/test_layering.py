"""The arrows between the rooms, read from the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kachery_p2p

ROOT = Path(kachery_p2p.__file__).parent
ROOMS = {
    "protocol": set(),
    "storage": {"protocol"},
    "local": {"protocol"},
    "client": {"local", "storage", "protocol"},
    "cli": {"client", "local", "storage", "protocol"},
    "node": {"local", "storage", "protocol"},
    "embedded": {"node", "client", "local", "protocol"},
    "testing": {"embedded", "node", "client", "local", "protocol"},
    "testdaemon": {"testing", "embedded", "client", "local", "protocol"},
    "pytest_plugin": {"testing"},
}
"""Room -> what it may import besides itself. ``_version`` is everybody's."""
IMPURE = {
    "asyncio", "concurrent", "http", "io", "logging", "multiprocessing", "os", "pathlib", "random",
    "requests", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl",
    "subprocess", "sys", "tempfile", "threading", "time", "urllib.request", "uuid", "uvloop",
    "websockets",
}  # fmt: skip


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = [ROOT.name, *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str, *, at_import_only: bool = False) -> set[str]:
    """Absolute names of what a module imports; submodules rather than their names, where so."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in _top(tree) if at_import_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")
            base = base[: len(base) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{source}.{alias.name}"
                found.add(full if full in MODULES else source)
    return found


def _top(tree: ast.Module) -> list[ast.stmt]:
    """Statements that run at import: not in functions, not under TYPE_CHECKING."""
    found: list[ast.stmt] = []
    todo: list[ast.stmt] = list(tree.body)
    while todo:
        node = todo.pop()
        found.append(node)
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                todo += node.body
            todo += node.orelse
        elif isinstance(node, ast.Try):
            todo += [*node.body, *node.orelse, *node.finalbody]
            for handler in node.handlers:
                todo += handler.body
    return found


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == ROOT.name and parts[1] in ROOMS else None


def test_the_walk_sees_the_package() -> None:
    assert {room_of(name) for name in MODULES} - {None} == set(ROOMS)
    assert "kachery_p2p.protocol.errors" in imports("kachery_p2p.protocol.codec")
    assert "kachery_p2p.storage.files.blobs" in imports("kachery_p2p.node.node")


@pytest.mark.parametrize("name", [name for name in MODULES if room_of(name)])
def test_no_arrow_points_the_wrong_way(name: str) -> None:
    room = room_of(name)
    assert room is not None
    allowed = ROOMS[room] | {room}
    wrong = {found for found in imports(name) if (to := room_of(found)) and to not in allowed}
    assert not wrong
    if room not in ("cli", "client"):
        assert "kachery_p2p" not in imports(name), "a room does not lean on the whole package"


def test_nothing_imports_the_node_but_the_node_and_who_embeds_it() -> None:
    for name in MODULES:
        if room_of(name) not in ("node", "embedded", "testing"):
            assert not {found for found in imports(name) if room_of(found) == "node"}, name


@pytest.mark.parametrize("name", [name for name in MODULES if room_of(name) == "protocol"])
def test_the_protocol_is_pure(name: str) -> None:
    found = imports(name)
    assert not {each for each in found if each in IMPURE or each.split(".")[0] in IMPURE}
    tree = ast.parse(MODULES[name].read_text())
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "print", "input"}


def test_heavy_modules_are_imported_where_they_are_needed() -> None:
    for name in MODULES:
        top = {found.split(".")[0] for found in imports(name, at_import_only=True)}
        heavy = {"numpy", "rich"} if room_of(name) != "node" else {"numpy", "rich", "click"}
        if room_of(name) != "cli":
            assert not top & heavy, name


def test_importing_the_package_imports_nothing_heavy_and_no_daemon() -> None:
    code = "import sys, kachery_p2p, kachery_client; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "kachery_p2p.client.files.files" in loaded
    heavy = {"numpy", "rich", "websockets", "uvloop", "click", "kachery_p2p.node", "sqlite3"}
    heavy |= {"IPython", "cloudpickle", "distributed", "html", "matplotlib"}
    assert not loaded & heavy
    assert not {name for name in loaded if name.startswith("kachery_p2p.node")}


def test_the_daemon_never_imports_numpy() -> None:
    code = "import sys, kachery_p2p.node.__main__; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "kachery_p2p.node.node" in loaded
    assert not loaded & {"numpy", "rich"}


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"kachery_p2p._version"}))
def test_every_module_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[name].read_text()))
