"""Gaussian fingerprints: parameters, cutoffs, neighbour lists and kernels."""
