"""What LAMMPS calls back at every step, and what is kept from one step to the next."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from ampmpi.errors import ImageError, InputError
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import exit_code, is_shared, report, share

from .kept import Kept
from .masses import doubtful_masses
from .owners import Owners, find_owners, sum_at_owners
from .watch import Tally, Watch, outside_ranges

if TYPE_CHECKING:
    from ampmpi.potential import Potential, Prediction

Array = NDArray[np.float64]

FIX = "ampmpi"
"""ID of the fix that adds our forces."""

PAIR_STYLES = ("zero", "hybrid/overlay")
"""Pair styles of LAMMPS that our forces can be added to: they provide for the ghosts."""

EXCLUSIONS = "_exclusion_group"
"""Part of the names of groups whose atoms are out of all neighbour lists; fixes make them."""

CLOSEST = 1.0e-6
"""Å; atoms closer than this lie on top of each other."""


class Coupling:
    """A potential in a running LAMMPS; made by `attach`.

    Parameters
    ----------
    lmp : lammps.lammps
        LAMMPS.
    potential : Potential
        The potential.
    elements : sequence of str
        The element of each of LAMMPS' atom types.
    comm : Communicator
        LAMMPS' ranks.
    watch : Watch
        What is watched.

    Attributes
    ----------
    error : BaseException or None
        What ended the run. It is raised when LAMMPS has come back from the command that ran.
    tally : Tally
        Atoms seen outside the trained range; the same on all ranks.
    """

    def __init__(
        self,
        lmp: Any,
        potential: Potential,
        elements: Sequence[str],
        comm: Communicator,
        watch: Watch,
    ) -> None:
        self.potential = potential
        self.watch = watch
        self.tally = Tally(potential.elements)
        self.error: BaseException | None = None
        self._lmp = lmp
        self._comm = comm
        self._mpi = comm.mpi if comm.size > 1 else None  # type: ignore[attr-defined]
        self._elements = tuple(elements)
        self._numbers = np.array([0, *(atomic_numbers[name] for name in elements)])
        self._species_of_type = np.array([-1, *potential.species_of(self._numbers[1:])])
        self._kept = Kept(potential.cutoff_radius)
        self._owners: Owners | None = None
        self._n_written = 0
        # LAMMPS keeps the bare pointer: the object has to live as long as LAMMPS.
        self._callback = lmp.FIX_EXTERNAL_CALLBACK_FUNC(self._called)

    def connect(self) -> None:
        """Tell LAMMPS' fix what to call."""
        set_callback = self._lmp.lib.lammps_set_fix_external_callback
        set_callback(self._lmp.lmp, FIX.encode(), self._callback, None)

    def raise_error(self) -> None:
        """Raise what ended the run, if anything did, and let the next one run."""
        if self.error is not None:
            error, self.error = self.error, None
            self._lmp.lib.lammps_command(self._lmp.lmp, b"timer timeout off")
            raise error

    def _called(self, _: Any, step: int, n_local: int, tag: Any, x: Any, f: Any) -> None:
        """Fill in the forces for LAMMPS; no error may leave this function."""
        try:
            if self.error is None:
                self._add_forces(step, n_local, tag, x, f)
        except BaseException as error:  # ctypes would print any error and let LAMMPS go on
            if self._comm.size > 1 and not is_shared(error):
                report(error, self._comm)
                self._comm.abort(exit_code(error))
            self.error = error
            self._lmp.force_timeout()

    def _add_forces(self, step: int, n_local: int, tag: Any, x: Any, f: Any) -> None:
        self._require_ghosts()
        n_atoms = n_local + self._lmp.extract_setting("nghost")
        tags = _view(tag, n_atoms)
        positions = _view(x[0], 3 * n_atoms).reshape(n_atoms, 3) if n_atoms else np.empty((0, 3))
        self._settle(tags, positions, n_local)
        types = _view(self._lmp.extract_atom("type"), n_atoms)
        species = self._species_of_type[types]
        look = step % self.watch.every == 0
        total, forces, outside, spread = self._evaluate(positions, species, tags, n_local, look)
        if n_local:
            _view(f[0], 3 * n_local).reshape(n_local, 3)[:] = forces
        exceeding = spread > (self.watch.spread or np.inf)
        sums = self._comm.allreduce(np.array([total, exceeding, *outside]))
        energy = ctypes.c_double(sums[0])
        self._lmp.lib.lammps_fix_external_set_energy_global(self._lmp.lmp, FIX.encode(), energy)
        if look:
            self._judge(step, sums[2:], bool(sums[1]), spread)

    def _require_ghosts(self) -> None:
        """Raise the same on all ranks where another pair style has taken the place of ours."""
        style = self._lmp.extract_global("pair_style")
        if style not in PAIR_STYLES:
            raise share(
                InputError(
                    f"pair_style {style} has replaced the potential's own, which provides for its "
                    f"neighbours: say 'unfix {FIX}' before it to go on without the potential, or "
                    "attach the potential again"
                )
            )

    def _refuse_exclusions(self) -> None:
        """Raise the same on all ranks where a fix tries out what the energy is without an atom."""
        for group in self._lmp.available_ids("group"):
            if group and EXCLUSIONS in group:  # a place may be empty
                fix = group.rpartition(":")[2]
                raise share(
                    InputError(
                        f"fix {fix} takes atoms out of neighbour lists of LAMMPS to try moves, and "
                        "the potential has a list of its own: fix gcmc and fix widom cannot be "
                        "used with it; leave the fix out"
                    )
                )

    def _begin(self) -> None:
        doubt = doubtful_masses(self._lmp, self._elements, self.potential.elements)
        if doubt is not None:
            self._warn(doubt)

    def _settle(self, tags: NDArray[Any], positions: Array, n_local: int) -> None:
        """Bring candidates and owners up to date; owners on all ranks if on any."""
        renumbered = self._kept.renumbered(tags, n_local)
        if self._comm.allreduce(np.array([float(renumbered)]))[0]:
            if len(tags) and tags.min() < 1:
                raise InputError("atoms have no IDs in LAMMPS: leave out 'atom_modify id no'")
            if self._owners is None:
                self._begin()
            self._refuse_exclusions()
            self._owners = find_owners(self._mpi, tags, n_local)
            self._kept.renumber(tags, n_local)
        self._kept.update(positions)

    def _evaluate(
        self, positions: Array, species: NDArray[np.int64], tags: Any, n_local: int, look: bool
    ) -> tuple[float, Array, Array, float]:
        """Return this rank's energy, forces on its atoms, atoms outside, and largest spread."""
        assert self._owners is not None
        n_elements = len(self.potential.elements)
        prediction = None
        forces, outside = np.zeros((len(species), 3)), np.zeros(n_elements)
        energies, virial = np.zeros(0), np.zeros((3, 3))
        if n_local:
            around = positions, self._kept.start, self._kept.candidate, species
            prediction = self.potential.evaluate_among(*around)
            if prediction.closest[2] < CLOSEST**2:
                first, second = sorted(tags[int(number)] for number in prediction.closest[:2])
                raise ImageError(f"the atoms with the IDs {first} and {second} overlap")
            forces, virial = prediction.forces, prediction.virial
            energies = prediction.energies.mean(axis=0)
            if look and self.watch.outside != "ignore":
                far = self._outside(prediction, species[:n_local])
                outside = np.bincount(species[:n_local][far], minlength=n_elements).astype(float)
        self._give_virial(virial)
        self._give_energies(energies)
        forces = sum_at_owners(self._mpi, self._owners, forces)
        spread = 0.0
        if look and self.watch.spread is not None:
            spread = self._largest_spread(positions, species, prediction)
        return float(energies.sum()), forces, outside, spread

    def _outside(self, prediction: Prediction, species: NDArray[np.int64]) -> NDArray[np.bool_]:
        far = np.zeros(len(species), bool)
        for number, features in enumerate(prediction.features):
            for ranges in self.potential.ranges(number):
                far |= outside_ranges(
                    features, species, self.potential.elements, ranges, self.watch.margin
                )
        return far

    def _largest_spread(
        self, positions: Array, species: NDArray[np.int64], prediction: Prediction | None
    ) -> float:
        from ampmpi.evaluation import atom_spreads

        assert self._owners is not None
        n_members = self.potential.n_members
        each = np.zeros((n_members, len(species), 3))
        if prediction is not None:
            each = self.potential.member_forces_among(
                positions, self._kept.start, self._kept.candidate, species, prediction
            )
        columns = each.transpose(1, 0, 2).reshape(len(species), 3 * n_members)
        summed = sum_at_owners(self._mpi, self._owners, columns)
        spreads = atom_spreads(summed.reshape(-1, n_members, 3).transpose(1, 0, 2))
        return float(spreads.max(initial=0.0))

    def _give_virial(self, virial: Array) -> None:
        """Give LAMMPS the virial; it divides by the number of ranks, and sums over them."""
        rows = -virial * self._comm.size
        values = (ctypes.c_double * 6)(*rows.flat[[0, 4, 8, 1, 2, 5]])
        self._lmp.lib.lammps_fix_external_set_virial_global(self._lmp.lmp, FIX.encode(), values)

    def _give_energies(self, energies: Array) -> None:
        """Give LAMMPS the atomic energies, which it takes at steps at which it needs them."""
        energies = np.ascontiguousarray(energies)
        pointer = energies.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
        self._lmp.lib.lammps_fix_external_set_energy_peratom(self._lmp.lmp, FIX.encode(), pointer)

    def _judge(self, step: int, outside: Array, exceeding: bool, spread: float) -> None:
        """Warn, write or stop; all ranks come to the same result."""
        if self.watch.outside != "ignore":
            self.tally.add(step, outside)
        if outside.any():
            sentence = self.tally.sentence(step, outside)
            if self.watch.outside == "stop":
                raise share(ImageError(f"{sentence}; the run is stopped as you asked"))
            if self.tally.seen == 1:
                self._warn(f"{sentence}; what is seen later is counted for the end")
        if exceeding:
            largest = max(self._comm.allgather(spread))
            sentence = (
                f"the members' forces on an atom differ by {largest:.3g} eV/Å at step {step}, "
                f"more than {self.watch.spread:g}"
            )
            if self.watch.images is None:
                raise share(ImageError(f"{sentence}; the run is stopped as you asked"))
            self._write_image(step, largest)
            if self._n_written == 1:
                self._warn(f"{sentence}; such structures are written to {self.watch.images}")

    def _write_image(self, step: int, spread: float) -> None:
        from .structures import gather_atoms, write_image

        atoms = gather_atoms(self._lmp, self._comm, self._numbers)
        self._n_written += 1
        if atoms is not None:
            atoms.info.update(step=step, forces_spread=spread)
            write_image(str(self.watch.images), atoms)

    def _warn(self, sentence: str) -> None:
        if self._comm.rank == 0:
            sys.stdout.flush()
            sys.stderr.write(f"ampmpi: warning: {sentence}\n")
            sys.stderr.flush()


def _view(pointer: Any, n: int) -> NDArray[Any]:
    """Return n numbers behind a pointer as an array, without a copy."""
    if n == 0:
        return np.empty(0, np.dtype(pointer._type_))
    address = ctypes.addressof(pointer.contents)
    return np.frombuffer((pointer._type_ * n).from_address(address), dtype=pointer._type_)
