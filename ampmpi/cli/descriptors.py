"""``--descriptor``: a TOML file, or a descriptor of one's own as module:object."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ampmpi.errors import InputError

if TYPE_CHECKING:
    from ampmpi.descriptor import Descriptor
    from ampmpi.parallel.comm import Communicator

OBJECT = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""module:object, both in Python's names."""

HELP = "Descriptor of one's own, as module:object, that files name."


def is_object(text: str) -> bool:
    """Whether a value of ``--descriptor`` names an object of a module, and no file."""
    return OBJECT.fullmatch(text) is not None and not Path(text).exists()


def imported(text: str) -> Descriptor:
    """Import a descriptor that the command line names as module:object, and make it known.

    Modules are found in the folder where the command is given, too.

    Raises
    ------
    InputError
        There is no such module or object, or it is no descriptor.
    """
    from ampmpi.descriptor import register, require_descriptor

    if not is_object(text):
        raise InputError(f"--descriptor {text}: give module:object, such as mine:descriptor")
    module, _, name = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise InputError(f"--descriptor {text}: cannot import {module}: {error}") from error
    except AttributeError as error:
        raise InputError(f"--descriptor {text}: {error}") from error
    try:
        register(require_descriptor(found))
    except InputError as error:
        raise InputError(f"--descriptor {text}: {error}") from error
    descriptor: Descriptor = found
    return descriptor


def given(comm: Communicator, text: str) -> Descriptor:
    """Return the descriptor of ``--descriptor``; an object is imported on every rank."""
    from ampmpi.descriptor import from_toml
    from ampmpi.parallel.failure import agree, on_all

    if agree(comm, lambda: is_object(text)):
        return on_all(comm, lambda: imported(text))
    return agree(comm, lambda: from_toml(text))


def make_known(comm: Communicator, text: str | None) -> None:
    """Let ``.amp`` files that are read afterwards mean the descriptor of ``--descriptor``."""
    from ampmpi.parallel.failure import on_all

    if text is not None:
        on_all(comm, lambda: imported(text))
