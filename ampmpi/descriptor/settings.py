"""The settings of a descriptor: checked once, then frozen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..errors import DescriptorError
from .cutoffs import Cutoff, as_cutoff
from .symmetry_functions import (
    SymmetryFunction,
    canonical_functions,
    check_element,
    make_default_symmetry_functions,
)

IMPORTNAME = ".descriptor.gaussian.Gaussian"
MODE = "atom-centered"
VERSION = "2015.12"


@dataclass(frozen=True)
class Settings:
    """Cutoff, elements and symmetry functions of a descriptor.

    Attributes
    ----------
    cutoff : Cosine or Polynomial
        The cutoff function.
    elements : tuple of str, or None
        Elements that can be centres, sorted; None: those of the images.
    functions : mapping of str to list of dict, list of dict, or None
        Functions of each element; of every element; or None: Amp's defaults.
    """

    cutoff: Cutoff
    elements: tuple[str, ...] | None
    functions: Mapping[str, list[SymmetryFunction]] | list[SymmetryFunction] | None

    @classmethod
    def from_arguments(cls, cutoff: Any, Gs: Any, elements: Any) -> Settings:
        """Check the arguments of `Gaussian`; fill in the functions if the elements are known."""
        symbols = None if elements is None else check_symbols(elements)
        functions: Any = None
        if isinstance(Gs, Mapping):
            if not Gs:
                raise DescriptorError("Gs is empty: give a list of functions for each element.")
            functions = {
                check_element(element, "Gs"): canonical_functions(listed, str(element))
                for element, listed in Gs.items()
            }
            symbols = tuple(sorted(functions)) if symbols is None else symbols
        elif Gs is not None:
            functions = canonical_functions(Gs, "Gs")
        settings = cls(as_cutoff(cutoff), symbols, functions)
        return settings if symbols is None else settings.resolve(symbols)

    @property
    def complete(self) -> bool:
        """Whether elements and the functions of each are known."""
        return self.elements is not None and isinstance(self.functions, Mapping)

    def resolve(self, elements: Iterable[str]) -> Settings:
        """Return the settings with elements and functions filled in; self when complete."""
        if self.complete:
            if lacking := sorted(set(self.elements or ()) - set(self.functions or ())):
                raise DescriptorError(
                    f"Gs has no functions for {', '.join(lacking)}: give a list for each element."
                )
            return self
        symbols = self.elements or check_symbols(elements)
        if self.functions is None:
            defaults = make_default_symmetry_functions(symbols)
            functions = {
                element: canonical_functions(defaults[element], element) for element in symbols
            }
        else:
            assert isinstance(self.functions, list)
            functions = {
                element: [dict(function) for function in self.functions] for element in symbols
            }
        return replace(self, elements=symbols, functions=functions)

    @property
    def by_element(self) -> dict[str, list[SymmetryFunction]]:
        """The functions of each element; `DescriptorError` while they are not known."""
        if self.elements is None or not isinstance(self.functions, Mapping):
            raise DescriptorError(
                "the descriptor's elements are not known yet: give elements, "
                "or call resolve() with those of the images."
            )
        return {element: self.functions[element] for element in self.elements}

    def to_amp(self) -> dict[str, Any]:
        """Return Amp's parameters: plain numbers, strings, lists and dictionaries."""
        functions = self.functions
        if isinstance(functions, Mapping):
            Gs: Any = {element: _copies(listed) for element, listed in functions.items()}
        else:
            Gs = None if functions is None else _copies(functions)
        return {
            "importname": IMPORTNAME,
            "mode": MODE,
            "version": VERSION,
            "cutoff": self.cutoff.todict(),
            "Gs": Gs,
            "elements": None if self.elements is None else list(self.elements),
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 over what determines the numbers: the cutoff and each element's functions."""
        text = json.dumps([self.cutoff.todict(), self.by_element], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _copies(functions: list[SymmetryFunction]) -> list[SymmetryFunction]:
    return [
        {key: list(value) if key == "elements" else value for key, value in function.items()}
        for function in functions
    ]


def check_symbols(elements: Any) -> tuple[str, ...]:
    """Return chemical symbols, sorted and each once, or raise `DescriptorError`."""
    if isinstance(elements, str) or not isinstance(elements, Iterable):
        raise DescriptorError(f"elements is {elements!r}: give a list such as ['Cu', 'Pt'].")
    symbols = tuple(sorted({check_element(symbol, "elements") for symbol in elements}))
    if not symbols:
        raise DescriptorError("elements is empty: name at least one element.")
    return symbols


def check_parameters(
    kind: str, parameters: Mapping[str, Any], fixed: Mapping[str, str], others: set[str]
) -> None:
    """Raise `DescriptorError` unless parameters are those of a kind of descriptor.

    Where those that are `fixed` are given, they have to be as they are there; `others` may be
    anything.
    """
    for key, value in fixed.items():
        if parameters.get(key, value) != value:
            raise DescriptorError(
                f"the descriptor's {key} is {parameters[key]!r}: only {value!r} can be used."
            )
    if unknown := sorted(set(parameters) - set(fixed) - others):
        raise DescriptorError(f"a {kind} descriptor has no parameter {unknown[0]!r}.")


def from_amp(parameters: Mapping[str, Any]) -> Settings:
    """Return the settings of Amp's parameters, as `Settings.to_amp` gives them.

    Raises
    ------
    DescriptorError
        When they belong to another descriptor, or anything in them is wrong.
    """
    fixed = {"importname": IMPORTNAME, "mode": MODE, "version": VERSION}
    check_parameters("Gaussian", parameters, fixed, {"cutoff", "Gs", "elements"})
    if "cutoff" not in parameters:
        raise DescriptorError("the descriptor's parameters lack the cutoff.")
    return Settings.from_arguments(
        parameters["cutoff"], parameters.get("Gs"), parameters.get("elements")
    )
