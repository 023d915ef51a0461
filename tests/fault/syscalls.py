"""Faults at system calls of a process, placed with strace.

A first run lists every system call that the process makes between two marks.
Each of them is a point ``(name, number)``, at which later runs are killed or
see the call fail.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

STRACE = shutil.which("strace")
BEGIN, END = "/ampmpi-fault-begin", "/ampmpi-fault-end"

_CALL = re.compile(r"^(\d+) +([a-z][a-z0-9_]*)\((.*)")


def strace_works():
    """Whether strace is there and may trace."""
    if STRACE is None:
        return False
    command = [STRACE, "-f", "-qq", "-o", "/dev/null", "-e", "inject=getpid:error=EIO", "true"]
    return subprocess.run(command, capture_output=True).returncode == 0


_VICTIM = """
import os
from ampmpi.errors import AmpmpiError
{prepare}
os.access({begin!r}, 0)
try:
    {act}
except AmpmpiError as error:
    print("AmpmpiError:", error)
    os._exit(error.exit_code)
os.access({end!r}, 0)
os._exit(0)
"""


def victim(prepare, act):
    """Return the command that prepares, and acts between the marks.

    An error that a user would understand is printed, and gives its exit code.
    """
    script = _VICTIM.format(prepare=prepare, act=act, begin=BEGIN, end=END)
    return [sys.executable, "-c", script]


def on_two_cores(function, items):
    """Call a function, which waits for subprocesses, for each item; return the results."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, items))


def points(command, log):
    """Run a command once, and return the system calls that it makes between the marks.

    Those are the main thread's: strace counts the calls of each thread apart.

    Returns
    -------
    list of (str, int, str)
        The name, the how-manieth call of that name in the whole process, and
        the arguments.
    """
    subprocess.run([STRACE, "-f", "-qq", "-s", "200", "-o", log, *command], check=True)
    found, counts, inside, main = [], Counter(), False, None
    with open(log, errors="replace") as file:
        for line in file:
            match = _CALL.match(line)
            if match is None:
                continue
            thread, name, arguments = match.groups()
            main = main or thread
            if thread != main:
                continue
            counts[name] += 1
            if "access" in name and f'"{BEGIN}"' in arguments:
                inside = True
            elif "access" in name and f'"{END}"' in arguments:
                break
            elif inside and not name.startswith("exit"):
                found.append((name, counts[name], arguments))
    assert inside, "the marks were not seen"
    return found


def run_with(fault, name, number, command, **options):
    """Run a command under a fault: ``signal=KILL``, ``error=ENOSPC``, ..."""
    return subprocess.run(
        [STRACE, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={name}",
         "-e", f"inject={name}:{fault}:when={number}", *command],
        capture_output=True, text=True, timeout=60, **options,
    )  # fmt: skip
