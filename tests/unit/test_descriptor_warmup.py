"""Compiling: once, few kernels, and not before they are needed."""

import subprocess
import sys

import numpy as np
from ase import Atoms
from ase.build import bulk

from ampmpi.descriptor import (
    Gaussian,
    Polynomial,
    compile_count,
    make_symmetry_functions,
    strain_warmup,
    warm_up,
)
from ampmpi.descriptor.compiled import ENTRIES, entry


def test_importing_the_descriptor_does_not_import_numba():
    code = (
        "import sys, ampmpi.descriptor as d; g = d.Gaussian(elements=['H']); g.digest; "
        "sys.exit('numba' in sys.modules or 'scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_signature_each_whatever_the_data():
    warm_up()
    strain_warmup.warm_up()
    rng = np.random.default_rng(0)
    rich = make_symmetry_functions(["Cu", "Pt"], "G5", [4.0], zetas=[2.5], gammas=[0.5])
    for gaussian in (
        Gaussian(4.0, elements=["Cu"]),
        Gaussian(Polynomial(4.0, 2.5), {"Cu": rich}),
        Gaussian(4.0, {"Cu": make_symmetry_functions(["Cu"], "G2", [0.1])}),
    ):
        for atoms in (Atoms("Cu"), bulk("Cu"), bulk("Cu", cubic=True)[[2, 0, 1]]):
            atoms.positions.flags.writeable = False
            values = gaussian.calculate(atoms)[0].values
            dE_dG = rng.normal(size=values.shape[::-1]).T  # not in C order
            dE_dG.flags.writeable = False
            gaussian.fingerprint(atoms)
            gaussian.contract(atoms, dE_dG)
            gaussian.contract(atoms, dE_dG.astype(np.float32))
            gaussian.strain_derivatives(atoms)
    assert [len(entry.signatures) for entry in ENTRIES] == [1] * len(ENTRIES)


def test_another_process_compiles_nothing():
    warm_up()
    code = "from ampmpi.descriptor import warm_up, compile_count; warm_up(); print(compile_count())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(other.stdout) == 0


def test_without_a_cache_every_entry_is_counted():
    """What is counted is compiling, not calling."""

    @entry
    def twice(x):
        return x + x

    try:
        before = compile_count()
        assert twice(2.0) + twice(3.0) == 10.0
        compiled = compile_count() - before
    finally:
        ENTRIES.remove(twice)
    assert compiled + sum(twice.stats.cache_hits.values()) == 1


def test_the_count_is_of_what_this_process_compiled():
    warm_up()
    before = compile_count()
    warm_up()
    assert compile_count() == before
