"""A training as Amp's documentation shows it: criteria set, calculator saved and loaded."""

import json

from amp import Amp
from amp.descriptor.gaussian import Gaussian
from amp.model import LossFunction
from amp.model.neuralnetwork import NeuralNetwork
from ase.build import fcc111
from ase.calculators.emt import EMT

images = []
for step in range(4):
    atoms = fcc111("Pt", (1, 2, 2), vacuum=5.0)
    atoms[3].symbol = "Cu"
    atoms.rattle(0.05, seed=step)
    atoms.calc = EMT()
    atoms.get_potential_energy()
    atoms.get_forces()
    images.append(atoms)

calc = Amp(
    descriptor=Gaussian(cutoff=5.0),
    model=NeuralNetwork(hiddenlayers=(4, 3), randomseed=5),
    label="calc",
    cores=1,
)
calc.model.lossfunction.parameters["convergence"].update({"energy_rmse": None, "force_rmse": 1e9})
calc.model.lossfunction.parameters["convergence"]["energy_rmse"] = 1e9
calc.train(images=images)
loss = calc.model.lossfunction

loaded = Amp.load("calc.amp", label="loaded", logging=False)
answer = {
    "defaults": LossFunction.default_parameters["convergence"]["energy_rmse"],
    "loss": [loss.loss, loss.energy_loss, loss.force_loss],
    "largest": [loss.energy_maxresid, loss.force_maxresid],
    "gradient": [float(slope) for slope in loss.dloss_dparameters],
    "vector": [float(value) for value in loaded.model.vector],
    "energies": [float(loaded.get_potential_energy(atoms)) for atoms in images],
    "forces": [loaded.get_forces(atoms).tolist() for atoms in images],
    "layers": sorted(
        [key, list(value)] for key, value in loaded.model.parameters.hiddenlayers.items()
    ),
    "elements": list(loaded.descriptor.parameters.elements),
}
print(json.dumps(answer))
