"""Jobs that are warned, stopped, cut off or broken: they end, say so, and lose nothing."""

from __future__ import annotations

import time

import pytest
from cluster import Cluster, until
from folder import N_IMAGES, Folder, images

from ampmpi import hash_image

RANKS = 4
SHARED = ("images.traj", "--label", "amp", "--dblabel", "amp", "--derivatives")
LAUNCHERS = ("srun", "mpirun")


@pytest.fixture(params=LAUNCHERS)
def launcher(request: pytest.FixtureRequest, folder: Folder) -> str:
    folder.env(launcher=request.param)
    return request.param


def start(folder: Folder, cluster: Cluster, *options: str, seconds: float = 0.3) -> int:
    """Submit a job and wait until its ranks are in the middle of the images."""
    folder.watch(seconds)
    job = folder.submit("fingerprint", *options, arguments=SHARED)
    until(lambda: folder.n_calls() >= 2 * RANKS, 60, f"images are computed\n{folder.log(job)}")
    return job


def finish(folder: Folder, expected: dict) -> None:
    """Start the same job again; the database then equals that of an undisturbed run."""
    folder.watch()
    folder.completed(folder.submit("fingerprint", arguments=SHARED))
    assert folder.database() == expected


def wait_requeued(folder: Folder, job: int, seconds: float = 60) -> None:
    """Wait until a job is back in the queue; it starts again some seconds later."""
    until(lambda: folder.cluster.state(job).restarts == 1, seconds, f"requeued\n{folder.log(job)}")


def test_warned_it_stops_requeues_itself_and_completes(
    launcher: str, folder: Folder, cluster: Cluster, expected: dict
):
    job = start(folder, cluster)
    asked = time.monotonic()
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    wait_requeued(folder, job)
    assert time.monotonic() - asked < 15
    before = folder.n_calls()
    assert before < N_IMAGES
    folder.completed(job)
    assert cluster.state(job).restarts == 1
    assert sum(folder.calls_by_rank(job, restart=1).values()) == N_IMAGES - before
    assert folder.computed_twice() == 0
    assert folder.database() == expected


@pytest.mark.parametrize("delay", [0.3, 2.0])
def test_a_warning_during_start_up_does_no_harm(
    launcher: str, delay: float, folder: Folder, cluster: Cluster, expected: dict
):
    folder.watch(seconds=0.3)
    job = folder.submit("fingerprint", arguments=SHARED)
    cluster.wait_running(job)
    time.sleep(delay)
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    wait_requeued(folder, job)
    folder.completed(job)
    assert folder.computed_twice() == 0
    assert folder.database() == expected


def test_it_requeues_itself_only_so_often(folder: Folder, cluster: Cluster):
    folder.env(launcher="srun", restarts="0")
    job = start(folder, cluster)
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    state = folder.wait(job, 20)
    assert (state.name, state.exit_code) == ("FAILED", 75)


def test_scancel(launcher: str, folder: Folder, cluster: Cluster, expected: dict):
    job = start(folder, cluster)
    cluster.run("scancel", str(job))
    assert folder.wait(job, 15).name == "CANCELLED"
    assert cluster.state(job).restarts == 0
    finish(folder, expected)
    assert folder.computed_twice() <= RANKS


def test_a_node_set_down(launcher: str, folder: Folder, cluster: Cluster, expected: dict):
    job = start(folder, cluster, "--no-requeue", "--nodelist=n1,n2")
    cluster.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    assert folder.wait(job, 15).name == "NODE_FAIL"
    cluster.run("scontrol", "update", "nodename=n2", "state=resume")
    finish(folder, expected)
    assert folder.computed_twice() <= RANKS


def test_a_node_that_loses_power(launcher: str, folder: Folder, cluster: Cluster, expected: dict):
    job = start(folder, cluster, "--no-requeue", "--nodelist=n1,n2")
    cluster.kill_node("n2")
    try:
        assert folder.wait(job, 45).name in ("NODE_FAIL", "FAILED")
    finally:
        cluster.start_node("n2")
    cluster.wait_idle()
    finish(folder, expected)
    assert folder.computed_twice() <= RANKS


@pytest.mark.parametrize(("kind", "said"), [("kill", ""), ("raise", "a fault of the test")])
def test_a_rank_that_breaks(
    launcher: str, kind: str, said: str, folder: Folder, cluster: Cluster, expected: dict
):
    folder.watch(0.3, fault=f"3:4:{kind}")
    job = folder.submit("fingerprint", arguments=SHARED)
    until(lambda: folder.calls_by_rank(job).get(3, 0) >= 4, 60, "the fault strikes")
    state = folder.wait(job, 15)
    assert state.name == "FAILED"
    assert state.exit_code not in (0, 75)
    assert said in folder.log(job)
    finish(folder, expected)
    assert folder.computed_twice() <= RANKS


def test_an_image_that_kills_its_rank_twice_is_set_aside(folder: Folder, expected: dict):
    folder.env(launcher="srun")
    poison = hash_image(images()[7])
    folder.watch(poison=poison)
    for _ in range(2):
        assert folder.wait(folder.submit("fingerprint", arguments=SHARED), 60).name == "FAILED"
    third = folder.submit("fingerprint", arguments=SHARED)
    state = folder.wait(third)
    assert state.exit_code == 3, folder.log(third)
    assert "images.traj, image 7" in folder.log(third)
    for kind, entries in folder.database().items():
        assert entries == {key: e for key, e in expected[kind].items() if key != poison}


def test_jobs_cut_off_in_an_image_do_not_set_it_aside(
    folder: Folder, cluster: Cluster, expected: dict
):
    folder.env(launcher="srun")
    for n_jobs in (1, 2):
        folder.watch(seconds=40.0)
        job = folder.submit("fingerprint", arguments=SHARED)
        until(lambda n=n_jobs: folder.n_calls() == n * RANKS, 60, "every rank is in an image")
        cluster.run("scancel", str(job))  # KILL comes five seconds later
        assert folder.wait(job, 15).name == "CANCELLED"
    finish(folder, expected)


def test_walltime(folder: Folder, cluster: Cluster, expected: dict):
    """Time that really runs out: SLURM warns, the job requeues itself and completes."""
    folder.env(launcher="srun")
    folder.watch(seconds=2.0)
    job = folder.submit("fingerprint", "--time=1", "--signal=B:USR1@40", arguments=SHARED)
    wait_requeued(folder, job, 90)
    assert 0 < folder.n_calls() < N_IMAGES
    folder.completed(job, 240)
    assert folder.computed_twice() == 0
    assert folder.database() == expected
