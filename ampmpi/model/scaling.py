"""Scaling of features and energies: the trained range, intercepts and slopes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ampmpi.errors import ModelError
from ampmpi.model.layers import Array

# Amp leaves a feature alone whose range is not wider than this.
NARROWEST = 1e-8


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
    """Return how inputs that are scaled by one range follow from those scaled by a wider one.

    Parameters
    ----------
    before, after : (n_features, 2) float array
        Ranges of the features; none of `after` is narrower than that of `before`.

    Returns
    -------
    factor, shift : (n_features,) float array
        ``network_input(G, before) = factor * network_input(G, after) + shift``.
    """
    slope, new_slope = feature_scaling(before), feature_scaling(after)
    was_wide, is_wide = (ends[:, 1] - ends[:, 0] > NARROWEST for ends in (before, after))
    factor = slope / new_slope
    moved = factor + slope * (after[:, 0] - np.where(was_wide, before[:, 0], 0.0))
    return factor, np.where(is_wide, moved - was_wide, 0.0)


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
