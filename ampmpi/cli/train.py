"""``ampmpi train``: a potential, a sweep or a committee, under mpirun or alone."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ampmpi.cli.kinds import PREFIX
from ampmpi.cli.text import complain
from ampmpi.errors import InputError, TrainingConvergenceError

if TYPE_CHECKING:
    from ampmpi.descriptor import Gaussian
    from ampmpi.members import Member, MemberResult
    from ampmpi.model import LossFunction, NeuralNetwork
    from ampmpi.parallel.comm import Communicator
    from ampmpi.training.fit import Schedule


def _read_config(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Take the options' defaults from a TOML file."""
    if value is None:
        return
    try:
        with open(value, "rb") as file:
            given = tomllib.load(file)
    except OSError as error:
        raise InputError(f"cannot read {value}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{value} is no TOML file: {error}") from error
    known = {p.name: p for p in context.command.params if p.name != "config"}
    defaults: dict[str, Any] = {}
    for key, item in given.items():
        name = key.replace("-", "_")
        if name not in known:
            raise InputError(
                f"{value}: unknown option {key!r}; it takes the names of the command's options"
            )
        if isinstance(item, dict):
            raise InputError(f"{value}: {key} is a table; give a value")
        defaults[name] = _as_option(known[name], item)
    context.default_map = {**(context.default_map or {}), **defaults}


def _as_option(parameter: click.Parameter, item: Any) -> Any:
    """Return a TOML value as the command line would have it."""
    if parameter.multiple or parameter.nargs == -1:
        if not isinstance(item, list) or (item and all(isinstance(n, int) for n in item)):
            item = [item]
        return [_text(one) for one in item]
    return item if isinstance(item, bool) else _text(item)


def _text(item: Any) -> str:
    return ",".join(str(one) for one in item) if isinstance(item, list) else str(item)


def _hidden(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> list[tuple[int, ...]]:
    layers = []
    for text in value:
        try:
            nodes = tuple(int(n) for n in text.split(","))
        except ValueError:
            nodes = ()
        if not nodes or min(nodes) < 1:
            raise InputError(f"--hidden {text!r} is not a list of numbers of nodes such as 10,10")
        layers.append(nodes)
    if not layers:
        raise InputError("--hidden is empty; give numbers of nodes such as 10,10")
    return layers


POSITIVE = click.FloatRange(min=0.0, min_open=True)
COUNT = click.IntRange(min=1)


@click.command("train")
@click.argument("images", nargs=-1, required=True)
@click.option("--config", callback=_read_config, is_eager=True, expose_value=False,
              metavar="FILE", help="TOML file with these options.")  # fmt: skip
@click.option("--label", default="amp", show_default=True, type=PREFIX,
              help="Prefix of all files.")  # fmt: skip
@click.option("--dblabel", type=PREFIX, help="Prefix of the databases, where jobs share them.")
@click.option("--descriptor", metavar="FILE", help="TOML file of the descriptor.")
@click.option(
    "--cutoff", type=POSITIVE, metavar="Å", help="Cutoff radius of Amp's default functions."
)
@click.option("--hidden", multiple=True, default=["10,10"], show_default=True, callback=_hidden,
              metavar="N,N", help="Hidden layers; several times for a sweep.")  # fmt: skip
@click.option("--activation", default="tanh", show_default=True,
              type=click.Choice(["tanh", "sigmoid", "linear"]),
              help="Activation function.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1),
              help="Seed of weights, validation set and bootstrap.")  # fmt: skip
@click.option("--starts", default=1, show_default=True, type=COUNT, help="Random starts of each.")
@click.option(
    "--committee", default=1, show_default=True, type=COUNT, help="Members of a committee."
)
@click.option("--bootstrap", is_flag=True, help="Draw each committee member's images anew.")
@click.option("--groups", type=COUNT, help="Groups of ranks that train at the same time.")
@click.option("--forces/--no-forces", default=True, show_default=True, help="Train forces, too.")
@click.option("--energy-rmse", default=1e-3, show_default=True, type=POSITIVE, metavar="eV",
              help="Criterion: rms error of the energy per atom.")  # fmt: skip
@click.option("--energy-maxresid", type=POSITIVE, metavar="eV", help="Criterion: largest one.")
@click.option("--force-rmse", default=1e-2, show_default=True, type=POSITIVE, metavar="eV/Å",
              help="Criterion: rms error of the forces.")  # fmt: skip
@click.option("--force-maxresid", type=POSITIVE, metavar="eV/Å", help="Criterion: largest one.")
@click.option("--energy-coefficient", default=1.0, show_default=True,
              type=click.FloatRange(min=0.0),
              help="Weight of the energies in the loss.")  # fmt: skip
@click.option("--force-coefficient", default=0.04, show_default=True, type=POSITIVE,
              help="Weight of the forces in the loss.")  # fmt: skip
@click.option("--overfit", default=0.0, show_default=True, type=click.FloatRange(min=0.0),
              help="Weight of the squared weights in the loss.")  # fmt: skip
@click.option("--weight-duplicates", is_flag=True, help="Count an image as often as it comes.")
@click.option("--prescale/--no-prescale", default=True, show_default=True,
              help="Fit one energy per element first.")  # fmt: skip
@click.option("--optimizer", default="L-BFGS-B", show_default=True,
              type=click.Choice(["BFGS", "L-BFGS-B", "TNC", "Newton-CG"]),
              help="scipy's optimiser.")  # fmt: skip
@click.option("--max-steps", default=10000, show_default=True, type=COUNT,
              help="End after so many evaluations of the loss.")  # fmt: skip
@click.option("--validation", multiple=True, metavar="FILE", help="Images to validate on.")
@click.option("--validation-fraction", default=0.0, show_default=True,
              type=click.FloatRange(0.0, 1.0, max_open=True),
              help="Keep so many images for that.")  # fmt: skip
@click.option("--validate-every", default=10, show_default=True, type=COUNT, metavar="STEPS")
@click.option("--patience", type=COUNT, metavar="STEPS",
              help="End when the validation loss has not fallen for so long.")  # fmt: skip
@click.option("--checkpoint-every", default=100, show_default=True, type=COUNT, metavar="STEPS")
@click.option("--keep-checkpoints", is_flag=True, help="Keep a .amp file of each.")
@click.option("--restart", is_flag=True, help="Start over where a checkpoint is there.")
@click.option("--overwrite", is_flag=True, help="Replace LABEL.amp where it is there.")
@click.option("--memory", type=POSITIVE, metavar="GB", help="Memory that a rank may use.")
@click.option("--no-compress", is_flag=True, help="Leave the databases as they are at the end.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
def command(**options: Any) -> None:
    """Train a potential on IMAGES: files that ASE reads, with energies and forces.

    Fingerprints that are missing are computed first. The same command goes on where an
    interrupted one stopped.
    """
    from ampmpi.parallel.comm import world
    from ampmpi.parallel.failure import abort_on_error, agree
    from ampmpi.parallel.launch import stop
    from ampmpi.parallel.log import Log

    stop.install()
    comm = world()
    with ExitStack() as stack:
        stack.enter_context(abort_on_error(comm))
        members, size = agree(comm, lambda: _plan(options, comm.size))
        job = Job(options)
        if options["dry_run"]:
            dry_run(job, comm, members, size, Log(comm.rank))
        else:
            run(job, comm, members, size, stack)


def _plan(options: dict[str, Any], n_ranks: int) -> tuple[list[Member], int]:
    """Return what is to be fitted, and how many ranks work on each; refuse what contradicts."""
    from ampmpi.members import group_size, make_members

    members = make_members(
        options["hidden"],
        options["starts"],
        options["committee"],
        bootstrap=options["bootstrap"],
        seed=options["seed"],
    )
    if options["bootstrap"] and options["committee"] == 1:
        raise InputError("--bootstrap needs --committee with more than one member")
    if options["validation"] and options["validation_fraction"]:
        raise InputError("--validation and --validation-fraction are given; leave one of them out")
    if options["patience"] and not (options["validation"] or options["validation_fraction"]):
        raise InputError("--patience needs --validation or --validation-fraction")
    return members, group_size(n_ranks, len(members), options["groups"])


@dataclass(frozen=True)
class Job:
    """The options, as the objects that they stand for."""

    options: dict[str, Any]

    @property
    def descriptor(self) -> Gaussian:
        """The descriptor."""
        from ampmpi.descriptor import Gaussian

        file, cutoff = self.options["descriptor"], self.options["cutoff"]
        if file is not None and cutoff is not None:
            raise InputError("--descriptor and --cutoff are given; leave one of them out")
        if file is not None:
            return Gaussian.from_toml(file)
        return Gaussian() if cutoff is None else Gaussian(cutoff=cutoff)

    @property
    def memory(self) -> float | None:
        """Bytes that a rank may use."""
        gigabytes = self.options["memory"]
        return None if gigabytes is None else 1e9 * float(gigabytes)

    @property
    def lossfunction(self) -> LossFunction:
        """Loss and criteria."""
        from ampmpi.model import LossFunction

        o = self.options
        return LossFunction(
            energy_coefficient=o["energy_coefficient"],
            force_coefficient=o["force_coefficient"] if o["forces"] else None,
            convergence={
                name: o[name] if o["forces"] or name.startswith("energy") else None
                for name in ("energy_rmse", "energy_maxresid", "force_rmse", "force_maxresid")
            },
            overfit=o["overfit"],
            weight_duplicates=o["weight_duplicates"],
            maxiter=o["max_steps"],
        )

    def model(self, hidden: tuple[int, ...], seed: int) -> NeuralNetwork:
        """Make a model that is not trained yet."""
        from ampmpi.model import NeuralNetwork, Regressor

        return NeuralNetwork(
            hiddenlayers=hidden,
            activation=self.options["activation"],
            lossfunction=self.lossfunction,
            regressor=Regressor(self.options["optimizer"]),
            randomseed=seed,
            prescale=self.options["prescale"],
        )

    @property
    def schedule(self) -> Schedule:
        """When to validate and to save."""
        from ampmpi.training.fit import Schedule

        o = self.options
        return Schedule(
            validate_every=o["validate_every"],
            patience=o["patience"],
            checkpoint_every=o["checkpoint_every"],
            keep_checkpoints=o["keep_checkpoints"],
        )


def dry_run(
    job: Job, comm: Communicator, members: list[Member], size: int, say: Callable[[str], None]
) -> None:
    """Say what a training would do and take."""
    from ampmpi.fingerprinting import fingerprint
    from ampmpi.parallel.failure import agree
    from ampmpi.training.dataset import open_pool, survey
    from ampmpi.training.memory import plan_memory

    o = job.options
    pool = open_pool(comm, list(o["images"]), list(o["validation"]) or None)
    dataset = survey(
        comm, pool, forces=o["forces"], fraction=o["validation_fraction"], seed=o["seed"]
    )
    dataset.check_validation()
    if dataset.remark and comm.rank == 0:
        complain(dataset.remark)
    descriptor = agree(comm, lambda: job.descriptor).resolve(dataset.elements)
    summary = fingerprint(
        [*o["images"], *o["validation"]],
        descriptor,
        label=o["label"],
        dblabel=o["dblabel"],
        derivatives=o["forces"],
        comm=comm,
        dry_run=True,
    )
    for line in summary.lines():
        say(line)
    say(plan_memory(comm, size, dataset, descriptor, None, job.memory).line())
    say(f"{len(members)} to fit, with {groups_of(comm.size, size)}:")
    for member in members:
        say(f"  {member.name}, seed {member.seed}")


def groups_of(ranks: int, size: int) -> str:
    """Say how many groups there are, and of how many ranks."""
    groups = ranks // size
    return f"{groups} group{'s' if groups > 1 else ''} of {size} rank{'s' if size > 1 else ''}"


def run(job: Job, comm: Communicator, members: list[Member], size: int, stack: ExitStack) -> None:
    """Train on all ranks."""
    from ampmpi.members import (
        best_of,
        committee_of,
        fit_members,
        member_label,
    )
    from ampmpi.parallel.failure import agree, share
    from ampmpi.parallel.log import Log
    from ampmpi.training.api import finalize, open_log, prepare, write_head
    from ampmpi.training.job import load
    from ampmpi.training.memory import plan_memory

    o = job.options
    label, say = o["label"], Log(comm.rank)
    log = open_log(stack, comm, label)
    prefixes = [label if len(members) == 1 else member_label(label, member) for member in members]
    agree(comm, lambda: _check_target(label, prefixes, o["overwrite"], o["restart"]))
    descriptor = agree(comm, lambda: job.descriptor)
    write_head(log, comm, descriptor, label)
    dataset, descriptor, source = prepare(
        comm,
        descriptor,
        list(o["images"]),
        label=label,
        dblabel=o["dblabel"],
        forces=o["forces"],
        validation=list(o["validation"]) or None,
        fraction=o["validation_fraction"],
        seed=o["seed"],
        log=log,
    )
    if dataset.remark and comm.rank == 0:
        complain(dataset.remark)
    group = comm.split(comm.rank // size, comm.rank)
    plan = plan_memory(comm, size, dataset, descriptor, source, job.memory)
    say(plan.line())
    source = replace(source, recompute=plan.computes_anew)
    prepared = load(group, dataset, descriptor, source, job.model((1,), 0), resident=plan.resident)
    say(
        f"Training {len(members)} model{'s' if len(members) > 1 else ''} on {prepared.n_training} "
        f"images, validating on {prepared.n_validation}, with {groups_of(comm.size, size)}"
    )

    def make_log(member: Member) -> Log:
        return log if len(members) == 1 else open_log(stack, group, member_label(label, member))

    def make_model(member: Member) -> NeuralNetwork:
        return job.model(member.hidden, member.seed)

    results = fit_members(
        comm,
        group,
        prepared,
        members,
        make_model,
        label,
        job.schedule,
        make_log,
        Log(group.rank),
        start_anew=o["overwrite"],
    )
    best = best_of(results)
    if best is None:
        raise share(TrainingConvergenceError(f"no fit succeeded; the first: {results[0].outcome}"))
    agree(comm, lambda: _save(label, results, best, committee_of(results), say))
    finalize(comm, source, compress=not (o["dblabel"] or o["no_compress"]), log=log)
    stalled = [result.member.name for result in results if result.outcome == "stalled"]
    if stalled:
        raise share(
            TrainingConvergenceError(
                f"{len(stalled)} of {len(results)} fits could not reach their criteria, the "
                f"first: {stalled[0]}; their parameters are saved"
            )
        )


def _check_target(label: str, prefixes: list[str], overwrite: bool, restart: bool) -> None:
    """Refuse to replace a calculator that no checkpoint tells of; forget checkpoints on demand."""
    target = Path(f"{label}.amp")
    goes_on = not restart and any(Path(f"{one}-checkpoint.npz").exists() for one in prefixes)
    if target.exists() and not overwrite and not goes_on:
        raise InputError(f"{target} is there already; give --overwrite or another --label")
    if restart:
        for one in prefixes:
            for kind in ("npz", "amp"):
                Path(f"{one}-checkpoint.{kind}").unlink(missing_ok=True)


def _save(
    label: str,
    results: list[MemberResult],
    best: MemberResult,
    chosen: list[MemberResult],
    say: Callable[[str], None],
) -> None:
    """Save the best model and the committee, and say how all ended.

    What an earlier training with the label has saved beyond that is removed, so that
    nothing takes it for a part of this one.
    """
    from ampmpi.members import committee_file, committee_files, table
    from ampmpi.model.files import write_atomically

    assert best.best is not None
    if len(results) > 1:
        text = table(results)
        write_atomically(f"{label}-members.txt", text.encode())
        say(text.rstrip())
        _copy(best, f"{label}.amp")
    else:
        Path(f"{label}-members.txt").unlink(missing_ok=True)
    saved = [committee_file(label, i) for i in range(len(chosen))] if len(chosen) > 1 else []
    for result, name in zip(chosen, saved, strict=False):
        _copy(result, name)
    if saved:
        say(f"Committee: {saved[0]} to {saved[-1]}")
    for name in committee_files(label):
        if name not in saved:
            Path(name).unlink()
            say(f"{name} of an earlier training is removed")
    errors = best.best
    forces = "" if math.isnan(errors.force_rmse) else f", {1e3 * errors.force_rmse:.3g} meV/Å"
    say(
        f"{label}.amp: {best.outcome} after {best.steps} steps, training rmse "
        f"{1e3 * errors.energy_rmse:.3g} meV/atom{forces}"
    )
    if not math.isnan(errors.val_energy_rmse):
        forces = "" if not forces else f", {1e3 * errors.val_force_rmse:.3g} meV/Å"
        say(f"validation rmse {1e3 * errors.val_energy_rmse:.3g} meV/atom{forces}")


def _copy(result: MemberResult, target: str) -> None:
    from ampmpi.model.files import write_atomically

    assert result.file is not None
    write_atomically(target, Path(result.file).read_bytes())
