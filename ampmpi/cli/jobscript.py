"""``ampmpi jobscript``: print a SLURM job script filled in for the user's files.

The templates are the scripts in ``jobscripts/``, which run as they are. Filling in changes their
``#SBATCH`` lines and the settings at their top, nothing else.
"""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import InputError
from .kinds import PREFIX, complete_files

PLAIN = re.compile(r"[A-Za-z0-9_@%+:./-]+")
PASSED_ON = {"ignore_unknown_options": True}
OF_SBATCH = {
    "begin", "chdir", "comment", "constraint", "cpus-per-task", "dependency", "error", "exclude",
    "export", "gpus", "gres", "job-name", "licenses", "mail-type", "mail-user", "mem",
    "mem-per-cpu", "nodelist", "ntasks", "output", "priority", "qos", "reservation", "signal",
}  # fmt: skip
FLAGS_OF_SBATCH = {"contiguous", "exclusive", "hold", "no-requeue", "oversubscribe", "requeue"}
DIRECTIVE = re.compile(r"^#SBATCH --([a-z-]+)(?:[= ].*)?$")


def templates() -> Path:
    """Return the folder of the scripts: inside an installed package, or beside a source tree's."""
    package = Path(__file__).parents[1]
    installed = package / "_jobscripts"
    return installed if installed.is_dir() else package.parent / "jobscripts"


def quote(word: str) -> str:
    """Quote a word for bash, for sbatch's own reading of ``#SBATCH`` lines, and for shellcheck.

    Double quotes and backslashes mean the same to the first two. The third suspects commas and
    equals signs in arrays, and dollars in single quotes.
    """
    if PLAIN.fullmatch(word):
        return word
    escaped = re.sub(r'([\\$`"])', r"\\\1", word)
    return f'"{escaped}"'


def fill(
    template: str,
    directives: Mapping[str, str | None],
    settings: Mapping[str, str | Sequence[str]],
) -> str:
    """Fill in a job script.

    Parameters
    ----------
    template : str
        The script.
    directives : mapping
        Options of ``sbatch`` by their long name, without dashes; None for one that takes no
        value. One that the script has is changed, any other is added below the last.
    settings : mapping
        Shell variables at the top of the script; a sequence becomes an array.

    Returns
    -------
    str
        The script, with every value quoted.
    """
    lines = template.splitlines()
    left = dict(directives)
    last = 0
    for i, line in enumerate(lines):
        found = DIRECTIVE.match(line)
        if found:
            last = i
            name = found[1]
            if name in left:
                lines[i] = _directive(name, left.pop(name))
    lines[last + 1 : last + 1] = [_directive(name, value) for name, value in left.items()]
    for name, value in settings.items():
        text = quote(value) if isinstance(value, str) else f"({' '.join(map(quote, value))})"
        for i, line in enumerate(lines):
            if line.startswith(f"{name}="):
                comment = line.rpartition(" # ")[2] if " # " in line else ""
                lines[i] = f"{name}={text}" + (f" # {comment}" if comment else "")
                break
        else:
            raise AssertionError(f"the template has no setting {name}")
    return "\n".join(lines) + "\n"


def _directive(name: str, value: str | None) -> str:
    return f"#SBATCH --{name}" + ("" if value is None else f"={quote(value)}")


def command_of(kind: str) -> click.Command:
    """Return the command that a kind of job runs."""
    found: click.Command = importlib.import_module(f"ampmpi.cli.{kind}").command
    return found


def _check(kind: str, arguments: Iterable[str]) -> None:
    """Refuse arguments that the job's own command would refuse."""
    name = "amp-compress" if kind == "compress" else f"ampmpi {kind}"
    words = list(arguments)
    if "--help" in words or "-h" in words:
        raise InputError(f"{name} would only say how it is used: leave --help out")
    try:
        command_of(kind).make_context(name, list(words))
    except click.UsageError as error:
        hint = ""
        if isinstance(error, click.NoSuchOption):
            hint = _hint(error.option_name, words)
        raise InputError(f"{name} would refuse this: {error.format_message()}{hint}") from None


def _hint(option: str, words: Sequence[str]) -> str:
    """Return where an option belongs that a job's own command does not know."""
    ours = {name for each in click.get_current_context().command.params for name in each.opts}
    if option in ours:
        return f" Options of jobscript, as {option}, go before the --."
    name = option.removeprefix("--")
    if name in FLAGS_OF_SBATCH:
        return f" To pass it on to sbatch, give --sbatch {name}."
    if name in OF_SBATCH:
        found = next(i for i, word in enumerate(words) if word.partition("=")[0] == option)
        value = words[found].partition("=")[2] or "".join(words[found + 1 : found + 2]) or "VALUE"
        return f" To pass it on to sbatch, give --sbatch {name}={quote(value)}."
    return ""


def _check_committee(arguments: Sequence[str], label: str) -> None:
    """Refuse arguments that the members of a committee would refuse or overwrite."""
    _refuse(arguments, ("--label", "--seed"), "each member of a committee gets its own")
    _check("train", (*arguments, "--label", f"{label}-0", "--seed", "0"))


def _refuse(arguments: Iterable[str], options: Sequence[str], why: str) -> None:
    for word in arguments:
        if word.partition("=")[0] in options:
            raise InputError(f"{word.partition('=')[0]} cannot be given here: {why}")


def _words(option: str, text: str) -> list[str]:
    """Split an option's value as the shell would."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(
            f"{option} {text}: {error}: quote it twice, as in {option} \"--descriptor 'a b.toml'\""
        ) from None


def _directives(given: Mapping[str, Any], more: Sequence[str]) -> dict[str, str | None]:
    directives: dict[str, str | None] = {
        name.replace("_", "-"): str(value) for name, value in given.items() if value is not None
    }
    for name, value in directives.items():
        if not value:
            raise InputError(f"--{name} is empty: give a value or leave it out")
    for each in more:
        name, equals, value = each.lstrip("-").partition("=")
        if not re.fullmatch(r"[a-z][a-z-]+", name) or (equals and not value):
            raise InputError(
                f"--sbatch {each}: give it as NAME or NAME=VALUE, as in exclusive or "
                "constraint=skylake"
            )
        if name in directives:
            raise InputError(f"--sbatch {each}: --{name} is given twice; leave one of them out")
        directives[name] = value if equals else None
    if any("\n" in value for value in directives.values() if value):
        raise InputError("an option of sbatch holds a line break")
    return directives


Function = Callable[..., None]


def _options(*options: Callable[[Function], Function]) -> Callable[[Function], Function]:
    def add(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return add


_site = _options(
    click.option("--partition", help="Partition."),
    click.option("--account", help="Account to charge."),
    click.option(
        "--sbatch",
        multiple=True,
        metavar="NAME[=VALUE]",
        help="Any option of sbatch, by its long name.",
    ),
)
_time = click.option("--time", help="Walltime, as sbatch takes it.  [script: 01:00:00]")
_parallel = _options(
    click.option("--nodes", type=click.IntRange(1), help="Nodes.  [script: 2]"),
    click.option(
        "--ntasks-per-node",
        type=click.IntRange(1),
        help="Ranks on each node, best as many as it has cores.  [script: 2]",
    ),
    _time,
    click.option("--launcher", type=click.Choice(["srun", "mpirun"]), help="[script: srun]"),
    click.option("--mpi", help="What srun --mpi= is given.  [script: pmi2]"),
    click.option("--restarts", type=click.IntRange(0), help="Requeue so often.  [script: 20]"),
)
_array = click.option("--array", help="The members' numbers, as for sbatch.  [script: 0-3]")
_arguments = click.argument(
    "arguments", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_files
)


def _print(
    kind: str, directives: Mapping[str, Any], more: Sequence[str], settings: Mapping[str, Any]
) -> None:
    template = (templates() / f"{kind}.sh").read_text(encoding="utf-8")
    given = {
        name: tuple(value) if isinstance(value, (list, tuple)) else str(value)
        for name, value in settings.items()
        if value is not None and value != ()
    }
    click.echo(fill(template, _directives(directives, more), given), nl=False)


@click.group()
def command() -> None:
    """Print a SLURM job script filled in for your files.

    \b
        ampmpi jobscript fingerprint --nodes 4 --ntasks-per-node 32 \\
            --time 04:00:00 \\
            -- images.traj --label amp --derivatives > job.sh
        sbatch job.sh

    Options that are not jobscript's own go to the job's own command, and so
    does all that follows --, as it is.
    """  # noqa: D301  (click looks for the backspace itself)


def _parallel_job(
    kind: str, sbatch: Sequence[str], settings: dict[str, Any], given: dict[str, Any]
) -> None:
    settings |= {name: given.pop(name) for name in ("launcher", "mpi", "restarts")}
    _print(kind, given, sbatch, settings)


@command.command(context_settings=PASSED_ON)
@_parallel
@_site
@_arguments
def fingerprint(arguments: tuple[str, ...], sbatch: tuple[str, ...], **given: Any) -> None:
    """Fingerprint images; ARGUMENTS as for `ampmpi fingerprint`."""
    if arguments:
        _check("fingerprint", arguments)
    _parallel_job("fingerprint", sbatch, {"arguments": arguments}, given)


@command.command(context_settings=PASSED_ON)
@_parallel
@_site
@_arguments
def train(arguments: tuple[str, ...], sbatch: tuple[str, ...], **given: Any) -> None:
    """Train a potential; ARGUMENTS as for `ampmpi train`."""
    if arguments:
        _check("train", arguments)
    _parallel_job("train", sbatch, {"arguments": arguments}, given)


@command.command(context_settings=PASSED_ON)
@_parallel
@_array
@click.option("--label", default="amp", show_default=True, type=PREFIX,
              help="Prefix of the members' files.")  # fmt: skip
@_site
@_arguments
def committee(
    arguments: tuple[str, ...], label: str, sbatch: tuple[str, ...], **given: Any
) -> None:
    """Train a committee, one job for each member; ARGUMENTS as for `ampmpi train`."""
    if arguments:
        _check_committee(arguments, label)
    _parallel_job("committee", sbatch, {"arguments": arguments, "label": label}, given)


@command.command(context_settings=PASSED_ON)
@_time
@_site
@_arguments
def compress(arguments: tuple[str, ...], sbatch: tuple[str, ...], **given: Any) -> None:
    """Compress databases after other jobs; ARGUMENTS as for `amp-compress`."""
    if arguments:
        _check("compress", arguments)
    _print("compress", given, sbatch, {"arguments": arguments})


@command.command(context_settings=PASSED_ON)
@_parallel
@_array
@_site
@click.option("--dblabel", type=PREFIX,
              help="Prefix of the databases that all jobs share.  [script: amp]")  # fmt: skip
@click.option(
    "--fingerprint",
    help="Further options of `ampmpi fingerprint`, as one word.  [script: --derivatives]",
)
@click.option("--train", help="Further options of `ampmpi train`, as one word.")
@click.argument("images", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_files)
def chain(
    images: tuple[str, ...],
    dblabel: str | None,
    array: str | None,
    fingerprint: str | None,
    train: str | None,
    partition: str | None,
    account: str | None,
    sbatch: tuple[str, ...],
    **given: Any,
) -> None:
    """Submit fingerprint → array of trainings on one dblabel → compress.

    Run what this prints on the login node, with bash.
    """
    _directives({}, sbatch)
    further = [_words(f"--{name}", text or "")
               for name, text in (("fingerprint", fingerprint), ("train", train))]  # fmt: skip
    for words in further:
        _refuse(words, ("--label", "--dblabel"), "all jobs of a chain share one --dblabel")
    prefix = dblabel or "amp"
    common = [*(images or ["images.traj"]), "--dblabel", prefix]
    _check("fingerprint", [*common, "--label", prefix, *further[0]])
    for word in images:
        if word.startswith("-"):
            raise InputError(
                f"{word} is for one kind of job: give it within --fingerprint or --train"
            )
    _check_committee([*common, *further[1]], prefix)
    time = given.pop("time")
    parallel = {"nodes": 2, "ntasks_per_node": 2}
    parallel |= {name: value for name, value in given.items() if value is not None}
    everywhere = [("--partition", partition), ("--account", account)]
    everywhere += [("--sbatch", value) for value in sbatch]
    settings = {
        "images": images,
        "dblabel": dblabel,
        "array": array,
        "fingerprint": None if fingerprint is None else further[0],
        "train": None if train is None else further[1],
        "resources": _flags((f"--{name}".replace("_", "-"), v) for name, v in parallel.items()),
        "time": time,
        "site": _flags(everywhere),
    }
    _print("chain", {}, (), settings)


def _flags(options: Iterable[tuple[str, Any]]) -> list[str]:
    return [word for name, value in options if value is not None for word in (name, str(value))]


@command.command()
def env() -> None:
    """Print the example of an env.sh, where a site puts its modules."""
    _print("env.example", {}, (), {})
