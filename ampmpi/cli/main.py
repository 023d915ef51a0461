"""The start and end of every command: signals, output, errors, exit codes."""

from __future__ import annotations

from ampmpi.parallel import launch

launch.stop.install()  # before anything that takes time to import

import io  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from typing import NoReturn  # noqa: E402

from ampmpi.errors import AmpmpiError  # noqa: E402


def ampmpi() -> NoReturn:
    """Run ``ampmpi``."""
    from ampmpi.cli.group import group

    run(group, "ampmpi")


def amp_compress() -> NoReturn:
    """Run ``amp-compress``."""
    from ampmpi.cli.compress import command

    run(command, "amp-compress")


def amp_plotconvergence() -> NoReturn:
    """Run ``amp-plotconvergence``."""
    from ampmpi.cli.plotconvergence import command

    run(command, "amp-plotconvergence")


def run(command: object, name: str) -> NoReturn:
    """Run a click command and leave the process with its exit code.

    An error that all ranks share is reported once, by the first rank. Any other
    error on one of several ranks ends the whole job.
    """
    import click

    assert isinstance(command, click.Command)
    launch.prepare()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # as strict, Å or → would end the job
    try:
        code = command.main(prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        if launch.speaks():
            error.show()
        code = error.exit_code
    except click.exceptions.Abort:
        sys.stderr.write("Aborted!\n")
        code = 1
    except click.exceptions.Exit as error:
        code = error.exit_code
    except AmpmpiError as error:
        code = _fail(error)
    except KeyboardInterrupt as error:
        code = _fail(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        code = _fail(error)
    launch.stop.ignore()
    sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: BaseException) -> int:
    """Report an error and return the exit code; abort if other ranks may be waiting."""
    from ampmpi.errors import LaunchError
    from ampmpi.parallel.failure import exit_code, is_shared, report

    if is_shared(error) or isinstance(error, LaunchError):
        if launch.speaks():
            report(error)
        return exit_code(error)
    if "mpi4py.MPI" in sys.modules:
        from ampmpi.parallel.comm import world

        ranks = world()
        if ranks.size > 1:
            report(error, ranks)
            ranks.abort(exit_code(error))
    report(error)
    return exit_code(error)
