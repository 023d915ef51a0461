"""Sweeps with successive halving: who goes on, and that interruptions change nothing."""

from __future__ import annotations

import json
import os
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from ase.io import write
from click.testing import CliRunner
from training_images import emt_images

from ampmpi.cli.plot import command as plot
from ampmpi.cli.train import command
from ampmpi.errors import InputError, ModelError
from ampmpi.model import checkpoint
from ampmpi.plots import rounds_figure
from ampmpi.training import halving
from ampmpi.training.curve import Curve, Step
from ampmpi.training.halving import Bracket, limits, survivors
from ampmpi.training.results import MemberResult

SWEEP = [
    "--cutoff", "4", "--hidden", "4", "--hidden", "5,4", "--starts", "2", "--validation-fraction",
    "0.2", "--max-steps", "40",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("set.traj", emt_images(10))


def run(*options, label="t", sweep=SWEEP):
    given = ["set.traj", "--label", label, *sweep, *map(str, options)]
    result = CliRunner().invoke(command, given, standalone_mode=False, catch_exceptions=False)
    return result.output


def table(label="t"):
    rows = [row.split() for row in Path(f"{label}-members.txt").read_text().splitlines()[1:]]
    return {row[0]: row[1:] for row in rows}


def curve(label, name):
    """The learning curve without its times."""
    text = Path(f"{label}-members/{name}-curve.txt").read_text()
    return [row.rsplit(" ", 1)[0] for row in text.splitlines()[1:]]


def rounds(label="t"):
    """What the rounds have decided, without times; numbers that are not known are None."""
    known = json.loads(Path(f"{label}-members/halving.json").read_text())
    seconds = [field.name for field in fields(Step)].index("seconds")
    for one in known["rounds"]:
        for fit in one["fits"]:
            del fit["best"][seconds]
    return json.loads(json.dumps(known).replace("NaN", "null"))


@pytest.mark.parametrize(
    ("n", "most", "every", "expected"),
    [
        (8, 10000, 10, [1250, 2500, 5000, 10000]),
        (6, 80, 10, [10, 20, 40, 80]),
        (5, 50, 10, [10, 20, 30, 50]),
        (2, 100, 1, [50, 100]),
        (3, 5, 10, [5, 5, 5]),
        (1, 70, 10, [70]),
    ],
)
def test_each_round_doubles_the_steps(n, most, every, expected):
    assert limits(n, most, every) == expected


def result(name, value, seat=0, steps=10):
    best = None if value is None else Step(steps, 1.0, 0.1, 0.2, val_loss=value)
    return MemberResult(name, seat, "maxiter", steps, best, None)


def test_the_better_half_for_each_seat_goes_on_and_no_failed_fit():
    first = [result("a", 3.0), result("b", 1.0), result("c", 2.0)]
    second = [result("d", None, 1), result("e", 9.0, 1), result("f", None, 1)]
    assert survivors([*first, *second]) == {"b", "c", "e"}
    bracket = Bracket(Path("x"), "", 3, 2, [10, 20, 40])
    over = bracket.add([*first, *second])
    assert [one.out for one in over.results] == [1, None, None, 1, None, 1]
    assert set(over.left) == {"b", "c", "e"}
    assert bracket.plan() == (
        "3 rounds for each of 2 seats: 3 to step 10, 2 to step 20, 1 to step 40"
    )


def test_a_sweep_with_halving_takes_the_way_of_one_without():
    text = run("--halving")
    run(label="whole")
    found, whole = table(), table("whole")
    outcomes = sorted(row[0] for row in found.values())
    assert outcomes == ["maxiter", "out-in-round-1", "out-in-round-1", "out-in-round-2"]
    (winner,) = (name for name, row in found.items() if row[0] == "maxiter")
    assert Path("t.amp").read_bytes() == Path(f"t-members/{winner}.amp").read_bytes()
    assert Path("t.amp").read_bytes() == Path(f"whole-members/{winner}.amp").read_bytes()
    assert found[winner] == whole[winner]
    assert f"t.amp: {winner}, maxiter after 40 steps" in text
    for name, row in found.items():
        steps = {"maxiter": 40, "out-in-round-2": 20, "out-in-round-1": 10}[row[0]]
        assert int(row[1]) == steps
        assert curve("t", name) == curve("whole", name)[:steps]
    # those that went on were better at the end of the round than those that did not
    for number, one in enumerate(rounds()["rounds"], 1):
        scores = {fit["name"]: fit["best"][6] for fit in one["fits"]}
        left = {fit["name"] for fit in one["fits"] if fit["out"] is None}
        assert all(fit["out"] in (None, number) for fit in one["fits"])
        assert max(scores[name] for name in left) <= min(
            scores[name] for name in scores if name not in left
        )
        assert len(left) == len(scores) // 2
        for name, score in scores.items():
            so_far = [float(row.split()[6]) for row in curve("t", name)[: one["steps"]]]
            assert score == np.nanmin(so_far)


class Killed(BaseException):
    """Ends a training wherever it is, without a word to it."""


@pytest.mark.parametrize("places", [[3], [15, 2], [45], [52, 3], [61], [79, 1, 1]])
def test_a_sweep_that_is_killed_at_any_step_ends_as_an_undisturbed_one(monkeypatch, places):
    run("--halving", "--checkpoint-every", 7, label="whole")
    append = Curve.append
    for place in places:
        calls = []

        def killed(self, step, calls=calls, place=place):
            append(self, step)
            calls.append(step)
            if len(calls) == place:
                raise Killed

        monkeypatch.setattr(Curve, "append", killed)
        with pytest.raises(Killed):
            run("--halving", "--checkpoint-every", 7)
        assert not Path("t.amp").exists()
    monkeypatch.setattr(Curve, "append", append)
    run("--halving", "--checkpoint-every", 7)
    assert Path("t.amp").read_bytes() == Path("whole.amp").read_bytes()
    assert table() == table("whole")
    assert rounds() == rounds("whole")
    for name in table():
        assert curve("t", name) == curve("whole", name)


@pytest.mark.parametrize("n_saved", [1, 2, 4, 5, 6, 7, 8])
def test_a_sweep_that_is_killed_while_it_saves_ends_as_an_undisturbed_one(monkeypatch, n_saved):
    """Files are written by `write_whole`: checkpoints, and what rounds have decided."""
    run("--halving", label="whole")
    write_whole = checkpoint.write_whole
    calls = []

    def killed(path, data):
        calls.append(path)
        if len(calls) == n_saved:
            raise Killed
        write_whole(path, data)

    for module in (checkpoint, halving):
        monkeypatch.setattr(module, "write_whole", killed)
    with pytest.raises(Killed):
        run("--halving")
    for module in (checkpoint, halving):
        monkeypatch.setattr(module, "write_whole", write_whole)
    run("--halving")
    assert Path("t.amp").read_bytes() == Path("whole.amp").read_bytes()
    assert table() == table("whole")
    assert rounds() == rounds("whole")


def test_a_finished_sweep_is_not_done_again_and_goes_on_with_its_winner():
    run("--halving")
    before = {path.name: path.stat().st_mtime_ns for path in Path("t-members").iterdir()}
    assert "finished already" in run("--halving")
    after = {path.name: path.stat().st_mtime_ns for path in Path("t-members").iterdir()}
    changed = {name for name in before if before[name] != after[name]}
    assert {name.rpartition(".")[2] for name in changed} <= {"amp"}
    run("--halving", sweep=[*SWEEP[:-1], "60"])
    assert sorted(int(row[1]) for row in table().values()) == [10, 10, 20, 60]


def test_other_fits_are_another_sweep():
    run("--halving")
    more = [*SWEEP, "--hidden", "6"]
    with pytest.raises(InputError, match=r"halving.json is of a sweep with other fits .* had 4"):
        run("--halving", sweep=more)
    text = run("--halving", "--overwrite", sweep=more)
    assert "Round 1 of 4, to step 10: 3 of 6 fits go on" in text
    assert len(rounds()["rounds"]) == 3
    text = run("--halving", "--restart", "--overwrite", sweep=more)
    assert "Round 1 of 4, to step 10: 3 of 6 fits go on" in text


def test_a_sweep_without_halving_takes_all_to_the_end_and_forgets_the_rounds():
    run("--halving")
    run()
    assert all(row[1] == "40" for row in table().values())
    assert not Path("t-members/halving.json").exists()


def test_seats_of_a_committee_have_a_winner_each():
    text = run("--halving", "--committee", 2, "--bootstrap")
    assert "Round 1 of 3, to step 10: 4 of 8 fits go on" in text
    assert "Committee: t-committee-0.amp to t-committee-1.amp" in text
    seats = {row[-1]: name for name, row in table().items() if row[-1] != "-"}
    assert sorted(seats) == ["t-committee-0.amp", "t-committee-1.amp"]
    for file, name in seats.items():
        assert f"member{file[-5]}" in name
        assert table()[name][:2] == ["maxiter", "40"]


def test_a_preview_tells_the_rounds():
    text = run("--halving", "--dry-run")
    assert "in 3 rounds: 4 to step 10, 2 to step 20, 1 to step 40" in text
    assert os.listdir() == ["set.traj"]


@pytest.mark.parametrize(
    ("sweep", "reason"),
    [
        ([*SWEEP[:8], "--max-steps", "3"], "give --validation or --validation-fraction, too"),
        (["--hidden", "4", "--validation-fraction", "0.2"], "--halving needs several fits"),
    ],
)
def test_what_halving_needs_is_said(sweep, reason):
    with pytest.raises(InputError, match=reason):
        run("--halving", sweep=sweep)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"format": 2}',
        '{"format": 1, "sweep": "x"}',
        '{"format": 1, "sweep": "x", "rounds": [{"steps": 3, "fits": [{"name": "a"}]}]}',
        '{"format": 1, "sweep": "x", "rounds": 7}',
        "[" * 100_000,
    ],
)
def test_a_damaged_file_of_rounds_is_named(text):
    run("--halving")
    Path("t-members/halving.json").write_text(text)
    with pytest.raises(ModelError, match=re.escape("t-members/halving.json cannot be read (")):
        run("--halving")
    assert "Round 1 of 3" in run("--halving", "--restart", "--overwrite")


def test_a_fit_that_fails_is_out(monkeypatch):
    from ampmpi.training.fit import Fit

    evaluate = Fit._evaluate

    def failing(self, *given):
        if "start0" in self.label and self.steps == 4:
            raise ModelError("the loss is nan")
        return evaluate(self, *given)

    monkeypatch.setattr(Fit, "_evaluate", failing)
    run("--halving")
    found = table()
    assert {name for name, row in found.items() if row[0] == "failed"} == {
        "4_member0_start0", "5-4_member0_start0"
    }  # fmt: skip
    assert sorted(int(row[1]) for row in found.values()) == [0, 0, 20, 40]


def test_the_report_shows_who_was_out_when():
    run("--halving")
    result = CliRunner().invoke(plot, ["t"], standalone_mode=False, catch_exceptions=False)
    assert "t-rounds.png" in result.output.split()
    assert Path("t-rounds.png").read_bytes()[:4] == b"\x89PNG"
    page = Path("t-report.html").read_text()
    _, _, section = page.partition("<h2>Rounds</h2>")
    text = section.partition("</table>")[0]
    cells = [
        re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)
    ]
    assert cells[0] == ["fit", "round 1, to step 10", "round 2, to step 20"]
    outcomes = {name: row[0] for name, row in table().items()}
    for name, first, second in cells[1:]:
        assert (", out" in first) == (outcomes[name] == "out-in-round-1")
        assert (", out" in second) == (outcomes[name] == "out-in-round-2")
        assert (second == "") == (outcomes[name] == "out-in-round-1")
    assert outcomes[cells[1][0]] == "maxiter"
    assert len(cells) == 5
    rounds = halving.read(Path("t-members/halving.json"))[1]
    paths = [str(path) for path in Path("t-members").glob("*-curve.txt")]
    out = {name: 1 for name, outcome in outcomes.items() if outcome == "out-in-round-1"}
    (axes,) = rounds_figure(paths, [one.steps for one in rounds], out).axes
    drawn = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert set(drawn) == set(outcomes)
    for name, line in drawn.items():
        assert line.get_linewidth() == (1 if name in out else 2)
        assert (np.diff(line.get_ydata()) <= 0).all()
        assert line.get_ydata()[-1] == pytest.approx(float(table()[name][5]), rel=1e-4)
    assert sum(line.get_marker() == "x" for line in axes.lines) == 2
