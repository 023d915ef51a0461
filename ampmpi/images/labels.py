"""Labels of images: energies, forces and stresses, under whatever name they are kept.

ASE keeps labels in the results of a calculator; programs that write extended XYZ or fill an ASE
database often give them names of their own, such as ``REF_energy`` and ``REF_forces``. A few
images are looked at to find out under which names the labels are; all images are then read
by these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import ImageError, InputError
from ampmpi.text import plain

if TYPE_CHECKING:
    from ase import Atoms

KINDS = ("energy", "forces", "stress")

VIRIAL = "virial"
"""A kind of what stands for a stress."""

NAMES = re.compile(
    r"""^(?P<before>(?:[^\s_\-.]+[_\-.\ ])*?)
    (?:(?P<energy>(?:total|tot|potential|pot|free)?[_\-\ ]?energ(?:y|ies)|etot|toten|E)
      |(?P<forces>forces?|F)
      |(?P<stress>stress)
      |(?P<virial>virials?))
    (?P<after>(?:[_\-.\ ][^\s_\-.]+)*)$""",
    re.VERBOSE | re.IGNORECASE,
)

OTHERWISE = {
    "adsorption", "atom", "atomic", "atomisation", "atomization", "band", "barrier",
    "binding", "coh",
    "cohesion", "cohesive", "constant", "constraint", "converged", "corr", "correction",
    "correlation", "cut", "cutoff", "d2", "d3", "d4", "delta", "diff", "dispersion", "err",
    "error", "exchange", "fermi", "form", "formation", "gap", "ha", "hartree", "homo", "hull",
    "initial", "interaction", "kcal", "kin", "kinetic", "kj", "local", "lumo", "mask", "max",
    "mean", "mev", "min", "old", "pred", "predicted", "prediction", "reaction", "rel", "relative",
    "relaxed", "rms", "ry", "rydberg", "self", "shift", "sigma", "site", "spread", "std", "strain",
    "surface", "thermal", "threshold", "tolerance", "uncertainty", "unit", "units", "var", "vdw",
    "weight", "zero", "zpe",
}  # fmt: skip
"""Words of names that are no labels, labels on another scale, or those of a potential."""

MEMBER = re.compile(r"member\d*")
"""The word in names of what the members of a committee predict."""

USUAL = {"numbers", "positions", "initial_magmoms", "initial_charges", "masses", "tags", "momenta"}


FLAGS = "flags"

UNNAMED = "unnamed columns"
"""Where `readers` say that atoms have columns that the file does not name."""


@dataclass(frozen=True)
class LabelKeys:
    """Names under which images carry their labels.

    Attributes
    ----------
    energy, forces, stress : str or None
        The names; None stands for ASE's own.
    """

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None

    def get(self, kind: str) -> str:
        """Return the name of one kind of label."""
        return getattr(self, kind) or kind

    def kinds(self) -> dict[str, str]:
        """Return the kind of each name that is given."""
        given = {name: kind for kind in KINDS if (name := getattr(self, kind)) is not None}
        if self.stress is not None and is_virial(self.stress):
            given[self.stress] = VIRIAL
        return given


def is_virial(name: str) -> bool:
    """Whether what has this name is a virial in eV, minus the volume times the stress."""
    return VIRIAL in name.lower()


class Meaning(NamedTuple):
    """What a name says: the kind of label, whose it is, and of what energy."""

    kind: str
    family: str
    per_atom: bool = False
    second_choice: bool = False


@lru_cache(maxsize=1024)
def meaning(name: str) -> Meaning | None:
    """Return what a name says, or None if it is not that of a label."""
    match = NAMES.match(name)
    if match is None or name in ("e", "f"):
        return None
    kind = next(kind for kind in (*KINDS, VIRIAL) if match[kind])
    core = match[kind].lower()
    before, after = (re.split(r"[_\-. ]+", match[part].lower()) for part in ("before", "after"))
    words = [word for word in (*before, *after) if word]
    per_atom = words[-2:] == ["per", "atom"] or words[-1:] in (["peratom"], ["pa"])
    if per_atom:
        del words[-2 if words[-1] == "atom" else -1 :]
    if OTHERWISE & set(words) or any(map(MEMBER.fullmatch, words)):
        return None
    family = " ".join(word for word in words if word != "total")
    second = per_atom or core.startswith("free") or core.endswith("energies") or "free" in words
    return Meaning(kind, family.removeprefix("free").strip(), per_atom, second)


def kinds_of(names: Iterable[str], keys: LabelKeys) -> dict[str, str]:
    """Return the kind of each name that is that of a label."""
    known = {name: said.kind for name in names if (said := meaning(name)) is not None}
    return known | keys.kinds()


def results_for(atoms: Atoms) -> Mapping[str, Any]:
    """Return the results of an image's calculator, if they are for its atoms as they are now."""
    results: Mapping[str, Any] = getattr(atoms.calc, "results", {})
    changes = getattr(atoms.calc, "check_state", None)
    if not results or changes is None or changes(atoms):
        return {}
    return results


def places(atoms: Atoms) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield where labels can be: the name of each place, and what is there."""
    if atoms.calc is not None:
        yield "calculator", results_for(atoms)
    yield "info", atoms.info
    yield "arrays", atoms.arrays
    for name in ("key_value_pairs", "data"):
        if isinstance(atoms.info.get(name), Mapping):
            yield name, atoms.info[name]


def lookup(atoms: Atoms, name: str) -> Any:
    """Return a value by its name, from the first place that has it; else None."""
    for _, place in places(atoms):
        value = place.get(name)
        if value is not None and not np.ma.is_masked(value):
            return value
    return None


def offers(atoms: Atoms) -> frozenset[tuple[str, str]]:
    """Return the place and name of everything that an image carries beside atoms and cell.

    What ASE found in a comment line without a value has `FLAGS` for its place.
    """
    found = {
        (FLAGS if place[name] is True else where, name)
        for where, place in places(atoms)
        for name in place
        if name not in USUAL and name not in ("key_value_pairs", "data", "unique_id")
    }
    if atoms.calc is not None and not _is_stored(atoms.calc):
        found |= {("calculator", name) for name in ("energy", "forces")}
    return frozenset(found)


def _is_stored(calculator: Any) -> bool:
    """Return whether a calculator only holds results."""
    from ase.calculators.singlepoint import SinglePointCalculator

    return isinstance(calculator, SinglePointCalculator)


@dataclass(frozen=True)
class Choice:
    """Under which names labels are, and what is to be said about that.

    Attributes
    ----------
    keys : LabelKeys
        The names.
    note : str
        A line for the user where they are not ASE's own; else empty.
    warning : str
        A line where there are other labels, too; else empty.
    carried : tuple of str
        Names of all that the images carry.
    hint : str
        Where labels are not found: what in the files may be meant for them.
    """

    keys: LabelKeys
    note: str = ""
    warning: str = ""
    carried: tuple[str, ...] = ()
    hint: str = ""

    @property
    def found(self) -> str:
        """What the images carry, in words."""
        carried = f"they carry {', '.join(self.carried) or 'nothing'}"
        return f"{carried}; {self.hint}" if self.hint else carried


def choose(
    offered: Iterable[frozenset[tuple[str, str]]],
    keys: LabelKeys,
    *,
    forces: bool = True,
    stress: bool = False,
) -> Choice:
    """Choose the names of labels, where `keys` does not name them.

    Parameters
    ----------
    offered : iterable of frozenset
        What `offers` found in some images.
    keys : LabelKeys
        Names that the user gave.
    forces, stress : bool
        Whether forces and stresses are wanted.

    Raises
    ------
    InputError
        There are several sets of labels, and none under ASE's own names; or the only forces
        belong with other energies than those that are chosen, or are gradients by their name.
    """
    if keys.forces is not None and "grad" in keys.forces.lower():
        raise InputError(
            f"{_quoted(keys.forces)} are gradients by their name, which are forces with the "
            "opposite sign: write the forces into the file under a name of their own"
        )
    union = frozenset[tuple[str, str]]().union(*offered)
    found = sorted(one for one in union if one[0] != FLAGS and one[1] != UNNAMED)
    names = sorted({name for _, name in found})
    flags = {name for place, name in union if place == FLAGS}
    words = sorted({*names, *(name for name in flags if not _is_number(name))})
    carried = tuple(plain(name, 60) for name in words[:30])
    by_kind: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for name in names:
        said = meaning(name)
        if said is not None:
            by_kind["stress" if said.kind == VIRIAL else said.kind].append(name)
    energy = keys.energy or _choose_energy(by_kind)
    family = said.family if energy and (said := meaning(energy)) else ""
    if forces and keys.forces is None:
        _check_family(energy or "energy", by_kind, family)
    wanted = {
        "energy": energy,
        "forces": keys.forces or _choose_other("forces", by_kind, family, strict=forces),
        "stress": keys.stress or _choose_other("stress", by_kind, family, strict=stress),
    }
    chosen = LabelKeys(
        **{
            kind: name if name != kind or getattr(keys, kind) else None
            for kind, name in wanted.items()
        }
    )
    note = []
    plurals = {"energy": "energies"} | ({"forces": "forces"} if forces else {})
    plurals |= {"stress": "stresses"} if stress else {}
    for kind, plural in plurals.items():
        name = chosen.get(kind)
        where = [place for place, one in found if one == name]
        if where and (name != kind or "calculator" not in where):
            note.append(f"{plural} are '{plain(name, 60)}'{_how(name, where)}")
    others = [
        name
        for name in by_kind["energy"]
        if name != chosen.get("energy") and not (meaning(name) or Meaning("", "")).second_choice
    ]
    warning = ""
    if others and keys.energy is None:
        warning = (
            f"energies are '{chosen.get('energy')}', but the images carry "
            f"{' and '.join(map(_quoted, others))}, too: --energy-key and --forces-key choose "
            "(energy_key and forces_key in a script)"
        )
    hints = []
    if chosen.get("energy") not in names and any(map(_is_number, flags)):
        hints.append("their comment lines hold numbers without a name: write energy=NUMBER there")
    if forces and chosen.get("forces") not in names and any(name == UNNAMED for _, name in union):
        hints.append(
            "their atoms have columns without a name: add "
            "Properties=species:S:1:pos:R:3:forces:R:3 to the comment lines if these are forces"
        )
    return Choice(chosen, "; ".join(note), warning, carried, "; ".join(hints))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _how(name: str, where: Sequence[str]) -> str:
    said = meaning(name)
    if said is not None and said.kind == VIRIAL:
        return ", divided by minus the volume"
    per_atom = said is not None and said.per_atom
    if per_atom and "arrays" not in where:
        return ", times the number of atoms"
    if per_atom or (said is not None and name.lower().endswith("energies")):
        return ", summed over the atoms"
    return ""


def _quoted(name: str) -> str:
    return f"'{plain(name, 60)}'"


def _choose_energy(by_kind: Mapping[str, list[str]]) -> str | None:
    energies = by_kind["energy"]
    if "energy" in energies or not energies:
        return None
    first = [name for name in energies if not (meaning(name) or Meaning("", "")).second_choice]
    # Of those that are no total energies, the free energy comes before sums and averages.
    free = [name for name in energies if "free" in name.lower()]
    chosen = first or free or energies
    if len(chosen) > 1:
        sets = "; ".join(_set_of(name, by_kind["forces"]) for name in chosen)
        raise InputError(
            f"the images carry several sets of labels, {sets}: choose one with --energy-key and "
            "--forces-key (energy_key and forces_key in a script)"
        )
    return chosen[0]


def _check_family(energy: str, by_kind: Mapping[str, list[str]], family: str) -> None:
    """Refuse forces of which the energies are others than those that are chosen."""
    families = {name: said.family for name in by_kind["forces"] if (said := meaning(name))}
    owners = {
        said.family: name
        for name in by_kind["energy"]
        if (said := meaning(name)) and said.family != family
    }
    if families and all(one != family and one in owners for one in families.values()):
        others = sorted(_quoted(owners[one]) for one in set(families.values()))
        raise InputError(
            f"energies are {_quoted(energy)}, but the only forces, "
            f"{' and '.join(map(_quoted, families))}, belong with {' and '.join(others)}: choose "
            "a set with --energy-key and --forces-key (energy_key and forces_key in a script), or "
            "train on energies alone with --no-forces (force_coefficient=None)"
        )


def _set_of(energy: str, forces: list[str]) -> str:
    family = (meaning(energy) or Meaning("", "")).family
    same = [name for name in forces if (meaning(name) or Meaning("", "")).family == family]
    return " with ".join(map(_quoted, [energy, *same[:1]]))


def _choose_other(
    kind: str, by_kind: Mapping[str, list[str]], family: str, *, strict: bool = True
) -> str | None:
    names = by_kind[kind]
    same = [name for name in names if (meaning(name) or Meaning("", "")).family == family]
    if kind in same:
        return None
    chosen = same or ([kind] if kind in names else names)
    # What has both a stress and a virial says the same twice.
    chosen = [name for name in chosen if not is_virial(name)] or chosen
    if len(chosen) > 1:
        if not strict:
            return None
        raise InputError(
            f"the images carry several {'stresses' if kind == 'stress' else kind}, "
            f"{', '.join(map(_quoted, chosen))}: choose one with "
            f"--{kind}-key ({kind}_key in a script)"
        )
    return chosen[0] if chosen else None


class LabelError(ImageError):
    """A label of one image is missing or wrong.

    Attributes
    ----------
    kind : str
        The same sentence for all images of which it is true, as in "has no energy".
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(detail or kind)
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the kind on the way to other ranks."""
        return type(self), (self.kind, str(self))


NO_ENERGY = "has no energy"
NO_FORCES = "has no forces"
NO_STRESS = "has no stress"
NO_CELL = "has a stress, but no cell with three vectors"

LACKING = {"energy": NO_ENERGY, "forces": NO_FORCES, "stress": NO_STRESS}
CALLED = {"energy": "an energy", "forces": "forces", "stress": "a stress"}

ASYMMETRY = 0.01, 1e-4
"""Largest difference of a stress from its transpose: a part of its largest component, and eV/Å³."""


def energy_of(atoms: Atoms, keys: LabelKeys) -> float:
    """Return an image's energy in eV, without that of its constraints.

    Raises
    ------
    LabelError
        It has none, or what it has is not one finite number.
    """
    name, value = keys.get("energy"), _label(atoms, "energy", keys)
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        raise LabelError("has an energy of a wrong shape") from None
    if array.dtype.kind == "c":
        raise LabelError("has a complex energy", f"has the complex energy {array.ravel()[:1]}")
    if array.dtype.kind not in "fiu":
        shown = plain(repr(value), 40)
        raise LabelError("has an energy that is not a number", f"has the energy {shown}, no number")
    said = meaning(name)
    if array.size == 1:
        energy = float(array.reshape(()))
        if said is not None and said.per_atom:
            energy *= len(atoms)
    elif array.shape == (len(atoms),):
        energy = float(array.sum())
    else:
        raise LabelError(
            "has an energy of a wrong shape",
            f"has an energy of shape {array.shape} where one number is expected",
        )
    if not np.isfinite(energy):
        raise LabelError("has an energy that is not finite", f"has the energy {energy}")
    return energy


def forces_of(atoms: Atoms, keys: LabelKeys) -> NDArray[np.float64]:
    """Return an image's forces, (n_atoms, 3), eV/Å, without those of its constraints.

    Raises
    ------
    LabelError
        It has none, or what it has is not that.
    """
    value = _label(atoms, "forces", keys)
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        raise LabelError("has forces of a wrong shape") from None
    if array.shape != (len(atoms), 3):
        raise LabelError(
            "has forces of a wrong shape",
            f"has forces of shape {array.shape} where {(len(atoms), 3)} is expected",
        )
    if array.dtype.kind not in "fiu":
        raise LabelError("has forces that are not real numbers")
    if not np.isfinite(array).all():
        raise LabelError("has forces that are not finite")
    return np.array(array, dtype=np.float64)


def stress_of(atoms: Atoms, keys: LabelKeys) -> NDArray[np.float64]:
    """Return an image's stress, (6,), eV/Å³, as ASE has it: xx, yy, zz, yz, xz, xy.

    It is the derivative of the energy by strain over the volume, without that of constraints
    and without the motion of the atoms. It may be given as 6 numbers in this order, or as a
    symmetric matrix; or as a virial in eV, minus the volume times the stress, where ``virial``
    is part of its name.

    Raises
    ------
    LabelError
        It has none, or what it has is not that.
    """
    name = keys.get("stress")
    volume = abs(float(np.linalg.det(atoms.cell.array)))
    if not volume > 0.0:
        raise LabelError(NO_STRESS if lookup(atoms, name) is None else NO_CELL)
    value = _label(atoms, "stress", keys)
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        raise LabelError("has a stress of a wrong shape") from None
    if array.shape not in ((6,), (9,), (3, 3)):
        raise LabelError(
            "has a stress of a wrong shape",
            f"has a stress of shape {array.shape} where (6,) or (3, 3) is expected",
        )
    if array.dtype.kind not in "fiu":
        raise LabelError("has a stress that is not made of real numbers")
    if not np.isfinite(array).all():
        raise LabelError("has a stress that is not finite")
    stress = np.array(array, dtype=np.float64)
    if is_virial(name):
        stress /= -volume
    if stress.size == 9:
        matrix = stress.reshape(3, 3)
        part, least = ASYMMETRY
        if np.abs(matrix - matrix.T).max() > max(part * np.abs(matrix).max(), least):
            raise LabelError("has a stress that is not symmetric")
        stress = (0.5 * (matrix + matrix.T)).ravel()[[0, 4, 8, 5, 2, 1]]
    return stress


def _label(atoms: Atoms, kind: str, keys: LabelKeys) -> Any:
    """Return what an image carries as its energy, forces or stress."""
    name = keys.get(kind)
    asked = name == kind and atoms.calc is not None
    value = _calculated(atoms, kind) if asked else lookup(atoms, name)
    kept = getattr(atoms.calc, "results", {}).get(name)
    if value is None and kept is not None and not results_for(atoms):
        what = f"has {CALLED[kind]} of other positions"
        raise LabelError(
            what,
            f"{what}: it was moved after it was calculated; compute it anew",
        )
    if value is None and asked:
        value = lookup(atoms, name)
    if value is None:
        raise LabelError(LACKING[kind])
    return value


def _calculated(atoms: Atoms, kind: str) -> Any:
    """Return what ASE has from an image's calculator; None where that cannot tell."""
    from ase.calculators.calculator import PropertyNotImplementedError

    if kind == "stress" and _is_stored(atoms.calc):  # ASE wants it to have a right shape
        return lookup(atoms, kind)
    get: Any = {
        "energy": atoms.get_potential_energy,
        "forces": atoms.get_forces,
        "stress": atoms.get_stress,
    }[kind]
    try:
        value = get(apply_constraint=False)
    except PropertyNotImplementedError:
        return None
    except RuntimeError as error:
        reason = plain(" ".join(str(error).split()))
        raise LabelError(
            "has a calculator that fails", f"has a calculator that fails: {reason}"
        ) from error
    return None if np.ma.is_masked(value) else value
