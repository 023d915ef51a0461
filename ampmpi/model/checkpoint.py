"""Checkpoints: the state of a training in one file, written atomically.

The file is a numpy ``.npz``: arrays of floats, and a JSON text with settings and counters.
Nothing in it is run when it is read, nothing in it can claim more memory than the file has
bytes, and the CRC of each part tells when it is damaged.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from ampmpi.errors import ModelError
from ampmpi.files.whole import open_regular, write_whole
from ampmpi.model.layers import Array

FORMAT = 2

OPTIMISER = "optimiser."
"""What the names of the optimiser's arrays start with."""

DIGEST = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")
"""What nobody can read anything from; one of nothing is all zeros, or is not there."""

_STATE: dict[str, tuple[type, ...]] = {
    "steps": (int,),
    "seconds": (int, float),
    "outcome": (str, type(None)),
    "ends": (dict,),
    "results": (list,),
}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """State of a training.

    Attributes
    ----------
    settings : dict
        What determines the training, plain; a restart must have the same.
    state : dict
        ``steps`` and ``seconds`` so far; ``outcome``, None while it is not finished; ``ends``,
        what decides when it ends; ``results``, digests of the parameters with which it ended,
        several where it went on from its end.
    arrays : mapping of str to float array
        The numbers; those of the optimiser have names that start with `OPTIMISER`.
    """

    settings: dict[str, Any]
    state: dict[str, Any]
    arrays: Mapping[str, Array]

    def arrays_of(self, prefix: str) -> dict[str, Array]:
        """Return the arrays whose names start with a prefix, without it."""
        return {
            name.removeprefix(prefix): array
            for name, array in self.arrays.items()
            if name.startswith(prefix)
        }


def save(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write a checkpoint; a crash at any moment leaves the old one or the new one."""
    head = {
        "format": FORMAT,
        "settings": checkpoint.settings,
        "state": checkpoint.state,
        "arrays": sorted(checkpoint.arrays),
    }
    text = np.frombuffer(json.dumps(head, default=repr).encode(), dtype=np.uint8)
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, head=text, **dict(checkpoint.arrays))
    write_whole(path, stream.getvalue())


def load(path: str | os.PathLike[str], *, whole: bool = True) -> Checkpoint | None:
    """Read a checkpoint, or all but the optimiser's arrays; None when there is none.

    Raises
    ------
    ModelError
        The file cannot be read, is damaged, or is no checkpoint of this version.
    """
    name = os.fspath(path)
    try:
        with open_regular(name) as file:
            return _read(file, whole)
    except FileNotFoundError:
        return None
    except Exception as error:
        # Whatever zipfile, numpy and json raise at bytes that they do not expect (a dozen
        # classes, MemoryError and RecursionError among them) means the same for the user.
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(
            f"checkpoint {name} cannot be read ({reason or type(error).__name__}); remove it, or "
            "give --restart (restart=True in a script), to start over"
        ) from error


def _read(file: BinaryIO, whole: bool) -> Checkpoint:
    size = os.fstat(file.fileno()).st_size
    arrays: dict[str, Array] = {}
    head: Any = {}
    claimed, names = 0, set()
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            names.add(name)
            if name.startswith(OPTIMISER) and not whole:
                continue
            claimed += info.file_size
            if info.compress_type != zipfile.ZIP_STORED or claimed > size:
                raise ValueError("it claims to be larger than it is")
            array = np.lib.format.read_array(io.BytesIO(archive.read(info)), allow_pickle=False)
            if name == "head":
                head = json.loads(array.tobytes())
            elif array.dtype != np.float64:
                raise ValueError(f"its {name} are no floats")
            else:
                arrays[name] = array
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ValueError("it is of another version, or no checkpoint")
    if head.get("arrays") != sorted(names - {"head"}):
        raise ValueError("it lacks a part")
    settings, state = head.get("settings"), head.get("state")
    if not isinstance(settings, dict) or not isinstance(state, dict):
        raise ValueError("it lacks settings or state")
    _flat(settings)  # what is nested too deeply to be compared is refused here
    for key, kinds in _STATE.items():
        if not isinstance(state.get(key), kinds):
            raise ValueError(f"its {key} are missing or wrong")
    return Checkpoint(settings, state, arrays)


def differences(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Each setting that differs, as ``name: was A, is now B``; of digests only the name."""
    a, b = _flat(known), _flat(json.loads(json.dumps(wanted, default=repr)))
    return [
        _difference(_short(key), a.get(key), b.get(key))
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def _difference(name: str, known: Any, wanted: Any) -> str:
    if any(isinstance(value, str) and DIGEST.fullmatch(value) for value in (known, wanted)):
        there, here = (bool(value and value.strip("0")) for value in (known, wanted))
        if there and here:
            return f"other {name}"
        return f"{name}, which it did not have" if here else f"no {name}, which it had"
    return f"{name}: was {_short(known)}, is now {_short(wanted)}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) and not value.isprintable() else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
