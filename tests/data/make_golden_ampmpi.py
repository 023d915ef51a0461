"""Make ``tests/data/ampmpi-0.1``: small databases as ampmpi 0.1 wrote them.

    python tests/data/make_golden_ampmpi.py tests/data/ampmpi-0.1

Run it with the ampmpi of that version only: what it wrote must stay readable.
The images are those of ``make_golden.py``. `loose-*` and `archived-*` are of one
descriptor; of `mixed-*` one entry is loose, the others are archived, and one of
these was deleted, so that a mark of version 0.1 lies in ``deleted/``. Folders
that are empty are left out. `expected.json` holds the entries in plain numbers.
"""

import json
import os
import sys
from pathlib import Path

from ase import Atoms
from ase.build import bulk, molecule

from ampmpi import FingerprintDatabase, Gaussian, fingerprint, hash_image

KINDS = ("fingerprints", "fingerprint-primes")


def make_images():
    water = molecule("H2O")
    alloy = bulk("Cu", "fcc", 3.6) * (1, 1, 2)
    alloy.symbols[1] = "Pt"
    alloy.rattle(0.05, seed=1)
    return [water, alloy, Atoms("H", [[0, 0, 0]])]


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
    descriptor = Gaussian(cutoff=3.0, Gs=make_functions())
    os.makedirs(folder)
    for name in ("loose", "archived"):
        fingerprint(images, descriptor, label=f"{folder}/{name}", derivatives=True,
                    compress=name == "archived")  # fmt: skip
    fingerprint(images[:2], descriptor, label=f"{folder}/mixed", derivatives=True)
    fingerprint(images, descriptor, label=f"{folder}/mixed", derivatives=True, compress=False)
    expected = {"keys": [hash_image(image) for image in images]}
    for number, kind in enumerate(KINDS):
        expected[kind] = {
            hash_image(image): plain(descriptor.calculate(image)[number].to_amp())
            for image in images
        }
        del FingerprintDatabase(f"{folder}/mixed-{kind}")[hash_image(images[0])]
    Path(folder, "expected.json").write_text(json.dumps(expected, indent=0) + "\n")


def plain(entry):
    """Return an entry in plain numbers; a dict as the list of its items."""
    if isinstance(entry, dict):
        return sorted([list(key), values] for key, values in entry.items())
    return [[symbol, values] for symbol, values in entry]


if __name__ == "__main__":
    main(sys.argv[1])
