"""What commands say, leave and return when something is not as they were told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from click.testing import CliRunner
from training_images import emt_images

from ampmpi import FingerprintDatabase, Gaussian, fingerprint
from ampmpi.cli.fingerprint import command as fingerprint_command
from ampmpi.cli.train import command
from ampmpi.errors import (
    DescriptorMismatchError,
    ImageError,
    ImageFileError,
    InputError,
    UnusableImagesError,
)
from ampmpi.fingerprinting.changes import changes
from ampmpi.parallel.comm import SerialCommunicator
from ampmpi.training import log as training_log

SHORT = ["--cutoff", "4", "--hidden", "3", "--max-steps", "3"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(*options):
    result = CliRunner().invoke(command, [*map(str, options)], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def there():
    return sorted(str(path) for path in Path().rglob("*"))


def test_a_training_says_what_it_does():
    write("set.traj", emt_images(3))
    said = train("set.traj", *SHORT, "--label", "new/t")
    lines = said.splitlines()
    assert "The log is new/t-log.txt." in lines
    assert "3 images of Cu, Pt read" in lines
    assert any(line.startswith("3 images, 0 duplicates, 0 found, 3 computed") for line in lines)
    assert lines[-1].startswith("new/t.amp: maxiter after 3 steps, training rmse ")


@pytest.mark.parametrize("option", ["force-rmse", "force-maxresid", "force-coefficient"])
def test_no_forces_and_what_is_about_forces_contradict(option):
    write("set.traj", emt_images(2))
    before = there()
    with pytest.raises(InputError, match=f"--no-forces and --{option} are given"):
        train("set.traj", *SHORT, "--no-forces", f"--{option}", 0.1)
    Path("t.toml").write_text(f"{option} = 0.1\nforces = false\n")
    with pytest.raises(InputError, match=f"--no-forces and --{option} are given"):
        train("set.traj", *SHORT, "--config", "t.toml")
    assert there() == sorted([*before, "t.toml"])
    train("set.traj", *SHORT, "--no-forces")


def without_energy():
    write("set.traj", [bulk("Cu", a=a) for a in (3.6, 3.7)])


def another_calculator():
    write("set.traj", emt_images(2))
    Path("new").mkdir()
    Path("new/t.amp").write_text("mine")


@pytest.mark.parametrize(
    ("prepare", "error"),
    [
        (lambda: None, ImageFileError),
        (lambda: Path("set.traj").write_text("no images"), ImageFileError),
        (without_energy, UnusableImagesError),
        (another_calculator, InputError),
    ],
)
def test_a_training_that_is_refused_leaves_nothing_and_gives_2(prepare, error):
    prepare()
    before = there()
    with pytest.raises(error) as caught:
        train("set.traj", *SHORT, "--label", "new/t")
    assert caught.value.exit_code == 2
    assert there() == before


def test_what_was_there_before_a_refusal_stays():
    write("set.traj", emt_images(2))
    train("set.traj", *SHORT, "--label", "new/t")
    text, before = Path("new/t-log.txt").read_text(), there()
    without_energy()
    with pytest.raises(UnusableImagesError):
        train("set.traj", *SHORT, "--label", "new/t")
    assert there() == before
    assert Path("new/t-log.txt").read_text().startswith(text)


def test_a_log_that_was_removed_while_one_waited_for_it_is_made_again(monkeypatch):
    path, calls = Path("new/t-log.txt"), []

    def claim(file, path, wait):
        calls.append(file)
        if len(calls) == 1:
            path.unlink()

    monkeypatch.setattr(training_log, "_claim", claim)
    with training_log.ExitStack() as stack:
        log = training_log.TrainingLog(stack, SerialCommunicator(), "new/t")
        log("heard")
        assert (len(calls), path.read_text()) == (2, "heard\n")


def test_images_of_which_none_can_be_fingerprinted_give_2():
    images = [bulk("Cu", cubic=True) for _ in range(2)]
    for shift, image in enumerate(images):
        image.positions[1] = image.positions[0]
        image.positions += shift / 10
    write("b.traj", images)
    options = ["b.traj", "--label", "x", "--cutoff", "4", "--derivatives"]
    result = CliRunner().invoke(fingerprint_command, options)
    assert isinstance(result.exception, ImageError)
    assert result.exception.exit_code == 2
    assert str(result.exception).startswith("2 images failed, and nothing was done:")
    # Another job may be at it already, so it stays, empty.
    assert len(FingerprintDatabase("x-fingerprints")) == 0
    for image in images:
        image.calc = SinglePointCalculator(image, energy=1.0, forces=np.zeros((4, 3)))
    write("b.traj", images)
    for option in ([], ["--skip-unusable"]):
        with pytest.raises((ImageError, InputError)) as caught:
            train("b.traj", *SHORT, "--label", "new/t", *option)
        assert caught.value.exit_code == 2
        assert not list(Path("new").glob("*.txt"))


def test_where_no_image_has_a_hash_no_database_is_made():
    image = bulk("Cu", cubic=True)
    image.positions[1] = np.nan
    write("b.xyz", image)
    Path("d.toml").write_text('cutoff = 4.0\nelements = ["Cu"]\n')
    before = there()
    options = ["b.xyz", "--label", "x", "--descriptor", "d.toml", "--derivatives"]
    result = CliRunner().invoke(fingerprint_command, options)
    assert result.exception.exit_code == 2
    assert "1 image failed, and nothing was done:" in str(result.exception)
    assert there() == before


def test_another_cutoff_is_named_before_the_checkpoint_of_the_label():
    write("set.traj", emt_images(2))
    train("set.traj", *SHORT, "--label", "t")
    with pytest.raises(DescriptorMismatchError) as caught:
        train("set.traj", *SHORT, "--label", "t", "--cutoff", 5)
    assert "(the cutoff's Rc is 4.0 in the database, 5.0 here)" in str(caught.value)
    assert "choose another label" in str(caught.value)


def test_what_was_changed_comes_before_counts_of_functions():
    made = Gaussian(cutoff=6.5).resolve(["Cu"]).parameters
    asked = Gaussian(cutoff=5).resolve(["Cu", "Pt"]).parameters
    assert changes(made, asked) == (
        "the cutoff's Rc is 6.5 in the database, 5.0 here; the elements are Cu in the database, "
        "Cu, Pt here; Cu has 8 functions in the database, 20 here"
    )
    few = [{"type": "G2", "element": "Cu", "eta": eta, "offset": 0.0} for eta in (1.0, 2.0, 3.0)]
    one, other, third = (
        Gaussian(cutoff=5, Gs={"Cu": functions}).parameters
        for functions in (
            few,
            [*few[:2], {**few[2], "eta": 4.0}],
            [dict(f, offset=1.0) for f in few],
        )
    )
    assert changes(one, other) == (
        "Cu has G2 element=Cu eta=3.0 offset=0.0 in the database only; "
        "Cu has G2 element=Cu eta=4.0 offset=0.0 here only"
    )
    assert changes(one, third) == "3 of the 3 functions of Cu differ"
    turned = Gaussian(cutoff=5, Gs={"Cu": few[::-1]}).parameters
    assert changes(one, turned) == "the functions of Cu are the same in another order or number"
    assert changes({"cutoff": 3, "Gs": [], "elements": "\x1b[2J"}, {}).count("\x1b") == 0


def test_a_dry_run_says_what_was_changed():
    fingerprint([bulk("Cu")], Gaussian(cutoff=4), label="x")
    write("a.traj", bulk("Cu"))
    done = CliRunner().invoke(
        fingerprint_command, ["a.traj", "--label", "x", "--cutoff", "3", "--dry-run"]
    )
    assert isinstance(done.exception, DescriptorMismatchError)
    assert "the cutoff's Rc is 4.0 in the database, 3.0 here" in str(done.exception)


@pytest.mark.parametrize("arguments", [["train"], ["fingerprint", "--label", "amp"]])
def test_without_a_compiler_nothing_is_begun(arguments):
    write("set.traj", emt_images(2))
    for done in range(2):
        before = there()
        refused = subprocess.run(
            [sys.executable, "-m", "ampmpi", *arguments, "set.traj"],
            env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True,
        )  # fmt: skip
        assert refused.returncode == 7
        assert refused.stderr.startswith("ampmpi: error: NUMBA_DISABLE_JIT is set, but")
        assert refused.stderr.count("\n") == 1
        assert there() == before
        if not done:  # the same with files of an earlier training
            train("set.traj", *SHORT)


def test_an_interrupt_says_step_and_file():
    images = emt_images(12)
    for image in images:
        image.calc = SinglePointCalculator(
            image, energy=np.sin(image.positions).sum(), forces=image.get_forces()
        )
    write("set.traj", images)
    options = ["--cutoff", "4", "--max-steps", "1000000", "--energy-rmse", "1e-12", "--label", "t"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ampmpi", "train", "set.traj", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    curve = Path("t-curve.txt")
    while process.poll() is None and not (curve.exists() and curve.read_text().count("\n") > 3):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    step = curve.read_text().splitlines()[-1].split()[0]
    assert error.splitlines()[-1] == (
        f"ampmpi: error: stopped after step {step} of 1000000 (SIGINT), saved in "
        "t-checkpoint.npz; start it again to go on"
    )
    assert process.returncode == 75
