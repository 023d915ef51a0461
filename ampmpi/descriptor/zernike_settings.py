"""The settings of a Zernike descriptor: checked once, then frozen."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from ..errors import DescriptorError
from .cutoffs import Cutoff, as_cutoff, finite_number
from .settings import MODE, check_parameters, check_symbols
from .symmetry_functions import check_element
from .toml import as_toml, cutoff_from_toml, parse_toml

IMPORTNAME = ".descriptor.zernike.Zernike"
VERSION = "2016.02"
LARGEST_NMAX = 40
_TOML_KEYS = ("descriptor", "cutoff", "elements", "Gs", "nmax")


@dataclass(frozen=True)
class ZernikeSettings:
    """Cutoff, elements, weights and degree of a Zernike descriptor.

    Attributes
    ----------
    cutoff : Cosine or Polynomial
        The cutoff function.
    elements : tuple of str, or None
        Elements that can be centres, sorted; None: those of the images.
    weights : mapping of str to mapping of str to float, or None
        η of each element of a neighbour, for each element of the centre; None: its atomic
        number.
    nmax : int or mapping of str to int
        Largest degree of the polynomials, for all elements or for each element of the centre.
    """

    cutoff: Cutoff
    elements: tuple[str, ...] | None
    weights: Mapping[str, Mapping[str, float]] | None
    nmax: int | Mapping[str, int]

    @classmethod
    def from_arguments(cls, cutoff: Any, Gs: Any, nmax: Any, elements: Any) -> ZernikeSettings:
        """Check the arguments of `Zernike`; fill in the weights if the elements are known."""
        weights = None if Gs is None else _weights(Gs)
        symbols = None if elements is None else check_symbols(elements)
        if symbols is None and weights is not None:
            symbols = tuple(sorted(weights))
        settings = cls(as_cutoff(cutoff), symbols, weights, _degrees(nmax))
        return settings if symbols is None else settings.resolve(symbols)

    def resolve(self, elements: Iterable[str]) -> ZernikeSettings:
        """Return the settings with elements and weights filled in; self when complete."""
        symbols = self.elements or check_symbols(elements)
        if isinstance(self.nmax, Mapping) and (lacking := sorted(set(symbols) - set(self.nmax))):
            raise DescriptorError(f"nmax has no number for {', '.join(lacking)}: give one.")
        if self.weights is None:
            numbers = {symbol: float(atomic_numbers[symbol]) for symbol in symbols}
            return replace(
                self, elements=symbols, weights={symbol: dict(numbers) for symbol in symbols}
            )
        for centre in symbols:
            if centre not in self.weights:
                raise DescriptorError(
                    f"Gs has nothing for {centre}: give the weight of each neighbour's element."
                )
            if lacking := sorted(set(symbols) - set(self.weights[centre])):
                raise DescriptorError(
                    f"Gs has no weight for {lacking[0]} next to {centre}: give a number, 0 to "
                    "leave it out."
                )
        return self

    def degrees(self) -> dict[str, int]:
        """Degree nmax of each element; `DescriptorError` while the elements are not known."""
        nmax = self.nmax
        return {
            symbol: nmax[symbol] if isinstance(nmax, Mapping) else nmax
            for symbol in self._known_elements()
        }

    def by_element(self) -> dict[str, dict[str, float]]:
        """Weights by the elements of centre and neighbour; `DescriptorError` likewise."""
        symbols = self._known_elements()
        assert self.weights is not None
        return {
            centre: {symbol: self.weights[centre][symbol] for symbol in symbols}
            for centre in symbols
        }

    def _known_elements(self) -> tuple[str, ...]:
        if self.elements is None:
            raise DescriptorError(
                "the descriptor's elements are not known yet: give elements, "
                "or call resolve() with those of the images."
            )
        return self.elements

    def to_amp(self) -> dict[str, Any]:
        """Return Amp's parameters: plain numbers, strings, lists and dictionaries."""
        Gs = None
        if self.weights is not None:
            Gs = {centre: dict(weights) for centre, weights in self.weights.items()}
        return {
            "importname": IMPORTNAME,
            "mode": MODE,
            "version": VERSION,
            "cutoff": self.cutoff.todict(),
            "Gs": Gs,
            "nmax": dict(self.nmax) if isinstance(self.nmax, Mapping) else self.nmax,
            "elements": None if self.elements is None else list(self.elements),
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 over what determines the numbers: cutoff, weights and degrees."""
        settings = ["Zernike", self.cutoff.todict(), self.by_element(), self.degrees()]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _degrees(nmax: Any) -> int | dict[str, int]:
    if isinstance(nmax, Mapping):
        return {check_element(key, "nmax"): _degree(item) for key, item in nmax.items()}
    return _degree(nmax)


def _degree(value: Any) -> int:
    try:
        degree = -1 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        degree = -1
    if not 0 <= degree <= LARGEST_NMAX:
        raise DescriptorError(f"nmax is {value!r}: give a whole number from 0 to {LARGEST_NMAX}.")
    return degree


def _weights(Gs: Any) -> dict[str, dict[str, float]]:
    example = "give weights such as {'Cu': {'Cu': 29.0, 'Pt': 78.0}, ...}"
    if not isinstance(Gs, Mapping) or not Gs:
        raise DescriptorError(f"Gs is {Gs!r}: {example}.")
    weights: dict[str, dict[str, float]] = {}
    for centre, listed in Gs.items():
        symbol = check_element(centre, "Gs")
        if not isinstance(listed, Mapping):
            raise DescriptorError(f"Gs of {symbol} is {listed!r}: {example}.")
        weights[symbol] = {
            check_element(key, f"Gs of {symbol}"): finite_number(
                item, f"the weight of {key} next to {symbol}"
            )
            for key, item in listed.items()
        }
    return weights


def from_amp(parameters: Mapping[str, Any]) -> ZernikeSettings:
    """Return the settings of Amp's parameters, as `ZernikeSettings.to_amp` gives them.

    Raises
    ------
    DescriptorError
        When they belong to another descriptor, or anything in them is wrong.
    """
    fixed = {"importname": IMPORTNAME, "mode": MODE, "version": VERSION}
    check_parameters("Zernike", parameters, fixed, {"cutoff", "Gs", "nmax", "elements"})
    for key in ("cutoff", "nmax"):
        if key not in parameters:
            raise DescriptorError(f"the descriptor's parameters lack {key}.")
    return ZernikeSettings.from_arguments(
        parameters["cutoff"], parameters.get("Gs"), parameters["nmax"], parameters.get("elements")
    )


def read_settings(path: str | Path) -> ZernikeSettings:
    """Read the settings of a `Zernike` from a TOML file.

    Raises
    ------
    DescriptorError
        When the file cannot be read or anything in it is wrong; the message
        starts with the file's name.
    """
    return parse_toml(path, _from_toml)


def _from_toml(content: dict[str, Any]) -> ZernikeSettings:
    if unknown := sorted(set(content) - set(_TOML_KEYS)):
        raise DescriptorError(f"Zernike has no key {unknown[0]!r}: use {', '.join(_TOML_KEYS)}.")
    if content.get("descriptor") != "Zernike":
        raise DescriptorError('it is not of Zernike: add descriptor = "Zernike".')
    if "cutoff" not in content:
        raise DescriptorError("the cutoff is missing: add, for example, cutoff = 6.5.")
    return ZernikeSettings.from_arguments(
        cutoff_from_toml(content["cutoff"]),
        content.get("Gs"),
        content.get("nmax", 5),
        content.get("elements"),
    )


def write_settings(settings: ZernikeSettings, remarks: Iterable[str] = ()) -> str:
    """Return the text of a TOML file that `read_settings` reads.

    Parameters
    ----------
    settings : ZernikeSettings
        Complete settings.
    remarks : iterable of str
        Lines of comment at the top.
    """
    lines = [f"# {remark}".rstrip() for remark in remarks]
    lines.append('descriptor = "Zernike"')
    degrees = settings.degrees()
    lines.append(f"elements = {as_toml(list(degrees))}")
    if isinstance(settings.nmax, Mapping):
        pairs = (f"{symbol} = {degree}" for symbol, degree in degrees.items())
        lines.append(f"nmax = {{ {', '.join(pairs)} }}")
    else:
        lines.append(f"nmax = {settings.nmax}")
    cutoff = settings.cutoff.todict()
    lines += ["", "[cutoff]", f"name = {as_toml(cutoff['name'])}"]
    lines += [f"{key} = {as_toml(value)}" for key, value in cutoff["kwargs"].items()]
    lines += ["", "[Gs]"]
    for centre, weights in settings.by_element().items():
        pairs = (f"{symbol} = {as_toml(weight)}" for symbol, weight in weights.items())
        lines.append(f"{centre} = {{ {', '.join(pairs)} }}")
    return "\n".join([*lines, ""])
