"""``manage.py ohsessions <sub-command>``: run and drain the processes of ohsessions, and prune its data."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError, connections

from ohsessions import pruning, snapshots, workspaces
from ohsessions.conf import conf
from ohsessions.core import wire
from ohsessions.exposure import proxy_headers_risk
from ohsessions.models import Process
from ohsessions.processes import leases, malloc
from ohsessions.processes.ending import ending
from ohsessions.processes.store import Store
from ohsessions.wakeups import is_embedded
from ohsessions.worker.worker import SessionWorker, stop_limit


class Command(BaseCommand):
    help = "Runs and drains the processes of ohsessions, and prunes its data."

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(dest="command", metavar="command", required=True)
        serve = commands.add_parser("serve", help="serve HTTP and Socket.IO (a gateway)")
        add_serve_arguments(serve)
        serve.set_defaults(run=self.serve)
        worker = commands.add_parser("worker", help="own sessions and run their runtimes")
        worker.set_defaults(run=self.work)
        drain = commands.add_parser(
            "drain", help="end processes in order: others take over their sessions and clients"
        )
        drain.add_argument(
            "processes", nargs="+", metavar="PROCESS", help="id, its beginning, host:pid or pid"
        )
        drain.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="default: 120")
        drain.set_defaults(run=self.drain)
        prune = commands.add_parser(
            "prune", help="delete the data that is older than the settings …_RETENTION, now"
        )
        prune.add_argument("--dry-run", action="store_true", help="only print the numbers")
        prune.set_defaults(run=self.prune)

    def handle(self, *args: Any, **options: Any) -> None:
        options["run"](**options)

    def serve(
        self, *, bind: str, port: int, max_body: int | None, proxy_headers: bool, **options: Any
    ) -> None:
        # Imported here: importing the server installs the reactor, which must come before the application.
        from channels.routing import get_default_application

        from ohsessions.core.addresses import limit_key
        from ohsessions.gateway.client_address import address_of
        from ohsessions.gateway.gateway import FRAME_SLACK
        from ohsessions.routing import stop_mounts
        from ohsessions.serving import daphne_server
        from ohsessions.serving.http_requests import BodyLimits
        from ohsessions.serving.websocket_budgets import Limits

        malloc.give_back_large_blocks()
        application = get_default_application()
        self.warn_of_migrations()
        if proxy_headers and (risk := proxy_headers_risk(bind)):
            self.stderr.write(risk)
        connections.close_all()
        # This limits the messages that are sent, too, so the largest event must pass. It is above the
        # gateway's own limit, since the gateway refuses with a better message.
        max_message = wire.most_event_bytes(conf.MAX_ACTION_BYTES) + FRAME_SLACK
        if max_body is None:
            max_body = settings.DATA_UPLOAD_MAX_MEMORY_SIZE or sys.maxsize
        running = daphne_server.Server(
            application,
            bind=bind,
            port=port,
            body_limits=BodyLimits(
                prefix="/" + conf.PATH,
                below=max_message,
                default=max_body,
                of_query=getattr(application, "input_limit", None),
            ),
            limits=Limits(
                largest=max_message,
                packet_rate=conf.PACKET_RATE,
                byte_rate=conf.BYTE_RATE,
                unfinished_per_address=4 * conf.MAX_ACTION_BYTES,
                unfinished=16 * conf.MAX_ACTION_BYTES,
            ),
            address_of=lambda scope: limit_key(address_of(scope)),
            slow_timeout=conf.SLOW_TIMEOUT,
            stop_application=stop_mounts,
            stop_timeout=stop_limit(),
            announce=self.announce,
            **(PROXY_HEADERS if proxy_headers else {}),
        )
        running.run()
        if running.error:
            raise CommandError(f"Cannot listen on {bind} port {port}: {running.error}")
        check_ending()

    def work(self, **options: Any) -> None:
        if is_embedded():
            raise CommandError(
                "The channel layer is in memory, so `serve` also runs the worker. To run workers as processes"
                " of their own, configure a layer that processes share (on the reference site: REDIS_URL)."
            )
        malloc.give_back_large_blocks()
        self.warn_of_migrations()
        connections.close_all()
        asyncio.run(work_until_told(lambda: self.stdout.write("Working")))
        check_ending()

    def warn_of_migrations(self) -> None:
        """Warn of migrations that are not applied.

        If the database does not answer, continue: the process waits for it, as it does later.
        """
        try:
            self.check_migrations()
        except OperationalError:
            self.stderr.write("The database does not answer. This process waits for it.")

    def drain(self, *, processes: list[str], timeout: float, **options: Any) -> None:
        living = leases.living()
        chosen = {row.pk: row for name in processes for row in rows_named(name, living)}
        for row in chosen.values():
            leases.begin_drain(row.pk)
            self.stdout.write(f"Draining {described(row)}")
        end = time.monotonic() + timeout
        left = set(chosen)
        while left := left & {process.pk for process in leases.living()}:
            if time.monotonic() > end:
                names = ", ".join(map(str, left))
                raise CommandError(
                    f"These processes did not end within {timeout:g} s (see --timeout): {names}"
                )
            time.sleep(0.2)
        self.stdout.write("Done")

    def prune(self, *, dry_run: bool, **options: Any) -> None:
        self.check_migrations()
        for done in pruning.prune(dry_run=dry_run):
            self.stdout.write(f"{done.what}: {done.found}")
        self.stdout.write(f"workspaces: {workspaces.sweep(dry_run=dry_run)}")
        self.stdout.write(f"snapshot files: {snapshots.sweep(dry_run=dry_run)}")
        self.stdout.write("Dry run: nothing was deleted" if dry_run else "Done")

    def announce(self, host: str, port: int) -> None:
        name = f"[{host}]" if ":" in host else host
        self.stdout.write(f"Serving on http://{name}:{port}/")
        self.stdout.flush()


async def work_until_told(announce: Callable[[], None]) -> None:
    """Run a worker until SIGTERM, SIGINT or an operator's drain. A second signal ends it at once."""
    loop = asyncio.get_running_loop()
    signalled, told = asyncio.Event(), asyncio.Event()

    def tell() -> None:
        if signalled.is_set():
            os._exit(1)
        signalled.set()
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell)
    ending.begin = told.set
    store = Store()
    worker = SessionWorker(store)
    starting = asyncio.create_task(worker.start(), name="worker start")
    waiting = asyncio.create_task(told.wait(), name="worker waits for its end")
    await asyncio.wait([starting, waiting], return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        starting.result()
        announce()
        await waiting
        await worker.stop("its worker stopped")
    else:
        starting.cancel()  # the worker waits for the database, and holds nothing yet
    await store.close()


def check_ending() -> None:
    """Raise CommandError, for the exit code, if this process has ended because something failed."""
    if ending.failure is not None:
        raise CommandError(f"This process ended because of a failure. {ending.failure}")


def rows_named(name: str, living: list[Process]) -> list[Process]:
    """Return the rows of the one process with this name: two if it is gateway and worker at once.

    A name is an id, its beginning, `host:pid` or the pid. Raises CommandError if no process or several have
    it: containers may share host and pid.
    """
    start = name.replace("-", "").lower()
    found = [
        row
        for row in living
        if name in (row.address, str(row.pid)) or (start and row.pk.hex.startswith(start))
    ]
    identities = {leases.identity(row) for row in found}
    if len(identities) == 1:
        return [row for row in living if leases.identity(row) in identities]
    said = "names several processes: pass the id of one" if found else "names no living process"
    there = "".join(f"\n  {described(row)}" for row in found or living) or " none"
    raise CommandError(f"{name!r} {said}. Living processes:{there}")


def described(row: Process) -> str:
    return (
        f"{row.pk}  {row.kind:7}  {row.address}  {row.state}, started {row.started_at:%Y-%m-%d %H:%M:%S %Z}"
    )


PROXY_HEADERS = {
    "proxy_forwarded_address_header": "X-Forwarded-For",
    "proxy_forwarded_port_header": "X-Forwarded-Port",
    "proxy_forwarded_proto_header": "X-Forwarded-Proto",
}


def add_serve_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDR", help="default: %(default)s")
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="default: %(default)s; 0: any free port"
    )
    parser.add_argument(
        "--max-body",
        type=int,
        metavar="BYTES",
        help="largest request body outside Socket.IO; default: DATA_UPLOAD_MAX_MEMORY_SIZE",
    )
    parser.add_argument(
        "--proxy-headers",
        action="store_true",
        help="read the client's address and scheme from the headers X-Forwarded-* of a proxy",
    )
