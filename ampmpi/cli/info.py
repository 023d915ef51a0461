"""``ampmpi info``: what a database holds, and what a calculator consists of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ampmpi.cli.kinds import OneProcess, complete_files
from ampmpi.cli.text import amount, complain, size
from ampmpi.database.database import DatabaseInfo, FingerprintDatabase
from ampmpi.database.layout import Home, database_path
from ampmpi.database.lock import read_holder
from ampmpi.errors import AmpmpiError, InputError, ModelError
from ampmpi.parallel import launch
from ampmpi.text import plain

ENDS = (".amp", ".ampdb")
"""What names of calculators and databases end with."""

_WHAT = {
    "fingerprints": "fingerprints",
    "primes": "fingerprint primes (derivatives)",
    "other": "entries of another kind, kept byte for byte",
}


@click.command("info", cls=OneProcess)
@click.argument("names", nargs=-1, required=True, metavar="NAME...",
                shell_complete=complete_files)  # fmt: skip
@click.pass_context
def command(context: click.Context, names: tuple[str, ...]) -> None:
    """Say what databases hold, and what calculators consist of.

    NAME is a database, a .amp file, or the label of a job: then its databases and calculators
    are shown.
    """
    launch.stop.end_at_once()
    code = 0
    for name in names:
        try:
            for path in stands_for(name):
                (_calculator if path.endswith(".amp") else _database)(path)
        except AmpmpiError as error:
            complain(error)
            code = max(code, error.exit_code)
    context.exit(code)


def stands_for(name: str) -> list[str]:
    """Return the databases and .amp files of a name: itself, or those of a label."""
    from ampmpi.members import calculator_files

    if Path(name).exists() or Path(database_path(name)).is_dir():
        return [name]
    found = [path for path in _databases(name) if Path(path).is_dir()] + calculator_files(name)
    if not found and not name.endswith(ENDS):
        raise InputError(
            f"{name}: there is no such database, .amp file or label; the files of a label are "
            f"such as {name}-fingerprints.ampdb and {name}.amp"
        )
    return found or [name]


def _databases(label: str) -> list[str]:
    return [f"{label}-fingerprints.ampdb", f"{label}-fingerprint-primes.ampdb"]


def _database(path: str) -> None:
    home = Home.open(path)
    with FingerprintDatabase(path) as database:
        database.hold(home)
        info = database.info()
    _show(info, str(read_holder(home) or "nobody"))
    if info.damage is not None:
        complain(f"the archive of {path} is damaged ({info.damage}): see ampmpi check {path}")


def _calculator(path: str) -> None:
    from ampmpi.model import NeuralNetwork, amp_file

    parameters, network = amp_file.read(path)
    try:
        model = NeuralNetwork.from_parameters(network)
        descriptor = _in_words(parameters)
    except (InputError, ModelError) as error:
        raise ModelError(f"{path}: {error}") from error
    click.echo(path)
    networks = ", ".join(f"{e} {'-'.join(map(str, n))}" for e, n in model.network.nodes.items())
    for name, value in (
        ("holds", "a calculator" if model.is_whole else "a calculator that is not trained"),
        ("descriptor", descriptor),
        ("networks", f"{networks}, {model.activation}"),
        ("parameters", str(len(model.vector)) if model.is_whole else "none"),
    ):
        click.echo(f"  {name:12} {plain(value)}")


def _in_words(parameters: Mapping[str, Any]) -> str:
    """Say what a file's descriptor is, also one that only its owner has."""
    from ampmpi.descriptor import from_parameters, in_words, is_known

    if not is_known(parameters):
        elements = parameters.get("elements")
        of = f" of {', '.join(map(str, elements))}" if isinstance(elements, list) else ""
        return f"{parameters.get('importname')}{of}, none of ampmpi's"
    descriptor = from_parameters(parameters)
    counts = {} if descriptor.elements is None else descriptor.n_features
    numbers = ", ".join(f"{count} for {element}" for element, count in counts.items())
    Gs = parameters.get("Gs")
    listed = isinstance(Gs, Mapping) and all(isinstance(each, list) for each in Gs.values())
    what = "functions" if listed else "features"
    return f"{in_words(descriptor)}, {what}: {numbers}"


def _show(info: DatabaseInfo, holder: str) -> None:
    click.echo(info.path)
    packed = f"{info.packed} in packs, " if info.packs else ""
    packs = f"{size(info.bytes_packs)} packs, " if info.packs else ""
    rows = {
        "holds": _WHAT[info.kind],
        "entries": f"{info.entries} ({info.loose} loose, {packed}{info.archived} archived)",
        "size": f"{size(info.bytes_loose)} loose, {packs}{size(info.bytes_archive)} archive",
        "inodes": str(info.files),
        "descriptor": _descriptor(info),
        "temporaries": str(info.temporaries),
        "locked by": holder,
    }
    if info.packs or info.open_packs:
        still = f" ({info.open_packs} still open)" if info.open_packs else ""
        rows["packs"] = f"{info.packs}{still}; Amp sees what is in them after the next compress"
    if info.damaged:
        rows["damaged"] = f"{amount(info.damaged, 'file')} set aside in damaged/"
    if info.others:
        rows["others"] = f"{amount(info.others, 'file')} in loose/ that are not entries"
    for name, value in rows.items():
        click.echo(f"  {name:12} {plain(value)}")


def _descriptor(info: DatabaseInfo) -> str:
    if info.manifest is None:
        return "not said" if info.entries else "none yet"
    parameters = info.manifest.parameters
    words = [str(parameters.get("importname", "")).rpartition(".")[2]]
    elements = parameters.get("elements")
    if isinstance(elements, list):
        words.append("of " + ", ".join(map(str, elements)))
    cutoff = parameters.get("cutoff")
    if isinstance(cutoff, dict):
        settings = cutoff.get("kwargs", {})
        words.append(f"with {cutoff.get('name')} cutoff {settings.get('Rc')} Å")
    words.append(f"(digest {info.manifest.digest[:12]})")
    return " ".join(filter(None, words))
