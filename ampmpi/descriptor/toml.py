"""Descriptor files: a `Gaussian` written down in TOML.

Short form, with Amp's default functions::

    cutoff = 6.5
    elements = ["Cu", "Pt"]       # may be left out: those of the images

Long form::

    [cutoff]
    name = "Polynomial"
    Rc = 6.5
    gamma = 4

    [[Gs.Cu]]                     # [[Gs]] alone: the same for every element
    type = "G2"
    element = "Pt"
    eta = 0.05

    [[make]]                      # or every combination of these, for each element
    type = "G4"
    etas = [0.005]
    zetas = [1, 4]
    gammas = [1, -1]
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DescriptorError
from .cutoffs import Cutoff, as_cutoff, cutoff_from_arguments
from .settings import Settings
from .symmetry_functions import SymmetryFunction, check_element, make_symmetry_functions

_T = TypeVar("_T")

_KEYS = ("descriptor", "cutoff", "elements", "Gs", "make")
_MAKE_KEYS = ("type", "etas", "offsets", "zetas", "gammas")


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises
    ------
    DescriptorError
        When the file cannot be read; the message starts with its name.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DescriptorError(f"{path}: cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DescriptorError(f"{path}: is not TOML ({error}).") from error
    except (RecursionError, ValueError) as error:  # thousands of brackets, or of digits
        raise DescriptorError(f"{path}: cannot be read as TOML ({error}).") from error


def parse_toml(path: str | Path, parse: Callable[[dict[str, Any]], _T]) -> _T:
    """Return what `parse` makes of the content of a TOML file.

    Raises
    ------
    DescriptorError
        When the file cannot be read, or `parse` finds something wrong in it; the message starts
        with the file's name.
    """
    content = read_toml(path)
    try:
        return parse(content)
    except DescriptorError as error:
        raise DescriptorError(f"{path}: {error}") from error


def read_settings(path: str | Path) -> Settings:
    """Read the settings of a `Gaussian` from a TOML file.

    Raises
    ------
    DescriptorError
        When the file cannot be read or anything in it is wrong; the message
        starts with the file's name.
    """
    return parse_toml(path, _settings)


def write_settings(settings: Settings, remarks: Iterable[str] = ()) -> str:
    """Return the text of a TOML file that `read_settings` reads; a function on each line.

    Parameters
    ----------
    settings : Settings
        Complete settings.
    remarks : iterable of str
        Lines of comment at the top.
    """
    lines = [f"# {remark}".rstrip() for remark in remarks]
    cutoff = settings.cutoff.todict()
    lines += ["[cutoff]", f"name = {as_toml(cutoff['name'])}"]
    lines += [f"{key} = {as_toml(value)}" for key, value in cutoff["kwargs"].items()]
    lines += ["", "[Gs]"]
    for element, functions in settings.by_element.items():
        lines.append(f"{element} = [")
        for function in functions:
            pairs = (f"{key} = {as_toml(value)}" for key, value in function.items())
            lines.append(f"    {{ {', '.join(pairs)} }},")
        lines.append("]")
    return "\n".join([*lines, ""])


def as_toml(value: Any) -> str:
    """Return a text, a number or a list of them as TOML has it; numbers keep every bit."""
    if isinstance(value, list):
        return f"[{', '.join(as_toml(item) for item in value)}]"
    return f'"{value}"' if isinstance(value, str) else repr(float(value))


def _settings(content: dict[str, Any]) -> Settings:
    if unknown := sorted(set(content) - set(_KEYS)):
        raise DescriptorError(f"there is no key {unknown[0]!r}: use {', '.join(_KEYS)}.")
    if content.get("descriptor", "Gaussian") != "Gaussian":
        raise DescriptorError(f"descriptor is {content['descriptor']!r}, and not Gaussian.")
    if "cutoff" not in content:
        raise DescriptorError("the cutoff is missing: add, for example, cutoff = 6.5.")
    if "Gs" in content and "make" in content:
        raise DescriptorError("Gs and make exclude each other: keep one of them.")
    elements = content.get("elements")
    Gs = _made(content["make"], elements) if "make" in content else content.get("Gs")
    return Settings.from_arguments(cutoff_from_toml(content["cutoff"]), Gs, elements)


def cutoff_from_toml(value: Any) -> Cutoff:
    """Return the cutoff of a number, or of a table with its name and arguments."""
    if not isinstance(value, Mapping) or "kwargs" in value:
        return as_cutoff(value)
    arguments = {key: item for key, item in value.items() if key != "name"}
    return cutoff_from_arguments(value.get("name", "Cosine"), arguments)


def _made(tables: Any, elements: Any) -> list[SymmetryFunction]:
    if not isinstance(elements, list):
        raise DescriptorError('make needs the elements: add, for example, elements = ["Cu"].')
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise DescriptorError("make is not a list of tables: write [[make]].")
    symbols = list(dict.fromkeys(check_element(element, "elements") for element in elements))
    functions = []
    for number, table in enumerate(tables):
        where = f"[[make]] number {number}"
        if unknown := sorted(set(table) - set(_MAKE_KEYS)):
            raise DescriptorError(
                f"{where} has the key {unknown[0]!r}: use {', '.join(_MAKE_KEYS)}."
            )
        for key in ("type", "etas"):
            if key not in table:
                raise DescriptorError(f"{where} lacks {key!r}.")
        if wrong := [key for key in _MAKE_KEYS[1:] if not isinstance(table.get(key, []), list)]:
            raise DescriptorError(f"{wrong[0]} of {where} is not a list: write {wrong[0]} = [...].")
        functions += make_symmetry_functions(symbols, **table)
    return functions
