"""The sandbox of a shell: bubblewrap (bwrap), and what the shell can see in it.

A shell in the sandbox has its own namespaces for mounts, processes, users, IPC, host name and, unless the
options say otherwise, network. It can write to its workspace and to a /tmp in memory, and read the system's
programs and the few files of /etc that these need. The rest of the host is absent: the site, its database,
files and environment, other workspaces and processes, and sockets below /run. The shell holds no capability.

The sandbox is as strong as the kernel: a fault of the kernel opens it.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ohsessions.core.errors import RuntimeFailure
from ohsessions.runtimes.shell_options import ShellOptions, mistakes

logger = logging.getLogger(__name__)

EXCHANGE = Path("/run/ohsessions")
"""The path at which a shell in the sandbox finds the files of its exchange."""

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = re.findall(
    r"\S+",
    "alternatives bash.bashrc ca-certificates debian_version default/locale group host.conf hosts inputrc"
    " ld.so.cache ld.so.conf ld.so.conf.d locale.alias localtime login.defs mime.types nsswitch.conf"
    " os-release passwd pki profile protocols resolv.conf services shells ssl timezone",
)
PROBE_SECONDS = 10.0


def find_bwrap() -> str | None:
    return shutil.which("bwrap", path=os.environ.get("PATH", os.defpath) + ":/usr/bin:/usr/local/bin")


@functools.cache
def why_no_sandbox() -> str:
    """Return why bubblewrap does not work here, or an empty string. The first call takes 20 ms to try it."""
    program = find_bwrap()
    if program is None:
        return "there is no bwrap: install bubblewrap"
    why = ""
    for newer in (True, False):
        argv = [program, *_namespaces(network=False, newer=newer), *_mounts(ShellOptions(), [], newer=newer)]
        try:
            done = subprocess.run(
                [*argv, "--", "true"],
                capture_output=True,
                text=True,
                timeout=PROBE_SECONDS,
                env={"PATH": ShellOptions().path},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{program} does not work here: {error}"
        if done.returncode == 0:
            _newer[program] = newer
            return ""
        why = why or f"{program} does not work here: {done.stderr.strip()[-300:]}"
    return why


_newer: dict[str, bool] = {}
"""True for a bwrap that knows the options of version 0.8."""


def is_sandboxed(options: Mapping[str, Any]) -> bool:
    """Return True if shells with these OPTIONS run in a sandbox on this host, with a network of their own."""
    if any(mistakes(options)) or options.get("network"):
        return False
    return options.get("sandbox", "auto") != "none" and not why_no_sandbox()


def wanted_sandbox(options: ShellOptions) -> bool:
    """Return True to use the sandbox. Blocks at the first call. Raise RuntimeFailure (`no_sandbox`)."""
    if options.sandbox == "none":
        return False
    why = why_no_sandbox()
    if why and options.sandbox == "bwrap":
        raise RuntimeFailure("no_sandbox", f"The shell is to run in a sandbox (option `sandbox`), but {why}.")
    if why:
        _warn(why)
    return not why


@functools.cache
def _warn(why: str) -> None:
    """Log that shells run without a sandbox, once for each process."""
    logger.warning("Shells run without a sandbox: %s.", why, extra={"verb": "no_sandbox"})


def sandboxed(
    argv: Sequence[str], options: ShellOptions, workspace: Path, exchange: Path, hidden: Iterable[Path]
) -> list[str]:
    """Return the command that runs `argv` in the sandbox. The paths in `hidden` must not be seen there."""
    program = find_bwrap() or "bwrap"
    newer = _newer.get(program, True)
    return [
        program,
        *_namespaces(network=options.network, newer=newer),
        *_mounts(options, hidden, newer=newer),
        *["--ro-bind", str(exchange), str(EXCHANGE)],
        *["--bind", str(workspace), str(workspace), "--chdir", str(workspace)],
        *["--remount-ro", "/"],
        "--",
        *argv,
    ]


def _namespaces(*, network: bool, newer: bool) -> list[str]:
    return [
        *["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"],
        *([] if network else ["--unshare-net"]),
        # Otherwise a program inside could become root of a namespace, and reach more of the kernel.
        *(["--disable-userns"] if newer else []),
        *["--hostname", "sandbox", "--die-with-parent", "--cap-drop", "ALL"],
    ]


def _mounts(options: ShellOptions, hidden: Iterable[Path], *, newer: bool) -> list[str]:
    argv: list[str] = []
    for place in SYSTEM:
        if os.path.islink(place):
            argv += ["--symlink", os.readlink(place), place]
        elif os.path.isdir(place):
            argv += ["--ro-bind", place, place]
    for name in ETC:
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    size = ["--size", str(options.tmp_bytes)] if newer else []
    argv += ["--proc", "/proc"]
    # If the worker is root, these would be writable even without a capability.
    for place in ("/proc/sys", "/proc/sysrq-trigger"):
        argv += ["--ro-bind-try", place, place]
    argv += ["--dev", "/dev", *size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    argv += [*size, "--tmpfs", "/tmp", "--dir", "/run", "--dir", "/var", "--symlink", "../tmp", "/var/tmp"]
    for place in options.readable:
        argv += ["--ro-bind", place, place]
    shown = [Path(place) for place in (*SYSTEM, *options.readable)]
    for path in hidden:
        # A path above a shown place cannot be hidden without hiding that place too.
        if any(path.is_relative_to(place) and path != place for place in shown) and path.is_dir():
            argv += ["--tmpfs", str(path), "--remount-ro", str(path)]
    return argv


def limits_script(options: ShellOptions, *, sandbox: bool) -> str:
    """Return the script with which bash limits itself, and all processes that it starts, for good."""
    kib = 1024
    limits = {
        "c": 0,
        "t": options.cpu_seconds,
        "d": options.memory_bytes and max(1, options.memory_bytes // kib),
        # Outside a sandbox the kernel counts all processes of the worker's user, and none for root.
        "u": options.processes if sandbox else None,
        "f": options.file_bytes and max(1, options.file_bytes // kib),
        "n": options.open_files,
    }
    return "".join(f"ulimit -{letter} {value}\n" for letter, value in limits.items() if value is not None)
