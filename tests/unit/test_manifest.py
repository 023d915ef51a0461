"""Whose fingerprints a database holds."""

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from ampmpi.database import manifest
from ampmpi.database.layout import Layout
from ampmpi.database.manifest import Manifest, difference
from ampmpi.errors import DatabaseError, DescriptorMismatchError

CUT = {"name": "Cosine", "kwargs": {"Rc": 6.5}}
G2 = {"type": "G2", "element": "Cu", "eta": 0.05, "offset": 0.0}
G4 = {"type": "G4", "elements": ["Cu", "Cu"], "eta": 0.005, "gamma": 1.0, "zeta": 1.0}
PARAMETERS = {"mode": "atom-centered", "cutoff": CUT, "Gs": {"Cu": [G2, G4]}, "elements": ["Cu"]}


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path / "x-fingerprints.ampdb"))


def test_claim_is_written_once(layout):
    assert manifest.read(layout) is None
    manifest.claim(layout, Manifest(PARAMETERS, "aa"))
    assert manifest.read(layout) == Manifest(PARAMETERS, "aa")
    before = os.stat(layout.manifest)
    manifest.claim(layout, Manifest({**PARAMETERS, "version": 1}, "aa"))
    assert os.stat(layout.manifest) == before


def test_another_descriptor_is_refused_and_the_difference_shown(layout):
    manifest.claim(layout, Manifest(PARAMETERS, "aa"))
    other = {
        **PARAMETERS,
        "cutoff": {"name": "Cosine", "kwargs": {"Rc": 5.0}},
        "Gs": {"Cu": [{**G2, "eta": 0.1}, G4]},
    }
    with pytest.raises(DescriptorMismatchError) as caught:
        manifest.claim(layout, Manifest(other, "bb"))
    for words in (
        layout.root,
        "cutoff.kwargs.Rc is 6.5 in the database, 5.0 here",
        "Gs.Cu has G2 element=Cu eta=0.05 offset=0.0 in the database only",
        "Gs.Cu has G2 element=Cu eta=0.1 offset=0.0 here only",
        "another label or dblabel",
    ):
        assert words in str(caught.value)
    assert "G4" not in str(caught.value)
    assert manifest.read(layout).digest == "aa"


def test_first_of_many_wins(layout):
    def claim(number):
        try:
            manifest.claim(layout, Manifest({"number": number}, str(number)))
        except DescriptorMismatchError:
            return None
        return number

    with ThreadPoolExecutor(8) as threads:
        winners = set(threads.map(claim, range(32))) - {None}
    assert len(winners) == 1
    assert manifest.read(layout) == Manifest({"number": min(winners)}, str(min(winners)))
    assert os.listdir(layout.temporaries) == []


def test_differences_in_words():
    assert difference({"a": 1}, {"b": 2}) == "a only in the database; b not in the database"
    assert "another order" in difference({"Gs": [G2, G4]}, {"Gs": [G4, G2]})
    assert difference(PARAMETERS, PARAMETERS) == "equal settings, other numbers"
    many = difference({str(n): n for n in range(20)}, {str(n): n + 1 for n in range(20)})
    assert many.endswith("; and 14 more differences")


def test_floats_survive(layout):
    numbers = {"Rc": 0.1 + 0.2, "tiny": 5e-324, "large": 1.7976931348623157e308, "int": 3}
    manifest.claim(layout, Manifest(numbers, "aa"))
    assert manifest.read(layout).parameters == numbers


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}']
)
def test_what_is_no_manifest(layout, content):
    layout.create()
    with open(layout.manifest, "wb") as file:
        file.write(content)
    with pytest.raises(DatabaseError, match=r"descriptor\.json is damaged") as caught:
        manifest.read(layout)
    assert layout.root in str(caught.value)


def test_a_later_version_is_refused_and_not_called_damaged(layout):
    layout.create()
    content = json.loads(Manifest(PARAMETERS, "aa").to_json()) | {"version": 2}
    del content["crc32"]
    content["crc32"] = manifest._checksum(content)
    with open(layout.manifest, "w", encoding="ascii") as file:
        json.dump(content, file)
    with pytest.raises(DatabaseError, match="a later ampmpi wrote it") as caught:
        manifest.read(layout)
    assert "damaged" not in str(caught.value)
    assert not isinstance(caught.value, manifest.DamagedManifestError)


def test_mutations_change_nothing():
    original = Manifest(PARAMETERS, "0123456789abcdef")
    data = original.to_json()
    rng = random.Random(3)
    for _ in range(3000):
        wrong = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(wrong))
            if rng.random() < 0.5:
                wrong[at] = rng.randrange(256)
            else:
                del wrong[at : at + rng.choice((1, 3, 30))]
        try:
            read = Manifest.from_json(bytes(wrong))
        except ValueError:
            continue
        assert read == original
