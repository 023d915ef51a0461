"""L-BFGS preconditioned by the Gauss-Newton matrix: steps, parts of a set, restarts."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

from ampmpi import Regressor
from ampmpi.errors import InputError, ModelError
from ampmpi.model.gauss_newton import GaussNewton, Residuals, first_part, sampled
from ampmpi.model.optimise import StopOptimisation
from ampmpi.model.quasi_newton import line_search


class Problem:
    """Residuals J x - b + c (J x)², whose parts are the first rows."""

    def __init__(self, n=12, rows=400, curved=0.1, condition=1e4, seed=0):
        rng = np.random.default_rng(seed)
        scales = np.geomspace(1.0, condition**-0.5, n)
        self.J = rng.normal(size=(rows, n)) @ np.linalg.qr(rng.normal(size=(n, n)))[0] * scales
        self.b, self.curved = rng.normal(size=rows) * 0.0, curved
        self.x0 = rng.normal(size=n) / scales * 0.1
        self.calls, self.asked = [], []
        self.limit = 10**9
        self.counts = (rows, rows // 4)
        self.blocks = [slice(0, n)]

    def rows(self, part):
        return slice(0, self.counts[part])

    def evaluate(self, x, part=0):
        self.calls.append(part)
        u = self.J[self.rows(part)] @ x
        r = u + self.curved * u**2
        scale = self.counts[0] / self.counts[part]
        slope = self.J[self.rows(part)] * (1 + 2 * self.curved * u)[:, None]
        self.loss = scale * 0.5 * r @ r
        return self.loss, scale * slope.T @ r

    def matrix(self, x, part, fraction, round):
        self.asked.append((part, round))
        u = self.J[self.rows(part)] @ x
        slope = self.J[self.rows(part)] * (1 + 2 * self.curved * u)[:, None]
        matrix = np.tril(slope.T @ slope) * self.counts[0] / self.counts[part]
        return [np.asfortranarray(matrix[block, block]) for block in self.blocks]

    def observe(self):
        if len(self.calls) >= self.limit:
            raise StopOptimisation("enough")

    def run(self, optimiser):
        optimiser.run(self.evaluate, self.observe, Residuals(self.counts, self.matrix, self.blocks))


def made(problem, state=None, **options):
    regressor = Regressor("gauss-newton", {"options": options} if options else None)
    return GaussNewton(regressor, problem.x0, 1000, state)


def test_it_ends_at_the_minimum_where_no_progress_is_possible():
    problem = Problem()
    problem.run(made(problem, start=5, block=10))
    assert problem.loss < 1e-20
    assert len(problem.calls) < 400


def test_an_ill_conditioned_loss_takes_few_steps_with_the_matrix_and_many_without():
    taken = {}
    for start in (5, 10**6):
        problem = Problem(n=40, condition=1e4)
        problem.limit = 2000
        lowest = []
        observe = problem.observe

        def note(problem=problem, lowest=lowest, observe=observe):
            lowest.append(problem.loss)
            observe()

        problem.observe = note
        with suppress(StopOptimisation):
            problem.run(made(problem, start=start, memory=5))
        below = np.flatnonzero(np.minimum.accumulate(lowest) < 1e-8 * lowest[0])
        taken[start] = below[0] if len(below) else 2000
    assert 4 * taken[5] < taken[10**6], taken


def test_blocks_of_the_matrix_lead_to_the_minimum_too():
    problem = Problem(condition=10.0)
    problem.blocks = [slice(0, 9, 2), slice(1, 9, 2), slice(9, 12)]
    problem.run(made(problem, start=5, block=10))
    assert problem.loss < 1e-20


def test_it_starts_on_a_part_where_there_are_residuals_enough():
    problem = Problem()
    problem.run(made(problem, start=5, block=5))
    calls = np.array(problem.calls)
    assert problem.calls[0] == 1
    assert 8 <= calls.sum() <= 40
    assert not calls[calls.sum() :].any(), "once whole, always whole"
    assert [part for part, _ in problem.asked][:3] == [1, 1, 0]
    assert [round for _, round in problem.asked] == list(range(1, len(problem.asked) + 1))


def test_a_part_that_leads_nowhere_leaves_the_whole_set_its_shift():
    problem = Problem()
    evaluate = problem.evaluate

    def rising(x, part=0):
        loss, gradient = evaluate(x, part)
        return (loss + 1e9 * len(problem.calls), gradient) if part else (loss, gradient)

    problem.evaluate = rising
    optimiser = made(problem, start=5, block=10)
    shifts = []
    factorised = optimiser._factorised

    def note(residuals):
        shifts.append((optimiser.place.part, optimiser.place.shift))
        return factorised(residuals)

    optimiser._factorised = note
    problem.run(optimiser)
    assert max(shift for part, shift in shifts if part) > 1.0
    assert shifts[[part for part, _ in shifts].index(0.0)] == (0.0, 1.0)
    assert problem.loss < 1e-20


def test_few_residuals_are_all_taken_from_the_start():
    assert first_part((1000, 250, 60, 15), 30) == 1
    assert first_part((1000, 250, 60, 15), 32) == 0
    assert first_part((100, 0, 0, 0), 1000) == 0
    assert sampled(10**7, 100) == 0.05
    assert sampled(1000, 1000) == 0.3


@pytest.mark.parametrize("stop_at", [1, 2, 5, 9, 14, 23, 31, 40])
def test_a_run_that_is_cut_anywhere_takes_the_same_way(stop_at):
    options = {"start": 6, "block": 7, "memory": 4}
    whole = Problem(curved=0.4)
    whole.limit = 60
    points = []
    evaluate = whole.evaluate
    whole.evaluate = lambda x, part=0: (points.append((x, part)), evaluate(x, part))[1]
    with pytest.raises(StopOptimisation):
        whole.run(made(whole, **options))

    cut = Problem(curved=0.4)
    again = []
    evaluate_cut = cut.evaluate
    cut.evaluate = lambda x, part=0: (again.append((x, part)), evaluate_cut(x, part))[1]
    cut.limit = stop_at
    optimiser = made(cut, **options)
    with pytest.raises(StopOptimisation):
        cut.run(optimiser)
    state = {name: np.array(array) for name, array in optimiser.state().items()}
    cut.limit = 60
    with pytest.raises(StopOptimisation):
        cut.run(made(cut, state, **options))
    assert len(points) == len(again) == 60
    for (a, part_a), (b, part_b) in zip(points, again, strict=True):
        assert part_a == part_b
        np.testing.assert_array_equal(a, b)


def test_a_singular_matrix_is_shifted_until_it_is_not():
    problem = Problem(rows=5, condition=1.0)
    problem.counts = (5,)
    problem.J[:, 3:] = 0.0
    problem.run(made(problem, start=2, block=10, shift=1e-300))
    assert problem.loss < 1e-20


def test_a_matrix_of_zeros_ends_as_no_progress_is_possible():
    problem = Problem()
    problem.J[:] = 0.0
    problem.run(made(problem, start=1))


def test_a_matrix_that_is_not_finite_is_an_error():
    problem = Problem()
    problem.matrix = lambda *_: [np.full((12, 12), np.nan)]
    with pytest.raises(ModelError, match="not finite"):
        problem.run(made(problem, start=2))


def test_a_state_of_something_else_is_refused():
    problem = Problem()
    problem.limit = 9
    optimiser = made(problem, start=3)
    with pytest.raises(StopOptimisation):
        problem.run(optimiser)
    for name in ("point", "steps", "gradients", "place"):
        state = dict(optimiser.state())
        state[name] = np.zeros((3, 2)) if name != "place" else np.zeros(9)
        with pytest.raises((ValueError, TypeError)):
            made(problem, state)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"maxiter": 3}, "has no option 'maxiter'"),
        ({"block": 0}, "block is 0"),
        ({"shift": float("inf")}, "shift is inf"),
        ({"memory": 0.5}, "memory is 0.5"),
    ],
)
def test_wrong_options_are_named(options, reason):
    with pytest.raises(InputError, match=reason):
        made(Problem(), **options)


def test_keywords_of_scipy_are_not_passed_over():
    with pytest.raises(InputError, match="takes options, not 'tol'"):
        GaussNewton(Regressor("gauss-newton", {"tol": 1e-3}), np.zeros(2), 10)


def test_it_needs_the_gradient():
    with pytest.raises(InputError, match="needs the gradient"):
        GaussNewton(Regressor("gauss-newton", lossprime=False), np.zeros(2), 10)


@pytest.mark.parametrize(
    ("f", "df"),
    [
        (lambda t: (t - 3.0) ** 2, lambda t: 2.0 * (t - 3.0)),
        (lambda t: (t - 0.01) ** 2, lambda t: 2.0 * (t - 0.01)),
        (lambda t: t**4 - 50.0 * t, lambda t: 4.0 * t**3 - 50.0),
        (lambda t: -1 / (1 + (t - 8) ** 2), lambda t: 2 * (t - 8) / (1 + (t - 8) ** 2) ** 2),
        (lambda t: np.cos(3.0 * t) + 0.1 * t, lambda t: -3.0 * np.sin(3.0 * t) + 0.1),
    ],
)  # fmt: skip
def test_a_line_search_meets_the_wolfe_conditions(f, df):
    start = 0.3 if df(0.0) >= 0.0 else 0.0
    calls = []

    def along(t):
        calls.append(t)
        return f(start + t), df(start + t)

    length = line_search(along, f(start), df(start))
    assert f(start + length) <= f(start) + 1e-4 * length * df(start)
    assert abs(df(start + length)) <= 0.9 * abs(df(start))
    assert len(calls) < 12


def test_a_line_that_only_rises_has_no_length():
    assert line_search(lambda t: (1.0 + t, 1.0), 1.0, -1e-3) is None
