"""A real bash for each session, in the session's own workspace.

It runs in a bubblewrap sandbox where that works, see ohsessions.runtimes.shell_sandbox. Otherwise it is a
shell on this host with the rights of the worker: offer it only to people who may have those rights. The
protocol describes the wire ("The runtimes that ship"). Beyond that:

- `exit`, `exec`, a failure under `set -e` and everything else that ends bash ends the command with that exit
  code. A new bash continues from the state before the command (directory, variables, functions, …), and a
  note in the output reports it. A bash that can no longer be used (`set -r`, `ulimit -n 3`) is replaced too:
  the new one continues from the state that the old one could still report. Background jobs die with their
  bash.
- Each command starts with the output of the session and an empty input, whatever `exec` made of them before.
- A hidden command emits only its exit code. Its output, and bash's messages about it, are left out.
- The output of background jobs while no command runs begins the output of the next command, limited to the
  newest 32 KiB. Such jobs keep no session awake: passivation kills them.
- `stopped` sends SIGINT to the processes that the command has started. It sends SIGKILL 2 s later, and kills
  bash 1 s after that. The exit code is 130 in any case. Jobs from before the command are left alone. `paused`
  and `running` stop the command and continue it.
- A new bash gets the state of the old one, see ohsessions.runtimes.shell_state. To wake up on another host, a
  session needs a workspace on a disk that all workers share.

OPTIONS: see ohsessions.runtimes.shell_options.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ohsessions.core.errors import RuntimeFailure
from ohsessions.core.redaction import Redactor
from ohsessions.core.runtime import JSON, Action, Runtime, RuntimeContext
from ohsessions.core.secret_settings import cut_out
from ohsessions.runtimes.shell_bash import Bash
from ohsessions.runtimes.shell_guard import KILLED, Guard
from ohsessions.runtimes.shell_opening import open_bash
from ohsessions.runtimes.shell_options import ShellOptions, mistakes
from ohsessions.runtimes.shell_output import GATHER_SECONDS, PART_BYTES, OutputBuffer
from ohsessions.runtimes.shell_sandbox import is_sandboxed, why_no_sandbox
from ohsessions.runtimes.shell_state import Report, ShellState

SHOWN_COMMAND = 8 * 1024
"""Characters of a command that are repeated with each part of its output; the action has them all."""
INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
HELP = (
    "I am a shell. I understand `run` with a `command`, which bash executes, and `change_agent_state` with "
    "`stopped`, `paused` or `running`, which interrupts the running command, holds it, or lets it go on."
)


class ShellRuntime(Runtime):
    """See the module's docstring."""

    def __init__(self, context: RuntimeContext, **options: Any) -> None:
        super().__init__(context, **options)
        self._options = ShellOptions.read(options)
        self._redactor = Redactor(cut_out(context.secrets.values()))
        self._output = OutputBuffer(self._options.output_limit, self._redactor)
        self._bash: Bash | None = None
        self._bash_writes = True
        """True if there was room in the workspace when bash was started."""
        self._state = ShellState()
        self._note = ""
        self._at_line_start = True
        self._command_runs = False
        self._stopped = False
        self._stopping: asyncio.Task[None] | None = None
        self._killing = asyncio.Lock()
        """Held while the guard kills a bash."""
        self._guard = Guard(self._options, context.workspace, lambda: self._bash, self._end_command)
        self._cut: tuple[int, str] | None = None
        """The exit code and the reason, if a limit has ended the command."""

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> Iterator[str]:
        """See Runtime.check()."""
        found = [*mistakes(options)]
        yield from found
        if not found and options.get("sandbox") == "bwrap" and (why := why_no_sandbox()):
            yield f"'sandbox' is 'bwrap', but {why}."

    @classmethod
    def is_isolated(cls, options: Mapping[str, Any]) -> bool:
        """See Runtime.is_isolated()."""
        return is_sandboxed(options)

    @classmethod
    def what_isolates(cls, options: Mapping[str, Any]) -> str:
        """Return half a sentence on what keeps these shells from the host, for people who start a server."""
        if is_sandboxed(options):
            return "in a sandbox (bubblewrap)"
        why = "the sandbox has the host's network" if options.get("network") else "`sandbox` is `none`"
        if options.get("sandbox", "auto") != "none":
            why = why_no_sandbox() or why
        return f"with the rights of this user, since {why}"

    @property
    def busy(self) -> bool:
        return self._command_runs

    async def start(self, snapshot: JSON) -> None:
        try:
            self._state = ShellState.from_json(snapshot)
        except (TypeError, ValueError, KeyError):
            self._note = "[the saved state of this shell cannot be read; it starts anew]\n"
        await self._open_bash()

    async def handle(self, action: Action) -> None:
        if action.type == "run":
            command = action.args.get("command")
            if isinstance(command, str):
                await self._run(action, command)
            else:
                await self._refuse(action, "`run` needs a `command`, a string.")
        elif action.type == "message":
            args = {"content": HELP, "image_urls": [], "wait_for_response": False}
            await self.context.emit(action="message", args=args, message=HELP, cause=action.id)
            await self.context.set_agent_state("awaiting_user_input")
        else:
            await self._refuse(action, f"{HELP} I do not understand `{action.type}`.")

    async def _refuse(self, action: Action, why: str) -> None:
        await self.context.emit(observation="error", content=why, message=why, cause=action.id)
        await self.context.set_agent_state("awaiting_user_input")

    async def interrupt(self, action: Action) -> None:
        state = action.args.get("agent_state")
        if not self._command_runs or self._stopped:
            return
        bash = self._bash if self._bash is not None and not self._bash.ended else None
        if state == "stopped":
            self._stopped = True
            if bash is not None:
                self._stopping = asyncio.create_task(bash.stop(), name="shell stop")
        elif state == "paused" and bash is not None:
            bash.pause()
            await self.context.set_agent_state("paused")
        elif state == "running" and bash is not None:
            bash.resume()
            await self.context.set_agent_state("running")

    async def secrets_changed(self, names: Collection[str]) -> None:
        self._redactor.add(cut_out(self.context.secrets.values()))

    async def passivate(self) -> JSON:
        return self._state.to_json()

    async def close(self) -> None:
        await self._guard.close()
        if self._stopping is not None:
            self._stopping.cancel()
            await asyncio.gather(self._stopping, return_exceptions=True)
        if self._bash is not None:
            await self._bash.close()
            self._bash = None

    async def _run(self, action: Action, command: str) -> None:
        self._command_runs, self._stopped, self._at_line_start = True, False, True
        self._cut = None
        self._guard.begin()
        try:
            await self.context.set_agent_state("running")
            extras = {"command": "" if action.hidden else _shown(command), "exit_code": -1}
            bash = await self._execute(action, command, extras)
            rest = self._output.end()  # taken now: the start of a new bash clears the buffer
            exit_code = await self._finish(bash)
            extras["exit_code"] = exit_code
            if self._cut is not None:
                why = f"The command was stopped: {self._cut[1]}."
                await self.context.emit(observation="error", content=why, message=why, cause=action.id)
            await self._emit(action, self._with_note(rest), extras)
        finally:
            self._command_runs = False
        await self.context.set_agent_state("awaiting_user_input")

    async def _execute(self, action: Action, command: str, extras: dict[str, JSON]) -> Bash:
        """Have a bash run the command; use another bash if the first was dead before it took the command."""
        for _ in range(2):
            bash = await self._living_bash()
            note = self._with_note("") + self._output.begin()
            if note:
                await self._emit(action, note, extras)
            if self._stopped:
                break
            bash.begin(command, self._state)
            await bash.wait_for_begin()
            await self._emit_parts(action, bash, extras)
            if bash.has_begun or self._stopped:
                break
            await bash.kill()
            self._note += "[bash did not take the command; a new one does]\n"
        return bash

    async def _emit_parts(self, action: Action, bash: Bash, extras: dict[str, JSON]) -> None:
        """Emit the output of the command while it runs, and then all full parts that are left."""
        while not bash.ended:
            await self._output.wait_until(lambda: bash.ended or len(self._output) > 0)
            await self._output.wait_until(
                lambda: bash.ended or len(self._output) >= PART_BYTES, GATHER_SECONDS
            )
            if not bash.ended:
                await self._emit_part(action, extras)
        await bash.wait_for_last_output()
        while len(self._output) > PART_BYTES:
            await self._emit_part(action, extras)

    async def _emit_part(self, action: Action, extras: dict[str, JSON]) -> None:
        text = self._output.take_part()
        if text:
            await self._emit(action, text, extras)

    async def _emit(self, action: Action, text: str, extras: dict[str, JSON]) -> None:
        self._at_line_start = text.endswith("\n") if text else self._at_line_start
        code = extras["exit_code"]
        if action.hidden:
            # bash repeats commands in its messages, and commands print their arguments.
            if code == -1:
                return
            text = ""
        message = "" if code == -1 else f"The command ended with exit code {code}."
        await self.context.emit(
            observation="run", content=text, extras=extras, message=message, cause=action.id
        )

    def _with_note(self, text: str) -> str:
        """Return the text and, on lines of their own, the notes that have gathered."""
        note, self._note = self._note, ""
        at_line_start = text.endswith("\n") if text else self._at_line_start
        return text + ("" if at_line_start or not note else "\n") + note

    async def _finish(self, bash: Bash) -> int:
        """Keep the state after a command, replace a bash that ended, and return the exit code."""
        if self._stopping is not None:
            await self._stopping
            self._stopping = None
        status = 1
        if bash.report is not None:
            status = bash.report.status
            self._keep_state(bash.first_report, bash.report)
        elif bash.exit_code is not None:
            status = bash.exit_code if bash.exit_code >= 0 else 128 - bash.exit_code
        replaced = not bash.waits or bash.report is None
        if replaced:
            self._note += _why_replaced(bash, status)
        await self._guard.ends()
        if self._guard.full:
            self._note += f"[{self._guard.full}: nothing can be written until files are deleted]\n"
        elif not self._bash_writes:
            self._note += "[the workspace can be written to again]\n"
        replaced = replaced or self._bash_writes == bool(self._guard.full)
        if self._cut is not None:
            status = self._cut[0]
            self._note += f"[stopped: {self._cut[1]}]\n"
        elif self._stopped:
            status = INTERRUPTED
        self._state = replace(self._state, status=status)
        if replaced:
            await self._open_bash()
        self.context.checkpoint(self._state.to_json())
        return status

    async def _end_command(self, status: int, why: str) -> None:
        """See Guard. A shell that uses too much dies with its bash: it may multiply faster than we count."""
        bash = self._bash
        if bash is None:
            return
        if not self._command_runs:
            self._note += f"[background jobs were killed: {why}]\n"
        elif self._cut is None:
            self._stopped, self._cut = True, (status, why)
        if status == KILLED:
            async with self._killing:
                await bash.kill()
        elif self._stopping is None:
            self._stopping = asyncio.create_task(bash.stop(), name="shell stop")

    def _keep_state(self, first: Report, last: Report) -> None:
        if last.complete:
            self._state = ShellState.between(first, last)
        else:
            self._note += "[what this shell has defined is too large to be kept; what it had before is]\n"
            self._state = replace(self._state, cwd=last.cwd)

    async def _living_bash(self) -> Bash:
        async with self._killing:
            pass  # a bash that is being killed must not take the command
        if self._bash is None or self._bash.exit_code is not None:
            self._note = self._note or "[bash had ended; a new one goes on from its last state]\n"
            return await self._open_bash()
        if self._bash_writes and self._guard.full:
            return await self._open_bash()
        return self._bash

    async def _open_bash(self) -> Bash:
        """Start a bash in the kept state or, if bash does not survive that, in a new state."""
        try:
            return await self._try_to_open_bash()
        except RuntimeFailure as failure:
            if failure.reason != "shell_broken" or self._state == ShellState():
                raise
        self._note += "[bash does not start with its last state; it starts anew]\n"
        self._state = ShellState()
        return await self._try_to_open_bash()

    async def _try_to_open_bash(self) -> Bash:
        if self._bash is not None:
            await self._bash.close()
            self._bash = None
        self._bash_writes = not self._guard.full
        self._bash, cwd = await open_bash(
            self.context, self._options, self._output, self._state, writes=self._bash_writes
        )
        wanted = self._state.cwd or cwd
        if cwd != wanted:
            self._note += f"[{_text(wanted)} cannot be entered any more; this is {_text(cwd)}]\n"
            self._state = replace(self._state, cwd=cwd)
        return self._bash


def _text(path: str) -> str:
    """Return a path as text; bytes that are not UTF-8 are replaced."""
    return path.encode(errors="surrogateescape").decode(errors="replace")


def _why_replaced(bash: Bash, status: int) -> str:
    if bash.report is not None:
        return "[bash cannot go on after this; a new one does, with what this one had defined]\n"
    if bash.exit_code is None:
        return "[bash cannot tell what it has defined; a new one goes on from before it]\n"
    return f"[bash ended with exit code {status}; a new one goes on from before it]\n"


def _shown(command: str) -> str:
    return command if len(command) <= SHOWN_COMMAND else command[:SHOWN_COMMAND] + "…"
