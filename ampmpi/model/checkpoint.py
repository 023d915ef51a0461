"""Checkpoints: the state of a training in one file, written atomically.

The file is a numpy ``.npz``: arrays, and a JSON text with the settings. Nothing in it is
run when it is read, and its CRCs tell when it is damaged.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ampmpi.errors import InputError, ModelError
from ampmpi.model.files import write_atomically
from ampmpi.model.layers import Array

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """State of a training.

    Attributes
    ----------
    settings : dict
        What determines the training, plain; a restart must have the same.
    state : dict
        Counters and names, plain.
    arrays : mapping of str to array
        The numbers.
    """

    settings: dict[str, Any]
    state: dict[str, Any]
    arrays: Mapping[str, Array]


def save(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write a checkpoint; a crash at any moment leaves the old one or the new one."""
    head = {"format": FORMAT, "settings": checkpoint.settings, "state": checkpoint.state}
    stream = io.BytesIO()
    text = np.frombuffer(json.dumps(head, default=repr).encode(), dtype=np.uint8)
    np.savez(stream, allow_pickle=False, head=text, **dict(checkpoint.arrays))
    write_atomically(path, stream.getvalue())


def load(path: str | os.PathLike[str]) -> Checkpoint | None:
    """Read a checkpoint; None when there is none.

    Raises
    ------
    ModelError
        The file is damaged or no checkpoint.
    """
    name = os.fspath(path)
    try:
        with np.load(name, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        head = json.loads(arrays.pop("head").tobytes())
        if head["format"] != FORMAT:
            raise ModelError(
                f"checkpoint {name} is of format {head['format']}, this version reads {FORMAT}; "
                "remove it to start over"
            )
        return Checkpoint(head["settings"], head["state"], arrays)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"checkpoint {name} cannot be read ({error}); remove it to start over"
        ) from error


def check_settings(path: str, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings, and show what differs.

    Raises
    ------
    InputError
        The settings differ.
    """
    different = differences(known, wanted)
    if different:
        raise InputError(
            f"checkpoint {path} belongs to a training with other settings "
            f"({'; '.join(different)}); go back to those, take another label, or remove it and "
            f"{path.removesuffix('.npz')}.amp to start over"
        )


def differences(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Each setting that differs, as ``name: was A, is now B``."""
    a, b = _flat(known), _flat(json.loads(json.dumps(wanted, default=repr)))
    return [
        f"{key}: was {_short(a.get(key))}, is now {_short(b.get(key))}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"
