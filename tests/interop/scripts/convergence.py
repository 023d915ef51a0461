"""Criteria that are reached, an optimiser that gives up, and what each leaves behind."""

import json
import os

from amp import Amp
from amp.descriptor.cutoffs import Polynomial
from amp.descriptor.gaussian import Gaussian, make_symmetry_functions
from amp.model import LossFunction
from amp.model.neuralnetwork import NeuralNetwork
from amp.regression import Regressor
from amp.utilities import TrainingConvergenceError
from ase.build import molecule
from ase.calculators.emt import EMT

images = []
for step in range(5):
    atoms = molecule("H2O")
    atoms.positions[0, 2] += 0.04 * step
    atoms.calc = EMT()
    atoms.get_potential_energy()
    atoms.get_forces()
    images.append(atoms)

functions = make_symmetry_functions(
    elements=["H", "O"], type="G2", etas=[1.0, 8.0], offsets=[0.0, 1.0]
)


def make(label, limit, regressor):
    calc = Amp(
        descriptor=Gaussian(cutoff=Polynomial(4.0, gamma=4), Gs=functions, dblabel="shared"),
        model=NeuralNetwork(hiddenlayers=(5,), randomseed=3, activation="tanh"),
        label=label,
        cores=1,
    )
    calc.model.lossfunction = LossFunction(
        convergence={"energy_rmse": limit, "force_rmse": limit}, force_coefficient=0.1
    )
    calc.model.regressor = regressor
    return calc


def rmse(calc):
    errors = [
        (calc.get_potential_energy(atoms) - atoms.get_potential_energy()) / len(atoms)
        for atoms in images
    ]
    return (sum(error**2 for error in errors) / len(errors)) ** 0.5


answer = {}
calc = make("reached", 0.05, Regressor(optimizer="BFGS"))
calc.train(images=images)
answer["reached"] = bool(rmse(calc) <= 0.05)
answer["file"] = os.path.exists("reached.amp")

calc = make(
    "given-up", 1e-12, Regressor(optimizer="BFGS", optimizer_kwargs={"options": {"maxiter": 1}})
)
try:
    calc.train(images=images)
except TrainingConvergenceError:
    answer["given up"] = [
        os.path.exists("given-up.amp"),
        os.path.exists("given-up-untrained-parameters.amp"),
    ]

calc = Amp.load("reached.amp")
calc.model.lossfunction = LossFunction(convergence={"energy_rmse": 0.2, "force_rmse": 0.2})
calc.train(images=images, overwrite=True)
answer["again"] = bool(rmse(calc) <= 0.2)
print(json.dumps(answer))
