"""``ampmpi run``: a script written for Amp, with ampmpi in Amp's place."""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import runpy
import secrets
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NoReturn

import click

from ampmpi.cli.kinds import complete_files
from ampmpi.errors import InputError
from ampmpi.parallel import launch
from ampmpi.parallel.comm import Communicator, world
from ampmpi.parallel.failure import exit_code, install_excepthook, on_all


@click.command(
    "run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("script", shell_complete=complete_files)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(script: str, arguments: tuple[str, ...]) -> None:
    """Run SCRIPT, written for Amp, with ARGUMENTS: its "from amp import …" gets ampmpi.

    Runs it as python does. Under mpirun every rank runs it: all draw the same random numbers,
    they share fingerprints and trainings, and only the first one prints. Amp itself need not be
    installed, and is not used.
    """
    launch.stop.release()
    comm = world()
    on_all(comm, lambda: _check(script))
    install_excepthook(comm)
    if comm.rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (until the end)
        warnings.showwarning = _say_nothing
    if comm.size > 1:
        _draw_alike(comm)
    sys.meta_path.insert(0, AmpNames())
    sys.argv[:] = [script, *arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path(script).resolve().parent)
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        _leave(comm, ended.code)
    except BaseException as error:  # whatever it is, python's own handler is to show it
        trace = _from_script(error.__traceback__, script)
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        _leave(comm, exit_code(error), told=True)


class AmpNames(MetaPathFinder, Loader):
    """Lets ``amp`` and its modules mean ``ampmpi.amp``, in this process."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find one of Amp's modules; `ModuleNotFoundError` where there is none like it here."""
        if fullname.split(".")[0] != "amp":
            return None
        ours = importlib.util.find_spec(f"ampmpi.{fullname}")
        if ours is None:
            raise ModuleNotFoundError(
                f"{fullname} is not among the modules of Amp that ampmpi has; run the script with "
                "Amp itself, or without it",
                name=fullname,
            )
        is_package = ours.submodule_search_locations is not None
        return ModuleSpec(fullname, self, origin=ours.origin, is_package=is_package)

    def exec_module(self, module: ModuleType) -> None:
        """Put our module in the place of the new one."""
        sys.modules[module.__name__] = importlib.import_module(f"ampmpi.{module.__name__}")


def _check(script: str) -> None:
    if not Path(script).exists():
        raise InputError(f"{script} is not there; give the file of a Python script")


def _draw_alike(comm: Communicator) -> None:
    """Seed the generators of Python and numpy alike: the ranks are to make the same images."""
    import numpy as np

    seed = comm.bcast(secrets.randbits(32))
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (scripts use this one)


def _say_nothing(*args: Any, **kwargs: Any) -> None:
    """Show no warning: the first rank shows the same one."""


def _from_script(trace: TracebackType | None, script: str) -> TracebackType | None:
    """Return the part of a traceback that begins in the script; all of it where none does."""
    part = trace
    while part is not None and part.tb_frame.f_code.co_filename != script:
        part = part.tb_next
    return part or trace


def _leave(comm: Communicator, code: Any, *, told: bool = False) -> NoReturn:
    """Leave as python does for ``sys.exit(code)``; on several ranks an error ends them all."""
    number = code if isinstance(code, int) else int(code is not None)
    if not isinstance(code, int) and code is not None:
        sys.stderr.write(f"{code}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    if comm.size > 1 and number and not told:
        comm.abort(number)
    sys.exit(number)
