"""Cutoff functions fc(R) and their derivatives: a neighbour's weight fades to zero at Rc."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DescriptorError


def positive_number(value: Any, name: str) -> float:
    """Return `value` as a float, or raise `DescriptorError` unless it is finite and above zero."""
    number = finite_number(value, name)
    if number <= 0.0:
        raise DescriptorError(f"{name} is {number:g}: give a number above zero.")
    return number


def finite_number(value: Any, name: str) -> float:
    """Return `value` as a float, or raise `DescriptorError` unless it is a finite number."""
    if isinstance(value, bool | np.bool_ | str | bytes):
        raise DescriptorError(f"{name} is {value!r}: give a number.")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DescriptorError(f"{name} is {value!r}: give a number.") from None
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DescriptorError(f"{name} is {number}: give a finite number.")
    return number


@dataclass(frozen=True)
class Cosine:
    """Behler's cosine cutoff, ``fc(R) = (1 + cos(πR/Rc))/2`` up to Rc, 0 beyond.

    Parameters
    ----------
    Rc : float
        Cutoff radius, Å.

    References
    ----------
    J. Behler, J. Chem. Phys. 134, 074106 (2011), Eq. 4.
    """

    Rc: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "Rc", positive_number(self.Rc, "the cutoff radius Rc"))

    def __call__(self, Rij: ArrayLike) -> NDArray[np.float64]:
        """Value of the cutoff function at the distances `Rij`, Å."""
        R = np.asarray(Rij, dtype=float)
        return np.where(self.Rc < R, 0.0, 0.5 * (1.0 + np.cos(np.pi * R / self.Rc)))

    def prime(self, Rij: ArrayLike) -> NDArray[np.float64]:
        """Return the derivative dfc/dR at the distances `Rij`, 1/Å."""
        R = np.asarray(Rij, dtype=float)
        slope = -0.5 * np.pi / self.Rc * np.sin(np.pi * R / self.Rc)
        return np.where(self.Rc < R, 0.0, slope)

    def todict(self) -> dict[str, Any]:
        """Return Amp's dictionary of this cutoff."""
        return {"name": "Cosine", "kwargs": {"Rc": self.Rc}}


@dataclass(frozen=True)
class Polynomial:
    """Khorshidi and Peterson's cutoff, ``fc = 1 + γ x^(γ+1) − (γ+1) x^γ``, x = R/Rc up to 1.

    Parameters
    ----------
    Rc : float
        Cutoff radius, Å.
    gamma : float, default 4
        Power of the polynomial, at least 1.

    References
    ----------
    A. Khorshidi and A. A. Peterson, Comput. Phys. Commun. 207, 310 (2016).
    """

    Rc: float
    gamma: float = 4.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "Rc", positive_number(self.Rc, "the cutoff radius Rc"))
        gamma = finite_number(self.gamma, "the polynomial cutoff's gamma")
        if gamma < 1.0:
            raise DescriptorError(
                f"the polynomial cutoff's gamma is {gamma:g}: give a number of at least 1."
            )
        object.__setattr__(self, "gamma", gamma)

    def __call__(self, Rij: ArrayLike) -> NDArray[np.float64]:
        """Value of the cutoff function at the distances `Rij`, Å."""
        x = np.asarray(Rij, dtype=float) / self.Rc
        g = self.gamma
        return np.where(x > 1.0, 0.0, 1.0 + g * x ** (g + 1.0) - (g + 1.0) * x**g)

    def prime(self, Rij: ArrayLike) -> NDArray[np.float64]:
        """Return the derivative dfc/dR at the distances `Rij`, 1/Å."""
        x = np.asarray(Rij, dtype=float) / self.Rc
        g = self.gamma
        return np.where(x > 1.0, 0.0, g * (g + 1.0) / self.Rc * (x**g - x ** (g - 1.0)))

    def todict(self) -> dict[str, Any]:
        """Return Amp's dictionary of this cutoff."""
        return {"name": "Polynomial", "kwargs": {"Rc": self.Rc, "gamma": self.gamma}}


Cutoff: TypeAlias = Cosine | Polynomial

_KINDS: dict[str, type[Cosine] | type[Polynomial]] = {"Cosine": Cosine, "Polynomial": Polynomial}


def as_cutoff(value: Any) -> Cutoff:
    """Return a cutoff from a number (cosine), a cutoff object (Amp's too) or Amp's dictionary.

    Raises
    ------
    DescriptorError
        When it is something else, or its name or arguments are wrong.
    """
    if isinstance(value, Cosine | Polynomial):
        return value
    if isinstance(value, type):
        raise DescriptorError(
            f"the cutoff is the class {value.__name__} itself: call it with a radius."
        )
    if hasattr(value, "todict"):
        value = value.todict()
    if not isinstance(value, Mapping):
        return Cosine(value)
    if set(value) != {"name", "kwargs"} or not isinstance(value["kwargs"], Mapping):
        raise DescriptorError(
            f"the cutoff {dict(value)!r} is not understood: "
            "give {'name': 'Cosine', 'kwargs': {'Rc': 6.5}}, or a number."
        )
    return cutoff_from_arguments(value["name"], value["kwargs"])


def cutoff_from_arguments(name: Any, arguments: Mapping[str, Any]) -> Cutoff:
    """Return the cutoff called `name`, checking the names of its arguments."""
    if not isinstance(name, str) or name not in _KINDS:
        raise DescriptorError(f"there is no cutoff {name!r}: use Cosine or Polynomial.")
    known = {"Cosine": {"Rc"}, "Polynomial": {"Rc", "gamma"}}[name]
    if unknown := sorted(set(arguments) - known):
        raise DescriptorError(
            f"the {name} cutoff has no argument {unknown[0]!r}: "
            f"it takes {', '.join(sorted(known))}."
        )
    if "Rc" not in arguments:
        raise DescriptorError(f"the {name} cutoff lacks its radius: give Rc in Å.")
    return _KINDS[name](**arguments)
