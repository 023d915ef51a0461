"""Labels under any name, in any unit, and what is said of those that are wrong."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
from contextlib import closing

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write
from training_images import emt_images

from ampmpi.errors import ImageFileError, InputError
from ampmpi.images import hash_image, open_images
from ampmpi.images.files import ImageFile, iterate
from ampmpi.images.glance import choose_labels, unit_doubts
from ampmpi.images.imageset import as_read
from ampmpi.images.labels import (
    LabelError,
    LabelKeys,
    choose,
    energy_of,
    forces_of,
    meaning,
    offers,
)
from ampmpi.images.reading import Reading, named
from ampmpi.images.units import Units, parse_units

ASES_OWN = LabelKeys()


def bare(image):
    """Return an image without labels, and its energy and forces."""
    energy, forces = image.get_potential_energy(), image.get_forces()
    image = image.copy()
    image.calc = None
    return image, energy, forces


def relabelled(images, energy_name, forces_name):
    for image in images:
        copy, energy, forces = bare(image)
        copy.info[energy_name] = energy
        copy.arrays[forces_name] = forces
        yield copy


def read_all(path, reading=None):
    images = open_images(named([path], reading or Reading()))
    with closing(images):
        return [image for _, image in images.read_many(range(len(images)), results=True)]


@pytest.mark.parametrize(
    ("energy_name", "forces_name"),
    [
        ("REF_energy", "REF_forces"),
        ("dft_energy", "dft_force"),
        ("DFT_energy", "DFT_forces"),
        ("Energy", "force"),
        ("total_energy", "forces"),
        ("energy_dft", "forces_dft"),
        ("REF_total_energy", "REF_forces"),
    ],
)
def test_one_set_of_labels_is_found_in_a_file_and_named(tmp_path, energy_name, forces_name):
    images = emt_images(3)
    path = tmp_path / "a.extxyz"
    write(path, list(relabelled(images, energy_name, forces_name)))
    opened = open_images(str(path))
    choice = choose_labels(opened, ASES_OWN)
    assert choice.keys.get("energy") == energy_name
    assert choice.keys.get("forces") == forces_name
    assert energy_name in choice.note
    for wanted, found in zip(images, read_all(path), strict=True):
        assert energy_of(found, choice.keys) == pytest.approx(wanted.get_potential_energy())
        assert forces_of(found, choice.keys) == pytest.approx(wanted.get_forces(), abs=1e-7)


def test_labels_in_memory_are_found_in_info_and_arrays():
    image, energy, forces = bare(emt_images(1)[0])
    image.info["energy"], image.arrays["forces"] = energy, forces
    choice = choose([offers(image)], ASES_OWN)
    assert "energies are 'energy'" in choice.note
    assert energy_of(image, choice.keys) == energy
    assert (forces_of(image, choice.keys) == forces).all()


def test_labels_in_a_databases_data_and_key_value_pairs(tmp_path):
    image, energy, forces = bare(emt_images(1)[0])
    with connect(tmp_path / "a.db") as database:
        database.write(image, dft_energy=energy, data={"dft_forces": forces})
    [found] = read_all(tmp_path / "a.db")
    choice = choose([offers(found)], ASES_OWN)
    assert energy_of(found, choice.keys) == pytest.approx(energy)
    assert forces_of(found, choice.keys) == pytest.approx(forces)


def test_several_sets_are_refused_by_name():
    image, energy, forces = bare(emt_images(1)[0])
    image.info.update(REF_energy=energy, mace_energy=energy + 1)
    image.arrays.update(REF_forces=forces, mace_forces=2 * forces)
    with pytest.raises(InputError, match=r"'REF_energy' with 'REF_forces'.*mace.*--energy-key"):
        choose([offers(image)], ASES_OWN)
    choice = choose([offers(image)], LabelKeys(energy="mace_energy"))
    assert choice.keys.forces == "mace_forces"
    assert energy_of(image, choice.keys) == energy + 1
    image.arrays["mace_force"] = forces
    with pytest.raises(InputError, match=r"several forces, 'mace_force', .*--forces-key"):
        choose([offers(image)], LabelKeys(energy="mace_energy"))


def test_forces_of_other_energies_are_not_taken():
    image, energy, forces = bare(emt_images(1)[0])
    image.info.update(energy=energy, mace_energy=energy + 1)
    image.arrays["mace_forces"] = forces
    with pytest.raises(InputError, match=r"energies are 'energy', but the only forces, 'mace_fo"):
        choose([offers(image)], ASES_OWN)
    assert choose([offers(image)], ASES_OWN, forces=False).keys.energy is None
    assert choose([offers(image)], LabelKeys(forces="mace_forces")).keys.energy is None
    assert choose([offers(image)], LabelKeys(energy="mace_energy")).keys.forces == "mace_forces"
    image.arrays["forces"] = image.arrays.pop("mace_forces")
    with pytest.raises(InputError, match="belong with 'energy'"):
        choose([offers(image)], LabelKeys(energy="mace_energy"))


@pytest.mark.parametrize("word", [
    "predicted", "member3", "spread", "relaxed", "initial", "barrier", "rel", "d3", "form",
])  # fmt: skip
def test_what_a_potential_predicts_and_other_scales_are_no_labels(word):
    image = bulk("Cu")
    image.info[f"{word}_energy"] = image.info[f"energy_{word}"] = 1.0
    image.arrays[f"{word}_forces"] = np.zeros((1, 3))
    assert choose([offers(image)], ASES_OWN).keys == ASES_OWN
    with pytest.raises(LabelError, match="has no energy"):
        energy_of(image, ASES_OWN)


def test_of_several_forces_none_is_needed_for_energies_alone():
    image = bulk("Cu")
    image.info["energy"] = 1.0
    image.arrays.update(a_forces=np.zeros((1, 3)), b_forces=np.zeros((1, 3)))
    with pytest.raises(InputError, match="several forces"):
        choose([offers(image)], ASES_OWN)
    assert choose([offers(image)], ASES_OWN, forces=False).keys == ASES_OWN


def test_ases_own_labels_come_first_and_others_are_mentioned():
    [image] = emt_images(1)
    image.info["REF_energy"] = 5.0
    choice = choose([offers(image)], ASES_OWN)
    assert choice.keys == ASES_OWN
    assert choice.note == ""
    assert "'REF_energy', too" in choice.warning
    image.info.clear()
    assert choose([offers(image)], ASES_OWN).warning == ""


def test_a_free_energy_alone_is_used_and_named():
    image, energy, forces = bare(emt_images(1)[0])
    image.calc = SinglePointCalculator(image, free_energy=energy, forces=forces)
    choice = choose([offers(image)], ASES_OWN)
    assert choice.note == "energies are 'free_energy'"
    assert energy_of(image, choice.keys) == energy
    assert (forces_of(image, choice.keys) == forces).all()


@pytest.mark.parametrize(
    ("name", "value", "how"),
    [
        ("energies", lambda n: np.full(n, -3.0), "summed over the atoms"),
        ("energy_per_atom", lambda n: -3.0, "times the number of atoms"),
        ("REF_energy_per_atom", lambda n: -3.0, "times the number of atoms"),
    ],
)
def test_energies_of_atoms_are_added_up(name, value, how):
    image = bulk("Cu", cubic=True)
    (image.arrays if name == "energies" else image.info)[name] = value(len(image))
    choice = choose([offers(image)], ASES_OWN)
    assert name in choice.note
    assert how in choice.note
    assert energy_of(image, choice.keys) == pytest.approx(-12.0)


@pytest.mark.parametrize(
    "name",
    ["kinetic_energy", "fermi_energy", "formation_energy", "energy_cutoff", "atom_energy",
     "energy_kcal", "e", "config_type", "force_max", "energy_error", "band_energy"],
)  # fmt: skip
def test_what_is_no_label_is_not_taken_for_one(name):
    assert meaning(name) is None


def test_where_nothing_is_recognised_all_names_are_listed():
    image = bulk("Cu")
    image.info.update(U_dft=-1.0, config_type="bulk")
    choice = choose([offers(image)], ASES_OWN)
    assert choice.keys == ASES_OWN
    assert choice.found == "they carry U_dft, config_type"
    assert energy_of(image, LabelKeys("U_dft")) == -1.0


def test_a_live_calculator_is_asked():
    shared = EMT()
    images = [bulk("Cu", a=a) for a in (3.5, 3.7)]
    for image in images:
        image.calc = shared
    choice = choose(map(offers, images), ASES_OWN)
    assert choice.note == ""
    for image in images:
        assert forces_of(image, choice.keys).shape == (1, 3)
        fresh = image.copy()
        fresh.calc = EMT()
        assert energy_of(image, choice.keys) == pytest.approx(fresh.get_potential_energy())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.array([2.5]), None),
        (np.array([[2.5]]), None),
        (3, None),
        (np.nan, "has the energy nan"),
        (1 + 2j, "has the complex energy"),
        ("-3.5 eV", "has the energy '-3.5 eV', no number"),
        (np.zeros(3), r"has an energy of shape \(3,\)"),
        (None, "has no energy"),
    ],
)
def test_an_energy_is_one_number(value, reason):
    image = bulk("Cu", cubic=True)
    image.calc = SinglePointCalculator(image)
    image.calc.results["energy"] = value
    if reason is None:
        assert energy_of(image, ASES_OWN) == float(np.ravel(value)[0])
        return
    with pytest.raises(LabelError, match=reason):
        energy_of(image, ASES_OWN)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.zeros((3, 3)), r"has forces of shape \(3, 3\) where \(4, 3\) is expected"),
        (np.zeros(12), "has forces of shape"),
        (np.full((4, 3), np.nan), "has forces that are not finite"),
        (np.zeros((4, 3), complex), "not real numbers"),
        (None, "has no forces"),
    ],
)
def test_forces_are_a_vector_for_each_atom(value, reason):
    image = bulk("Cu", cubic=True)
    image.calc = SinglePointCalculator(image, energy=1.0)
    image.calc.results["forces"] = value
    with pytest.raises(LabelError, match=reason) as caught:
        forces_of(image, ASES_OWN)
    other = pickle.loads(pickle.dumps(caught.value))
    assert (str(other), other.kind) == (str(caught.value), caught.value.kind)


@pytest.mark.parametrize(
    ("text", "length", "energy"),
    [
        ("eV,Å", "Å", "eV"),
        ("angstrom, EV", "Å", "eV"),
        ("metal", "Å", "eV"),
        ("atomic", "Bohr", "Hartree"),
        ("Ha,bohr", "Bohr", "Hartree"),
        ("nm", "nm", "eV"),
        ("kcal/mol", "Å", "kcal/mol"),
        ("eV,A", "Å", "eV"),
        ("au", "Bohr", "Hartree"),
        ("a.u.", "Bohr", "Hartree"),
    ],
)
def test_names_of_units(text, length, energy):
    assert parse_units(text) == Units(length, energy)


@pytest.mark.parametrize("text", ["", "furlong", "eV,eV", "nm,Å", "eV,Å,K", "eV,au"])
def test_unknown_units_are_refused(text):
    with pytest.raises(InputError, match=r"units .* are not known; give .*eV,A"):
        parse_units(text)


@pytest.mark.parametrize("names", [("energy", "forces"), ("REF_energy", "REF_forces")])
@pytest.mark.parametrize("own", [False, True])
def test_a_file_in_nm_and_kcal(tmp_path, names, own):
    """Positions, cell, energy, forces and stress, under ASE's names, others and given ones."""
    image = emt_images(1)[0]
    plain, energy, forces = bare(image)
    kcal = units.kcal / units.mol
    scaled = plain.copy()
    scaled.set_cell(plain.cell / 10, scale_atoms=True)
    stress = np.arange(6.0)
    energy_name, forces_name = ("odd", "stranger") if own else names
    values = {energy_name: energy / kcal, forces_name: forces / kcal * 10}
    if names[0] == "energy" and not own:
        results = {**values, "stress": stress / kcal * 1000}
        scaled.calc = SinglePointCalculator(scaled, **results)
    else:
        scaled.info[energy_name], scaled.arrays[forces_name] = values.values()
    write(tmp_path / "a.extxyz", scaled)
    keys = LabelKeys(energy_name, forces_name) if own else ASES_OWN
    [found] = read_all(tmp_path / "a.extxyz", Reading.of(units="kcal/mol,nm", keys=keys))
    choice = choose([offers(found)], keys)
    assert found.cell.array == pytest.approx(image.cell.array)
    assert found.positions == pytest.approx(image.positions, abs=1e-6)
    assert energy_of(found, choice.keys) == pytest.approx(energy, abs=1e-6)
    assert forces_of(found, choice.keys) == pytest.approx(forces, abs=1e-6)
    if found.calc is not None and "stress" in found.calc.results:
        assert found.get_stress() == pytest.approx(stress, rel=1e-6)


RUNNER = """begin
comment lengths in Å, energies in eV
lattice 4.0 0.0 0.0
lattice 0.0 4.0 0.0
lattice 0.0 0.0 4.0
atom 0.0 0.0 0.0 Cu 0.0 0.0 0.1 0.2 0.3
atom 2.0 0.0 1.0 Cu 0.0 0.0 -0.1 -0.2 -0.3
energy -7.5
charge 0.0
end
"""


def test_runners_files_are_in_bohr_unless_it_is_said_otherwise(tmp_path):
    path = tmp_path / "input.data"
    path.write_text(RUNNER)
    [image] = read_all(path)
    assert image.cell[0, 0] == pytest.approx(4.0 * units.Bohr)
    [doubt] = unit_doubts([str(path)])
    assert "too short for lengths in Bohr; are they in A? --units eV,A" in doubt
    reading = Reading.of(units="eV,Å")
    [image] = read_all(path, reading)
    assert image.cell[0, 0] == pytest.approx(4.0)
    assert image.positions[1] == pytest.approx([2.0, 0.0, 1.0])
    assert energy_of(image, ASES_OWN) == pytest.approx(-7.5)
    assert forces_of(image, ASES_OWN)[0] == pytest.approx([0.1, 0.2, 0.3])
    assert unit_doubts(named([path], reading)) == []


@pytest.mark.parametrize(("unit", "factor"), [("nm", 0.1), ("Bohr", 1 / units.Bohr), ("pm", 100.0)])
@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.db", "POSCAR"])
def test_lengths_in_another_unit_are_noticed_in_every_format(tmp_path, unit, factor, name):
    image = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    image.set_cell(image.cell * factor, scale_atoms=True)
    path = tmp_path / name
    write(path, image)
    [doubt] = unit_doubts([str(path)])
    assert f"are they in {unit}? --units eV,{unit}" in doubt
    assert str(path) in doubt
    reading = Reading.of(units=f"eV,{unit}")
    assert unit_doubts(named([path], reading)) == []
    [found] = read_all(path, reading)
    assert found.cell[0, 0] == pytest.approx(5.64)


def test_usual_and_loose_matter_is_not_doubted(tmp_path):
    images = [
        bulk("Cu"),
        bulk("C", "diamond", a=3.57),
        bulk("Na", "bcc", a=4.29),
        bulk("Ar", "fcc", a=5.26),
        Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]]),
        Atoms("H"),
    ]
    write(tmp_path / "a.traj", images)
    for number in range(len(images)):
        write(tmp_path / f"{number}.traj", images[number])
    assert unit_doubts([str(tmp_path / "*.traj")]) == []


@pytest.mark.parametrize(("ending", "opener"), [("gz", gzip), ("bz2", bz2), ("xz", lzma)])
def test_compressed_trajectories(tmp_path, ending, opener):
    images = emt_images(5)
    write(tmp_path / "a.traj", images)
    path = tmp_path / f"a.traj.{ending}"
    path.write_bytes(opener.compress((tmp_path / "a.traj").read_bytes()))
    (tmp_path / "a.traj").unlink()
    tmp_path.chmod(0o500)
    opened = open_images(f"{path}@1::2")
    assert [str(opened.ref(i)) for i in range(len(opened))] == [
        f"{path}, image 1",
        f"{path}, image 3",
    ]
    found = dict(opened.read_many([1], results=True))[1]
    opened.close()
    assert hash_image(found) == hash_image(images[3])
    assert found.get_potential_energy() == images[3].get_potential_energy()
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]
    tmp_path.chmod(0o700)


def test_a_damaged_compressed_trajectory_is_named(tmp_path):
    write(tmp_path / "a.traj", emt_images(3))
    data = gzip.compress((tmp_path / "a.traj").read_bytes())
    (tmp_path / "b.traj.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageFileError, match=r"b\.traj\.gz cannot be read"):
        open_images(str(tmp_path / "b.traj.gz"))


XSF = """# total energy = -123.45 eV

CRYSTAL
PRIMVEC
 4.0 0.0 0.0
 0.0 4.0 0.0
 0.0 0.0 4.0
PRIMCOORD
2 1
Ti 0.0 0.0 0.0 0.1 0.2 0.3
O 1.9 0.0 0.0 -0.1 -0.2 -0.3
"""


@pytest.mark.parametrize(
    "comment",
    ["-76.4", "Coordinates from ORCA-job water E -76.4", "energy: -76.4 gnorm: 0.0004 xtb: 6.4.0"],
)
def test_numbers_without_a_name_in_comment_lines_are_spoken_of(tmp_path, comment):
    (tmp_path / "a.xyz").write_text(f"2\n{comment}\nO 0 0 0 1 2 3\nH 0 0 1 4 5 6\n")
    with closing(open_images(str(tmp_path / "a.xyz"))) as images:
        choice = choose_labels(images, ASES_OWN)
    assert "-76.4" not in choice.found
    assert "hold numbers without a name: write energy=NUMBER" in choice.found
    assert "have columns without a name: add Properties=species:S:1:pos:R:3:for" in choice.found


def test_columns_that_a_comment_names_are_no_matter(tmp_path):
    (tmp_path / "a.xyz").write_text("1\nenergy=1 frame 5\nO 0 0 0 -0.5\n")
    with closing(open_images(str(tmp_path / "a.xyz"))) as images:
        assert choose_labels(images, ASES_OWN).hint == ""


def test_gradients_are_not_taken_for_forces():
    offered = [frozenset({("info", "energy"), ("arrays", "gradient")})]
    assert choose(offered, ASES_OWN).keys == ASES_OWN
    with pytest.raises(InputError, match=r"'gradient' are gradients .* opposite sign"):
        choose(offered, LabelKeys(forces="gradient"))


def test_names_with_brackets_are_names():
    said = meaning("ccsd(t)_cbs.energy")
    assert said is not None
    assert (said.kind, said.family) == ("energy", "ccsd(t) cbs")
    assert meaning('"energy": -1, "forces": [[1]]') is None
    assert meaning("old_energies") is meaning("energy_sigma") is None


def test_xsf_files_of_aenet(tmp_path):
    (tmp_path / "a.xsf").write_text(XSF)
    [image] = read_all(tmp_path / "a.xsf")
    assert energy_of(image, ASES_OWN) == -123.45
    assert forces_of(image, ASES_OWN)[0] == pytest.approx([0.1, 0.2, 0.3])
    (tmp_path / "b.xsf").write_text(XSF.split("\n", 1)[1])
    [image] = read_all(tmp_path / "b.xsf")
    assert forces_of(image, ASES_OWN)[0, 0] == pytest.approx(0.1 * units.Hartree)
    with pytest.raises(LabelError, match="has no energy"):
        energy_of(image, ASES_OWN)


FOREIGN = {
    "a.cfg": (b"BEGIN_CFG\n Size\n 2\n", "a .cfg file of MLIP"),
    "a.json": (b'[{"@module": "pymatgen.core.structure"}]', "JSON of pymatgen"),
    "b.json": (b'{"atoms": 3}', "JSON, but no database of ASE"),
    "a.h5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    "a.npz": (b"PK\x03\x04...E.npy...", "a zip file of numpy arrays"),
    "a.zip": (b"PK\x03\x04...a.xyz...", "a zip archive: unpack it"),
    "a.xyz.zst": (b"(\xb5/\xfdrest", "compressed with zstd.* unzstd"),
    "a.pickle": (pickle.dumps([1], protocol=5), "a Python pickle"),
    "a.p": (pickle.dumps([1], protocol=2), "a Python pickle"),
    "a.pckl.gzip": (gzip.compress(pickle.dumps([1])), r"a compressed Python pickle.*pacemaker"),
    "a.tgz": (gzip.compress(bytes(257) + b"ustar" + bytes(250)), "a compressed tar archive"),
    "images.gzip": (gzip.compress(b"1 2 3"), r"a gzip file.*\.xyz\.gz"),
    "a.tar": (bytes(257) + b"ustar" + bytes(250), "a tar archive"),
    "a.lmdb": (bytes(16) + b"\xde\xc0\xef\xbe" + bytes(99), "an LMDB database.*fairchem"),
    "a.parquet": (b"PAR1rest", r"a Parquet file.*pandas\.read_parquet"),
    "coord.raw": (b"1 2 3\n", "a file of a DeePMD system.*deepmd/raw"),
    "lfs.xyz": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "page.extxyz": (b"\n<!DOCTYPE html>\n<html>", "a web page"),
    "qm9.xyz": (b"1\ngdb 1\t157.7\nC 1e-3 2.*^-6 3. -0.5\n", r"a file of QM9.*Hartree"),
    "a.lammpstrj": (
        b"ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS pp pp pp\n"
        b"0 1\n0 1\n0 1\nITEM: ATOMS id type x y z\n1 1 0 0 0\n",
        "a LAMMPS dump without elements.*specorder",
    ),
    "coord.npy": (b"\x93NUMPY\x01", "dpdata converts"),
    "ML_AB": (b" 1.0 Version\n***\n     The number of configurations\n", "ML_AB file of VASP"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_programs_are_named_with_what_converts_them(tmp_path, name):
    content, reason = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageFileError, match=reason) as caught:
        open_images(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dump_with_elements_is_no_foreign_file(tmp_path):
    (tmp_path / "a.lammpstrj").write_text(
        "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS pp pp pp\n0 4\n0 4\n0 4\n"
        "ITEM: ATOMS id type element x y z fx fy fz\n1 1 Cu 1 2 3 .1 .2 .3\n"
    )
    [image] = read_all(tmp_path / "a.lammpstrj")
    assert image.get_chemical_formula() == "Cu"
    assert forces_of(image, ASES_OWN).tolist() == [[0.1, 0.2, 0.3]]


def test_the_folder_of_a_deepmd_system_is_named(tmp_path):
    (tmp_path / "type.raw").write_text("0 1\n")
    with pytest.raises(ImageFileError, match=r"folder of a DeePMD system.*deepmd/raw"):
        open_images(str(tmp_path))
    (tmp_path / "set.000").mkdir()
    with pytest.raises(ImageFileError, match=r"folder of a DeePMD system.*deepmd/npy"):
        open_images(str(tmp_path))


def test_runners_format_is_known_with_a_space_before_it(tmp_path):
    (tmp_path / "input.data.water").write_text(
        " begin\natom 0 0 1.0 H 0 0 0.1 0.2 0.3\nenergy -0.5\ncharge 0\nend\n"
    )
    [image] = read_all(tmp_path / "input.data.water")
    assert image.positions[0, 2] == pytest.approx(units.Bohr)
    assert energy_of(image, ASES_OWN) == pytest.approx(-0.5 * units.Hartree)


def test_ases_own_json_is_read(tmp_path):
    image, energy, _ = bare(emt_images(1)[0])
    with connect(tmp_path / "a.json") as database:
        database.write(image, dft_energy=energy)
    assert json.loads((tmp_path / "a.json").read_text())["ids"] == [1]
    [found] = read_all(tmp_path / "a.json")
    assert energy_of(found, LabelKeys("dft_energy")) == pytest.approx(energy)


def test_a_format_that_ase_cannot_guess(tmp_path):
    write(tmp_path / "structure", bulk("Cu"), format="vasp")
    with pytest.raises(ImageFileError, match="give --images-format NAME"):
        open_images(str(tmp_path / "structure"))
    [found] = read_all(tmp_path / "structure", Reading.of(format="vasp"))
    assert found.get_chemical_formula() == "Cu"
    with pytest.raises(InputError, match="'vaps' is none that ASE reads"):
        Reading.of(format="vaps")


def moved(image):
    image.positions[0] += 0.3
    return image


def test_labels_of_other_positions_are_refused(tmp_path):
    image = moved(emt_images(1)[0])
    with pytest.raises(LabelError, match="has an energy of other positions"):
        energy_of(image, ASES_OWN)
    with pytest.raises(LabelError, match="has forces of other positions") as caught:
        forces_of(image, ASES_OWN)
    assert caught.value.kind == "has forces of other positions"
    image.calc.results["free_energy"] = 1.0
    with pytest.raises(LabelError, match="has an energy of other positions"):
        energy_of(image, LabelKeys("free_energy"))
    assert offers(image) == frozenset()
    image.info["energy"] = -1.0  # ASE's calculator goes before it
    with pytest.raises(LabelError, match="of other positions"):
        energy_of(image, ASES_OWN)
    image.info["REF_energy"] = -2.0
    assert energy_of(image, LabelKeys("REF_energy")) == -2.0


def test_a_calculator_that_fails_is_no_energy():
    class Failing(EMT):
        def calculate(self, *given):
            raise RuntimeError("it did not\nconverge")

    image = emt_images(1)[0]
    old = image.calc.results
    image.calc = Failing()
    image.calc.results, image.calc.atoms = dict(old), moved(image.copy())
    with pytest.raises(LabelError, match="has a calculator that fails: it did not converge"):
        energy_of(image, ASES_OWN)
    with pytest.raises(LabelError, match="has a calculator that fails"):
        forces_of(image, ASES_OWN)


def test_other_labels_beside_a_calculator_without_them():
    image, energy, forces = bare(emt_images(1)[0])
    image.calc = SinglePointCalculator(image, forces=forces)
    image.info["energy"] = energy
    assert energy_of(image, ASES_OWN) == energy
    assert (forces_of(image, ASES_OWN) == forces).all()


@pytest.mark.parametrize("value", [np.ma.masked, np.ma.array([1.0], mask=True)])
def test_a_masked_energy_is_none(value):
    image = bulk("Cu")
    image.info["energy"] = value
    with pytest.raises(LabelError, match="has no energy"):
        energy_of(image, ASES_OWN)
    image.calc = SinglePointCalculator(image)
    image.calc.results["energy"] = value
    with pytest.raises(LabelError, match="has no energy"):
        energy_of(image, ASES_OWN)


def test_a_ragged_energy_is_named():
    image = bulk("Cu")
    image.info["energy"] = [[1, 2], [3]]
    with pytest.raises(LabelError, match="has an energy of a wrong shape"):
        energy_of(image, ASES_OWN)


def test_energies_per_atom_in_an_array_are_added_up():
    image = bulk("Cu", cubic=True)
    image.arrays["energy_per_atom"] = np.full(4, -3.0)
    choice = choose([offers(image)], ASES_OWN)
    assert energy_of(image, choice.keys) == -12.0
    assert choice.note == "energies are 'energy_per_atom', summed over the atoms"


@pytest.mark.parametrize(
    ("written", "energy", "force"),
    [
        ("-1.5D+01 eV", -15.0, 0.1),
        ("-10.0 Ha", -10 * units.Hartree, 0.1 * units.Hartree),
        ("-2.0", -2.0, 0.1),
    ],
)
def test_energies_and_units_of_xsf_files(tmp_path, written, energy, force):
    path = tmp_path / "a.xsf"
    path.write_text(XSF.replace("-123.45 eV", written))
    [image] = read_all(path)
    assert energy_of(image, ASES_OWN) == pytest.approx(energy)
    assert forces_of(image, ASES_OWN)[0, 0] == pytest.approx(force)


def test_units_that_contradict_an_xsf_file(tmp_path):
    path = tmp_path / "a.xsf"
    path.write_text(XSF.replace("eV", "furlong"))
    with pytest.raises(ImageFileError, match="unit 'furlong' of its total energy is not known"):
        read_all(path)
    path.write_text(XSF)
    with pytest.raises(ImageFileError, match="energies are in eV, and --units says Hartree"):
        list(iterate(ImageFile(str(path), "xsf", reading=Reading.of(units="Hartree"))))
    path.write_text(XSF.replace(" eV", ""))
    [image] = iterate(ImageFile(str(path), "xsf", reading=Reading.of(units="Hartree,Bohr")))
    assert energy_of(image, ASES_OWN) == pytest.approx(-123.45 * units.Hartree)
    assert forces_of(image, ASES_OWN)[0, 0] == pytest.approx(0.1 * units.Hartree / units.Bohr)
    assert image.cell.lengths() == pytest.approx([4 * units.Bohr] * 3)


def test_labels_that_are_no_arrays_stay_as_they_are_in_other_units():
    image = bulk("Cu")
    image.info["energy"] = [1.0, [2.0, 3.0]]
    found = ImageFile("a", "traj", reading=Reading.of(units="meV")).finished(image)
    with pytest.raises(LabelError, match="has an energy of a wrong shape"):
        energy_of(found, ASES_OWN)


def a_database(path, unit, forces_unit=None, length="Ang"):
    image, energy, forces = bare(emt_images(1)[0])
    with connect(path) as database:
        stated = {"energy": unit, "dipole": "D"}
        if forces_unit is not None:
            stated["forces"] = forces_unit
        database.metadata = {"_property_unit_dict": stated, "_distance_unit": length}
        database.write(image, data={"energy": [energy], "forces": forces})
    return image, energy, forces


def test_units_that_a_database_states_are_used(tmp_path):
    path = tmp_path / "a.db"
    image, energy, forces = a_database(path, "kcal/mol", "kcal/mol/Ang")
    [found] = read_all(path)
    kcal = units.kcal / units.mol
    np.testing.assert_array_equal(found.positions, image.positions)
    assert energy_of(found, ASES_OWN) == pytest.approx(energy * kcal)
    np.testing.assert_allclose(forces_of(found, ASES_OWN), forces * kcal)
    [found] = read_all(path, Reading.of(units="eV,A"))  # the user knows better
    assert energy_of(found, ASES_OWN) == pytest.approx(energy)


def test_lengths_that_a_database_states_are_used(tmp_path):
    image, _, forces = a_database(tmp_path / "a.db", "Hartree", "Hartree/Bohr", "Bohr")
    [found] = read_all(tmp_path / "a.db")
    np.testing.assert_allclose(found.positions, image.positions * units.Bohr)
    np.testing.assert_allclose(forces_of(found, ASES_OWN), forces * units.Hartree / units.Bohr)


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        (("furlong",), r"the unit 'furlong' for 'energy', which is none of eV"),
        (("eV", None, "ell"), r"the unit 'ell' for lengths, which is none of Å"),
        (("eV", "Ha/Bohr"), r"'Ha/Bohr' for 'forces' and eV,Å for energies and lengths"),
    ],
)
def test_units_of_a_database_that_cannot_be_used_are_refused(tmp_path, stated, sentence):
    a_database(tmp_path / "a.db", *stated)
    with pytest.raises(ImageFileError, match=sentence):
        open_images(str(tmp_path / "a.db"))


def test_a_name_that_speaks_of_units_needs_units(tmp_path):
    keys = LabelKeys("energy_Ha", "forces_kcal_per_mol")
    with pytest.raises(InputError, match=r"energy: the name 'energy_Ha' speaks of Hartree.*units"):
        Reading.of(keys=keys)
    with pytest.raises(InputError, match=r"forces: .*kcal/mol"):
        as_read("a.xyz", None, None, LabelKeys(forces="forces_kcal_per_mol"))
    assert Reading.of(units="Hartree", keys=keys).units == Units("Å", "Hartree")
    assert Reading.of(keys=LabelKeys("U_harmonic", "hamilton_forces")).units is None


def test_energies_of_cp2ks_trajectories_are_in_hartree(tmp_path):
    path = str(tmp_path / "a.xyz")
    frame = " i = 1, time = 0.5, E = -17.2\nO 0 0 0\nH 0 0 1\n"
    (tmp_path / "a.xyz").write_text(f"2\n{frame}")
    with closing(open_images(path)) as images:
        assert "--units Hartree,A reads them so" in choose_labels(images, ASES_OWN).warning
    with closing(open_images(named([path], Reading.of(units="Hartree,A")))) as images:
        choice = choose_labels(images, ASES_OWN)
        [(_, image)] = images.read_many([0], results=True)
    assert choice.warning == ""
    assert energy_of(image, choice.keys) == pytest.approx(-17.2 * units.Hartree)
