"""How a job is started: signals, environment, and whether the launcher is the right one.

Only the standard library is imported here. `prepare` has to run before numpy and
numba are imported, because they read their settings when they are.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ampmpi.errors import LaunchError

WARNINGS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Signals that ask a job to stop at the next image or step."""

BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")

THREADS = (*BLAS_THREADS, "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS")

SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")
"""Where MPI launchers say how many ranks they started."""

RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")


class StopRequest:
    """Remembers that a warning signal came, so that a rank can finish its image.

    Attributes
    ----------
    signal_name : str or None
        Name of the signal that came first.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._installed = False
        self._at_once = False

    @property
    def requested(self) -> bool:
        """Whether the job is to stop."""
        return self.signal_name is not None

    def install(self) -> None:
        """Catch the warning signals from now on; a second SIGINT interrupts at once."""
        if not self._installed:
            for number in WARNINGS:
                signal.signal(number, self._note)
            self._installed = True

    def release(self) -> None:
        """Leave the warning signals to Python again, for a script that decides about them.

        Raises
        ------
        SystemExit, KeyboardInterrupt
            A warning signal came already.
        """
        self.end_at_once()
        for number in WARNINGS:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)
        self._installed = self._at_once = False

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Catch the warning signals within the block, for functions that a script calls.

        The script's own handlers stay. Nothing changes if the signals are caught already, or
        outside of the main thread, where Python does not allow it.
        """
        if self._installed or threading.current_thread() is not threading.main_thread():
            yield
            return
        usual = (signal.SIG_DFL, signal.default_int_handler)
        before = {number: signal.getsignal(number) for number in WARNINGS}
        free = [number for number in WARNINGS if before[number] in usual]
        for number in free:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            for number in free:
                signal.signal(number, before[number])
            self.signal_name = None

    def end_at_once(self) -> None:
        """Let a warning signal end the process: for commands that may be stopped anywhere.

        Raises
        ------
        SystemExit, KeyboardInterrupt
            A warning signal came already, or as soon as one comes.
        """
        self._at_once = True
        if self.signal_name is not None:
            _leave(signal.Signals[self.signal_name])

    def ignore(self) -> None:
        """Ignore warning signals from now on: Python drops its handlers while the process ends."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)

    def request(self, reason: str) -> None:
        """Ask for a stop without a signal, for instance because another rank received one."""
        if self.signal_name is None:
            self.signal_name = reason

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._at_once or (number == signal.SIGINT and self.requested):
            _leave(number)
        self.request(signal.Signals(number).name)


def _leave(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


stop = StopRequest()
"""The stop request of this process; nothing is caught until ``stop.install()``."""


def ranks_promised(environ: Mapping[str, str] = os.environ) -> int:
    """Return the number of ranks that the launcher says it started; 1 without one.

    Slurm's own count is used only without an MPI launcher's: under ``mpirun`` on
    several nodes it counts the launcher's daemons.
    """
    for names in (SIZES[:2], ("SLURM_STEP_NUM_TASKS",)):
        said = _said(names, environ)
        if said:
            return max(said)
    return 1


def _said(names: Sequence[str], environ: Mapping[str, str]) -> list[int]:
    """Return the numbers in those of the variables that are set."""
    return [int(environ[name]) for name in names if environ.get(name, "").isdigit()]


def under_launcher(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether an MPI launcher or ``srun`` started this process."""
    return any(name in environ for name in (*SIZES, "PMIX_RANK", "SLURM_STEP_NUM_TASKS"))


def several_ranks(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether an MPI launcher started several ranks.

    ``srun`` without MPI's interface starts processes that may have nothing to do with MPI.
    """
    by_mpi = any(name in environ for name in (*SIZES[:2], "PMIX_RANK"))
    return by_mpi and ranks_promised(environ) > 1


def speaks(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process is the first rank of its job, as the launcher numbers them."""
    for name in RANKS:
        if environ.get(name, "").isdigit():
            return int(environ[name]) == 0
    return True


def stop_before_walltime(environ: Mapping[str, str] = os.environ) -> None:
    """Send this process SIGUSR1 before SLURM ends the job, where SLURM says when that is.

    That is a minute before, or a tenth of the time that is left.
    """
    end = environ.get("SLURM_JOB_END_TIME", "")
    left = int(end) - time.time() if end.isdigit() else 0.0
    if left > 0.0:
        seconds = left - min(60.0, 0.1 * left)
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.daemon = True
        timer.start()


def batch_job(environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Return the name of the batch job, and how often it was requeued.

    The name is made of the cluster and SLURM's number, without white space; it is empty
    outside of a job.
    """
    number, restarts = environ.get("SLURM_JOB_ID", ""), environ.get("SLURM_RESTART_COUNT", "")
    if not number:
        return "", 0
    name = f"{environ.get('SLURM_CLUSTER_NAME', '')}.{number}"
    return "".join(name.split())[:200], int(restarts) if restarts.isdigit() else 0


def check_launcher(vendor: str, environ: Mapping[str, str] = os.environ) -> None:
    """Raise `LaunchError` when Open MPI's ``mpirun`` started ranks that use another MPI.

    MPICH would end such a process at its start, without a helpful message.
    """
    if "OMPI_COMM_WORLD_SIZE" in environ and vendor != "Open MPI":
        raise LaunchError(
            f"Open MPI's mpirun started this job, but mpi4py uses {vendor}: start it with "
            f"{vendor}'s mpirun, or load Open MPI's library (MPI4PY_LIBMPI=libmpi.so.40)"
        )


def check_ranks(size: int, environ: Mapping[str, str] = os.environ) -> None:
    """Raise `LaunchError` when the launcher started more ranks than see each other.

    A launcher of another MPI than mpi4py's starts N jobs of one rank each, which
    would all do the whole work. If several launchers gave a number, one was started
    under the other, and the smallest counts. Slurm's own count is ignored once MPI sees
    several ranks, since ``mpirun -n 2`` may use a part of the job. If ``srun`` starts
    ``mpirun`` several times, that looks like one ``mpirun``.
    """
    said = _said(SIZES[:2], environ)
    promised = min(said) if said else ranks_promised(environ)
    if size < promised and (said or size == 1):
        raise LaunchError(
            f"the launcher started {promised} ranks, but MPI sees only "
            f"{'one' if size == 1 else size}: start the job with the mpirun of the MPI that "
            "mpi4py uses, or with srun --mpi=… as that MPI needs; 'ampmpi doctor' shows which "
            "MPI that is"
        )


def check_compiler(environ: Mapping[str, str] = os.environ) -> None:
    """Raise `LaunchError` where numba is told not to compile, before anything is written."""
    if environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise LaunchError(
            "NUMBA_DISABLE_JIT is set, but fingerprints and trainings need compiled kernels: "
            "unset it and start again"
        )


def prepare() -> None:
    """Set one thread per rank and a writable, per-CPU cache for compiled kernels.

    Settings of the user are kept.
    """
    if under_launcher():
        for name in THREADS:
            os.environ.setdefault(name, "1")
    if "NUMBA_CACHE_DIR" not in os.environ:
        cache = kernel_cache()
        if cache is not None:
            os.environ["NUMBA_CACHE_DIR"] = str(cache)


def kernel_cache(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return a writable folder for kernels compiled for this type of CPU, or None.

    The user's cache folder comes first, because it outlives the job, then one in the
    temporary directory. With one folder per type of CPU, the nodes of a mixed cluster
    do not overwrite each other's kernels.
    """
    home = environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    temporary = Path(tempfile.gettempdir()) / f"ampmpi-{os.getuid()}"
    for base in (Path(home) / "ampmpi", temporary):
        folder = base / f"numba-{cpu_type()}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            ours = base.stat().st_uid == os.getuid()
        except OSError:
            continue
        if ours and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None


def cpu_type(cpuinfo: str | os.PathLike[str] = "/proc/cpuinfo") -> str:
    """Return a short name that differs between CPUs that run different machine code."""
    machine = platform.machine()
    try:
        with open(cpuinfo, encoding="utf-8", errors="replace") as file:
            first = file.read(16384).split("\n\n", 1)[0]
    except OSError:
        return machine
    telling = ("model name", "flags", "Features", "CPU part", "CPU implementer")
    lines = [line for line in first.splitlines() if line.startswith(telling)]
    return f"{machine}-{hashlib.md5('|'.join(lines).encode()).hexdigest()[:8]}"


def is_compiled(stamp: str) -> bool:
    """Return whether `note_compiled` was called with this stamp for this cache of kernels."""
    folder = os.environ.get("NUMBA_CACHE_DIR")
    return bool(folder) and Path(str(folder), f"compiled-{stamp}").exists()


def note_compiled(stamp: str) -> None:
    """Note in the cache that these kernels are there; failing to do so is harmless."""
    folder = os.environ.get("NUMBA_CACHE_DIR")
    if folder:
        with contextlib.suppress(OSError):
            Path(folder, f"compiled-{stamp}").touch()


@contextlib.contextmanager
def compile_lock() -> Iterator[None]:
    """Let one process at a time fill the cache of kernels, if the file system can lock."""
    folder = os.environ.get("NUMBA_CACHE_DIR")
    with contextlib.ExitStack() as stack:
        if folder:
            with contextlib.suppress(OSError):
                file = stack.enter_context(open(Path(folder, "compiling"), "w", encoding="ascii"))
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
