"""n2p2's energies and forces from its files, in numpy, after its documentation.

It knows the keywords of which released versions of n2p2 (up to 2.3.0) make a potential: one list
of layers for all elements, symmetry functions of types 2, 3 and 9, cutoffs 1 and 5, scaling to a
range. Forces are exact: by a step along the imaginary axis, which nothing is subtracted from.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from ase.neighborlist import neighbor_list

STEP = 1e-30
KEYWORDS = {
    "number_of_elements", "elements", "cutoff_type", "scale_symmetry_functions",
    "scale_min_short", "scale_max_short", "use_short_forces", "global_hidden_layers_short",
    "global_nodes_short", "global_activation_short", "symfunction_short",
}  # fmt: skip
ACTIVATIONS = {"t": np.tanh, "s": lambda x: 1.0 / (1.0 + np.exp(-x)), "l": lambda x: x}


class Function(NamedTuple):
    """A symmetry function; compared in the order in which n2p2 sorts those of an element."""

    kind: int
    cutoff: float
    eta: float
    shift: float
    zeta: float
    gamma: float
    neighbors: tuple[int, ...]

    @classmethod
    def read(cls, words: list[str]) -> Function:
        kind = int(words[0])
        if kind == 2:
            symbol, eta, shift, cutoff = words[1:]
            return cls(kind, float(cutoff), float(eta), float(shift), 0.0, 0.0,
                       (atomic_numbers[symbol],))  # fmt: skip
        assert kind in (3, 9)
        first, second, eta, gamma, zeta, cutoff = words[1:]
        pair = tuple(sorted((atomic_numbers[first], atomic_numbers[second])))
        return cls(kind, float(cutoff), float(eta), 0.0, float(zeta), float(gamma), pair)


class N2P2:
    """The potential that a folder holds."""

    def __init__(self, folder):
        folder = Path(folder)
        keywords = {}
        for line in (folder / "input.nn").read_text().splitlines():
            if not line.startswith("#"):
                name, *words = line.split()
                assert name in KEYWORDS, name
                keywords.setdefault(name, []).append(words)
        assert all(len(v) == 1 for k, v in keywords.items() if k != "symfunction_short")
        assert {"scale_symmetry_functions", "use_short_forces"} <= keywords.keys()
        one = {name: values[0] for name, values in keywords.items()}
        self.numbers = sorted(atomic_numbers[symbol] for symbol in one["elements"])
        assert one["number_of_elements"] == [str(len(self.numbers))]
        self.cutoff_type, alpha = one["cutoff_type"]
        assert (self.cutoff_type in "15", float(alpha)) == (True, 0.0)
        self.low, self.high = (float(one[f"scale_{end}_short"][0]) for end in ("min", "max"))
        nodes = [int(number) for number in one["global_nodes_short"]]
        assert one["global_hidden_layers_short"] == [str(len(nodes))]
        self.activations = [ACTIVATIONS[letter] for letter in one["global_activation_short"]]
        assert len(self.activations) == len(nodes) + 1
        self.functions = {number: [] for number in self.numbers}
        for symbol, *words in keywords["symfunction_short"]:
            self.functions[atomic_numbers[symbol]].append(Function.read(words))
        for functions in self.functions.values():
            functions.sort()
        self._read_scaling((folder / "scaling.data").read_text().splitlines())
        self.layers = {number: self._read_weights(folder, number, nodes) for number in self.numbers}

    def _read_scaling(self, lines):
        self.scaling = {}
        for element, number in enumerate(self.numbers, 1):
            count = len(self.functions[number])
            rows = [line.split() for line in lines[:count]]
            assert [row[:2] for row in rows] == [[f"{element}", f"{i + 1}"] for i in range(count)]
            self.scaling[number] = np.array([row[2:4] for row in rows], dtype=float)
            lines = lines[count:]
        assert lines == []

    def _read_weights(self, folder, number, nodes):
        values = np.loadtxt(folder / f"weights.{number:03d}.data").tolist()
        layers, sizes = [], [len(self.functions[number]), *nodes, 1]
        for before, after in pairwise(sizes):
            matrix = [[values.pop(0) for _ in range(after)] for _ in range(before)]
            layers.append((np.array(matrix), np.array([values.pop(0) for _ in range(after)])))
        assert values == []
        return layers

    def _fade(self, distances, cutoff):
        x = distances / cutoff
        inside = distances.real < cutoff
        if self.cutoff_type == "1":
            return np.where(inside, 0.5 * (np.cos(np.pi * x) + 1.0), 0.0)
        return np.where(inside, (2.0 * x - 3.0) * x**2 + 1.0, 0.0)

    def _values(self, functions, vectors, numbers):
        """Values of functions of an atom with neighbours at `vectors` from it."""
        r = np.sqrt((vectors**2).sum(axis=1))
        j, k = np.triu_indices(len(r), 1)
        between = np.sqrt(((vectors[k] - vectors[j]) ** 2).sum(axis=1))
        cosines = (vectors[j] * vectors[k]).sum(axis=1) / (r[j] * r[k])
        pairs = np.sort(np.stack([numbers[j], numbers[k]]), axis=0)
        for function in functions:
            fade = self._fade(r, function.cutoff)
            if function.kind == 2:
                terms = np.exp(-function.eta * (r - function.shift) ** 2) * fade
                yield terms[numbers == function.neighbors[0]].sum()
                continue
            squares, fades = r[j] ** 2 + r[k] ** 2, fade[j] * fade[k]
            if function.kind == 3:
                squares = squares + between**2
                fades = fades * self._fade(between, function.cutoff)
            chosen = (pairs == np.array(function.neighbors)[:, np.newaxis]).all(axis=0)
            chosen &= fades.real > 0.0
            angular = 1.0 + function.gamma * cosines[chosen]
            angular = np.where(angular.real > 0.0, angular, 0.0) ** function.zeta
            terms = angular * np.exp(-function.eta * squares[chosen]) * fades[chosen]
            yield 2.0 ** (1.0 - function.zeta) * terms.sum()

    def _atom(self, number, vectors, numbers):
        values = np.array(list(self._values(self.functions[number], vectors, numbers)))
        low, high = self.scaling[number].T
        nodes = self.low + (self.high - self.low) / (high - low) * (values - low)
        for (weights, biases), activate in zip(self.layers[number], self.activations, strict=True):
            nodes = activate(nodes @ weights + biases)
        return nodes[0]

    def energies(self, atoms, shift=0.0):
        """Energies of the atoms, eV, at positions that are shifted."""
        cutoff = max(f.cutoff for functions in self.functions.values() for f in functions)
        i, j, cells = neighbor_list("ijS", atoms, cutoff + 0.1)
        positions = atoms.positions + shift
        vectors = positions[j] + cells @ atoms.cell.array - positions[i]
        return np.array(
            [
                self._atom(number, vectors[i == n], atoms.numbers[j[i == n]])
                for n, number in enumerate(atoms.numbers.tolist())
            ]
        )

    def forces(self, atoms):
        """Forces on the atoms, eV/Å."""
        forces = np.empty((len(atoms), 3))
        for index in np.ndindex(*forces.shape):
            shift = np.zeros(forces.shape, dtype=complex)
            shift[index] = STEP * 1j
            forces[index] = -self.energies(atoms, shift).sum().imag / STEP
        return forces

    @property
    def symbols(self):
        """The elements in the order of the files."""
        return [chemical_symbols[number] for number in self.numbers]
