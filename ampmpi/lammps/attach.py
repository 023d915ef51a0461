"""`attach`: a potential for a LAMMPS that runs, with all that it needs there."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ampmpi.calculator import Amp
from ampmpi.committee import Committee
from ampmpi.errors import InputError
from ampmpi.parallel.comm import Communicator, SerialCommunicator, as_communicator
from ampmpi.parallel.failure import agree, on_all
from ampmpi.parallel.kernels import warm_up
from ampmpi.potential import Potential

from .coupling import FIX, Coupling
from .library import lammps_errors
from .masses import elements_by_mass
from .watch import Watch

RUNS = ("command", "commands_list", "commands_string", "file")
"""Methods of LAMMPS within which atoms may move."""

Files = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def attach(
    lmp: Any,
    potential: Amp | Committee | Potential | Files,
    elements: Sequence[str] | None = None,
    watch: Watch | None = None,
) -> Coupling:
    """Let LAMMPS use a potential, instead of its ``pair_style`` and ``pair_coeff``.

    All ranks of LAMMPS call it, after the box has been made and before fixes that change
    forces. It defines ``pair_style zero`` and ``fix ampmpi``; energy and virial are in LAMMPS'
    own. After ``clear`` it is to be called again.

    Parameters
    ----------
    lmp : lammps.lammps
        LAMMPS with units metal, such as `open_lammps` returns.
    potential : Amp, Committee, Potential, or names
        A potential, or what `Committee.load` takes: a .amp file, the label of a training, or
        several of them, whose mean is used.
    elements : sequence of str, optional
        The element of each atom type. By default they are told by their masses.
    watch : Watch, optional
        What is watched. By default there is a warning of atoms outside the trained range.

    Returns
    -------
    Coupling
        To be kept; it counts what was watched.

    Raises
    ------
    InputError
        LAMMPS is not ready for it, or elements do not fit.
    ModelError
        A file is no potential.
    """
    watch = watch or Watch()
    comm = ranks_of(lmp)
    made = agree(comm, lambda: load(potential)) if _are_names(potential) else load(potential)
    chosen = on_all(comm, lambda: _check(lmp, made, elements, watch))
    if comm.size > 1:
        warm_up(comm, "ampmpi.descriptor")
        warm_up(comm, "ampmpi.model")
    _note_fixes(lmp, comm)
    with lammps_errors("attach"):
        lmp.command(f"pair_style zero {made.cutoff_radius!r}")
        lmp.command("pair_coeff * *")
        lmp.command(f"fix {FIX} all external pf/callback 1 1")
        lmp.command(f"fix_modify {FIX} energy yes virial yes")
    coupling = Coupling(lmp, made, chosen, comm, watch)
    coupling.connect()
    _watch_commands(lmp, coupling)
    return coupling


def ranks_of(lmp: Any) -> Communicator:
    """Return LAMMPS' ranks, as a communicator of our own."""
    if lmp.extract_setting("world_size") == 1:
        return SerialCommunicator()
    return as_communicator(lmp.get_mpi_comm().Dup())


def load(potential: Amp | Committee | Potential | Files) -> Potential:
    """Return the potential of calculators or of files."""
    if isinstance(potential, Potential):
        return potential
    if isinstance(potential, Amp):
        return Potential.of([potential])
    committee = potential if isinstance(potential, Committee) else Committee.load(potential)
    return Potential.of(committee.members)


def _are_names(potential: object) -> bool:
    return not isinstance(potential, Amp | Committee | Potential)


def _check(
    lmp: Any, potential: Potential, elements: Sequence[str] | None, watch: Watch
) -> list[str]:
    """Return the element of each type, or raise `InputError` if LAMMPS is not ready."""
    units = lmp.extract_global("units")
    if units != "metal":
        raise InputError(
            f"LAMMPS has units {units}, and potentials of this package are in eV and Å: "
            "begin the script with 'units metal'"
        )
    if not lmp.extract_setting("box_exist"):
        raise InputError(
            "there is no simulation box yet: put the potential behind read_data, read_restart or "
            "create_box"
        )
    if watch.spread is not None and potential.n_members < 2:
        raise InputError("a spread is of several members, and the potential has one")
    n_types = lmp.extract_setting("ntypes")
    chosen = elements_by_mass(lmp, potential.elements) if elements is None else list(elements)
    if len(chosen) != n_types:
        raise InputError(
            f"LAMMPS has {n_types} atom types, but {len(chosen)} elements are given "
            f"({', '.join(chosen)}): give one for each type, in their order"
        )
    unknown = [name for name in chosen if name not in potential.elements]
    if unknown:
        raise InputError(
            f"the potential does not know {', '.join(unknown)}: it was trained for "
            f"{', '.join(potential.elements)}"
        )
    return chosen


def _note_fixes(lmp: Any, comm: Communicator) -> None:
    """Warn of fixes that act before our forces are there."""
    earlier = [name for name in lmp.available_ids("fix") if name != FIX]
    if earlier and FIX not in lmp.available_ids("fix") and comm.rank == 0:
        sys.stderr.write(
            f"ampmpi: warning: fixes are there before the potential ({', '.join(earlier)}): any "
            "among them that changes forces, such as setforce, acts before the potential's "
            "forces are added; put the potential first\n"
        )


def _watch_commands(lmp: Any, coupling: Coupling) -> None:
    """Let this LAMMPS' methods raise what has ended a run, since its callback cannot."""
    for name in RUNS:
        original = getattr(type(lmp), name)

        def method(*arguments: Any, _original: Any = original, **keywords: Any) -> Any:
            result = _original(lmp, *arguments, **keywords)
            coupling.raise_error()
            return result

        setattr(lmp, name, functools.wraps(original)(method))
