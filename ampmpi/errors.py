"""Every error of the package: what it means and the exit code it gives.

Each class is also a builtin exception, so that a script catches what it
expects. The message is one sentence that names the file, image or option,
what is wrong, and what to do.
"""

from __future__ import annotations

from typing import Any, ClassVar


class AmpmpiError(Exception):
    """An error that the user can understand and act on.

    Attributes
    ----------
    exit_code : int
        Exit code of a command that ends with this error.
    """

    exit_code: ClassVar[int] = 1


class InputError(AmpmpiError, ValueError):
    """An option, argument or configuration file has a wrong value."""

    exit_code = 2


class DescriptorError(InputError):
    """The settings of a descriptor are wrong."""


class ImageFileError(InputError):
    """A file of images is missing or cannot be read."""


class ImageError(AmpmpiError, ValueError):
    """One image cannot be used; every other image can."""

    exit_code = 3


class MissingDataError(ImageError):
    """Images lack energies or forces."""


class UnusableImagesError(ImageError, InputError):
    """Images cannot be used, and nothing was done because of them."""

    exit_code = 2


class FileError(AmpmpiError, OSError):
    """A file cannot be written."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the error number on the way to other ranks, where OSError would lose it."""
        return type(self), self.args, {**self.__dict__, "errno": self.errno}


class DatabaseError(FileError):
    """A database cannot be used: not there, not a database, or not writable."""

    exit_code = 4


class DescriptorMismatchError(DatabaseError):
    """A database holds the fingerprints of another descriptor."""


class CorruptEntryError(DatabaseError):
    """An entry is damaged, or is no entry at all."""


class LockedError(DatabaseError, TimeoutError):
    """Another process holds the lock of a database, or trains with the same label."""

    exit_code = 6


class LaunchError(AmpmpiError, RuntimeError):
    """The job was started in a way in which it cannot run."""

    exit_code = 7


class ModelError(AmpmpiError, ValueError):
    """A model, a .amp file or a checkpoint cannot be used."""

    exit_code = 2


class TrainingConvergenceError(AmpmpiError, RuntimeError):
    """A training ended before it reached its convergence criteria."""

    exit_code = 8


class SpreadError(AmpmpiError, RuntimeError):
    """A dynamics was stopped because a committee's forces disagree too much."""


class ConvergenceOccurred(Exception):
    """A loss function meets its criteria: what ends an optimiser that a script has started."""


class Unfinished(AmpmpiError, RuntimeError):
    """The job was asked to stop early; start it again to go on.

    The exit code is ``EX_TEMPFAIL`` of ``sysexits.h``.
    """

    exit_code = 75
