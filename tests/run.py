"""Run the suites of tests, each under a time limit, and say what was skipped.

``python tests/run.py [SUITE ...]`` runs all suites or those named. Skipped
tests are listed with their reasons; where ``CI=true`` they are a failure.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
BIN = Path(PYTHON).parent
RANKS = (1, 2, 3, 5)
IN_CI = os.environ.get("CI", "").lower() == "true"

# Each rank gets its own folder for temporaries and its own report; rank 0 speaks.
RANK_SCRIPT = """
rank=${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-0}}
export PYTEST_DEBUG_TEMPROOT="$0/rank$rank"
mkdir -p "$PYTEST_DEBUG_TEMPROOT"
[ "$rank" = 0 ] || exec >"$0/rank$rank.log" 2>&1
exec "$@" --junitxml="$0/rank$rank.xml"
"""


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
    env = dict(os.environ, PYTHONUNBUFFERED="1")
    env["PATH"] = f"{BIN}{os.pathsep}{env.get('PATH', '')}"
    for library in ("OMP", "OPENBLAS", "MKL"):
        env[f"{library}_NUM_THREADS"] = "1"
    return env


def run(command: Sequence[str], limit: float) -> tuple[int, str]:
    """Run a command in a session of its own; print and return what it says.

    After `limit` seconds the whole session is killed and the code is 124.
    """
    print("$", *("..." if "\n" in word else word for word in command), flush=True)
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    previous = signal.signal(signal.SIGALRM, lambda *_: stop(process))
    signal.setitimer(signal.ITIMER_REAL, limit)
    lines = []
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        code = process.wait()
    except BaseException:
        stop(process)
        raise
    finally:
        late = signal.setitimer(signal.ITIMER_REAL, 0)[0] == 0.0
        signal.signal(signal.SIGALRM, previous)
    if late:
        print(f"stopped after {limit:.0f} s", flush=True)
        code = 124
    return code, "".join(lines)


def stop(process: subprocess.Popen[str]) -> None:
    """End a process and its session: first politely, so that mpirun ends its ranks."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        time.sleep(2)


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


def closing_line(output: str) -> str:
    """Return pytest's last line, or the last line there is."""
    lines = [line for line in output.splitlines() if line.strip()]
    summaries = [line for line in lines if re.search(r"=+ .* in [\d.]+", line)]
    return (summaries or lines or ["no output"])[-1].strip("= ")


def pytest(name: str, limit: float, *options: str) -> Result:
    """Run one folder of tests."""
    result = Result(name)
    with tempfile.TemporaryDirectory(prefix="ampmpi-test-") as scratch:
        report = Path(scratch, "report.xml")
        command = [PYTHON, "-m", "pytest", "-q", f"tests/{name}", "--durations=5"]
        command += [f"--junitxml={report}", *options]
        code, output = run(command, limit)
        result.failed = code != 0
        result.closing = [closing_line(output)]
        if report.exists():
            found = outcomes([report])
            result.skipped = {test: reason for test, reason in found.items() if reason}
    return result


def mpi() -> Result:
    """Run tests/mpi on every number of ranks."""
    result = Result("mpi")
    mpirun = os.environ.get("MPIRUN") or shutil.which("mpirun", path=environment()["PATH"])
    if mpirun is None:
        result.skipped["tests/mpi"] = "no mpirun: pip install -e .[mpich]"
        return result
    found: dict[str, str | None] = {}
    for ranks in RANKS:
        with tempfile.TemporaryDirectory(prefix="ampmpi-test-") as scratch:
            command = [mpirun, "-n", str(ranks), "sh", "-c", RANK_SCRIPT, scratch]
            command += [PYTHON, "-m", "mpi4py", "-m", "pytest", "-q", "tests/mpi", "--with-mpi"]
            command += ["-x", "-p", "no:cacheprovider", "--timeout=180", "--timeout-method=thread"]
            code, output = run(command, 600)
            if code != 0:
                result.failed = True
                show_ranks(Path(scratch))
            result.closing.append(f"{ranks} ranks: {closing_line(output)}")
            for test, reason in outcomes(sorted(Path(scratch).glob("rank*.xml"))).items():
                if found.setdefault(test, reason) is not None and reason is None:
                    found[test] = None
    result.skipped = {test: reason for test, reason in found.items() if reason}
    return result


def show_ranks(scratch: Path) -> None:
    """Print the end of what every rank but the first said."""
    for log in sorted(scratch.glob("rank*.log")):
        print(f"--- {log.stem} said last:")
        print("\n".join(log.read_text(errors="replace").splitlines()[-40:]), flush=True)


def commands(name: str, limit: float, *each: Sequence[str]) -> Result:
    """Run commands that pass when they return 0."""
    result = Result(name)
    for command in each:
        code, _ = run(command, limit)
        result.failed |= code != 0
        tool = " ".join(Path(word).name for word in command[:2])
        result.closing.append(f"{tool}: {'failed' if code else 'clean'}")
    return result


def lint() -> Result:
    """Run ruff and mypy."""
    ruff = str(BIN / "ruff")
    return commands(
        "lint", 600, [ruff, "check"], [ruff, "format", "--check"], [str(BIN / "mypy"), "--pretty"]
    )


def docs() -> Result:
    """Build the documentation; a warning fails."""
    sphinx = [str(BIN / "sphinx-build"), "-W", "--keep-going", "-q", "-E", "-b", "html"]
    return commands("docs", 600, [*sphinx, "docs", "docs/_build/html"])


def interop() -> Result:
    """Run the tests against Amp itself, in an environment of its own."""
    missing = None
    if "AMPMPI_AMP_PYTHON" not in os.environ:
        code, output = run(["sh", "tests/interop/install-amp.sh"], 1200)
        missing = closing_line(output) if code else None
    result = pytest("interop", 1200)
    if missing:
        result.skipped = {"tests/interop": missing}
    return result


SUITES: dict[str, Callable[[], Result]] = {
    "lint": lint,
    "unit": lambda: pytest("unit", 900),
    "mpi": mpi,
    "fault": lambda: pytest("fault", 1500),
    "interop": interop,
    "slurm": lambda: pytest("slurm", 1500),
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


def main() -> int:
    """Run the suites that the command line names."""
    parser = argparse.ArgumentParser(description="Run the suites of tests.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
    parser.add_argument("--soak", type=int, metavar="SECONDS", help="long fault tests only")
    options = parser.parse_args()
    unknown = set(options.suites) - set(SUITES)
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}: there are {', '.join(SUITES)}")
    if options.soak:
        os.environ["AMPMPI_SOAK_SECONDS"] = str(options.soak)
        chosen = {"fault": lambda: pytest("fault", 3600 + 4 * options.soak, "-s", "--timeout=0")}
    else:
        chosen = {name: SUITES[name] for name in options.suites or SUITES}
    results = []
    for name, suite in chosen.items():
        print(f"\n== {name}", flush=True)
        start = time.monotonic()
        result = suite()
        result.seconds = time.monotonic() - start
        results.append(result)
    return report(results)


if __name__ == "__main__":
    sys.exit(main())
