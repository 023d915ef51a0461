"""Command lines as a user types them: each in a process of its own, under a time limit."""

import os
import subprocess
import sys

from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from ampmpi import FingerprintDatabase

AMPMPI = [sys.executable, "-m", "ampmpi"]
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CUTOFF = ["--cutoff", "4"]


def environment(**more):
    """Return the environment in which this tree's package is found from everywhere."""
    paths = [ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    return os.environ | one | {"PYTHONPATH": os.pathsep.join(paths)} | more


def run(*command, cwd, seconds=120, **options):
    """Run a command; return its exit code and all that it said."""
    options.setdefault("env", environment())
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
        timeout=seconds,
        **options,
    )
    return done.returncode, done.stdout


def ampmpi(*words, cwd, **options):
    """Run ``ampmpi``; return its exit code and all that it said."""
    return run(*AMPMPI, *words, cwd=cwd, **options)


def succeed(*words, cwd, **options):
    """Run ``ampmpi``, which must end well; return what it said."""
    code, output = ampmpi(*words, cwd=cwd, **options)
    assert code == 0, output
    return output


def make_images(path, count=6, first=0, size=1):
    """Write images of copper, with energies and forces, that follow from their numbers."""
    images = []
    for number in range(first, first + count):
        image = bulk("Cu", cubic=True) * (size, size, size)
        image.rattle(0.05, seed=number)
        forces = image.positions - image.positions.mean(axis=0)
        image.calc = SinglePointCalculator(image, energy=0.1 * number, forces=0.01 * forces)
        images.append(image)
    write(path, images)


def contents(path):
    """Return all entries of a database; none may be damaged."""
    with FingerprintDatabase(path) as database:
        found = dict(database.get_many())
        assert not database.corrupt
        assert set(found) == set(database)
    return found


def snapshot(*folders):
    """Return what lies in or below folders, and when it was changed last."""
    found = {}
    for top in folders:
        for folder, _, files in os.walk(top):
            for path in (folder, *(os.path.join(folder, name) for name in files)):
                status = os.lstat(path)
                found[path] = (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def check_words(output, *words):
    """Check that an error is told in words, and names what it is about."""
    assert "Traceback" not in output, output
    assert all(word in output for word in words), output
