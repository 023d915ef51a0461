"""What the interop tests ask of Amp; run by the Python in which Amp is installed.

``amp_side.py COMMAND REQUEST ANSWER``: the request and the answer are JSON
files. JSON keeps every bit of a float, and arrays as nested lists.
"""

import contextlib
import io
import json
import os
import pickle
import sys

import numpy as np
from amp import Amp
from amp.descriptor.gaussian import Gaussian
from amp.descriptor.zernike import Zernike
from amp.model import LossFunction
from amp.model.neuralnetwork import NeuralNetwork
from amp.regression import Regressor
from amp.utilities import FileDatabase, TrainingConvergenceError, get_hash, hash_images
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator


def make_images(rows):
    images = []
    for row in rows:
        atoms = Atoms(
            numbers=row["numbers"], positions=row["positions"], cell=row["cell"], pbc=row["pbc"]
        )
        if "energy" in row:
            atoms.calc = SinglePointCalculator(
                atoms, energy=row["energy"], forces=np.array(row["forces"])
            )
        images.append(atoms)
    return images


def plain(entry):
    """Return an entry as JSON can hold it: primes as rows of key and value."""
    if isinstance(entry, dict):
        return [
            [[int(m), str(sm), int(n), str(sn), int(d)], list(map(float, value))]
            for (m, sm, n, sn, d), value in entry.items()
        ]
    return [[str(symbol), list(map(float, values))] for symbol, values in entry]


def hashes(request):
    return [get_hash(atoms) for atoms in make_images(request["images"])]


def write(request):
    """Let Amp compute and keep entries at the label; return them all."""
    kind = {"Gaussian": Gaussian, "Zernike": Zernike}[request.get("kind", "Gaussian")]
    descriptor = kind(dblabel=request["dblabel"], **request["descriptor"])
    images = hash_images(make_images(request["images"]))
    descriptor.calculate_fingerprints(images, calculate_derivatives=request["derivatives"])
    kinds = ["fingerprints"] + ["fingerprint-primes"] * request["derivatives"]
    answer = {"parameters": json.loads(json.dumps(dict(descriptor.parameters), default=float))}
    for kind in kinds:
        database = FileDatabase("{}-{}".format(request["dblabel"], kind))
        answer[kind] = {key: plain(database[key]) for key in images}
        if request.get("archive"):
            database.archive()
    return answer


def read(request):
    """Return every entry of a database, read through Amp's own class."""
    database = FileDatabase(request["path"])
    return {key: plain(database[key]) for key in database.keys()}  # noqa: SIM118


def texts(request):
    """Return every entry of a database of any kind, as text."""
    database = FileDatabase(request["path"])
    return {key: repr(database[key]) for key in database.keys()}  # noqa: SIM118


def archive(request):
    FileDatabase(request["path"]).archive()
    return sorted(os.listdir(request["path"]))


def add(request):
    """Let Amp keep one more entry, copied from another key."""
    database = FileDatabase(request["path"])
    database[request["key"]] = database[request["source"]]
    return sorted(database.keys())


def types(request):
    """Return the Python types within one entry as Amp loads it."""
    database = FileDatabase(request["path"])
    entry = database[request["key"]]
    found = {type(entry).__name__}
    if isinstance(entry, dict):
        for key, value in entry.items():
            found.update(type(_).__name__ for _ in (key, value, *key, *value))
    else:
        for symbol, values in entry:
            found.update(type(_).__name__ for _ in (symbol, values, *values))
    assert pickle.loads(pickle.dumps(entry)) == entry
    return sorted(found)


def train(request):
    """Train for a few steps; return the log."""
    calculator = Amp(
        descriptor=Gaussian(**request["descriptor"]),
        model=NeuralNetwork(
            hiddenlayers=(3,),
            lossfunction=LossFunction(convergence={"energy_rmse": 1e-4, "force_rmse": 1e-3}),
            regressor=Regressor(
                optimizer_kwargs={"method": "BFGS", "options": {"gtol": 1e-15, "maxiter": 5}}
            ),
        ),
        label=request["label"],
        dblabel=request["dblabel"],
        cores=1,
    )
    with contextlib.suppress(TrainingConvergenceError):
        calculator.train(make_images(request["images"]), overwrite=True)
    with open(request["label"] + "-log.txt") as log:
        return log.read()


def main(command, request, answer):
    with open(request) as file:
        question = json.load(file)
    with contextlib.redirect_stdout(io.StringIO()):
        result = globals()[command](question)
    with open(answer, "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
