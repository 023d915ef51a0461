"""What the tests of utilities, analysis and ensembles ask of Amp, as amp_side.py."""

# ruff: noqa: NPY002, PERF401  (the global generator is what scripts seed)

import contextlib
import random

import amp_side
import matplotlib
import numpy as np
from amp import Amp
from amp.descriptor.gaussian import Gaussian
from amp.model import LossFunction
from amp.model.neuralnetwork import NeuralNetwork
from amp.utilities import Annealer, get_hash, hash_images, randomize_images
from amp_side import make_images

matplotlib.use("Agg")


def split(request):
    """Split images at random, and hash them with one twice; return hashes."""
    images = make_images(request["images"])
    np.random.seed(request["seed"])
    train, test = randomize_images(images, request["fraction"])
    hashed = hash_images([*images, images[0]])
    return {
        "train": [get_hash(atoms) for atoms in train],
        "test": [get_hash(atoms) for atoms in test],
        "hashed": list(hashed),
        "duplicates": hashed.metadata["duplicates"],
    }


def anneal(request):
    """Anneal a fresh calculator; return the parameters found."""
    loss = LossFunction(convergence={"energy_rmse": 1e-4, "force_rmse": 1e-3})
    calc = Amp(
        descriptor=Gaussian(**request["descriptor"]),
        model=NeuralNetwork(
            hiddenlayers=(3,), randomseed=request["seed"], lossfunction=loss, checkpoints=None
        ),
        label=request["label"],
        cores=1,
    )
    np.random.seed(request["seed"])
    random.seed(request["seed"])
    Annealer(
        calc=calc, images=make_images(request["images"]), Tmax=request["Tmax"],
        Tmin=request["Tmin"], steps=request["steps"], updates=2,
    )  # fmt: skip
    return {"vector": calc.model.vector.tolist(), "draw": [random.random(), np.random.rand()]}


def pictures(request):
    """Return the numbers behind the pictures of errors."""
    from amp.analysis import calc_rmse, plot_parity_and_error

    images = make_images(request["images"])
    calc = Amp.load(request["file"], label="pictures", cores=1)
    energies, forces = plot_parity_and_error(calc, images, overwrite=True, returndata=True)
    rmse = calc_rmse([request["file"]], images, cores=1)
    return {
        "energies": {key: np.array(row).tolist() for key, row in energies.items()},
        "forces": {key: np.array(row).tolist() for key, row in forces.items()},
        "rmse": {key: np.array(values).tolist() for key, values in rmse.items()},
    }


def sensitivity(request):
    """Return the losses that the pages of the sensitivity's picture show."""
    from amp import analysis

    seen = []
    figure = analysis.pyplot.figure

    def noted(*args, **kwargs):
        made = figure(*args, **kwargs)
        seen.append(made)
        return made

    class Pages(contextlib.nullcontext):
        """Takes pages and draws none, which is what takes the time."""

        def __enter__(self):
            return self

        def savefig(self, page):
            pass

    analysis.pyplot.figure = noted
    analysis.PdfPages = Pages
    calc = Amp.load(request["file"], label="sensitivity", cores=1)
    analysis.plot_sensitivity(
        calc, make_images(request["images"]), d=request["d"], overwrite=True
    )  # fmt: skip
    return [list(map(float, made.axes[0].lines[0].get_ydata())) for made in seen]


def nodes(request):
    """Return the outputs of all nodes, and the features of the pictures."""
    from amp.descriptor.analysis import FingerprintPlot
    from amp.model.neuralnetwork import NodePlot

    images = make_images(request["images"])
    calc = Amp.load(request["file"], label="nodes", cores=1)
    features, plot = FingerprintPlot(calc), NodePlot(calc)
    features(images)
    plot.plot(images)
    return {
        "features": {key: np.array(rows).tolist() for key, rows in features.data.items()},
        "nodes": {key: np.array(part["table"]).tolist() for key, part in plot.data.items()},
    }


def ensemble(request):
    """Load an ensemble and return its predictions."""
    from amp.stats.bootstrap import BootStrap

    calc = BootStrap(load=request["file"], label="ensemble")
    output = request["output"]
    answer = []
    for atoms in make_images(request["images"]):
        answer.append(
            {
                "energy": calc.get_potential_energy(atoms, output=output),
                "mean": float(calc.get_potential_energy(atoms)),
                "forces": [np.array(part).tolist() for part in calc.get_forces(atoms, output)],
                "atomic": [
                    np.array(part).tolist() for part in calc.get_atomic_energies(atoms, output)
                ],
            }
        )
    return answer


def bundle(request):
    """Train an ensemble in two calls, as Amp's documentation does."""
    from amp.stats.bootstrap import BootStrap
    from ase.io import write

    write("training.traj", make_images(request["images"]))
    calc = BootStrap()
    options = {
        "n": request["n"],
        "calc_text": request["calc_text"],
        "start_command": request["start_command"],
        "label": request["label"],
        "archive": False,
    }
    np.random.seed(request["seed"])
    return [calc.train("training.traj", **options), calc.train("training.traj", **options)]


if __name__ == "__main__":
    import sys

    for function in (split, anneal, pictures, sensitivity, nodes, ensemble, bundle):
        setattr(amp_side, function.__name__, function)
    amp_side.main(*sys.argv[1:])
