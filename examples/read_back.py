"""Read the demo's databases: one entry by name, and all of them in a row."""

from __future__ import annotations

from ase.io import read

from ampmpi import FingerprintDatabase, Gaussian, hash_image


def main() -> None:
    """Compare what the databases hold with what is computed here."""
    atoms = read("bulk.traj", index=0)
    key = hash_image(atoms)
    gaussian = Gaussian.from_toml("cupt-functions.toml")

    fingerprints = FingerprintDatabase("cupt-fingerprints.ampdb")
    primes = FingerprintDatabase("cupt-fingerprint-primes.ampdb")
    print(f"{len(fingerprints)} fingerprints, {len(primes)} sets of derivatives")
    print(f"image 0 of bulk.traj is {key}")
    print(
        f"its first atom, {fingerprints[key].symbols[0]}:",
        fingerprints[key].values[0, :8].round(4),
        "…",
    )
    difference = abs(fingerprints[key].values - gaussian.fingerprint(atoms).values).max()
    print(f"largest difference from what is computed now: {difference:.1e}")

    pairs = sum(len(entry.pairs) for _, entry in primes.get_many(primes))
    print(f"{pairs} pairs of atoms with derivatives, read in the order in which they lie on disk")


if __name__ == "__main__":
    main()
