"""Training jobs, and the chain of all jobs, as shipped."""

from __future__ import annotations

import re
from pathlib import Path

from cluster import Cluster, until
from folder import Folder

from ampmpi import Amp, FingerprintDatabase
from ampmpi.cli.jobscript import templates

EASY = ("--hidden", "3", "--energy-rmse", "0.5", "--force-rmse", "5")
HARD = (
    "--hidden", "3,3", "--energy-rmse", "1e-9", "--max-steps", "1000000",
    "--optimizer", "L-BFGS-B", "--validation-fraction", "0",
)  # fmt: skip


def test_train(way: str, folder: Folder):
    job = folder.submit(
        "train", "--nodes=2", "--ntasks-per-node=2", arguments=("images.traj", *EASY)
    )
    folder.completed(job)
    assert Amp.load(str(folder.path / "amp.amp")) is not None
    assert folder.loose() == 0


def test_a_training_that_is_warned_goes_on_where_it_stopped(folder: Folder, cluster: Cluster):
    folder.env(launcher="srun")
    curve = folder.path / "amp-curve.txt"

    def rows() -> list[str]:
        return curve.read_text().splitlines()[1:] if curve.exists() else []

    job = folder.submit("train", arguments=("images.traj", "--label", "amp", *HARD))
    until(lambda: len(rows()) >= 20, 90, f"trains\n{folder.log(job)}")
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    until(lambda: cluster.state(job).restarts == 1, 30, "requeued")
    before = rows()
    cluster.wait_running(job)
    until(lambda: len(rows()) >= len(before) + 20, 90, f"goes on\n{folder.log(job)}")
    cluster.run("scancel", str(job))
    assert folder.wait(job, 15).name == "CANCELLED"
    after = rows()
    assert after[: len(before)] == before
    steps = [int(row.split()[0]) for row in after]
    assert steps == list(range(steps[0], steps[0] + len(steps)))


def test_chain(folder: Folder, cluster: Cluster, expected: dict):
    shared = folder.path / "on scratch" / "cupt"
    shared.parent.mkdir()
    with FingerprintDatabase.create(f"{shared}-2-fingerprints.ampdb") as stranger:
        stranger.put("0" * 32, next(iter(expected["fingerprints"].values())))
    script = cluster.run(
        "ampmpi", "jobscript", "chain", "--nodes", "2", "--ntasks-per-node", "2", "--time",
        "00:05:00", "--array", "0-1", "--train", " ".join(EASY), "--dblabel", str(shared),
        "images.traj",
    )  # fmt: skip
    (folder.path / "chain.sh").write_text(script)
    said = cluster.run("bash", "chain.sh", cwd=folder.path)
    match = re.fullmatch(r"fingerprint (\d+), trainings (\d+), compress (\d+)", said)
    assert match, said
    first, second, third = map(int, match.groups())
    folder.completed(third, 180)
    folder.completed(first)
    for member in (0, 1):
        assert cluster.state(f"{second}_{member}").name == "COMPLETED", folder.log(second)
        assert Amp.load(f"{shared}-{member}.amp") is not None
    weights = [Path(f"{shared}-{member}.amp").read_text() for member in (0, 1)]
    assert weights[0] != weights[1]
    assert folder.loose("on scratch/cupt") == 0
    assert folder.database("on scratch/cupt") == expected
    assert stranger.info().loose == 1  # of others nothing is touched


def test_a_chain_whose_first_job_fails(folder: Folder, cluster: Cluster):
    script = (templates() / "chain.sh").read_text().replace("images.traj", "missing.traj")
    (folder.path / "chain.sh").write_text(script)
    said = cluster.run("bash", "chain.sh", cwd=folder.path)
    first, second, third = map(int, re.findall(r"\d+", said))
    assert folder.wait(first).exit_code == 2
    state = folder.wait(third)  # the trainings were dropped, or it would wait for ever
    assert (state.name, state.exit_code) == ("FAILED", 4)  # there is no database to compress
    assert "there is neither amp-fingerprints.ampdb nor" in folder.log(third)
    assert cluster.state(f"{second}_0").name == "CANCELLED"
    assert "missing.traj" in folder.log(first)


def test_a_training_ends_before_its_job_and_leaves_a_potential(folder: Folder):
    """The line for env.sh is that of the documentation, for a SLURM that does not say the end."""
    ask = '$(date -d "$(squeue -h -j $SLURM_JOB_ID -o %e)" +%s)'
    folder.env(launcher="srun", SLURM_JOB_END_TIME=ask)
    job = folder.submit(
        "train", "--time=2", "--signal=URG@1",
        arguments=("images.traj", *HARD, "--max-seconds", "1e9"),
    )  # fmt: skip
    folder.completed(job, 150)
    assert "amp.amp: out of time after" in folder.log(job)
    log = (folder.path / "amp-log.txt").read_text()
    assert "the time of the batch job is nearly over" in log
    assert Amp.load(str(folder.path / "amp.amp")) is not None
