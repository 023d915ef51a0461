"""``ampmpi check``: read and verify databases, and repair them when asked."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from ampmpi.cli.compress import worse
from ampmpi.cli.kinds import OneProcess
from ampmpi.cli.text import amount, complain
from ampmpi.database.aside import set_aside
from ampmpi.database.check import CheckReport, check
from ampmpi.database.database import FingerprintDatabase
from ampmpi.database.layout import Layout
from ampmpi.database.manifest import Manifest
from ampmpi.descriptor import Gaussian
from ampmpi.entries import Entry, Fingerprint, FingerprintPrimes
from ampmpi.errors import (
    AmpmpiError,
    CorruptEntryError,
    DatabaseError,
    DescriptorError,
    ImageError,
    InputError,
)
from ampmpi.parallel import launch
from ampmpi.parallel.log import Log, counted

if TYPE_CHECKING:
    from ase import Atoms

    from ampmpi.images import Images

TOLERANCE = 1e-9
"""Largest difference of a recomputed value, relative to the largest value of its entry."""


@click.command("check", cls=OneProcess)
@click.argument("databases", nargs=-1, required=True, metavar="DB...")
@click.option("--repair", is_flag=True, help="Set aside what is damaged and save the rest.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N",
              help="Compute N entries again and compare; needs --images.")  # fmt: skip
@click.option("--images", multiple=True, metavar="FILE",
              help="Images of the database, for --sample; may be given several times.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), metavar="SEED",
              help="Choose as the run did that printed SEED; by default anew.")  # fmt: skip
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
    seed: int | None,
    wait: float,
    break_lock: bool,
    verbose: bool,
) -> None:
    """Read everything in databases and verify it.

    The exit code is 0 for clean databases, 5 if something was damaged and is
    repaired, 4 if something is damaged, 6 if another process's lock kept it
    from being repaired.
    """
    launch.stop.end_at_once()
    if (sample is None) != (not images):
        raise InputError("--sample N and --images FILE need each other")
    if seed is None:
        seed = random.SystemRandom().randrange(2**32)
    code = 0
    with contextlib.ExitStack() as stack:
        opened: Images | None = None
        if images:
            from ampmpi.images import open_images

            opened = stack.enter_context(contextlib.closing(open_images(list(images))))
        for path in databases:
            try:
                report = _check(path, repair, wait, break_lock)
                try:
                    if opened is not None and sample is not None:
                        _sample(report, sample, opened, seed, repair)
                finally:
                    _show(report, None if verbose else 20)
                    code = worse(code, report.exit_code)
            except AmpmpiError as error:
                complain(error)
                code = worse(code, error.exit_code)
    context.exit(code)


def _check(path: str, repair: bool, wait: float, break_lock: bool) -> CheckReport:
    with counted(Log(), "check", "entries") as progress:
        return check(
            path,
            repair=repair,
            wait=wait,
            break_lock=break_lock,
            progress=progress,
            doubt=_doubt,
        )


def _doubt(manifest: Manifest) -> str | None:
    """Say why a manifest's digest is not that of its parameters, if so."""
    try:
        digest = Gaussian.from_parameters(manifest.parameters).digest
    except DescriptorError:
        return None  # another package's descriptor, perhaps: nothing can be said
    if digest == manifest.digest:
        return None
    return "its digest is that of other parameters: somebody changed it"


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
    verdict = {0: "clean", 5: "repaired"}.get(report.exit_code, "DAMAGED")
    click.echo(
        f"{report.path}: {verdict}; {amount(report.sound, 'sound copy', 'sound copies')} read, "
        f"{amount(len(report.problems), 'problem')}, "
        f"{amount(len(report.lost), 'entry', 'entries')} lost"
    )


def _sample(report: CheckReport, number: int, images: Images, seed: int, repair: bool) -> None:
    """Compute some entries again, and compare.

    Raises
    ------
    DatabaseError
        Nobody knows of which descriptor the database is.
    InputError
        It has none of the images.
    """
    with FingerprintDatabase(report.path) as database:
        manifest = database.manifest()
        if manifest is None or database.kind == "other":
            raise DatabaseError(
                f"{report.path} does not say of which descriptor it is: "
                f"nothing can be computed again"
            )
        descriptor = Gaussian.from_parameters(manifest.parameters)
        is_fingerprints = database.kind == "fingerprints"
        compute = descriptor.fingerprint if is_fingerprints else descriptor.fingerprint_primes
        chosen, looked = _choose(database, number, images, seed)
        compared, wrong = 0, {}
        for key, image in chosen.items():
            try:
                reason = _difference(database[key], compute(image))
            except (KeyError, CorruptEntryError):
                continue
            except (ImageError, DescriptorError) as error:
                reason = f"it cannot be computed again: {error}"
            compared += 1
            if reason is not None:
                wrong[key] = reason
        if 2 * len(wrong) > compared > 1:
            _doubt_manifest(report, database.layout, wrong, compared, repair)
        else:
            for key, reason in wrong.items():
                report.problems.append(f"value: {key}: {reason}")
                if repair:
                    _delete(report, database, key)
    if not chosen:
        raise InputError(
            f"none of the {amount(len(images), 'image')} has an entry in {report.path}: "
            f"nothing was compared"
        )
    report.notes.append(
        f"value: {amount(compared, 'entry', 'entries')} computed again and compared "
        f"({number} asked for, {looked} of {amount(len(images), 'image')} looked at, --seed {seed})"
    )


def _choose(
    database: FingerprintDatabase, number: int, images: Images, seed: int
) -> tuple[dict[str, Atoms], int]:
    """Choose at random among the images that have an entry.

    Few are read at first: where most have one, that is enough.

    Returns
    -------
    chosen : dict of str to Atoms
        Keys and images, at most `number`.
    looked : int
        How many images were read.
    """
    from ampmpi.images import hash_image

    order = list(range(len(images)))
    random.Random(seed).shuffle(order)
    chosen: dict[str, Atoms] = {}
    start, size = 0, 2 * number
    while start < len(order) and len(chosen) < number:
        place = {index: at for at, index in enumerate(order[start : start + size])}
        found: dict[str, tuple[int, Atoms]] = {}
        for index, image in images.read_many(sorted(place)):
            if isinstance(image, ImageError):
                continue
            key = hash_image(image)
            if key in chosen or key not in database:
                continue
            found[key] = place[index], image
            if len(chosen) + len(found) > number:
                del found[max(found, key=lambda key: found[key][0])]
        chosen |= {key: image for key, (_, image) in found.items()}
        start, size = start + size, 2 * size
    return chosen, min(start, len(order))


def _doubt_manifest(
    report: CheckReport, layout: Layout, wrong: dict[str, str], compared: int, repair: bool
) -> None:
    """Blame the manifest where most entries differ: so many are not damaged alike."""
    key, reason = next(iter(wrong.items()))
    report.problems.append(
        f"manifest: {layout.manifest} is that of another descriptor, or another program made the "
        f"entries: {len(wrong)} of {compared} differ (of the first, {key}: {reason})"
    )
    if repair:
        try:
            target = set_aside(layout, layout.manifest, Path(layout.manifest).name)
        except OSError as error:
            report.remaining.append(f"manifest: it cannot be moved: {error.strerror or error}")
        else:
            report.repairs.append(f"manifest: moved to {target}; the entries stay")


def _delete(report: CheckReport, database: FingerprintDatabase, key: str) -> None:
    try:
        del database[key]
    except KeyError:
        report.repairs.append(f"value: {key} is no longer there")
    except DatabaseError as error:
        report.remaining.append(f"value: {key} cannot be deleted: {error}")
    else:
        report.repairs.append(f"value: {key} was deleted")


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
