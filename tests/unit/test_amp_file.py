""".amp files: round trips, what Amp writes, and what must never run."""

from __future__ import annotations

import io

import numpy as np
import pytest

from ampmpi.errors import ModelError
from ampmpi.model import NeuralNetwork, amp_file

DESCRIPTOR = {
    "importname": ".descriptor.gaussian.Gaussian",
    "mode": "atom-centered",
    "version": "2015.12",
    "cutoff": {"name": "Cosine", "kwargs": {"Rc": 6.5}},
    "Gs": {"Cu": [{"type": "G4", "elements": ["Cu", "Pt"], "eta": 0.005, "gamma": -1.0}]},
    "elements": ["Cu", "Pt"],
}


def small_model():
    rng = np.random.default_rng(0)
    return NeuralNetwork(
        hiddenlayers={"Cu": (3, 2), "Pt": 2},
        weights={
            "Cu": {
                1: rng.normal(size=(5, 3)),
                2: rng.normal(size=(4, 2)),
                3: rng.normal(size=(3, 1)),
            },
            "Pt": {1: rng.normal(size=(3, 2)), 2: rng.normal(size=(3, 1))},
        },
        scalings={
            "Cu": {"intercept": -3.1, "slope": 0.1},
            "Pt": {"intercept": 1 / 3, "slope": 2e-9},
        },
        fprange={"Cu": [[0.1, 0.2]] * 4, "Pt": [[0.0, 1e-300], [1.0, 1.5]]},
    )


def test_a_model_comes_back_bit_by_bit(tmp_path):
    model = small_model()
    path = tmp_path / "cu-pt.amp"
    amp_file.write(path, DESCRIPTOR, model.parameters)
    descriptor, parameters = amp_file.read(path)
    assert descriptor == DESCRIPTOR
    again = NeuralNetwork.from_parameters(parameters)
    np.testing.assert_array_equal(again.vector, model.vector)
    assert again.network == model.network
    for element in ("Cu", "Pt"):
        np.testing.assert_array_equal(again.fprange[element], model.fprange[element])
    assert [p.name for p in tmp_path.iterdir()] == ["cu-pt.amp"]


def test_the_form_in_which_amp_saves_is_read():
    model = (
        "dict(activation='tanh',\\n     fprange={'H': [[0.25, 0.5]]},\\n"
        "     hiddenlayers={'H': (2,)},\\n     importname='.model.neuralnetwork.NeuralNetwork',\\n"
        "     mode='atom-centered',\\n"
        "     scalings=OrderedDict([('H', OrderedDict([('intercept', -1.5), "
        "('slope', 2e-05)]))]),\\n"
        "     version='2015.12',\\n"
        "     weights=OrderedDict([('H', OrderedDict([(1, [[0.5, -1.0], [+0.25, 2]]),"
        " (2, matrix([[1.0], [2.0], [3.0]]))]))]))\\n"
    )
    text = f'dict(descriptor=\'dict(elements=["H"])\\n\',\n     model="{model}")\n'
    descriptor, parameters = amp_file.read(io.StringIO(text))
    assert descriptor == {"elements": ["H"]}
    network = NeuralNetwork.from_parameters(parameters)
    # Amp's order: layers with the bias last, then intercept and slope
    assert network.vector.tolist() == [0.5, -1.0, 0.25, 2.0, 1.0, 2.0, 3.0, -1.5, 2e-05]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no .amp file"),
        ("not python at all (", "no .amp file"),
        ("[1, 2]", "no dict of named values"),
        ("dict(descriptor='dict()')", "has no model"),
        ("dict(descriptor='dict()', model='dict(x=__import__(\"os\"))')", "calls __import__"),
        ("dict(descriptor='dict()', model='(lambda: 0)()')", "something other than numbers"),
        ("dict(descriptor='dict()', model='dict(x=1 .__class__)')", "something other"),
        ("dict(descriptor='dict()', model='dict(x=[y for y in (1, 2)])')", "something other"),
        ("dict(descriptor='dict()', model='dict(x=9**9**9)')", "something other"),
        ("dict(descriptor='dict()', model='dict(**{\"x\": 1})')", "unpacks"),
        ("dict(descriptor='dict()', model='dict([1])')", "not made of pairs"),
        ("dict(descriptor='dict()', model='dict([([], 1)])')", "neither text nor a number"),
        ("dict(descriptor='dict()', model='[" + "[" * 5000 + "')", "no .amp file"),
        ("dict(descriptor='dict()', model='" + "-" * 20000 + "1')", "no .amp file"),
        ("dict(descriptor='dict()', model='\\x00')", "no .amp file"),
        ("dict(descriptor='dict()', model='{1: 2}')", "no dict of named values"),
    ],
)
def test_rubbish_is_refused_in_a_sentence(tmp_path, text, reason):
    path = tmp_path / "bad.amp"
    path.write_text(text)
    with pytest.raises(ModelError, match=reason) as caught:
        amp_file.read(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(ModelError, match="No such file"):
        amp_file.read(tmp_path / "none.amp")
    (tmp_path / "binary.amp").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ModelError, match="not text"):
        amp_file.read(tmp_path / "binary.amp")


def test_what_amp_could_not_read_is_not_written(tmp_path):
    path = tmp_path / "x.amp"
    path.write_text("before")
    with pytest.raises(ModelError, match=r"nan, which no [.]amp file can keep"):
        amp_file.write(path, DESCRIPTOR, {"weights": [[float("nan")]]})
    with pytest.raises(ModelError, match="is a set"):
        amp_file.write(path, DESCRIPTOR, {"weights": {1, 2}})
    assert path.read_text() == "before"


def test_numbers_as_numpy_2_writes_them_are_read(tmp_path):
    path = tmp_path / "t.amp"
    model = "dict(scalings={np.str_('Cu'): {'slope': np.float64(-0.5), 'intercept': np.int64(2)}})"
    path.write_text(f"dict(descriptor='dict(cutoff=numpy.float64(6.5))', model={model!r})")
    descriptor, model = amp_file.read(path)
    assert descriptor == {"cutoff": 6.5}
    assert model == {"scalings": {"Cu": {"slope": -0.5, "intercept": 2}}}
    for wrong in ("np.load('x')", "np.float64('x')", "os.float64(1)", "np.str_(1)"):
        path.write_text(f'dict(descriptor="dict(cutoff={wrong})", model="dict()")')
        with pytest.raises(ModelError, match=r"is no \.amp file"):
            amp_file.read(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weights": {"H": {1: [[1.0]]}}}, "weights of H have the shapes"),
        ({"weights": "rubbish"}, "weights are not"),
        ({"weights": {"H": {1: [["a"]]}}}, "other than numbers"),
        ({"fprange": {"H": [[0.0, 1.0, 2.0]]}}, "not a list of pairs"),
        ({"fprange": {"H": [[0.0, 1e999]]}}, "finite"),
        ({"scalings": {"H": {"slope": 1.0}}}, "scalings are not"),
        ({"scalings": {"H": {"slope": 1.0, "intercept": float("inf")}}}, "not finite"),
        ({"scalings": {"O": {"slope": 1.0, "intercept": 0.0}}}, "scalings lack H"),
        ({"importname": ".model.kernelridge.KernelRidge"}, "KernelRidge; only NeuralNetwork"),
        ({"no_such_keyword": 1}, "parameters are wrong"),
    ],
)
def test_parameters_that_do_not_fit_are_named(change, reason):
    good = {
        "hiddenlayers": (1,),
        "fprange": {"H": [[0.0, 1.0]]},
        "weights": {"H": {1: [[1.0], [0.0]], 2: [[1.0], [0.0]]}},
        "scalings": {"H": {"intercept": 0.0, "slope": 1.0}},
    }
    assert NeuralNetwork.from_parameters(good).vector.size == 6
    with pytest.raises(ModelError, match=reason):
        NeuralNetwork.from_parameters({**good, **change})
