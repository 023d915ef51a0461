"""A gate before the system calls by which a process gives files their names.

A seccomp filter is laid around a command and all its children, so that no call
escapes it, whichever function of which library makes it. Calls are refused with
an error number (`refuse`, ``python gate.py RULES COMMAND...``), or shown to the
test before they happen (`Gate`), which lets them happen, refuses them, or holds
the process that makes them for as long as it likes.
"""

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass

_NUMBERS = {
    "x86_64": {"rename": 82, "link": 86, "renameat": 264, "linkat": 265, "renameat2": 316},
    "aarch64": {"renameat": 38, "linkat": 37, "renameat2": 276},
}
NUMBERS = _NUMBERS.get(platform.machine(), {})
NAMES = {number: name for name, number in NUMBERS.items()}
NOREPLACE, EXCHANGE = 1, 2
SECCOMP = {"x86_64": 317, "aarch64": 277}.get(platform.machine(), -1)

_LOAD, _IS, _ANSWER = 0x20, 0x15, 0x06
_ALLOW, _ERRNO, _NOTIFY = 0x7FFF0000, 0x00050000, 0x7FC00000
_FLAGS_OFFSET = 16 + 4 * 8  # of the fifth argument in struct seccomp_data
_NO_NEW_PRIVS, _SET_FILTER, _NEW_LISTENER = 38, 1, 8
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1

NO_LINKS = {"link": "EPERM", "linkat": "EPERM"}
"""As BeeGFS answers."""
NO_RENAMEAT2 = {"renameat2": "ENOSYS"}
"""As old kernels answer."""


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]


def _program(rules, default):
    """Return the filter: rules map a call, or ``call:flags``, to what the kernel does."""
    steps = [struct.pack("HBBI", _LOAD, 0, 0, 0)]
    for rule, action in rules.items():
        name, _, flags = rule.partition(":")
        if name not in NUMBERS:
            continue  # this machine has no such call
        inner = [struct.pack("HBBI", _ANSWER, 0, 0, action)]
        if flags:
            inner = [
                struct.pack("HBBI", _LOAD, 0, 0, _FLAGS_OFFSET),
                struct.pack("HBBI", _IS, 0, 1, int(flags)),
                *inner,
                struct.pack("HBBI", _LOAD, 0, 0, 0),
            ]
        steps += [struct.pack("HBBI", _IS, 0, len(inner), NUMBERS[name]), *inner]
    steps.append(struct.pack("HBBI", _ANSWER, 0, 0, default))
    return steps


def _install(rules, listen=False):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    steps = _program(rules, _ALLOW)
    program = _Program(len(steps), b"".join(steps))
    flags = _NEW_LISTENER if listen else 0
    result = libc.syscall(SECCOMP, _SET_FILTER, flags, ctypes.byref(program))
    if result < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return result


def refuse(rules):
    """Make calls of this process and all its later children fail.

    Parameters
    ----------
    rules : dict of str to str
        Name of the call, with ``:FLAGS`` for a renameat2 of these flags alone,
        and the name of the error.
    """
    _install({rule: _ERRNO | getattr(errno, name) for rule, name in rules.items()})


def refusing(rules, command):
    """Return the command that runs another one under `refuse`."""
    words = [f"{rule}={name}" for rule, name in rules.items()]
    return [sys.executable, __file__, "refuse", ",".join(words), *command]


@dataclass(frozen=True)
class Call:
    """A call that is about to happen.

    Attributes
    ----------
    name : str
        ``rename``, ``renameat``, ``renameat2``, ``link`` or ``linkat``.
    pid : int
        The thread that makes it.
    source, target : str
        The paths, absolute.
    flags : int
        Of renameat2.
    """

    name: str
    pid: int
    source: str
    target: str
    flags: int

    def concerns(self, name):
        """Whether one of the paths ends so."""
        return self.source.endswith(name) or self.target.endswith(name)


class Gate:
    """Runs a command and shows each call to `decide`; a context manager.

    `decide` is called for each `Call`, in a thread of its own, and returns 0 to
    let it happen or the number of the error that it gets instead. A decision
    that waits holds the caller, as if it were suspended.

    Attributes
    ----------
    process : Popen
        The command; its output is text.
    error : Exception or None
        What a decision raised.
    """

    def __init__(self, command, decide, **options):
        self.decide = decide
        self.error = None
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, __file__, "show", str(theirs.fileno()), *command],
                    pass_fds=[theirs.fileno()],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                    **options,
                )
            ours.settimeout(30)
            message, found, _, _ = socket.recv_fds(ours, 64, 1)
            if not found:
                raise OSError(int(message or b"0"), "no gate can be set up here")
        self._listener = found[0]
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        # The listener stays open: its thread ends by itself when the last process has ended.

    def end(self, seconds=60):
        """Wait for the command; return its exit code and all that it said."""
        output, errors = self.process.communicate(timeout=seconds)
        if self.error is not None:
            raise self.error
        return self.process.returncode, output + errors

    def _listen(self):
        waiting = select.poll()
        waiting.register(self._listener, select.POLLIN)
        while waiting.poll()[0][1] & select.POLLIN:
            request = bytearray(80)
            try:
                fcntl.ioctl(self._listener, _RECEIVE, request)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue  # the caller was killed meanwhile
                return
            threading.Thread(target=self._answer, args=(bytes(request),), daemon=True).start()

    def _answer(self, request):
        number, pid, _ = struct.unpack_from("QII", request)
        code = 0
        try:
            code = self.decide(self._call(request, pid)) or 0
        except ProcessLookupError:
            return
        except Exception as error:  # shown to the test, which waits in another thread
            self.error = error
        answer = struct.pack("QqiI", number, 0, -code, 0 if code else _CONTINUE)
        with suppress(OSError):  # the caller was killed meanwhile
            fcntl.ioctl(self._listener, _SEND, answer)

    def _call(self, request, pid):
        name = NAMES[struct.unpack_from("i", request, 16)[0]]
        numbers = struct.unpack_from("6Q", request, 32)
        if name in ("rename", "link"):
            pairs, flags = ((-100, numbers[0]), (-100, numbers[1])), 0
        else:
            pairs = (numbers[0], numbers[1]), (numbers[2], numbers[3])
            flags = numbers[4] if name == "renameat2" else 0
        source, target = (self._path(pid, folder, where) for folder, where in pairs)
        return Call(name, pid, source, target, flags)

    def _path(self, pid, folder, where):
        try:
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                memory.seek(where)
                data = b""
                while b"\0" not in data:
                    # Not beyond the page: the next one may not be there.
                    data += memory.read(4096 - (where + len(data)) % 4096)
            text = os.fsdecode(data[: data.index(b"\0")])
            number = ctypes.c_int(folder & 0xFFFFFFFF).value
            start = os.readlink(f"/proc/{pid}/" + ("cwd" if number == -100 else f"fd/{number}"))
        except FileNotFoundError:
            raise ProcessLookupError from None
        return os.path.join(start, text)


class Turnstile:
    """A decision that holds the first call that is `chosen`, until the test lets it go.

    Attributes
    ----------
    reached : Event
        Set when a call is held.
    """

    def __init__(self, chosen):
        self._chosen = chosen
        self._lock = threading.Lock()
        self._free = threading.Event()
        self.reached = threading.Event()

    def __call__(self, call):
        with self._lock:
            first = not self.reached.is_set() and self._chosen(call)
            if first:
                self.reached.set()
        if first:
            self._free.wait()
        return 0

    def let_go(self):
        """Let the call happen."""
        self._free.set()


def wait(reached, gate, seconds=60):
    """Wait for an event in the life of a command."""
    for _ in range(int(20 * seconds)):
        if reached.wait(0.05):
            return
        if gate.process.poll() is not None:
            break
    with suppress(ProcessLookupError):
        os.killpg(gate.process.pid, signal.SIGKILL)
    raise AssertionError(f"what was waited for never came: {gate.end()}")


def works():
    """Whether a gate can be set up here."""
    try:
        with Gate(["true"], lambda call: 0) as gate:
            return gate.end()[0] == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _main(what, argument, *command):
    if what == "refuse":
        refuse(dict(word.split("=") for word in argument.split(",")))
    else:
        with socket.socket(fileno=int(argument)) as channel:
            try:
                listener = _install(dict.fromkeys(NUMBERS, _NOTIFY), listen=True)
            except OSError as error:
                channel.send(str(error.errno).encode())
                raise
            socket.send_fds(channel, [b"0"], [listener])
            os.close(listener)
    os.execvp(command[0], command)


if __name__ == "__main__":
    _main(*sys.argv[1:])
