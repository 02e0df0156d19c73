"""CONTRIBUTING.md names files, classes and functions, and each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
NAMED = re.findall(r"`([\w./]+\.(?:py|js|html|md))`(?:\s+`([\w.]+)`)?", TEXT)
"""Pairs of a file and, if a name follows directly, the name of something in the file."""


def defined(path: Path) -> set[str]:
    """Return the names of a module's functions, classes and constants, and of the classes' members."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        members = node.body if isinstance(node, ast.ClassDef) else []
        names |= {f"{node.name}.{one.name}" for one in members if isinstance(one, ast.FunctionDef)}
        names |= {f"{node.name}.{one.name}" for one in members if isinstance(one, ast.AsyncFunctionDef)}
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
    return names


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_what_it_names_exists(file: str, name: str) -> None:
    path = ROOT / file
    assert path.exists()
    assert not name or name in defined(path)


def test_each_path_has_its_steps() -> None:
    """Each step names a file and a function or class, so that a new developer finds it."""
    steps = TEXT[TEXT.index("## Three paths") : TEXT.index("## Add a setting")]
    numbered = re.findall(r"^\d+\. (.*)", steps, re.MULTILINE)
    assert len(numbered) > 20
    assert [line for line in numbered if not re.match(r"`ohsessions/[\w/]+\.py` `[\w.]+` ", line)] == []


def test_every_room_of_the_package_is_in_the_table() -> None:
    rooms = {f"ohsessions/{path.parent.name}/" for path in (ROOT / "ohsessions").glob("*/__init__.py")}
    known = {"ohsessions/access/", "ohsessions/management/", "ohsessions/migrations/"}
    known |= {"ohsessions/templatetags/"}
    assert {room for room in rooms if f"`{room}`" not in TEXT} == known, "known: found by their names"
