"""What rank 0 says, and when."""

from __future__ import annotations

import io
import math
import sys
from types import ModuleType, SimpleNamespace

import pytest

from ampmpi.errors import DatabaseError, ImageFileError
from ampmpi.parallel import kernels
from ampmpi.parallel.comm import SerialCommunicator, as_communicator
from ampmpi.parallel.failure import abort_on_error, agree, exit_code, is_shared, report
from ampmpi.parallel.log import Log, Progress, in_notebook
from ampmpi.training.curve import Step
from ampmpi.training.progress import FitProgress, duration


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


def test_a_fit_shows_rows_of_a_table_now_and_then():
    stream, now = io.StringIO(), [0.0]
    progress = FitProgress(Log(stream=stream), "training", clock=lambda: now[0])
    progress.begin(100, 1100)
    for step in range(101, 201):
        now[0] += 0.5
        validated = (0.004, 0.2, 0.3, 0.5) if step == 110 else (math.nan,) * 4
        progress.show(Step(step, 1.0, 0.0021, 0.1, 0.045, 0.3, 1.0, *validated))
    progress.end()
    title, head, *rows = stream.getvalue().splitlines()
    assert title == "training: rms errors in meV/atom and meV/Å"
    assert head.split()[:3] == ["step", "energy", "force"]
    assert [row.split() for row in rows] == [
        ["120/1100", "2.1", "45", "4", "300", "2", "8", "min"],
        ["160/1100", "2.1", "45", "4", "300", "2", "8", "min"],
    ]
    assert {len(row) for row in rows} == {len(head)}


def test_at_a_terminal_a_fit_shows_a_bar_with_its_errors():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    progress = FitProgress(Log(stream=stream), "training")
    progress.begin(0, 50)
    for step in range(1, 51):
        progress.show(Step(step, 1.0, 0.0021, 0.1, 0.045))
    progress.end()
    shown = stream.getvalue()
    assert "training: 100%" in shown
    assert "50/50" in shown
    assert "2.1 meV/atom, 45 meV/Å" in shown


@pytest.mark.parametrize("log", [Log(1, stream=io.StringIO()), Log(stream=io.StringIO())])
def test_a_short_fit_shows_nothing(log):
    progress = FitProgress(log, "training")
    progress.begin(0, 5)
    progress.show(Step(1, 1.0, 0.1, 0.1))
    progress.end()
    assert log.stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(math.nan, "-"), (119, "119 s"), (600, "10 min"), (7200, "2 h"), (4e5, "111 h")],
)
def test_a_duration_is_said_as_people_do(seconds, said):
    assert duration(seconds) == said


def test_a_notebook_gets_a_bar(monkeypatch, capsys):
    shell = type("Shell", (type("ZMQInteractiveShell", (), {}),), {})()
    ipython = ModuleType("IPython")
    ipython.get_ipython = lambda: None
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert not in_notebook()
    ipython.get_ipython = lambda: shell
    assert in_notebook()
    with Log().progress(3, "computing") as progress:
        progress.step(3)
    assert "computing: 100%" in capsys.readouterr().out


def test_compiling_is_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "_compile", lambda package: None)
    module = SimpleNamespace(__file__=kernels.__file__, warm_up=lambda: None)
    monkeypatch.setattr(kernels, "import_module", lambda name: module)
    for _ in range(2):
        kernels.warm_up(SerialCommunicator(), "ampmpi.some")
    assert capsys.readouterr().err == (
        "ampmpi: compiling the kernels of ampmpi.some, once: it can take a minute\n"
    )


def test_errors_are_told_in_one_sentence(capsys):
    report(ImageFileError("a.traj is missing"))
    assert capsys.readouterr().err == "ampmpi: error: a.traj is missing\n"
    report(KeyboardInterrupt())
    assert capsys.readouterr().err == "ampmpi: interrupted: start the same command again\n"
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
