"""Access and limits of a sandboxed shell, tested with a real bash that tries to exceed them."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import uuid
from pathlib import Path

import pytest
from django.test import override_settings

from ohsessions.core.errors import RuntimeFailure
from ohsessions.programs import orphans
from ohsessions.runtimes import shell_bash, shell_guard, shell_sandbox
from ohsessions.runtimes.shell import ShellRuntime
from ohsessions.runtimes.shell_options import MIB, ShellOptions
from ohsessions.testing import RecordingContext
from tests.requirements import find_bwrap, require, wait_until
from tests.unit.shells import LIMIT, Shell

SECRET = "do-not-tell"


@pytest.fixture
async def make_shell(tmp_path):
    """Return a function that starts shells with OPTIONS, each in a session of its own."""
    shells = []
    async with RecordingContext(tmp_path) as context:

        async def make(**options) -> Shell:
            context.workspace = tmp_path / f"workspace{len(shells)}"
            shell = Shell(context, **options)
            shells.append(shell)
            await shell.start()
            return shell

        yield make
        for shell in shells:
            await shell.runtime.close()


@pytest.fixture
async def boxed(make_shell):
    require(find_bwrap)
    return await make_shell(sandbox="bwrap")


@pytest.fixture
async def bare(make_shell):
    return await make_shell(sandbox="none")


# Hidden files, processes and networks


async def test_a_sandbox_shows_nothing_of_the_site_and_of_other_sessions(boxed, tmp_path):
    (tmp_path / "workspace1").mkdir()
    places = [tmp_path / "db.sqlite3", tmp_path / "workspace1" / "file", tmp_path / "media"]
    for place in places:
        place.write_text(SECRET)
    places += [Path(__file__), Path(sys.prefix), Path("/root"), Path("/home"), Path("/var/lib"), Path("/sys")]
    for place in places:
        assert await boxed.run(f"test -e '{place}'") == (1, ""), place
    code, output = await boxed.run(f"ls -R '{tmp_path}'")
    assert (code, output) == (0, f"{tmp_path}:\nworkspace0\n\n{tmp_path}/workspace0:\n")


async def test_a_site_below_a_directory_that_is_shown_is_hidden_in_it(make_shell, tmp_path):
    require(find_bwrap)
    tools = tmp_path / "tools"
    (tools / "site" / "var").mkdir(parents=True)
    (tools / "site" / "var" / "secret_key").write_text(SECRET)
    (tools / "program").write_text("useful\n")
    with override_settings(BASE_DIR=tools / "site"):
        shell = await make_shell(sandbox="bwrap", readable=[str(tools)])
    code, output = await shell.run(f"cat {tools}/program; ls -A {tools}/site; touch {tools}/site/x")
    assert (code, output.splitlines()[0]) == (1, "useful")
    assert "secret_key" not in output
    assert "Read-only file system" in output


async def test_a_sandbox_sees_no_process_but_its_own(boxed, monkeypatch):
    code, output = await boxed.run("echo $$; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'")
    assert output.splitlines()[0] == "2"
    names = {line.partition("=")[0] for line in output.splitlines() if "=" in line}
    allowed = {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "TERM",
        "PAGER",
        "SHELL",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
    }
    assert names <= allowed
    code, output = await boxed.run(f"kill -0 {os.getpid()}")
    assert code == 1
    assert "No such process" in output


async def test_a_sandbox_reaches_no_server_of_the_host(boxed, tmp_path):
    name = f"ohsessions-{uuid.uuid4().hex}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as path,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        path.bind(str(tmp_path / "redis.sock"))
        abstract.bind(f"\0{name}")
        abstract.listen()
        port = tcp.getsockname()[1]
        code, output = await boxed.run(f"echo hello >/dev/tcp/127.0.0.1/{port}")
        assert (code, "Connection refused" in output) == (1, True)
        code, output = await boxed.run(f"test -e {tmp_path}/redis.sock || grep -c {name} /proc/net/unix")
        assert (code, output) == (1, "0\n")


async def test_a_sandbox_with_the_hosts_network_says_that_it_is_not_isolated(make_shell):
    require(find_bwrap)
    shell = await make_shell(sandbox="bwrap", network=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert await shell.run(f"echo hello >/dev/tcp/127.0.0.1/{port}") == (0, "")
    assert ShellRuntime.is_isolated({})
    assert not ShellRuntime.is_isolated({"network": True})


async def test_a_sandbox_can_write_to_its_workspace_and_its_own_tmp_only(boxed, tmp_path):
    assert await boxed.run(
        "echo kept >file; echo private >/tmp/ohsessions-test; cat /tmp/ohsessions-test"
    ) == (
        0,
        "private\n",
    )
    assert (tmp_path / "workspace0" / "file").read_text() == "kept\n"
    assert "ohsessions-test" not in os.listdir("/tmp")
    for place in ("/", "/usr", "/etc", "/dev", "/run", "/run/ohsessions", "/var", "/proc/sys/kernel"):
        assert (await boxed.run(f"echo x >{place}/ohsessions-test"))[0] == 1, place
    assert (await boxed.run("echo core >/proc/sys/kernel/core_pattern"))[0] == 1


async def test_a_sandbox_has_no_capability_and_gets_none(boxed):
    code, output = await boxed.run(
        "grep -E 'Cap(Eff|Prm|Bnd)|NoNewPrivs' /proc/self/status; unshare -Ur true"
    )
    assert code != 0
    lines = dict(line.split(":\t") for line in output.splitlines()[:4])
    assert int(lines["CapEff"], 16) == int(lines["CapPrm"], 16) == int(lines["CapBnd"], 16) == 0
    assert lines["NoNewPrivs"] == "1"


async def test_a_sandbox_cannot_signal_what_watches_it_and_nothing_of_it_is_left(make_shell, tmp_path):
    require(find_bwrap)
    mark = f"MARK_{uuid.uuid4().hex}"
    shell = await make_shell(sandbox="bwrap", env={mark: "1"})
    await shell.run("setsid sleep 1000 & kill -9 1 $PPID; kill -9 -1; setsid sleep 1000 & sleep 0")
    assert len(processes_with(mark)) >= 2
    await shell.runtime.close()
    assert processes_with(mark) == []


async def test_nothing_is_left_of_a_shell_without_a_sandbox_that_kills_its_watchdog(make_shell):
    mark = f"MARK_{uuid.uuid4().hex}"
    shell = await make_shell(sandbox="none", env={mark: "1"})
    _, output = await shell.run("setsid sleep 1000 & env -i setsid sleep 1000 & echo $!")
    code, text = await shell.run("kill -9 $PPID; sleep 1000")
    assert code == 137
    assert "a new one goes on" in text
    assert await shell.run("echo on") == (0, "on\n")
    assert len(processes_with(mark)) == 1, "the new bash"
    assert not orphans.lives(int(output))


def processes_with(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


# Shells with and without a sandbox


@pytest.mark.parametrize("sandbox", ["none", "bwrap"])
async def test_a_shell_does_its_work_with_and_without_a_sandbox(make_shell, sandbox):
    if sandbox == "bwrap":
        require(find_bwrap)
    shell = await make_shell(sandbox=sandbox)
    assert await shell.run("cd /usr; kept=1; false | true; echo out; echo err >&2") == (0, "out\nerr\n")
    await shell.run("sleep 1000 & unset(){ :; }; builtin(){ :; }")
    task = await shell.begin("echo ready; sleep 1000")
    await shell.interrupt("stopped")
    assert await task == (130, "ready\n")
    await shell.sleep_and_wake()
    assert await shell.run("pwd; echo $kept; kill -9 $$") == (
        137,
        "/usr\n1\n[bash ended with exit code 137; a new one goes on from before it]\n",
    )
    assert shell.context.workspace.stat().st_mode & 0o777 == 0o700


async def test_a_workspace_that_others_could_read_is_closed_to_them(make_shell, tmp_path):
    (tmp_path / "workspace0").mkdir(mode=0o777)
    await make_shell()
    assert (tmp_path / "workspace0").stat().st_mode & 0o777 == 0o700


async def test_a_sandbox_that_is_asked_for_and_missing_lets_no_shell_start(make_shell, monkeypatch, tmp_path):
    monkeypatch.setattr(shell_sandbox, "why_no_sandbox", lambda: "there is no bwrap: install bubblewrap")
    with pytest.raises(RuntimeFailure, match="install bubblewrap") as caught:
        await make_shell(sandbox="bwrap")
    assert caught.value.reason == "no_sandbox"


async def test_without_bubblewrap_shells_run_and_the_log_says_once_that_nothing_shuts_them_in(
    make_shell, monkeypatch, caplog
):
    monkeypatch.setattr(shell_sandbox, "why_no_sandbox", lambda: "there is no bwrap")
    shell_sandbox._warn.cache_clear()
    for _ in range(2):
        shell = await make_shell()
        assert await shell.run("echo $PPID") != (0, "1\n")
    assert caplog.text.count("Shells run without a sandbox: there is no bwrap.") == 1
    assert not ShellRuntime.is_isolated({"sandbox": "none"})


def test_a_bubblewrap_that_does_not_work_here_is_found_and_says_why(monkeypatch, tmp_path):
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(shell_sandbox, "find_bwrap", lambda: str(program))
    assert "No permissions to create new namespace" in shell_sandbox.why_no_sandbox.__wrapped__()


def test_options_that_a_shell_does_not_have_are_refused():
    with pytest.raises(ValueError, match="'memory' is no option"):
        ShellOptions.read({"memory": 5})


# Limits


@pytest.mark.parametrize("sandbox", ["none", "bwrap"])
async def test_programs_are_limited_one_by_one_for_good(make_shell, sandbox):
    if sandbox == "bwrap":
        require(find_bwrap)
    shell = await make_shell(
        sandbox=sandbox, cpu_seconds=77, memory_bytes=512 * MIB, file_bytes=5 * MIB, open_files=99
    )
    shown = "ulimit -t; ulimit -d; ulimit -f; ulimit -n; ulimit -c"
    assert await shell.run(shown) == (0, "77\n524288\n5120\n99\n0\n")
    assert await shell.run(f"ulimit -H -t; bash -c '{shown}'") == (0, "77\n77\n524288\n5120\n99\n0\n")
    code, _ = await shell.run("head -c 6M /dev/zero >file")
    assert code != 0
    assert (shell.context.workspace / "file").stat().st_size == 5 * MIB
    code, _ = await shell.run("python3 -c 'x = bytearray(600 * 1024 ** 2)'")
    assert code != 0


async def test_a_program_that_uses_up_its_time_of_the_cpu_is_killed(make_shell):
    shell = await make_shell(cpu_seconds=1)
    code, _ = await shell.run("sh -c 'while :; do :; done'")
    assert code in (137, 152), "SIGKILL or SIGXCPU"
    assert await shell.run("echo on") == (0, "on\n")


async def test_a_command_that_takes_too_long_is_stopped_with_124_and_an_error(make_shell):
    shell = await make_shell(command_seconds=1)
    await shell.run("kept=1")
    code, output = await shell.run("echo before; sleep 1000; echo after")
    assert (code, output) == (124, "before\n[stopped: it ran for 1 s]\n")
    (error,) = shell.context.observations("error")
    assert error["content"] == "The command was stopped: it ran for 1 s."
    assert await shell.run("echo $? $kept") == (0, "124 1\n")


async def test_more_processes_than_a_shell_may_have_end_its_command(make_shell, monkeypatch):
    monkeypatch.setattr(shell_guard, "WATCH_SECONDS", 0.05)
    shell = await make_shell(sandbox="none", processes=20)
    code, output = await shell.run("for i in {1..60}; do sleep 1000 & done; wait")
    assert code == 137
    assert "processes are more than 20" in output
    assert await shell.run("echo on") == (0, "on\n")


@pytest.mark.skipif(os.getuid() == 0, reason="Linux limits the processes of every user but root")
async def test_the_kernel_gives_a_sandbox_no_more_processes_than_it_may_have(make_shell):
    require(find_bwrap)
    shell = await make_shell(sandbox="bwrap", processes=20)
    _, output = await shell.run("for i in {1..60}; do sleep 0.1 & done 2>&1; wait")
    assert "Resource temporarily unavailable" in output


async def test_the_memory_of_all_programs_together_is_bounded(make_shell, monkeypatch):
    monkeypatch.setattr(shell_guard, "WATCH_SECONDS", 0.05)
    shell = await make_shell(memory_bytes=150 * MIB)
    program = "import time; x = bytearray(60 * 1024 ** 2); time.sleep(1000)"
    code, output = await shell.run(f'for i in 1 2 3; do python3 -c "{program}" & done; wait')
    assert code == 137
    assert "its programs use more than 150 MiB of memory" in output


async def test_a_full_workspace_takes_no_more_until_files_are_deleted(make_shell, monkeypatch):
    monkeypatch.setattr(shell_guard, "DISK_SECONDS", 0.05)
    monkeypatch.setattr(shell_guard, "WATCH_SECONDS", 0.05)
    shell = await make_shell(disk_bytes=5 * MIB)
    await shell.run("kept=1")
    full = "its files use more than 5 MiB of disk"
    code, output = await shell.run("while head -c 1M /dev/zero >>file; do sleep 0.01; done")
    assert code == 137
    assert f"[stopped: {full}]\n" in output
    assert f"[{full}: nothing can be written until files are deleted]\n" in output
    code, output = await shell.run("head -c 1M /dev/zero >other")
    assert code != 0
    assert (shell.context.workspace / "other").stat().st_size == 0
    code, output = await shell.run("rm file; echo $kept")
    assert (code, output) == (0, "1\n[the workspace can be written to again]\n")
    assert await shell.run("echo text >other; cat other") == (0, "text\n")


async def test_too_many_files_fill_a_workspace_as_well(make_shell, monkeypatch):
    monkeypatch.setattr(shell_guard, "DISK_SECONDS", 0)
    shell = await make_shell(disk_files=100)
    _, output = await shell.run("mkdir d; touch d/{1..200}")
    assert "files and directories are more than 100" in output
    _, output = await shell.run("rm -r d")
    assert "can be written to again" in output


async def test_jobs_that_use_too_much_between_two_commands_are_killed(make_shell, monkeypatch):
    monkeypatch.setattr(shell_guard, "WATCH_SECONDS", 0.05)
    kill = shell_bash.Bash.kill

    async def kill_late(bash: shell_bash.Bash) -> None:
        await asyncio.sleep(0.2)  # meanwhile, the next command arrives
        await kill(bash)

    monkeypatch.setattr(shell_bash.Bash, "kill", kill_late)
    shell = await make_shell(sandbox="none", processes=20)
    await shell.run("(sleep 0.3; for i in {1..60}; do sleep 1000 & done; wait) &")
    await asyncio.to_thread(wait_until, lambda: "killed" in shell.runtime._note, "the jobs' end", LIMIT)
    code, output = await shell.run("jobs -r; sleep 0.4; echo on")
    assert code == 0
    assert "[background jobs were killed: its" in output
    assert output.endswith("on\n")
