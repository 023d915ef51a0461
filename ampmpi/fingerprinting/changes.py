"""What a user has changed in a descriptor since a database was made, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ampmpi.text import amount, plain

SHOWN = 2
"""So many functions are shown; more are counted."""


def changes(database: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Say how a database's parameters differ from those that are asked for.

    What a user sets comes first, cutoff and elements, then how many functions differ.
    """
    found = [*_cutoff(database, asked), *_elements(database, asked), *_functions(database, asked)]
    told = ("cutoff", "elements", "Gs")
    for name in sorted({*database, *asked}.difference(told)):
        found += _others(name, database.get(name), asked.get(name))
    return "; ".join(map(plain, found)) or "equal settings, other numbers"


def _pair(what: str, there: Any, here: Any) -> Iterator[str]:
    if there != here:
        yield f"{what} is {there!r} in the database, {here!r} here"


def _others(what: str, there: Any, here: Any) -> Iterator[str]:
    """Compare what other descriptors have, settings in tables one by one."""
    if not isinstance(there, Mapping) or not isinstance(here, Mapping):
        yield from _pair(what, there, here)
        return
    for name in sorted({*there, *here}):
        yield from _others(f"{what}.{name}", there.get(name), here.get(name))


def _cutoff(database: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    there, here = (_mapping(each.get("cutoff")) for each in (database, asked))
    yield from _pair("the cutoff function", there.get("name"), here.get("name"))
    there, here = _mapping(there.get("kwargs")), _mapping(here.get("kwargs"))
    for name in sorted({*there, *here}, key=lambda name: (name != "Rc", name)):
        yield from _pair(f"the cutoff's {name}", there.get(name), here.get(name))


def _elements(database: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    there, here = database.get("elements"), asked.get("elements")
    if there != here:
        yield f"the elements are {_listed(there)} in the database, {_listed(here)} here"


def _functions(database: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    there, here = (_mapping(each.get("Gs")) for each in (database, asked))
    for element in sorted({*there, *here}):
        old, new = there.get(element), here.get(element)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _others(f"Gs.{element}", old, new)  # weights of neighbours
        if old == new or not isinstance(old, list) or not isinstance(new, list):
            continue  # what only one of them has is seen from the elements
        gone = [function for function in old if function not in new]
        come = [function for function in new if function not in old]
        if not gone and not come:
            yield f"the functions of {element} are the same in another order or number"
        elif len(gone) + len(come) <= SHOWN:
            for functions, where in ((gone, "in the database only"), (come, "here only")):
                for function in functions:
                    yield f"{element} has {_brief(function)} {where}"
        elif len(old) != len(new):
            yield f"{element} has {amount(len(old), 'function')} in the database, {len(new)} here"
        else:
            yield f"{len(come)} of the {amount(len(new), 'function')} of {element} differ"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _listed(elements: Any) -> str:
    if not isinstance(elements, Sequence) or isinstance(elements, str):
        return repr(elements)
    return ", ".join(map(str, elements))


def _brief(function: Any) -> str:
    """Return a symmetry function in few words; anything else as it is."""
    if not isinstance(function, Mapping):
        return str(function)
    return " ".join(
        str(value) if key == "type" else f"{key}={value}" for key, value in function.items()
    )
