"""What of Amp's public names has no counterpart here, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

RANKS = "ranks come from mpirun, and no script starts workers"
STEP = "it is a step of Amp's own calculation, which compiled kernels do here"
NEARSIGHTED = "nearsighted force training goes no further than nft_ids here"

LEFT_OUT: dict[str, dict[str, str]] = {
    "": {
        "get_git_commit": "LABEL-log.txt and ampmpi --version tell the version",
        "importhelper": "no file decides what is imported here",
    },
    "descriptor.bispectrum": {
        "*": "it takes hours for an image with its defaults and has no derivatives; use Zernike or "
        "Gaussian",
    },
    "descriptor.example": {
        "*": "ampmpi.Custom makes a descriptor of a function of one's own",
    },
    "descriptor.gaussian": {
        "FingerprintCalculator": "use Gaussian.fingerprint(atoms)",
        "FingerprintPrimeCalculator": "use Gaussian.fingerprint_primes(atoms)",
        "Kronecker": STEP,
        "NeighborlistCalculator": "use ase.neighborlist.neighbor_list",
        "calculate_G2": STEP,
        "calculate_G2_prime": STEP,
        "calculate_G4": STEP,
        "calculate_G4_prime": STEP,
        "calculate_G5": STEP,
        "calculate_G5_prime": STEP,
        "dCos_theta_ijk_dR_ml": STEP,
        "dRij_dRml": STEP,
        "dRij_dRml_vector": STEP,
    },
    "descriptor.zernike": {
        "FingerprintCalculator": "use Zernike.fingerprint(atoms)",
        "FingerprintPrimeCalculator": "use Zernike.fingerprint_primes(atoms)",
        "Kronecker": STEP,
        "NeighborlistCalculator": "use ase.neighborlist.neighbor_list",
        "binomial": STEP,
        "calculate_R": STEP,
        "calculate_Z": STEP,
        "calculate_Z_prime": STEP,
        "calculate_q": STEP,
        "der_position": STEP,
        "generate_coefficients": "the weights of the neighbours are their atomic numbers unless "
        "Zernike(Gs=...) says something else",
    },
    "model": {
        "Model": "models are neural networks here, and NeuralNetwork has its methods",
        "calculate_fingerprints_range": "a training's ranges are in model.parameters.fprange",
        "ravel_data": STEP,
        "send_data_to_fortran": "there is no Fortran here",
    },
    "model.kernelridge": {
        "*": "its forces are not the derivatives of its energies: a molecule alone gets a net "
        "force of some eV/Å, which changes when it is turned; use NeuralNetwork",
    },
    "model.neuralnetwork": {
        "OffsetCalculator": "prescale=True fits the energies of the elements",
        "Raveler": "model.vector holds all parameters in Amp's order",
        "calculate_dOutputs_dInputs": STEP,
        "calculate_nodal_outputs": "NodePlot keeps the outputs of all nodes in its data",
        "calculate_ohat_D_delta": STEP,
        "get_initial_scalings": STEP,
        "get_random_weights": "NeuralNetwork(randomseed=...) draws Amp's weights",
    },
    "model.tflow": {
        "*": "it needs TensorFlow 1, which no current Python has; use NeuralNetwork",
    },
    "nft": {"*": NEARSIGHTED},
    "preprocess": {
        "*": "'ampmpi functions' and Gaussian.from_images choose symmetry functions; images are "
        "not chosen",
    },
    "utilities": {
        "MessageDictionary": RANKS,
        "enforce_magnetic_moments": "set magnetic moments with ASE's own methods",
        "extract_an_atomic_chunk": NEARSIGHTED,
        "get_atomic_uncertainties": "BootStrap returns the predictions of all members with output "
        "'e', and Committee the spread of each atom's force",
        "get_overfit_mask": STEP,
        "importer": "it finds modules that old versions of ASE and pexpect had elsewhere",
        "make_sublists": RANKS,
        "parse_slurm_allocation": RANKS,
        "setup_parallel": RANKS,
        "start_workers": RANKS,
    },
}
"""Names by Amp's module, each with the reason; ``"*"`` stands for a whole module."""


class LeftOutError(ImportError):
    """A name of Amp that is not here."""


def refuser(module: str) -> Callable[[str], NoReturn]:
    """Return a module's ``__getattr__``, which says why a name of Amp's is not there."""
    reasons = LEFT_OUT[module]
    amps = f"amp.{module}".rstrip(".")

    def refuse(name: str) -> NoReturn:
        if name in reasons:
            raise LeftOutError(f"{amps}.{name} is left out here: {reasons[name]}", name=name)
        raise AttributeError(f"module 'ampmpi.{amps}' has no attribute {name!r}")

    return refuse


def refuse_module(module: str) -> NoReturn:
    """Say why a whole module of Amp's is not there."""
    raise LeftOutError(f"amp.{module} is left out here: {LEFT_OUT[module]['*']}", name=module)
