"""``manage.py ohsessions <sub-command>``: runs the processes of ohsessions and looks after its sessions."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from ohsessions.conf import conf

ABOVE = 64 * 1024
"""Bytes by which the server's limit lies above the gateway's own, which answers more kindly."""


class Command(BaseCommand):
    help = "Runs the processes of ohsessions."

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(dest="command", metavar="command", required=True)
        serve = commands.add_parser("serve", help="serve HTTP and Socket.IO (a gateway)")
        add_serve_arguments(serve)
        serve.set_defaults(run=self.serve)

    def handle(self, *args: Any, **options: Any) -> None:
        options["run"](**options)

    def serve(
        self, *, bind: str, port: int, max_body: int | None, proxy_headers: bool, **options: Any
    ) -> None:
        # Not at the top: importing the server installs the reactor, which must precede the application.
        from channels.routing import get_default_application

        from ohsessions import server
        from ohsessions.gateway.gateway import FRAME_SLACK

        application = get_default_application()
        self.check_migrations()
        connections.close_all()
        max_message = conf.MAX_ACTION_BYTES + FRAME_SLACK + ABOVE
        if max_body is None:
            max_body = settings.DATA_UPLOAD_MAX_MEMORY_SIZE or sys.maxsize
        running = server.Server(
            application,
            bind=bind,
            port=port,
            body_limits=server.BodyLimits(prefix="/" + conf.PATH, below=max_message, default=max_body),
            max_message=max_message,
            slow_timeout=conf.SLOW_TIMEOUT,
            stop_timeout=conf.PASSIVATE_TIMEOUT,
            announce=self.announce,
            **(PROXY_HEADERS if proxy_headers else {}),
        )
        running.run()
        if running.error:
            raise CommandError(f"Cannot listen on {bind} port {port}: {running.error}")

    def announce(self, host: str, port: int) -> None:
        name = f"[{host}]" if ":" in host else host
        self.stdout.write(f"Serving on http://{name}:{port}/")
        self.stdout.flush()


PROXY_HEADERS = {
    "proxy_forwarded_address_header": "X-Forwarded-For",
    "proxy_forwarded_port_header": "X-Forwarded-Port",
    "proxy_forwarded_proto_header": "X-Forwarded-Proto",
}


def add_serve_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDR", help="default: %(default)s")
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="default: %(default)s; 0: any free"
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
        help="take the client's address and scheme from X-Forwarded-*, which a proxy sets",
    )
