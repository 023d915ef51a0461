"""Potentials with random parameters, and images for them."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk

from ampmpi import Amp, Gaussian, NeuralNetwork, make_symmetry_functions


def images_of(elements, seed=0):
    """Return a cluster, a slab and a skewed periodic cell with all elements in them."""
    rng = np.random.default_rng(seed)
    cluster = Atoms(rng.choice(elements, 7), cell=[9, 9, 9], pbc=False)
    cluster.positions = np.array([[x, y, z] for x in (0, 2.5) for y in (0, 2.6) for z in (0, 2.7)])[
        :7
    ] + rng.normal(scale=0.25, size=(7, 3))
    slab = bulk("Cu", cubic=True) * (2, 1, 1)
    slab.pbc = (True, True, False)
    skewed = bulk("Cu") * (2, 2, 1)
    skewed.cell[2] += [0.4, 0.3, 1.2]
    for atoms in (slab, skewed):
        atoms.symbols[:] = rng.choice(elements, len(atoms))
        atoms.symbols[: len(elements)] = elements
        atoms.rattle(0.2, seed=seed)
    cluster.symbols[: len(elements)] = elements
    return [cluster, slab, skewed]


def rich_functions(elements):
    """Return functions of all three types, with offsets, and one that is zero everywhere."""
    functions = make_symmetry_functions(elements, "G2", [0.05, 4.0, 9000.0])
    functions += make_symmetry_functions(elements, "G2", [40.0], offsets=[2.2234, 3.3])
    functions += make_symmetry_functions(
        elements, "G4", [0.005, 2.0], zetas=[1.0, 4.0], gammas=[1.0, -1.0]
    )
    functions += make_symmetry_functions(elements, "G5", [0.1], zetas=[2.5], gammas=[0.5, -1.0])
    rng = np.random.default_rng(5)
    return [functions[i] for i in rng.permutation(len(functions))]


def calculator(
    cutoff,
    hidden,
    activation="tanh",
    functions=rich_functions,
    elements=("Au", "Pd"),
    seed=1,
    by_element=None,
):
    """Return a calculator with random parameters, whose ranges are those of the images."""
    rng = np.random.default_rng(seed)
    listed = functions(list(elements))
    if by_element is None:
        by_element = {e: listed[k:] + listed[: k % 2] for k, e in enumerate(elements)}
    descriptor = Gaussian(cutoff=cutoff, Gs=by_element, elements=list(elements))
    rows = {element: [] for element in elements}
    for atoms in images_of(elements):
        fingerprint = descriptor.fingerprint(atoms)
        for symbol, values in zip(fingerprint.symbols, fingerprint.values, strict=True):
            rows[symbol].append(values[: descriptor.n_features[symbol]])
    ranges = {e: np.stack([np.min(r, axis=0), np.max(r, axis=0)], axis=1) for e, r in rows.items()}
    slope = 60.3 if activation == "sigmoid" else 9.7  # sigmoids are flat
    layers = hidden if isinstance(hidden, dict) else dict.fromkeys(elements, hidden)
    model = NeuralNetwork(
        hiddenlayers=layers,
        activation=activation,
        fprange=ranges,
        weights={
            e: {
                k: rng.normal(scale=0.4, size=(a + 1, b))
                for k, (a, b) in enumerate(
                    zip((len(ranges[e]), *layers[e]), (*layers[e], 1), strict=True), 1
                )
            }
            for e in elements
        },
        scalings={e: {"intercept": -3.0 - k, "slope": slope + k} for k, e in enumerate(elements)},
    )
    return Amp(descriptor, model)
