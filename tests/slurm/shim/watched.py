"""``ampmpi`` as it is, with every computed image written down, slowed or disturbed.

TEST_CALLS is a folder; each rank appends the hash of an image to a file of its own there before
it computes it. TEST_SECONDS is how long an image takes at least. TEST_FAULT is RANK:N:KIND, where
KIND is kill, raise or hang, N counts that rank's images, and a RANK of * is each. Both hold for a
job's first start only, so that a job that goes on is soon done.
TEST_POISON is the hash of an image that kills every rank which computes it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from pathlib import Path

WATCHED = "ampmpi.descriptor.gaussian"


def rank() -> int:
    for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def watch(gaussian: type) -> None:
    fault = os.environ.get("TEST_FAULT", "").split(":")
    poison = os.environ.get("TEST_POISON")
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    job = os.environ.get("SLURM_JOB_ID", "none")
    seconds = 0.0 if restart != "0" else float(os.environ.get("TEST_SECONDS", "0"))
    calls = Path(os.environ["TEST_CALLS"], f"{job}.{restart}.{rank()}")
    if restart != "0" or len(fault) != 3 or fault[0] not in ("*", str(rank())):
        fault = []
    done = 0

    def watched(method):
        def call(self, atoms):
            nonlocal done
            if "H" in atoms.symbols:  # what a rank warms up on
                return method(self, atoms)
            from ampmpi.images import hash_image

            key = hash_image(atoms)
            with open(calls, "a") as file:
                file.write(key + "\n")
            done += 1
            if key == poison:
                os.kill(os.getpid(), signal.SIGKILL)
            if fault and done == int(fault[1]):
                if fault[2] == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if fault[2] == "hang":
                    time.sleep(3600)
                raise ZeroDivisionError("a fault of the test")
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.01)
            return method(self, atoms)

        return call

    for name in ("calculate", "fingerprint", "fingerprint_primes"):
        setattr(gaussian, name, watched(getattr(gaussian, name)))


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Patches the descriptor when the program itself imports it, not before."""

    def find_spec(self, name, path, target=None):
        if name != WATCHED:
            return None
        self.spec = importlib.machinery.PathFinder.find_spec(name, path)
        return importlib.machinery.ModuleSpec(name, self, origin=self.spec.origin)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__file__ = self.spec.origin
        self.spec.loader.exec_module(module)
        watch(module.Gaussian)


if __name__ == "__main__":
    sys.meta_path.insert(0, Finder())
    sys.argv[0] = "ampmpi"
    from ampmpi.cli.main import ampmpi

    ampmpi()
