"""What killed ranks of several nodes left unfinished is saved by the next job at once."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest
from conftest import make_images

from ampmpi import FingerprintDatabase, Gaussian, fingerprint, hash_image
from ampmpi.database.packs import PackWriter, open_packs
from ampmpi.entries.codec import encode
from ampmpi.files import owner
from ampmpi.files.owner import Owner

pytestmark = pytest.mark.mpi
DESCRIPTOR = Gaussian(cutoff=4.5, elements=["Cu", "Pt"])


def leave_pack(path, images, monkeypatch) -> None:
    """Begin a pack of some images, as a process of this host that has been killed since."""
    me = Owner.me()
    with FingerprintDatabase(path) as database, monkeypatch.context() as patch:
        patch.setattr(Owner, "me", lambda: replace(me, pid=2**30))
        writer = PackWriter(database.make())
        for image in images:
            writer.put_bytes(hash_image(image), encode(DESCRIPTOR.fingerprint(image)))


@pytest.mark.parametrize("left_by", ["nodes of this job", "another node"])
def test_each_node_judges_its_own_processes(comm, shared_path, monkeypatch, left_by):
    """Of another node nothing is known for ten minutes, and so much is computed again."""
    images = make_images()
    half = len(images) // 2
    path = shared_path / "db-fingerprints.ampdb"
    fingerprint(images[:1], DESCRIPTOR, label=shared_path / "db", comm=comm)
    home = "gone" if left_by == "another node" else f"node{comm.rank}"
    monkeypatch.setattr(owner, "hostname", lambda: home)
    leave_pack(path, images[1:half][comm.rank :: comm.size], monkeypatch)
    monkeypatch.setattr(owner, "hostname", lambda: f"node{comm.rank}")
    comm.barrier()

    n_saved = half - 1 if left_by == "nodes of this job" else 0
    summary = fingerprint(images, DESCRIPTOR, label=shared_path / "db", comm=comm, packs=True)
    assert (summary.found, summary.computed) == (1 + n_saved, len(images) - 1 - n_saved)
    assert any(f"{n_saved} entries saved" in note for note in summary.notes) == (n_saved > 0)
    with FingerprintDatabase(path) as database:
        assert dict(database.get_many()) == {
            hash_image(image): DESCRIPTOR.fingerprint(image) for image in images
        }
        left = open_packs(database.make())
    comm.barrier()
    assert bool(left) == (left_by == "another node")
    if comm.rank == 0 and left:
        an_hour_ago = time.time() - 3600
        for name in left:
            os.utime(path / "tmp" / name, (an_hour_ago, an_hour_ago))
        with FingerprintDatabase(path) as database:
            assert database.compress().salvaged == half - 1
            assert not open_packs(database.make())
