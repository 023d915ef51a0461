"""`.ensemble` files of Amp's BootStrap: the texts of several `.amp` files, as a list in JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from ampmpi.errors import ModelError
from ampmpi.files.whole import read_whole, write_whole
from ampmpi.model.amp_file import LARGEST

SUFFIX = ".ensemble"
LARGEST_ENSEMBLE = 16 * LARGEST
"""Bytes of the largest file that is read."""


def read_texts(path: str | os.PathLike[str]) -> list[str]:
    """Return the texts of the `.amp` files in an ensemble.

    Raises
    ------
    ModelError
        The file cannot be read, or holds something else.
    """
    name = os.fspath(path)
    try:
        texts = json.loads(read_whole(path, LARGEST_ENSEMBLE))
    except OSError as error:
        raise ModelError(f"cannot read the ensemble {name}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{name} is no ensemble ({error}); give a file that BootStrap.train or Committee.save "
            "made"
        ) from error
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ModelError(f"{name} is no ensemble: it is not a list of texts")
    if not texts:
        raise ModelError(f"{name} holds no calculator; give an ensemble that was trained")
    return texts


def write_texts(path: str | os.PathLike[str], texts: Sequence[str]) -> None:
    """Write an ensemble that Amp loads; the file is there whole or not at all."""
    write_whole(path, json.dumps(list(texts)).encode())
