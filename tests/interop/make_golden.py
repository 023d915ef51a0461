"""Write tests/data/amp-reference.*: hashes, fingerprints and primes as Amp computes them.

``python tests/interop/make_golden.py AMP_PYTHON``, where AMP_PYTHON is the
interpreter of an environment that install-amp.sh made. tests/unit/test_golden.py
compares with them where Amp cannot be built.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from conftest import plain
from systems import descriptors, images, organic

DATA = Path(__file__).resolve().parents[1] / "data"
LEAVE_OUT = "cluster"  # large, and its environments are in the others


def ask(python: str, command: str, **request: Any) -> Any:
    """Return Amp's answer to one request."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "request.json").write_text(json.dumps(request))
        script = Path(__file__).resolve().with_name("amp_side.py")
        subprocess.run(
            [python, script, command, "request.json", "answer.json"], cwd=folder, check=True
        )
        return json.loads(Path(folder, "answer.json").read_text())


def main(python: str) -> None:
    """Compute every case and write the two files."""
    metals = {name: atoms for name, atoms in images().items() if name != LEAVE_OUT}
    cases = {name: (settings, metals) for name, settings in descriptors().items()}
    cases["organic"] = (
        {"cutoff": 4.0, "elements": ["O", "C", "H"]},
        {"ethanol": organic()},
    )
    text: dict[str, Any] = {"images": {}, "descriptors": {}}
    arrays: dict[str, Any] = {}
    for case, (settings, atoms) in cases.items():
        rows = {name: plain(image) for name, image in atoms.items()}
        hashes = ask(python, "hashes", images=list(rows.values()))
        with tempfile.TemporaryDirectory() as folder:
            answer = ask(
                python,
                "write",
                images=list(rows.values()),
                descriptor=settings,
                dblabel=f"{folder}/golden",
                derivatives=True,
            )
        text["descriptors"][case] = settings
        for (name, row), key in zip(rows.items(), hashes, strict=True):
            text["images"][name] = {**row, "hash": key}
            fingerprint = answer["fingerprints"][key]
            primes = sorted(answer["fingerprint-primes"][key], key=lambda r: (r[0][2], r[0][0]))
            stem = f"{case}/{name}"
            arrays[f"{stem}/fingerprint"] = np.concatenate([values for _, values in fingerprint])
            arrays[f"{stem}/keys"] = np.array([[k[0], k[2], k[4]] for k, _ in primes], np.int16)
            arrays[f"{stem}/primes"] = np.concatenate([values for _, values in primes])
    DATA.mkdir(exist_ok=True)
    (DATA / "amp-reference.json").write_text(json.dumps(text, indent=1) + "\n")
    np.savez_compressed(DATA / "amp-reference.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
