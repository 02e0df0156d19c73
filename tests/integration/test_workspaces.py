"""Workspaces of deleted sessions are removed, and nothing else is."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from ohsessions import workspaces
from ohsessions.database import Database
from ohsessions.models import Session
from tests.integration.world import World

# The name is fixed, because parallel processes have to name the tests alike.
NAME = "c9bf4e85-40f7-4d66-b9dc-7d71caf50a4e"


@pytest.fixture
def root(settings: Any, tmp_path: Path, world: World) -> Path:
    """Return a root that belongs to this database already."""
    root = tmp_path / "workspaces"
    root.mkdir()
    settings.OHSESSIONS = {**settings.OHSESSIONS, "WORKSPACE_ROOT": str(root)}
    assert workspaces.sweep() == 0
    return root


def make(root: Path, name: object, *, age: float = 7200) -> Path:
    """Make a directory with a file in it."""
    made = root / str(name)
    made.mkdir()
    (made / "file").write_text("x")
    past = time.time() - age
    os.utime(made, (past, past))
    return made


def test_directories_of_sessions_that_are_no_more_are_removed(root: Path, world: World) -> None:
    session_id, _ = world.run()
    kept, gone = make(root, session_id), make(root, uuid4())
    assert workspaces.sweep(dry_run=True) == 1
    assert gone.exists()
    assert workspaces.sweep() == 1
    assert not gone.exists()
    assert (kept / "file").read_text() == "x"
    Session.objects.all().delete()
    assert workspaces.sweep() == 1
    assert not kept.exists()


@pytest.mark.parametrize("name", ["notes", "lost+found", NAME.upper(), UUID(NAME).hex, f"{NAME}.old", ".x"])
def test_what_is_not_named_as_a_session_is_left_alone(root: Path, name: str) -> None:
    made = make(root, name)
    assert workspaces.sweep() == 0
    assert made.exists()


def test_what_is_new_is_left_alone(root: Path) -> None:
    made = make(root, uuid4(), age=60)
    assert workspaces.sweep() == 0
    assert made.exists()


def test_no_link_is_followed(root: Path, tmp_path: Path) -> None:
    outside = make(tmp_path, "outside")
    gone = make(root, uuid4())
    (gone / "link").symlink_to(outside)
    (gone / "inner").mkdir()
    (gone / "inner" / "up").symlink_to("../../../outside")
    (gone / "inner" / "file").symlink_to(outside / "file")
    named = root / str(uuid4())
    named.symlink_to(outside)
    past = time.time() - 7200
    os.utime(gone, (past, past))
    os.utime(named, (past, past), follow_symlinks=False)
    assert workspaces.sweep() == 1
    assert not gone.exists()
    assert named.is_symlink()
    assert (outside / "file").read_text() == "x"


def test_no_tree_is_too_deep_and_no_right_that_was_taken_hinders(root: Path) -> None:
    gone = make(root, uuid4())
    here = os.getcwd()
    os.chdir(gone)
    try:
        for _ in range(3000):  # too deep for Python's recursion, for a path, and for the open files
            os.mkdir("d")
            os.chdir("d")
        Path("file").write_text("x")
    finally:
        os.chdir(here)
    locked = gone / "locked" / "inner"
    locked.mkdir(parents=True)
    (locked / "file").write_text("x")
    for folder in (locked, locked.parent, gone):
        folder.chmod(0)
    past = time.time() - 7200
    os.utime(gone, (past, past))
    assert workspaces.sweep() == 1
    assert not gone.exists()


def test_one_that_cannot_be_removed_keeps_no_other_from_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = sorted([make(root, uuid4()), make(root, uuid4())])
    remove = workspaces.remove_tree

    def fail_for_one(parent: int, name: str) -> None:
        if name == bad.name:
            raise PermissionError(1, "Operation not permitted")
        remove(parent, name)

    monkeypatch.setattr(workspaces, "remove_tree", fail_for_one)
    assert workspaces.sweep() == 1
    assert bad.exists()
    assert not good.exists()


def test_first_sweep_of_a_root_removes_nothing(root: Path) -> None:
    gone = make(root, uuid4())
    (root / workspaces.MARK).unlink()
    assert workspaces.sweep() == 0
    assert gone.exists()
    assert workspaces.sweep() == 1


def test_root_of_another_database_is_left_alone(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    gone = make(root, uuid4())
    (root / workspaces.MARK).write_text("2001-01-01T00:00:00+00:00")
    assert workspaces.sweep() == 0
    assert gone.exists()
    assert "another database" in caplog.text


def test_root_that_is_not_there_is_nothing_to_sweep(root: Path, settings: Any) -> None:
    settings.OHSESSIONS = {**settings.OHSESSIONS, "WORKSPACE_ROOT": str(root / "none")}
    assert workspaces.sweep() == 0
    assert not (root / "none").exists()


async def test_worker_sweeps_without_a_thread_of_the_database(root: Path, world: World) -> None:
    gone = make(root, UUID(int=5))
    database = Database()
    try:
        await workspaces.asweep(database)
    finally:
        await database.close()
    assert not gone.exists()
