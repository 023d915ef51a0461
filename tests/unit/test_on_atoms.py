"""Calculators step after step, in several threads, and committees that share neighbours."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111
from ase.md.verlet import VelocityVerlet

from ampmpi import Amp, Committee, Custom, Gaussian, NeuralNetwork, Zernike
from ampmpi.descriptor import make_symmetry_functions
from ampmpi.errors import ImageError, InputError
from ampmpi.on_atoms import SKIN, OnAtoms
from ampmpi.parallel import wishes

ELEMENTS = ["Cu", "Pt"]


def alloy(repeat=(2, 2, 2), seed=0):
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True) * repeat
    atoms.numbers[::3] = 78
    atoms.rattle(0.08, seed=seed)
    return atoms


def images():
    slab = fcc111("Cu", (2, 2, 3), vacuum=5.0)
    slab.numbers[::2] = 78
    thin = bulk("Cu", a=3.7)  # much smaller than the cutoff
    thin.set_cell(thin.cell.array + np.diag([0.3, 0.1, 0.2]))
    outside = alloy((1, 1, 1))
    outside.positions += [[37.0, -12.0, 5.0]]
    cluster = Atoms("CuPtCuPt", positions=np.random.default_rng(3).normal(size=(4, 3)) * 1.6)
    return [alloy(), slab, thin, outside, cluster, Atoms("Pt")]


def calculator(seed=1, descriptor=None, **keywords):
    """Return a random network whose ranges are those of an alloy."""
    descriptor = (descriptor or Gaussian(4.5)).resolve(ELEMENTS)
    atoms = alloy()
    fingerprint = descriptor.fingerprint(atoms)
    ranges = {}
    for element in ELEMENTS:
        rows = np.array(fingerprint.symbols) == element
        values = fingerprint.values[rows, : descriptor.n_features[element]]
        ranges[element] = np.stack([values.min(axis=0) - 0.1, values.max(axis=0) + 0.1], axis=1)
    model = NeuralNetwork((6, 5), randomseed=seed)
    model.initialise(ranges, np.array([0.0, 2.0 * len(atoms)]), np.array([[20.0, 12.0]] * 2))
    return Amp(descriptor, model, **keywords)


def by_the_descriptor(amp, atoms):
    """Return energies, forces and virial by the descriptor's own methods."""
    descriptor = amp.descriptor.resolve(ELEMENTS)
    energies, dE_dG = amp.model.atomic_energies(descriptor.fingerprint(atoms))
    return energies, *descriptor.contract(atoms, dE_dG)


@pytest.mark.parametrize("kind", [Gaussian, Zernike])
def test_a_calculator_gives_what_its_descriptor_does(kind):
    amp = calculator(descriptor=kind(4.5))
    for atoms in images():
        energies, forces, virial = by_the_descriptor(amp, atoms)
        atoms.calc = amp
        np.testing.assert_allclose(atoms.get_potential_energies(), energies, atol=1e-12)
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-11)
        if atoms.cell.rank == 3:
            stress = virial / atoms.get_volume()
            np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, atol=1e-12)


def test_neighbors_are_kept_within_the_skin_and_no_further():
    amp, atoms = calculator(), alloy()
    atoms.calc = amp
    atoms.get_forces()
    verlet = amp._kept.on_atoms._verlet
    rng = np.random.default_rng(5)
    moved = 0.0
    for _ in range(60):
        step = rng.normal(size=3)
        step *= 0.11 * SKIN / np.linalg.norm(step)
        atoms.positions[3] += step
        _, forces, _ = by_the_descriptor(amp, atoms)
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-11)
        moved += 0.11 * SKIN
    assert 3 < verlet.n_searches < 25
    atoms.positions[3] += 0.49 * SKIN * np.array([1.0, 0.0, 0.0])
    atoms.get_forces()
    before = verlet.n_searches
    atoms.positions[3, 0] += 0.02 * SKIN
    atoms.get_forces()
    assert verlet.n_searches <= before + 1


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.set_cell(atoms.cell.array * 1.003, scale_atoms=True),
        lambda atoms: atoms.set_pbc([True, True, False]),
        lambda atoms: atoms.numbers.__setitem__(1, 78),
        lambda atoms: atoms.__delitem__(4),
        lambda atoms: atoms.wrap(),
    ],
    ids=["cell", "pbc", "numbers", "fewer", "wrapped"],
)
def test_other_images_are_searched_anew(change):
    amp, atoms = calculator(), alloy()
    atoms.calc = amp
    atoms.get_forces()
    change(atoms)
    _, forces, _ = by_the_descriptor(amp, atoms)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-11)


def test_atoms_in_the_wrong_place_are_named_at_any_step():
    amp, atoms = calculator(), alloy()
    atoms.calc = amp
    atoms.get_forces()
    good = atoms.positions.copy()
    atoms.positions[5] = np.nan
    with pytest.raises(ImageError, match="position of atom 5"):
        atoms.get_forces()
    atoms.positions[:] = good
    atoms.positions[6] = atoms.positions[2] + atoms.cell.array[0]
    with pytest.raises(ImageError, match=r"atoms 2 \(Cu\) and 6 \(Pt\) overlap"):
        atoms.get_forces()
    atoms.positions[:] = good
    _, forces, _ = by_the_descriptor(amp, atoms)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-11)


def test_a_model_that_changes_is_followed():
    amp, atoms = calculator(), alloy()
    atoms.calc = amp
    before = atoms.get_potential_energy()
    amp.model.layers["Cu"][0][0, 0] += 0.1
    amp.results.clear()
    after = atoms.get_potential_energy()
    assert after == pytest.approx(by_the_descriptor(amp, atoms)[0].sum(), abs=1e-10)
    assert after != before


def test_energy_is_conserved():
    atoms = alloy()
    atoms.calc = calculator()
    momenta = np.random.default_rng(0).normal(size=(len(atoms), 3))
    atoms.set_momenta(momenta * np.sqrt(atoms.get_masses()[:, np.newaxis] * 0.02))
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    dynamics.run(1)
    start = atoms.get_total_energy()
    kinetic = []
    for _ in range(40):
        dynamics.run(5)
        kinetic.append(atoms.get_kinetic_energy())
    assert atoms.calc._kept.on_atoms._verlet.n_searches > 1
    assert abs(atoms.get_total_energy() - start) < 0.02 * np.ptp(kinetic)


def test_the_number_of_threads_changes_no_bit():
    atoms = alloy((5, 5, 4))
    found = []
    for threads in (1, 2, 3):
        atoms.calc = calculator(threads=threads)
        assert atoms.calc.threads == threads
        found.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, same)
    np.testing.assert_allclose(found[0][1], by_the_descriptor(atoms.calc, atoms)[1], atol=1e-11)


@pytest.mark.parametrize("threads", [0, 1.5, True, "two"])
def test_a_wrong_number_of_threads_is_named(threads):
    with pytest.raises(InputError, match="threads is"):
        calculator(threads=threads)
    with pytest.raises(InputError, match="threads is"):
        Committee([calculator()], threads=threads)


def test_threads_are_not_for_ranks(monkeypatch, capfd):
    monkeypatch.setattr("ampmpi.parallel.launch.several_ranks", lambda: True)
    wishes._say.cache_clear()
    for _ in range(2):
        assert calculator(threads=4).threads == 1
    assert capfd.readouterr().err.count("threads=4 is taken for 1") == 1
    wishes._say.cache_clear()


@pytest.mark.parametrize("kind", ["amp", "committee"])
def test_a_calculator_that_several_threads_share_gives_each_its_own_results(kind):
    shared = calculator() if kind == "amp" else Committee([calculator(1), calculator(2)])
    alone = calculator() if kind == "amp" else Committee([calculator(1), calculator(2)])
    sets = [[alloy((1, 1, 2), 10 * worker + n) for n in range(8)] for worker in range(4)]
    expected = []
    for some in sets:
        for atoms in some:
            atoms.calc = alone
        expected.append([(one.get_potential_energy(), one.get_forces()) for one in some])
    ready = threading.Barrier(4)

    def work(some):
        ready.wait()
        found = []
        for atoms in some:
            atoms.calc = shared
            found.append((atoms.get_potential_energy(), atoms.get_forces()))
        return found

    with ThreadPoolExecutor(4) as pool:
        for found, right in zip(pool.map(work, sets * 3), expected * 3, strict=True):
            for (energy, forces), (true_energy, true_forces) in zip(found, right, strict=True):
                assert energy == pytest.approx(true_energy, abs=1e-10)
                np.testing.assert_allclose(forces, true_forces, atol=1e-10)


def test_a_new_model_clears_the_results_of_every_thread():
    amp, atoms = calculator(), alloy()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(amp.get_potential_energy, atoms).result()
        amp.model = calculator(7).model
        assert pool.submit(amp.get_potential_energy, atoms).result() != first


@pytest.mark.parametrize("way", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_have_the_results(way):
    atoms = alloy()
    atoms.calc = Committee([calculator(1), calculator(2)])
    atoms.get_forces()
    other = way(atoms.calc)
    assert other.results["energy"] == atoms.calc.results["energy"]
    assert not other.calculation_required(atoms, ["energy", "forces"])
    moved = alloy(seed=4)
    np.testing.assert_allclose(other.get_forces(moved), atoms.calc.get_forces(moved), atol=1e-12)


def by_hand(members, atoms):
    energies, atomic, forces = [], [], []
    for one in members:
        atoms.calc = one
        energies.append(atoms.get_potential_energy())
        atomic.append(atoms.get_potential_energies())
        forces.append(atoms.get_forces())
    return np.array(energies), np.array(atomic), np.array(forces)


def test_a_committee_has_means_and_spreads_also_of_different_descriptors():
    members = [calculator(1), calculator(2), calculator(3, Gaussian(4.0)), calculator(4)]
    for atoms in images()[:3]:
        energies, atomic, forces = by_hand(members, atoms)
        committee = Committee(members)
        atoms.calc = committee
        np.testing.assert_allclose(atoms.get_forces(), forces.mean(axis=0), atol=1e-11)
        found = committee.results
        assert found["energy"] == pytest.approx(energies.mean(), abs=1e-11)
        assert found["energy_spread"] == pytest.approx(energies.std(), rel=1e-9)
        np.testing.assert_allclose(found["energies"], atomic.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(found["energies_spread"], atomic.std(axis=0), atol=1e-12)
        spread = np.sqrt(forces.var(axis=0).mean(axis=-1))
        assert "forces_spread" not in found
        np.testing.assert_allclose(found["forces_spread"], spread, atol=1e-11)
        np.testing.assert_allclose(
            Committee(members).get_property("forces_spread", atoms), spread, atol=1e-11
        )


def test_the_spread_of_forces_is_that_of_its_step():
    """Looked up later, when neighbours have been kept and moved on."""
    atoms, members = alloy(), [calculator(1), calculator(2)]
    _, _, forces = by_hand(members, atoms)
    spread = np.sqrt(forces.var(axis=0).mean(axis=-1))
    atoms.calc = committee = Committee(members)
    atoms.get_forces()
    first = committee.results
    atoms.rattle(0.02, seed=3)
    atoms.get_forces()
    np.testing.assert_allclose(first["forces_spread"], spread, atol=1e-11)
    assert np.abs(committee.results["forces_spread"] - spread).max() > 1e-6
    with pytest.raises(KeyError, match="charges"):
        committee.results["charges"]


def test_without_forces_there_is_no_spread_of_them():
    committee, atoms = Committee([calculator(1), calculator(2)]), alloy()
    committee.get_potential_energy(atoms)
    with pytest.raises(KeyError, match="forces_spread"):
        committee.results["forces_spread"]


def test_members_that_cannot_share_neighbors_are_calculated_each():
    gaussian = Gaussian(4.5, elements=ELEMENTS)

    def features(atoms):
        return [row[:20] for row in gaussian.fingerprint(atoms).values]

    custom = Custom(features, name="mine", elements=ELEMENTS, n_features=20)
    assert OnAtoms().evaluate([(custom, calculator().model)], alloy(), False, 1) is None
    members = [calculator(1), calculator(2)]
    other = Amp(custom, members[1].model)
    atoms = alloy()
    both = Committee([members[0], other]).get_potential_energy(atoms)
    assert both == pytest.approx(Committee(members).get_potential_energy(atoms), abs=1e-10)


def test_functions_that_look_at_angles_are_refused_where_they_have_no_value():
    functions = make_symmetry_functions(ELEMENTS, "G4", [0.005], zetas=[2.5], gammas=[1.5])
    gaussian = Gaussian(4.5, functions, elements=ELEMENTS)
    model = NeuralNetwork(
        (3,), fprange={e: [[0.0, 1.0]] * len(functions) for e in ELEMENTS}, randomseed=1
    )
    model.initialise({e: np.array([[0.0, 1.0]] * len(functions)) for e in ELEMENTS},
                     np.array([0.0, 1.0]), np.array([[1.0, 1.0]] * 2))  # fmt: skip
    with pytest.raises(ImageError, match="no value at an angle"):
        Amp(gaussian, model).get_potential_energy(alloy())
    assert np.isfinite(Amp(gaussian, model).get_potential_energy(Atoms("Cu")))
