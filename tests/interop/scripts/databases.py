"""Fingerprints of two descriptors that share a database, and angular functions of any exponent."""

import json
import os

from amp.descriptor.gaussian import Gaussian
from amp.utilities import hash_images
from ase import Atoms

images = [
    Atoms(
        "CuPt2Cu",
        positions=[
            [0.0, 0.0, 0.0],
            [2.5 + 0.1 * step, 0.3, 0.1],
            [0.2, 2.4, 0.5 * step],
            [1.9, 2.2, 2.1],
        ],
        cell=[6.0, 6.5, 7.0],
        pbc=[True, False, True],
    )
    for step in range(3)
]
images.append(images[0].copy())
images = hash_images(images)

angular = [
    {"type": kind, "elements": ["Cu", "Pt"], "eta": 0.1, "gamma": gamma, "zeta": zeta}
    for kind in ("G4", "G5")
    for gamma in (0.7, -0.4)
    for zeta in (0.5, 0.8, 1.5, 2.0)
]
functions = dict.fromkeys(("Cu", "Pt"), angular)

first = Gaussian(cutoff=5.0, Gs=functions, dblabel="folder-of-all")
first.calculate_fingerprints(images, parallel={"cores": 1}, log=None, calculate_derivatives=True)
second = Gaussian(cutoff=5.0, Gs=functions, dblabel="folder-of-all")
second.calculate_fingerprints(images, calculate_derivatives=True)

answer = {"keys": sorted(images), "duplicates": sorted(images.metadata["duplicates"].values())}
for name, descriptor in (("first", first), ("second", second)):
    answer[name] = [
        [[symbol, list(map(float, values))] for symbol, values in descriptor.fingerprints[key]]
        for key in sorted(images)
    ]
    answer[name + " primes"] = [
        [
            [list(map(str, place)), list(map(float, values))]
            for place, values in sorted(found.items())
        ]
        for found in (descriptor.fingerprintprimes[key] for key in sorted(images))
    ]
answer["files"] = sorted(os.listdir("folder-of-all-fingerprints.ampdb/loose"))
print(json.dumps(answer))
