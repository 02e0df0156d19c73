"""What of a bash outlives it: how it is reported, kept as JSON, and told to a new bash.

A report is what the function below prints after each command, with builtins only, so that it starts no
process: fields that end in NUL, since bash has no NUL in any value. What a bash that was just started has
anyway (its first report) is left out of a state, so states are small, and HOME and the like are those of the
host where the session wakes up.

Kept are the directory, the exit code, variables, functions, aliases, umask and the options of `set` and
`shopt`. Not kept: readonly variables and those that bash sets itself, traps, positional parameters, open
files, and `$_`.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Self

from ohsessions.core.runtime import JSON

REPORT_END = b"\0.\0"
"""No section and no record is a lone dot."""

REPORT_SCRIPT = r"""__ohsessions_report() {
  unset -f builtin
  builtin local __ohsessions_letter __ohsessions_name __ohsessions_names
  {
    builtin printf 'report\0%s\0%s\0%s\0' "$1" "$2" "$PWD"
    builtin umask -p; builtin printf '\0'
    builtin set +o; builtin shopt -p; builtin printf '\0'
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
  } >>REPORTS 2>/dev/null
}
"""

_RECORD = re.compile(r"declare (?P<flags>-\S+) (?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<value>=.*)?\n", re.DOTALL)

_BASHS_OWN = re.compile(
    r"_|__ohsessions_.*|BASH|BASH_.*|BASHOPTS|BASHPID|COLUMNS|COMP_.*|DIRSTACK|EPOCH.*|E?UID|FUNCNAME|FUNCNEST"
    r"|GROUPS|HISTCMD|HISTFILE|LINENO|LINES|OPTERR|OPTIND|PIPESTATUS|PPID|PROMPT_COMMAND|PS[0-3]|PWD|RANDOM"
    r"|SECONDS|SHELLOPTS|SHLVL|SRANDOM"
)

_NOT_KEPT_OPTION = re.compile(
    r".* (emacs|histexpand|history|monitor|noexec|restricted|vi|login_shell|restricted_shell)"
)


@dataclass(frozen=True, slots=True)
class Report:
    """One report of a bash. `complete` is false for one too long to be read, which has no state."""

    number: int
    status: int
    cwd: str = "/"
    umask: str = ""
    options: tuple[str, ...] = ()
    aliases: str = ""
    function_flags: tuple[str, ...] = ()
    functions: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    complete: bool = True

    @classmethod
    def parse(cls, data: bytes, *, complete: bool = True) -> Self:
        """Reads what came up to REPORT_END. Raises ValueError if somebody else wrote it."""
        fields = [field.decode(errors="replace") for field in data.split(b"\0")]
        # The last one: what somebody else wrote into the pipe may stand before it.
        start = len(fields) - 1 - fields[::-1].index("report")
        number, status, cwd = fields[start + 1 : start + 4]
        if not complete:
            return cls(int(number), int(status), cwd, complete=False)
        umask, options, aliases, flags, functions, *records = fields[start + 4 :]
        matches = filter(None, map(_RECORD.fullmatch, records))
        return cls(
            number=int(number),
            status=int(status),
            cwd=cwd,
            umask=umask.strip(),
            options=tuple(line for line in options.splitlines() if not _NOT_KEPT_OPTION.fullmatch(line)),
            aliases=aliases,
            function_flags=tuple(line for line in flags.splitlines() if not line.startswith("declare -f ")),
            functions=functions,
            variables={
                match["name"]: match[0].rstrip("\n")
                for match in matches
                if "r" not in match["flags"] and not _BASHS_OWN.fullmatch(match["name"])
            },
        )


@dataclass(frozen=True, slots=True)
class ShellState:
    """A bash as it can be told to another one: its report without what every new bash has."""

    cwd: str | None = None
    status: int = 0
    umask: str | None = None
    options: list[str] = field(default_factory=list)
    aliases: str = ""
    function_flags: list[str] = field(default_factory=list)
    functions: str = ""
    variables: list[str] = field(default_factory=list)
    unset: list[str] = field(default_factory=list)

    @classmethod
    def between(cls, first: Report, now: Report) -> Self:
        """What has changed since the first report of a bash."""
        fresh = set(first.variables.values())
        return cls(
            cwd=now.cwd,
            status=now.status,
            umask=None if now.umask == first.umask else now.umask,
            options=[line for line in now.options if line not in first.options],
            aliases=now.aliases,
            function_flags=[line for line in now.function_flags if line not in first.function_flags],
            functions=now.functions.replace(first.functions, ""),
            variables=[record for record in now.variables.values() if record not in fresh],
            unset=[name for name in first.variables if name not in now.variables],
        )

    @classmethod
    def from_json(cls, snapshot: JSON) -> Self:
        """Raises TypeError or ValueError if this is no snapshot of ours."""
        if snapshot is None:
            return cls()
        version, *_ = snapshot["version"], dict(snapshot)
        if version != 1:
            raise ValueError(f"The snapshot has version {version!r}, this program knows 1.")
        return cls(**{name: value for name, value in snapshot.items() if name != "version"})

    def to_json(self) -> dict[str, JSON]:
        return {"version": 1, **asdict(self)}

    def scripts(self) -> list[str]:
        """What a new bash has to evaluate, one after the other, at its top level.

        Apart, so that what one host lacks spoils no more than its own script; in an order in which options
        come before the functions that need them to be parsed, aliases after what they must not change, and
        `set -e` last. The directory is not among them: it may be gone.
        """
        scripts = [
            self.umask or "",
            "unset -v " + " ".join(self.unset) if self.unset else "",
            "\n".join(self.variables),
            "\n".join(line for line in self.options if line.startswith("shopt ")),
            self.functions,
            "\n".join(self.function_flags),
            self.aliases,
            "\n".join(line for line in self.options if line.startswith("set ")),
        ]
        return [script for script in scripts if script]
