"""``ampmpi info``: what a database holds."""

from __future__ import annotations

import click

from ampmpi.cli.kinds import OneProcess
from ampmpi.cli.text import amount, complain, size
from ampmpi.database.database import DatabaseInfo, FingerprintDatabase
from ampmpi.database.layout import Home
from ampmpi.database.lock import read_holder
from ampmpi.errors import AmpmpiError
from ampmpi.parallel import launch
from ampmpi.text import plain

_WHAT = {
    "fingerprints": "fingerprints",
    "primes": "fingerprint primes (derivatives)",
    "other": "entries of another kind, kept byte for byte",
}


@click.command("info", cls=OneProcess)
@click.argument("databases", nargs=-1, required=True, metavar="DB...")
@click.pass_context
def command(context: click.Context, databases: tuple[str, ...]) -> None:
    """Say what databases hold."""
    launch.stop.end_at_once()
    code = 0
    for path in databases:
        try:
            home = Home.open(path)
            with FingerprintDatabase(path) as database:
                database.hold(home)
                info = database.info()
            _show(info, str(read_holder(home) or "nobody"))
            if info.damage is not None:
                complain(
                    f"the archive of {path} is damaged ({info.damage}): see ampmpi check {path}"
                )
        except AmpmpiError as error:
            complain(error)
            code = max(code, error.exit_code)
    context.exit(code)


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
