"""`run_script`: an input script of LAMMPS in which one line stands for the potential.

LAMMPS reads a script to its end before it gives control back, and a potential of ours has to be
attached in between. So commands are handed to LAMMPS one at a time, and those that decide which
command comes next (include, jump, label, next, if, quit) are followed here; their variables and
conditions are LAMMPS' own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ampmpi.errors import AmpmpiError, InputError
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree, is_shared, share

from .attach import Files, attach, load, ranks_of
from .coupling import FIX, Coupling
from .library import lammps_errors
from .watch import Watch
from .words import Word, logical_lines, words_of

STYLE = "ampmpi"
"""The pair style of the line that stands for the potential."""

EXAMPLE = f"pair_style {STYLE} Cu Pt"

BRANCH = "ampmpi_branch"
"""The variable in which LAMMPS says which branch of an if it takes."""

DEEPEST = 16
"""Scripts that include one another; LAMMPS' own limit."""


@dataclass
class _Place:
    """A script that is being followed."""

    file: str
    lines: list[tuple[int, str]]
    next: int = 0
    label: str | None = None
    """What is looked for; commands before it are passed over."""


class _Quit(Exception):
    """The script says quit, with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def run_script(lmp: Any, file: str, potential: Files, watch: Watch | None = None) -> list[Coupling]:
    """Run an input script of LAMMPS with a potential of ours.

    Parameters
    ----------
    lmp : lammps.lammps
        LAMMPS, such as `open_lammps` returns.
    file : str
        The script. Its line ``pair_style ampmpi Cu Pt``, with the element of each atom type,
        stands for the potential.
    potential : str, or several
        What `Committee.load` takes: a .amp file, the label of a training, or several of them.
    watch : Watch, optional
        What is watched.

    Returns
    -------
    list of Coupling
        One for each time that a potential was attached, in turn; they tell what was watched.

    Raises
    ------
    InputError
        The script cannot be read, a command is wrong, or no line stands for the potential.
    SystemExit
        The script said ``quit`` with a status other than 0.
    """
    comm = ranks_of(lmp)
    made = agree(comm, lambda: load(potential))
    script = _Script(lmp, comm, lambda elements: attach(lmp, made, elements, watch))
    status = 0
    try:
        script.follow(file)
    except _Quit as told:
        status = told.status
    if status:
        raise share(SystemExit(status))
    if not script.couplings:
        raise share(
            InputError(
                f"{file}: no line stands for the potential: put a line like '{EXAMPLE}' in the "
                "place of pair_style and pair_coeff, with the element of each atom type"
            )
        )
    return script.couplings


class _Script:
    def __init__(
        self, lmp: Any, comm: Communicator, potential: Callable[[list[str]], Coupling]
    ) -> None:
        self.couplings: list[Coupling] = []
        self._lmp = lmp
        self._comm = comm
        self._potential = potential
        self._ours = False
        self._places: list[_Place] = []
        self._skip_jump = False
        self._commands = {
            "include": self._include,
            "jump": self._jump,
            "label": self._label,
            "next": self._next,
            "if": self._if,
            "quit": self._quit,
            "pair_style": self._pair_style,
            "pair_coeff": self._pair_coeff,
        }

    def follow(self, file: str) -> None:
        """Run a script to its end."""
        if len(self._places) == DEEPEST:
            raise share(InputError(f"{file}: more than {DEEPEST} scripts include one another"))
        place = _Place(file, self._read(file))
        self._places.append(place)
        while place.next < len(place.lines):
            number, line = place.lines[place.next]
            place.next += 1
            where = f"{place.file}, line {number}"
            try:
                self._do(line, where)
            except AmpmpiError as error:
                if str(error).startswith(place.file) or type(error) is not InputError:
                    raise
                told = InputError(f"{where}: {error}")
                raise (share(told) if is_shared(error) else told) from error
        if place.label is not None:
            raise share(InputError(f"{place.file}: there is no line 'label {place.label}'"))
        self._places.pop()

    def _read(self, file: str) -> list[tuple[int, str]]:
        def read() -> list[tuple[int, str]]:
            try:
                return logical_lines(Path(file).read_text(encoding="utf-8"))
            except OSError as error:
                raise InputError(f"{file}: {error.strerror}; give a script of LAMMPS") from error
            except UnicodeDecodeError as error:
                raise InputError(f"{file}: this is no text; give a script of LAMMPS") from error

        return agree(self._comm, read)

    def _do(self, line: str, where: str) -> None:
        """Run one command, unless a label is looked for."""
        words = words_of(line)
        if not words or (self._places[-1].label is not None and words[0].text != "label"):
            return
        special = self._commands.get(words[0].text)
        if special is not None and words[0].text != "if":
            with lammps_errors(where):
                words = words_of(self._lmp.expand(line) or "")
        if special is None or not special(words, where):
            with lammps_errors(where):
                self._lmp.command(line)

    # Each returns whether LAMMPS is not to see the command.

    def _include(self, words: list[Word], where: str) -> bool:
        self.follow(_argument(words, where, "include FILE"))
        return True

    def _jump(self, words: list[Word], where: str) -> bool:
        file = _argument(words, where, "jump FILE LABEL")
        if self._skip_jump:
            self._skip_jump = False
            return True
        place = self._places[-1]
        if file != "SELF":
            place.file, place.lines = file, self._read(file)
        place.next = 0
        place.label = words[2].text if len(words) > 2 else None
        return True

    def _label(self, words: list[Word], where: str) -> bool:
        if self._places[-1].label == _argument(words, where, "label NAME"):
            self._places[-1].label = None
        return True

    def _next(self, words: list[Word], where: str) -> bool:
        """Go on with variables; LAMMPS removes them when they have no more values."""
        with lammps_errors(where):
            self._lmp.command(" ".join(word.raw for word in words))
        if not all(self._lmp.has_id("variable", word.text) for word in words[1:]):
            self._skip_jump = True
        return True

    def _if(self, words: list[Word], where: str) -> bool:
        conditions, branches = _branches(words, where)
        question = "if"
        for number, condition in enumerate(conditions):
            word = "then" if number == 0 else ""
            set_it = f'"variable {BRANCH} string {number}"'
            question += f"{' elif' if number else ''} {condition.raw} {word} {set_it}"
        with lammps_errors(where):
            self._lmp.command(f"variable {BRANCH} string -1")
            self._lmp.command(question)
            taken = int(self._lmp.extract_variable(BRANCH))
        for command in branches[taken]:
            self._do(command, where)
        return True

    def _quit(self, words: list[Word], where: str) -> bool:
        status = words[1].text if len(words) > 1 else "0"
        if len(words) > 2 or not status.lstrip("-").isdigit():
            raise share(InputError(f"{where}: write 'quit' or 'quit STATUS'"))
        raise _Quit(int(status))

    def _pair_style(self, words: list[Word], where: str) -> bool:
        self._ours = len(words) > 1 and words[1].text == STYLE
        if self._ours:
            elements = [word.text for word in words[2:]]
            if not elements:
                raise share(InputError(f"give the element of each atom type, as in '{EXAMPLE}'"))
            self.couplings.append(self._potential(elements))
        elif any(word.text == STYLE for word in words[2:]):
            raise share(InputError(f"the potential stands alone, as in '{EXAMPLE}'"))
        elif self._lmp.has_id("fix", FIX):
            with lammps_errors(where):  # one pair style replaces another
                self._lmp.command(f"unfix {FIX}")
        return self._ours

    def _pair_coeff(self, words: list[Word], where: str) -> bool:
        if self._ours:
            raise share(
                InputError(f"leave pair_coeff out: the elements stand in '{EXAMPLE}' alone")
            )
        return False


def _argument(words: Sequence[Word], where: str, usage: str) -> str:
    if len(words) < 2:
        raise share(InputError(f"{where}: write '{usage}'"))
    return words[1].text


def _branches(words: Sequence[Word], where: str) -> tuple[list[Word], list[list[str]]]:
    """Return the conditions of an if and the commands of each branch; the last is for none."""
    conditions: list[Word] = []
    branches: list[list[str]] = []
    for number, word in enumerate(words):
        if number == 2 and word.raw == "then":
            continue
        if number == 1 or (number > 3 and words[number - 1].raw == "elif"):
            conditions.append(word)
            branches.append([])
        elif number > 2 and word.raw == "else":
            branches.append([])
        elif number > 2 and word.raw != "elif":
            branches[-1].append(word.text)
    if len(words) < 4 or words[2].raw != "then":
        raise share(InputError(f"{where}: write 'if CONDITION then COMMAND …'"))
    if len(branches) == len(conditions):
        branches.append([])
    return conditions, branches
