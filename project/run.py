"""
The program of `make run`: it starts the reference site on a developer's machine, ready to use.

It creates what a new clone lacks: a secret key, tables and an admin. It keeps the key and the login in
git-ignored files below var/, so that sessions and tokens survive a restart.
"""

import json
import os
import secrets
import sys
from argparse import ArgumentParser
from pathlib import Path

VAR_DIR = Path(__file__).resolve().parent.parent / "var"
DEMO_ADMIN = "admin"
DEMO_RUNTIMES = {
    "shell": {"BACKEND": "ohsessions.runtimes.shell.ShellRuntime"},
    "echo": {"BACKEND": "ohsessions.runtimes.echo.EchoRuntime"},
}
"""The runtimes of the demo. A site has a shell only if a setting names it; this one does."""


def kept(name: str) -> str:
    """Return a random string that is the same at each start, from a file that only its owner can read."""
    file = VAR_DIR / name
    VAR_DIR.mkdir(exist_ok=True)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file.read_text().strip()
    with open(descriptor, "w") as writer:
        value = secrets.token_urlsafe(48 if name == "secret_key" else 9)
        writer.write(value + "\n")
    return value


def prepare() -> str:
    """Migrate the database, and return the demo admin's login as text to show."""
    from django.conf import settings
    from django.contrib.auth import get_user_model
    from django.core.management import call_command

    call_command("check")
    call_command("migrate", verbosity=0)
    users = get_user_model()._default_manager
    if not settings.DEBUG or users.filter(is_superuser=True).exclude(username=DEMO_ADMIN).exists():
        return "with your own account"
    password = kept("demo_admin")
    user = users.filter(username=DEMO_ADMIN).first()
    if user is None:
        users.create_superuser(DEMO_ADMIN, password=password)
    elif not user.check_password(password):
        return f"{DEMO_ADMIN}, with the password you gave it"
    return f"{DEMO_ADMIN} / {password}"


def shells() -> str:
    """Return a text about this server's shells: their users, and their isolation from the machine."""
    from django.utils.module_loading import import_string

    from ohsessions.conf import conf

    text = ""
    for alias, entry in conf.RUNTIMES.items():
        backend = import_string(entry["BACKEND"])
        if not hasattr(backend, "what_isolates"):
            continue
        how = backend.what_isolates(entry.get("OPTIONS", {}))
        text += f"  Shells    the runtime `{alias}` runs commands for every visitor of the page: {how}\n"
    return text


def main() -> None:
    parser = ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    port = parser.parse_args().port
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    os.environ.setdefault("DJANGO_DEBUG", "1")
    os.environ.setdefault("OHSESSIONS_RUNTIMES", json.dumps(DEMO_RUNTIMES))
    if not os.environ.get("DJANGO_SECRET_KEY"):
        kept("secret_key")

    import django
    from django.core.management import CommandError, call_command

    django.setup()
    try:
        login = prepare()
        address = f"http://127.0.0.1:{port}/"
        print(
            f"\n  Sessions  {address}\n  Admin     {address}admin/\n  Login     {login}\n{shells()}",
            flush=True,
        )
        call_command("ohsessions", "serve", "--port", str(port))
    except CommandError as error:
        sys.exit(f"{error}\nAnother port: make run PORT={port + 1}" if "listen" in str(error) else str(error))


if __name__ == "__main__":
    main()
