"""Races of two processes, run by ``test_no_links.py`` under refused system calls.

``python races.py claim FOLDER COUNT`` and ``python races.py compress FOLDER COUNT``
print one line for each race: the endings of both, and for a claim whose
descriptor the database has afterwards.
"""

import os
import signal
import sys
import time

from put_victims import KEYS, make_entry

from ampmpi import FingerprintDatabase

# Imported now, so that both are equally fast.
from ampmpi.cli import main as _main  # noqa: F401
from ampmpi.errors import AmpmpiError


def race(acts):
    """Run acts at once, each in a process of its own; return how they ended."""
    start = time.monotonic() + 0.003
    children = []
    for act in acts:
        child = os.fork()
        if not child:
            signal.alarm(30)
            ending = 99
            try:
                while time.monotonic() < start:
                    pass
                act()
                ending = 0
            except AmpmpiError as error:
                ending = 10 if type(error).__name__ == "DescriptorMismatchError" else 1
                ending = error.exit_code if error.exit_code == 6 else ending
                if ending == 1:
                    print(f"{type(error).__name__}: {error}", file=sys.stderr)
            finally:
                os._exit(ending)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def claim(folder, number):
    """Let two descriptors claim one empty database."""
    path = f"{folder}/{number}-fingerprints.ampdb"
    if number % 2:
        os.makedirs(f"{path}/loose")
    endings = race(
        lambda digest=digest: FingerprintDatabase(path).claim({"Rc": digest}, digest)
        for digest in ("aa", "bb")
    )
    print(*endings, FingerprintDatabase(path).manifest().digest, flush=True)


def compress(folder, number):
    """Let two processes compress one database."""
    path = f"{folder}/{number}-fingerprints.ampdb"
    database = FingerprintDatabase(path)
    database[KEYS[0]] = make_entry(0)
    database.compress()
    database[KEYS[1]] = make_entry(1)
    os.close(os.open(f"{path}/begun", os.O_CREAT))
    endings = race([lambda: FingerprintDatabase(path).compress()] * 2)
    assert dict(FingerprintDatabase(path)) == {KEYS[0]: make_entry(0), KEYS[1]: make_entry(1)}
    print(*endings, flush=True)


if __name__ == "__main__":
    what, folder, count = sys.argv[1:]
    for number in range(int(count)):
        {"claim": claim, "compress": compress}[what](folder, number)
