"""Units that an ASE database states in its metadata, as those of SchNetPack do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ampmpi.errors import ImageFileError
from ampmpi.images.labels import meaning
from ampmpi.images.units import ENERGIES, LENGTHS, Units, unit_named
from ampmpi.text import plain


def stored_units(path: str) -> Units | None:
    """Return the units that a database states for its energies and lengths; None for none.

    Raises
    ------
    ImageFileError
        They are not known, or do not agree with each other.
    """
    from ase.db import connect

    database: Any = connect(path, use_lock_file=False, serial=True)  # type: ignore[no-untyped-call]
    stated = database.metadata.get("_property_unit_dict")
    if not isinstance(stated, Mapping):
        return None
    length = _known(path, "lengths", database.metadata.get("_distance_unit") or "Å", LENGTHS)
    energies = {
        _known(path, _quoted(name), unit, ENERGIES)
        for name, unit in stated.items()
        if (said := meaning(str(name))) is not None and said.kind == "energy"
    }
    if not energies:
        return None
    if len(energies) > 1:
        raise ImageFileError(
            f"{path} states several units for its energies, {' and '.join(sorted(energies))}: give "
            "that of the energies you want with --units"
        )
    units = Units(length, energies.pop())
    for name, unit in stated.items():
        said = meaning(str(name))
        parts = [unit_named(part) for part in str(unit).rpartition("/")[::2]]
        if said is not None and said.kind == "forces" and parts != [units.energy, units.length]:
            raise ImageFileError(
                f"{path} states {plain(str(unit), 40)!r} for {_quoted(name)} and {units} for "
                "energies and lengths: write it anew with forces in these units, or give --units "
                "if it is wrong"
            )
    return units


def _known(path: str, what: str, unit: object, known: Mapping[str, float]) -> str:
    name = unit_named(str(unit))
    if name is None or name not in known:
        raise ImageFileError(
            f"{path} states the unit {plain(str(unit), 40)!r} for {what}, which is none of "
            f"{', '.join(known)}: say with --units what the numbers are"
        )
    return name


def _quoted(name: object) -> str:
    return f"'{plain(str(name), 60)}'"
