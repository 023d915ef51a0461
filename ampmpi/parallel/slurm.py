"""What SLURM says about a batch job."""

from __future__ import annotations

import re
import subprocess

PATIENCE = 10.0
"""Seconds to wait for an answer."""

ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "TIMEOUT",
}  # fmt: skip
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED"}

_FIELD = re.compile(r"\b(JobId|JobState|Restarts)=(\w+)")


class Scontrol:
    """Asks ``scontrol`` about jobs; after one answer that did not come it asks no more.

    Parameters
    ----------
    number : str
        Number of the job in which this process is.
    """

    def __init__(self, number: str) -> None:
        self._number = number
        self._answers: dict[str, tuple[str, int] | None] = {}
        self._silent = False

    def has_ended(self, number: str, restart: int, hidden: bool) -> bool | None:
        """Whether a run of a batch job has ended; None if SLURM does not say.

        Parameters
        ----------
        number : str
            Number of the job.
        restart : int
            How often it had been put back into the queue before that run.
        hidden : bool
            Whether the job may be one that this user is not shown.
        """
        answer = self._ask(number)
        if answer is None:
            return None
        state, restarts = answer
        if state == "":  # unknown to SLURM, which forgets jobs some minutes after their end
            own = self._ask(self._number)
            return True if own and own[0] and not hidden else None
        if state in ENDED or restarts > restart:
            return True
        return False if state in RUNNING and restarts == restart else None

    def _ask(self, number: str) -> tuple[str, int] | None:
        """Return a job's state, empty if there is no such job, and its restarts."""
        if number not in self._answers:
            self._answers[number] = self._show(number)
        return self._answers[number]

    def _show(self, number: str) -> tuple[str, int] | None:
        if self._silent or not re.fullmatch(r"[0-9]+", number):
            return None
        try:
            done = subprocess.run(
                ["scontrol", "show", "job", "-o", number],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=PATIENCE,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            self._silent = True
            return None
        for line in done.stdout.splitlines():  # one for each task of an array
            found = dict(_FIELD.findall(line))
            if found.get("JobId") == number and found.get("Restarts", "").isdigit():
                return found.get("JobState", "?"), int(found["Restarts"])
        return ("", 0) if "Invalid job id" in done.stderr else None
