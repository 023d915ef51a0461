"""Groups of ranks that take one member after the other, and fit it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

from ampmpi.descriptor import Gaussian
from ampmpi.errors import LockedError, ModelError, Unfinished
from ampmpi.members import Member, Queue, make_queue, prefix_of
from ampmpi.model import amp_file
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree, share
from ampmpi.training.earlier import drawn_images
from ampmpi.training.fit import fit
from ampmpi.training.results import MemberResult
from ampmpi.training.settings import Schedule
from ampmpi.training.shares import Prepared
from ampmpi.training.start import STALLED, FitResult, Start


def fit_members(
    comm: Communicator,
    group: Communicator,
    prepared: Prepared,
    members: Sequence[Member],
    starts: Sequence[Start],
    label: str,
    schedule: Schedule,
    open_member_log: Callable[[Member], Callable[[str], None]],
    say: Callable[[str], None],
) -> list[MemberResult]:
    """Fit all members, and return how each ended, on every rank.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    group : Communicator
        The ranks of this group.
    prepared : Prepared
        This group's images.
    members : sequence of Member
        What to fit.
    starts : sequence of Start
        Where each of them starts.
    label : str
        Prefix of the files; see `ampmpi.members.prefix_of`.
    schedule : Schedule
        When to validate and to save.
    open_member_log : callable
        Opens a member's log on rank 0 of a group.
    say : callable
        Takes a line for each end of several members, on rank 0 of a group.

    Raises
    ------
    Unfinished
        A signal asked to stop; every rank raises it.
    ModelError, LockedError
        A lone member cannot be fitted; of several, the others are.
    """
    lone = len(members) == 1
    by_name = {member.name: (member, start) for member, start in zip(members, starts, strict=True)}
    folder = agree(comm, lambda: make_queue(label)) if group.size < comm.size else None
    queue = Queue(folder, members)
    done: list[MemberResult] = []
    interrupted: Unfinished | None = None
    while (name := agree(group, lambda: _name_of(queue.take()))) is not None:
        member, start = by_name[name]
        prefix = prefix_of(label, member, members)
        try:
            result = start.result
            if result is None:
                drawn = drawn_images(prepared.dataset, member.draw)
                log = open_member_log(member)
                result = fit(group, prepared, member.model, prefix, schedule, log, start, drawn)
        except Unfinished as error:
            interrupted = error
            queue.close()
            break
        except (ModelError, LockedError) as error:
            if lone:
                raise
            done.append(MemberResult(member, f"failed: {error}", 0, None, None))
        else:
            done.append(
                save_member(group, prepared.descriptor, member, start, result, prefix, lone=lone)
            )
        if not lone:
            last = done[-1]
            say(f"{name}: {last.outcome} after {last.steps} steps, loss {last.score:.4g}")
    mine = [one.without_member() for one in done] if group.rank == 0 else []
    everyone = comm.allgather(mine)
    if folder is not None:
        agree(comm, lambda: shutil.rmtree(folder, ignore_errors=True))
    ended = {row[0]: row[1:] for part in everyone for row in part}
    if len(ended) < len(members):
        raise share(
            interrupted
            if lone and interrupted is not None
            else Unfinished(
                f"asked to stop with {len(ended)} of {len(members)} members done; start it again "
                "to go on"
            )
        )
    return [MemberResult(member, *ended[member.name]) for member in members]


def _name_of(member: Member | None) -> str | None:
    return None if member is None else member.name


def save_member(
    group: Communicator,
    descriptor: Gaussian,
    member: Member,
    start: Start,
    result: FitResult,
    prefix: str,
    *,
    lone: bool,
) -> MemberResult:
    """Give a member's model the result, and save it in the member's .amp file.

    Alone, a fit that stalled gets the file name that Amp gives it.
    """
    model = member.model
    if start.result is not None:
        start.apply(model)
    end = "-untrained-parameters.amp" if lone and result.outcome == STALLED else ".amp"
    file = prefix + end
    agree(group, lambda: amp_file.write(file, descriptor.parameters, model.parameters))
    return MemberResult(member, result.outcome, result.steps, result.best, file)
