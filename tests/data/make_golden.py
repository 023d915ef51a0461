"""Make ``tests/data/amp``: small databases as Amp 1.0.1 itself writes them.

Run it with a Python that has amp-atomistics 1.0.1 with its Fortran modules and
ase 3.22.1:

    python tests/data/make_golden.py tests/data/amp

Three images: a periodic Cu/Pt cell of two atoms that are each other's and their
own neighbours, a water molecule, and a lone hydrogen atom, with different
numbers of symmetry functions per element. `loose-*` is as Amp leaves it,
`archived-*` after Amp's ``archive()``, less its empty ``loose/``.
`expected.json` holds what Amp reads from them, in plain numbers.
"""

import json
import sys
from pathlib import Path

from amp.descriptor.gaussian import Gaussian
from amp.utilities import FileDatabase, Logger, hash_images
from ase import Atoms
from ase.build import bulk, molecule


def make_images():
    water = molecule("H2O")
    alloy = bulk("Cu", "fcc", 3.6) * (1, 1, 2)
    alloy.symbols[1] = "Pt"
    alloy.rattle(0.05, seed=1)
    return hash_images([water, alloy, Atoms("H", [[0, 0, 0]])])


def make_functions():
    functions = [
        {"type": "G2", "element": element, "eta": 0.5, "offset": 0.0}
        for element in ("Cu", "H", "O", "Pt")
    ]
    functions.append(
        {"type": "G4", "elements": ["H", "O"], "eta": 0.005, "gamma": 1.0, "zeta": 1.0}
    )
    return {"Cu": functions, "H": functions[:3], "O": functions, "Pt": functions[:2]}


def main(folder):
    images = make_images()
    for name in ("loose", "archived"):
        descriptor = Gaussian(cutoff=3.0, Gs=make_functions(), dblabel=f"{folder}/{name}")
        descriptor.calculate_fingerprints(
            images,
            log=Logger(None),
            parallel={"cores": {"localhost": 1}, "envcommand": None},
            calculate_derivatives=True,
        )
    expected = {}
    for kind in ("fingerprints", "fingerprint-primes", "neighborlists"):
        database = FileDatabase(f"{folder}/archived-{kind}")
        if kind != "neighborlists":
            expected[kind] = {key: plain(database[key]) for key in sorted(database.keys())}
        database.archive()
    Path(folder, "expected.json").write_text(json.dumps(expected, indent=0) + "\n")


def plain(entry):
    """Return an entry in plain numbers; a dict as the list of its items."""
    if isinstance(entry, dict):
        return sorted(
            [[int(m), str(a), int(n), str(b), int(d)], list(map(float, values))]
            for (m, a, n, b, d), values in entry.items()
        )
    return [[str(symbol), list(map(float, values))] for symbol, values in entry]


if __name__ == "__main__":
    main(sys.argv[1])
