"""The shell runtime with a real bash, and all kinds of input from people and agents."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from ohsessions.core.errors import RuntimeFailure
from ohsessions.core.redaction import Redactor
from ohsessions.programs import watchdog
from ohsessions.programs.watchdog import children
from ohsessions.runtimes import shell_bash
from ohsessions.runtimes.shell import ShellRuntime
from ohsessions.runtimes.shell_output import HELD_BYTES, PART_BYTES, OutputBuffer
from ohsessions.runtimes.shell_state import Report, ShellState
from ohsessions.testing import RecordingContext
from tests.requirements import wait_until
from tests.tasks import check_tasks
from tests.unit.shells import LIMIT, Shell


@pytest.fixture
async def shell(tmp_path):
    async with RecordingContext(tmp_path) as context:
        shell = Shell(context)
        await shell.start()
        yield shell
        await shell.runtime.close()


# Commands


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("echo hello", (0, "hello\n")),
        ("echo out; echo err >&2", (0, "out\nerr\n")),
        ("", (0, "")),
        ("# a comment", (0, "")),
        ("printf 'no newline'", (0, "no newline")),
        ("false", (1, "")),
        ("(exit 42)", (42, "")),
        ("no_such_program_at_all", (127, "bash: no_such_program_at_all: command not found\n")),
        ("sh -c 'kill -9 $$'", (137, "")),
        ("cat <<'END'\nsome $text\n\"quoted'\nEND", (0, "some $text\n\"quoted'\n")),
        ("for i in 1 2 3\ndo\n  echo $i\ndone", (0, "1\n2\n3\n")),
        ("if true; then\n echo yes\nfi", (0, "yes\n")),
        ("echo 'a!b' \"!x\" !!", (0, "a!b !x !!\n")),
        ("echo $'tab\\there' 'back\\slash' \"ä€𝄞\"", (0, "tab\there back\\slash ä€𝄞\n")),
        ("echo one \\\n  two", (0, "one two\n")),
        ("echo a\r\necho b\r", (0, "a\r\nb\r\n")),
        ("break; continue; echo on", (0, None)),
        ("return 3", (3, "")),
        ("cat; echo $?", (0, "0\n")),
        ("read line; echo $?", (0, "1\n")),
        ("[ -t 0 ] || [ -t 1 ] || echo no terminal", (0, "no terminal\n")),
        ("echo $TERM $PAGER", (0, "dumb cat\n")),
        ("exec no_such_program_at_all", (127, None)),
        ("sleep 1000 & echo done", (0, "done\n")),
        ("kill -SEGV $(sh -c 'echo $$') 2>/dev/null; echo on", (0, "on\n")),
    ],
)
async def test_a_command_has_its_output_and_its_exit_code(shell, command, result):
    code, output = await shell.run(command)
    assert code == result[0]
    assert result[1] is None or output == result[1]
    assert await shell.run("echo still there") == (0, "still there\n")


@pytest.mark.parametrize("command", ["if", "echo 'open", 'echo "open', "(", "}", "done", "${x"])
async def test_a_syntax_error_ends_with_code_2_and_a_message(shell, command):
    code, output = await shell.run(command)
    assert code == 2
    assert output.startswith("bash: ")
    assert await shell.run("echo still there") == (0, "still there\n")


@pytest.mark.parametrize("command", ["set -u; echo $nope", "echo ${nope:?is missing}", "readonly r=1; r=2"])
async def test_an_error_that_would_end_a_script_ends_the_command_only(shell, command):
    await shell.run("kept=1")
    code, output = await shell.run(f"{command}; echo not here")
    assert code != 0
    assert output.startswith("bash: ")
    assert "not here" not in output
    assert await shell.run("echo $kept") == (0, "1\n")


async def test_what_a_command_sets_is_there_for_the_next(shell):
    await shell.run(
        "cd /; a=1; export B='two words'; f() { echo \"f $1\"; }; alias hey='echo hey'; set -- x y; false"
    )
    assert await shell.run("echo $?; pwd; echo $a $#; f 1; hey you; sh -c 'echo $B'") == (
        0,
        "1\n/\n1 2\nf 1\nhey you\ntwo words\n",
    )


async def test_an_alias_works_from_the_next_line_on(shell):
    assert await shell.run("alias hey='echo hey'\nhey you") == (0, "hey you\n")


async def test_every_event_of_a_command_is_as_the_protocol_says(shell):
    await shell.run("echo hello")
    action, running, observation, waiting = shell.context.events
    assert action["id"] == observation["cause"] == 0
    assert observation == {
        "id": 2,
        "source": "agent",
        "message": "The command ended with exit code 0.",
        "cause": 0,
        "observation": "run",
        "content": "hello\n",
        "extras": {"command": "echo hello", "exit_code": 0},
    }
    assert running["extras"] == {"agent_state": "running"}
    assert waiting["extras"] == {"agent_state": "awaiting_user_input"}


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("psst", 127),
        ("export KEY=psst; echo $KEY; sleep 0.3; echo $KEY", 0),
        ("set -x; true psst; set +x", 0),
        ("psst() { return 3; }; psst", 3),
        ("cat <<< psst; exit 4", 4),
        ("for i in {1..3000}; do echo psst; done", 0),
        ("echo ${psst?psst}", None),
        ("if psst (", None),
    ],
)
async def test_of_a_hidden_command_only_the_exit_code_is_told(shell, command, code):
    action = await shell.context.act(shell.runtime, "run", hidden=True, command=command)
    told = shell.context.observations("run", action.id)
    assert [(event["content"], event["extras"]["command"]) for event in told] == [("", "")]
    assert code is None or told[0]["extras"]["exit_code"] == code
    code, output = await shell.run("echo shown")
    assert (code, output.splitlines()[-1]) == (0, "shown")
    assert "psst" not in repr(shell.context.events)


async def test_a_hidden_export_is_there_for_the_next_command(shell):
    await shell.context.act(shell.runtime, "run", hidden=True, command="export KEY=psst")
    assert await shell.run("echo ${#KEY}") == (0, "4\n")


async def test_a_very_long_command_runs_and_is_shown_shortened(shell):
    command = "cat <<'END' | wc -c\n" + 'don\'t $(stop) \\ "at" ä€\n' * 100_000 + "END"
    assert await shell.run(command) == (0, f"{len(command.encode()) - 23}\n")
    assert len(shell.context.observations("run")[0]["extras"]["command"]) < 10_000


async def test_two_hundred_commands_in_a_row_are_all_answered_rightly(shell):
    for number in range(200):
        assert await shell.run(f"echo {number}; (exit {number})") == (number, f"{number}\n")


# Output


async def test_five_megabytes_are_cut_at_the_limit_with_a_note(shell):
    code, output = await shell.run("head -c 5000000 /dev/zero | tr '\\0' x; exit_code=3; (exit 3)")
    assert code == 3
    assert (
        output
        == "x" * 1024 * 1024 + f"\n[output cut off: {5_000_000 - 1024 * 1024} more bytes are left out]\n"
    )


async def test_parts_are_small_and_together_the_whole_output(shell):
    code, output = await shell.run("seq 1 50000")
    assert (code, output) == (0, "".join(f"{number}\n" for number in range(1, 50001)))
    parts = shell.context.observations("run")
    assert max(len(part["content"]) for part in parts) <= PART_BYTES
    assert len(parts) < 2 * len(output) / PART_BYTES


async def test_output_comes_while_the_command_runs(shell):
    task = await shell.begin("echo ready; sleep 1000")
    assert not task.done()
    await shell.interrupt("stopped")
    assert await task == (130, "ready\n")


async def test_a_character_is_never_split(shell):
    text = "x" + "€" * 20_000
    script = "printf x; for i in $(seq 20); do printf '\\342'; sleep 0.12; printf '\\202\\254'; done"
    code, output = await shell.run(f"printf '%s' '{text}'; {script}")
    assert (code, output) == (0, text + "x" + "€" * 20)


async def test_what_is_no_text_is_replaced(shell):
    assert await shell.run(r"printf 'a\377b\0c\342\202'") == (0, "a\ufffdb\ufffdc\ufffd")


async def test_binary_output_ends_and_is_storable(shell):
    code, output = await shell.run("head -c 300000 /dev/urandom")
    assert code == 0
    assert "\0" not in output
    output.encode()


async def test_a_secret_is_cut_out_wherever_the_parts_split_it(tmp_path):
    async with RecordingContext(tmp_path, secrets={"llm_api_key": "sk-hunter2"}) as context:
        shell = Shell(context)
        await shell.start()
        pad = "x" * (PART_BYTES - 4)
        code, output = await shell.run(f"printf '%s' {pad}; printf sk-hun; sleep 0.3; echo ter2")
        assert (code, output) == (0, f"{pad}<secret>\n")
        await shell.runtime.close()


async def test_a_secret_that_comes_while_a_command_runs_is_cut_out_from_then_on(tmp_path):
    async with RecordingContext(tmp_path, secrets={"token": "sk-old-hunter2"}) as context:
        shell = Shell(context)
        await shell.start()
        command = "echo begun; until [ -e go ]; do sleep 0.05; done; echo sk-new"
        running = asyncio.create_task(shell.run(command))
        await context.wait_for_event(lambda event: "begun" in event.get("content", ""))
        await context.change_secrets(shell.runtime, token="sk-new")
        (context.workspace / "go").touch()
        assert await running == (0, "begun\n<secret>\n")
        assert await shell.run("echo sk-old-hunter2 sk-new") == (0, "<secret> <secret>\n")
        await shell.runtime.close()


async def test_a_background_job_holds_no_command_open_and_is_heard_with_the_next(shell):
    code, output = await shell.run("(sleep 0.2; echo late; sleep 1000) & echo early")
    assert (code, output) == (0, "early\n")
    code, output = await shell.run("sleep 0.5; echo next")
    assert (code, output) == (0, "late\nnext\n")


async def test_of_a_background_job_that_never_stops_printing_little_is_kept(shell):
    await shell.run("yes background & sleep 0.3")
    await shell.context.act(shell.runtime, "run", command="kill %1; true")
    held = shell.context.observations("run")[-1]
    code, output = await shell.run("echo quiet")
    assert code == 0
    assert output.endswith("quiet\n")
    assert len(output) < 2 * HELD_BYTES
    assert held


def test_held_output_keeps_the_newest():
    async def main():
        output = OutputBuffer(1000, Redactor([]))
        output.add(b"old" * HELD_BYTES)
        output.add(b"new")
        assert "left out" in output.begin()
        text = "".join(output.take_part() for _ in range(HELD_BYTES // PART_BYTES)) + output.end()
        assert len(text) == HELD_BYTES
        assert text.endswith("new")

    asyncio.run(main())


# The environment


async def test_nothing_of_the_servers_environment_reaches_the_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("DJANGO_SECRET_KEY", "do-not-tell")
    monkeypatch.setenv("OHSESSIONS_SECRETS_KEYS", "do-not-tell")
    async with RecordingContext(tmp_path, secrets={"llm_api_key": "tell-nobody"}) as context:
        shell = Shell(context, env={"EXTRA": "1"})
        await shell.start()
        places = "env; set; cat /proc/self/environ /proc/$$/environ /proc/$PPID/environ /proc/$PPID/cmdline"
        code, output = await shell.run(f"{places}; echo EXTRA is $EXTRA")
        assert code == 0
        assert "do-not-tell" not in output
        assert "tell-nobody" not in output
        assert "EXTRA is 1\n" in output
        await shell.runtime.close()


async def test_home_is_a_workspace_that_only_its_owner_may_enter(shell):
    workspace = shell.context.workspace
    assert await shell.run("pwd; echo ~ $HOME") == (0, f"{workspace}\n{workspace} {workspace}\n")
    assert workspace.stat().st_mode & 0o777 == 0o700


async def test_commands_have_no_file_open_but_their_three_streams(shell):
    # The last descriptor is the directory itself.
    assert await shell.run("ls /proc/self/fd") == (0, "0\n1\n2\n3\n")
    assert await shell.run("ls /proc/self/fd & wait") == (0, "0\n1\n2\n3\n")


async def test_a_host_without_bash_says_what_to_install(tmp_path):
    async with RecordingContext(tmp_path) as context:
        runtime = ShellRuntime(context, path="/nowhere")
        with pytest.raises(RuntimeFailure, match="install"):
            await runtime.start(None)
        await runtime.close()


# Bash ends


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("exit 3", 3),
        ("exec sh -c 'exit 4'", 4),
        ("kill -9 $$", 137),
        ("set -e; (exit 5)", 5),
        ("exec sleep 0", 0),
    ],
)
async def test_a_bash_that_ends_is_replaced_with_the_state_from_before(shell, command, code):
    await shell.run("cd /; kept='a b'; f() { echo f; }")
    assert await shell.run(f"kept=changed; echo bye; {command}") == (
        code,
        f"bye\n[bash ended with exit code {code}; a new one goes on from before it]\n",
    )
    assert await shell.run("echo $?; pwd; echo $kept; f") == (0, f"{code}\n/\na b\nf\n")


async def test_a_bash_that_dies_between_two_commands_is_replaced(shell):
    await shell.run("kept=1")
    os.kill(shell.pid, 9)
    await asyncio.wait_for(asyncio.wait(shell.runtime._bash._tasks), LIMIT)
    code, output = await shell.run("echo $kept")
    assert (code, output) == (0, "[bash had ended; a new one goes on from its last state]\n1\n")


async def test_a_command_that_closes_all_files_of_bash_does_not_lose_the_shell(shell):
    await shell.run("kept=1")
    await shell.run('for i in {3..300}; do eval "exec $i>&-"; done')
    code, output = await shell.run("echo $kept")
    assert (code, output.splitlines()[-1]) == (0, "1")


async def test_output_before_the_end_of_bash_is_not_lost(shell):
    code, output = await shell.run("seq 1 30000; exit 3")
    assert code == 3
    assert output.startswith("".join(f"{number}\n" for number in range(1, 30001)))


async def test_what_a_trap_prints_at_the_end_of_bash_is_not_lost(shell):
    code, output = await shell.run("trap 'echo bye' EXIT; exit 3")
    assert (code, output.splitlines()[0]) == (3, "bye")


# Bash in unusual use

CAN_GO_ON = [
    "PROMPT_COMMAND='read -t 0.2 x'",
    "PROMPT_COMMAND='cat'",
    "PS1='$(cat)'",
    "trap 'read x' DEBUG",
    "trap 'cat' CHLD RETURN ERR",
    "set -E -T; trap 'cat' DEBUG RETURN ERR",
    "set -r",
    "ulimit -n 3",
    "alias builtin='echo B' eval='echo E' exec='echo X' '[[=echo' if=echo",
    "enable -n eval",
    "enable -n printf",
    "enable -n exec",
    "enable -n . mapfile return",
    "readonly __ohsessions_text",
    "readonly __ohsessions_done",
    "readonly PROMPT_COMMAND='read x' PS1",
    "unset(){ :; }; builtin(){ :; }",
    "exec(){ :; }; eval(){ :; }; trap(){ :; }; printf(){ :; }",
    "exec 3>&-",
    "exec 0<&- 1>&- 2>&-",
    "exec >/dev/null 2>&1",
    "set -e",
    "set -u",
    "set -f -k -C",
    "set -o posix",
    "shopt -u expand_aliases",
    "trap 'exit 7' EXIT",
    "trap '' INT",
    "TMOUT=1",
    "umask 777",
    "PATH=",
    "BASH_ARGV0=other",
    "coproc cat",
]
ENDS_BASH = [
    "shopt -s extdebug; trap false DEBUG",
    "enable -n builtin",
    "builtin(){ :; }; readonly -f builtin",
    "readonly POSIXLY_CORRECT",
    "trap 'exit 9' DEBUG",
    "trap 'exit 9' ERR; false",
]


@pytest.mark.parametrize("command", CAN_GO_ON)
async def test_whatever_is_done_to_bash_the_next_command_runs_and_finds_what_was_defined(shell, command):
    await shell.run("before=1")
    await shell.run(f"new=2; {command}")
    code, output = await shell.run("echo one $before $new")
    assert code == 0
    assert output.endswith("one 1 2\n")
    assert await shell.run("echo two") == (0, "two\n")


@pytest.mark.parametrize("command", ENDS_BASH)
async def test_a_bash_that_cannot_tell_its_state_is_replaced_at_once_by_one_from_before(shell, command):
    await shell.run("before=1")
    _, output = await shell.run(f"new=2; {command}")
    assert "a new one" in output
    assert await shell.run("echo one $before $new") == (0, "one 1\n")


async def test_a_prompt_command_runs_once_for_each_command(shell):
    await shell.run("PROMPT_COMMAND='n=$((n+1))'")
    await shell.run(":")
    await shell.run(":")
    assert await shell.run("echo $n; PROMPT_COMMAND=(); unset n") == (0, "3\n")
    assert await shell.run("echo ${n-none}") == (0, "none\n")


async def test_a_debug_trap_sees_the_users_commands_and_none_of_ours(shell):
    await shell.run("trap 'echo \"+$BASH_COMMAND\"' DEBUG")
    assert await shell.run("echo one; echo two") == (0, "+echo one\none\n+echo two\ntwo\n")
    await shell.sleep_and_wake()
    assert await shell.run("trap - DEBUG") == (0, "+trap - DEBUG\n")
    assert await shell.run("echo one") == (0, "one\n")


async def test_output_that_was_sent_away_comes_back_with_the_next_command(shell):
    assert await shell.run("exec >/dev/null; echo gone") == (0, "")
    assert await shell.run("echo back") == (0, "back\n")


async def test_exit_codes_of_a_pipeline_are_there_for_the_next_command(shell):
    await shell.run("false | (exit 3) | true")
    assert await shell.run('echo "$? ${PIPESTATUS[@]}"') == (0, "0 1 3 0\n")
    await shell.run("false | (exit 3)")
    await shell.sleep_and_wake()
    assert await shell.run('echo "$? ${PIPESTATUS[@]}"') == (0, "3 1 3\n")


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("cat <<END | cat\nno end", (0, "no end\n")),
        ("echo a | cat \\", (1, None)),
        ("echo a | # comment |", (2, None)),
        ("echo 'a |", (2, None)),
        ("echo a | cat; f()", (2, None)),
        ("x | if", (2, None)),
    ],
)
async def test_an_unfinished_command_with_a_pipe_swallows_and_prints_nothing_of_ours(shell, command, result):
    code, output = await shell.run(command)
    assert code == result[0]
    assert "ohsessions" not in output.replace("ohsessions-", "")
    if result[1] is not None:
        assert output.endswith(result[1])
    assert await shell.run("echo on") == (0, "on\n")


async def test_a_bash_whose_files_are_gone_is_replaced_and_the_command_runs(shell):
    await shell.run("kept=1")
    await shell.run('rm -r "$(dirname $(echo $__ohsessions_wait | grep -o -m 1 "/[^ ]*/reports" | head -1))"')
    code, output = await shell.run("echo $kept")
    assert (code, output.splitlines()[-1]) == (0, "1")


# Interrupts


def names_below(pid: int) -> list[bytes]:
    """Return the kernel's names of a process's children, each with a line break."""
    names = []
    for child in children(pid):
        with suppress(OSError):
            names.append(Path(f"/proc/{child}/comm").read_bytes())
    return names


@pytest.mark.parametrize(
    "command",
    [
        "sleep 1000",
        "sleep 1000; echo not here",
        "while :; do sleep 0.1; done",
        "while :; do :; done",
        # Both programs wait: a reader like cat may see its writer's end before the interrupt, and exit with
        # 0.
        "sleep 1000 | sleep 1000",
        "(sleep 1000; echo not here)",
        "x=$(sleep 1000)",
        "f() { sleep 1000; }; f; echo not here",
        "sleep 1000 & wait",
        "cat < <(sleep 1000)",
        "set -m; sleep 1000",
    ],
)
async def test_stop_interrupts_at_once_and_the_shell_keeps_its_state(shell, command):
    await shell.run("kept=1")
    pid = shell.pid
    task = await shell.begin(f"before=1; echo ready; {command}")
    if "|" in command:
        # A program that bash starts after the signal does not receive the signal.
        await asyncio.to_thread(wait_until, lambda: names_below(pid) == [b"sleep\n"] * 2, "both running")
    started_at = time.monotonic()
    await shell.interrupt("stopped")
    code, output = await task
    assert time.monotonic() - started_at < shell_bash.INTERRUPT_SECONDS
    assert (code, output) == (130, "ready\n")
    assert await shell.run("echo $? $kept $before") == (0, "130 1 1\n")
    assert shell.pid == pid, "the same bash"
    assert shell.states()[-1] == "awaiting_user_input"


async def test_stop_kills_a_program_that_ignores_it_and_keeps_the_shell(shell):
    pid = shell.pid
    task = await shell.begin("sh -c 'trap \"\" INT; echo ready; while :; do sleep 1; done'")
    await shell.interrupt("stopped")
    assert await task == (130, "ready\n")
    assert shell.pid == pid


async def test_stop_kills_a_shell_that_ignores_it_and_goes_on_from_before(shell):
    await shell.run("cd /; kept=1")
    task = await shell.begin("kept=2; trap '' INT; echo ready; while :; do sleep 1; done")
    await shell.interrupt("stopped")
    code, output = await task
    assert code == 130
    assert "a new one" in output
    assert await shell.run("pwd; echo $? $kept") == (0, "/\n0 1\n")


async def test_stop_leaves_jobs_from_before_alone(shell):
    await shell.run("python3 -c 'import time; time.sleep(1000)' & job=$!")
    task = await shell.begin("echo ready; sleep 1000")
    await shell.interrupt("stopped")
    await task
    assert await shell.run("kill -0 $job && echo alive; kill $job") == (0, "alive\n")


async def test_a_stop_that_comes_as_the_command_ends_hangs_nothing(shell):
    for number in range(30):
        task = asyncio.create_task(shell.run(f"sleep 0.00{number % 10}"))
        await asyncio.sleep(number / 5_000)
        await shell.interrupt("stopped")
        code, _ = await task
        assert code in (0, 130)
        assert await shell.run("echo next") == (0, "next\n")


async def test_a_stop_while_nothing_runs_does_nothing(shell):
    await shell.interrupt("stopped")
    await shell.interrupt("paused")
    await shell.interrupt("running")
    assert await shell.run("echo on") == (0, "on\n")
    assert shell.states() == ["running", "awaiting_user_input"]


def is_stopped(pid: int) -> bool:
    """Return whether the kernel has stopped a process until SIGCONT."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def test_a_paused_command_stands_still_until_it_may_go_on(shell):
    task = await shell.begin("sh -c 'echo ready; until [ -e go ]; do sleep 0.01; done'; echo end")
    await shell.interrupt("paused")
    assert shell.states()[-1] == "paused"
    assert shell.runtime.busy
    (shell.context.workspace / "go").touch()
    for pid in (shell.pid, *children(shell.pid)):
        await asyncio.to_thread(wait_until, lambda pid=pid: is_stopped(pid), f"process {pid} standing still")
    await shell.interrupt("running")
    assert shell.states()[-1] == "running"
    assert await task == (0, "ready\nend\n")


async def test_a_paused_command_can_be_stopped(shell):
    task = await shell.begin("echo ready; sleep 1000")
    await shell.interrupt("paused")
    await shell.interrupt("stopped")
    assert await task == (130, "ready\n")


async def test_other_agent_states_are_ignored(shell):
    task = await shell.begin("echo ready; sleep 0.2")
    for state in ("user_confirmed", "user_rejected", "nonsense"):
        await shell.interrupt(state)
    assert await task == (0, "ready\n")


# Other actions


async def test_a_message_is_answered_with_what_the_shell_understands(shell):
    await shell.context.act(shell.runtime, "message", content="hi", image_urls=[])
    answer = shell.context.events[1]
    assert (answer["source"], answer["action"], answer["cause"]) == ("agent", "message", 0)
    assert "`run`" in answer["args"]["content"]
    assert answer["args"] == {"content": answer["message"], "image_urls": [], "wait_for_response": False}


@pytest.mark.parametrize(("type", "args"), [("browse", {"url": "x"}), ("run", {}), ("run", {"command": 5})])
async def test_what_it_does_not_understand_is_answered_with_what_it_does(shell, type, args):
    await shell.context.act(shell.runtime, type, **args)
    error = shell.context.observations("error", cause=0)[0]
    assert "`run`" in error["content"]
    assert error["extras"] == {}


# State that survives passivation

HABITS = r"""
cd /usr
plain=1
export EXPORTED=$'two\nlines, a tab\t, a quote \' and "more"; $HOME `id` \\ ä€'
empty=
declare -i number=5
array=(one 'two words' $'three\nlines' [7]=seven)
declare -A map=([key]=value ['a b']=$'c\nd' ["]"]=bracket)
declare -n reference=plain
exported_function() { local x="$1"; printf '%s|' "$x" 'a  b'; cat <<END
here $x
END
}
export -f exported_function
with_glob() { case $1 in @(a|b)) echo glob;; esac; }
alias ll='ls -l' quoted="echo 'it is'"
shopt -s extglob nullglob
set -o pipefail
set -f
umask 027
unset PAGER
OLDPWD=/tmp
"""
SHOW_HABITS = r"""
pwd; cd - ; cd /usr
declare -p plain EXPORTED empty number array map reference
exported_function 'p q'; bash -c 'exported_function inner'
declare -f with_glob; alias; shopt extglob nullglob; set -o | grep -E 'pipefail|noglob|errexit'
umask; echo "${PAGER-unset}"; number=number+1; echo $number $reference
"""


async def test_all_habits_of_a_shell_survive_passivation(shell):
    await shell.run("shopt -s extglob")  # otherwise, bash cannot parse with_glob
    assert await shell.run(HABITS) == (0, "")
    before = await shell.run(f"{SHOW_HABITS}number=5; (exit 9)")
    assert before[0] == 9
    assert "here p q" in before[1]
    first_pid = shell.pid
    await shell.sleep_and_wake()
    assert shell.pid != first_pid
    assert await shell.run("echo $?") == (0, "9\n")
    assert await shell.run(f"{SHOW_HABITS}number=5; (exit 9)") == before


async def test_readonly_variables_and_traps_survive_passivation(shell):
    await shell.run("readonly P='/srv/p q'; declare -ra list=(1 2); trap 'echo got it' USR1")
    await shell.sleep_and_wake()
    assert await shell.run('echo "[$P] ${list[1]}"; kill -USR1 $$') == (0, "[/srv/p q] 2\ngot it\n")
    code, output = await shell.run("P=other")
    assert (code, output) == (1, "bash: P: readonly variable\n")


async def test_what_is_not_utf_8_survives_passivation(shell):
    await shell.run(r"mkdir $'d\377'; cd $'d\377'; f() { printf 'a\377'; }; v=$'\200'")
    await shell.run(r"eval $'g() { printf \'%s\' \'b\376\'; }'; alias h=$'printf c\375'")
    await shell.sleep_and_wake()
    show = r"[[ $PWD == */$'d\377' && $v == $'\200' ]] && echo kept; { f; g; h; } | od -An -tx1"
    assert await shell.run(show) == (0, "kept\n 61 ff 62 fe 63 fd\n")


async def test_a_snapshot_is_small_and_has_only_what_was_changed(shell):
    await shell.run("A=1")
    snapshot = await shell.runtime.passivate()
    assert snapshot == shell.context.snapshot
    assert snapshot == {
        "version": 1,
        "cwd": str(shell.context.workspace),
        "status": 0,
        "pipe_status": [],
        "umask": None,
        "options": [],
        "traps": [],
        "command_traps": [],
        "aliases": "",
        "function_flags": [],
        "functions": "",
        "variables": ['declare -- A="1"'],
        "prompts": [],
        "unset": [],
    }


async def test_a_state_is_the_same_after_many_sleeps(shell):
    await shell.run(f"shopt -s extglob\n{HABITS}")
    await shell.run(":")
    snapshot = await shell.runtime.passivate()
    for _ in range(3):
        await shell.sleep_and_wake()
        await shell.run(":")
    assert await shell.runtime.passivate() == snapshot


async def test_a_directory_that_is_gone_is_replaced_by_the_workspace(shell):
    await shell.run("mkdir place; cd place; A=1")
    workspace = shell.context.workspace
    place = workspace / "place"
    snapshot = await shell.runtime.passivate()
    place.rmdir()
    await shell.runtime.close()
    shell.runtime = ShellRuntime(shell.context)
    await shell.start(snapshot)
    code, output = await shell.run("pwd; echo $A")
    assert (code, output) == (
        0,
        f"[{place} cannot be entered any more; this is {workspace}]\n{workspace}\n1\n",
    )


@pytest.mark.parametrize("snapshot", ["nonsense", {"version": 99}, {"version": 1, "strange": 1}, [], {}])
async def test_a_snapshot_that_cannot_be_read_gives_a_new_shell_and_a_note(tmp_path, snapshot):
    async with RecordingContext(tmp_path) as context:
        shell = Shell(context)
        await shell.start(snapshot)
        code, output = await shell.run("echo on")
        assert (code, output) == (0, "[the saved state of this shell cannot be read; it starts anew]\non\n")
        await shell.runtime.close()


async def test_a_state_that_no_bash_can_live_with_gives_a_new_shell_and_a_note(tmp_path):
    async with RecordingContext(tmp_path) as context:
        shell = Shell(context)
        await shell.start(ShellState(variables=["exit 1"]).to_json())
        code, output = await shell.run("echo on")
        assert (code, output) == (0, "[bash does not start with its last state; it starts anew]\non\n")
        await shell.runtime.close()


async def test_a_state_too_large_to_keep_leaves_the_one_before(shell):
    await shell.run("small=1")
    code, output = await shell.run("cd /; small=2; large=$(head -c 6000000 /dev/zero | tr '\\0' x)")
    assert code == 0
    assert "too large to be kept" in output
    assert await shell.run("echo ${#large}") == (0, "6000000\n" + output)
    await shell.sleep_and_wake()
    assert await shell.run("pwd; echo $small ${#large}") == (0, "/\n1 0\n")


@pytest.mark.parametrize("name", ["builtin", "printf", "declare", "set", "shopt", "umask", "alias", "eval"])
async def test_a_function_named_like_a_builtin_does_not_break_the_shell(shell, name):
    await shell.run(f"kept=1; {name}() {{ echo mine; }}")
    assert await shell.run("echo on") == (0, "on\n")
    await shell.sleep_and_wake()
    assert await shell.run("echo $kept") == (0, "1\n")


async def test_traces_show_the_users_commands_only(shell):
    await shell.run("set -x")
    code, output = await shell.run("echo traced")
    assert code == 0
    assert "ohsessions" not in output
    assert output.endswith("+ echo traced\ntraced\n")


async def test_a_command_cannot_be_passed_off_as_ended(shell):
    pipe = "$(echo $__ohsessions_wait | grep -o '/[^ ]*/reports')"
    forged = r"printf '\0ohsessions\0report\0%s\0%s\0%s\0.\0' 1 2 3"
    code, output = await shell.run(f"{forged} > {pipe}; sleep 0.1; echo end; (exit 3)")
    assert (code, output) == (3, "end\n")


# Leftovers


async def test_nothing_is_left_of_a_shell(tmp_path):
    gc.collect()
    files, tasks = set(os.listdir("/proc/self/fd")), asyncio.all_tasks()
    mark = f"MARK_{uuid.uuid4().hex}"
    async with RecordingContext(tmp_path) as context:
        for end in ("", "sleep 1000 & setsid sleep 1000 &", "exit 3", "yes &"):
            shell = Shell(context, env={mark: "1"})
            await shell.start()
            await shell.run(end)
            await shell.runtime.close()
        assert context.supervisor._programs == set()
    assert set(os.listdir("/proc/self/fd")) == files
    check_tasks(tasks)
    assert not any(mark.encode() in environ for environ in environments())


def environments():
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            yield entry.read_bytes()
        except OSError:
            continue


async def test_closing_while_a_command_runs_leaves_nothing(shell):
    files = len(os.listdir("/proc/self/fd"))
    await shell.begin("echo ready; sleep 1000")
    guard = watchdog.parent(shell.pid)
    await shell.runtime.close()
    assert watchdog.parent(guard) is None
    assert len(os.listdir("/proc/self/fd")) < files


async def test_passivating_while_a_command_runs_gives_the_state_from_before(shell):
    await shell.run("A=1")
    task = await shell.begin("A=2; echo ready; sleep 1000")
    assert shell.runtime.busy
    snapshot = await shell.runtime.passivate()
    assert snapshot["variables"] == ['declare -- A="1"']
    task.cancel()


def test_a_report_that_is_none_is_refused():
    for data in (b"", b"nonsense", b"report", b"report\0x\0y\0z", b"report\x001\x002\x003"):
        with pytest.raises(ValueError):
            Report.parse(data)
