"""Commands in processes forked from one that has imported everything: many of them, quickly."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import commands

MODULES = (
    *("ase.io", "click", "numpy", "scipy", "ampmpi.database", "ampmpi.descriptor"),
    *("ampmpi.fingerprinting", "ampmpi.images", "ampmpi.cli.fingerprint", "ampmpi.cli.check"),
    *("ampmpi.cli.compress", "ampmpi.cli.merge", "ampmpi.cli.info", "ampmpi.database.check"),
)


@dataclass
class Ending:
    """How a command ended.

    Attributes
    ----------
    code : int
        Its exit code; of one that was killed by a signal the negative number.
    output : str
        All that it said.
    seconds : float
        How much time of a processor it took, so that a busy machine does not count.
    megabytes : float
        The most memory it had at once.
    hung : bool
        Whether it was killed because it took too long.
    """

    code: int
    output: str
    seconds: float
    megabytes: float
    hung: bool


class Commander:
    """A process that runs commands; a context manager.

    Parameters
    ----------
    prefix : list of str
        A command that runs this process.
    environment : dict, optional
        Its environment.
    """

    def __init__(self, prefix=(), environment=None):
        self.command = [*prefix, sys.executable, __file__]
        self.environment = environment or commands.environment()

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)

    def run(self, *words, cwd, seconds=20.0, user=None, groups=(), umask=0o022):
        """Run ``ampmpi WORDS``, or ``-c SCRIPT ARGUMENTS``; kill it when it takes too long.

        A `user` is the number of a user and of that user's own group.
        """
        request = {"words": list(map(str, words)), "cwd": str(cwd), "seconds": seconds,
                   "user": user, "groups": groups, "umask": umask}  # fmt: skip
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return Ending(**json.loads(self.process.stdout.readline()))


def _serve():
    for module in MODULES:
        # A module may be called otherwise one day; it is imported later then.
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    _load_kernels()
    for line in sys.stdin:
        print(json.dumps(_run(**json.loads(line))), flush=True)


def _load_kernels():
    """Load the compiled kernels, which takes longer than most commands."""
    from ase.build import bulk

    from ampmpi import Gaussian
    from ampmpi.parallel import launch

    launch.prepare()
    Gaussian(cutoff=4.0).resolve(["Cu"]).calculate(bulk("Cu"))


def _run(words, cwd, seconds, user, groups, umask):
    with tempfile.TemporaryFile() as file:
        started = time.monotonic()
        child = os.fork()
        if not child:
            try:
                os.setsid()
                os.umask(umask)
                if user is not None:
                    os.setgroups(groups)
                    os.setgid(user)
                    os.setuid(user)
                os.chdir(cwd)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                _act(words)
            finally:
                os._exit(98)
        hung = False
        while True:
            found, status, usage = os.wait4(child, os.WNOHANG)
            if found:
                break
            if time.monotonic() - started > seconds:
                hung = True
                os.kill(child, signal.SIGKILL)
            time.sleep(0.005)
        took = usage.ru_utime + usage.ru_stime
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # its children, if any live longer
        file.seek(0)
        output = file.read(1 << 20).decode("utf-8", "backslashreplace")
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "output": output, "seconds": took,
            "megabytes": usage.ru_maxrss / 1024, "hung": hung}  # fmt: skip


def _act(words):
    import traceback

    code = 1
    try:
        if words[0] == "-c":
            from ampmpi.errors import AmpmpiError

            sys.argv = words[:1] + words[2:]
            try:
                exec(compile(words[1], "script", "exec"), {"__name__": "__main__"})
                code = 0
            except AmpmpiError as error:
                print(f"{type(error).__name__}: {error}")
                code = error.exit_code
        else:
            from ampmpi.cli.main import ampmpi

            sys.argv = ["ampmpi", *words]
            ampmpi()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
