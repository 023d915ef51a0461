"""The training of one model, for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ampmpi.errors import Unfinished
from ampmpi.members import Member
from ampmpi.parallel.comm import as_communicator
from ampmpi.parallel.failure import abort_on_error, install_excepthook
from ampmpi.parallel.launch import stop
from ampmpi.parallel.log import Log, in_notebook
from ampmpi.training.results import TrainingResult
from ampmpi.training.session import Session
from ampmpi.training.settings import Settings

if TYPE_CHECKING:
    from ampmpi.descriptor import Descriptor
    from ampmpi.model import NeuralNetwork


def train_one(
    images: Any,
    descriptor: Descriptor,
    model: NeuralNetwork,
    *,
    label: str,
    dblabel: str | None = None,
    settings: Settings | None = None,
    comm: Any = None,
) -> TrainingResult:
    """Fit one model on all ranks of a script; see `ampmpi.Amp.train`.

    Returns and raises what `Session.train` does; in addition `KeyboardInterrupt`, for an
    interrupt from the keyboard without ``mpirun``.
    """
    ranks = as_communicator(comm)
    install_excepthook(ranks)
    with stop.caught(), abort_on_error(ranks):
        try:
            return Session(
                images,
                descriptor,
                [Member("the model", model)],
                label=label,
                dblabel=dblabel,
                settings=settings or Settings(),
                comm=ranks,
                terminal=Log(ranks.rank) if in_notebook() else None,
            ).train()
        except Unfinished as error:
            if ranks.size == 1 and stop.signal_name == "SIGINT":
                raise KeyboardInterrupt(str(error)) from None
            raise
