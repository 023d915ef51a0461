"""``ampmpi train``: a potential, a sweep or a committee, under mpirun or alone."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import click

from ampmpi.cli.descriptors import given, is_object
from ampmpi.cli.kinds import PREFIX, complete_files
from ampmpi.cli.labels import label_options
from ampmpi.cli.packs import pack_options
from ampmpi.errors import InputError

if TYPE_CHECKING:
    from ampmpi.cli.functions import OwnFunctions
    from ampmpi.cli.start_from import StartFrom
    from ampmpi.descriptor import Descriptor
    from ampmpi.members import Member
    from ampmpi.model import LossFunction
    from ampmpi.parallel.comm import Communicator
    from ampmpi.training import Settings


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
    known = {
        name.lstrip("-").replace("-", "_"): parameter
        for parameter in context.command.params
        for name in (parameter.name or "", *parameter.opts)
        if parameter.name != "config"
    }
    defaults: dict[str, Any] = {}
    for key, item in given.items():
        name = key.replace("-", "_")
        if name not in known:
            raise InputError(
                f"{value}: unknown option {key!r}; it takes the names of the command's options"
            )
        if isinstance(item, dict):
            raise InputError(f"{value}: {key} is a table; give a value")
        name = known[name].name or name
        defaults[name] = _as_option(known[name], item)
        if name == "descriptor" and is_object(str(item)):
            raise InputError(
                f"{value}: descriptor is {item!r}: no file decides what is imported; give "
                "--descriptor on the command line"
            )
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


def _type_weights(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> dict[str, float]:
    weights: dict[str, float] = {}
    for text in value:
        name, _, number = text.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = -1.0
        if not name or not 0.0 <= weight < float("inf"):
            raise InputError(
                f"--type-weight {text!r} is not a config_type and a number of at least 0, such as "
                "surface=2"
            )
        if name in weights:
            raise InputError(f"--type-weight gives {name} two weights; leave one of them out")
        weights[name] = weight
    return weights


FORCE_RMSE, FORCE_COEFFICIENT = 1e-2, 0.3
"""Where forces are trained and nothing else is said."""

PATIENCE = 500
"""Where there is something to validate on and nothing else is said."""

POSITIVE = click.FloatRange(min=0.0, min_open=True)
COUNT = click.IntRange(min=1)


@click.command("train")
@click.argument("images", nargs=-1, required=True, shell_complete=complete_files)
@click.option("--config", callback=_read_config, is_eager=True, expose_value=False,
              metavar="FILE", shell_complete=complete_files,
              help="TOML file with these options.")  # fmt: skip
@click.option("--label", default="amp", show_default=True, type=PREFIX,
              help="Prefix of all files.")  # fmt: skip
@click.option("--dblabel", type=PREFIX, help="Prefix of the databases, where jobs share them.")
@click.option("--descriptor", metavar="FILE", shell_complete=complete_files,
              help="TOML file of the descriptor; or module:object.")  # fmt: skip
@click.option("--start-from", metavar="FILE", shell_complete=complete_files,
              help="Calculator, or label, to go on from with these images.")  # fmt: skip
@click.option(
    "--cutoff", type=POSITIVE, metavar="Å", help="Cutoff radius of Amp's default functions."
)
@click.option("--functions", default="default", show_default=True,
              type=click.Choice(["default", "auto"]),
              help="Amp's default functions, or some made for the images.")  # fmt: skip
@click.option("--hidden", multiple=True, default=["10,10"], show_default=True, callback=_hidden,
              metavar="N,N", help="Hidden layers; several times for a sweep.")  # fmt: skip
@click.option("--activation", default="tanh", show_default=True,
              type=click.Choice(["tanh", "sigmoid", "linear"]),
              help="Activation function.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1),
              help="Seed of weights, validation set and bootstrap.")  # fmt: skip
@click.option("--starts", default=1, show_default=True, type=COUNT, help="Random starts of each.")
@click.option("--halving", is_flag=True,
              help="Let the worse half of a sweep end after each round.")  # fmt: skip
@click.option(
    "--committee", default=1, show_default=True, type=COUNT, help="Members of a committee."
)
@click.option("--bootstrap", is_flag=True, help="Draw each committee member's images anew.")
@click.option("--groups", type=COUNT, help="Groups of ranks that train at the same time.")
@click.option("--forces/--no-forces", default=True, show_default=True, help="Train forces, too.")
@click.option("--energy-rmse", default=1e-3, show_default=True, type=POSITIVE, metavar="eV",
              help="Criterion: rms error of the energy per atom.")  # fmt: skip
@click.option("--energy-maxresid", type=POSITIVE, metavar="eV", help="Criterion: largest one.")
@click.option("--force-rmse", show_default=str(FORCE_RMSE), type=POSITIVE, metavar="eV/Å",
              help="Criterion: rms error of the forces.")  # fmt: skip
@click.option("--force-maxresid", type=POSITIVE, metavar="eV/Å", help="Criterion: largest one.")
@click.option("--stress-rmse", type=POSITIVE, metavar="eV/Å³",
              help="Criterion: rms error of the stress.")  # fmt: skip
@click.option("--stress-maxresid", type=POSITIVE, metavar="eV/Å³", help="Criterion: largest one.")
@click.option("--energy-coefficient", default=1.0, show_default=True,
              type=click.FloatRange(min=0.0),
              help="Weight of the energies in the loss.")  # fmt: skip
@click.option("--force-coefficient", show_default=str(FORCE_COEFFICIENT), type=POSITIVE,
              help="Weight of the forces in the loss.")  # fmt: skip
@click.option("--stress-coefficient", type=POSITIVE,
              help="Train stresses, too, with this weight in the loss.")  # fmt: skip
@click.option("--overfit", default=0.0, show_default=True, type=click.FloatRange(min=0.0),
              help="Weight of the squared weights in the loss.")  # fmt: skip
@click.option("--weight-key", metavar="NAME",
              help="Name of the images' weights, if not config_weight.")  # fmt: skip
@click.option("--atom-weight-key", metavar="NAME", help="Name of an array of weights of atoms.")
@click.option("--type-weight", multiple=True, metavar="TYPE=WEIGHT",
              callback=_type_weights,
              help="Weight of images with this config_type; several times.")  # fmt: skip
@click.option("--weight-duplicates", is_flag=True, help="Count an image as often as it comes.")
@click.option("--prescale/--no-prescale", default=True, show_default=True,
              help="Fit one energy per element first.")  # fmt: skip
@click.option("--scale-features", default="range", show_default=True,
              type=click.Choice(["range", "deviation"]),
              help="Scale features by their range or standard deviation.")  # fmt: skip
@click.option("--constant-features", default="keep", show_default=True,
              type=click.Choice(["keep", "drop"]),
              help="Keep features that hardly change, or drop them.")  # fmt: skip
@click.option("--optimizer", default="gauss-newton", show_default=True,
              type=click.Choice(["gauss-newton", "L-BFGS-B", "BFGS", "TNC", "Newton-CG"]),
              help="Optimiser; all but the first are scipy's.")  # fmt: skip
@click.option("--max-steps", default=10000, show_default=True, type=COUNT,
              help="End after so many evaluations of the loss.")  # fmt: skip
@click.option("--max-seconds", type=POSITIVE, metavar="S",
              help="End so many seconds after the start.")  # fmt: skip
@click.option("--validation", multiple=True, metavar="FILE", shell_complete=complete_files,
              help="Images to validate on.")  # fmt: skip
@click.option("--validation-fraction", show_default="0.1 of 20 images or more",
              type=click.FloatRange(0.0, 1.0, max_open=True),
              help="Keep so many images for that.")  # fmt: skip
@click.option("--validate-every", default=10, show_default=True, type=COUNT, metavar="STEPS")
@click.option("--patience", show_default=str(PATIENCE), type=COUNT, metavar="STEPS",
              help="End when the validation loss has not fallen for so long.")  # fmt: skip
@click.option("--checkpoint-every", default=100, show_default=True, type=COUNT, metavar="STEPS")
@click.option("--keep-checkpoints", is_flag=True, help="Keep a .amp file of each.")
@click.option("--restart", is_flag=True, help="Start over, whatever checkpoints are there.")
@click.option("--overwrite", is_flag=True,
              help="Replace LABEL.amp, and another training's checkpoint.")  # fmt: skip
@click.option("--memory", type=POSITIVE, metavar="GB", help="Memory that a rank may use.")
@click.option("--no-compress", is_flag=True, help="Leave the databases as they are at the end.")
@pack_options
@label_options
@click.option("--skip-unusable", is_flag=True,
              help="Leave images out that cannot be trained on.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
def command(**options: Any) -> None:
    """Train a potential on IMAGES: files that ASE reads, with energies and forces.

    Fingerprints that are missing are computed first. The same command goes on where an
    interrupted one stopped.
    """
    from ampmpi.parallel.comm import world
    from ampmpi.parallel.failure import abort_on_error, on_all
    from ampmpi.parallel.launch import stop
    from ampmpi.parallel.log import Log
    from ampmpi.training import Session

    stop.install()
    comm = world()
    with abort_on_error(comm):
        start = _start(comm, options)
        descriptor = _descriptor(comm, options) if start is None else start.descriptor
        session = Session(
            list(options["images"]),
            descriptor,
            on_all(comm, lambda: _members(options, start)),
            label=options["label"],
            dblabel=options["dblabel"],
            settings=_settings(options),
            comm=comm,
            terminal=Log(comm.rank),
        )
        if options["dry_run"]:
            session.preview()
        else:
            session.train()


def _start(comm: Communicator, o: dict[str, Any]) -> StartFrom | None:
    """Return what ``--start-from`` names, read on every rank."""
    from ampmpi.cli.descriptors import make_known
    from ampmpi.cli.start_from import start_from
    from ampmpi.parallel.failure import on_all

    if o["start_from"] is None:
        return None
    make_known(comm, o["descriptor"])
    return on_all(comm, lambda: start_from(o["start_from"], o))


def _members(o: dict[str, Any], start: StartFrom | None = None) -> list[Member]:
    """Return what is to be fitted; refuse what contradicts."""
    from ampmpi.members import make_members
    from ampmpi.model import NeuralNetwork, Regressor

    if o["bootstrap"] and o["committee"] == 1:
        raise InputError("--bootstrap needs --committee with more than one member")
    if o["halving"] and len(o["hidden"]) * o["starts"] == 1:
        raise InputError("--halving needs several fits: give --hidden several times, or --starts")
    if o["validation"] and o["validation_fraction"]:
        raise InputError("--validation and --validation-fraction are given; leave one of them out")
    for name in ("force_rmse", "force_maxresid", "force_coefficient"):
        if not o["forces"] and o[name] is not None:
            option = "--" + name.replace("_", "-")
            raise InputError(f"--no-forces and {option} are given; leave one of them out")
    for name in ("stress_rmse", "stress_maxresid"):
        if o[name] is not None and o["stress_coefficient"] is None:
            raise InputError(
                f"--{name.replace('_', '-')} needs --stress-coefficient, by which stresses are "
                "trained"
            )
    if o["patience"] and not _validates(o):
        raise InputError("--patience needs --validation or --validation-fraction")

    def make_model(hidden: tuple[int, ...], seed: int) -> NeuralNetwork:
        return NeuralNetwork(
            hiddenlayers=hidden,
            activation=o["activation"],
            lossfunction=_lossfunction(o),
            regressor=Regressor(o["optimizer"]),
            randomseed=seed,
            prescale=o["prescale"],
            scale_features=o["scale_features"],
            constant_features=o["constant_features"],
        )

    def fitted_model(hidden: tuple[int, ...], seed: int) -> NeuralNetwork:
        model = next(fitted)
        model.lossfunction, model.regressor = _lossfunction(o), Regressor(o["optimizer"])
        model.randomseed, model.prescale = seed, o["prescale"]
        model.scale_features = o["scale_features"]
        model.constant_features = o["constant_features"]
        return model

    if start is not None:
        fitted = start.by_seat(o["committee"])
        return make_members(
            fitted_model, [start.hidden], seats=o["committee"],
            bootstrap=o["bootstrap"], seed=o["seed"],
        )  # fmt: skip
    return make_members(
        make_model, o["hidden"], o["starts"], o["committee"],
        bootstrap=o["bootstrap"], seed=o["seed"],
    )  # fmt: skip


def _validates(o: dict[str, Any]) -> bool:
    """Whether images may be validated on; of a few ones none are, where nothing is said."""
    return bool(o["validation"]) or o["validation_fraction"] != 0.0


def _descriptor(comm: Communicator, o: dict[str, Any]) -> Descriptor | OwnFunctions:
    from ampmpi.descriptor import Gaussian
    from ampmpi.parallel.failure import share

    file, cutoff = o["descriptor"], o["cutoff"]
    if o["functions"] == "auto" and file is not None:
        raise share(
            InputError("--descriptor and --functions auto are given; leave one of them out")
        )
    if file is not None and cutoff is not None:
        raise share(InputError("--descriptor and --cutoff are given; leave one of them out"))
    if o["functions"] == "auto":
        from ampmpi.cli.functions import made_or_kept

        return made_or_kept(
            comm, f"{o['label']}-functions.toml", o["images"], cutoff,
            skip_unusable=o["skip_unusable"], overwrite=o["overwrite"],
        )  # fmt: skip
    if file is not None:
        return given(comm, file)
    return Gaussian() if cutoff is None else Gaussian(cutoff=cutoff)


def _lossfunction(o: dict[str, Any]) -> LossFunction:
    from ampmpi.model import LossFunction

    forces: dict[str, float | None] = {"force_rmse": None, "force_maxresid": None}
    coefficient = None
    if o["forces"]:
        forces = {
            "force_rmse": FORCE_RMSE if o["force_rmse"] is None else o["force_rmse"],
            "force_maxresid": o["force_maxresid"],
        }
        coefficient = o["force_coefficient"] or FORCE_COEFFICIENT
    return LossFunction(
        energy_coefficient=o["energy_coefficient"],
        force_coefficient=coefficient,
        convergence={
            "energy_rmse": o["energy_rmse"], "energy_maxresid": o["energy_maxresid"], **forces,
            "stress_rmse": o["stress_rmse"], "stress_maxresid": o["stress_maxresid"],
        },
        overfit=o["overfit"],
        weight_duplicates=o["weight_duplicates"],
        maxiter=o["max_steps"],
        stress_coefficient=o["stress_coefficient"],
    )  # fmt: skip


def _settings(o: dict[str, Any]) -> Settings:
    from ampmpi.training import Schedule, Settings

    return Settings(
        validation=list(o["validation"]) or None,
        validation_fraction=o["validation_fraction"],
        seed=o["seed"],
        schedule=Schedule(
            validate_every=o["validate_every"],
            patience=o["patience"] or (PATIENCE if _validates(o) else None),
            checkpoint_every=o["checkpoint_every"],
            keep_checkpoints=o["keep_checkpoints"],
            max_seconds=o["max_seconds"],
        ),
        usual_patience=o["patience"] is None,
        memory=None if o["memory"] is None else 1e9 * o["memory"],
        groups=o["groups"],
        halving=o["halving"],
        widen=o["start_from"] is not None,
        overwrite=o["overwrite"],
        restart=o["restart"],
        compress=not o["no_compress"],
        packs=o["packs"],
        pack_size=o["pack_size"],
        pack_seconds=o["pack_seconds"],
        energy_key=o["energy_key"],
        forces_key=o["forces_key"],
        stress_key=o["stress_key"],
        weight_key=o["weight_key"],
        atom_weight_key=o["atom_weight_key"],
        type_weights=o["type_weight"],
        units=o["units"],
        format=o["format"],
        skip_unusable=o["skip_unusable"],
    )
