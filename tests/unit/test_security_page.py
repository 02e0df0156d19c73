"""docs/security.md names only tests and attacks that exist, and every attack."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.attack.attacker import load
from tests.attack.world import ATTACKS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
load()


def defined() -> set[str]:
    """Return the names of all tests, except those in JavaScript."""
    names: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        names |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return names


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 40
    assert named - defined() == set()


def test_the_page_names_every_attack_and_no_others() -> None:
    cells = re.findall(r"attack: (.*?) \|", PAGE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert named - ATTACKS.keys() == set()
    variants = {"nobody"} | {
        name for name in ATTACKS if re.search("_(in_)?debug$|_from_many$|_with_payload$", name)
    }
    assert ATTACKS.keys() - named - variants == set()


def test_readme_and_the_page_on_deployment_lead_to_it() -> None:
    assert "docs/security.md" in (ROOT / "README.md").read_text()
    assert "(security.md)" in (ROOT / "docs" / "deploy.md").read_text()
