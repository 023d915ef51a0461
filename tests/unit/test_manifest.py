"""Whose fingerprints a database holds."""

import errno
import json
import os
import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from entry_samples import SPECIAL, limited_memory, make_key, make_special

from ampmpi.database import loose, manifest
from ampmpi.database.layout import Home
from ampmpi.database.manifest import Manifest, difference
from ampmpi.errors import DatabaseError, DescriptorMismatchError
from ampmpi.files import atomic

CUT = {"name": "Cosine", "kwargs": {"Rc": 6.5}}
G2 = {"type": "G2", "element": "Cu", "eta": 0.05, "offset": 0.0}
G4 = {"type": "G4", "elements": ["Cu", "Cu"], "eta": 0.005, "gamma": 1.0, "zeta": 1.0}
PARAMETERS = {"mode": "atom-centered", "cutoff": CUT, "Gs": {"Cu": [G2, G4]}, "elements": ["Cu"]}


@pytest.fixture
def home(tmp_path):
    return Home.create(tmp_path / "x-fingerprints")


def write(home, content):
    """Write a manifest in place, a long time ago."""
    with open(home.full("descriptor.json"), "wb") as file:
        file.write(content)
    os.utime(home.full("descriptor.json"), (1, 1))


def sealed(**changes):
    """Return a manifest with a right checksum, whatever it says; None leaves a key out."""
    content = json.loads(Manifest(PARAMETERS, "aa").to_json()) | changes
    del content["crc32"]
    content = {key: value for key, value in content.items() if value is not None}
    return json.dumps(content | {"crc32": manifest._checksum(content)}).encode("ascii")


def test_claim_is_written_once(home):
    assert manifest.read(home) is None
    manifest.claim(home, Manifest(PARAMETERS, "aa"))
    assert manifest.read(home) == Manifest(PARAMETERS, "aa")
    before = home.root.status("descriptor.json")
    manifest.claim(home, Manifest({**PARAMETERS, "version": 1}, "aa"))
    assert home.root.status("descriptor.json") == before


def test_another_descriptor_is_refused_and_the_difference_shown(home):
    manifest.claim(home, Manifest(PARAMETERS, "aa"))
    other = {
        **PARAMETERS,
        "cutoff": {"name": "Cosine", "kwargs": {"Rc": 5.0}},
        "Gs": {"Cu": [{**G2, "eta": 0.1}, G4]},
    }
    with pytest.raises(DescriptorMismatchError) as caught:
        manifest.claim(home, Manifest(other, "bb"))
    for words in (
        home.path,
        "cutoff.kwargs.Rc is 6.5 in the database, 5.0 here",
        "Gs.Cu has G2 element=Cu eta=0.05 offset=0.0 in the database only",
        "Gs.Cu has G2 element=Cu eta=0.1 offset=0.0 here only",
        "another label or dblabel",
    ):
        assert words in str(caught.value)
    assert "G4" not in str(caught.value)
    assert manifest.read(home).digest == "aa"


def test_first_of_many_wins(home):
    def claim(number):
        try:
            manifest.claim(home, Manifest({"number": number}, str(number)))
        except DescriptorMismatchError:
            return None
        return number

    with ThreadPoolExecutor(8) as threads:
        winners = set(threads.map(claim, range(32))) - {None}
    assert len(winners) == 1
    assert manifest.read(home) == Manifest({"number": min(winners)}, str(min(winners)))
    assert home.temporaries.names() == []


def test_differences_in_words():
    assert difference({"a": 1}, {"b": 2}) == "a only in the database; b not in the database"
    assert "another order" in difference({"Gs": [G2, G4]}, {"Gs": [G4, G2]})
    assert difference(PARAMETERS, PARAMETERS) == "equal settings, other numbers"
    many = difference({str(n): n for n in range(20)}, {str(n): n + 1 for n in range(20)})
    assert many.endswith("; and 14 more differences")


def test_floats_survive(home):
    numbers = {"Rc": 0.1 + 0.2, "tiny": 5e-324, "large": 1.7976931348623157e308, "int": 3}
    manifest.claim(home, Manifest(numbers, "aa"))
    assert manifest.read(home).parameters == numbers


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}']
)
def test_what_is_no_manifest(home, content):
    write(home, content)
    with pytest.raises(DatabaseError, match=r"descriptor\.json is damaged") as caught:
        manifest.read(home)
    assert home.path in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"format": "other"},
        {"extra": 1},
        {"parameters": [1]},
        {"digest": None},
        {"parameters": None},
    ],
    ids=str,
)
def test_what_somebody_else_wrote_is_refused_and_not_called_damaged(home, changes):
    write(home, sealed())
    assert manifest.read(home).digest == "aa"
    write(home, sealed(**changes))
    with pytest.raises(DatabaseError, match="cannot be used") as caught:
        manifest.read(home)
    if "version" in changes:
        assert "a later ampmpi wrote it" in str(caught.value)
    assert "damaged" not in str(caught.value)
    assert not isinstance(caught.value, manifest.DamagedManifestError)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", SPECIAL)
def test_a_manifest_that_is_no_regular_file_is_not_waited_for(home, tmp_path, what):
    (tmp_path / "elsewhere").write_bytes(sealed())
    make_special(what, home.full("descriptor.json"), tmp_path / "elsewhere")
    for look in (manifest.read, lambda home: manifest.claim(home, Manifest(PARAMETERS, "aa"))):
        with pytest.raises(DatabaseError, match=r"cannot read .*descriptor\.json"):
            look(home)


def test_a_huge_manifest_is_not_read(home):
    write(home, sealed())
    os.truncate(home.full("descriptor.json"), 4 << 30)
    started = time.monotonic()
    with limited_memory(), pytest.raises(DatabaseError, match="cannot read"):
        manifest.read(home)
    assert time.monotonic() - started < 5


def test_what_a_manifest_says_cannot_move_the_cursor(home):
    name = "\x1b[2J\nforged: all is well\u202e"
    manifest.claim(home, Manifest({name: name, "Gs": [{"type": name}]}, "aa"))
    with pytest.raises(DescriptorMismatchError) as caught:
        manifest.claim(home, Manifest({name: 1, "Gs": [{"type": "G2"}]}, "bb"))
    assert str(caught.value).isprintable() and "forged" in str(caught.value)


@pytest.mark.parametrize("renameat2", [True, False])
@pytest.mark.parametrize("code", [errno.EPERM, errno.EXDEV])
def test_first_of_many_wins_without_links(home, monkeypatch, code, renameat2):
    def refuse_links(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse_links)
    if not renameat2:
        monkeypatch.setattr(atomic, "_renameat2", lambda: None)
    for _ in range(20):
        test_first_of_many_wins(home)
        home.root.unlink("descriptor.json")


def test_one_that_is_still_being_written_is_waited_for(home, monkeypatch):
    content = sealed()
    with open(home.full("descriptor.json"), "wb") as file:
        file.write(content[:50])
    monkeypatch.setattr(manifest, "_PATIENCE", 0.2)
    with pytest.raises(manifest.DamagedManifestError):
        manifest.read(home)
    monkeypatch.setattr(manifest, "_PATIENCE", 60)

    def finish():
        with open(home.full("descriptor.json"), "ab") as file:
            file.write(content[50:])

    timer = threading.Timer(0.3, finish)
    timer.start()
    assert manifest.read(home).digest == "aa"
    timer.join()


def test_a_folder_of_temporaries_that_is_gone_is_made_for_it(home):
    home.temporaries.names()
    os.rmdir(home.full("tmp"))
    manifest.claim(home, Manifest(PARAMETERS, "aa"))
    assert manifest.read(home).digest == "aa"


def test_another_database_that_took_the_name_is_not_claimed(home, tmp_path):
    os.rename(home.path, tmp_path / "y-fingerprints.ampdb")
    other = Home.create(home.path)
    manifest.claim(other, Manifest({"other": 1}, "bb"))
    manifest.claim(home, Manifest(PARAMETERS, "aa"))
    assert manifest.read(other).digest == "bb"
    assert (tmp_path / "y-fingerprints.ampdb" / "descriptor.json").exists()


def test_a_database_that_was_removed_is_not_claimed(home):
    shutil.rmtree(home.path)
    with pytest.raises(DatabaseError, match="was removed while it was in use"):
        manifest.claim(home, Manifest(PARAMETERS, "aa"))


def test_an_empty_database_of_another_descriptor_may_be_removed(home):
    manifest.claim(home, Manifest(PARAMETERS, "aa"))
    with pytest.raises(DescriptorMismatchError, match="remove it, as it is empty"):
        manifest.claim(home, Manifest(PARAMETERS, "bb"))
    loose.put(home, make_key(1), b"one")
    with pytest.raises(DescriptorMismatchError) as caught:
        manifest.claim(home, Manifest(PARAMETERS, "bb"))
    assert "remove it" not in str(caught.value)


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
