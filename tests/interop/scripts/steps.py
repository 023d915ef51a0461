"""What a training does, step by step, as a module of one's own would do it."""

import json

import numpy as np
from amp import Amp
from amp.descriptor.gaussian import Gaussian
from amp.model import LossFunction
from amp.model.neuralnetwork import NeuralNetwork
from amp.utilities import ConvergenceOccurred, hash_images
from ase.build import bulk
from ase.calculators.emt import EMT

images = []
for step in range(3):
    atoms = bulk("Cu", a=3.7, cubic=True)
    atoms[step].symbol = "Pt"
    atoms.rattle(0.05, seed=step)
    atoms.calc = EMT()
    atoms.get_potential_energy()
    atoms.get_forces()
    images.append(atoms)
images = hash_images(images)

calc = Amp(descriptor=Gaussian(cutoff=4.5), model=NeuralNetwork(), label="steps", cores=1)
calc.model.parameters.hiddenlayers = (3, 2)
calc.model.randomseed = 11
loss = LossFunction(
    convergence={"energy_rmse": 1e-6, "force_rmse": 1e-6}, force_coefficient=0.2, overfit=1e-3
)
calc.model.lossfunction = loss
calc.descriptor.calculate_fingerprints(
    images=images, parallel={"cores": 1}, log=calc._log, calculate_derivatives=True
)
calc.model.fit(
    trainingimages=images,
    descriptor=calc.descriptor,
    log=calc._log,
    parallel={"cores": 1},
    only_setup=True,
)
answer = {"start": [float(value) for value in calc.model.vector]}

value, gradient = calc.model.get_loss(calc.model.vector, lossprime=True)
answer["loss"] = float(value)
answer["gradient"] = [float(slope) for slope in gradient]
answer["parts"] = [float(part) for part in (loss.energy_loss, loss.force_loss)]

key = sorted(images)[0]
fingerprint = calc.descriptor.fingerprints[key]
primes = calc.descriptor.fingerprintprimes[key]
symbol, values = fingerprint[1]
answer["energy"] = float(calc.model.calculate_energy(fingerprint))
answer["atom"] = float(calc.model.calculate_atomic_energy(afp=values, index=1, symbol=symbol))
answer["forces"] = np.array(calc.model.calculate_forces(fingerprint, primes)).tolist()

calc.model.parameters.scalings["Cu"]["intercept"] = 2.5
answer["shifted"] = float(calc.model.calculate_energy(fingerprint))
calc.model.randomize(scalings=False, seed=4)
answer["drawn"] = float(calc.model.calculate_energy(fingerprint))

loss.parameters.convergence.update({"energy_rmse": 1e9, "force_rmse": 1e9})
try:
    calc.model.get_loss(calc.model.vector, lossprime=True)
except ConvergenceOccurred:
    answer["ended"] = True
print(json.dumps(answer))
