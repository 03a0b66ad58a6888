"""What is built and installed is what is in the tree: nothing missing, nothing too much."""

from __future__ import annotations

import email.message
import email.parser
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from kachery_p2p._version import __version__

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ["kachery_p2p", "kachery_client", "tests", "scripts", "docs", "examples"]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the built sdist and, built from that, the wheel."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    tree = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in SOURCES:
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, tree)
    run("-m", "build", "--no-isolation", "--outdir", tree / "dist", cwd=tree)
    return tree / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        return email.parser.Parser().parsestr(file.read(name).decode())


def test_the_wheel_has_every_module_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    modules = [
        path for name in ("kachery_p2p", "kachery_client") for path in (ROOT / name).rglob("*.py")
    ]
    expected = {str(path.relative_to(ROOT)) for path in modules} | {
        "kachery_p2p/py.typed",
        "kachery_client/py.typed",
        "_kachery_p2p_command.py",
    }
    # The page is there if it was built: with the licences of what is in it.
    expected |= {
        str(path.relative_to(ROOT))
        for path in (ROOT / "kachery_p2p/page").rglob("*")
        if path.is_file()
    }
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert "py3-none-any" in wheel.name


def test_the_metadata_says_what_it_is(wheel: Path) -> None:
    told = metadata(wheel)
    assert told["Name"] == "kachery_p2p"
    assert told["Version"] == __version__
    assert told["License-Expression"] == "Apache-2.0"
    assert told["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in told.get_all("Classifier", [])
    required = {line.split(";")[0].split(">")[0].strip() for line in told.get_all("Requires-Dist")
                if "extra" not in line}  # fmt: skip
    assert {"websockets", "msgpack", "pynacl", "cryptography", "numpy"} <= required
    assert "pytest" not in required
    assert (told.get_payload() or "").startswith("# kachery_p2p")
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith("/entry_points.txt")]
        points = file.read(name).decode()
    assert "kachery-p2p = _kachery_p2p_command:main" in points
    assert "kachery_p2p = kachery_p2p.pytest_plugin" in points


def test_the_sdist_has_what_it_takes_to_test_it(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "kachery_client/__init__.py",
        "kachery_p2p/py.typed",
        "scripts/test",
        "tests/test_packaging.py",
        "docs/protocol.md",
    } <= names
    assert not [name for name in names if "__pycache__" in name or ".venv" in name]


def test_what_was_installed_works_under_both_names(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check",
        "--target", target, wheel, cwd=tmp_path)  # fmt: skip
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "import kachery_p2p, kachery_client as kc; "
        "assert kc.store_text is kachery_p2p.store_text; "
        "print(kachery_p2p.__file__, kc.__file__, kc.__version__)"
    )
    # -P: the tree that is being tested must not stand in for what was installed.
    told = run("-P", "-c", code, target, cwd=tmp_path).split()
    assert [Path(path).is_relative_to(target) for path in told[:2]] == [True, True]
    assert told[2] == __version__
    shown = subprocess.run(
        [target / "bin" / "kachery-p2p", "version"],
        env={"PYTHONPATH": str(target), "PATH": ""},
        text=True,
        capture_output=True,
        check=True,
    )
    assert shown.stdout == f"{__version__}\n"
