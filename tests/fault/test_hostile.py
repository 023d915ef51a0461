"""Databases in which somebody put what does not belong there, by malice or mistake.

Nothing outside of a database is read, written, emptied or removed; nothing
hangs; nothing takes more than a few seconds and a few hundred megabytes; and what
is printed of a file's content cannot speak for the program.
"""

import io
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import tarfile
import time
import unicodedata

import commands
import gate
import pytest
from commander import Commander

from ampmpi import FingerprintDatabase, Gaussian, fingerprint
from ampmpi.database.packs import PackWriter

DATA = os.path.join(commands.ROOT, "tests", "data", "ampmpi-0.1")
NAME = "x-fingerprints.ampdb"
SECONDS, MEGABYTES = 5.0, 300.0
FINGERPRINT = ("fingerprint", "images.traj", "--label", "x", *commands.CUTOFF)
PUT = """
import sys
from ampmpi import FingerprintDatabase
source = FingerprintDatabase("whole-fingerprints.ampdb")
FingerprintDatabase(sys.argv[1])[sys.argv[2]] = source[sys.argv[2]]
"""
DELETE = """
import sys
from ampmpi import FingerprintDatabase
try:
    del FingerprintDatabase(sys.argv[1])[sys.argv[2]]
except KeyError:
    print("there is none")
"""


@pytest.fixture(scope="module")
def commander():
    with Commander() as running:
        # Whatever is imported or compiled at a first use.
        assert running.run("--help", cwd="/").code == 0
        yield running


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A database with six archived and four loose entries, and one that has two more."""
    folder = tmp_path_factory.mktemp("hostile")
    commands.make_images(folder / "images.traj", 12)
    images, descriptor = str(folder / "images.traj"), Gaussian(cutoff=4.0)
    fingerprint(f"{images}@:6", descriptor, label=folder / "x")
    fingerprint(f"{images}@:10", descriptor, label=folder / "x", compress=False)
    fingerprint(images, descriptor, label=folder / "whole", compress=False)
    return folder


@pytest.fixture
def folder(template, tmp_path):
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def keys(folder):
    """Keys of the entries that are loose, archived, and absent."""
    loose = sorted(os.listdir(folder / NAME / "loose"))
    archived = sorted(set(FingerprintDatabase(folder / NAME)) - set(loose))
    absent = sorted(set(FingerprintDatabase(folder / "whole-fingerprints")) - {*loose, *archived})
    return loose, archived, absent


@pytest.fixture
def acts(keys):
    """What is done to a database, by name."""
    loose, archived, absent = keys
    return {
        "put": ("-c", PUT, NAME, absent[0]),
        "delete loose": ("-c", DELETE, NAME, loose[0]),
        "delete archived": ("-c", DELETE, NAME, archived[0]),
        "info": ("info", NAME),
        "check": ("check", NAME),
        "compress": ("compress", "-p", "1", NAME),
        "compress by two": ("compress", "-p", "2", NAME),
        "repair": ("check", "--repair", NAME),
        "merge": ("merge", NAME, "whole-fingerprints.ampdb"),
        "fingerprint": FINGERPRINT,
    }


def calm(ending, *words):
    """Check that a command ended in good time and by itself, and told its error in words."""
    assert not ending.hung, ending
    assert ending.code in (0, 2, 4, 5, 6), ending
    if ending.code:
        commands.check_words(ending.output, *words)
    return ending


# Symbolic links.


@pytest.fixture
def elsewhere(folder, keys, template):
    """A folder of things that are none of the database's business, by name or not."""
    away = folder / "elsewhere"
    os.makedirs(away / "more")
    absent = keys[2]
    whole = template / "whole-fingerprints.ampdb"
    shutil.copy(whole / "loose" / absent[1], away / absent[1])
    (away / ("0" * 32)).write_bytes(b"no entry")
    (away / "notes.txt").write_text("mine")
    (away / "more" / ("1" * 32)).write_bytes(b"no entry")
    mine = "ampmpi-archive-host-00000000-0-1-1-r0-0123456789ab.tmp"
    (away / mine).write_bytes(b"old")
    shutil.copy(folder / NAME / "archive.tar.gz", away / "one.tar.gz")
    for path in away.rglob("*"):
        os.utime(path, (1e9, 1e9))
    return away


# Which acts cannot do without which folder.
NEEDED = {
    "loose": {"put", "check", "repair", "compress", "compress by two", "delete loose",
              "fingerprint"},
    "tmp": {"put", "compress", "compress by two", "delete archived", "merge", "fingerprint"},
    "packs": {"info", "check", "repair", "compress", "compress by two", "delete archived", "merge",
              "fingerprint"},
    "damaged": {"repair", "compress", "compress by two"},
}  # fmt: skip


@pytest.mark.parametrize("place", NEEDED)
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_a_link_in_place_of_a_folder_leads_nowhere(
    folder, keys, acts, elsewhere, commander, place, relative
):
    path = folder / NAME
    if place == "damaged":  # something must go there
        (path / "loose" / keys[0][1]).write_bytes(b"damaged")
        os.utime(path / "loose" / keys[0][1], (1e9, 1e9))
    if (path / place).exists():
        os.rename(path / place, folder / "before")
    os.symlink("../elsewhere" if relative else elsewhere, path / place)
    before = commands.snapshot(elsewhere)
    contents = {each: each.read_bytes() for each in elsewhere.rglob("*") if each.is_file()}
    for act, words in acts.items():
        ending = calm(commander.run(*words, cwd=folder))
        assert commands.snapshot(elsewhere) == before, act
        if act in NEEDED[place]:
            assert ending.code == 4, (act, ending)
            commands.check_words(ending.output, NAME, place)
    assert {each: each.read_bytes() for each in contents} == contents
    assert os.path.islink(path / place)


def test_nothing_is_taken_from_behind_a_link(folder, keys, elsewhere, commander):
    for place in ("loose", "packs"):
        path = folder / NAME / place
        if path.exists():
            os.rename(path, folder / f"before-{place}")
        os.symlink(elsewhere, path)
        script = "import sys; from ampmpi import FingerprintDatabase\n"
        script += "database = FingerprintDatabase(sys.argv[1])\n"
        for look in ("sys.argv[2] in database", "database.get(sys.argv[2]) is not None",
                     "sys.argv[2] in dict(database.get_many())"):  # fmt: skip
            ending = commander.run("-c", f"{script}print({look})", NAME, keys[2][1], cwd=folder)
            calm(ending)
            assert "True" not in ending.output
        os.unlink(path)


def test_a_link_in_place_of_a_file_is_not_written_through(folder, keys, acts, commander):
    targets = {}
    for number, place in enumerate((f"loose/{keys[0][0]}", f"loose/{keys[2][0]}", "lock")):
        target = folder / f"target-{number}"
        target.write_bytes(b"mine")
        path = folder / NAME / place
        if path.exists():
            os.unlink(path)
        os.symlink(target, path)
        targets[target] = target.stat().st_mtime_ns
    for words in acts.values():
        calm(commander.run(*words, cwd=folder, seconds=20))
    for target, changed in targets.items():
        assert target.read_bytes() == b"mine"
        assert target.stat().st_mtime_ns == changed


# What is no file.


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        before = os.getcwd()
        os.chdir(os.path.dirname(path))  # the name of a socket may not be long
        try:
            one.bind(os.path.basename(path))
        finally:
            os.chdir(before)


def make_device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # endless zeros
    except PermissionError:
        pytest.skip("devices cannot be made here")


def make_folder(path):
    os.mkdir(path)
    with open(f"{path}/inside", "w") as file:
        file.write("mine")


def make_dangling_link(path):
    os.symlink("nowhere", path)


STRANGE = [make_fifo, make_socket, make_device, make_folder, make_dangling_link]
IN_FLIGHT = "ampmpi-inflight-{host}-{boot}-{namespace}-1-1-r0-0123456789ab.image"
PACK = "ampmpi-pack-{host}-{boot}-{namespace}-1-1-r0-0123456789ab.tmp"
PLACES = [
    *("descriptor.json", "lock", "archive.tar.gz", "loose/{loose}", "loose/{absent}"),
    *(f"tmp/{IN_FLIGHT}", "tmp/ampmpi-archive-{host}-{boot}-{namespace}-1-1-r0-0123456789ab.tmp"),
    f"tmp/{PACK}",
    *("tmp/crashed-{absent}-0123456789ab", "tmp/ampmpi-suspect", "packs/ampmpi-pack.tar.gz"),
    *("loose", "tmp", "packs", "damaged", "deleted"),
]


def fill_in(place, keys):
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read(8)
    return place.format(
        loose=keys[0][0], absent=keys[2][0], host=socket.gethostname(), boot=boot,
        namespace=os.stat("/proc/self/ns/pid").st_ino,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("place", "make"),
    [(place, make) for place in PLACES for make in STRANGE
     if make not in (make_socket, make_dangling_link) or place in PLACES[:5]],
)  # fmt: skip
def test_nothing_hangs_at_what_is_no_file(folder, keys, acts, commander, place, make):
    path = folder / NAME / fill_in(place, keys)
    if path.parent == path.parent.parent / "packs":
        path.parent.mkdir()
    if os.path.lexists(path):
        os.rename(path, folder / "before")
    make(str(path))
    for act, words in acts.items():
        if act in ("delete loose", "compress by two"):
            continue
        ending = commander.run(*words, cwd=folder)
        assert not ending.hung, (act, ending)
        assert ending.code in (0, 2, 4, 5, 6), (act, ending)
        assert "Traceback" not in ending.output, (act, ending)
        if ending.code == 4 and act != "fingerprint":
            assert NAME in ending.output, (act, ending)
    if make is make_folder and "/" not in place and os.path.isdir(path):
        assert (path / "inside").read_text() == "mine"


@pytest.mark.parametrize("make", [make_fifo, make_device])
@pytest.mark.parametrize("place", ["descriptor.json", "lock", f"tmp/{IN_FLIGHT}", "loose/{loose}"])
def test_a_signal_ends_what_works_on_a_strange_database(folder, keys, place, make):
    path = folder / NAME / fill_in(place, keys)
    if os.path.lexists(path):
        os.unlink(path)
    make(str(path))
    for words, patience in ((FINGERPRINT, 12), (("compress", NAME, "--wait", "60"), 4)):
        process = subprocess.Popen(
            [*commands.AMPMPI, *words], cwd=folder, env=commands.environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            process.wait(20)
            assert time.monotonic() - started < 10
        finally:
            process.kill()
            process.wait()


# Huge files.


@pytest.mark.parametrize(
    "place", ["descriptor.json", "lock", "loose/{loose}", "loose/{absent}", f"tmp/{IN_FLIGHT}"]
)
def test_a_huge_file_takes_neither_time_nor_memory(folder, keys, acts, commander, place):
    path = folder / NAME / fill_in(place, keys)
    size = 4 << 30
    before = path.read_bytes() if path.exists() else b""
    idle = commander.run("info", "whole-fingerprints.ampdb", cwd=folder).megabytes
    for act, words in acts.items():
        if act in ("delete archived", "compress by two", "merge"):
            continue
        if not path.exists():
            path.write_bytes(before)
        os.truncate(path, size)
        os.utime(path, (1e9, 1e9))
        ending = commander.run(*words, cwd=folder, seconds=30)
        assert not ending.hung, (act, ending)
        assert ending.seconds < SECONDS, (act, ending)
        assert ending.megabytes < idle + MEGABYTES, (act, ending)
        assert "Traceback" not in ending.output, (act, ending)
        assert ending.code in (0, 2, 4, 5, 6), (act, ending)
        if place == "descriptor.json" and act == "fingerprint":
            assert ending.code == 4
            commands.check_words(ending.output, "descriptor.json")
        if place == "lock" and act == "compress":
            assert ending.code == 6
            commands.check_words(ending.output, NAME)
        if place == "loose/{loose}" and act == "check":
            assert ending.code == 4
            commands.check_words(ending.output, keys[0][0])


# What is no pack of the database.


def make_link_to_a_pack(path):
    os.symlink("../../elsewhere/one.tar.gz", path)


def make_huge(path):
    """Make a large file, which is read whole: there may be entries anywhere in it."""
    with open(path, "wb") as file:
        file.truncate(64 << 20)


def make_tar_of_others(path):
    with tarfile.open(path, "w:gz") as tar:
        for name in ("../../outside", "/tmp/outside", "0" * 32, "loose/" + "1" * 32):
            info = tarfile.TarInfo(name)
            info.size = 8
            tar.addfile(info, io.BytesIO(b"no entry"))
        link = tarfile.TarInfo("2" * 32)
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)


def make_text(path):
    with open(path, "w") as file:
        file.write("no tar\n" * 1000)


NO_PACKS = [make_fifo, make_socket, make_folder, make_dangling_link, make_link_to_a_pack,
            make_huge, make_tar_of_others, make_text]  # fmt: skip


@pytest.mark.parametrize("place", ["packs", "tmp"])
@pytest.mark.parametrize("make", NO_PACKS)
def test_what_is_no_pack_is_not_believed(folder, keys, acts, elsewhere, commander, place, make):
    """Nothing outside is read or changed, no entry comes from it, and all others are there."""
    database = FingerprintDatabase(folder / NAME)
    right = commands.contents(folder / NAME)
    writer = PackWriter(database.make())
    writer.put_bytes(keys[2][0], FingerprintDatabase(folder / "whole-fingerprints").get_bytes(
        keys[2][0]))  # fmt: skip
    writer.close()
    name = "packs/evil.tar.gz" if place == "packs" else fill_in(f"tmp/{PACK}", keys)
    before = commands.snapshot(elsewhere)
    for act in ("info", "check", "compress", "compress by two", "repair", "delete loose",
                "fingerprint"):  # fmt: skip
        path = folder / NAME / name
        path.parent.mkdir(exist_ok=True)
        if not os.path.lexists(path):
            make(str(path))
        ending = calm(commander.run(*acts[act], cwd=folder))
        assert ending.seconds < SECONDS, (act, ending)
        assert commands.snapshot(elsewhere) == before, act
        assert not os.path.exists(folder / "outside")
        if act == "compress":
            found = commands.contents(folder / NAME)
            assert found.keys() == {*right, keys[2][0]}
            assert all(found[key] == entry for key, entry in right.items())
            assert ending.code in (0, 5)
        if make is make_folder and path.exists():
            assert (path / "inside").read_text() == "mine"


def test_names_of_packs_cannot_speak_for_the_program(folder, commander):
    path = folder / NAME / "packs"
    path.mkdir()
    evil = EVIL.replace("\x00", "").replace("/", "")
    for number, name in enumerate((evil, "-rf", "..", "\udcff\udcfe", "a" * 240, "; touch x")):
        (make_text if number % 2 else make_tar_of_others)(str(path / f"{name}.tar.gz"))
    for words in (("info", NAME), ("check", "-v", NAME), ("check", "--repair", NAME),
                  ("compress", NAME), ("info", NAME)):  # fmt: skip
        ending = commander.run(*words, cwd=folder)
        assert "Traceback" not in ending.output
        assert ending.code in (0, 4, 5)
        check_printable(ending.output)
    assert not (folder / "x").exists()


# What is printed.

EVIL = (
    "\x1b[2J\x1b]0;title\x07\r\x08\x00FORGED\nFORGED: all is well\n"
    "\x85\x9b31m\u2028\u2029\u202e\u2066\u200e\x7fend"
)
"""Escapes of terminals, new lines of all kinds, and what turns the direction of writing."""


def check_printable(output):
    """Nothing that is printed moves the cursor, and no line was forged."""
    for character in output:
        kind = unicodedata.category(character)
        assert character == "\n" or kind not in ("Cc", "Cf", "Zl", "Zp"), (character, output)
    for line in output.split("\n"):
        assert not line.strip().startswith("FORGED"), output


@pytest.mark.parametrize(
    "parameters",
    [
        {"importname": EVIL, "cutoff": 4.0},
        {"importname": ".descriptor.gaussian.Gaussian", EVIL: 1, "elements": ["Cu"]},
        {"cutoff": {"name": EVIL, "kwargs": {EVIL: EVIL}}},
        {"elements": ["Cu", EVIL], "Gs": {"Cu": [{"type": EVIL, "element": EVIL, EVIL: 0.1}]}},
        {"elements": EVIL, "Gs": EVIL, "mode": EVIL, "cutoff": EVIL, "importname": "FORGED"},
    ],
    ids=["name", "key", "nested", "functions", "all"],
)
def test_a_manifest_cannot_speak_for_the_program(folder, commander, parameters):
    path = folder / "evil-fingerprints.ampdb"
    FingerprintDatabase(path).claim(parameters, "aa")
    whole = FingerprintDatabase(folder / "whole-fingerprints.ampdb")
    for key in whole:
        FingerprintDatabase(path)[key] = whole[key]
    seen = []
    for words in (
        ("info", path.name),
        ("check", path.name),
        ("fingerprint", "images.traj", "--label", "evil", *commands.CUTOFF),
        ("merge", "whole-fingerprints.ampdb", path.name),
        ("merge", path.name, "whole-fingerprints.ampdb"),
    ):
        ending = commander.run(*words, cwd=folder)
        assert "Traceback" not in ending.output
        check_printable(ending.output)
        seen.append("FORGED" in ending.output)
    assert any(seen), "the test shows nothing"


@pytest.mark.skipif(not gate.works(), reason="no seccomp notifications here")
def test_a_lock_cannot_speak_for_the_program(folder, commander):
    lock = folder / NAME / "lock"
    found = []

    def look(call):
        if call.concerns("/archive.tar.gz") and not found:
            found.append(lock.read_bytes())

    command = [*commands.AMPMPI, "compress", NAME]
    environment = commands.environment(SLURM_JOB_ID="1234567")
    with gate.Gate(command, look, cwd=folder, env=environment) as running:
        assert running.end()[0] == 0
    fields = json.loads(found[0])
    texts = [name for name, value in fields.items() if isinstance(value, str)]
    assert len(texts) >= 3
    for number, changed in enumerate(([name] for name in texts) if texts else ()):
        evil = fields | dict.fromkeys(changed, EVIL)
        if changed != ["boot"]:
            evil["boot"] = "00000000"  # not known to be dead
        lock.write_text(json.dumps(evil))
        for words in (("compress", NAME), ("merge", NAME, "whole-fingerprints.ampdb"),
                      ("check", "--repair", NAME), ("info", NAME)):  # fmt: skip
            ending = commander.run(*words, cwd=folder)
            assert "Traceback" not in ending.output
            check_printable(ending.output)
            if words[0] == "compress" and changed != ["boot"]:  # of another boot: it is broken
                assert ending.code == 6, (number, ending)


def test_names_of_members_and_files_cannot_speak_for_the_program(folder, commander):
    path = folder / "evil-fingerprints.ampdb"
    os.makedirs(path / "loose")
    (path / "payload").write_bytes(b"no entry")
    evil = EVIL.replace("\x00", "")
    with tarfile.open(path / "archive.tar.gz", "w:gz") as tar:
        for name in (evil, evil[:20], "0" * 32):
            tar.add(path / "payload", name)
    (path / "loose" / evil[:40]).write_bytes(b"no entry")
    for words in (("info", path.name), ("check", path.name), ("check", "-v", path.name),
                  ("compress", path.name), ("check", "--repair", path.name)):  # fmt: skip
        ending = commander.run(*words, cwd=folder)
        assert "Traceback" not in ending.output
        check_printable(ending.output)


# Older versions.


def expected():
    with open(f"{DATA}/expected.json") as file:
        return json.load(file)


def plain(entry):
    if isinstance(entry, dict):
        return sorted([list(key), values] for key, values in entry.items())
    return [[symbol, values] for symbol, values in entry]


KINDS = ("fingerprints", "fingerprint-primes")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["loose", "archived", "mixed"])
def test_databases_of_version_0_1_open_compress_and_open(tmp_path, commander, state, kind):
    name = f"{state}-{kind}.ampdb"
    shutil.copytree(f"{DATA}/{name}", tmp_path / name)
    (tmp_path / name / "loose").mkdir(exist_ok=True)  # git keeps no empty folder
    right = expected()[kind]
    for _ in range(2):
        database = FingerprintDatabase(tmp_path / name)
        assert {key: plain(database[key].to_amp()) for key in database} == right
        found = {key: plain(entry.to_amp()) for key, entry in database.get_many()}
        assert found == right
        assert all(key in database for key in right)
        assert database.missing(right) == set()
        assert not database.corrupt
        assert commander.run("check", name, cwd=tmp_path).code == 0
        assert commander.run("compress", name, cwd=tmp_path).code == 0
        assert not os.listdir(tmp_path / name / "loose")


@pytest.mark.parametrize("place", ["folder", "link", "file"])
def test_deletions_of_an_older_version_are_ignored(folder, keys, commander, place):
    """Also where ``deleted/`` is a link, whose target stays as it is."""
    loose, archived, _ = keys
    path = folder / NAME
    marks = folder / "marks"
    if place != "file":
        where = marks if place == "link" else path / "deleted"
        where.mkdir()
        for key in (*loose, *archived):
            (where / key).touch()
            os.utime(where / key, (1e9, 1e9))
    if place == "link":
        os.symlink(marks, path / "deleted")
    elif place == "file":
        (path / "deleted").write_text("mine")
    before = commands.snapshot(marks)
    right = commands.contents(folder / "whole-fingerprints.ampdb")
    for act in ("info", "compress", "check"):
        database = FingerprintDatabase(path)
        assert set(database) == {*loose, *archived}
        assert all(key in database for key in (*loose, *archived))
        assert database.missing({*loose, *archived}) == set()
        assert all(database[key] == right[key] for key in (*loose, *archived))
        ending = commander.run(act, NAME, cwd=folder)
        assert ending.code == 0, ending
    output = commander.run("fingerprint", "images.traj@:10", "--label", "x", *commands.CUTOFF,
                           cwd=folder).output  # fmt: skip
    assert "10 found, 0 computed" in output
    assert commands.snapshot(marks) == before


def test_what_is_deleted_now_is_gone_and_stays_gone(folder, keys, commander):
    loose, archived, _ = keys
    right = commands.contents(folder / NAME)
    gone = [loose[0], archived[0]]
    with FingerprintDatabase(folder / NAME) as database:
        database.delete(gone)
        assert set(database) == set(right) - set(gone)
        del database[archived[1]]
    for _ in range(2):
        found = commands.contents(folder / NAME)
        assert found == {key: right[key] for key in right if key not in (*gone, archived[1])}
        assert commander.run("compress", NAME, cwd=folder).code == 0
    with tarfile.open(folder / NAME / "archive.tar.gz") as tar:
        assert not {*gone, archived[1]}.intersection(tar.getnames())
