"""The job gives the same database on any number of ranks."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.db import connect
from ase.io import iread, write
from ase.neighborlist import neighbor_list
from conftest import make_images

from ampmpi import FingerprintDatabase, Gaussian, fingerprint, hash_image
from ampmpi.errors import DatabaseError, DescriptorMismatchError, ImageFileError, InputError
from ampmpi.fingerprinting.suspects import InFlight, read_suspects
from ampmpi.parallel.comm import SerialCommunicator

pytestmark = pytest.mark.mpi
KINDS = ("fingerprints", "fingerprint-primes")
DESCRIPTOR = Gaussian(cutoff=4.5)


def contents(prefix) -> dict[str, bytes]:
    """Return every entry's bytes."""
    found = {}
    for kind in KINDS:
        with FingerprintDatabase(f"{prefix}-{kind}.ampdb") as database:
            found |= {f"{kind}/{key}": database.get_bytes(key) for key in database}
    return found


@pytest.fixture
def trajectory(comm, shared_path):
    path = shared_path / "images.traj"
    if comm.rank == 0:
        images = make_images()
        write(path, [*images, images[2], images[2]], parallel=False)
    comm.barrier()
    return path


def test_same_bytes_as_one_rank_gives(comm, shared_path, trajectory):
    summary = fingerprint(
        trajectory, DESCRIPTOR, label=shared_path / "many", derivatives=True, comm=comm
    )
    assert (summary.images, summary.duplicates, summary.computed) == (16, 2, 14)
    assert summary.ranks == comm.size
    assert [(ref.index, times) for ref, times in summary.repeated] == [(2, 3)]
    assert summary.failed == ()
    if comm.rank == 0:
        alone = SerialCommunicator()
        fingerprint(trajectory, DESCRIPTOR, label=shared_path / "one", derivatives=True, comm=alone)
        assert contents(shared_path / "many") == contents(shared_path / "one")
        assert len(contents(shared_path / "one")) == 28
        names = sorted(path.name for path in (shared_path / "many-fingerprints.ampdb").iterdir())
        assert names == ["archive.tar.gz", "descriptor.json", "loose", "tmp"]
        assert not list((shared_path / "many-fingerprints.ampdb" / "tmp").iterdir())


@pytest.mark.parametrize("form", ["extxyz", "db", "xyz.gz", "several", "atoms"])
def test_same_entries_whatever_the_files(comm, shared_path, form):
    images = make_images(7)
    names = {"extxyz": ["a.extxyz"], "db": ["a.db"], "xyz.gz": ["a.xyz.gz"],
             "several": ["a.traj", "b.extxyz", "c.xyz.gz"], "atoms": []}[form]  # fmt: skip
    if comm.rank == 0:
        for number, name in enumerate(names):
            part = images[number :: len(names)]
            if name.endswith("db"):
                with connect(shared_path / name, serial=True) as rows:
                    for image in part:
                        rows.write(image)
            else:
                kind = "traj" if name.endswith("traj") else "extxyz"
                write(shared_path / name, part, format=kind, parallel=False)
    comm.barrier()
    source = [shared_path / name for name in names] or images
    summary = fingerprint(source, DESCRIPTOR, label=shared_path / "x", comm=comm, compress=False)
    assert (summary.computed, summary.failed) == (7, ())
    expected = {hash_image(image) for image in images}
    if form != "atoms":
        expected = {
            hash_image(image)
            for name in names
            for image in iread(shared_path / name, ":", parallel=False)
        }
    comm.barrier()
    database = FingerprintDatabase(shared_path / "x-fingerprints.ampdb")
    assert set(database) == expected
    for image in images:
        found = database.get(hash_image(image))
        if found is not None:
            reference = DESCRIPTOR.resolve(["Cu", "Pt"]).fingerprint(image)
            np.testing.assert_allclose(found.values, reference.values, rtol=0, atol=1e-12)


def test_suspects_are_computed_last_and_on_one_rank(comm, shared_path, monkeypatch):
    """Also one at which another job is: nobody needs to know."""
    images, label = make_images(12), shared_path / "x"
    bad = [hash_image(images[number]) for number in (4, 7)]
    if comm.rank == 0:
        folder = FingerprintDatabase.create(f"{label}-fingerprints").make().temporaries
        markers = [InFlight(folder, rank) for rank in range(3)]
        for marker, (key, runs) in zip(
            markers, [(bad[0], 1), (bad[1], 2), ("f" * 32, 1)], strict=True
        ):
            marker.start(key, runs)
    comm.barrier()
    order = []
    original = Gaussian.fingerprint

    def fingerprint_noted(self, atoms):
        key = hash_image(atoms)
        order.append((key, read_all(label).get(key, 0)))
        return original(self, atoms)

    monkeypatch.setattr(Gaussian, "fingerprint", fingerprint_noted)
    summary = fingerprint(images, DESCRIPTOR, label=label, comm=comm)
    assert summary.computed == 11
    assert [(failed.image.index, failed.reason[:15]) for failed in summary.failed] == [
        (7, "2 runs crashed,")
    ]
    orders = comm.allgather(order)
    last = orders[-1]
    assert last[-1][0] == bad[0]
    assert last[-1][1] == 2  # this run would be the second that dies of it
    assert all(key not in bad for one in orders[:-1] for key, _ in one)
    comm.barrier()
    # What is done is forgotten, what is not stays, and so do other jobs' images.
    assert set(read_all(label)) == {bad[1], "f" * 32}
    comm.barrier()
    again = fingerprint(images, DESCRIPTOR, label=label, comm=comm, retry=True)
    assert (again.found, again.computed, again.failed) == (11, 1, ())


def read_all(label):
    """Return on how many runs each image that a file names has ended."""
    return read_suspects(FingerprintDatabase(f"{label}-fingerprints").make().temporaries)


@pytest.mark.parametrize("when", ["removed", "replaced"])
def test_a_database_that_goes_away_meanwhile(comm, shared_path, monkeypatch, when):
    """It is followed when it is renamed; removed, the job says so; another one is left alone."""
    images, label = make_images(12), shared_path / "x"
    path = shared_path / "x-fingerprints.ampdb"
    original, state = Gaussian.fingerprint, {"count": 0}

    def fingerprint_and_move(self, atoms):
        state["count"] += 1
        if state["count"] == 2 and comm.rank == comm.size - 1:
            if when == "removed":
                path.rename(shared_path / "away")
                shutil.rmtree(shared_path / "away", ignore_errors=True)
                shutil.rmtree(shared_path / "away", ignore_errors=True)
            else:
                path.rename(shared_path / "moved-fingerprints.ampdb")
                FingerprintDatabase.create(path)
        return original(self, atoms)

    monkeypatch.setattr(Gaussian, "fingerprint", fingerprint_and_move)
    if when == "replaced":
        summary = fingerprint(images, DESCRIPTOR, label=label, comm=comm, compress=False)
        assert summary.computed == 12
        with FingerprintDatabase(shared_path / "moved-fingerprints") as moved:
            assert set(moved) == {hash_image(image) for image in images}
            assert moved.manifest() is not None
        assert len(FingerprintDatabase(path)) == 0
        comm.barrier()
    elif comm.size == 1:  # on several ranks the error ends the job: see test_jobs
        with pytest.raises(DatabaseError, match="was removed while it was in use"):
            fingerprint(images, DESCRIPTOR, label=label, comm=comm, compress=False)
        assert not path.exists()


def uneven_images(n: int) -> list:
    """Copper in pieces of 1 to 820 atoms, whose costs differ by a factor of 1,000."""
    rng = np.random.default_rng(3)
    found = []
    for size in [1, 820, *np.exp(rng.uniform(0.0, np.log(820.0), n - 2)).astype(int).tolist()]:
        if size < 10:
            atoms = Atoms(f"Cu{size}", 2.6 * np.arange(size)[:, None] * [1.0, 0.1, 0.0])
        else:
            atoms = bulk("Cu", a=rng.uniform(3.5, 3.9)) * (size // 9, 3, 3)
        atoms.positions += rng.normal(0.0, 0.03, (len(atoms), 3))
        found.append(atoms)
    return [found[i] for i in rng.permutation(n).tolist()]


def work(atoms: Atoms) -> float:
    """Return how much there is to do, from the neighbours that each atom really has."""
    near = np.bincount(neighbor_list("i", atoms, 6.5), minlength=len(atoms)).astype(float)
    return 25.0 + float(np.sum(0.5 + 0.1 * near + 0.0035 * near**2))


def test_the_load_is_even(comm, shared_path, monkeypatch):
    """By a clock that counts work, so that a busy machine does not matter."""
    clock = [0.0]
    module = importlib.import_module("ampmpi.fingerprinting.work")
    images = uneven_images(80)
    mine = {hash_image(image): work(image) for image in images[comm.rank :: comm.size]}
    works = {key: value for part in comm.allgather(mine) for key, value in part.items()}
    assert max(works.values()) > 1000 * min(works.values())
    original = Gaussian.fingerprint

    def fingerprint_slowly(self, atoms):
        clock[0] += works.get(hash_image(atoms), 0.0)
        return original(self, atoms)

    monkeypatch.setattr(Gaussian, "fingerprint", fingerprint_slowly)
    monkeypatch.setattr(module, "perf_counter", lambda: clock[0])
    descriptor = Gaussian().resolve(["Cu"])
    clock[0] = 0.0
    summary = fingerprint(images, descriptor, label=shared_path / "x", comm=comm, compress=False)
    busy = comm.allgather(clock[0])
    mean = sum(works.values()) / comm.size
    assert sum(busy) == pytest.approx(sum(works.values()))
    assert summary.computed == len(images)
    assert summary.split["computing"] == pytest.approx(mean)
    assert max(busy) / mean - 1.0 <= max(0.05, max(works.values()) / mean)


def test_predicted_costs_are_those_measured(comm):
    """Processor time is compared, which another process does not take, within a wide margin."""
    descriptor = Gaussian().resolve(["Cu"])
    ratios = []
    for atoms in sorted(uneven_images(40), key=len)[-20::3]:
        descriptor.fingerprint(atoms)
        times = []
        for _ in range(5):
            start = time.process_time()
            descriptor.fingerprint(atoms)
            times.append(time.process_time() - start)
        ratios.append(min(times) / descriptor.predict_cost(atoms))
    ratios = np.array(ratios) / np.median(ratios)
    assert np.all((ratios > 1 / 4) & (ratios < 4)), ratios
    comm.barrier()


def test_fewer_images_than_ranks(comm, shared_path):
    summary = fingerprint(make_images(1), DESCRIPTOR, label=shared_path / "x", comm=comm)
    assert summary.computed == 1


@pytest.mark.parametrize("option", ["derivatives", "verify", "label"])
def test_ranks_with_different_options_are_told(comm, shared_path, trajectory, option):
    values = ("b", "a") if option == "label" else (True, False)
    given = {option: values[comm.rank == 0]}
    given["label"] = str(shared_path / str(given.get("label", "a")))
    if comm.size == 1:
        assert fingerprint([trajectory], DESCRIPTOR, comm=comm, **given).failed == ()
        return
    with pytest.raises(InputError, match=f"different values of {option}") as caught:
        fingerprint([trajectory], DESCRIPTOR, comm=comm, **given)
    assert len(set(comm.allgather(str(caught.value)))) == 1
    assert not list(shared_path.glob("*.ampdb"))


def test_second_run_computes_nothing(comm, shared_path, trajectory):
    for computed in (14, 0):
        summary = fingerprint(
            trajectory, DESCRIPTOR, label=shared_path / "x", derivatives=True, comm=comm
        )
        assert (summary.computed, summary.found) == (computed, 14 - computed)


def test_primes_alone_are_added(comm, shared_path, trajectory):
    fingerprint(trajectory, DESCRIPTOR, label=shared_path / "x", comm=comm)
    summary = fingerprint(
        trajectory, DESCRIPTOR, label=shared_path / "x", derivatives=True, comm=comm
    )
    assert (summary.computed, summary.found) == (14, 0)
    assert len(FingerprintDatabase(shared_path / "x-fingerprint-primes.ampdb")) == 14
    comm.barrier()


def test_shared_database_stays_loose(comm, shared_path, trajectory):
    fingerprint(
        trajectory, DESCRIPTOR, label=shared_path / "x", dblabel=shared_path / "all", comm=comm
    )
    assert len(list((shared_path / "all-fingerprints.ampdb" / "loose").iterdir())) == 14
    assert not (shared_path / "x-fingerprints.ampdb").exists()
    comm.barrier()


def test_damaged_entries_are_computed_again(comm, shared_path, trajectory):
    label = shared_path / "x"
    fingerprint(trajectory, DESCRIPTOR, label=label, comm=comm, compress=False)
    loose = shared_path / "x-fingerprints.ampdb" / "loose"
    keys = sorted(path.name for path in loose.iterdir())
    before = (loose / keys[1]).read_bytes()
    comm.barrier()
    if comm.rank == 0:
        (loose / keys[0]).write_bytes(b"")
        (loose / keys[1]).write_bytes(before[:-40])
        (loose / keys[2]).unlink()
    comm.barrier()
    summary = fingerprint(trajectory, DESCRIPTOR, label=label, comm=comm, compress=False)
    assert sorted(summary.recomputed) == keys[:2]
    assert (summary.computed, summary.found) == (3, 11)
    assert (loose / keys[1]).read_bytes() == before
    comm.barrier()


def test_damage_in_the_archive_is_found_when_asked_for(comm, shared_path, trajectory):
    label = shared_path / "x"
    fingerprint(trajectory, DESCRIPTOR, label=label, comm=comm)
    path = shared_path / "x-fingerprints.ampdb" / "archive.tar.gz"
    if comm.rank == 0:
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 0x55
        path.write_bytes(data)
    comm.barrier()
    summary = fingerprint(trajectory, DESCRIPTOR, label=label, comm=comm, verify=True)
    assert len(summary.recomputed) >= 1
    assert summary.computed == len(summary.recomputed)
    if comm.rank == 0:
        database = FingerprintDatabase(shared_path / "x-fingerprints.ampdb")
        assert len(dict(database.get_many())) == 14
        assert database.corrupt == {}


def test_dry_run_writes_nothing(comm, shared_path, trajectory):
    summary = fingerprint(
        trajectory,
        DESCRIPTOR,
        label=shared_path / "x",
        derivatives=True,
        comm=comm,
        dry_run=True,
    )
    assert [plan.entries for plan in summary.plan] == [14, 14]
    assert sorted(path.name for path in shared_path.iterdir() if path.suffix == ".ampdb") == []
    fingerprint(trajectory, DESCRIPTOR, label=shared_path / "x", derivatives=True,
                comm=comm, compress=False)  # fmt: skip
    for plan in summary.plan:
        digest = [path.stat().st_size for path in (shared_path / plan.path / "loose").iterdir()]
        assert 0.8 < plan.n_bytes / sum(digest) < 1.25
    comm.barrier()


def test_bad_images_are_named_and_the_others_done(comm, shared_path):
    images = make_images(6)
    images[1].positions[0] = images[1].positions[1]
    images[4].positions[0, 0] = np.nan
    descriptor = DESCRIPTOR.resolve(["Cu", "Pt"])
    images[5].symbols[1] = "Au"
    summary = fingerprint(images, descriptor, label=shared_path / "x", comm=comm)
    assert summary.computed == 3
    assert [failed.image.index for failed in summary.failed] == [1, 4, 5]
    for failed, reason in zip(summary.failed, ("overlap", "not finite", "Au"), strict=True):
        assert reason in failed.reason


def test_what_is_wrong_is_said_on_every_rank(comm, shared_path, trajectory):
    label = shared_path / "x"
    with pytest.raises(ImageFileError, match=r"there is no file .*nothing\.traj"):
        fingerprint(shared_path / "nothing.traj", DESCRIPTOR, label=label, comm=comm)
    with pytest.raises(InputError, match="no images"):
        fingerprint([], DESCRIPTOR, label=label, comm=comm)
    assert not list(shared_path.glob("*.ampdb"))
    comm.barrier()
    fingerprint(trajectory, DESCRIPTOR, label=label, comm=comm)
    with pytest.raises(DescriptorMismatchError, match=r"Rc is 4\.5 in the database, 4\.0 here"):
        fingerprint(trajectory, Gaussian(cutoff=4.0), label=label, comm=comm)


def test_subset_of_the_elements_uses_the_same_database(comm, shared_path, trajectory):
    label = shared_path / "x"
    fingerprint(trajectory, DESCRIPTOR, label=label, comm=comm)
    copper = make_images(2)
    for image in copper:
        image.symbols[:] = "Cu"
    summary = fingerprint(copper, DESCRIPTOR, label=label, comm=comm)
    assert summary.computed == 2


def remove_manifest(comm, path):
    comm.barrier()
    if comm.rank == 0:
        (path / "descriptor.json").unlink()
    comm.barrier()


def test_database_that_names_no_descriptor_is_compared_first(comm, shared_path, trajectory):
    label, path = shared_path / "x", shared_path / "x-fingerprints.ampdb"
    fingerprint(trajectory, DESCRIPTOR, label=label, comm=comm)
    remove_manifest(comm, path)
    summary = fingerprint(trajectory, DESCRIPTOR, label=label, comm=comm)
    assert (summary.computed, summary.found) == (0, 14)
    assert any("computed again and agree" in note for note in summary.notes)
    remove_manifest(comm, path)
    other = Gaussian(cutoff=4.4)
    with pytest.raises(DescriptorMismatchError, match="from a new computation"):
        fingerprint(trajectory, other, label=label, comm=comm)
    with pytest.raises(OSError, match="only 0 of the job's images can be compared"):
        fingerprint(make_images(3, seed=5), other, label=label, comm=comm)
    summary = fingerprint(make_images(3, seed=5), DESCRIPTOR, label=label, comm=comm, adopt=True)
    assert summary.computed == 3


def test_hash_does_not_depend_on_who_computes(comm):
    digest = hashlib.md5("".join(map(hash_image, make_images())).encode()).hexdigest()
    assert len(set(comm.allgather(digest))) == 1
