"""Names in Markdown, YAML and shell commands: whatever stands in a name, it stays a name."""

from __future__ import annotations

import re
import shlex

# What begins markup in GitHub's or the hub's Markdown, wherever it stands; `_` between letters and
# digits does not.
_MARKUP = re.compile(r"[\\`*\[\]!~$|#]|(?<![^\W_])_|_(?![^\W_])")


def text(name: str) -> str:
    """A name as one line of text that shows itself; control characters become blanks."""
    line = _MARKUP.sub(lambda found: f"\\{found[0]}", _one_line(name))
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(name: str) -> str:
    """A name as a span of code, which no backtick in it can end; in a table, no `|` either."""
    line = _one_line(name)
    if "|" in line:
        return text(name)
    ticks = "`" * (_longest(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def block(command: str) -> str:
    """A shell command as a block of code, which no backtick in it can end."""
    fence = "`" * max(3, _longest(command) + 1)
    return f"{fence}sh\n{command}\n{fence}\n"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def scalar(value: str) -> str:
    """A string in double quotes as YAML reads it back, whatever characters are in it."""
    out = [f"\\{c}" if c in '"\\' else c if c.isprintable() else _escape(c) for c in value]
    return f'"{"".join(out)}"'


def argument(word: str) -> str:
    """A word of a shell command that the shell hands on as it is."""
    if word.isprintable():
        return shlex.quote(word)
    data = word.encode("utf-8", "replace")
    plain = (chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in data)
    return f"$'{''.join(plain)}'"


def _one_line(name: str) -> str:
    return "".join(c if c.isprintable() else " " for c in name)


def _longest(line: str) -> int:
    return max((len(run) for run in re.findall("`+", line)), default=0)


def _escape(character: str) -> str:
    number = ord(character)
    if 0xD800 <= number <= 0xDFFF:  # Half of a pair, which no file may hold.
        return "\\uFFFD"
    return f"\\x{number:02x}" if number < 0x100 else f"\\U{number:08x}"
