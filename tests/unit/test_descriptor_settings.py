import json

import numpy as np
import pytest

from ampmpi.descriptor import (
    Cosine,
    Gaussian,
    Polynomial,
    make_default_symmetry_functions,
    make_symmetry_functions,
)
from ampmpi.errors import DescriptorError

G2 = {"type": "G2", "element": "Cu", "eta": 0.05}
G4 = {"type": "G4", "elements": ["Pt", "Cu"], "eta": 0.005, "gamma": 1.0, "zeta": 4.0}


def test_default_functions_and_their_order():
    functions = make_default_symmetry_functions(["Cu", "Pt"])
    assert list(functions) == ["Cu", "Pt"]
    listed = functions["Pt"]
    assert len(listed) == 20
    assert [f["element"] for f in listed[:4]] == ["Cu", "Pt", "Cu", "Pt"]
    np.testing.assert_allclose(
        [f["eta"] for f in listed[:8:2]], [0.05, 0.23207944168063893, 1.0772173450159421, 5.0]
    )
    angular = [(f["zeta"], f["gamma"], *f["elements"]) for f in listed[8:]]
    pairs = [("Cu", "Cu"), ("Cu", "Pt"), ("Pt", "Pt")]
    assert angular == [(z, g, *pair) for z in (1.0, 4.0) for g in (1.0, -1.0) for pair in pairs]
    assert {f["eta"] for f in listed[8:]} == {0.005}


def test_made_functions():
    assert make_symmetry_functions(["H"], "G2", [1.0], offsets=[0.0, 2.0]) == [
        {"type": "G2", "element": "H", "eta": 1.0, "offset": 0.0},
        {"type": "G2", "element": "H", "eta": 1.0, "offset": 2.0},
    ]
    made = make_symmetry_functions(["O", "H"], "G5", [1.0], zetas=[2.0], gammas=[-1.0])
    assert [f["elements"] for f in made] == [["O", "O"], ["H", "O"], ["H", "H"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"type": "G3", "etas": [1.0]}, "'G3'"),
        ({"type": "G4", "etas": [1.0]}, "needs zetas and gammas"),
        ({"type": "G2", "etas": [1.0], "zetas": [1.0]}, "not parameters of G2"),
        (
            {"type": "G4", "etas": [1.0], "zetas": [1.0], "gammas": [1.0], "offsets": [1.0]},
            "not parameters of G4",
        ),
    ],
)
def test_what_cannot_be_made(arguments, message):
    with pytest.raises(DescriptorError, match=message):
        make_symmetry_functions(["H"], **arguments)


def test_resolving():
    open_ended = Gaussian()
    assert open_ended.elements is None
    with pytest.raises(DescriptorError, match="not known yet"):
        _ = open_ended.digest
    resolved = open_ended.resolve({"Pt", "Cu"})
    assert resolved.elements == ("Cu", "Pt")
    assert resolved.n_features == {"Cu": 20, "Pt": 20}
    assert resolved.resolve(["H"]) is resolved
    assert resolved.digest == Gaussian(elements=["Pt", "Cu"]).digest

    listed = Gaussian(Gs=[G2]).resolve(["Cu", "Pt"])
    assert listed.n_features == {"Cu": 1, "Pt": 1}
    assert Gaussian(Gs={"Pt": [G2], "Cu": [G2, G4]}).elements == ("Cu", "Pt")


def test_the_dblabel_stays_when_resolved():
    assert Gaussian(dblabel="shared").resolve(["H"]).dblabel == "shared"


def test_parameters_are_plain_and_come_back():
    etas = np.logspace(-1, 0, 3)
    Gs = make_symmetry_functions(["Cu"], "G2", etas)
    gaussian = Gaussian(cutoff=Polynomial(5, 3), Gs={"Cu": [*Gs, G4]})
    parameters = json.loads(json.dumps(gaussian.parameters))
    assert parameters["importname"] == ".descriptor.gaussian.Gaussian"
    assert parameters["Gs"]["Cu"][3]["elements"] == ["Cu", "Pt"]
    again = Gaussian.from_parameters(parameters)
    assert again.parameters == gaussian.parameters
    assert again.digest == gaussian.digest
    assert Gaussian.from_parameters(Gaussian().parameters).parameters == Gaussian().parameters


def test_parameters_cannot_be_changed_from_outside():
    gaussian = Gaussian(Gs={"Cu": [G4]})
    gaussian.parameters["Gs"]["Cu"][0]["elements"][0] = "H"
    assert gaussian.parameters["Gs"]["Cu"][0]["elements"] == ["Cu", "Pt"]


def test_the_digest_is_of_what_determines_the_numbers():
    digest = Gaussian(cutoff=6.5, Gs={"Cu": [G2, G4]}).digest
    swapped = {**G4, "elements": ["Cu", "Pt"], "zeta": 4}
    assert (
        Gaussian(Cosine(6.5), {"Cu": [{**G2, "offset": 0}, swapped]}, dblabel="x").digest == digest
    )
    different = [
        Gaussian(6.0, {"Cu": [G2, G4]}),
        Gaussian(Polynomial(6.5), {"Cu": [G2, G4]}),
        Gaussian(6.5, {"Cu": [G4, G2]}),
        Gaussian(6.5, {"Cu": [{**G2, "eta": 0.06}, G4]}),
        Gaussian(6.5, {"Pt": [G2, G4]}),
    ]
    assert len({digest, *(other.digest for other in different)}) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": "2014"}, "version is '2014'"),
        ({"mode": "image-centered"}, "mode is 'image-centered'"),
        ({"elements": "Cu"}, "elements is 'Cu'"),
        ({"elements": []}, "elements is empty"),
        ({"elements": ["Cu", "Zz"]}, "'Zz' is not a chemical element"),
        ({"elements": ["Cu", "Pt"], "Gs": {"Cu": [G2]}}, "no functions for Pt"),
        ({"Gs": {"Cu": []}}, "Cu has no symmetry functions"),
        ({"Gs": {"Cu": G2}}, "give a list of symmetry functions"),
        ({"Gs": {"X": [G2]}}, "'X' is not a chemical element"),
        ({"Gs": {"Cu": ["G2"]}}, "function 0 of Cu is 'G2'"),
        ({"Gs": {"Cu": [{**G2, "type": ["G2"]}]}}, "has type"),
        ({"Gs": {"Cu": [G2, {**G4, "type": "G3"}]}}, "function 1 of Cu has type 'G3'"),
        ({"Gs": {"Cu": [{**G2, "etta": 1.0}]}}, "'etta', which G2 does not know"),
        ({"Gs": {"Cu": [{**G2, "gamma": 1.0}]}}, "'gamma', which G2 does not know"),
        ({"Gs": {"Cu": [{"type": "G2", "element": "Cu"}]}}, "lacks 'eta'"),
        ({"Gs": {"Cu": [{**G2, "eta": -0.1}]}}, "eta of function 0 of Cu is -0.1"),
        ({"Gs": {"Cu": [{**G2, "eta": float("inf")}]}}, "finite"),
        ({"Gs": {"Cu": [{**G2, "element": "copper"}]}}, "'copper' is not a chemical element"),
        ({"Gs": {"Cu": [{**G4, "elements": ["Cu"]}]}}, "names 1 elements"),
        ({"Gs": {"Cu": [{**G4, "elements": "Cu"}]}}, "give a list of two"),
        ({"Gs": {"Cu": [{**G4, "zeta": 0.0}]}}, "above zero"),
        ({"Gs": {"Cu": [{**G4, "zeta": 2000}]}}, "give at most 1000"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(DescriptorError, match=message):
        Gaussian(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"importname": ".descriptor.zernike.Zernike"}, "importname"),
        ({"version": "2014"}, "version"),
        ({"nmax": 5}, "no parameter 'nmax'"),
        ({"cutoff": None}, "give a number"),
    ],
)
def test_parameters_of_something_else_are_refused(change, message):
    with pytest.raises(DescriptorError, match=message):
        Gaussian.from_parameters({**Gaussian().parameters, **change})


def test_parameters_without_cutoff_are_refused():
    with pytest.raises(DescriptorError, match="lack the cutoff"):
        Gaussian.from_parameters({"Gs": None})


def write(tmp_path, text):
    path = tmp_path / "descriptor.toml"
    path.write_text(text)
    return path


def test_toml_short_form(tmp_path):
    assert Gaussian.from_toml(write(tmp_path, "cutoff = 5")).cutoff_radius == 5.0
    path = write(tmp_path, 'cutoff = 6.5\nelements = ["Cu", "Pt"]')
    assert Gaussian.from_toml(path).digest == Gaussian(elements=["Cu", "Pt"]).digest


def test_toml_long_form(tmp_path):
    text = """
    [cutoff]
    name = "Polynomial"
    Rc = 6.0
    gamma = 3

    [[Gs.Cu]]
    type = "G2"
    element = "Cu"
    eta = 0.05

    [[Gs.Cu]]
    type = "G4"
    elements = ["Pt", "Cu"]
    eta = 0.005
    gamma = 1
    zeta = 4
    """
    expected = Gaussian(Polynomial(6.0, 3), {"Cu": [G2, G4]})
    assert Gaussian.from_toml(write(tmp_path, text)).digest == expected.digest


def test_toml_makes_combinations(tmp_path):
    text = """
    cutoff = 6.5
    elements = ["Cu", "Pt"]

    [[make]]
    type = "G2"
    etas = [0.05, 0.5]

    [[make]]
    type = "G4"
    etas = [0.005]
    zetas = [1, 4]
    gammas = [1, -1]
    """
    gaussian = Gaussian.from_toml(write(tmp_path, text))
    assert gaussian.n_features == {"Cu": 16, "Pt": 16}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cutoff = ", "is not TOML"),
        ("", "the cutoff is missing"),
        ("cutoff = 6.5\ncutof = 1", "no key 'cutof'"),
        ("cutoff = 'wide'", "give a number"),
        ("[cutoff]\nname = 'Tanh'\nRc = 6.5", "no cutoff 'Tanh'"),
        ("[cutoff]\nRc = 6.5\nalpha = 1", "no argument 'alpha'"),
        ("cutoff = 6.5\n[[make]]\ntype = 'G2'\netas = [1]", "make needs the elements"),
        (
            "cutoff = 6.5\nelements = ['H']\n[[make]]\ntype = 'G2'\neta = [1]",
            "number 0 has the key 'eta'",
        ),
        ("cutoff = 6.5\nelements = ['H']\n[[make]]\ntype = 'G2'", "lacks 'etas'"),
        ("cutoff = 6.5\nelements = ['H']\n[[make]]\ntype = 'G2'\netas = 1", "etas = "),
        ("cutoff = 6.5\nelements = ['H']\nmake = [1]", "write ..make"),
        (
            "cutoff = 6.5\nelements = ['H']\n[[make]]\ntype = ['G2']\netas = [1]",
            "no symmetry function",
        ),
        ("[cutoff]\nname = ['Cosine']\nRc = 6.5", "no cutoff"),
        ("cutoff = 6.5\nelements = ['H']\n[make]\ntype = 'G2'\netas = [1]", "write ..make"),
        ("cutoff = 6.5\nelements = ['H']\nmake = []\n[[Gs]]\ntype = 'G2'", "exclude each other"),
        ("cutoff = 6.5\n[[Gs.H]]\ntype = 'G2'\nelement = 'H'", "lacks 'eta'"),
        ("cutoff = 6.5\nGs = {}", "Gs is empty"),
        (f"cutoff = {'9' * 400}", "cutoff radius Rc is inf"),
        (f"cutoff = {'9' * 5000}", "cannot be read as TOML"),
        (f"cutoff = {'[' * 5000}", "cannot be read as TOML"),
        (
            "cutoff = 6.5\nelements = [1, 'H']\n[[make]]\ntype = 'G4'\netas = [1]",
            "elements: 1 is not a chemical element",
        ),
    ],
)
def test_wrong_toml_is_refused_by_name(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(DescriptorError, match=message) as caught:
        Gaussian.from_toml(path)
    assert str(caught.value).startswith(str(path))


def test_an_element_given_twice_counts_once(tmp_path):
    text = "cutoff = 6.5\nelements = {}\n[[make]]\ntype = 'G2'\netas = [1]"
    twice = Gaussian.from_toml(write(tmp_path, text.format(["Pt", "Cu", "Cu"])))
    once = Gaussian.from_toml(write(tmp_path, text.format(["Pt", "Cu"])))
    assert twice.digest == once.digest
    assert once.n_features == {"Cu": 2, "Pt": 2}


def test_toml_that_is_not_there(tmp_path):
    with pytest.raises(DescriptorError, match="cannot be read"):
        Gaussian.from_toml(tmp_path / "nothing.toml")
