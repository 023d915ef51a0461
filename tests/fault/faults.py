"""Faults at the calls by which a process touches files, placed by ``shim.c``.

A `FaultServer` is a process with the shim preloaded that has imported what it
needs. For each fault it forks a child, so that one costs milliseconds. The child
runs a *victim*: a generator function in a module of this folder, whose first
part, up to ``yield``, prepares, and whose second part meets the fault::

    def put(path, number):
        database = FingerprintDatabase(path)
        yield
        database[make_key(number)] = make_entry(number)

`FaultServer.calls` lists the calls of the second part; `FaultServer.run` runs
it with one fault at one of them.
"""

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ACTIONS = ("LIST", "KILL", "KILL_AFTER", "FAIL", "FAIL_AFTER", "SHORT", "KILL_SHORT", "FAIL_ON")
TRANSFERS = ("read", "write", "pread64", "pwrite64")
SECONDS = 60


@dataclass
class Outcome:
    """How a victim ended.

    Attributes
    ----------
    status : str
        ``"returned"``, ``"raised"``, ``"killed"`` or ``"hung"``.
    error : list of str
        Names of the classes of what it raised.
    message : str
        What it said.
    count : int
        How many calls it made.
    names : list of str
        Their names, if they were listed.
    """

    status: str
    error: list
    message: str
    count: int
    names: list


def compile_shim(folder):
    """Compile the shim; return where it is."""
    target = Path(folder) / "shim.so"
    command = ["cc", "-O1", "-shared", "-fPIC", "-o", target, HERE / "shim.c", "-ldl"]
    subprocess.run(command, check=True)
    return target


class FaultServer:
    """A process that runs victims; a context manager.

    The module is one of this folder, or of another `folder`; `python` runs it.
    """

    def __init__(self, shim, module, folder=None, python=sys.executable):
        environment = {"LD_PRELOAD": str(shim), "OPENBLAS_NUM_THREADS": "1"}
        if folder is not None:
            environment["PYTHONPATH"] = str(folder)
        self.process = subprocess.Popen(
            [python, __file__, shim, module],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)

    def run(self, victim, *arguments, action="LIST", number=0, error=0):
        """Run a victim with one fault.

        Parameters
        ----------
        victim : str
            A function of the server's module.
        *arguments
            Its arguments, of plain JSON values.
        action : str
            One of `ACTIONS`, at call `number`, with `error` as its errno.
        """
        request = [victim, arguments, ACTIONS.index(action), number, error]
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return Outcome(*json.loads(self.process.stdout.readline()))

    def calls(self, victim, *arguments):
        """Run a victim without a fault; return the names of its calls."""
        outcome = self.run(victim, *arguments)
        assert outcome.status == "returned", outcome
        assert len(outcome.names) == outcome.count > 0
        return outcome.names


def serve(shim, module):
    """Run victims as the lines of standard input say."""
    victims = importlib.import_module(module)
    library = ctypes.CDLL(shim)
    library.fault_names.restype = ctypes.c_char_p
    for line in sys.stdin:
        victim, arguments, *fault = json.loads(line)
        source, target = os.pipe()
        child = os.fork()
        if not child:
            os.close(source)
            signal.alarm(SECONDS)
            report = _meet(library, getattr(victims, victim)(*arguments), fault)
            os.write(target, json.dumps(report).encode())
            os._exit(0)
        os.close(target)
        with open(source) as file:
            report = file.read()
        status = os.waitpid(child, 0)[1]
        if not report:
            died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            word = {signal.SIGKILL: "killed", signal.SIGALRM: "hung"}.get(died, f"died ({status})")
            report = json.dumps([word, [], "", 0, []])
        print(report, flush=True)


def _meet(library, victim, fault):
    """Run a victim's second part under a fault."""
    next(victim)
    status, error, message = "returned", [], ""
    library.fault_arm(fault[1], fault[0], fault[2])
    try:
        next(victim, None)
    except BaseException as caught:
        status, message = "raised", str(caught)
        error = [each.__name__ for each in type(caught).__mro__]
    count = library.fault_disarm()
    return [status, error, message, count, library.fault_names().decode().split()]


if __name__ == "__main__":
    serve(*sys.argv[1:])
