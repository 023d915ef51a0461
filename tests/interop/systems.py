"""Images and descriptor settings on which this package and Amp are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cluster import Octahedron


def shaken(atoms: Atoms, seed: int, width: float = 0.1) -> Atoms:
    """Displace the atoms at random, so that no symmetry hides an error."""
    atoms.positions += np.random.default_rng(seed).normal(scale=width, size=(len(atoms), 3))
    return atoms


def alloy(atoms: Atoms) -> Atoms:
    """Turn every third atom into platinum."""
    atoms.numbers[::3] = 78
    return atoms


def images() -> dict[str, Atoms]:
    """Return one image of Cu and Pt of each kind."""
    cube = bulk("Cu", "fcc", a=3.7, cubic=True)
    slab = fcc111("Cu", (2, 1, 3), a=3.7, vacuum=6.0)
    cluster = Octahedron("Cu", 3, cutoff=1)
    thin = bulk("Pt", "fcc", a=3.9)
    wire = bulk("Cu", "bcc", a=2.9, cubic=True)
    wire.pbc = (False, False, True)
    far = Atoms("CuPt", positions=[(0, 0, 0), (0, 0, 9.5)])
    return {
        "bulk": alloy(shaken(cube, 1)),
        "slab": alloy(shaken(slab, 2)),
        "cluster": alloy(shaken(cluster, 3)),
        "molecule": Atoms("CuPtCu", positions=[(0, 0, 0), (0.1, 2.4, 0.2), (2.2, 0.3, 0.1)]),
        "cell edge below the cutoff": shaken(thin, 4),
        "mixed pbc": alloy(shaken(wire, 5)),
        "no neighbours": far,
    }


def organic() -> Atoms:
    """Return ethanol, an image without metals."""
    return shaken(molecule("CH3CH2OH"), 6, 0.05)


def with_energies(atoms: Atoms) -> Atoms:
    """Return a copy that carries EMT's energy and forces."""
    copy = atoms.copy()
    copy.calc = EMT()
    energy, forces = copy.get_potential_energy(), copy.get_forces()
    copy.calc = SinglePointCalculator(copy, energy=energy, forces=forces)
    return copy


def random_image(rng: np.random.Generator) -> Atoms:
    """Return up to six atoms in a cell that may be skewed and thin, periodic at random."""
    n_atoms = int(rng.integers(1, 7))
    lengths = rng.uniform(2.2, 8.0, size=3)
    cell = np.diag(lengths) + rng.uniform(-0.3, 0.3, size=(3, 3)) * lengths.min()
    while True:
        atoms = Atoms(
            numbers=rng.choice([29, 78], size=n_atoms),
            scaled_positions=rng.uniform(-0.5, 1.5, size=(n_atoms, 3)),
            cell=cell,
            pbc=rng.integers(0, 2, size=3).astype(bool),
        )
        distances = atoms.get_all_distances(mic=True)
        if (distances[~np.eye(n_atoms, dtype=bool)] > 0.8).all():
            return atoms


def random_descriptor(rng: np.random.Generator) -> dict[str, Any]:
    """Return settings whose numbers are drawn at random from all that are allowed."""
    elements = ["Cu", "Pt"]
    functions: list[dict[str, Any]] = [
        {
            "type": "G2",
            "element": str(rng.choice(elements)),
            "eta": float(rng.uniform(0.0, 40.0)),
            "offset": float(rng.uniform(0.0, 1.0)),
        }
        for _ in range(4)
    ]
    functions += [
        {
            "type": str(rng.choice(["G4", "G5"])),
            "elements": sorted(map(str, rng.choice(elements, size=2))),
            "eta": float(rng.uniform(0.0, 5.0)),
            "gamma": float(rng.choice([1.0, -1.0, rng.uniform(-1.0, 1.0)])),
            "zeta": float(rng.choice([1.0, 2.0, 16.0, rng.uniform(1.0, 20.0)])),
        }
        for _ in range(8)
    ]
    radius = float(rng.uniform(2.5, 8.0))
    cutoff: dict[str, Any] = {"name": "Cosine", "kwargs": {"Rc": radius}}
    if rng.random() < 0.5:
        cutoff = {
            "name": "Polynomial",
            "kwargs": {"Rc": radius, "gamma": float(rng.uniform(2.0, 6.0))},
        }
    return {"cutoff": cutoff, "Gs": functions, "elements": elements}


def rich(elements: list[str]) -> list[dict[str, Any]]:
    """Return functions with offsets, G5, and ζ and γ other than the defaults."""
    functions: list[dict[str, Any]] = []
    for element in elements:
        functions += [
            {"type": "G2", "element": element, "eta": eta, "offset": offset}
            for eta, offset in [(0.05, 0.0), (4.0, 0.3), (20.0, 0.5)]
        ]
    pairs = [[a, b] for i, a in enumerate(elements) for b in elements[i:]]
    for kind in ("G4", "G5"):
        for pair in pairs:
            functions += [
                {"type": kind, "elements": pair, "eta": eta, "gamma": gamma, "zeta": zeta}
                for eta, gamma, zeta in [(0.005, 1.0, 1.0), (0.1, -0.5, 2.5), (1.0, 0.7, 16.0)]
            ]
    return functions


def descriptors() -> dict[str, dict[str, Any]]:
    """Return the keyword arguments of Gaussian, the same for this package and Amp."""
    cosine = {"name": "Cosine", "kwargs": {"Rc": 5.0}}
    polynomial = {"name": "Polynomial", "kwargs": {"Rc": 4.5, "gamma": 4}}
    functions = rich(["Cu", "Pt"])
    unequal = {"Cu": functions, "Pt": functions[:4]}
    elements = ["Cu", "Pt"]
    return {
        "default": {"cutoff": 6.5, "elements": elements},
        "default, polynomial": {"cutoff": polynomial, "elements": elements},
        "rich, cosine": {"cutoff": cosine, "Gs": functions, "elements": elements},
        "rich, polynomial": {
            "cutoff": {"name": "Polynomial", "kwargs": {"Rc": 5.0, "gamma": 2.5}},
            "Gs": functions,
            "elements": elements,
        },
        "unequal": {"cutoff": cosine, "Gs": unequal, "elements": elements},
    }


def zernike_descriptors() -> dict[str, dict[str, Any]]:
    """Return the keyword arguments of Zernike, the same for this package and Amp."""
    elements = ["Cu", "Pt"]
    weights = {"Cu": {"Cu": 3.0, "Pt": -2.0}, "Pt": {"Cu": 5.5, "Pt": 0.7}}
    degrees: dict[str, dict[str, Any]] = {
        f"nmax {nmax}": {"cutoff": 4.0, "nmax": nmax, "elements": elements} for nmax in (1, 2, 3)
    }
    return {
        **degrees,
        "own weights": {"cutoff": 3.6, "nmax": 4, "Gs": weights, "elements": elements},
        "default": {"cutoff": 3.0, "elements": elements},
        "nmax 8": {"cutoff": 4.0, "nmax": 8, "Gs": weights, "elements": elements},
    }
