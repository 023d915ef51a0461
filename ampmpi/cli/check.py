"""``ampmpi check``: read and verify databases, and repair them when asked."""

from __future__ import annotations

import contextlib
import random

import click
import numpy as np

from ampmpi.cli.text import amount, complain
from ampmpi.database.check import CheckReport, check
from ampmpi.database.database import FingerprintDatabase
from ampmpi.entries import Entry, Fingerprint, FingerprintPrimes
from ampmpi.errors import AmpmpiError, CorruptEntryError, DatabaseError, ImageError, InputError
from ampmpi.parallel.log import Log, counted

TOLERANCE = 1e-9
"""Largest difference of a recomputed value, relative to the largest value of its entry."""


@click.command("check")
@click.argument("databases", nargs=-1, required=True, metavar="DB...")
@click.option("--repair", is_flag=True, help="Set aside what is damaged and save the rest.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N",
              help="Compute N entries again and compare; needs --images.")  # fmt: skip
@click.option("--images", multiple=True, metavar="FILE",
              help="Images of the database, for --sample; may be given several times.")  # fmt: skip
@click.option("--wait", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS",
              help="Wait this long for another process's lock.")  # fmt: skip
@click.option("--break-lock", is_flag=True, help="Take the lock from whoever holds it.")
@click.option("-v", "--verbose", is_flag=True, help="Name every problem, however many.")
@click.pass_context
def command(
    context: click.Context,
    databases: tuple[str, ...],
    repair: bool,
    sample: int | None,
    images: tuple[str, ...],
    wait: float,
    break_lock: bool,
    verbose: bool,
) -> None:
    """Read everything in databases and verify it.

    The exit code is 0 for clean databases, 5 if something was damaged and is
    repaired, 4 if something is damaged.
    """
    if (sample is None) != (not images):
        raise InputError("--sample N and --images FILE need each other")
    code = 0
    for path in databases:
        try:
            report = _check(path, repair, wait, break_lock)
            if sample is not None:
                _sample(report, sample, images, repair)
            _show(report, None if verbose else 20)
            code = _worse(code, report.exit_code)
        except AmpmpiError as error:
            complain(error)
            code = _worse(code, error.exit_code)
    context.exit(code)


def _worse(one: int, other: int) -> int:
    """Of two exit codes return the worse: clean, repaired, then anything else."""
    return max(one, other, key=lambda code: (code != 0, code != 5, code))


def _check(path: str, repair: bool, wait: float, break_lock: bool) -> CheckReport:
    with counted(Log(), "check", "entries") as progress:
        return check(path, repair=repair, wait=wait, break_lock=break_lock, progress=progress)


def _show(report: CheckReport, limit: int | None) -> None:
    for title, lines in (
        ("problem", report.problems),
        ("lost", [f"{key} must be computed again" for key in report.lost]),
        ("note", report.notes),
        ("repaired", report.repairs),
        ("still there", report.remaining),
    ):
        for line in lines[:limit]:
            click.echo(f"  {title}: {line}")
        if limit is not None and len(lines) > limit:
            click.echo(f"  {title}: and {len(lines) - limit} more (--verbose shows them)")
    verdict = {0: "clean", 5: "repaired", 4: "DAMAGED"}[report.exit_code]
    click.echo(
        f"{report.path}: {verdict}; {amount(report.sound, 'sound copy', 'sound copies')} read, "
        f"{amount(len(report.problems), 'problem')}, "
        f"{amount(len(report.lost), 'entry', 'entries')} lost"
    )


def _sample(report: CheckReport, number: int, files: tuple[str, ...], repair: bool) -> None:
    """Compute some entries again, and compare."""
    from ampmpi.descriptor import Gaussian
    from ampmpi.images import ImageSet, hash_image, open_images

    with FingerprintDatabase(report.path) as database:
        manifest = database.manifest()
        if manifest is None or database.kind == "other":
            raise DatabaseError(
                f"{report.path} does not say of which descriptor it is: "
                f"nothing can be computed again"
            )
        descriptor = Gaussian.from_parameters(manifest.parameters)
        compute = (
            descriptor.fingerprint
            if database.kind == "fingerprints"
            else descriptor.fingerprint_primes
        )
        images = open_images(list(files))
        chosen = random.Random(0).sample(range(len(images)), min(number, len(images)))
        compared = 0
        assert isinstance(images, ImageSet)
        with contextlib.closing(images):
            for _, image in images.read_many(sorted(chosen)):
                if isinstance(image, ImageError) or (key := hash_image(image)) not in database:
                    continue
                try:
                    reason = _difference(database[key], compute(image))
                except CorruptEntryError:
                    continue
                compared += 1
                if reason is not None:
                    report.problems.append(f"value: {key}: {reason}")
                    if repair:
                        del database[key]
                        report.repairs.append(f"value: {key} was deleted")
        report.notes.append(
            f"value: {compared} of {amount(len(chosen), 'chosen image')} compared; "
            f"the others are not in the database or damaged"
        )


def _difference(stored: Entry, computed: Entry) -> str | None:
    """Say how two entries of one image differ; None if they agree."""
    if stored.symbols != computed.symbols or dict(stored.n_features) != dict(computed.n_features):
        return "it has other atoms or numbers of features than a new computation"
    if isinstance(stored, FingerprintPrimes) and isinstance(computed, FingerprintPrimes):
        if not np.array_equal(stored.pairs, computed.pairs):
            return "it has other pairs of atoms than a new computation"
    elif not (isinstance(stored, Fingerprint) and isinstance(computed, Fingerprint)):
        return "it is of the other kind"
    scale = float(np.abs(computed.values).max(initial=0.0)) or 1.0
    difference = float(np.abs(stored.values - computed.values).max(initial=0.0)) / scale
    if difference > TOLERANCE:
        return f"it differs by {difference:.1e} of the largest value from a new computation"
    return None
