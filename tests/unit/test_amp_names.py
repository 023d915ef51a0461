"""Every public name of Amp 1.0.1 is here, or is left out with a reason; the docs tell of each."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import ampmpi.descriptor
from ampmpi.amp._left_out import LEFT_OUT, LeftOutError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "coming-from-amp.md"

# Classes and functions that its modules define, but for names that begin with an underscore.
NAMES = {
    "": "Amp importhelper get_git_commit",
    "analysis": "plot_sensitivity plot_parity_and_error calc_rmse read_trainlog plot_convergence",
    "convert": "save_to_n2p2 save_to_n2p2_images_only overwrite_file get_Gs_indices "
    "save_to_prophet save_to_openkim",
    "descriptor.analysis": "FingerprintPlot",
    "descriptor.bispectrum": "Bispectrum",
    "descriptor.cutoffs": "dict2cutoff Cosine Polynomial",
    "descriptor.example": "AtomCenteredExample",
    "descriptor.gaussian": "Gaussian NeighborlistCalculator FingerprintCalculator "
    "FingerprintPrimeCalculator calculate_G2 calculate_G4 calculate_G5 make_symmetry_functions "
    "make_default_symmetry_functions Kronecker dRij_dRml_vector dRij_dRml dCos_theta_ijk_dR_ml "
    "calculate_G2_prime calculate_G4_prime calculate_G5_prime",
    "descriptor.zernike": "Zernike NeighborlistCalculator FingerprintCalculator "
    "FingerprintPrimeCalculator binomial calculate_R generate_coefficients Kronecker der_position "
    "calculate_q calculate_Z calculate_Z_prime",
    "model": "Model LossFunction calculate_fingerprints_range ravel_data send_data_to_fortran",
    "model.kernelridge": "KernelRidge",
    "model.neuralnetwork": "NeuralNetwork calculate_nodal_outputs calculate_dOutputs_dInputs "
    "calculate_ohat_D_delta get_random_weights get_initial_scalings Raveler NodePlot "
    "OffsetCalculator",
    "model.tflow": "NeuralNetwork",
    "nft": "NFT Initialization submit_dft_jobs strain_filter_jobs single_point_jobs "
    "relaxation_dft_jobs",
    "preprocess": "FTSel FurthestPointSampling",
    "regression": "Regressor",
    "stats.bootstrap": "BootStrap bootstrap archive_directory TrainingArchive",
    "utilities": "assign_cores parse_slurm_allocation MessageDictionary make_sublists "
    "setup_parallel start_workers FileDatabase Data Logger make_filename get_hash hash_images "
    "check_images randomize_images ConvergenceOccurred TrainingConvergenceError MissingDataError "
    "string2dict now importer Annealer MetaDict enforce_magnetic_moments get_overfit_mask "
    "extract_an_atomic_chunk get_atomic_uncertainties",
}
EACH = [(module, name) for module, names in NAMES.items() for name in names.split()]


@pytest.mark.parametrize(("module", "name"), EACH)
def test_a_name_of_amp_is_here_or_says_why_not(module, name):
    if module == "descriptor.zernike" and not hasattr(ampmpi.descriptor, "Zernike"):
        pytest.skip("there is no Zernike yet")
    ours = f"ampmpi.amp.{module}".rstrip(".")
    reasons = LEFT_OUT.get(module, {})
    reason = reasons.get("*") or reasons.get(name)
    if reason is None:
        assert getattr(importlib.import_module(ours), name) is not None
        return
    with pytest.raises(LeftOutError, match=re.escape(reason)):
        getattr(importlib.import_module(ours), name)


def test_what_is_left_out_is_a_name_of_amp():
    for module, reasons in LEFT_OUT.items():
        assert set(reasons) - {"*"} <= set(NAMES[module].split()), module


@pytest.mark.parametrize(("module", "name"), EACH)
def test_the_page_tells_of_every_name(module, name):
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("|")]
    amps = f"amp.{module}".rstrip(".")
    mine = [row[2] for row in rows if row[1].strip() == f"`{amps}`"]
    assert any(f"`{name}`" in names for names in mine), f"{amps}: {name}"
