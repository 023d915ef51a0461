"""Zernike fingerprints of a cluster, and a potential on them that is saved and loaded."""

import json

from amp import Amp
from amp.descriptor.zernike import Zernike
from amp.model import LossFunction
from amp.model.neuralnetwork import NeuralNetwork
from ase.build import molecule
from ase.calculators.emt import EMT

images = []
for step in range(3):
    atoms = molecule("CH4")
    atoms.rattle(0.05, seed=step)
    atoms.calc = EMT()
    atoms.get_potential_energy()
    atoms.get_forces()
    images.append(atoms)

calc = Amp(
    descriptor=Zernike(nmax=3, cutoff=4.0),
    model=NeuralNetwork(hiddenlayers=(3,), randomseed=2),
    label="shapes",
    cores=1,
)
calc.model.lossfunction = LossFunction(convergence={"energy_rmse": 1e9, "force_rmse": 1e9})
calc.train(images=images)
loaded = Amp.load("shapes.amp", logging=False, label="shapes-loaded")
answer = {
    "energies": [float(loaded.get_potential_energy(atoms)) for atoms in images],
    "forces": [loaded.get_forces(atoms).tolist() for atoms in images],
    "loss": float(calc.model.lossfunction.loss),
}
print(json.dumps(answer))
