"""Two users of one group at one database: nobody locks the other one out, or loses anything."""

import os
import stat
import subprocess
import tempfile

import commands
import pytest
import users
from ase.io import read
from users import COLLEAGUE, GROUP, OWNER, give, mode, open_to_group, share_kernels

from ampmpi import hash_image
from ampmpi.parallel.launch import kernel_cache

if os.geteuid():
    pytest.skip("only root can become two users", allow_module_level=True)

UMASKS = [0o002, 0o022, 0o027, 0o077]
DATABASE = "shared-fingerprints.ampdb"


@pytest.fixture(scope="module")
def commons():
    """A folder that every user can reach, with images, and kernels that need no compiling."""
    with tempfile.TemporaryDirectory(prefix="ampmpi-users-") as folder:
        os.chmod(folder, 0o755)
        commands.make_images(f"{folder}/ours.traj", 6)
        commands.make_images(f"{folder}/theirs.traj", 6, first=6)
        commands.make_images(f"{folder}/all.traj", 12)
        commands.succeed("fingerprint", "ours.traj", "--label", "warm", cwd=folder)
        cache = os.environ.get("NUMBA_CACHE_DIR") or kernel_cache()
        share_kernels(cache, f"{folder}/kernels")
        yield folder


@pytest.fixture(scope="module")
def commander(commons):
    """Who runs commands as users."""
    with users.commander(environment(commons)) as running:
        try:
            code, output = COLLEAGUE.ampmpi("--version", cwd=commons, commander=running)
        except (OSError, ValueError) as error:
            code, output = 1, str(error)
        if code:
            pytest.skip(f"another user cannot run this package where it lies: {output[-300:]}")
        yield running


def environment(folder):
    return commands.environment(
        NUMBA_CACHE_DIR=f"{folder}/kernels", HOME="/nonexistent", XDG_CACHE_HOME=f"{folder}/none"
    )


@pytest.fixture
def place(commons):
    """A folder of the group, and how users run commands in it."""
    with tempfile.TemporaryDirectory(dir=commons) as folder:
        os.chown(folder, OWNER.number, GROUP)
        os.chmod(folder, 0o2775)
        yield folder


@pytest.fixture
def options(place, commander):
    return {"cwd": place, "commander": commander}


def keys_of(name):
    return {hash_image(image) for image in read(name, ":")}


def make_shared(commons, options, *words):
    """Let the owner make the database, and open it to the group, once."""
    OWNER.succeed("fingerprint", f"{commons}/ours.traj", "--label", "shared", *words, **options)
    path = os.path.join(options["cwd"], DATABASE)
    open_to_group(path)
    return path


def check_bits(path):
    """Every file has the bits and the group of the database; every folder lets the group work."""
    wanted = mode(path) & 0o666
    group = os.stat(path).st_gid
    for folder, _, files in os.walk(path):
        assert mode(path) & 0o070 & ~mode(folder) == 0, folder
        for name in files:
            file = os.path.join(folder, name)
            assert (oct(mode(file)), os.stat(file).st_gid) == (oct(wanted), group), file


def put(commons, options, umask):
    images = f"{commons}/theirs.traj"
    COLLEAGUE.succeed("fingerprint", images, "--dblabel", "shared", "--label", "x", umask=umask,
                      **options)  # fmt: skip
    return keys_of(f"{commons}/all.traj")


def compress(commons, options, umask):
    COLLEAGUE.succeed("compress", DATABASE, umask=umask, **options)
    return keys_of(f"{commons}/ours.traj")


def put_and_compress(commons, options, umask):
    images = f"{commons}/theirs.traj"
    COLLEAGUE.succeed("fingerprint", images, "--label", "shared", umask=umask, **options)
    return keys_of(f"{commons}/all.traj")


def merge(commons, options, umask):
    images = f"{commons}/theirs.traj"
    COLLEAGUE.succeed("fingerprint", images, "--label", "other", umask=umask, **options)
    COLLEAGUE.succeed("merge", DATABASE, "other-fingerprints.ampdb", umask=umask, **options)
    return keys_of(f"{commons}/all.traj")


ACTS = [(act, 0o077, before) for act in (put, compress, put_and_compress, merge)
        for before in ("--no-compress", "--quiet")]  # fmt: skip
ACTS += [(put_and_compress, umask, "--quiet") for umask in UMASKS[:3]]


@pytest.mark.parametrize(("act", "umask", "before"), ACTS)
def test_what_a_colleague_writes_stays_the_groups(commons, place, options, act, umask, before):
    path = make_shared(commons, options, before)
    expected = act(commons, options, umask)
    check_bits(path)
    for user in (OWNER, COLLEAGUE):
        assert user.keys(path, **options) == expected
    OWNER.succeed("compress", DATABASE, **options)
    check_bits(path)
    for user in (OWNER, COLLEAGUE):
        assert user.keys(path, **options) == expected
    assert not os.listdir(f"{path}/loose")


@pytest.mark.parametrize("umask", UMASKS, ids=oct)
def test_files_have_the_databases_group_without_setgid(commons, place, options, umask):
    os.chmod(place, 0o775)
    path = make_shared(commons, options)
    give(path, OWNER)
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o775)
    expected = put(commons, options, umask)
    check_bits(path)
    COLLEAGUE.succeed("compress", DATABASE, umask=umask, **options)
    check_bits(path)
    assert OWNER.keys(path, **options) == expected


@pytest.mark.parametrize("bits", [0o700, 0o750, 0o755, 0o775], ids=oct)
@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
def test_files_have_the_bits_of_their_database(commons, place, options, bits, umask):
    path = os.path.join(place, DATABASE)
    os.mkdir(path)
    os.chmod(path, bits)
    os.chown(path, OWNER.number, GROUP)
    images = f"{commons}/ours.traj"
    OWNER.succeed("fingerprint", images, "--label", "shared", "--no-compress", umask=umask,
                  **options)  # fmt: skip
    check_bits(path)
    OWNER.succeed("compress", DATABASE, umask=umask, **options)
    check_bits(path)


def test_a_new_archive_has_the_bits_of_the_one_before(commons, place, options):
    path = make_shared(commons, options)
    os.chmod(f"{path}/archive.tar.gz", 0o640)
    os.chown(f"{path}/archive.tar.gz", OWNER.number, OWNER.number)
    images = f"{commons}/theirs.traj"
    OWNER.succeed("fingerprint", images, "--label", "shared", umask=0o022, **options)
    status = os.stat(f"{path}/archive.tar.gz")
    assert (oct(stat.S_IMODE(status.st_mode)), status.st_gid) == ("0o640", OWNER.number)
    assert OWNER.keys(path, **options) == keys_of(f"{commons}/all.traj")


def test_what_is_set_aside_can_be_read_by_the_group(commons, place, options):
    path = make_shared(commons, options, "--no-compress")
    name = sorted(os.listdir(f"{path}/loose"))[0]
    with open(f"{path}/loose/{name}", "r+b") as file:
        file.truncate(100)
    os.utime(f"{path}/loose/{name}", (1e9, 1e9))
    assert COLLEAGUE.ampmpi("check", "--repair", DATABASE, umask=0o077, **options)[0] == 5
    found = [os.path.join(folder, each) for folder, _, files in os.walk(f"{path}/damaged")
             for each in files]  # fmt: skip
    assert len(found) == 1
    OWNER.succeed("-c", "import sys; open(sys.argv[1], 'rb').read()", *found, **options)
    check_bits(path)


@pytest.mark.parametrize("before", ["--no-compress", "--quiet"], ids=["loose", "archived"])
def test_a_sticky_database_is_said_to_be_one_and_loses_nothing(commons, place, options, before):
    path = make_shared(commons, options, before)
    for folder, _, _ in os.walk(path):
        os.chmod(folder, mode(folder) | stat.S_ISVTX)
    expected = put(commons, options, 0o077)
    code, output = COLLEAGUE.ampmpi("compress", DATABASE, umask=0o077, **options)
    commands.check_words(output, DATABASE)
    if before == "--quiet":  # the archive is the owner's
        assert code == 4, output
        assert "archive.tar.gz" in output
    else:
        assert code in (0, 4), output
        # The report of a compress that did all is one line.
        assert len(output.splitlines()) >= 1 + (code == 0), output
    for user in (OWNER, COLLEAGUE):
        assert user.keys(path, **options) == expected
    OWNER.ampmpi("compress", DATABASE, **options)
    for user in (OWNER, COLLEAGUE):
        assert user.keys(path, **options) == expected
    assert not [name for name in os.listdir(f"{path}/tmp") if "archive" in name]


def make_complete(commons, options, state):
    """Let the owner make databases that others may only read."""
    words = ["--no-compress"] if state == "loose" else []
    OWNER.succeed("fingerprint", f"{commons}/all.traj", "--label", "shared", "--derivatives",
                  *words, **options)  # fmt: skip
    place = options["cwd"]
    os.chmod(place, 0o755)
    for folder, _, files in os.walk(place):
        for path in (folder, *(os.path.join(folder, name) for name in files)):
            os.chmod(path, mode(path) & ~0o2222 | 0o444)
    return place


READ_ONLY = {
    "fingerprint": ("fingerprint", "{commons}/all.traj", "--label", "shared"),
    "fingerprint with a dblabel": (
        *("fingerprint", "{commons}/all.traj", "--label", "{mine}/x", "--dblabel", "shared"),
        "--derivatives",
    ),
    "train": (
        *("train", "{commons}/all.traj", "--label", "{mine}/x", "--dblabel", "shared"),
        *("--hidden", "2", "--max-steps", "2", "--energy-rmse", "1000", "--force-rmse", "1000"),
    ),
    "info": ("info", DATABASE, "shared-fingerprint-primes.ampdb"),
    "check": ("check", DATABASE, "shared-fingerprint-primes.ampdb"),
}


@pytest.fixture
def mine(commons):
    """A folder of the colleague's."""
    with tempfile.TemporaryDirectory(dir=commons) as folder:
        os.chown(folder, COLLEAGUE.number, COLLEAGUE.number)
        os.chmod(folder, 0o755)
        yield folder


@pytest.mark.parametrize("act", READ_ONLY)
@pytest.mark.parametrize("state", ["loose", "archived"])
def test_a_complete_database_is_used_without_writing_a_byte(commons, options, mine, state, act):
    place = make_complete(commons, options, state)
    before = commands.snapshot(place)
    words = [word.format(commons=commons, mine=mine) for word in READ_ONLY[act]]
    output = COLLEAGUE.succeed(*words, **options)
    assert commands.snapshot(place) == before
    if act.startswith("fingerprint"):
        assert "12 found, 0 computed, 0 failed" in output
    if act == "train":
        assert os.path.exists(f"{mine}/x.amp")


@pytest.mark.parametrize("act", READ_ONLY)
def test_a_complete_database_is_used_on_a_read_only_mount(commons, options, mine, act):
    place = make_complete(commons, options, "archived")
    before = commands.snapshot(place)
    words = [word.format(commons=commons, mine=mine) for word in READ_ONLY[act]]
    mounted = f"mount --bind {place} {place} && mount -o remount,bind,ro {place} && cd {place}"
    command = ["unshare", "-m", "sh", "-c", f'{mounted} && exec "$@"', "sh"]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    code, output = commands.run(
        *command, *commands.AMPMPI, *words, cwd=place, env=environment(commons)
    )
    assert code == 0, output
    assert commands.snapshot(place) == before
    if act.startswith("fingerprint"):
        assert "12 found, 0 computed, 0 failed" in output


@pytest.mark.parametrize("choice", ["--label", "--dblabel"])
def test_what_is_missing_where_one_may_only_read_is_one_sentence(commons, options, choice):
    place = make_complete(commons, options, "archived")
    commands.make_images(f"{commons}/more.traj", 13)
    before = commands.snapshot(place)
    words = [choice, "shared"] if choice == "--label" else ["--label", "x", choice, "shared"]
    code, output = COLLEAGUE.ampmpi("fingerprint", f"{commons}/more.traj", "-q", *words, **options)
    assert code == 4, output
    commands.check_words(output, DATABASE)
    assert len(output.splitlines()) == 1, output
    assert commands.snapshot(place) == before


def test_a_database_that_one_may_not_read_is_one_sentence(commons, options):
    path = make_shared(commons, options)
    os.chmod(f"{path}/archive.tar.gz", 0o600)
    before = commands.snapshot(path)
    for words in (["info"], ["check"], ["compress"]):
        code, output = COLLEAGUE.ampmpi(*words, DATABASE, **options)
        assert code == 4, output
        commands.check_words(output, "archive.tar.gz", "ermission denied")
    for name, state in commands.snapshot(path).items():
        if name not in (path, f"{path}/tmp"):
            assert state == before[name], name
