"""Scaling of features and energies: the trained range, intercepts and slopes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import ModelError
from ampmpi.model.layers import Array

# Amp leaves a feature alone whose range is not wider than this.
NARROWEST = 1e-8

CONSTANT = 1e-4
"""A feature whose range is not wider than this part of its element's widest is constant."""


def feature_scaling(fprange: Array) -> Array:
    """Return dx/dG (n_features,) of the features x that `network_input` scales.

    Parameters
    ----------
    fprange : (n_features, 2) float array
        Smallest and largest value of each feature in the training set.
    """
    width = fprange[:, 1] - fprange[:, 0]
    return np.divide(2.0, width, out=np.ones_like(width), where=width > NARROWEST)


def network_input(values: Array, fprange: Array) -> Array:
    """Scale features to [-1, 1], rounding as Amp does, for a network's first layer.

    Parameters
    ----------
    values : (n_atoms, n_features) float array
        Features of atoms of one element.
    fprange : (n_features, 2) float array
        Smallest and largest value of each feature in the training set.

    Returns
    -------
    (n_features + 1, n_atoms) float array
        The last row is ones, for the biases.
    """
    low, high = fprange[:, 0], fprange[:, 1]
    wide = high - low > NARROWEST
    width = np.where(wide, high - low, 1.0)
    x = np.ones((values.shape[1] + 1, values.shape[0]))
    x[:-1] = np.where(wide, -1.0 + 2.0 * ((values - low) / width), values).T
    return x


def rescaling(before: Array, after: Array) -> tuple[Array, Array]:
    """Return how inputs that are scaled by one range follow from those scaled by another one.

    Parameters
    ----------
    before, after : (n_features, 2) float array
        Ranges of the features.

    Returns
    -------
    factor, shift : (n_features,) float array
        ``network_input(G, before) = factor * network_input(G, after) + shift``.
    """
    slope, new_slope = feature_scaling(before), feature_scaling(after)
    was_wide, is_wide = (ends[:, 1] - ends[:, 0] > NARROWEST for ends in (before, after))
    factor = slope / new_slope
    low, new_low = np.where(was_wide, before[:, 0], 0.0), np.where(is_wide, after[:, 0], 0.0)
    shift = np.where(is_wide, factor, 0.0) - was_wide + slope * (new_low - low)
    return factor, shift


def is_constant(fprange: Array) -> NDArray[np.bool_]:
    """Tell which features of an element hardly change over a set, (n_features,).

    Parameters
    ----------
    fprange : (n_features, 2) float array
        Smallest and largest value of each feature.
    """
    width = fprange[:, 1] - fprange[:, 0]
    constant: NDArray[np.bool_] = width <= max(CONSTANT * width.max(initial=0.0), NARROWEST)
    return constant


@dataclass(frozen=True, eq=False)
class Spread:
    """Mean and spread of the features of an element.

    Attributes
    ----------
    n : int
        Number of atoms.
    mean : (n_features,) float array
        Their mean.
    squares : (n_features,) float array
        Sum of the squared differences from the mean.
    """

    n: int
    mean: Array
    squares: Array


def spread_of(values: Array) -> Spread:
    """Return mean and spread of (n_atoms, n_features) features."""
    mean = values.mean(axis=0)
    return Spread(len(values), mean, ((values - mean) ** 2).sum(axis=0))


def merge_spreads(parts: Sequence[Mapping[str, Spread]]) -> dict[str, Spread]:
    """Join the means and spreads of parts of a set, by element.

    Chan, Golub and LeVeque, Am. Stat. 37, 242 (1983).
    """
    merged: dict[str, Spread] = {}
    for part in parts:
        for element, one in part.items():
            known = merged.get(element)
            if known is None:
                merged[element] = one
                continue
            n, apart = known.n + one.n, one.mean - known.mean
            merged[element] = Spread(
                n,
                known.mean + apart * (one.n / n),
                known.squares + one.squares + apart**2 * (known.n * one.n / n),
            )
    return {element: merged[element] for element in sorted(merged)}


def deviation_range(spread: Spread) -> Array:
    """Return the range by which `network_input` gives features of mean 0 and deviation 1.

    It is (n_features, 2): a standard deviation below the mean, and one above it.
    """
    deviation = np.sqrt(spread.squares / spread.n)
    return np.stack([spread.mean - deviation, spread.mean + deviation], axis=1)


def beyond(values: Array, fprange: Array) -> Array:
    """Return how far features are outside a range, as parts of it; negative inside.

    Parameters
    ----------
    values : (…, n_features) float array
        Features of one atom, or of several of one element.
    fprange : (n_features, 2) float array
        Smallest and largest value of each feature in the training set; narrower ranges than
        `NARROWEST` are taken for so wide.
    """
    low, high = fprange.T
    outside: Array = np.maximum(low - values, values - high) / np.maximum(high - low, NARROWEST)
    return outside


def merge_ranges(ranges: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Join the feature ranges of parts of a set, by element."""
    merged: dict[str, Array] = {}
    for part in ranges:
        for element, fprange in part.items():
            if element not in merged:
                merged[element] = fprange.copy()
                continue
            known = merged[element]
            if known.shape != fprange.shape:
                raise ModelError(
                    f"fingerprints of {element} have {known.shape[0]} and {fprange.shape[0]} "
                    "features: they come from different descriptors"
                )
            np.minimum(known[:, 0], fprange[:, 0], out=known[:, 0])
            np.maximum(known[:, 1], fprange[:, 1], out=known[:, 1])
    return {element: merged[element] for element in sorted(merged)}


def initial_scaling(energies: Array, n_atoms: Array, activation: str) -> tuple[float, float]:
    """Guess intercept and slope (eV) from the range of the energies, as Amp does.

    Parameters
    ----------
    energies : (n_images,) float array, eV
        Energies of the training set.
    n_atoms : (n_images,) array
        Number of atoms of each image.
    activation : str
        Activation function, whose range is scaled to that of the energies.
    """
    # Amp takes the extreme total energies, and of equal ones the last
    last = len(energies) - 1
    high = last - int(np.argmax(energies[::-1]))
    low = last - int(np.argmin(energies[::-1]))
    top = float(energies[high] / n_atoms[high])
    bottom = float(energies[low] / n_atoms[low])
    if activation == "sigmoid":
        return bottom, top - bottom
    slope = (top - bottom) / 2.0
    return (top + bottom) / 2.0, slope * 1e-10 if activation == "linear" else slope


def prescale(energies: Array, composition: Array) -> Array:
    """Fit one energy per element (eV) to the energies by least squares.

    The residuals are energy errors per atom. Where compositions do not tell
    elements apart, the solution of least norm is taken.

    Parameters
    ----------
    energies : (n_images,) float array, eV
        Energies.
    composition : (n_images, n_elements) float array
        Number of atoms of each element.
    """
    n_atoms = composition.sum(axis=1)
    solution = np.linalg.lstsq(composition / n_atoms[:, np.newaxis], energies / n_atoms, rcond=None)
    intercepts: Array = solution[0]
    return intercepts
