"""A process that has lost one of its tasks ends in order and reports why. Its sessions continue elsewhere."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests import weakened
from tests.acceptance.cluster import Cluster
from tests.acceptance.site import ROOT, Client, Site
from tests.requirements import free_port, wait_until

Connect = Callable[..., Awaitable[Client]]


async def test_a_worker_that_lost_a_task_ends_and_its_session_goes_on_at_another(
    tmp_path: Path, postgres_database: str, redis_url: str, connect: Connect
) -> None:
    cluster = Cluster(tmp_path, postgres_database, redis_url, 1, 2)
    for worker in cluster.workers:
        worker.environment = worker.environment | weakened.ends_task("worker claims")
    try:
        cluster.start()
        client = await connect(cluster.gateways[0])
        await client.initialize("shell")
        first = await client.act("run", {"command": "export A=7"})
        assert await client.output(first["id"]) == ("", 0)
        owner = cluster.worker_of(client.session_id)
        assert await asyncio.to_thread(owner.end, signal.SIGUSR1) == 1
        second = await client.act("run", {"command": "echo $A"})
        assert await client.output(second["id"]) == ("7\n", 0), "its state was saved"
        assert client.others == []
    finally:
        cluster.kill()
    *_, last = owner.log.read_text().splitlines()
    assert "The task 'worker claims' was cancelled" in last


async def test_an_embedded_site_that_lost_a_task_exits_with_an_error(
    make_site: Callable[..., Site], connect: Connect
) -> None:
    site = make_site(environment=weakened.ends_task("gateway layer"))
    client = await connect(site)
    await client.initialize("echo")
    await client.wait_state("init")
    assert site.process is not None
    site.process.send_signal(signal.SIGUSR1)
    assert await asyncio.to_thread(site.process.wait, 60) == 1
    site.process = None
    assert site.state(client.session_id) == "passivated"
    *_, last = site.log.read_text().splitlines()
    assert last.startswith(
        "CommandError: This process ended because of a failure. The task 'gateway layer' was"
    )
    assert {notice.get("reason") for notice in client.notices if notice["notice"] == "disconnecting"} == {
        "draining"
    }


def test_make_run_says_why_it_ended(tmp_path: Path) -> None:
    environment = os.environ | {"DJANGO_DEBUG": "1", "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}"}
    environment |= weakened.ends_task("worker lease")
    command = [sys.executable, "-m", "project.run", "--port", str(free_port())]
    with (tmp_path / "output").open("wb") as output:
        run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        wait_until(lambda: "ohsessions has started" in (tmp_path / "output").read_text(), "make run serving")
        run.send_signal(signal.SIGUSR1)
        assert run.wait(60) == 1
    finally:
        run.kill()
        run.wait()
    *_, last = (tmp_path / "output").read_text().splitlines()
    assert last.startswith("This process ended because of a failure. The task 'worker lease' was cancelled.")
