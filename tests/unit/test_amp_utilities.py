"""What stands behind ``amp.utilities``."""

# ruff: noqa: NPY002  (the global generator is what scripts seed)

from __future__ import annotations

import io
import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from training_images import emt_images

from ampmpi import Amp, FingerprintDatabase, Gaussian, LossFunction, NeuralNetwork
from ampmpi.amp import utilities
from ampmpi.amp._left_out import LEFT_OUT
from ampmpi.amp.utilities import (
    Annealer,
    Data,
    FileDatabase,
    Logger,
    MissingDataError,
    check_images,
    get_hash,
    hash_images,
    make_filename,
    randomize_images,
    string2dict,
)
from ampmpi.errors import CorruptEntryError, InputError, ModelError


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_logger_appends_or_begins_anew():
    for line in ("first", "second"):
        log = Logger("a.txt")
        log(line)
        log.file.close()
    assert Path("a.txt").read_text() == "first\nsecond\n"
    log = Logger("a.txt", overwrite=True)
    log("third")
    log.file.close()
    log("fourth")
    log.file.close()
    assert Path("a.txt").read_text() == "third\nfourth\n"
    Logger(None)("nothing", toc=True)


def test_a_logger_tells_how_long_something_took(monkeypatch):
    seconds = iter([100.0, 100.5, 103.5, 1000.5])
    monkeypatch.setattr("time.time", lambda: next(seconds))
    stream = io.StringIO()
    log = Logger(stream)
    log("begin", tic=True)
    log("named", tic="two")
    log("first", check=True)
    log("second", toc="two")
    assert stream.getvalue() == "begin\nnamed\nfirst 3.5 s\nsecond 15.0 min.\n"
    with pytest.raises(InputError, match="'two' is not running"):
        log("again", toc="two")
    monkeypatch.setattr("time.time", lambda: 0.0)
    log.tic("two")
    with pytest.raises(InputError, match="'two' is running already"):
        log.tic("two")


def test_filenames_are_made_as_in_amp():
    assert make_filename("a/b", "-log.txt") == "a/b-log.txt"
    assert make_filename("", "log.txt") == "log.txt"
    assert make_filename(None, "log.txt") is None


def test_images_that_lack_something_are_counted():
    whole, energy_only, bare = emt_images(3)
    energy_only.calc = SinglePointCalculator(energy_only, energy=1.0)
    bare.calc = None
    images = {get_hash(atoms): atoms for atoms in (whole, energy_only, bare)}
    check_images({"a": whole}, forces=True)
    check_images({"a": energy_only}, forces=False)
    with pytest.raises(MissingDataError, match=r"^1 image has no energy: "):
        check_images(images, forces=False)
    with pytest.raises(MissingDataError, match=r"^1 image has no energy, and 2 images have no for"):
        check_images(images, forces=True)


def test_the_split_follows_numpys_global_seed():
    images = emt_images(7)
    np.random.seed(5)
    train, test = randomize_images(images, fraction=0.6)
    assert (len(train), len(test)) == (4, 3)
    np.random.seed(5)
    drawn: list[int] = []
    while len(drawn) < 3:
        number = np.random.randint(7)
        drawn += [number] * (number not in drawn)
    assert test == [images[i] for i in sorted(drawn)]
    assert train == [images[i] for i in range(7) if i not in drawn]
    with pytest.raises(InputError, match="fraction"):
        randomize_images(images, 80)


def test_a_file_is_split():
    images = emt_images(4)
    write("set.traj", images)
    train, test = randomize_images("set.traj", 0.5)
    assert sorted(map(get_hash, train + test)) == sorted(map(get_hash, images))


def test_duplicates_are_counted_as_in_amp():
    images = [*emt_images(3), *emt_images(1), *emt_images(1)]
    said = io.StringIO()
    hashed = hash_images(images, log=Logger(said))
    assert len(hashed) == 3
    assert hashed.metadata["duplicates"] == {get_hash(images[0]): 3}
    assert hashed[get_hash(images[0])] is images[4]
    assert said.getvalue().count("duplicate") == 2
    assert hash_images(hashed) is hashed


def test_a_text_is_parsed_and_not_run():
    assert string2dict("dict(a=[1, 2.5], b={'c': None})") == {"a": [1, 2.5], "b": {"c": None}}
    with pytest.raises(ModelError):
        string2dict("dict(a=__import__('os').getcwd())")


def test_what_is_left_out_says_why():
    for name, reason in LEFT_OUT["utilities"].items():
        with pytest.raises(ImportError, match=re.escape(reason)):
            getattr(utilities, name)
    with pytest.raises(AttributeError, match="nothing_such"):
        utilities.nothing_such  # noqa: B018


def test_a_database_has_entries_in_amps_form():
    descriptor = Gaussian(cutoff=4.0).resolve(["Cu", "Pt"])
    atoms = emt_images(1)[0]
    key = get_hash(atoms)
    fingerprint, primes = descriptor.calculate(atoms)
    first, second = FileDatabase("x-fingerprints"), FileDatabase("x-fingerprint-primes.ampdb")
    assert first.keys() == [] and len(first) == 0
    first[key] = [(s, np.array(v)) for s, v in fingerprint.to_amp()]
    second.update({key: primes.to_amp()})
    assert FingerprintDatabase("x-fingerprints")[key] == fingerprint
    assert FingerprintDatabase("x-fingerprint-primes")[key] == primes
    assert FileDatabase.open("x-fingerprints.ampdb", "r")[key] == fingerprint.to_amp()
    assert second.values() == [primes.to_amp()]
    second.archive()
    assert second[key] == primes.to_amp() and second.keys() == [key]
    with pytest.raises(KeyError):
        first["0" * 32]
    with pytest.raises(InputError, match="not the hash of an image"):
        first["name"] = fingerprint
    with pytest.raises(InputError, match="neither a fingerprint nor primes"):
        first[key] = [1, 2]


def test_other_databases_take_plain_values_and_nothing_else():
    database, key = FileDatabase("neighbours"), "0" * 32
    value = [([0, 3], [(0, 0, 1), (0, 0, 0)]), ([], []), {(1, "Cu"): 2.5}]
    database[key] = value
    assert FileDatabase("neighbours")[key] == value
    data = FingerprintDatabase("neighbours").get_bytes(key)
    assert pickle.loads(data) == value
    database[key] = (np.arange(3), np.eye(2), np.float64(0.5))
    assert database[key] == ([0, 1, 2], [[1.0, 0.0], [0.0, 1.0]], 0.5)
    with pytest.raises(InputError, match="Atoms"):
        database[key] = bulk("Cu")
    with pytest.raises(InputError, match="cannot be kept"):
        database[key] = {"text": 1}
    FingerprintDatabase("neighbours").put_bytes(key, pickle.dumps(print))
    with pytest.raises(CorruptEntryError):
        database[key]


class Distances:
    def __init__(self):
        self.asked = []

    def calculate(self, image, key):
        self.asked.append(key)
        return image.get_all_distances().tolist()


def test_data_are_calculated_once():
    calculator = Distances()
    images = hash_images([molecule("H2O"), molecule("CH4")])
    data = Data("distances", calculator=calculator)
    data.calculate_items(images, parallel={"cores": 1})
    more = hash_images([molecule("CH4"), molecule("NH3")])
    said = io.StringIO()
    data.calculate_items(more, parallel={"cores": 1}, log=Logger(said))
    assert sorted(calculator.asked) == sorted({*images, *more})
    assert " 1 new calculations needed." in said.getvalue()
    for key, atoms in more.items():
        assert data[key] == atoms.get_all_distances().tolist()
    data.close()
    assert data.d is None
    data.open()
    assert len(data.d) == 3


def a_calculator(**options):
    loss = LossFunction(convergence={"energy_rmse": 1e-4, "force_rmse": 1e-3}, maxiter=3)
    return Amp(
        Gaussian(cutoff=4.0),
        NeuralNetwork(hiddenlayers=(3,), randomseed=1, lossfunction=loss),
        label="a",
        **options,
    )


def test_annealing_keeps_the_best_parameters():
    """At a temperature of nothing every move that is taken lowers the loss."""
    images, calc = emt_images(3), a_calculator()
    np.random.seed(1)
    random.seed(1)
    cold = Annealer(calc, images, Tmax=1e-12, Tmin=1e-13, steps=60, updates=3)
    start = a_calculator()
    first = Annealer(start, images, steps=1)
    assert cold.loss < first.loss
    assert np.array_equal(calc.model.vector, cold.state)
    errors = []
    for atoms in images:
        energy, forces = calc.get_potential_energy(atoms), calc.get_forces(atoms)
        errors.append(((energy - atoms.get_potential_energy()) / len(atoms)) ** 2)
        errors.append(0.04 * np.mean((forces - atoms.get_forces()) ** 2))
    assert cold.loss == pytest.approx(sum(errors), rel=1e-10)
    lines = Path("a-log.txt").read_text().splitlines()
    rows = [line.split() for line in lines if re.match(r" +\d+ ", line)]
    assert [int(row[0]) for row in rows[:4]] == [0, 20, 40, 0]


def test_annealing_without_forces_and_then_a_training():
    images, calc = emt_images(3), a_calculator(logging=False)
    np.random.seed(2)
    random.seed(2)
    found = Annealer(calc, images, steps=5, train_forces=False)
    errors = [
        (calc.get_potential_energy(a) - a.get_potential_energy()) / len(a) for a in images
    ]  # fmt: skip
    assert found.loss == pytest.approx(float(np.sum(np.square(errors))), rel=1e-10)
    start = calc.model.vector
    calc.train(images)
    assert np.array_equal(Amp.load("a-initial-parameters.amp").model.vector, start)
    with pytest.raises(InputError, match="Tmin is 0"):
        Annealer(calc, images, Tmin=0)
