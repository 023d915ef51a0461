"""A user's folder: images, job scripts as shipped, and what came of the jobs."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from cluster import Cluster, JobState

from ampmpi import FingerprintDatabase
from ampmpi.cli.jobscript import templates

SHIM = Path(__file__).parent / "shim"
N_IMAGES = 60
KINDS = ("fingerprints", "fingerprint-primes")


def images(n: int = N_IMAGES, seed: int = 0) -> list[Atoms]:
    """Small crystals of two elements, no two alike."""
    found = []
    for i in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[i % 4] = "Pt"
        atoms.rattle(0.05, seed=1000 * seed + i)
        atoms.calc = EMT()
        atoms.get_forces()
        found.append(atoms)
    return found


def contents(path: Path, label: str = "amp") -> dict[str, dict]:
    """Return all that the databases of a label hold."""
    found = {}
    for kind in KINDS:
        with FingerprintDatabase(path / f"{label}-{kind}.ampdb") as database:
            found[kind] = dict(database.items())
    return found


class Folder:
    """Where a user's files are and jobs are submitted."""

    def __init__(self, cluster: Cluster, path: Path) -> None:
        self.cluster, self.path = cluster, path
        self.calls = path / "calls"
        self.calls.mkdir()
        self.watched: dict[str, str] = {}

    def beside(self, name: str) -> Folder:
        """Return a folder in this one with the same images and settings, watched alike."""
        path = self.path / name
        path.mkdir()
        for file in ("images.traj", "env.sh"):
            if (self.path / file).exists():
                shutil.copy(self.path / file, path)
        other = Folder(self.cluster, path)
        other.watched = {**self.watched, "TEST_CALLS": str(other.calls)}
        return other

    def watch(self, seconds: float = 0.0, fault: str = "", poison: str = "") -> None:
        """Write down what jobs submitted from now on compute; slow down or disturb it at first."""
        self.watched = {
            "PATH": f"{SHIM}{os.pathsep}{self.cluster.environ['PATH']}",
            "TEST_CALLS": str(self.calls),
            "TEST_SECONDS": str(seconds),
            "TEST_FAULT": fault,
            "TEST_POISON": poison,
        }

    def submit(self, script: str, *options: str, arguments: tuple[str, ...] = ()) -> int:
        """Submit a job script as it is shipped."""
        file = templates() / f"{script}.sh"
        return self.cluster.submit(*options, file, *arguments, cwd=self.path, environ=self.watched)

    def env(self, **settings: str) -> None:
        """Write an env.sh with these settings; capitals are exported."""
        lines = [f"{'export ' * k.isupper()}{k}={v}\n" for k, v in settings.items()]
        (self.path / "env.sh").write_text("".join(lines))

    def log(self, job: int) -> str:
        """What a job has said so far."""
        return "".join(p.read_text() for p in sorted(self.path.glob(f"*-{job}*.log")))

    def wait(self, job: int, seconds: float = 120) -> JobState:
        return self.cluster.wait(job, seconds)

    def completed(self, job: int, seconds: float = 120) -> None:
        """Wait for a job, which has to succeed."""
        state = self.wait(job, seconds)
        assert state.name == "COMPLETED", f"{state}\n{self.log(job)}"

    def calls_by_rank(self, job: int, restart: int = 0) -> dict[int, int]:
        """How many images each rank began to compute."""
        return {
            int(file.name.rpartition(".")[2]): len(file.read_text().split())
            for file in self.calls.glob(f"{job}.{restart}.*")
        }

    def computed_twice(self) -> int:
        """How many times an image was computed that had been begun before."""
        counts = Counter(key for file in self.calls.iterdir() for key in file.read_text().split())
        return sum(counts.values()) - len(counts)

    def begun_again(self) -> dict[tuple[int, int, int], int]:
        """Of each rank of each run of a job, how many of its images were begun once more later."""
        runs: dict[tuple[int, int, int], list[str]] = {
            tuple(map(int, file.name.split("."))): file.read_text().split()
            for file in self.calls.iterdir()
        }
        again = {}
        later: set[str] = set()
        for run in sorted(runs, reverse=True):
            again[run] = sum(key in later for key in runs[run])
            again[run] += len(runs[run]) - len(set(runs[run]))
            later.update(runs[run])
        return dict(sorted(again.items()))

    def n_calls(self) -> int:
        return sum(len(file.read_text().split()) for file in self.calls.iterdir())

    def database(self, label: str = "amp") -> dict[str, dict]:
        """All that the databases of a label hold."""
        return contents(self.path, label)

    def loose(self, label: str = "amp") -> int:
        """How many entries of a label's databases are loose."""
        return sum(
            len(list((self.path / f"{label}-{kind}.ampdb" / "loose").iterdir())) for kind in KINDS
        )

    def packs(self, where: str = "packs") -> list[str]:
        """Names of the packs of all databases that are in ``packs/``, or unfinished in ``tmp/``."""
        return [file.name for file in self.path.glob(f"*.ampdb/{where}/*pack-*")]
