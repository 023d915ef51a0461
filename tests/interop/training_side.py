"""What the training tests ask of Amp; run by the Python in which Amp is installed.

``training_side.py COMMAND REQUEST ANSWER``, as amp_side.py.
"""

import amp_side
import numpy as np
from amp import Amp
from amp.descriptor.gaussian import Gaussian
from amp.descriptor.zernike import Zernike
from amp.model import LossFunction
from amp.model.neuralnetwork import NeuralNetwork
from amp.utilities import Logger, get_hash, hash_images, make_filename
from amp_side import make_images


def predict(request):
    """Load a .amp file and return energies and forces of images."""
    calculator = Amp.load(request["file"], label="predict", cores=1)
    answer = []
    for atoms in make_images(request["images"]):
        atoms.calc = calculator
        answer.append([float(atoms.get_potential_energy()), atoms.get_forces().tolist()])
    return answer


def read_log(request):
    """Read a training's log as Amp does for its pictures."""
    from amp.analysis import read_trainlog

    return read_trainlog(request["file"], verbose=False, multiple=True)


def losses(request):
    """Set a model up as for a training; return its parameters and losses at some vectors."""
    convergence = {"energy_rmse": 1e-4, "force_rmse": 1e-3 if request["forces"] else None}
    atoms = make_images(request["images"])
    nft = [(get_hash(atoms[image]), atom) for image, atom in request.get("nft", [])]
    loss = LossFunction(
        nft_ids=nft or None,
        convergence=convergence,
        energy_coefficient=request["energy_coefficient"],
        force_coefficient=request["force_coefficient"] if request["forces"] else None,
        overfit=request["overfit"],
        weight_duplicates=request["weight_duplicates"],
        raise_ConvergenceOccurred=False,
        log_losses=False,
    )
    kind = {"Gaussian": Gaussian, "Zernike": Zernike}[request.get("kind", "Gaussian")]
    calculator = Amp(
        descriptor=kind(**request["descriptor"]),
        model=NeuralNetwork(
            hiddenlayers=request["hiddenlayers"],
            activation=request["activation"],
            lossfunction=loss,
            randomseed=request["seed"],
            fortran=request["fortran"],
        ),
        label=request["label"],
        cores=1,
    )
    images = hash_images(atoms)
    log = Logger(None)
    calculator.descriptor.calculate_fingerprints(
        images=images,
        parallel={"cores": 1},
        log=log,
        calculate_derivatives=request["forces"],
    )
    model = calculator.model
    model.fit(images, calculator.descriptor, log, {"cores": 1}, only_setup=True)
    start = model.vector.copy()
    answer = {"vector": start.tolist(), "losses": []}
    for scale in request["scales"]:
        vector = start * (1.0 + scale * np.cos(np.arange(len(start))))
        found = loss.get_loss(vector, lossprime=True)
        answer["losses"].append(
            {
                "vector": vector.tolist(),
                **{
                    key: float(found[key])
                    for key in (
                        "loss",
                        "energy_loss",
                        "force_loss",
                        "energy_maxresid",
                        "force_maxresid",
                    )
                },
                "gradient": np.array(found["dloss_dparameters"]).tolist(),
            }
        )
    model.vector = start
    calculator.save(make_filename(request["label"], "-saved.amp"), overwrite=True)
    return answer


if __name__ == "__main__":
    import sys

    amp_side.predict = predict
    amp_side.losses = losses
    amp_side.read_log = read_log
    amp_side.main(*sys.argv[1:])
