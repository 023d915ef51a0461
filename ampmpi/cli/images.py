"""``ampmpi images``: what is in a set of images, before anything is computed."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ampmpi.cli.kinds import complete_files
from ampmpi.cli.labels import label_options, reading_of
from ampmpi.errors import ImageFileError, InputError
from ampmpi.files.whole import write_whole

if TYPE_CHECKING:
    from ampmpi.images import Images
    from ampmpi.images.labels import Choice, LabelKeys
    from ampmpi.images.overview import Overview


@click.command("images")
@click.argument(
    "files", nargs=-1, required=True, metavar="IMAGES...", shell_complete=complete_files
)
@label_options
@click.option("--plot", metavar="FILE", shell_complete=complete_files,
              help="Draw energies, forces and distances, too.")  # fmt: skip
def command(files: tuple[str, ...], plot: str | None, **given: Any) -> None:
    """Say what is in IMAGES: labels, compositions, cells, distances, and what is suspicious.

    Under mpirun the ranks share the images.
    """
    from ampmpi.images.overview import Overview
    from ampmpi.images.reading import named
    from ampmpi.parallel.comm import world
    from ampmpi.parallel.failure import abort_on_error, agree, on_all
    from ampmpi.parallel.schedule import block

    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise InputError("--plot needs matplotlib; install ampmpi[plot]")
    comm = world()
    with abort_on_error(comm):
        reading = agree(comm, lambda: reading_of(given))
        images = agree(comm, lambda: _open(named(files, reading)))
        choice, doubt = agree(comm, lambda: _choose(images, reading.keys))
        mine = block(len(images), comm.rank, comm.size)
        parts = comm.gather(on_all(comm, lambda: Overview.of(images, mine, choice)))
    if parts is None:
        return
    seen = Overview.joined(parts)
    for line in seen.lines(images.ref, choice):
        click.echo(line)
    said = [text for text in (doubt, choice.warning, choice.hint) if text]
    suspicious = said + seen.suspicious(images.ref)
    if suspicious:
        click.echo("\nSuspicious")
        for text in suspicious:
            click.echo(f"  {text}")
    elif not seen.wrong:
        click.echo("\nNothing looks suspicious.")
    if plot is not None and seen.indices:
        _draw(plot, seen)


def _open(names: Any) -> Images:
    from ampmpi.images import open_images

    images = open_images(names)
    if not len(images):
        raise InputError(f"{' '.join(map(str, names))}: there is no image; give other files")
    return images


def _choose(images: Images, keys: LabelKeys) -> tuple[Choice, str]:
    """Return under which names labels are; where that is not clear, say so instead of ending."""
    from ampmpi.images.glance import choose_labels
    from ampmpi.images.labels import Choice

    try:
        return choose_labels(images, keys), ""
    except ImageFileError:
        raise
    except InputError as error:
        return Choice(keys), str(error)


def _draw(path: str, seen: Overview) -> None:
    """Draw a set's energies, forces and distances into one picture."""
    kind = Path(path).suffix.lstrip(".")
    if kind not in ("png", "pdf", "svg"):
        raise InputError(f"--plot {path}: pictures are .png, .pdf or .svg; give such a name")
    picture = io.BytesIO()
    figure(seen).savefig(picture, format=kind, dpi=150)
    write_whole(path, picture.getvalue())
    click.echo(path)


def figure(seen: Overview) -> Any:
    """Draw energies, after reference energies of the elements, largest forces, and distances."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    facts = seen.facts()
    panels = []
    good = np.isfinite(facts.energies)
    if good.any():
        counts, n_atoms = facts.composition[good], facts.n_atoms[good]
        energies = facts.energies[good] / n_atoms
        fractions = counts / n_atoms[:, None]
        reference = fractions @ np.linalg.lstsq(fractions, energies, rcond=None)[0]
        panels.append((facts.indices[good], energies - reference,
                       "energy − Σ elements, eV/atom"))  # fmt: skip
    forced = np.isfinite(facts.largest_forces)
    if forced.any():
        panels.append((facts.indices[forced], facts.largest_forces[forced], "largest force, eV/Å"))
    if seen.ratios:
        panels.append((
            np.array([one.index for one in seen.ratios]),
            np.array([one.value for one in seen.ratios]),
            "shortest distance / covalent radii",
        ))  # fmt: skip
    drawn = Figure(figsize=(8, 2.6 * max(len(panels), 1)), layout="constrained")
    axes = drawn.subplots(
        max(len(panels), 1), 2, squeeze=False, sharey="row", gridspec_kw={"width_ratios": [3, 1]}
    )
    for (left, right), (where, values, label) in zip(axes, panels, strict=False):
        left.plot(where, values, ".", markersize=5 if len(where) < 300 else 2)
        left.set_ylabel(label, fontsize="small")
        left.set_xlabel("image")
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        right.hist(values, bins=30, orientation="horizontal")
        right.set_xlabel("images")
        right.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return drawn
