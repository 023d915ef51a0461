from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ampmpi.cli import jobscript
from ampmpi.cli.jobscript import command, fill, templates
from ampmpi.errors import InputError

KINDS = ["fingerprint", "train", "committee", "compress", "chain", "env"]
PARALLEL = ["fingerprint", "train", "committee"]
command_of = jobscript.command_of


@pytest.fixture(autouse=True)
def commands_of_jobs(monkeypatch):
    """The jobs' own commands, as far as their arguments matter here."""

    @click.command()
    @click.argument("images", nargs=-1, required=True)
    @click.option("--label", required=True)
    @click.option("--dblabel")
    @click.option("--derivatives", is_flag=True)
    @click.option("--seed", type=int)
    @click.option("--hidden", multiple=True)
    def stand_in(**_: object) -> None:
        raise AssertionError("a job was run")

    monkeypatch.setattr(jobscript, "command_of", lambda kind: stand_in)


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def shipped(kind: str) -> str:
    return (templates() / f"{kind}.sh").read_text()


def after_bash(script: str, show: str, *arguments: str) -> list[str]:
    """Run a script's settings in bash and return the words that `show` gives."""
    settings, _, _ = script.partition("# ---- From here on")
    done = subprocess.run(
        ["bash", "-c", f"{settings}\nprintf '%s\\n' {show}", "job.sh", *arguments],
        capture_output=True, text=True, check=True, env={"SLURM_ARRAY_TASK_ID": "7"},
    )  # fmt: skip
    return done.stdout.splitlines()


@pytest.mark.parametrize("kind", ["fingerprint", "train", "committee", "compress", "env"])
def test_without_options_the_template_is_printed_as_shipped(kind):
    assert printed(kind) == shipped("env.example" if kind == "env" else kind)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("exclusive", "--exclusive"),
        ("hold", "--hold"),
        ("no-requeue", "--no-requeue"),
        ("comment=a b", '--comment="a b"'),
        ('comment=a "b" #c', r'--comment="a \"b\" #c"'),
        ("gres=gpu:2", "--gres=gpu:2"),
    ],
)
def test_any_option_of_sbatch(given, line):
    """Values are quoted as sbatch reads them; tests/slurm submits some of these."""
    assert f"#SBATCH {line}" in printed("fingerprint", "--sbatch", given).splitlines()


def test_options_become_directives_and_nothing_else_changes():
    script = printed(
        "fingerprint", "--nodes", "4", "--ntasks-per-node", "32", "--time", "04:00:00",
        "--partition", "long", "--sbatch", "mem-per-cpu=2G",
    )  # fmt: skip
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", script, re.M))
    assert directives["nodes"] == "4"
    assert directives["ntasks-per-node"] == "32"
    assert directives["time"] == "04:00:00"
    assert directives["partition"] == "long"
    assert directives["mem-per-cpu"] == "2G"
    other = [line for line in script.splitlines() if not line.startswith("#SBATCH")]
    assert other == [x for x in shipped("fingerprint").splitlines() if not x.startswith("#SBATCH")]


def test_directives_stay_in_one_block_at_the_top():
    """sbatch stops reading at the first line that is neither a comment nor empty."""
    lines = printed("committee", "--account", "a", "--sbatch", "qos=b").splitlines()
    numbers = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_arguments_reach_the_command_as_they_were_given():
    words = [
        "a b.traj", "it's.xyz@0:5", "$HOME/*.traj", "--label", "x;y", "--derivatives", "5,5",
        'a"b', "a\\b\\", "`ls`", "$(ls)", "~", "ä!", "a=b", "",
    ]  # fmt: skip
    script = printed("fingerprint", "--", *words)
    assert after_bash(script, '"${arguments[@]}"') == words


@pytest.mark.parametrize("kind", PARALLEL)
def test_packs_reach_the_jobs_own_command(kind, monkeypatch):
    monkeypatch.setattr(jobscript, "command_of", command_of)
    label = [] if kind == "committee" else ["--label", "x"]
    words = ["a.traj", "--packs", "--pack-size", "64", "--pack-seconds", "60", *label]
    given = after_bash(printed(kind, "--", *words), '"${arguments[@]}"')
    assert given[: len(words)] == words
    with pytest.raises(InputError, match="would refuse this: --pack-size needs --packs"):
        printed(kind, "--", "a.traj", "--pack-size", "64", *label)


def test_packs_reach_the_jobs_of_a_chain(monkeypatch):
    monkeypatch.setattr(jobscript, "command_of", command_of)
    script = printed("chain", "--fingerprint", "--derivatives --packs", "--train", "--packs")
    assert after_bash(script, '"${fingerprint[@]}" "${train[@]}"') == [
        "--derivatives", "--packs", "--packs",
    ]  # fmt: skip
    with pytest.raises(InputError, match="fingerprint would refuse this: --pack-size needs"):
        printed("chain", "--fingerprint", "--pack-size 64")


@pytest.mark.parametrize("kind", ["fingerprint", "train", "compress"])
def test_arguments_of_sbatch_replace_those_of_the_script(kind):
    assert after_bash(shipped(kind), '"${arguments[@]}"', "x y", "--z") == ["x y", "--z"]


def test_options_are_taken_in_any_order():
    first = printed("fingerprint", "--nodes", "4", "--", "a.traj", "--label", "x", "--derivatives")
    for given in (
        ("a.traj", "--label", "x", "--nodes", "4", "--derivatives"),
        ("--label", "x", "a.traj", "--derivatives", "--nodes=4"),
    ):
        script = printed("fingerprint", *given)
        assert "#SBATCH --nodes=4" in script.splitlines()
        words = [word for word in given if word not in ("--nodes", "4", "--nodes=4")]
        assert after_bash(script, '"${arguments[@]}"') == words
    assert printed("fingerprint", "a.traj", "--label", "x", "--derivatives", "--nodes=4") == first
    assert printed("chain", "a.traj", "--nodes", "4") == printed("chain", "--nodes", "4", "a.traj")


def test_the_scripts_are_those_that_the_parts_make():
    generator = runpy.run_path(str(templates() / "parts" / "generate.py"))
    for name, text in generator["scripts"]().items():
        assert (templates() / name).read_text() == text, (
            f"jobscripts/{name} differs from its parts: run make jobscripts"
        )


def test_a_committee_gives_each_member_its_label_and_seed():
    script = printed("committee", "--label", "my set", "--", "images.traj", "--dblabel", "d")
    assert after_bash(script, '"${arguments[@]}"') == [
        "images.traj", "--dblabel", "d", "--label", "my set-7", "--seed", "7",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", PARALLEL)
def test_launcher_mpi_and_restarts(kind):
    script = printed(kind, "--launcher", "mpirun", "--mpi", "pmix", "--restarts", "0")
    assert after_bash(script, '"$launcher" "$mpi" "$restarts"') == ["mpirun", "pmix", "0"]


def test_chain_passes_on_what_it_was_given():
    script = printed(
        "chain", "--nodes", "8", "--launcher", "mpirun", "--partition", "long", "--sbatch",
        "qos=low", "--dblabel", "d", "--array", "0-9", "--train", "--hidden '10 10'",
        "--time", "02:00:00", "a b.traj",
    )  # fmt: skip
    assert after_bash(script, '"${images[@]}" "$dblabel" "$array" "${train[@]}"') == [
        "a b.traj", "d", "0-9", "--hidden", "10 10",
    ]  # fmt: skip
    assert after_bash(script, '"${resources[@]}"') == [
        "--nodes", "8", "--ntasks-per-node", "2", "--launcher", "mpirun",
    ]  # fmt: skip
    assert after_bash(script, '"$time"') == ["02:00:00"]
    assert after_bash(script, '"${site[@]}"') == ["--partition", "long", "--sbatch", "qos=low"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fingerprint", "--", "a.traj", "--label", "x", "--derivative"], "--derivative"),
        (["fingerprint", "--", "a.traj"], "--label"),
        (["train", "--", "--label", "x"], "IMAGES"),
        (["committee", "--", "a.traj", "--seed=1"], "each member"),
        (["committee", "--", "a.traj", "--label", "x"], "each member"),
        (["fingerprint", "--sbatch", "constraint="], "NAME=VALUE"),
        (["fingerprint", "--sbatch", "a b"], "NAME=VALUE"),
        (["fingerprint", "--", "a.traj", "--nodes", "4"], "--nodes, go before the --"),
        (["fingerprint", "--mem", "4G", "a.traj", "--label", "x"], "give --sbatch mem=4G"),
        (["fingerprint", "a.traj", "--label", "x", "--mem=4G"], "give --sbatch mem=4G"),
        (["train", "a.traj", "--label", "x", "--qos", "a b"], 'give --sbatch qos="a b"'),
        (["train", "--exclusive", "a.traj", "--label", "x"], "give --sbatch exclusive"),
        (["compress", "a.traj", "--label", "x", "--mem"], "give --sbatch mem=VALUE"),
        (["chain", "--mem", "4G", "a.traj"], "give --sbatch mem=4G"),
        (["chain", "--bogus", "a.traj"], "would refuse this.*--bogus"),
        (["chain", "a.traj", "--derivatives"], "within --fingerprint or --train"),
        (["chain", "--train", "--hidden 5 --bogus", "a.traj"], "train would refuse.*--bogus"),
        (["chain", "--fingerprint", "--bogus", "a.traj"], "fingerprint would refuse.*--bogus"),
        (["chain", "--fingerprint", "it's", "a.traj"], "--fingerprint it's: No closing quotation"),
        (["chain", "--train", "--seed 3", "a.traj"], "each member"),
        (["chain", "--fingerprint", "--dblabel x", "a.traj"], "share one --dblabel"),
        (["fingerprint", "--time", "1:00\n#SBATCH --x"], "line break"),
    ],
)
def test_what_the_job_would_refuse_is_refused_now(arguments, said):
    with pytest.raises(InputError, match=said):
        CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_an_option_of_jobscript_that_is_unknown_is_no_argument():
    result = CliRunner().invoke(command, ["fingerprint", "--node", "4"])
    assert result.exit_code != 0


def test_fill_knows_every_setting():
    with pytest.raises(AssertionError, match="no setting"):
        fill("#!/bin/bash\nx=1\n", {}, {"y": "2"})


@pytest.mark.parametrize("kind", PARALLEL)
def test_what_every_job_needs(kind):
    script = shipped(kind)
    for needed in (
        "#SBATCH --signal=B:USR1@", "#SBATCH --open-mode=append", "#SBATCH --requeue",
        "--kill-on-bad-exit=1", "OMP_NUM_THREADS=1", "scontrol requeue",
    ):  # fmt: skip
        assert needed in script


@pytest.mark.parametrize("kind", KINDS)
def test_scripts_are_short_and_parse(kind, tmp_path):
    script = printed(kind)
    assert len(script.splitlines()) <= 70
    file = tmp_path / "job.sh"
    file.write_text(script)
    subprocess.run(["bash", "-n", file], check=True)


ODD = ("a b.traj", "$HOME/$(x)/`y`.traj", "it's.traj", "é~!.traj", "--label", "a=b")
ODD_JOBS = {
    "fingerprint": ("--partition", "a b", "--sbatch", 'comment=a "b" #c', "--", *ODD),
    "train": ("--", *ODD, "--hidden", "5,5"),
    "committee": ("--label", "$x,y", "--", *ODD[:4], "--hidden", "5,5"),
    "compress": ("--sbatch", "exclusive", "--", *ODD),
    "chain": ("--train", "--hidden 5,5", "--array", "0,2", "--sbatch", "qos=a b", *ODD[:4]),
}


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck")
@pytest.mark.parametrize("arguments", [*([kind] for kind in KINDS), *ODD_JOBS.items()], ids=str)
def test_shellcheck(arguments, tmp_path):
    """Whoever keeps scripts clean can keep these, wherever they lie and whatever is filled in."""
    if isinstance(arguments, tuple):
        arguments = [arguments[0], *arguments[1]]
    file = tmp_path / "job.sh"
    file.write_text(printed(*arguments))
    done = subprocess.run(
        ["shellcheck", file.name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


START = "from ampmpi.cli.main import ampmpi; ampmpi()"
FAKE = """#!/bin/bash
echo "$(basename "$0") $*" >>calls
if [ "$(basename "$0")" = sbatch ]; then
    cat >>scripts
    if [ "$(grep -c ^sbatch calls)" -gt "$ALLOWED" ]; then exit 1; fi
    grep -c ^sbatch calls
fi
"""


def run_chain(folder: Path, script: str, allowed: int) -> tuple[int, list[str], str]:
    """Run a chain; return its code, the calls of sbatch and scancel, and the jobs' scripts."""
    (folder / "bin").mkdir()
    for name in ("sbatch", "scancel"):
        (folder / "bin" / name).write_text(FAKE)
        (folder / "bin" / name).chmod(0o755)
    ampmpi = folder / "bin" / "ampmpi"
    ampmpi.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{START}" "$@"\n')
    ampmpi.chmod(0o755)
    (folder / "chain.sh").write_text(script)
    done = subprocess.run(
        ["bash", "chain.sh"], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "ALLOWED": str(allowed)},
    )  # fmt: skip
    texts = [(folder / name).read_text() if (folder / name).exists() else ""
             for name in ("calls", "scripts")]  # fmt: skip
    return done.returncode, texts[0].splitlines(), texts[1]


def test_a_chain_compresses_the_databases_that_it_shares(tmp_path):
    script = printed("chain", "--dblabel", "/scratch/x y/cupt", "--time", "02:00:00", "a.traj")
    code, calls, scripts = run_chain(tmp_path, script, 3)
    assert code == 0
    assert [call.split()[0] for call in calls] == ["sbatch"] * 3
    assert 'arguments=(--wait 1800 --label "/scratch/x y/cupt")' in scripts
    assert scripts.count("#SBATCH --time=02:00:00") == 3


def test_a_chain_is_submitted_whole_or_not_at_all(tmp_path):
    (tmp_path / "a").mkdir()
    script = printed("chain", "a.traj").replace("train=()", "train=(--bogus)")
    code, calls, _ = run_chain(tmp_path / "a", script, 3)
    assert code != 0
    assert calls == []
    (tmp_path / "b").mkdir()
    code, calls, _ = run_chain(tmp_path / "b", printed("chain", "a.traj"), 2)
    assert code != 0
    assert calls[-1] == "scancel 1 2"


def test_the_example_in_the_help_is_as_it_was_written():
    lines = CliRunner().invoke(command, ["--help"]).output.splitlines()
    start = next(i for i, line in enumerate(lines) if "ampmpi jobscript" in line)
    assert [line.strip() for line in lines[start : start + 4]] == [
        "ampmpi jobscript fingerprint --nodes 4 --ntasks-per-node 32 \\",
        "--time 04:00:00 \\",
        "-- images.traj --label amp --derivatives > job.sh",
        "sbatch job.sh",
    ]
    assert "\\b" not in "".join(lines)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--nodes", "3", "--sbatch", "nodes=7"], "--nodes is given twice"),
        (["--time", ""], "--time is empty"),
    ],
)
def test_options_that_contradict_or_say_nothing_are_refused(options, reason):
    result = CliRunner().invoke(
        command, ["fingerprint", *options, "--", "images.traj", "--label", "a"]
    )
    assert reason in str(result.exception)


def test_a_jobs_command_is_not_asked_for_its_help():
    result = CliRunner().invoke(command, ["fingerprint", "--", "--help"])
    assert "leave --help out" in str(result.exception)
    assert result.stdout == ""
