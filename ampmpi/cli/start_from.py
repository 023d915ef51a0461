"""``--start-from``: a fitted potential whose descriptor and parameters a training goes on with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ampmpi.errors import InputError, ModelError

if TYPE_CHECKING:
    from ampmpi.descriptor import Descriptor
    from ampmpi.model import NeuralNetwork

FIXED = ("cutoff", "functions", "starts", "prescale")
"""Options whose place is taken by what the file holds."""


@dataclass(frozen=True, eq=False)
class StartFrom:
    """What the files of ``--start-from`` hold.

    Attributes
    ----------
    descriptor : Descriptor
        The descriptor that all of them have.
    models : list of NeuralNetwork
        The models, one for each seat of a committee or one for all.
    """

    descriptor: Descriptor
    models: list[NeuralNetwork]

    @property
    def hidden(self) -> tuple[int, ...]:
        """Hidden layers of the first element's network, after which fits are named."""
        return next(iter(self.models[0].network.nodes.values()))[1:-1]

    def by_seat(self, seats: int) -> Iterator[NeuralNetwork]:
        """Yield a model of its own for each seat."""
        from ampmpi.model import NeuralNetwork

        for seat in range(seats):
            model = NeuralNetwork.from_parameters(self.models[seat % len(self.models)].parameters)
            hidden = {nodes[1:-1] for nodes in model.network.nodes.values()}
            if len(hidden) == 1:  # said once, as --hidden says it
                (model.hiddenlayers,) = hidden
            yield model


def start_from(name: str, options: dict[str, Any]) -> StartFrom:
    """Read what ``--start-from`` names, and refuse options that contradict it.

    `options` are the command's; its context says which of them were given.

    Raises
    ------
    InputError
        There is no such calculator, or an option contradicts it.
    ModelError
        A file is no ``.amp`` file, or its model is not trained.
    """
    from ampmpi.calculator import Amp
    from ampmpi.members import calculator_files

    files = calculator_files(name)
    if not files:
        raise InputError(
            f"--start-from {name}: there is no such calculator; give a .amp file or the label of "
            "a training"
        )
    calculators = [Amp.load(file) for file in files]
    for file, one in zip(files, calculators, strict=True):
        if not one.model.is_whole:
            raise ModelError(f"{file} lacks weights, scalings or ranges: it is not trained yet")
    descriptor = calculators[0].descriptor
    if any(one.descriptor.digest != descriptor.digest for one in calculators):
        raise InputError(f"--start-from {name}: its calculators have several descriptors")
    _check(name, files, [one.model for one in calculators], options)
    return StartFrom(descriptor, [one.model for one in calculators])


def _check(
    name: str, files: list[str], models: list[NeuralNetwork], options: dict[str, Any]
) -> None:
    """Refuse options that contradict the files."""
    for option in FIXED:
        if _is_given(option):
            raise InputError(
                f"--start-from and --{option} are given: what it says is in {files[0]}; leave one "
                "of them out"
            )
    hidden = {nodes[1:-1] for model in models for nodes in model.network.nodes.values()}
    if _is_given("hidden") and set(options["hidden"]) != hidden:
        wanted = " and ".join(sorted(",".join(map(str, nodes)) for nodes in hidden))
        raise InputError(
            f"--hidden is not what {name} has, which is {wanted}; leave --hidden or --start-from "
            "out"
        )
    if _is_given("activation") and any(one.activation != options["activation"] for one in models):
        raise InputError(
            f"--activation {options['activation']} is not what {name} has, which is "
            f"{models[0].activation}; leave --activation or --start-from out"
        )
    seats = options["committee"]
    if len(files) not in (1, seats):
        raise InputError(
            f"--start-from {name} is a committee of {len(files)}: give --committee {len(files)}, "
            "or one of its files"
        )
    if len(files) == 1 and seats > 1 and not options["bootstrap"]:
        raise InputError(
            f"--start-from {name} is one calculator, from which all {seats} members would become "
            "the same: give --bootstrap, too, or the label of a committee"
        )


def _is_given(option: str) -> bool:
    """Whether the user gave an option, on the command line or in a file."""
    source = click.get_current_context().get_parameter_source(option)
    return source not in (None, ParameterSource.DEFAULT)
