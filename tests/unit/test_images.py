"""Hashes, shares of files, and what is said about bad ones."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.db import connect
from ase.io import read, write
from ase.io.trajectory import Trajectory

from ampmpi.errors import ImageError, ImageFileError, InputError
from ampmpi.images import ImageRef, ImageSet, hash_image, hash_images, open_images, unpacked
from ampmpi.images import files as image_files
from ampmpi.images.checks import unreadable
from ampmpi.images.files import Frames, find_files, frame_offsets, open_trajectory, survey
from ampmpi.images.glance import choose_labels, unit_doubts
from ampmpi.images.labels import LabelKeys


def plain_hash(atoms: Atoms) -> str:
    """Return Amp's hash from its definition, number by number."""
    text = str(atoms.pbc)
    text += "".join(f"{number:.15f}" for number in np.array(atoms.cell).flatten())
    text += "".join(f"{number:3d}" for number in atoms.get_atomic_numbers())
    text += "".join(f"{number:.15f}" for number in atoms.get_positions().flatten())
    return hashlib.md5(text.encode()).hexdigest()


def some_images(n: int = 6) -> list[Atoms]:
    images = []
    for index in range(n):
        atoms = bulk("Cu", cubic=True) if index % 2 else molecule("CH3CH2OH")
        atoms.rattle(0.1, seed=index)
        images.append(atoms)
    return images


@pytest.mark.parametrize(
    "atoms",
    [
        *some_images(2),
        Atoms("H"),
        Atoms("Og2", [[1e-20, -0.0, 1e5], [1 / 3, -2 / 3, 1e-16]], pbc=[True, False, True]),
        Atoms("H", [[np.nan, np.inf, -np.inf]]),
        Atoms(),
    ],
)
def test_hash_is_amps(atoms):
    assert hash_image(atoms) == plain_hash(atoms)


def test_hash_depends_on_all_that_counts():
    base = bulk("Cu", cubic=True)
    changed = [base.copy() for _ in range(4)]
    changed[0].pbc = [True, True, False]
    changed[1].cell[0, 1] += 1e-14
    changed[2].numbers[3] = 78
    changed[3].positions[0, 0] += 1e-14
    assert len({hash_image(atoms) for atoms in [base, *changed]}) == 5
    same = base.copy()
    same.info["x"] = 1
    same.set_initial_charges([1, 2, 3, 4])
    assert hash_image(same) == hash_image(base)


def test_hash_images_counts_duplicates_and_keeps_the_last():
    a, b = some_images(2)
    last = a.copy()
    lines = []
    hashed = hash_images([a, b, a.copy(), last], log=lines.append)
    assert list(hashed) == [hash_image(a), hash_image(b)]
    assert hashed[hash_image(a)] is last
    assert hashed.metadata["duplicates"] == {hash_image(a): 3}
    assert sum("Warning" in line for line in lines) == 2
    assert hash_images(hashed) is hashed
    assert hash_images(None) is None


def test_hash_images_takes_file_names(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    energy = atoms.get_potential_energy()
    write(tmp_path / "a.traj", [atoms])
    ((key, image),) = hash_images(str(tmp_path / "a.traj")).items()
    assert key == hash_image(atoms)
    assert image.get_potential_energy() == energy


def written(tmp_path, name: str, images: list[Atoms]):
    path = tmp_path / name
    if name.endswith(".db"):
        with connect(path, serial=True) as rows:
            for image in images:
                rows.write(image)
    else:
        write(path, images, format="traj" if name.endswith("traj") else "extxyz")
    return path


FORMATS = ["a.traj", "a.xyz", "a.db", "a.xyz.gz"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("frames", ["", "@2", "@-1", "@1:4", "@::2", "@-3:", "@::-1"])
def test_frames_of_a_file(tmp_path, name, frames):
    path = written(tmp_path, name, some_images())
    everything = read(path, ":")
    numbers = list(range(6))
    if frames:
        parts = [int(part) if part else None for part in frames[1:].split(":")]
        numbers = numbers[slice(*parts)] if len(parts) > 1 else [numbers[parts[0]]]
    found = open_images(f"{path}{frames}")
    assert [found.ref(index) for index in range(len(found))] == [
        ImageRef(str(path), number) for number in numbers
    ]
    images = dict(found.read_many(range(len(found))))
    assert [hash_image(images[i]) for i in range(len(found))] == [
        hash_image(everything[number]) for number in numbers
    ]
    found.close()


@pytest.mark.parametrize("name", FORMATS)
def test_a_share_is_read_from_a_copy_sent_to_another_rank(tmp_path, name):
    found = open_images(written(tmp_path, name, some_images()))
    where = found.locators()
    bare = [Frames(frames.numbers, None, frames.changed) for frames in found.frames]
    other = pickle.loads(pickle.dumps(ImageSet(found.files, bare)))
    chosen = [1, 2, 5]
    read_there = dict(other.read_many(chosen, where[chosen].tolist()))
    read_here = dict(found.read_many(chosen))
    assert {i: hash_image(image) for i, image in read_there.items()} == {
        i: hash_image(image) for i, image in read_here.items()
    }
    found.close()
    other.close()


def test_several_files_and_patterns(tmp_path):
    images = some_images()
    for number in range(3):
        write(tmp_path / f"run{number}.traj", images[2 * number : 2 * number + 2])
    found = open_images([str(tmp_path / "run[01].traj"), str(tmp_path / "run2.traj@0")])
    assert [found.ref(i).index for i in range(len(found))] == [0, 1, 0, 1, 0]
    keys = [hash_image(image) for _, image in found.read_many(range(5))]
    assert keys == [hash_image(image) for image in images[:5]]
    found.close()


def test_results_come_with_images_where_asked_for(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1)
    atoms.calc = EMT()
    forces = atoms.get_forces()
    for name in ("a.traj", "a.xyz"):
        write(tmp_path / name, [atoms])
        found = open_images(tmp_path / name)
        ((_, image),) = found.read_many([0], results=True)
        np.testing.assert_allclose(image.get_forces(), forces, atol=1e-7)
        found.close()


def test_trajectory_whose_header_changes(tmp_path):
    images = some_images()
    with Trajectory(tmp_path / "a.traj", "w") as trajectory:
        for image in images:
            trajectory.write(image)
    found = open_images(tmp_path / "a.traj")
    keys = [hash_image(image) for _, image in found.read_many(range(6))]
    assert keys == [hash_image(image) for image in images]
    found.close()


def test_offsets_are_the_same_in_small_chunks(tmp_path, monkeypatch):
    path = written(tmp_path, "a.xyz", some_images())
    whole = frame_offsets(path)
    text = path.read_bytes()
    assert [text[i:].split()[0] for i in whole] == [b"9", b"4"] * 3
    for chunk in (1, 7, 64, 1000):
        monkeypatch.setattr(image_files, "CHUNK", chunk)
        np.testing.assert_array_equal(frame_offsets(path), whole)


def test_xyz_without_last_newline_and_with_cell_lines(tmp_path):
    frame = "2\ncomment\nH 0 0 0\nH 0 0 1\n"
    vectors = "VEC1 5 0 0\nVEC2 0 5 0\nVEC3 0 0 5\n"
    path = tmp_path / "a.xyz"
    path.write_text(frame + vectors + frame.rstrip())
    found = open_images(path)
    first, second = (image for _, image in found.read_many([0, 1]))
    reference = read(path, ":")
    assert hash_image(first) == hash_image(reference[0])
    assert first.cell[2, 2] == 5
    assert hash_image(second) == hash_image(reference[1])
    found.close()


def test_bad_frame_stops_no_other(tmp_path):
    path = written(tmp_path, "a.xyz", some_images())
    lines = path.read_text().splitlines()
    lines[2] = "C x y z"
    path.write_text("\n".join(lines[:-2]) + "\n")
    found = open_images(path)
    images = dict(found.read_many(range(6)))
    assert isinstance(images[0], ImageError)
    assert isinstance(images[5], ImageError)
    assert "ends after 2 of 4 atoms" in str(images[5])
    assert all(isinstance(images[index], Atoms) for index in range(1, 5))
    found.close()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.traj", None, "there is no file"),
        ("none*.traj", None, "no file matches"),
        ("empty.xyz", b"", "is empty"),
        (
            "rubbish.xyz",
            b"three\nx\n",
            "line 1: the number of atoms should be here, but it says 'three'",
        ),
        ("late.xyz", b"1\nx\nH 0 0 0\nrubbish\n", "line 4: the number of atoms should be here"),
        ("unknown.foo", b"hello", "is not in a format that ASE knows"),
        ("cut.traj", b"- of UlmASE-Trajectory  ", "cannot be read"),
        ("a.xyz@x", b"1\nx\nH 0 0 0\n", "does not select frames"),
        ("a.xyz@::0", b"1\nx\nH 0 0 0\n", "does not select frames"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, sentence):
    path = tmp_path / name
    if content is not None:
        (tmp_path / name.partition("@")[0]).write_bytes(content)
    with pytest.raises(ImageFileError, match=sentence) as caught:
        open_images(str(path))
    assert name.partition("@")[0] in str(caught.value)


def test_a_directory_is_named(tmp_path):
    with pytest.raises(ImageFileError, match="is a directory"):
        open_images(tmp_path)


def test_file_whose_name_has_an_at(tmp_path):
    path = written(tmp_path, "T@300.xyz", some_images(2))
    assert len(open_images(path)) == 2
    assert len(open_images(f"{path}@1")) == 1


def test_selection_of_a_database(tmp_path):
    path = written(tmp_path, "a.db", some_images())
    assert len(open_images(f"{path}@Cu")) == 3
    assert len(open_images(f"{path}@id=2")) == 1


def test_what_is_no_image():
    with pytest.raises(InputError, match="image 1 is a int"):
        open_images([Atoms("H"), 3])
    with pytest.raises(InputError, match="some as Atoms"):
        open_images([Atoms("H"), "a.traj"])
    with pytest.raises(InputError, match="images is of type int"):
        open_images(3)


def test_what_a_file_holds_does_not_reach_the_terminal_raw():
    forged = ValueError("no number: '\x1b[2J'\nampmpi: error: forged \u202e" + "x" * 1000)
    told = image_files.describe(forged)
    assert told.startswith("no number: '?[2J' ampmpi: error: forged ?x")
    assert len(told) == 500


def test_change_of_a_file_is_noticed(tmp_path):
    path = written(tmp_path, "a.xyz", some_images(2))
    found = open_images(path)
    assert not found.has_changed(0)
    with open(path, "a") as file:
        file.write("1\nx\nH 0 0 0\n")
    assert found.has_changed(0)


def test_survey_shows_what_it_reads_on_the_way(tmp_path):
    path = written(tmp_path, "a.xyz.gz", some_images(3))
    seen = []
    (file,) = find_files([path])
    frames = survey(file, lambda number, image: seen.append((number, hash_image(image))))
    assert len(frames.numbers) == 3
    assert seen == [(number, hash_image(image)) for number, image in enumerate(read(path, ":"))]


@pytest.fixture
def unpackings(monkeypatch):
    """The compressed files that are opened."""
    opened = []

    def opening(path):
        opened.append(path)
        return gzip.open(path)

    monkeypatch.setattr(unpacked, "_kept", {})
    monkeypatch.setitem(unpacked.OPENERS, ".gz", opening)
    return opened


def packed(tmp_path, name, images):
    path = Path(written(tmp_path, name.removesuffix(".gz"), images))
    target = path.with_name(name)
    target.write_bytes(gzip.compress(path.read_bytes()))
    return str(target)


def test_a_compressed_trajectory_is_unpacked_once_for_all_readers(tmp_path, unpackings):
    images = some_images(3)
    for image in images:
        image.calc = EMT()
        image.get_forces()
    path = packed(tmp_path, "a.traj.gz", images)
    assert unit_doubts([path]) == []
    first, second = open_images(path), open_images(f"{path}@2")
    choose_labels(first, LabelKeys())
    for (_, one), (_, last) in zip(
        first.read_many([2], results=True), second.read_many([0], results=True), strict=True
    ):
        assert hash_image(one) == hash_image(last) == hash_image(images[2])
        assert one.get_potential_energy() == images[2].get_potential_energy()
        np.testing.assert_array_equal(last.get_forces(), images[2].get_forces())
    assert unpackings == [path]
    packed(tmp_path, "a.traj.gz", images[:2])
    assert len(open_images(path)) == 2
    assert unpackings == [path, path]


def test_of_unpacked_files_only_some_are_kept(tmp_path, unpackings, monkeypatch):
    monkeypatch.setattr(unpacked, "ROOM", 1)
    paths = [packed(tmp_path, f"{name}.traj.gz", some_images(1)) for name in "abc"]
    (trajectory, file), *others = [open_trajectory(path) for path in paths]
    assert len(unpacked._kept) == 1
    assert hash_image(trajectory[0]) == hash_image(some_images(1)[0])  # still open here
    for one in (file, *(other for _, other in others)):
        one.close()
    open_images(paths[2])
    assert unpackings == paths


def test_a_damaged_compressed_trajectory_leaves_nothing_open(tmp_path, unpackings):
    path = packed(tmp_path, "a.traj.gz", some_images(2))
    Path(path).write_bytes(Path(path).read_bytes()[:-40])
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ImageFileError, match=r"cannot be read.*ended"):
        open_images(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_doubts_about_units_open_a_few_of_many_files(tmp_path, monkeypatch):
    for number in range(100):
        written(tmp_path, f"{number:03}.xyz", some_images(1))
    opened = []
    real = image_files._recognised
    monkeypatch.setattr(image_files, "_recognised", lambda path: opened.append(path) or real(path))
    unit_doubts([tmp_path / "*.xyz"])
    assert len(opened) == 16
    assert opened[0].endswith("000.xyz")
    assert opened[-1].endswith("093.xyz")


def test_xyz_of_other_encodings_is_read(tmp_path):
    path = tmp_path / "a.xyz"
    text = "1\nauthor=Müller energy=-1.5\nCu 0 0 1\n"
    for content in (text.encode("latin-1"), text.encode("utf-8-sig"), text.encode()):
        path.write_bytes(content)
        with closing(open_images(str(path))) as images:
            [(_, image)] = images.read_many([0], results=True)
        assert image.get_potential_energy() == -1.5
        assert image.positions.tolist() == [[0, 0, 1]]


def test_what_is_no_symbol_is_quoted(tmp_path):
    (tmp_path / "a.xyz").write_text("2\n\nCu 0 0 1\n78 0 0 2\n")
    with closing(open_images(str(tmp_path / "a.xyz"))) as images:
        [(_, error)] = images.read_many([0])
    assert str(error) == "it cannot be read: '78' is no chemical symbol"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("could not convert string to float: '1.2*^-6'", "could not convert string to float: …"),
        ("the file ends after 3 of 17 atoms", "the file ends after … of … atoms"),
        ("no utf-8 here", "no utf-8 here"),
    ],
)
def test_one_reason_for_many_images_is_one_kind(reason, kind):
    assert unreadable(ImageError(f"it cannot be read: {reason}")) == f"cannot be read ({kind})"
