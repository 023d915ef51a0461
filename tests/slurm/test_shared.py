"""Several jobs on one database at once."""

from __future__ import annotations

from cluster import Cluster, until
from folder import Folder


def test_two_jobs_and_a_compress_on_one_dblabel(folder: Folder, cluster: Cluster, expected: dict):
    folder.env(launcher="srun")
    folder.watch(seconds=0.2)
    jobs = [
        folder.submit(
            "fingerprint",
            arguments=("images.traj", "--label", label, "--dblabel", "amp", "--derivatives"),
        )
        for label in ("one", "two")
    ]
    compressed = []
    until(lambda: folder.n_calls() > 8, 60, "images are computed")
    while not all(cluster.state(job).ended for job in jobs):
        compressed.append(folder.submit("compress", arguments=("--wait", "60", "--recursive", ".")))
        folder.completed(compressed[-1])
    for job in jobs:
        folder.completed(job)
    assert len(compressed) >= 2
    assert folder.database() == expected
    folder.completed(folder.submit("compress"))
    assert folder.loose() == 0
    assert folder.database() == expected
