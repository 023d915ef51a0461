"""``ampmpi check``: read and verify databases, and repair them when asked."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import click

from ampmpi.cli.compress import worse
from ampmpi.cli.descriptors import imported
from ampmpi.cli.kinds import OneProcess, complete_files
from ampmpi.cli.text import amount, complain
from ampmpi.database.check import CheckReport, check
from ampmpi.database.database import FingerprintDatabase
from ampmpi.database.manifest import Manifest
from ampmpi.descriptor import from_parameters
from ampmpi.entries.compare import disagreement
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


@click.command("check", cls=OneProcess)
@click.argument(
    "databases", nargs=-1, required=True, metavar="DB...", shell_complete=complete_files
)
@click.option("--repair", is_flag=True, help="Set aside what is damaged and save the rest.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N",
              help="Compute N entries again and compare; needs --images.")  # fmt: skip
@click.option("--images", multiple=True, metavar="FILE", shell_complete=complete_files,
              help="Images of the database, for --sample; may be given several times.")  # fmt: skip
@click.option("--descriptor", metavar="MODULE:OBJECT",
              help="The databases' descriptor, where it is one of your own.")  # fmt: skip
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
    descriptor: str | None,
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
    if descriptor is not None:
        imported(descriptor)
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
                        _sample(report, sample, opened, seed)
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
        digest = from_parameters(manifest.parameters).digest
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


def _sample(report: CheckReport, number: int, images: Images, seed: int) -> None:
    """Compute some entries again, and compare."""
    with FingerprintDatabase(report.path) as database:
        manifest = database.manifest()
        if manifest is None or database.kind == "other":
            raise DatabaseError(
                f"{report.path} does not say which descriptor made it: nothing can be computed "
                "again"
            )
        descriptor = from_parameters(manifest.parameters)
        is_fingerprints = database.kind == "fingerprints"
        compute = descriptor.fingerprint if is_fingerprints else descriptor.fingerprint_primes
        chosen, looked = _choose(database, number, images, seed)
        compared = 0
        for key, image in chosen.items():
            try:
                reason = disagreement(database[key], compute(image))
            except (KeyError, CorruptEntryError):
                continue
            except (ImageError, DescriptorError) as error:
                reason = f"it cannot be computed again: {error}"
            compared += 1
            if reason is not None:
                problem = f"value: {key}: {reason}"
                report.problems.append(problem)
                if report.repair:
                    report.remaining.append(
                        f"{problem}; a repair removes no whole entry: delete it "
                        "(FingerprintDatabase.delete), or descriptor.json if that is wrong, and "
                        "start the job again"
                    )
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
    """Choose images that have an entry, at random; return them by key, and how many were read.

    Few are read at first: where most have an entry, that is enough.
    """
    from ampmpi.images import hash_image

    generator = random.Random(seed)
    order = generator.sample(range(len(images)), len(images))
    chosen: dict[str, Atoms] = {}
    start, size = 0, 2 * number
    while start < len(order) and len(chosen) < number:
        found: dict[str, Atoms] = {}
        for _, image in images.read_many(sorted(order[start : start + size])):
            if not isinstance(image, ImageError) and (key := hash_image(image)) in database:
                found[key] = image
        wanted = min(number - len(chosen), len(found))
        chosen.update(generator.sample(list(found.items()), wanted))
        start, size = start + size, 2 * size
    return chosen, min(start, len(order))
