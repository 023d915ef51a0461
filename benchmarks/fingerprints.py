"""Fingerprints of one image on one core: ampmpi beside Amp, dscribe and ASE's neighbour list.

    python benchmarks/fingerprints.py [--amp-python PATH] [--dscribe-python PATH] [--plot FILE]
        [--directory DIR]

Amp and dscribe run under an interpreter of their own, on the same core, one after
the other; without the option a peer is left out. Times are medians. Amp's primes
are measured on the small images only: for 108 atoms they take a minute and a half.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.cluster import Octahedron

CUTOFF = 6.5


def images():
    """Make the images that every program is given."""
    return {
        "108 Cu/Pt": alloy(3, 3, 3, ("Cu", "Pt")),
        "8 Cu/Pt": alloy(2, 1, 1, ("Cu", "Pt")),
        "water": molecule("H2O"),
    }


def alloy(nx, ny, nz, elements, a=3.75):
    """Make a rattled fcc cell with its elements at random."""
    rng = np.random.default_rng(0)
    atoms = bulk("Cu", cubic=True, a=a) * (nx, ny, nz)
    atoms.symbols = rng.permutation(np.resize(elements, len(atoms)))
    atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    return atoms


def median_ms(function, repeats, longest=3.0):
    """Median time of a call, in ms; fewer repeats where they would take too long."""
    function()
    times = []
    end = time.perf_counter() + longest
    while len(times) < repeats and (time.perf_counter() < end or len(times) < 3):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def measure_ampmpi(atoms, repeats):
    from ampmpi.descriptor import Gaussian

    gaussian = Gaussian(CUTOFF, elements=sorted(set(atoms.symbols)))
    dE_dG = np.ones((len(atoms), max(gaussian.n_features.values())))
    return {
        "ampmpi neighbour list": median_ms(lambda: gaussian.surroundings(atoms), repeats),
        "ampmpi fingerprint": median_ms(lambda: gaussian.fingerprint(atoms), repeats),
        "ampmpi fingerprint, primes": median_ms(lambda: gaussian.calculate(atoms), repeats),
        "ampmpi forces": median_ms(lambda: gaussian.contract(atoms, dE_dG), repeats),
    }


def measure_ase(atoms, repeats):
    from ase.neighborlist import neighbor_list

    call = lambda: neighbor_list("ijD", atoms, CUTOFF)  # noqa: E731
    return {"ASE neighbour list": median_ms(call, repeats)}


def measure_amp(atoms, repeats):
    from amp.descriptor import gaussian as amp

    cutoff = {"name": "Cosine", "kwargs": {"Rc": CUTOFF}}
    Gs = amp.make_default_symmetry_functions(sorted(set(atoms.symbols)))

    def neighbors():
        return {"key": amp.NeighborlistCalculator(CUTOFF).calculate(atoms, "key")}

    def fingerprint():
        return amp.FingerprintCalculator(neighbors(), Gs, cutoff, True).calculate(atoms, "key")

    def primes():
        near = neighbors()
        amp.FingerprintCalculator(near, Gs, cutoff, True).calculate(atoms, "key")
        amp.FingerprintPrimeCalculator(near, Gs, cutoff, True).calculate(atoms, "key")

    times = {"Amp fingerprint": median_ms(fingerprint, repeats)}
    if len(atoms) <= 8:
        times["Amp fingerprint, primes"] = median_ms(primes, 3)
    return times


def cluster():
    """Make the 13 atoms with which Amp's Zernike is compared."""
    atoms = Octahedron("Cu", 3, cutoff=1)
    atoms.numbers[::3] = 78
    atoms.positions += np.random.default_rng(0).normal(scale=0.1, size=(len(atoms), 3))
    return atoms


def measure_zernike(atoms, repeats):
    from ampmpi.descriptor import Zernike

    zernike = Zernike(CUTOFF, elements=sorted(set(atoms.symbols)))
    dE_dG = np.ones((len(atoms), max(zernike.n_features.values())))
    return {
        "ampmpi fingerprint": median_ms(lambda: zernike.fingerprint(atoms), repeats),
        "ampmpi fingerprint, primes": median_ms(lambda: zernike.calculate(atoms), repeats),
        "ampmpi forces": median_ms(lambda: zernike.contract(atoms, dE_dG), repeats),
    }


def measure_amp_zernike(atoms, repeats):
    from amp.descriptor import zernike as amp

    settings = {
        "Gs": amp.generate_coefficients(sorted(set(atoms.symbols))),
        "nmax": 5,
        "cutoff": {"name": "Cosine", "kwargs": {"Rc": CUTOFF}},
        "fortran": True,
    }

    def neighbors():
        return {"key": amp.NeighborlistCalculator(CUTOFF).calculate(atoms, "key")}

    def fingerprint():
        return amp.FingerprintCalculator(neighbors(), **settings).calculate(atoms, "key")

    def primes():
        near = neighbors()
        amp.FingerprintCalculator(near, **settings).calculate(atoms, "key")
        amp.FingerprintPrimeCalculator(near, **settings).calculate(atoms, "key")

    return {
        "Amp fingerprint": median_ms(fingerprint, repeats),
        "Amp fingerprint, primes": median_ms(primes, repeats),
    }


def measure_dscribe(atoms, repeats):
    from dscribe.descriptors import ACSF

    scale = 1.0 / CUTOFF**2
    acsf = ACSF(
        species=sorted(set(atoms.symbols)),
        r_cut=CUTOFF,
        periodic=bool(atoms.pbc.any()),
        g2_params=[[eta * scale, 0.0] for eta in np.logspace(np.log10(0.05), np.log10(5.0), 4)],
        g4_params=[[0.005 * scale, zeta, gamma] for zeta in (1, 4) for gamma in (1, -1)],
    )
    return {"dscribe fingerprint": median_ms(lambda: acsf.create(atoms), repeats)}


PEERS = {"amp": measure_amp, "amp-zernike": measure_amp_zernike, "dscribe": measure_dscribe}


def to_plain(atoms):
    return {
        "symbols": list(atoms.symbols),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
    }


def run_peer(name, python, atoms, repeats):
    """Measure a peer under its interpreter, on the core that this process is bound to."""
    command = [python, __file__, "--peer", name, "--repeats", str(repeats)]
    done = subprocess.run(
        command, input=json.dumps(to_plain(atoms)), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{name} under {python} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def print_times(name, times):
    print(f"\n{name}")
    for label, ms in times.items():
        kind = label.split(" ", 1)[1]
        own = times.get(f"ampmpi {kind}")
        ratio = f"{ms / own:10.1f} x" if own and not label.startswith("ampmpi") else ""
        print(f"  {label:28s} {ms:12.3f} ms {ratio}")
    if "dscribe fingerprint" in times:
        ratio = times["dscribe fingerprint"] / times["ampmpi fingerprint, primes"]
        print(f"  dscribe's fingerprint takes {ratio:.1f} x ampmpi's fingerprint with primes")


def richer_sets():
    """Descriptor and image of each point of the curve."""
    from ampmpi.descriptor import Gaussian, make_symmetry_functions

    def rich(elements, etas, zetas, radius=CUTOFF, kind="G4"):
        Gs = make_symmetry_functions(elements, "G2", [0.05, 0.5, 5.0], offsets=[0.0, 1.5, 3.0])
        Gs += make_symmetry_functions(elements, kind, etas, zetas=zetas, gammas=[1, -1])
        return Gaussian(radius, Gs, elements=elements)

    two, four = ["Cu", "Pt"], ["Ag", "Au", "Cu", "Pt"]
    cell = alloy(3, 3, 3, two)
    return {
        "defaults": (Gaussian(CUTOFF, elements=two), cell),
        "G4, three η": (rich(two, [0.005, 0.5, 4.0], [1, 4]), cell),
        "G4, ζ to 16": (rich(two, [0.005], [1, 2, 4, 8, 16]), cell),
        "G5": (rich(two, [0.005], [1, 4], kind="G5"), cell),
        "four elements": (Gaussian(CUTOFF, elements=four), alloy(3, 3, 3, four)),
        "Rc 8 Å": (Gaussian(8.0, elements=two), cell),
        "500 atoms": (Gaussian(CUTOFF, elements=two), alloy(5, 5, 5, two)),
    }


def measure_curve(repeats):
    """Time and triplets of each richer set."""
    print(f"\n{'set':16s} functions   triplets  fingerprint     primes    ns/(triplet·function)")
    points = []
    for name, (gaussian, atoms) in richer_sets().items():
        near = np.diff(gaussian.surroundings(atoms).neighbors.start)
        triplets = int((near * (near - 1) // 2).sum())
        values = median_ms(lambda g=gaussian, a=atoms: g.fingerprint(a), repeats)
        primes = median_ms(lambda g=gaussian, a=atoms: g.calculate(a), repeats)
        n = max(gaussian.n_features.values())
        print(
            f"{name:16s} {n:9d} {triplets:10d} {values:9.2f} ms {primes:7.2f} ms"
            f" {1e6 * values / triplets / n:9.2f} {1e6 * primes / triplets / n:9.2f}"
        )
        points.append((name, triplets, values, primes))
    return points


def measure_put(directory, repeats):
    """Time an entry's way to disk, and a bare write and rename of the same bytes."""
    from ampmpi import FingerprintDatabase
    from ampmpi.descriptor import Gaussian
    from ampmpi.entries.codec import encode

    print(f"\nprimes to {directory}      bytes     encode        put       bare   put/bare")
    for name, atoms in images().items():
        primes = Gaussian(CUTOFF, elements=sorted(set(atoms.symbols))).fingerprint_primes(atoms)
        data = encode(primes)
        encoding = median_ms(lambda p=primes: encode(p), repeats)
        times = []
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            database = FingerprintDatabase(f"{folder}/x-fingerprint-primes.ampdb")
            database.make()
            for number in range(repeats):  # in turns, since a disk's speed varies
                start = time.perf_counter()
                database.put_bytes(f"{number:032x}", data)
                between = time.perf_counter()
                write(Path(folder, str(number)), data)
                times.append((between - start, time.perf_counter() - between))
        put, bare = 1e3 * np.median(times, axis=0)
        print(
            f"{name:{len(directory) + 14}s} {len(data):9d} {encoding:7.3f} ms {put:7.3f} ms"
            f" {bare:7.3f} ms {put / bare:8.2f}"
        )


def write(path, data):
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb", buffering=0) as file:
        file.write(data)
    temporary.rename(path)


def plot(points, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    names, triplets, values, primes = zip(*points, strict=True)
    axes.loglog(triplets, values, "o", label="fingerprint")
    axes.loglog(triplets, primes, "s", label="fingerprint and primes")
    for name, x, y in zip(names, triplets, primes, strict=True):
        axes.annotate(name, (x, y), xytext=(5, 3), textcoords="offset points", fontsize=7)
    axes.set(xlabel="triplets", ylabel="time of one image, ms")
    axes.legend()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--amp-python", help="interpreter that imports amp")
    parser.add_argument("--dscribe-python", help="interpreter that imports dscribe")
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    parser.add_argument(
        "--repeats", type=int, default=200, help="calls of which to take the median"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the time against the triplets")
    parser.add_argument("--directory", metavar="DIR", help="measure an entry's way to this disk")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        atoms = Atoms(**json.load(sys.stdin))
        print(json.dumps(PEERS[options.peer](atoms, options.repeats)))
        return

    os.sched_setaffinity(0, {options.core})
    os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
    print(f"One core, cutoff {CUTOFF} Å, Amp's default functions; medians of {options.repeats}.")
    for name, atoms in images().items():
        times = measure_ampmpi(atoms, options.repeats)
        times |= measure_ase(atoms, options.repeats)
        for peer, python in (("dscribe", options.dscribe_python), ("amp", options.amp_python)):
            if python:
                times |= run_peer(peer, python, atoms, options.repeats)
        print_times(name, times)
    times = measure_zernike(cluster(), options.repeats)
    if options.amp_python:
        times |= run_peer("amp-zernike", options.amp_python, cluster(), options.repeats)
    print_times("Zernike, cluster of 13 Cu/Pt", times)
    if options.directory:
        measure_put(options.directory, max(options.repeats // 4, 3))
    points = measure_curve(max(options.repeats // 10, 3))
    if options.plot:
        plot(points, options.plot)


if __name__ == "__main__":
    main()
