"""The state of a bash that outlives it: how it is reported, kept as JSON, and restored in a new bash.

A report is the output of the script below, which runs after each command in a fork of bash. Its fields end in
NUL, since no value in bash contains NUL. A state leaves out what a newly started bash has anyway (its first
report). So states are small, and HOME and the like are those of the host where the session wakes up.

Kept are the directory, the exit codes, variables (readonly ones, too), functions, aliases, traps, umask and
the options of `set` and `shopt`. Not kept are variables that bash sets itself, positional parameters, limits,
open files, and `$_`.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from ohsessions.core.runtime import JSON

FRAME = b"\0ohsessions\0"
FRAME_END = b"\0.\0"
"""No section and no record consists of a single dot."""

REPORT_SCRIPT = r"""
    __ohsessions_options=$BASHOPTS:$SHELLOPTS
    # POSIX mode finds `unset` although a function may have that name.
    POSIXLY_CORRECT=
    unset -f builtin exec
    unset -v POSIXLY_CORRECT
    builtin enable builtin declare enable eval printf set shopt alias trap umask
    builtin printf '\0ohsessions\0report\0%s\0%s\0%s\0' "$1" "$2" "$PWD"
    builtin trap -p
    builtin trap - DEBUG ERR RETURN EXIT
    builtin set +efuvx
    builtin shopt -u extdebug nocasematch
    builtin printf '\0'; builtin printf '%s ' "${__ohsessions_statuses[@]}"
    builtin printf '\0%s\0' "$__ohsessions_options"
    builtin umask -p; builtin printf '\0'
    builtin alias -p; builtin printf '\0'
    builtin declare -F; builtin printf '\0'
    builtin declare -f; builtin printf '\0'
    for __ohsessions_letter in A B C D E F G H I J K L M N O P Q R S T U V W X Y Z \
        a b c d e f g h i j k l m n o p q r s t u v w x y z _; do
      builtin eval "__ohsessions_names=(\"\${!$__ohsessions_letter@}\")"
      for __ohsessions_name in "${__ohsessions_names[@]}"; do
        case $__ohsessions_name in (__ohsessions_*) continue; esac
        builtin declare -p -- "$__ohsessions_name"; builtin printf '\0'
      done
    done
    builtin printf '.\0'
"""
"""$1 is the number of the report, $2 the exit code of the command. The script uses only commands that nobody
can redefine and that work under any limit on open files. Functions with the names of the two builtins that
bash itself must find (`builtin`, `exec`) do not outlive their command."""

_RECORD = re.compile(r"declare (?P<flags>-\S+) (?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<value>=.*)?\n", re.DOTALL)

_BASHS_OWN = re.compile(
    r"_|__ohsessions_.*|BASH|BASH_.*|BASHOPTS|BASHPID|COLUMNS|COMP_.*|DIRSTACK|EPOCH.*|E?UID|FUNCNAME|FUNCNEST"
    r"|GROUPS|HISTCMD|HISTFILE|LINENO|LINES|OPTERR|OPTIND|PIPESTATUS|PPID|PWD|RANDOM"
    r"|SECONDS|SHELLOPTS|SHLVL|SRANDOM|TMOUT"
)
"""TMOUT is among them, as it would end a bash that waits for its next command."""

_PROMPTS = re.compile(r"PROMPT_COMMAND|PS[0-2]")
"""Bash evaluates these by itself, so they are set only during a command."""

_NOT_KEPT_OPTIONS = frozenset(
    re.findall(r"\w+", "emacs histexpand history monitor noexec restricted vi login_shell restricted_shell")
)
_COMMAND_TRAP = re.compile(r"(DEBUG|ERR|RETURN)$")
"""Traps that bash would also run for our own lines."""


@dataclass(frozen=True, slots=True)
class Report:
    """One report of a bash. `complete` is False if it was too long to be read; then it has no state."""

    number: int
    status: int
    cwd: str = "/"
    umask: str = ""
    options: frozenset[str] = frozenset()
    pipe_status: tuple[int, ...] = ()
    traps: tuple[str, ...] = ()
    """Without those that are set during commands only, which are reported separately (`command_traps`)."""
    command_traps: tuple[str, ...] = ()
    aliases: str = ""
    function_flags: tuple[str, ...] = ()
    functions: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    complete: bool = True

    @classmethod
    def parse(cls, data: bytes, *, complete: bool = True) -> Self:
        """Parse the bytes between FRAME and FRAME_END. Raise ValueError if this is no report of ours."""
        kind, *fields = [field.decode(errors="surrogateescape") for field in data.split(b"\0")]
        if kind != "report":
            raise ValueError(f"{kind!r} is no report.")
        number, status, cwd = fields[:3]
        if not complete:
            return cls(int(number), int(status), cwd, complete=False)
        traps, statuses, options, umask, aliases, flags, functions, *records = fields[3:]
        matches = filter(None, map(_RECORD.fullmatch, records))
        # The exit code of the command, then those of its last pipeline. A single program is a pipeline too.
        pipe_status = tuple(map(int, statuses.split()))[1:]
        return cls(
            number=int(number),
            status=int(status),
            cwd=cwd,
            umask=umask.strip(),
            options=frozenset(options.split(":")) - _NOT_KEPT_OPTIONS,
            pipe_status=pipe_status if len(pipe_status) > 1 else (),
            traps=tuple(line for line in parse_traps(traps) if not _COMMAND_TRAP.search(line)),
            aliases=aliases,
            function_flags=tuple(line for line in flags.splitlines() if not line.startswith("declare -f ")),
            functions=functions,
            variables={
                match["name"]: _record(match) for match in matches if not _BASHS_OWN.fullmatch(match["name"])
            },
        )


def _record(match: re.Match[str]) -> str:
    text = match[0].rstrip("\n")
    if _PROMPTS.fullmatch(match["name"]) and "r" in match["flags"]:
        # If it stayed readonly, bash would evaluate it between two commands too.
        flags = match["flags"].replace("r", "")
        text = f"declare {flags if flags != '-' else '--'} {match['name']}{match['value'] or ''}".rstrip("\n")
    return text


def parse_traps(text: str) -> list[str]:
    """Return the lines of `trap -p`, each a whole command. Skip the output of a DEBUG trap before them."""
    start = text.find("trap -- '")
    return re.findall(r"trap -- '(?:[^']|'\\'')*' \S+\n", text[start:]) if start >= 0 else []


@dataclass(frozen=True, slots=True)
class ShellState:
    """The state to restore in a new bash: a report without everything that each new bash has."""

    cwd: str | None = None
    status: int = 0
    pipe_status: list[int] = field(default_factory=list)
    umask: str | None = None
    options: list[str] = field(default_factory=list)
    traps: list[str] = field(default_factory=list)
    command_traps: list[str] = field(default_factory=list)
    aliases: str = ""
    function_flags: list[str] = field(default_factory=list)
    functions: str = ""
    variables: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    unset: list[str] = field(default_factory=list)

    @classmethod
    def between(cls, first: Report, now: Report) -> Self:
        """Return what has changed since the first report of a bash."""
        fresh = set(first.variables.values())
        new = {name: record for name, record in now.variables.items() if record not in fresh}
        return cls(
            cwd=now.cwd,
            status=now.status,
            pipe_status=list(now.pipe_status),
            umask=None if now.umask == first.umask else now.umask,
            options=[
                *(_option(name, on=True) for name in sorted(now.options - first.options)),
                *(_option(name, on=False) for name in sorted(first.options - now.options)),
            ],
            traps=list(now.traps),
            command_traps=list(now.command_traps),
            aliases=now.aliases,
            function_flags=[line for line in now.function_flags if line not in first.function_flags],
            functions=now.functions.replace(first.functions, ""),
            variables=[record for name, record in new.items() if not _PROMPTS.fullmatch(name)],
            prompts=[record for name, record in new.items() if _PROMPTS.fullmatch(name)],
            unset=[name for name in first.variables if name not in now.variables],
        )

    @classmethod
    def from_json(cls, snapshot: JSON) -> Self:
        """Return the state. Raise TypeError, ValueError or KeyError if `snapshot` is not one of ours."""
        if snapshot is None:
            return cls()
        version, *_ = snapshot["version"], dict(snapshot)
        if version != 1:
            raise ValueError(f"The snapshot has version {version!r}, this program knows 1.")
        return cls(**{name: _from_json(value) for name, value in snapshot.items() if name != "version"})

    def to_json(self) -> dict[str, JSON]:
        return {"version": 1, **{name: _to_json(value) for name, value in asdict(self).items()}}

    def scripts(self) -> list[str]:
        """Return the scripts that a new bash has to read, one after the other, at its top level.

        They are separate, so that something which a host lacks spoils only its own script. Options come
        before the functions that need them to be parsed, aliases after everything that they must not change,
        and `set -e` last. The directory is not among them: it may be gone.
        """
        scripts = [
            self.umask or "",
            "unset -v " + " ".join(self.unset) if self.unset else "",
            "\n".join(self.variables),
            "\n".join(line for line in self.options if line.startswith("shopt ")),
            self.functions,
            "\n".join(self.function_flags),
            self.aliases,
            "".join(self.traps),
            "\n".join(line for line in self.options if line.startswith("set ")),
        ]
        return [script for script in scripts if script]

    def before_command(self) -> str:
        """Return the script to read right before each command: bash has none of this between commands."""
        return "".join([*(f"{line}\n" for line in self.prompts), *self.command_traps])


def _option(name: str, *, on: bool) -> str:
    if _SET_OPTION.fullmatch(name):
        return f"set {'-' if on else '+'}o {name}"
    return f"shopt -{'s' if on else 'u'} {name}"


_SET_OPTION = re.compile(
    r"allexport|braceexpand|errexit|errtrace|functrace|hashall|ignoreeof|interactive-comments|keyword"
    r"|noclobber|noglob|nolog|notify|nounset|onecmd|physical|pipefail|posix|privileged|verbose|xtrace"
)


def _to_json(value: Any) -> JSON:
    """Return a value as JSON. Strings that are not UTF-8 become {"latin-1": the same bytes}."""
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return {"latin-1": value.encode(errors="surrogateescape").decode("latin-1")}
    return value


def _from_json(value: JSON) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if isinstance(value, dict):
        return value["latin-1"].encode("latin-1").decode(errors="surrogateescape")
    return value
