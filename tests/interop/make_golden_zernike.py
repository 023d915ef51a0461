"""Write tests/data/amp-zernike.json: Zernike fingerprints and primes as Amp's Python has them.

``python tests/interop/make_golden_zernike.py AMP_PYTHON``, as make_golden.py. tests/unit/
test_zernike.py compares with them. Amp's Fortran is not asked: its primes are other ones where
the weights are one's own.
"""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any

from ase import Atoms
from conftest import plain
from make_golden import DATA, ask
from systems import images, zernike_descriptors

NAMES = ("mixed pbc", "molecule", "no neighbours", "cell edge below the cutoff")


def zernike_images() -> dict[str, Atoms]:
    """Return small images: Amp's Python takes seconds for a few atoms."""
    found = {name: images()[name] for name in NAMES}
    found["along z"] = Atoms("Cu2Pt", positions=[[0, 0, 0], [0, 0, 2.4], [0, 0, -2.6]])
    found["single"] = Atoms("Pt", positions=[[1, 2, 3]])
    return found


def main(python: str) -> None:
    """Compute every case and write the file."""
    cases: list[dict[str, Any]] = []
    rows = {name: plain(atoms) for name, atoms in zernike_images().items()}
    for case, settings in zernike_descriptors().items():
        # nmax 8 takes Amp's Python half a minute where there are many neighbours.
        names = ["molecule", "along z"] if settings.get("nmax", 5) > 5 else list(rows)
        with tempfile.TemporaryDirectory() as folder:
            answer = ask(
                python,
                "write",
                images=[rows[name] for name in names],
                kind="Zernike",
                descriptor={**settings, "fortran": False},
                dblabel=f"{folder}/golden",
                derivatives=True,
            )
        hashes = ask(python, "hashes", images=[rows[name] for name in names])
        for name, key in zip(names, hashes, strict=True):
            primes = sorted(
                ([m, n, d], values) for (m, _, n, _, d), values in answer["fingerprint-primes"][key]
            )
            cases.append(
                {
                    "case": case,
                    "image": name,
                    "fingerprint": answer["fingerprints"][key],
                    "primes": primes,
                }
            )
    data = {"images": rows, "descriptors": zernike_descriptors(), "cases": cases}
    (DATA / "amp-zernike.json").write_text(json.dumps(data) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
