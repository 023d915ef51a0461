"""Which descriptor a file means: those of this package, and others that were made known.

A ``.amp`` file, a ``descriptor.json`` and a TOML file name descriptors, and nothing is imported
because of a name in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DescriptorError
from .gaussian import Gaussian
from .protocol import Descriptor, as_json, require_descriptor
from .toml import read_toml
from .zernike import Zernike

GAUSSIAN = ".descriptor.gaussian.Gaussian"
"""Importname where a file has none, as early ones of Amp's."""

KINDS: dict[str, Any] = {
    GAUSSIAN: Gaussian,
    ".descriptor.zernike.Zernike": Zernike,
}
"""The package's classes, each with `from_parameters` and `from_toml`, by importname."""

_OTHERS: dict[str, Descriptor] = {}


def register(descriptor: Descriptor) -> None:
    """Let this process's files mean a descriptor where they name its importname.

    Parameters
    ----------
    descriptor : Descriptor
        With all its settings; a file with others is refused.

    Raises
    ------
    DescriptorError
        It is no descriptor, or its importname is that of another one.
    """
    name = require_descriptor(descriptor).parameters.get("importname")
    if not isinstance(name, str) or not name:
        raise DescriptorError(f"the parameters of the descriptor {descriptor!r} lack importname.")
    if name in KINDS:
        if isinstance(descriptor, KINDS[name]):
            return
        raise DescriptorError(
            f"the importname {name!r} is that of {KINDS[name].__name__}: give "
            f"{descriptor!r} another one."
        )
    _OTHERS[name] = descriptor


def from_parameters(parameters: Mapping[str, Any], given: Descriptor | None = None) -> Descriptor:
    """Return the descriptor of a file's parameters.

    Parameters
    ----------
    parameters : mapping
        As `Descriptor.parameters` gives them; those of Amp's classes, too.
    given : Descriptor, optional
        The one that they are to be of; by default it is found by their importname.

    Raises
    ------
    DescriptorError
        The importname is not known, the parameters are wrong, or those of another descriptor.
    """
    name = parameters.get("importname", GAUSSIAN)
    if isinstance(name, str) and name in KINDS:
        made: Descriptor = KINDS[name].from_parameters(parameters)
        if given is not None:
            resolved = require_descriptor(given).resolve(made.elements or ())
            if resolved.digest != made.digest:
                raise DescriptorError(
                    f"the descriptor that is given, {given!r}, is another one than the file's, "
                    f"{made!r}."
                )
        return made
    known = _OTHERS.get(name) if given is None and isinstance(name, str) else given
    if known is None:
        raise DescriptorError(
            f"the descriptor {str(name)[:100]!r} is none of ampmpi's: give it, as "
            "Amp.load(file, descriptor=...) in Python or as --descriptor module:object on the "
            "command line."
        )
    require_descriptor(known)
    elements = parameters.get("elements")
    resolved = known.resolve(elements if isinstance(elements, list) else ())
    if different := _difference(parameters, resolved.parameters):
        raise DescriptorError(f"the file's descriptor is not {known!r}: {different}.")
    return resolved


def is_known(parameters: Mapping[str, Any]) -> bool:
    """Whether a file's parameters name a descriptor of this package, or a registered one."""
    name = parameters.get("importname", GAUSSIAN)
    return isinstance(name, str) and (name in KINDS or name in _OTHERS)


def from_toml(path: str | Path) -> Descriptor:
    """Return the descriptor written down in a TOML file.

    Its key `descriptor` names one of the package's classes; Gaussian where it is left out.

    Raises
    ------
    DescriptorError
        When the file cannot be read or anything in it is wrong.
    """
    classes = {name.rpartition(".")[2]: kind for name, kind in KINDS.items()}
    name = read_toml(path).get("descriptor", "Gaussian")
    if not isinstance(name, str) or name not in classes:
        raise DescriptorError(
            f"{path}: descriptor is {name!r}: a file can name {' and '.join(sorted(classes))}; "
            "another descriptor is given as --descriptor module:object."
        )
    made: Descriptor = classes[name].from_toml(path)
    return made


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any], where: str = "") -> str | None:
    """Say where two sets of parameters differ first; None if they do not."""
    # Through JSON, so that tuples are lists and a file's own kinds of numbers do not count.
    theirs, ours = json.loads(as_json(theirs)), json.loads(as_json(ours))
    for key in sorted({*theirs, *ours}):
        there, here = theirs.get(key), ours.get(key)
        if there == here:
            continue
        if isinstance(there, dict) and isinstance(here, dict):
            return _difference(there, here, f"{where}{key}.")
        return f"{where}{key} is {there!r} in the file, {here!r} here"
    return None
