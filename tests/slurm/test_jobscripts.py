"""Each job script as it is shipped, on two nodes with two tasks each."""

from __future__ import annotations

import re

import pytest
from cluster import Cluster, until
from folder import N_IMAGES, Folder


def test_fingerprint(way: str, folder: Folder, expected: dict):
    folder.watch()
    job = folder.submit("fingerprint", "--nodes=2", "--ntasks-per-node=2")
    folder.completed(job)
    calls = folder.calls_by_rank(job)
    assert set(calls) == {0, 1, 2, 3}
    assert min(calls.values()) > 0
    assert sum(calls.values()) == N_IMAGES
    assert folder.database() == expected
    assert folder.loose() == 0  # without a dblabel the job compresses at its end


def test_doctor_sees_the_whole_job(way: str, folder: Folder, cluster: Cluster):
    launch = 'case $launcher in srun) l="srun --mpi=${mpi:-pmi2}";; mpirun) l=mpirun;; esac'
    (folder.path / "doctor.sh").write_text(
        f"#!/bin/bash\n. ./env.sh\n{launch}\nOMP_NUM_THREADS=1 $l ampmpi doctor amp.ampdb\n"
    )
    job = cluster.submit(
        "--nodes=2", "--ntasks-per-node=2", "--output=doctor-%j.log", "doctor.sh", cwd=folder.path
    )
    folder.completed(job)
    said = folder.log(job)
    assert re.search(r"^Ranks: +4: 2 on n1, 2 on n2$", said, re.M), said
    assert re.search(r"^Threads: +OMP_NUM_THREADS=1", said, re.M), said
    vendor = "Open MPI" if way.startswith("openmpi") else "MPICH"
    assert re.search(rf"^MPI: +{vendor} \d", said, re.M), said


def test_some_of_the_tasks_are_enough(folder: Folder, cluster: Cluster):
    """Fewer ranks than the job has tasks are no wrong launch."""
    ways = ("mpirun -n 2", "srun --mpi=pmi2 -n 2")
    (folder.path / "doctor.sh").write_text(
        "#!/bin/bash\n" + "".join(f"{way} ampmpi doctor || exit\n" for way in ways)
    )
    job = cluster.submit(
        "--nodes=2", "--ntasks-per-node=2", "--output=doctor-%j.log", "doctor.sh", cwd=folder.path
    )
    folder.completed(job)
    assert len(re.findall(r"^Ranks: +2: ", folder.log(job), re.M)) == len(ways), folder.log(job)


def test_arguments_given_to_sbatch(folder: Folder):
    folder.env(launcher="srun")
    job = folder.submit(
        "fingerprint", arguments=("images.traj@:5", "--label", "one", "--derivatives")
    )
    folder.completed(job)
    assert {kind: len(entries) for kind, entries in folder.database("one").items()} == {
        "fingerprints": 5,
        "fingerprint-primes": 5,
    }


def test_a_script_printed_for_the_user(folder: Folder, cluster: Cluster):
    script = cluster.run(
        "ampmpi", "jobscript", "fingerprint", "--nodes", "3", "--ntasks-per-node", "1", "--time",
        "00:05:00", "--sbatch", 'comment=a "b" #c', "--sbatch", "no-requeue", "--sbatch",
        "exclusive", "--", "images.traj", "--label", "amp", "--dblabel",
        "shared",
    )  # fmt: skip
    (folder.path / "job.sh").write_text(script)
    job = cluster.submit("job.sh", cwd=folder.path)
    about = cluster.run("scontrol", "show", "job", str(job))
    assert "NumNodes=3" in about
    assert "TimeLimit=00:05:00" in about
    assert 'Comment=a "b" #c' in about
    assert "Requeue=0" in about
    assert "OverSubscribe=NO" in about
    folder.completed(job)
    loose = list((folder.path / "shared-fingerprints.ampdb" / "loose").iterdir())
    assert len(loose) == N_IMAGES  # with a dblabel nothing is compressed at the end


@pytest.mark.parametrize("ending", ["success", "failure", "cancelled", "time-out"])
def test_compress_after_a_job_however_it_ended(folder: Folder, cluster: Cluster, ending: str):
    fault = "1:4:raise" if ending == "failure" else ""
    pace = {"success": 0.0, "time-out": 4.0}
    folder.watch(seconds=pace.get(ending, 0.3), fault=fault)
    arguments = ("images.traj", "--label", "amp", "--dblabel", "amp", "--derivatives")
    first = folder.submit("fingerprint", "--signal=URG@1", arguments=arguments)
    second = folder.submit("compress", f"--dependency=afterany:{first}")
    if ending in ("cancelled", "time-out"):
        until(lambda: folder.n_calls() > 8, 60, "images are computed")
    if ending == "cancelled":
        cluster.run("scancel", str(first))
    if ending == "time-out":
        cluster.end_time(first)
    state = folder.wait(first)
    wanted = {
        "success": "COMPLETED",
        "failure": "FAILED",
        "cancelled": "CANCELLED",
        "time-out": "TIMEOUT",
    }
    assert state.name == wanted[ending], folder.log(first)
    loose = folder.loose()
    assert loose > 0
    folder.completed(second)
    assert folder.loose() == 0
    assert sum(map(len, folder.database().values())) == loose
    assert "archived" in folder.log(second)


def test_compress_waits_for_a_held_lock(folder: Folder, cluster: Cluster):
    folder.completed(
        folder.submit("fingerprint", arguments=("images.traj", "--label", "a", "--dblabel", "amp"))
    )
    path = folder.path / "amp-fingerprints.ampdb"
    code = (
        "import sys, time\n"
        "from ampmpi.database.layout import Home\n"
        "from ampmpi.database.lock import Lock\n"
        "with Lock(Home.open(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(6)\n"
    )
    (folder.path / "hold.py").write_text(code)
    holder = cluster.submit(
        "--output=hold-%j.log", f"--wrap=exec python hold.py {path}", cwd=folder.path
    )
    until(lambda: "held" in folder.log(holder), 30, "the lock is held")
    impatient = folder.submit("compress", arguments=("--wait", "0", str(path)))
    patient = folder.submit("compress", arguments=("--wait", "60", str(path)))
    state = folder.wait(impatient)
    assert (state.name, state.exit_code) == ("FAILED", 6), folder.log(impatient)
    folder.completed(patient)
    assert list((path / "loose").iterdir()) == []
