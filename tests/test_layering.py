"""The arrows between the rooms, read from the imports, against the plan in tests/plan.py."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kachery_p2p
from tests.plan import NOUNS, PLAN, reach, room_of, rows

ROOT = Path(kachery_p2p.__file__).parent
TESTS = Path(__file__).parent
IMPURE = {
    "asyncio", "concurrent", "http", "io", "logging", "multiprocessing", "os", "pathlib", "random",
    "requests", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl",
    "subprocess", "sys", "tempfile", "threading", "time", "urllib.request", "uuid", "uvloop",
    "websockets",
}  # fmt: skip
# A lock around what msgspec builds at its first use; nothing waits there for anything outside.
EXCUSED = {"kachery_p2p.protocol.codec": {"threading"}}


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


def room(module: str) -> str | None:
    return room_of(module.removeprefix(f"{ROOT.name}."))


def floor(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_module_has_a_room_and_every_room_a_module() -> None:
    everybodys = {ROOT.name, f"{ROOT.name}._public", f"{ROOT.name}._version"}
    assert {name for name in MODULES if room(name) is None} == everybodys
    found = {room(name) for name in MODULES if not MODULES[name].name.startswith("__init__")}
    assert found - {None} == set(rows()), PLAN


def test_the_plan_has_no_circle_and_leads_to_rooms() -> None:
    for each, lefts in rows().items():
        assert set(lefts) <= set(rows()), each
        assert reach(each)


@pytest.mark.parametrize("name", [name for name in MODULES if room(name)])
def test_no_arrow_but_those_of_the_plan(name: str) -> None:
    mine = room(name)
    assert mine is not None
    allowed = reach(mine)
    wrong = {found for found in imports(name) if (to := room(found)) and to not in allowed}
    assert not wrong, f"{mine} may not import {sorted(wrong)}. The plan:\n{PLAN}"
    if floor(name) not in ("cli", "client"):
        assert "kachery_p2p" not in imports(name), "a room does not lean on the whole package"


def test_no_modules_import_one_another_in_a_circle() -> None:
    """Not even under TYPE_CHECKING, nor in functions."""
    left = {name: {to for to in imports(name) if to in MODULES} - {name} for name in MODULES}
    # Packages are left out: that they are imported with their modules is no arrow anybody drew.
    left = {
        name: {to for to in tos if MODULES[to].name != "__init__.py"} for name, tos in left.items()
    }
    while free := [name for name, tos in left.items() if not tos]:
        for name in free:
            del left[name]
        left = {name: tos - set(free) for name, tos in left.items()}
    while before := set(left) - set().union(*left.values()):
        left = {name: tos for name, tos in left.items() if name not in before}
    assert not left, f"in circles: {sorted(left)}. The plan:\n{PLAN}"


def test_every_noun_has_its_room_on_every_floor() -> None:
    """A new kind of content is a room on each floor, a line in the composition root, and calls."""
    with_keys = {path.parent.name for path in (ROOT / "protocol").glob("*/keys.py")} - {"gossip"}
    assert with_keys == set(NOUNS), "a noun is what has content keys: name it in tests/plan.py"
    root = {room(found) for found in imports("kachery_p2p.node.node")}
    for noun in NOUNS:
        for each in ("protocol", "storage", "node", "client", "cli"):
            assert f"{each}.{noun}" in rows(), f"the {each} floor has no room for {noun}"
            assert (TESTS / each / noun).is_dir(), f"nothing tests {each}/{noun}"
        assert "messages.py" in {path.name for path in (ROOT / "protocol" / noun).iterdir()}
        methods = imports("kachery_p2p.protocol.methods")
        assert f"kachery_p2p.protocol.{noun}.messages" in methods, f"methods.py forgets {noun}"
        assert f"node.{noun}" in root, f"node.py, the composition root, forgets {noun}"
        calls = f"kachery_p2p.node.local.{noun.removesuffix('s')}_calls"
        assert calls in imports("kachery_p2p.node.local.calls"), f"calls.py forgets {noun}"


def test_the_tests_lie_where_what_they_test_lies() -> None:
    floors = {each.split(".")[0] for each in rows()}
    for path in TESTS.rglob("test_*.py"):
        where = ".".join(path.parent.relative_to(TESTS).parts)
        if where.split(".")[0] in floors - {"testing"} and "." in where:
            assert where in rows(), f"{path.relative_to(TESTS)}: there is no such room. {PLAN}"


def test_a_room_and_a_file_can_be_held_in_the_head() -> None:
    sizes: dict[Path, int] = {}
    for name, path in MODULES.items():
        sizes[path.parent] = sizes.get(path.parent, 0) + 1
        most = 800 if name == "kachery_p2p.protocol.errors" else 450
        assert len(path.read_text().splitlines()) <= most, f"{name}: does a noun want out?"
    assert max(sizes.values()) <= 20


def test_contributing_shows_the_plan() -> None:
    assert PLAN.strip() in TESTS.with_name("CONTRIBUTING.md").read_text().replace("\n    ", "\n")


def test_nothing_imports_the_node_but_the_node_and_who_embeds_it() -> None:
    for name in MODULES:
        if floor(name) not in ("node", "embedded", "testing"):
            assert not {found for found in imports(name) if floor(found) == "node"}, name


@pytest.mark.parametrize("name", [name for name in MODULES if floor(name) == "protocol"])
def test_the_protocol_is_pure(name: str) -> None:
    found = imports(name)
    impure = {each for each in found if each in IMPURE or each.split(".")[0] in IMPURE}
    assert impure <= EXCUSED.get(name, set())
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
        heavy = {"numpy", "rich"} if floor(name) != "node" else {"numpy", "rich", "click"}
        if floor(name) != "cli":
            assert not top & heavy, name


def loaded_by(*command: str) -> set[str]:
    """The modules of ours, and the others by their top, that a new Python imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True
    )
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    return names | {name.partition(".")[0] for name in names}


def of_the_client(loaded: set[str]) -> set[str]:
    return {name for name in loaded if name.startswith("kachery_p2p.client")}


def test_importing_the_package_imports_nothing_heavy_and_no_daemon() -> None:
    loaded = loaded_by("-c", "import kachery_client")
    assert "kachery_p2p.client.files.loads" in loaded
    heavy = {"numpy", "rich", "websockets", "uvloop", "click", "kachery_p2p.node", "sqlite3"}
    heavy |= {"IPython", "cloudpickle", "distributed", "html", "matplotlib"}
    assert not loaded & heavy
    assert not {name for name in loaded if name.startswith("kachery_p2p.node")}


def test_the_daemon_never_imports_numpy_nor_the_client() -> None:
    code = "import sys; sys.argv = ['-m']; sys.orig_argv = ['python', '-m', 'kachery_p2p.node']"
    loaded = loaded_by("-c", f"{code}; import kachery_p2p.node.__main__")
    assert "kachery_p2p.node.node" in loaded
    assert not loaded & {"numpy", "rich", "click"}
    assert not of_the_client(loaded)
    loaded = loaded_by(
        "-c", f"{code}; import kachery_p2p as kc; kc.load_text; from kachery_p2p import *"
    )
    assert of_the_client(loaded), "a user's function may run there"


def test_the_command_line_imports_no_more_than_it_uses() -> None:
    for command in (
        ["-m", "kachery_p2p.cli"],
        ["-c", "import _kachery_p2p_command as c; c.main()"],
    ):
        loaded = loaded_by(*command, "version")
        assert "kachery_p2p.cli.main" in loaded
        assert not loaded & {"kachery_p2p._public", "kachery_p2p.embedded", "numpy"}


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"kachery_p2p._version"}))
def test_every_module_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[name].read_text()))
