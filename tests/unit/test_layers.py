"""The layers: each module imports only from lower ones, and two of them do without Django."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ohsessions"

# Rows from the lowest to the highest. A module may import from its own row and the rows before it.
ROWS = [
    ["core"],
    ["concurrency", "socketio"],
    ["programs"],
    ["conf", "database", "models", "migrations"],
    ["journal", "lifecycle", "wakeups", "access", "snapshots", "vault", "workspaces"],
    ["api", "processes", "pruning"],
    ["runtimes"],
    ["gateway", "worker"],
    [
        "admin",
        "admission",
        "checks",
        "database_checks",
        "exposure",
        "routing",
        "serving",
        "templatetags",
        "testing",
        "urls",
        "views",
    ],
    ["apps", "management"],
]
ROW = {name: number for number, row in enumerate(ROWS) for name in row}
APART = [
    ("gateway", "worker"),
    ("worker", "gateway"),
    ("socketio", "core"),
    ("socketio", "concurrency"),
    ("serving", "gateway"),
    ("serving", "worker"),
]
"""Pairs of which the first must not import the second, although its row would allow it."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def imports(module: str, path: Path) -> Iterator[str]:
    """Yield the absolute names that `module` imports anywhere, also for types only."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: -(node.level - 1) or None] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def part(module: str) -> str | None:
    """Return a module's name in ROWS, such as core for ohsessions.core.wire; None for the package itself."""
    _, _, rest = module.partition(".")
    name = rest.partition(".")[0]
    return name if name in ROW else None


def violations(module: str, path: Path) -> Iterator[str]:
    own = part(module)
    if own is None:
        return
    for name in imports(module, path):
        other = part(name) if name.startswith("ohsessions.") else None
        if other and (ROW[other] > ROW[own] or (own, other) in APART):
            yield f"{module} imports {name}"


def test_every_module_has_a_row():
    strangers = {module for module, _ in modules() if "." in module and part(module) is None}
    assert strangers == set(), "say in ROWS where they stand"


def test_modules_import_only_what_stands_lower():
    found = [line for module, path in modules() for line in violations(module, path)]
    assert found == []


def circle(files: dict[str, Path]) -> list[str]:
    """Return the names of files that import one another in a circle, or nothing if there is no circle."""
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        # `from ohsessions.core import wire` names a file; `from ohsessions.core.wire import Act` does not.
        found = {name if name in files else name.rpartition(".")[0] for name in imports(module, path)}
        graph[module] = (found & files.keys()) - {module}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_files_do_not_import_one_another_in_a_circle():
    assert circle(dict(modules())) == []


def test_a_circle_is_found_though_it_is_for_types_only(tmp_path):
    files = {f"ohsessions.core.{name}": tmp_path / f"{name}.py" for name in "abc"}
    files["ohsessions.core.a"].write_text("from ohsessions.core import b")
    files["ohsessions.core.b"].write_text("if TYPE_CHECKING:\n    from ohsessions.core.c import C")
    files["ohsessions.core.c"].write_text("")
    assert circle(files) == []
    files["ohsessions.core.c"].write_text("def f():\n    from .a import A")
    assert set(circle(files)) == files.keys()


def test_no_two_classes_or_modules_of_one_name_do_different_jobs():
    """Two packages may each have a module `errors`. A migration keeps its class for ever."""
    names = [path.name for _, path in modules() if path.name != "__init__.py"]
    classes = [
        node.name
        for _, path in modules()
        if "migrations" not in path.parts
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    ]
    assert {name for name in names if names.count(name) > 1} == {"errors.py"}
    assert {name for name in classes if classes.count(name) > 1} == set()


IMPURE = {"django", "channels", "logging", "multiprocessing", "os", "signal", "subprocess", "threading"}
"""Modules for threads, processes, logs and the environment, which rules do not need."""


def test_core_is_pure():
    found = [
        f"{module} imports {name}"
        for module, path in modules()
        if part(module) == "core"
        for name in imports(module, path)
        if name.partition(".")[0] in IMPURE
    ]
    assert found == []


def test_an_import_of_a_higher_row_is_found(tmp_path):
    (tmp_path / "wire.py").write_text("def f():\n    from ..models import Session\n")
    assert [*violations("ohsessions.core.wire", tmp_path / "wire.py")] == [
        "ohsessions.core.wire imports ohsessions.models.Session"
    ]


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"django", "channels"}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def without_django(names: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKER, *names]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_core_and_the_protocol_engine_import_without_django():
    names = [module for module, _ in modules() if part(module) == "core"]
    names += ["ohsessions.socketio.engine"]
    result = without_django(names)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["django.db", "ohsessions.models"])
def test_the_blocker_blocks(name):
    assert "is blocked" in without_django([name]).stderr
