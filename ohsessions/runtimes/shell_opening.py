"""The start of a session's bash: its workspace, its environment, its limits, its sandbox."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from django.conf import settings

from ohsessions.conf import conf
from ohsessions.core.errors import RuntimeFailure
from ohsessions.core.runtime import RuntimeContext
from ohsessions.runtimes.shell_bash import Bash
from ohsessions.runtimes.shell_exchange import Exchange
from ohsessions.runtimes.shell_options import ShellOptions
from ohsessions.runtimes.shell_output import OutputBuffer
from ohsessions.runtimes.shell_sandbox import EXCHANGE, limits_script, sandboxed, wanted_sandbox
from ohsessions.runtimes.shell_state import ShellState


async def open_bash(
    context: RuntimeContext,
    options: ShellOptions,
    output: OutputBuffer,
    state: ShellState,
    *,
    writes: bool = True,
) -> tuple[Bash, str]:
    """Start a bash in a state; return it and its directory. Without `writes` it cannot write files.

    Raise RuntimeFailure: `no_bash`, `no_sandbox`, `cannot_spawn`, or `shell_broken` if bash ends at once or
    is not ready in time. The state may be the cause of the last one.
    """
    workspace = context.workspace.absolute()
    workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
    workspace.chmod(0o700)
    env = environment(options, workspace)
    program = shutil.which(options.bash, path=env["PATH"])
    if program is None:
        raise RuntimeFailure(
            "no_bash", f"There is no bash in {env['PATH']}: install it, or name it in the option `bash`."
        )
    env["SHELL"] = program
    sandbox = await asyncio.to_thread(wanted_sandbox, options)
    limits = limits_script(options if writes else replace(options, file_bytes=0), sandbox=sandbox)
    exchange = Exchange(EXCHANGE if sandbox else None, limits)
    argv = [program]
    if sandbox:
        argv = sandboxed(argv, options, workspace, exchange.directory, hidden_paths())
    bash = Bash(output, exchange)
    try:
        await bash.open(context, argv, env, depth=2 if sandbox else 0)
        if state == ShellState():
            return bash, str(workspace)
        report = await bash.restore(state, state.cwd or str(workspace))
        return bash, report.cwd
    except BaseException:
        await bash.close()
        raise


def environment(options: ShellOptions, workspace: Path) -> dict[str, str]:
    """Return the whole environment of a shell. The server's is not used, since it has the site's secrets."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = "user"
    return {
        "PATH": options.path,
        "HOME": str(workspace),
        "USER": user,
        "LOGNAME": user,
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PAGER": "cat",
        **options.env,
    }


def hidden_paths() -> Iterator[Path]:
    """Yield the directories of the site that a sandbox must hide, if they are below a path that it shows."""
    yield Path(conf.WORKSPACE_ROOT).absolute()
    yield Path(settings.MEDIA_ROOT or os.devnull).absolute()
    yield Path(getattr(settings, "BASE_DIR", os.devnull)).absolute()
    for database in settings.DATABASES.values():
        yield Path(database.get("NAME") or os.devnull).absolute().parent
