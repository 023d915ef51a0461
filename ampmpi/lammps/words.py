"""How LAMMPS takes an input script apart: lines, words, quotes, comments."""

from __future__ import annotations

import re
from typing import NamedTuple

TRIPLE = '"""'

_WORD = re.compile(r"""\"{3}(?P<triple>.*?)\"{3}|"(?P<double>[^"]*)"|'(?P<single>[^']*)'|[^\s#]+""",
                   re.DOTALL)  # fmt: skip


class Word(NamedTuple):
    """A word of a command: as it stands there, and without its quotes."""

    raw: str
    text: str


def logical_lines(text: str) -> list[tuple[int, str]]:
    """Return the commands of a script with the number of their first line.

    A line whose last character is & goes on in the next one, and so does one within triple
    quotes. Empty lines are left out.
    """
    found: list[tuple[int, str]] = []
    begun, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first if begun else number
        begun += line.rstrip()
        if begun.endswith("&"):
            begun = begun[:-1]
            if begun:
                continue
        if begun.count(TRIPLE) % 2:
            begun += "\n"
            continue
        if begun.strip():
            found.append((first, begun.strip()))
        begun = ""
    if begun.strip():
        found.append((first, begun.strip()))
    return found


def words_of(line: str) -> list[Word]:
    """Return the words of a command, up to its comment."""
    found: list[Word] = []
    at = 0
    while True:
        while at < len(line) and line[at].isspace():
            at += 1
        match = _WORD.match(line, at)
        if match is None:
            return found
        quoted = [one for one in match.groups() if one is not None]
        found.append(Word(match[0], quoted[0] if quoted else match[0]))
        at = match.end()
