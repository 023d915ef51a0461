"""How a file is to be read, where its user knows better than ASE."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from ampmpi.errors import InputError
from ampmpi.images.labels import LabelKeys
from ampmpi.images.units import Units, parse_units, unit_in
from ampmpi.text import plain


@dataclass(frozen=True)
class Reading:
    """How files are to be read.

    Attributes
    ----------
    format : str or None
        ASE's name of the format; None lets ASE find out.
    units : Units or None
        What the numbers are; None leaves that to ASE, too.
    keys : LabelKeys
        Names of labels that the user gave: their units are those of the file.
    """

    format: str | None = None
    units: Units | None = None
    keys: LabelKeys = field(default_factory=LabelKeys)

    @classmethod
    def of(
        cls,
        format: str | None = None,
        units: str | None = None,
        keys: LabelKeys | None = None,
    ) -> Reading:
        """Return what options say.

        Raises
        ------
        InputError
            The units or the format are not known, or a name speaks of units and none are given.
        """
        from ase.io.formats import ioformats

        if format is not None and (format not in ioformats or not ioformats[format].can_read):
            raise InputError(
                f"format {format!r} is none that ASE reads; 'ase info --formats' lists them"
            )
        keys = LabelKeys() if keys is None else keys
        for kind, name in {kind: name for name, kind in keys.kinds().items()}.items():
            unit = unit_in(name)
            if units is None and unit is not None:
                raise InputError(
                    f"{kind}: the name {plain(name, 60)!r} speaks of {unit}, and without units it "
                    f"would be taken for eV and Å: give --units, such as {unit},A or {unit},Bohr, "
                    "or eV,A if that is right (units in a script)"
                )
        return cls(format, None if units is None else parse_units(units), keys)

    @property
    def is_default(self) -> bool:
        """Whether everything is left to ASE."""
        return self.format is None and self.units is None


@dataclass(frozen=True)
class ImageName(os.PathLike[str]):
    """The name of a file of images, or a pattern, with how it is to be read."""

    name: str
    reading: Reading

    def __fspath__(self) -> str:
        """Return the name."""
        return self.name

    def __str__(self) -> str:
        """Return the name."""
        return self.name


def named(names: Iterable[str | os.PathLike[str]], reading: Reading) -> list[ImageName]:
    """Return names with how their files are to be read."""
    return [ImageName(os.fspath(name), reading) for name in names]
