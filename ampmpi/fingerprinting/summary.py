"""What a job did, or would do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ampmpi.database.packs import PackLimits
from ampmpi.images import ImageRef
from ampmpi.images.doubts import named
from ampmpi.text import amount, size

SHOWN = 20

FEW = 3
"""So many images that came several times have a line each."""

DEFLATED = 0.57
"""What deflating leaves of fingerprint primes, next to which fingerprints hardly count."""

MANY_FILES = 10_000
"""Packs are advised from here on: clusters give a user some 10⁶ files, and this is one job."""


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be fingerprinted.

    Attributes
    ----------
    image : ImageRef
        Which.
    reason : str
        Why.
    """

    image: ImageRef
    reason: str

    def __str__(self) -> str:
        return f"{self.image}: {self.reason}"


@dataclass(frozen=True)
class Plan:
    """What a dry run predicts for one database.

    Attributes
    ----------
    path : str
        The database.
    entries : int
        Entries that would be computed: as many loose files.
    n_bytes : int
        Their predicted size in bytes, before compression.
    """

    path: str
    entries: int
    n_bytes: int

    @property
    def deflated(self) -> int:
        """Their predicted size in bytes in packs."""
        return round(DEFLATED * self.n_bytes)

    def packs(self, ranks: int, limits: PackLimits) -> int:
        """Predict the number of packs, as far as their size decides when another one is begun."""
        writers = min(ranks, self.entries)
        if not writers:
            return 0
        each = max(1, math.ceil(self.deflated / writers / limits.n_bytes))
        return min(writers * each, self.entries)

    def line(self, ranks: int, limits: PackLimits | None) -> str:
        """Say how many files there would be, with packs and without."""
        files = amount(self.entries, "file")
        if not self.entries:
            return f"{self.path}: {files}"
        packs = amount(self.packs(ranks, limits or PackLimits()), "file")
        packs = f"about {packs} on {amount(ranks, 'rank')}"
        if limits is None:
            return f"{self.path}: {files}, about {size(self.n_bytes)}; with --packs {packs}"
        return f"{self.path}: {packs}, about {size(self.deflated)}; without --packs {files}"


@dataclass(frozen=True)
class Summary:
    """What a job did.

    Attributes
    ----------
    images : int
        Number of images given.
    duplicates : int
        How many of them are equal to an earlier one.
    repeated : tuple of (ImageRef, int)
        The first images that came several times, and how often each did.
    found, computed : int
        Different images whose entries were all there, and that were computed.
    failed : tuple of FailedImage
        Images that could not be done, in their order.
    recomputed : mapping of str to str
        Entries that were there but damaged, by key, and what was wrong.
    databases : tuple of str
        The databases.
    ranks : int
        Number of MPI ranks.
    seconds : float
        Duration of the whole job.
    compute_seconds : float
        Duration of the computing, from its start on the first rank to its end
        on the last.
    split : mapping of str to float
        Seconds of the average rank in reading, computing and writing.
    notes : tuple of str
        What else the user should know.
    plan : tuple of Plan
        What a dry run predicts; empty where the job ran.
    packs : PackLimits or None
        When packs are ended; None where each entry is a file.
    """

    images: int
    duplicates: int = 0
    repeated: tuple[tuple[ImageRef, int], ...] = ()
    found: int = 0
    computed: int = 0
    failed: tuple[FailedImage, ...] = ()
    recomputed: Mapping[str, str] = field(default_factory=dict)
    databases: tuple[str, ...] = ()
    ranks: int = 1
    seconds: float = 0.0
    compute_seconds: float = 0.0
    split: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    plan: tuple[Plan, ...] = ()
    packs: PackLimits | None = None

    @property
    def rate(self) -> float:
        """Images per second and rank while computing."""
        if not self.computed:
            return 0.0
        return self.computed / max(self.compute_seconds, 1e-9) / self.ranks

    def lines(self) -> list[str]:
        """Return the counts as lines of text."""
        counts = f"{self.images} images, {self.duplicates} duplicates, {self.found} found"
        if self.plan:
            missing = self.images - self.duplicates - self.found - len(self.failed)
            lines = [f"{counts}, {missing} to compute, {len(self.failed)} failed"]
            lines += [plan.line(self.ranks, self.packs) for plan in self.plan]
            n_files = sum(plan.entries for plan in self.plan)
            if self.packs is not None:
                lines.append(
                    f"a rank whose pack is {self.packs.seconds:g} s old begins another one, so "
                    "that a long job makes more files"
                )
            elif n_files >= MANY_FILES:
                lines.append(
                    f"{n_files} small files are slow where nodes share a file system, and count "
                    "against a quota: give --packs"
                )
            return lines
        rate = f", {self.rate:.3g} images/s/rank" if self.computed else ""
        return [
            f"{counts}, {self.computed} computed, {len(self.failed)} failed, "
            f"{self.seconds:.1f} s on {amount(self.ranks, 'rank')}{rate}"
        ]

    def remarks(self) -> list[str]:
        """Return what was damaged, and what else the user should know, a line each."""
        return [
            *listed(
                f"entry {key} was damaged ({reason}) and is computed again"
                for key, reason in self.recomputed.items()
            ),
            *self.notes,
        ]

    def report(self) -> list[str]:
        """Return all that there is to say, a line each: repeated images, damage, counts."""
        return [*self._repetitions(), *self.remarks(), *self.lines()]

    def _repetitions(self) -> list[str]:
        """Say which images came several times: a line each, or one for many."""
        if len(self.repeated) <= FEW:
            return [f"{ref} comes {times} times" for ref, times in self.repeated]
        most = max(times for _, times in self.repeated)
        how_often = "twice" if most == 2 else f"2 to {most} times"
        first = named((ref for ref, _ in self.repeated), SHOWN)
        return [
            f"{len(self.repeated)} images come several times, {how_often}, and are computed once: "
            f"{first}"
        ]


def listed(lines: Iterable[str]) -> list[str]:
    """Return lines of one kind, cut off where they get many."""
    every = list(lines)
    if len(every) <= SHOWN:
        return every
    return [*every[:SHOWN], f"… and {len(every) - SHOWN} more like this"]
