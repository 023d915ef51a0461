"""Run the suites of tests, each under a time limit, and say what was skipped.

``python tests/run.py [SUITE ...]`` runs all suites or those named. The SLURM
tests, which mostly wait, run beside the others, and what they say comes as one
block when they have ended. Skipped tests are listed with their reasons; where
``CI=true`` they are a failure.
"""

from __future__ import annotations

import argparse
import codecs
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import pace

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
BIN = Path(PYTHON).parent
RANKS = (1, 2, 3, 5)
IN_CI = os.environ.get("CI", "").lower() == "true"
BESIDE = "slurm"  # this suite runs beside the others

# Each rank gets its own folder for temporaries and its own report; rank 0 speaks.
RANK_SCRIPT = """
rank=${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-0}}
export PYTEST_DEBUG_TEMPROOT="$0/rank$rank"
mkdir -p "$PYTEST_DEBUG_TEMPROOT"
[ "$rank" = 0 ] || exec >"$0/rank$rank.log" 2>&1
exec "$@" --junitxml="$0/rank$rank.xml"
"""

Say = Callable[[str], None]


def say_now(text: str) -> None:
    """Print as it comes."""
    print(text, end="", flush=True)


@dataclass
class Result:
    """What one suite gave."""

    name: str
    seconds: float = 0.0
    failed: bool = False
    closing: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def environment() -> dict[str, str]:
    """Return the environment of every test: this interpreter's tools first, one thread."""
    env = {**os.environ, **pace.YIELD, "PYTHONUNBUFFERED": "1"}
    env["PATH"] = f"{BIN}{os.pathsep}{env.get('PATH', '')}"
    for library in ("OMP", "OPENBLAS", "MKL"):
        env[f"{library}_NUM_THREADS"] = "1"
    return env


@dataclass
class Done:
    """How a command ended."""

    code: int
    output: str
    late: str = ""  # what is to be said where a limit ended it


RUNNING: set[subprocess.Popen[bytes]] = set()


def run(command: Sequence[str], limit: float, say: Say, **extra: str) -> Done:
    """Run a command in a session of its own; pass on and return what it says.

    After `limit` seconds, more on a slow machine, the whole session is killed
    and the code is 124.
    """
    say(" ".join(["$", *("..." if "\n" in word else word for word in command)]) + "\n")
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**environment(), **extra},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    RUNNING.add(process)
    try:
        output, late = listen(process, limit, say)
    finally:
        if process.poll() is None:
            stop(process)
        RUNNING.discard(process)
    return Done(124 if late else process.wait(), output, late)


def listen(process: subprocess.Popen[bytes], limit: float, say: Say) -> tuple[str, str]:
    """Pass on what a process says until it has ended; return that, and why it was stopped."""
    assert process.stdout is not None
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    start = time.monotonic()
    texts = []
    late = ""
    while True:
        if select.select([process.stdout], [], [], 0.5)[0]:
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                break
            texts.append(decoder.decode(data))
            say(texts[-1])
        elif process.poll() is not None:
            break  # what still holds the pipe is no part of the tests
        seconds = time.monotonic() - start
        if not late and seconds > pace.stretched(limit):
            late = f"stopped after {seconds:.0f} s ({pace.explained(limit)})"
            stop(process)
    if late:
        say(f"\n{late}\n")
    process.wait()
    return "".join(texts), late


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and its session: first politely, so that mpirun ends its ranks."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        for _ in range(20):
            if process.poll() is not None:
                break
            time.sleep(0.1)


def outcomes(reports: Iterable[Path]) -> dict[str, str | None]:
    """Return each test's reason to be skipped, or None if it ran, from JUnit reports.

    A test counts as run if any rank ran it.
    """
    found: dict[str, str | None] = {}
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            name = f"{case.get('classname')}::{case.get('name')}"
            skip = case.find("skipped")
            if skip is None or skip.get("type") == "pytest.xfail":
                found[name] = None
            else:
                found.setdefault(name, skip.get("message") or "no reason given")
    return found


def closing_line(done: Done) -> str:
    """Return why a command was stopped, or pytest's last line, or the last line there is."""
    if done.late:
        return done.late
    lines = [line for line in done.output.splitlines() if line.strip()]
    summaries = [line for line in lines if re.search(r"\d+ \w+.* in [\d.]+s", line)]
    return (summaries or lines or ["no output"])[-1].strip("= ")


def pytest(name: str, limit: float, say: Say, *options: str, timeout: float = 300) -> Result:
    """Run one folder of tests."""
    result = Result(name)
    with tempfile.TemporaryDirectory(prefix="ampmpi-test-") as scratch:
        report = Path(scratch, "report.xml")
        command = [PYTHON, "-m", "pytest", "-q", f"tests/{name}", "--durations=5"]
        command += [f"--timeout={pace.stretched(timeout):.0f}", f"--junitxml={report}"]
        command += [*options, *MEASURED]
        done = run(command, limit, say)
        result.failed = done.code != 0
        result.closing = [closing_line(done)]
        if report.exists():
            found = outcomes([report])
            result.skipped = {test: reason for test, reason in found.items() if reason}
    return result


def mpi(say: Say) -> Result:
    """Run tests/mpi: those that start jobs of their own, then the others on each of RANKS."""
    result = Result("mpi")
    mpirun = os.environ.get("MPIRUN") or shutil.which("mpirun", path=environment()["PATH"])
    if mpirun is None:
        result.skipped["tests/mpi"] = "no mpirun: pip install -e .[mpich]"
        return result
    common = ["-q", "tests/mpi", "--with-mpi", "-p", "no:cacheprovider", "--timeout-method=thread"]
    common += [f"--timeout={pace.stretched(180):.0f}", "--durations=5"]
    found: dict[str, str | None] = {}
    for ranks in (0, *RANKS):
        with tempfile.TemporaryDirectory(prefix="ampmpi-test-") as scratch:
            if ranks == 0:
                command = [PYTHON, "-m", "pytest", *common, "-m", "starts_jobs", *BOTH_CORES]
                command += [f"--junitxml={scratch}/rank0.xml"]
            else:
                command = [mpirun, "-n", str(ranks), "sh", "-c", RANK_SCRIPT, scratch]
                command += [PYTHON, "-m", "mpi4py", "-m", "pytest", *common]
                command += ["-x", "-m", "not starts_jobs"]
            done = run(command, 600, say)
            if done.code != 0:
                result.failed = True
                show_ranks(Path(scratch), say)
            name = f"{ranks} rank{'s' * (ranks > 1)}" if ranks else "jobs"
            result.closing.append(f"{name}: {closing_line(done)}")
            for test, reason in outcomes(sorted(Path(scratch).glob("rank*.xml"))).items():
                if found.setdefault(test, reason) is not None and reason is None:
                    found[test] = None
    result.skipped = {test: reason for test, reason in found.items() if reason}
    return result


def show_ranks(scratch: Path, say: Say) -> None:
    """Show the end of what every rank but the first said."""
    for log in sorted(scratch.glob("rank*.log")):
        last = log.read_text(errors="replace").splitlines()[-40:]
        say("\n".join([f"--- {log.stem} said last:", *last, ""]))


def commands(name: str, limit: float, say: Say, *each: Sequence[str]) -> Result:
    """Run commands that pass when they return 0."""
    result = Result(name)
    for command in each:
        done = run(command, limit, say)
        result.failed |= done.code != 0
        tool = " ".join(Path(word).name for word in command[:2])
        result.closing.append(f"{tool}: {done.late or ('failed' if done.code else 'clean')}")
    return result


def lint(say: Say) -> Result:
    """Run ruff and mypy."""
    ruff = str(BIN / "ruff")
    tools = [ruff, "check"], [ruff, "format", "--check"], [str(BIN / "mypy"), "--pretty"]
    return commands("lint", 600, say, *tools)


def docs(say: Say) -> Result:
    """Build the documentation, where a warning fails, and run its examples."""
    sphinx = [str(BIN / "sphinx-build"), "-W", "--keep-going", "-q", "-E", "-b", "html"]
    built = commands("docs", 600, say, [*sphinx, "docs", "docs/_build/html"])
    result = pytest("docs", 600, say, "-n", "2", "--dist", "load")
    result.failed |= built.failed
    result.closing = built.closing + result.closing
    return result


def interop(say: Say) -> Result:
    """Run the tests against Amp itself, in an environment of its own."""
    missing = None
    if "AMPMPI_AMP_PYTHON" not in os.environ:
        done = run(["sh", "tests/interop/install-amp.sh"], 1200, say)
        missing = closing_line(done) if done.code else None
    result = pytest("interop", 1200, say)
    if missing:
        result.skipped = {"tests/interop": missing}
    return result


MEASURED: list[str] = []  # options of pytest that measure the coverage
BOTH_CORES = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")

SUITES: dict[str, Callable[[Say], Result]] = {
    "lint": lint,
    "unit": lambda say: pytest("unit", 600, say, *BOTH_CORES),
    "mpi": mpi,
    "fault": lambda say: pytest("fault", 1200, say),
    "interop": interop,
    "slurm": lambda say: pytest("slurm", 1200, say, "-n", "3"),
    "docs": docs,
}


def report(results: Sequence[Result]) -> int:
    """Print what every suite gave and what was skipped; return the exit code."""
    print("\n" + "=" * 70)
    for result in results:
        word = "FAILED" if result.failed else "passed"
        print(f"{result.name:8} {word:7} {result.seconds:6.0f} s   {'; '.join(result.closing)}")
    skipped = [
        f"  {result.name}: {reason} ({count} test{'s' if count > 1 else ''})"
        for result in results
        for reason, count in counted(result.skipped.values())
    ]
    print("Skipped:" if skipped else "Nothing was skipped.")
    print("\n".join(skipped))
    if skipped and IN_CI:
        print("A skipped test is a failure where CI=true.")
    return int(any(result.failed for result in results) or (IN_CI and bool(skipped)))


def counted(reasons: Iterable[str]) -> list[tuple[str, int]]:
    """Return each distinct reason and how often it was given."""
    every = list(reasons)
    return [(reason, every.count(reason)) for reason in dict.fromkeys(every)]


def warm_up() -> None:
    """Compile the kernels, so that no test has to; a failure is left to the tests to tell."""
    start = time.monotonic()
    run([PYTHON, "tests/warm.py"], 600, say_now)
    print(f"kernels are compiled ({time.monotonic() - start:.0f} s)", flush=True)


def timed(suite: Callable[[Say], Result], say: Say) -> Result:
    """Run a suite and take its time."""
    start = time.monotonic()
    result = suite(say)
    result.seconds = time.monotonic() - start
    return result


def run_suites(chosen: dict[str, Callable[[Say], Result]]) -> list[Result]:
    """Run suites one after the other, and one beside them."""
    in_turn = {name: suite for name, suite in chosen.items() if name != BESIDE}
    if not in_turn:
        in_turn = chosen
    beside = chosen[BESIDE] if len(chosen) > 1 and BESIDE in chosen else None
    if beside is not None:
        os.environ[pace.BESIDE] = "2"
    said: list[str] = []
    results = []
    with ThreadPoolExecutor(1) as pool:
        waiting: Future[Result] | None = None
        try:
            if beside is not None:
                print(f"\n== {BESIDE} runs beside the others", flush=True)
                waiting = pool.submit(timed, beside, said.append)
            for name, suite in in_turn.items():
                print(f"\n== {name}", flush=True)
                results.append(timed(suite, say_now))
            if waiting is not None:
                if not waiting.done():
                    print(f"\n== {BESIDE} still runs", flush=True)
                results.append(waiting.result())
        finally:
            for process in list(RUNNING):
                stop(process)
            if said:
                print(f"\n== {BESIDE}\n{''.join(said)}", flush=True)
    return results


def main() -> int:
    """Run the suites that the command line names."""
    parser = argparse.ArgumentParser(description="Run the suites of tests.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
    parser.add_argument("--soak", type=int, metavar="SECONDS", help="long fault tests only")
    parser.add_argument("--coverage", action="store_true", help="of each package, by pytest")
    options = parser.parse_args()
    unknown = set(options.suites) - set(SUITES)
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}: there are {', '.join(SUITES)}")
    if options.soak:
        os.environ["AMPMPI_SOAK_SECONDS"] = str(options.soak)
        limit = 3600 + 4 * options.soak
        chosen: dict[str, Callable[[Say], Result]] = {
            "fault": lambda say: pytest("fault", limit, say, "-s", timeout=0)
        }
    else:
        chosen = {name: SUITES[name] for name in options.suites or SUITES}
    if set(chosen) - {"lint", "docs"}:
        os.environ[pace.NAME] = str(pace.measure())
        print(f"limits are multiplied by {pace.slowness():.1f}: so many times as slow is this "
              "machine now as the one that they are made for", flush=True)  # fmt: skip
        warm_up()
    if options.coverage:
        MEASURED.extend(("--cov", "--cov-append", "--cov-report="))
        (ROOT / ".coverage").unlink(missing_ok=True)
    code = report(run_suites(chosen))
    if options.coverage:
        show_coverage()
    return code


def show_coverage() -> None:
    """Print the coverage of each package."""
    with tempfile.TemporaryDirectory(prefix="ampmpi-test-") as scratch:
        file = f"{scratch}/coverage.json"
        subprocess.run([PYTHON, "-m", "coverage", "json", "-q", "-o", file], cwd=ROOT, check=True)
        with open(file, "rb") as stream:
            subprocess.run([PYTHON, "tests/covered.py"], cwd=ROOT, stdin=stream, check=True)


if __name__ == "__main__":
    sys.exit(main())
