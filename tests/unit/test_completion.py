"""What the shell completes, and how the programs name themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

import ampmpi
from ampmpi.cli.compress import command as compress
from ampmpi.cli.group import group

PROGRAM = Path(sys.executable).with_name


def completed(*words):
    """What bash is offered after words, of which the last is incomplete."""
    complete = BashComplete(group, {}, "ampmpi", "_AMPMPI_COMPLETE")
    return [
        (item.type, item.value) for item in complete.get_completions(list(words[:-1]), words[-1])
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("train", "im"),
        ("train", "a.traj", "--validation", "b"),
        ("train", "--config", "t"),
        ("train", "--label", "runs/"),
        ("train", "--descriptor", "f"),
        ("fingerprint", "im"),
        ("fingerprint", "--descriptor", "f"),
        ("functions", "im"),
        ("images", "im"),
        ("check", "cupt-"),
        ("merge", "new"),
        ("merge", "new", "cupt-"),
        ("compress", "cupt-"),
        ("evaluate", "cupt"),
        ("info", "cupt"),
        ("plot", "cupt"),
        ("plot", "cupt", "im"),
        ("plot", "cupt", "--calculator", "c"),
        ("plot", "cupt", "--training", "im"),
        ("evaluate", "cupt", "im", "--predictions", "p"),
        ("evaluate", "cupt", "im", "--output", "o"),
        ("functions", "im", "--output", "f"),
        ("images", "im", "--plot", "p"),
        ("jobscript", "train", "im"),
        ("jobscript", "chain", "im"),
    ],
)
def test_files_are_completed(words):
    assert completed(*words) == [("file", words[-1])]


def test_commands_and_options_are_completed():
    assert completed("fin") == [("plain", "fingerprint")]
    assert ("plain", "--force-rmse") in completed("train", "--force")


@pytest.mark.parametrize(
    ("program", "variable"),
    [("ampmpi", "_AMPMPI_COMPLETE"), ("amp-compress", "_AMP_COMPRESS_COMPLETE")],
)
def test_the_program_prints_what_the_shell_sources(program, variable):
    if not PROGRAM(program).exists():
        pytest.skip(f"{program} is not installed")
    for shell in ("bash", "zsh", "fish"):
        done = subprocess.run(
            [PROGRAM(program)], env={variable: f"{shell}_source", "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, variable in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_amp_compress_has_help(option):
    done = CliRunner().invoke(compress, [option])
    assert (done.exit_code, done.output[:6]) == (0, "Usage:"), done.output


def test_amp_compress_has_a_version():
    done = CliRunner().invoke(compress, ["--version"], prog_name="amp-compress")
    assert done.output == f"amp-compress, version {ampmpi.__version__}\n"
