"""Amp's ``amp.utilities``."""

from __future__ import annotations

from ampmpi.amp._cores import assign_cores
from ampmpi.amp._data import Data, FileDatabase
from ampmpi.amp._images import check_images, randomize_images, string2dict
from ampmpi.amp._left_out import refuser
from ampmpi.amp._logger import Logger, make_filename, now
from ampmpi.errors import ConvergenceOccurred, MissingDataError, TrainingConvergenceError
from ampmpi.images import HashedImages as MetaDict
from ampmpi.images import hash_image as get_hash
from ampmpi.images import hash_images
from ampmpi.training.anneal import Annealer

__all__ = [
    "Annealer",
    "ConvergenceOccurred",
    "Data",
    "FileDatabase",
    "Logger",
    "MetaDict",
    "MissingDataError",
    "TrainingConvergenceError",
    "assign_cores",
    "check_images",
    "get_hash",
    "hash_images",
    "make_filename",
    "now",
    "randomize_images",
    "string2dict",
]

__getattr__ = refuser("utilities")
