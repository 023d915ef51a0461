"""What rank 0 says, and when."""

from __future__ import annotations

import io

import pytest

from ampmpi.errors import DatabaseError, ImageFileError
from ampmpi.parallel.comm import SerialCommunicator, as_communicator
from ampmpi.parallel.failure import abort_on_error, agree, exit_code, is_shared, report
from ampmpi.parallel.log import Log, Progress


def test_only_rank_0_speaks():
    said = []
    for rank, quiet in ((0, False), (1, False), (0, True)):
        stream = io.StringIO()
        Log(rank, quiet=quiet, stream=stream)("hello")
        said.append(stream.getvalue())
    assert said == ["hello\n", "", ""]


def test_batch_log_gets_a_line_now_and_then():
    stream, now = io.StringIO(), [0.0]
    progress = Progress(Log(stream=stream), 2000, "computing", "images", clock=lambda: now[0])
    with progress:
        for _ in range(2000):
            now[0] += 1.0
            progress.step()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "computing: 10 of 2000 images (0 %), 1 images/s, about 1990 s left"
    assert len(lines) == 10
    assert [int(line.split()[1]) for line in lines[:4]] == [10, 30, 70, 150]


def test_nothing_to_do_says_nothing():
    stream = io.StringIO()
    with Log(stream=stream).progress(0, "computing") as progress:
        assert progress.done == 0
    assert stream.getvalue() == ""


def test_errors_are_told_in_one_sentence(capsys):
    report(ImageFileError("a.traj is missing"))
    assert capsys.readouterr().err == "ampmpi: error: a.traj is missing\n"
    try:
        raise RuntimeError("oh")
    except RuntimeError as error:
        report(error)
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert told.endswith("ampmpi: unexpected error: RuntimeError: oh\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ImageFileError("x"), 2),
        (DatabaseError("x"), 4),
        (ValueError("x"), 1),
        (SystemExit(5), 5),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(error, code):
    assert exit_code(error) == code


def test_serial_run_raises_as_usual():
    comm = SerialCommunicator()
    with pytest.raises(ZeroDivisionError), abort_on_error(comm):
        raise ZeroDivisionError
    with pytest.raises(DatabaseError) as caught:
        agree(comm, lambda: (_ for _ in ()).throw(DatabaseError("full")))
    assert is_shared(caught.value)
    assert as_communicator(comm) is comm
