"""Several jobs on one database at once."""

from __future__ import annotations

from cluster import Cluster, until
from folder import Folder


def test_three_jobs_and_a_compress_on_one_dblabel(folder: Folder, cluster: Cluster, expected: dict):
    """Two write loose entries, and a smaller one packs that are ended every second."""
    folder.env(launcher="srun")
    folder.watch(seconds=0.2)
    shared = ("--dblabel", "amp", "--derivatives")
    jobs = [
        folder.submit("fingerprint", *options, arguments=("images.traj", *shared, *arguments))
        for options, arguments in (
            ((), ("--label", "one")),
            ((), ("--label", "two")),
            (("--nodes=1",), ("--label", "three", "--packs", "--pack-seconds", "1")),
        )
    ]
    at_once = ("--cpus-per-task=2",)  # so many are free beside the three
    compressed = []
    until(lambda: folder.n_calls() > 8, 60, "images are computed")
    while not all(cluster.state(job).ended for job in jobs):
        arguments = ("--wait", "60", "--recursive", ".")
        compressed.append(folder.submit("compress", *at_once, arguments=arguments))
        folder.completed(compressed[-1])
    for job in jobs:
        folder.completed(job)
    assert len(compressed) >= 2
    assert folder.database() == expected
    folder.completed(folder.submit("compress"))
    assert folder.loose() == 0
    assert folder.packs() == folder.packs("tmp") == []
    assert folder.database() == expected
