"""Jobs that are warned, stopped, cut off or broken: they end, say so, and lose nothing."""

from __future__ import annotations

import time

import pytest
from cluster import Cluster, until
from folder import N_IMAGES, Folder, images
from pace import stretched

from ampmpi import hash_image
from ampmpi.database.layout import Home
from ampmpi.fingerprinting.suspects import read_suspects

RANKS = 4
HALF = N_IMAGES // 2
SHARED = ("images.traj", "--label", "amp", "--dblabel", "amp", "--derivatives")
PACKED = (*SHARED, "--packs")
SAME_NODES = "--nodelist=n1,n2"
with_packs_too = pytest.mark.parametrize("arguments", [SHARED, PACKED], ids=["loose", "packs"])
with_packs_by_srun = pytest.mark.parametrize(
    ("launcher", "arguments"),
    [("srun", SHARED), ("mpirun", SHARED), ("srun", PACKED)],
    ids=["srun-loose", "mpirun-loose", "srun-packs"],
    indirect=["launcher"],
)
LAUNCHERS = ("srun", "mpirun")


@pytest.fixture(params=LAUNCHERS)
def launcher(request: pytest.FixtureRequest, folder: Folder) -> str:
    folder.env(launcher=request.param)
    return request.param


def start(
    folder: Folder,
    cluster: Cluster,
    *options: str,
    arguments: tuple[str, ...] = SHARED,
    seconds: float = 0.3,
) -> int:
    """Submit a job and wait until its ranks are in the middle of the images."""
    folder.watch(seconds)
    job = folder.submit("fingerprint", *options, arguments=arguments)
    until(lambda: folder.n_calls() >= 2 * RANKS, 60, f"images are computed\n{folder.log(job)}")
    return job


def finish(
    folder: Folder, expected: dict, *options: str, arguments: tuple[str, ...] = SHARED
) -> str:
    """Start the same job again; the database then equals that of an undisturbed run.

    Returns what that job said. With packs nothing is loose, and no pack is left unfinished.
    """
    folder.watch()
    job = folder.submit("fingerprint", *options, arguments=arguments)
    folder.completed(job)
    assert folder.database() == expected
    if arguments is PACKED:
        assert folder.loose() == 0
        assert folder.packs("tmp") == []
    return folder.log(job)


def wait_requeued(folder: Folder, job: int, seconds: float = 60) -> None:
    """Wait until a job is back in the queue; it starts again some seconds later."""
    until(lambda: folder.cluster.state(job).restarts == 1, seconds, f"requeued\n{folder.log(job)}")


@with_packs_by_srun
def test_warned_it_stops_requeues_itself_and_completes(
    launcher: str, arguments: tuple[str, ...], folder: Folder, cluster: Cluster, expected: dict
):
    """With packs each rank ends its own before it stops, on whatever nodes the job goes on."""
    job = start(folder, cluster, arguments=arguments)
    asked = time.monotonic()
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    wait_requeued(folder, job)
    assert time.monotonic() - asked < stretched(15)
    before = folder.n_calls()
    assert before < N_IMAGES
    if arguments is PACKED:
        assert folder.loose() == 0
        assert len(folder.packs()) == 2 * RANKS
        assert folder.packs("tmp") == []
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


@with_packs_too
def test_scancel(
    launcher: str, arguments: tuple[str, ...], folder: Folder, cluster: Cluster, expected: dict
):
    job = start(folder, cluster, SAME_NODES, arguments=arguments)
    cluster.run("scancel", str(job))
    assert folder.wait(job, 15).name == "CANCELLED"
    assert cluster.state(job).restarts == 0
    finish(folder, expected, SAME_NODES, arguments=arguments)
    assert max(folder.begun_again().values()) <= 1


def test_a_node_set_down(launcher: str, folder: Folder, cluster: Cluster, expected: dict):
    job = start(folder, cluster, "--no-requeue", "--nodelist=n1,n2")
    cluster.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    assert folder.wait(job, 15).name == "NODE_FAIL"
    cluster.run("scontrol", "update", "nodename=n2", "state=resume")
    finish(folder, expected)
    assert max(folder.begun_again().values()) <= 1


@with_packs_by_srun
def test_a_node_that_loses_power(
    launcher: str, arguments: tuple[str, ...], folder: Folder, cluster: Cluster, expected: dict
):
    """It has another boot id when it is back, so that its packs are known to be left."""
    job = start(folder, cluster, "--no-requeue", SAME_NODES, arguments=arguments)
    cluster.kill_node("n2")
    try:
        assert folder.wait(job, 45).name in ("NODE_FAIL", "FAILED")
    finally:
        cluster.start_node("n2")
    cluster.wait_idle()
    finish(folder, expected, SAME_NODES, arguments=arguments)
    assert max(folder.begun_again().values()) <= 1


@pytest.mark.parametrize(
    ("kind", "said", "arguments"),
    [
        ("kill", "", SHARED),
        ("raise", "a fault of the test", SHARED),
        ("kill", "", PACKED),
    ],
    ids=["kill", "raise", "kill-packs"],
)
def test_a_rank_that_breaks(
    launcher: str,
    kind: str,
    said: str,
    arguments: tuple[str, ...],
    folder: Folder,
    cluster: Cluster,
    expected: dict,
):
    folder.watch(0.3, fault=f"3:4:{kind}")
    job = folder.submit("fingerprint", SAME_NODES, arguments=arguments)
    until(lambda: folder.calls_by_rank(job).get(3, 0) >= 4, 60, "the fault strikes")
    state = folder.wait(job, 15)
    assert state.name == "FAILED"
    assert state.exit_code not in (0, 75)
    assert said in folder.log(job)
    left = folder.packs("tmp")
    assert bool(left) == (arguments is PACKED)
    again = finish(folder, expected, SAME_NODES, arguments=arguments)
    assert ("saved from packs that killed ranks had left unfinished" in again) == bool(left)
    assert max(folder.begun_again().values()) <= 1


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


def test_an_image_that_outlasts_two_jobs_is_set_aside_until_it_is_tried_again(
    folder: Folder, cluster: Cluster, expected: dict
):
    """With one image the second job is cut off in the same one as the first."""
    one = ("images.traj@0", *SHARED[1:])
    for n_jobs in (1, 2):
        folder.watch(seconds=60.0)
        job = folder.submit("fingerprint", "--nodes=1", "--ntasks-per-node=1", arguments=one)
        until(lambda n=n_jobs: folder.n_calls() == n, 60, f"in the image\n{folder.log(job)}")
        cluster.run("scancel", str(job))  # KILL comes five seconds later
        assert folder.wait(job, 15).name == "CANCELLED"
    folder.watch()
    third = folder.submit("fingerprint", arguments=SHARED)
    assert folder.wait(third).exit_code == 3, folder.log(third)
    assert "images.traj, image 0: 2 runs crashed" in folder.log(third)
    folder.completed(folder.submit("fingerprint", arguments=(*SHARED, "--retry")))
    assert folder.database() == expected


def suspects(folder: Folder) -> dict[str, int]:
    """Images that the files of all ranks name."""
    found: dict[str, int] = {}
    for path in folder.path.glob("*.ampdb"):
        found |= read_suspects(Home.open(path).temporaries)
    return found


def test_a_crash_on_other_nodes_is_counted(folder: Folder):
    """Nobody needs to know whether the ranks of another node have ended."""
    poison = hash_image(images()[7])
    folder.watch(poison=poison)
    job = folder.submit("fingerprint", "--nodelist=n1,n2", arguments=SHARED)
    assert folder.wait(job, 60).name == "FAILED", folder.log(job)
    assert suspects(folder)[poison] == 1
    options = ("--nodes=1", "--ntasks-per-node=1", "--nodelist=n3")
    job = folder.submit("fingerprint", *options, arguments=SHARED)
    assert folder.wait(job, 60).name == "FAILED", folder.log(job)
    assert suspects(folder)[poison] == 2
    third = folder.submit("fingerprint", *options, arguments=SHARED)
    assert folder.wait(third).exit_code == 3, folder.log(third)
    assert "images.traj, image 7: 2 runs crashed" in folder.log(third)


def test_a_job_that_runs_elsewhere_is_not_disturbed(
    folder: Folder, cluster: Cluster, expected: dict
):
    """The image that it is at is computed last, and has not crashed."""
    folder.watch(seconds=40.0)
    options = ("--nodes=1", "--ntasks-per-node=1")
    slow = folder.submit("fingerprint", *options, "--nodelist=n1", arguments=SHARED)
    until(lambda: folder.n_calls() == 1, 60, f"in an image\n{folder.log(slow)}")
    assert len(suspects(folder)) == 1
    folder.watch()
    other = folder.submit("fingerprint", "--nodelist=n2,n3", arguments=SHARED)
    folder.completed(other)
    assert "computed last" in folder.log(other)
    assert cluster.state(slow).name == "RUNNING"
    assert folder.database() == expected
    assert suspects(folder) == {}


def test_walltime(folder: Folder, cluster: Cluster, expected: dict):
    """Time that really runs out: SLURM warns, the job requeues itself and completes.

    SLURM may warn up to a minute early, which can be before the first image. A job with packs,
    of half as many ranks and images, runs at the same time.
    """
    folder.env(launcher="srun")
    folder.watch(seconds=1.5)
    packed = folder.beside("packed")
    options = ("--time=1", "--signal=B:USR1@40")
    half = (*options, "--nodes=1")
    jobs = [
        (folder, folder.submit("fingerprint", *options, arguments=SHARED), N_IMAGES),
        (
            packed,
            packed.submit("fingerprint", *half, arguments=(f"images.traj@:{HALF}", *PACKED[1:])),
            HALF,
        ),
    ]
    for each, job, n in jobs:
        wait_requeued(each, job, 90)
        assert each.n_calls() < n
    for each, job, _ in jobs:
        each.completed(job, 240)
        assert each.computed_twice() == 0
    assert folder.database() == expected
    keys = {hash_image(atoms) for atoms in images()[:HALF]}
    assert packed.database() == {
        kind: {key: entries[key] for key in keys} for kind, entries in expected.items()
    }
    assert packed.loose() == 0
    assert packed.packs("tmp") == []


def test_walltime_without_a_warning(
    launcher: str, folder: Folder, cluster: Cluster, expected: dict
):
    """Every rank is killed in an image: the next job does these last."""
    folder.watch(seconds=90.0)
    job = folder.submit("fingerprint", "--signal=URG@1", arguments=SHARED)
    until(lambda: folder.n_calls() == RANKS, 60, f"images are computed\n{folder.log(job)}")
    cluster.end_time(job)
    assert folder.wait(job, 60).name == "TIMEOUT"
    named = suspects(folder)
    assert [named[key] for key in sorted(named)] == [1] * RANKS
    finish(folder, expected)
    assert list(folder.begun_again().values()) == [1] * RANKS + [0] * RANKS


def test_walltime_without_a_warning_in_the_middle_of_packs(
    folder: Folder, cluster: Cluster, expected: dict
):
    """Every rank is killed in its fourth image: the three before are in a pack without an end."""
    folder.env(launcher="srun")
    folder.watch(fault="*:4:hang")
    job = folder.submit("fingerprint", "--signal=URG@1", SAME_NODES, arguments=PACKED)
    until(lambda: folder.n_calls() == 4 * RANKS, 60, f"images are computed\n{folder.log(job)}")
    cluster.end_time(job)
    assert folder.wait(job, 60).name == "TIMEOUT"
    assert folder.packs() == []
    assert len(folder.packs("tmp")) == 2 * RANKS
    said = finish(folder, expected, SAME_NODES, arguments=PACKED)
    assert said.count(f" {3 * RANKS} entries saved from packs") == 2
    assert list(folder.begun_again().values()) == [1] * RANKS + [0] * RANKS


def test_a_job_that_goes_on_without_a_node(folder: Folder, cluster: Cluster, expected: dict):
    """Nobody can know whether ranks of a node that is not there have ended.

    So what is in their packs is computed again; a compress on that node saves it later.
    """
    folder.env(launcher="srun")
    cluster.run("scontrol", "update", "nodename=n3", "state=drain", "reason=test")
    folder.watch(fault="*:4:hang")
    job = folder.submit("fingerprint", arguments=PACKED)
    until(lambda: folder.n_calls() == 4 * RANKS, 60, f"images are computed\n{folder.log(job)}")
    cluster.run("scontrol", "update", "nodename=n3", "state=resume")
    cluster.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    cluster.run("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    wait_requeued(folder, job)
    assert len(folder.packs("tmp")) == 2 * RANKS
    folder.completed(job)
    assert folder.database() == expected
    again = folder.begun_again()
    assert [again[job, 0, rank] for rank in range(RANKS)] == [1, 1, 4, 4]
    assert f" {3 * RANKS // 2} entries saved from packs" in folder.log(job)
    assert len(folder.packs("tmp")) == RANKS
    cluster.run("scontrol", "update", "nodename=n2", "state=resume")
    folder.completed(folder.submit("compress", "--nodelist=n2"))
    assert folder.packs("tmp") == folder.packs() == []
    assert folder.database() == expected
