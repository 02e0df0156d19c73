"""Processes and their leases in the database, and processes that are certainly dead."""

from __future__ import annotations

import os
import subprocess
import sys
from uuid import uuid4

import pytest

from ohsessions import lifecycle
from ohsessions.core.errors import ProcessGone
from ohsessions.models import Connection, Process
from ohsessions.processes import leases
from tests.integration.world import World


def test_a_renewal_raises_the_counter_and_says_how_loaded_it_is(world: World):
    world.clock.advance(2)
    leases.renew(world.worker, 7)
    row = Process.objects.get(pk=world.worker)
    assert (row.heartbeat, row.load, row.seen_at) == (1, 7, world.clock.now())


def test_who_was_declared_gone_cannot_renew(world: World):
    assert leases.mark_gone(world.worker)
    assert not leases.mark_gone(world.worker), "it is gone already"
    with pytest.raises(ProcessGone):
        leases.renew(world.worker, 0)
    with pytest.raises(ProcessGone):
        leases.renew(uuid4(), 0)
    assert Process.objects.get(pk=world.worker).heartbeat == 0
    assert world.worker not in [process.pk for process in leases.living()]


def test_a_renewal_in_the_meantime_wins_over_being_declared_gone(world: World):
    leases.renew(world.worker, 0)
    assert not leases.mark_gone(world.worker, heartbeat=0)
    assert leases.mark_gone(world.worker, heartbeat=1)


def test_a_draining_process_lives_and_a_gone_one_does_not_drain(world: World):
    leases.begin_drain(world.worker)
    assert Process.objects.get(pk=world.worker).state == "draining"
    assert world.worker in [process.pk for process in leases.living()], "so it is missed when it dies"
    leases.renew(world.worker, 0)
    leases.mark_gone(world.gateway)
    leases.begin_drain(world.gateway)
    assert Process.objects.get(pk=world.gateway).state == "gone"


def test_what_gone_processes_left_is_found_until_it_is_taken_over(world: World):
    session_id, _ = world.run("a")
    world.open("b")
    lifecycle.detach("b", "left", leave=True)
    assert leases.gone_with_leftovers() == []
    leases.mark_gone(world.worker)
    leases.mark_gone(world.gateway)
    assert {process.pk for process in leases.gone_with_leftovers()} == {world.worker, world.gateway}
    lifecycle.hand_over(session_id, world.worker, "gone")
    assert [process.pk for process in leases.gone_with_leftovers()] == [world.gateway]
    lifecycle.write_off(session_id, world.gateway, "gateway_lost")
    assert [process.pk for process in leases.gone_with_leftovers()] == [world.gateway]
    leases.end_detached(world.gateway)
    assert leases.gone_with_leftovers() == []
    assert Connection.objects.get(sid="b").end_reason == "gateway_lost"


def test_of_a_lost_gateways_connections_only_the_detached_end_without_their_session(world: World):
    lost = world.gateway
    for sid in ("attached", "left", "ended"):
        world.open(sid)
    world.gateway = leases.register(Process.Kind.GATEWAY)
    world.open("elsewhere")
    for sid in ("left", "ended", "elsewhere"):
        lifecycle.detach(sid, "left", leave=True)
    lifecycle.detach("ended", "closed by its client")
    leases.end_detached(lost)
    rows = Connection.objects.exclude(ended_at=None).values_list("sid", "end_reason")
    assert dict(rows) == {"left": "gateway_lost", "ended": "closed by its client"}


def registered(pid: int) -> Process:
    """Return a row as another process of this machine, with the given pid, would make it."""
    birth = leases.own_birth().rpartition("/")[0] + f"/{leases.start_time(pid) or 0}"
    return Process(pid=pid, birth=birth)


@pytest.fixture
def other() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_a_process_that_ended_is_known_to_be_dead(other):
    row = registered(other.pid)
    assert not leases.is_known_dead(row)
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert leases.is_known_dead(row), "a zombie"
    other.wait()
    assert leases.is_known_dead(row)


def test_another_process_with_the_same_pid_is_not_the_same(other):
    row = registered(other.pid)
    row.birth += "1"
    assert leases.is_known_dead(row)


def test_nothing_is_known_of_processes_elsewhere(other):
    row = registered(other.pid)
    other.kill()
    other.wait()
    for birth in ("", "boot/namespace/1", row.birth.rpartition("/")[0] + "/"):
        row.birth = birth
        assert not leases.is_known_dead(row)


def elsewhere(row: Process, *, boot: str | None = None, namespace: str | None = None) -> Process:
    """Change a row to the same pid and start time in another boot or pid namespace, and return it."""
    own_boot, own_namespace, started = row.birth.split("/")
    row.birth = f"{boot or own_boot}/{namespace or own_namespace}/{started}"
    return row


@pytest.mark.parametrize("other_place", [{"namespace": "4026530000"}, {"boot": str(uuid4())}])
def test_a_pid_of_another_container_or_boot_is_never_known_dead(other, other_place):
    row = elsewhere(registered(other.pid), **other_place)
    assert not leases.is_known_dead(row)
    other.kill()
    other.wait()
    assert leases.is_known_dead(registered_again(row)), "here it would be"
    assert not leases.is_known_dead(row)


def registered_again(row: Process) -> Process:
    """Return a row of the same pid and start time in this boot and pid namespace."""
    own = leases.own_birth().rpartition("/")[0]
    return Process(pid=row.pid, birth=f"{own}/{row.birth.rpartition('/')[2]}")


@pytest.mark.parametrize("proc", [["--mount-proc"], []], ids=["its own /proc", "its parent's /proc"])
def test_containers_of_one_host_with_the_same_pids_are_told_apart(proc):
    say = "import os, django; django.setup(); from ohsessions.processes import leases;"
    say += "print(os.getpid(), leases.own_birth())"
    container = ["unshare", "--user", "--map-root-user", "--pid", "--fork", *proc]
    if subprocess.run([*container, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine makes no pid namespaces")
    rows = []
    for _ in range(2):
        command = [*container, sys.executable, "-c", say]
        pid, birth = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        assert pid == "1"
        assert birth.startswith("/") is not bool(proc), "its parent's /proc knows nothing of its pids"
        rows.append(Process(host="container", pid=1, birth=birth))
    assert not any(map(leases.is_known_dead, rows)), "this one's pid 1 is another process"
    assert leases.identity(rows[0]) != leases.identity(rows[1])


def test_what_proc_hides_is_not_dead(other, monkeypatch):
    row = registered(other.pid)
    assert not leases.is_known_dead(row)
    with monkeypatch.context() as hidden:
        hidden.setattr(leases, "start_time", lambda pid: None)
        hidden.setattr(os, "kill", deny)
        assert not leases.is_known_dead(row)


def deny(pid: int, signal: int) -> None:
    raise PermissionError
