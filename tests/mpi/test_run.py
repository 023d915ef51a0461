"""``ampmpi run``: a script as Amp's users write it, alone and on two ranks."""

from __future__ import annotations

import json

import pytest
from conftest import AMPMPI, Outcome, finish, start

pytestmark = [pytest.mark.mpi, pytest.mark.starts_jobs]

RANKS = pytest.mark.parametrize("ranks", [0, 2])


def run_script(text, ranks, folder, *arguments) -> Outcome:
    (folder / "script.py").write_text(text)
    return finish(start([*AMPMPI, "run", "script.py", *arguments], ranks, folder))


@RANKS
def test_a_script_sees_what_python_would_show_it(tmp_path, ranks):
    (tmp_path / "beside.py").write_text("value = 3\n")
    script = """
import json, os, sys, warnings
import beside
import amp, amp.model.neuralnetwork
from amp import Amp
from amp.descriptor.gaussian import Gaussian
warnings.warn("look")
print(json.dumps([sys.argv, __file__, __name__, beside.value, amp.__name__, Amp.__module__]))
print(os.path.basename(sys.path[0]) == os.path.basename(os.getcwd()), sys.modules["amp"] is amp)
"""
    result = run_script(script, ranks, tmp_path, "--help", "-n", "3")
    assert result.code == 0
    first, second = result.out.splitlines()
    expected = [["script.py", "--help", "-n", "3"], "script.py", "__main__", 3, "ampmpi.amp"]
    assert json.loads(first) == [*expected, "ampmpi.calculator"]
    assert second == "True True"
    assert result.err.count("UserWarning: look") == 1


@RANKS
def test_an_error_ends_all_ranks_and_shows_the_script_alone(tmp_path, ranks):
    script = """
import ase.parallel
from amp import Amp
def divide():
    if ase.parallel.world.rank == ase.parallel.world.size - 1:
        return 1 / 0
    ase.parallel.world.barrier()
divide()
"""
    result = run_script(script, ranks, tmp_path)
    assert result.code == 1
    assert 'File "script.py", line 6, in divide' in result.err
    assert "ZeroDivisionError" in result.err
    assert "runpy" not in result.err
    assert "cli/run.py" not in result.err


@RANKS
@pytest.mark.parametrize(
    ("leave", "code", "said"),
    [("sys.exit(3)", 3, ""), ("sys.exit('bye')", 1, "bye"), ("sys.exit()", 0, "")],
)
def test_a_script_leaves_with_its_own_code(tmp_path, ranks, leave, code, said):
    result = run_script(f"import sys\nprint('there')\n{leave}\nprint('never')\n", ranks, tmp_path)
    assert (result.code, result.out) == (code, "there\n")
    assert said in result.err


@RANKS
def test_an_error_of_the_package_has_its_exit_code(tmp_path, ranks):
    script = "from amp import Amp\nAmp.load('missing.amp')\n"
    result = run_script(script, ranks, tmp_path)
    assert result.code == 2
    assert "missing.amp" in result.err


def test_names_of_amp_that_are_not_here_say_so_when_they_are_imported(tmp_path):
    script = """
for name in ("amp.nothing", "amp.model.kernelridge"):
    try:
        __import__(name)
    except ImportError as error:
        print(type(error).__name__, error)
"""
    lines = run_script(script, 0, tmp_path).out.splitlines()
    assert len(lines) == 2
    assert "amp.nothing is not among the modules of Amp that ampmpi has" in lines[0]
    assert "amp.model.kernelridge" in lines[1]


def test_a_missing_script_is_named_once(tmp_path):
    result = finish(start([*AMPMPI, "run", "none.py"], 2, tmp_path))
    assert result.code == 2
    assert result.err == "ampmpi: error: none.py is not there; give the file of a Python script\n"


def test_ranks_draw_the_same_random_numbers(tmp_path):
    script = """
import random
import numpy as np
from ase.parallel import world
mine = np.array([random.random(), np.random.random()])
total = mine.copy()
world.sum(total)
print(bool((total == 2 * mine).all()), mine.tolist())
"""
    first, second = (run_script(script, 2, tmp_path).out for _ in range(2))
    assert first.startswith("True ")
    assert second.startswith("True ")
    assert first != second


IN_MEMORY = """
import json
from ase.build import molecule
from ase.parallel import world
from amp.descriptor.gaussian import Gaussian
from amp.utilities import hash_images
images = []
for i in range(5):
    atoms = molecule("H2O")
    atoms.positions[0, 2] += 0.05 * i
    images.append(atoms)
images = hash_images(images)
descriptor = Gaussian()
descriptor.calculate_fingerprints(images, calculate_derivatives=True)
ours = [Gaussian(elements=["H", "O"]).calculate(atoms) for atoms in images.values()]
same = [
    descriptor.fingerprints[key] == fingerprint.to_amp()
    and descriptor.fingerprintprimes[key] == primes.to_amp()
    for key, (fingerprint, primes) in zip(images, ours)
]
print(json.dumps(same), world.size)
"""


def test_fingerprints_in_memory_are_shared_by_the_ranks(tmp_path):
    assert run_script(IN_MEMORY, 2, tmp_path).out == f"{json.dumps([True] * 5)} 2\n"
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


def test_images_that_differ_between_ranks_are_refused(tmp_path):
    script = IN_MEMORY.replace("0.05 * i", "0.05 * i + 0.01 * world.rank")
    result = run_script(script, 2, tmp_path)
    assert result.code == 2
    assert "different values of images" in result.err
