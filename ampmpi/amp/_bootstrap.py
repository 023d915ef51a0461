"""Amp's BootStrap: an ensemble of calculators, each trained on a draw of the images.

Its `train` writes a script for each calculator and starts it, in a queueing system or here; a
further call looks what has become of them, and bundles them when all have converged. What lies
on disk is laid out as Amp does it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from ampmpi.amp._logger import Logger, now
from ampmpi.calculator import Amp
from ampmpi.committee import ensemble_members
from ampmpi.errors import InputError
from ampmpi.files.whole import read_whole
from ampmpi.images import hash_images
from ampmpi.model import ensemble
from ampmpi.model.amp_file import LARGEST
from ampmpi.parallel.comm import world
from ampmpi.parallel.failure import share

if TYPE_CHECKING:
    from ase import Atoms

    from ampmpi.model.layers import Array

calc_text = """
from amp import Amp
from amp.descriptor.gaussian import Gaussian
from amp.model.neuralnetwork import NeuralNetwork

calc = Amp(descriptor=Gaussian(), model=NeuralNetwork(), dblabel="../amp-db")
"""

train_line = "calc.train(images=trainfile)"

headerlines = ""

script = """#!/usr/bin/env python3
${headerlines}

import json
import sys
from pathlib import Path

from ampmpi.cli.run import AmpNames

sys.meta_path.insert(0, AmpNames())  # "amp" means ampmpi

from amp.utilities import Logger, TrainingConvergenceError

ensemble_index = int(Path.cwd().name)
trainfile = "../training-images/%i.traj" % ensemble_index

${calc_text}

nft_file = Path("../saved-info/nft_ids.json")
if nft_file.exists():
    nft_ids = [tuple(item) for item in json.loads(nft_file.read_text())]
    calc.model.lossfunction.parameters["nft_ids"] = nft_ids

converged = True
try:
    ${train_line}
except TrainingConvergenceError:
    converged = False

Logger("converged", overwrite=True)(str(converged))
"""

LOG, RESULT, CONVERGED = "amp-log.txt", "amp.amp", "converged"


class BootStrap:
    """An ensemble of calculators, whose predictions tell how sure they are.

    Parameters
    ----------
    load : str, optional
        An .ensemble file, of Amp or of ours.
    log : Logger, optional
        Where it says what it does; standard output by default.
    label : str
        Label of the calculators that are loaded.
    retrain_initiated, from_scratch : bool
        Refused if set: they belong to `new_images`, which `train` does not take.

    Attributes
    ----------
    ensemble : list of Amp
        The calculators that were loaded. ``Committee(ensemble)`` is an ASE calculator of them.

    Raises
    ------
    ModelError
        The file is no ensemble.
    """

    def __init__(
        self,
        load: str | os.PathLike[str] | None = None,
        log: Any = None,
        label: str = "amp",
        retrain_initiated: bool = False,
        from_scratch: bool = False,
    ) -> None:
        if retrain_initiated or from_scratch:
            raise InputError(
                "BootStrap: an ensemble is not trained further with new images here; train one on "
                "all images"
            )
        self.log = Logger(sys.stdout) if log is None else log
        self.log("=" * 70)
        self.log("Amp bootstrap initiated.")
        self.log(f"Date: {now(with_utc=True)}")
        self.ensemble: list[Amp] = []
        if load is not None:
            self.ensemble = ensemble_members(load, label=label)
            self.log(f"Loaded {os.fspath(load)} of {len(self.ensemble)} calculators.")

    def get_potential_energy(
        self,
        atoms: Atoms,
        output: Sequence[float | str] = (0.5,),
        k: int | None = None,
        mean: bool = True,
    ) -> Any:
        """Predict an energy, in eV.

        Parameters
        ----------
        atoms : ase.Atoms
            The image.
        output : sequence of float, and 'e' at its end
            Quantiles, from 0 to 1, that are returned; 'e' adds all predictions.
        k : int, optional
            Use the first k calculators.
        mean : bool
            Where `output` names a single quantile, return the mean instead.

        Returns
        -------
        float, or list of float
            The mean, or what `output` names. Quantiles are those of scipy's ``mquantiles``.

        Raises
        ------
        InputError
            There is no calculator, or `output` is wrong.
        """
        energies = [calc.get_potential_energy(atoms) for calc in self._first(k)]
        return _output(np.array(energies, dtype=float), output, mean, _mquantiles)

    def get_forces(
        self,
        atoms: Atoms,
        output: Sequence[float | str] = (0.5,),
        k: int | None = None,
        mean: bool = True,
    ) -> Any:
        """Predict forces, in eV/Å: (n_atoms, 3) arrays, or a list of them.

        The parameters are those of `get_potential_energy`; quantiles are taken for each component,
        and are those of numpy's ``percentile``.
        """
        forces = np.array([calc.get_forces(atoms) for calc in self._first(k)])
        return _output(forces, output, mean, lambda all_, q: np.percentile(all_, 100.0 * q, axis=0))

    def get_atomic_energies(
        self,
        atoms: Atoms,
        output: Sequence[float | str] = (0.5,),
        k: int | None = None,
        mean: bool = True,
    ) -> Any:
        """Predict the energy of each atom, in eV: (n_atoms,) arrays, or a list of them.

        The parameters are those of `get_potential_energy`.
        """
        energies = np.array([calc.get_potential_energies(atoms) for calc in self._first(k)])
        return _output(energies, output, mean, _mquantiles)

    def _first(self, k: int | None) -> list[Any]:
        found = self.ensemble if k is None else self.ensemble[:k]
        if not found:
            raise InputError("BootStrap: there is no calculator; load an .ensemble file")
        return found

    def train(
        self,
        images: Any,
        n: int = 50,
        calc_text: str = calc_text,
        headerlines: str = headerlines,
        start_command: str = "python run.py",
        sleep: float = 0.1,
        expired: float = 3600.0,
        train_line: str = train_line,
        label: str = "bootstrap",
        new_images: None = None,
        nft_ids: Sequence[tuple[str, int]] | None = None,
        archive: bool = True,
        remove_dir: bool = False,
    ) -> dict[str, Any]:
        """Start the trainings of an ensemble or, where that is done, look what became of them.

        Each calculator has a folder LABEL-training/NUMBER with a script ``run.py``. A training
        that has not converged or whose log is too old is started again. When all have
        converged, they are bundled as LABEL.ensemble.

        Parameters
        ----------
        images : list of ase.Atoms, or file name
            The images; each calculator is trained on as many, drawn at random from them.
        n : int
            Number of calculators.
        calc_text : str
            Python text, in Amp's words, that makes the calculator `calc`.
        headerlines : str
            First lines of the scripts, such as ``#SBATCH --time=01:00:00``.
        start_command : str
            Shell command that starts a script in its folder, such as ``sbatch run.py`` or
            ``mpirun -n 4 python run.py``; ``python`` is the one that runs this.
        sleep : float
            Seconds between starts.
        expired : float
            Seconds after which a log that has not grown is one of a dead training.
        train_line : str
            Python line that trains; `trainfile` is the name of the images' file.
        label : str
            Prefix of the folder and of the ensemble.
        new_images : None
            Refused: train an ensemble on all images instead.
        nft_ids : list of (hash, atom), optional
            Images of which the forces on a single atom are trained.
        archive : bool
            Pack the folder into LABEL-training.tar.gz at the end.
        remove_dir : bool
            Remove the packed folder.

        Returns
        -------
        dict
            ``complete``, whether the ensemble is there; else ``n_converged``, too.

        Raises
        ------
        InputError
            The script runs under ``mpirun``, or `new_images` are given.
        """
        if world().size > 1:
            raise share(
                InputError(
                    "BootStrap.train starts jobs of its own: run this script without mpirun, and "
                    "give it in start_command, as in 'mpirun -n 4 python run.py'"
                )
            )
        if new_images is not None:
            raise InputError(
                "BootStrap.train: new_images are not taken here; train an ensemble on all images"
            )
        folder = Path(f"{label}-training")
        start = _Starter(self.log, start_command, sleep)
        if folder.exists():
            self.log("Path exists. Checking for which jobs are finished.")
            return self._manage(folder, n, label, expired, start, archive, remove_dir)
        self._draw(folder, images, n)
        if nft_ids:
            (folder / "saved-info").mkdir()
            pairs = [(str(key), int(atom)) for key, atom in nft_ids]
            (folder / "saved-info" / "nft_ids.json").write_text(json.dumps(pairs))
        text = Template(script).substitute(
            headerlines=headerlines, calc_text=calc_text, train_line=train_line
        )
        self.log("Creating and submitting jobs.")
        places = [folder / str(number) for number in range(n)]
        for place in places:
            place.mkdir()
            (place / "run.py").write_text(text, encoding="utf-8")
        for place in places:
            start(place)
        self.ensemble = []
        return {"complete": False, "n_converged": 0}

    def _draw(self, folder: Path, images: Any, n: int) -> None:
        """Draw the images of each calculator, with numpy's global random numbers as Amp does."""
        from ase.io import write

        hashed = hash_images(images)
        if not hashed:
            raise InputError("BootStrap.train: there is no image to train on")
        self.log(f"{len(hashed)} images in training set after hashing.")
        place = folder / "training-images"
        place.mkdir(parents=True)
        self.log(f"Creating bootstrapped training images in {place}.")
        keys = list(hashed)
        for number in range(n):
            drawn = [hashed[key] for key in bootstrap(keys)]
            write(place / f"{number}.traj", drawn, parallel=False)

    def _manage(
        self,
        folder: Path,
        n: int,
        label: str,
        expired: float,
        start: _Starter,
        archive: bool,
        remove_dir: bool,
    ) -> dict[str, Any]:
        """Look what became of the trainings; bundle them if all have converged."""
        places = [folder / str(number) for number in range(n)]
        lacking = [place for place in places if not (place / "run.py").exists()]
        if lacking:
            raise InputError(
                f"{lacking[0]} holds no run.py: {folder} is of another ensemble, or was not made "
                "in full; remove it to start over"
            )
        counts = dict.fromkeys(_STATES, 0)
        for number, place in enumerate(places):
            state, remark = _state_of(place, expired)
            counts[state] += 1
            self.log(f"{number}: {remark}")
            if state in (UNCONVERGED, EXPIRED):
                _clean(place)
                start(place)
                self.log("  ---> restarted.")
        self.log("\nStats:")
        for state, count in counts.items():
            self.log(f"{count:10d} {state}")
        self.log(f"{'=' * 10}\n{n:10d} total\n")
        if counts[DONE] < n:
            self.log("Not all runs converged; not creating bundled amp calculator.")
            return {"complete": False, "n_converged": counts[DONE]}
        self.log("Creating bundled amp calculator.")
        texts = [read_whole(place / RESULT, LARGEST).decode() for place in places]
        ensemble.write_texts(f"{label}{ensemble.SUFFIX}", texts)
        self.log(f'Saved in json format as "{label}{ensemble.SUFFIX}".')
        if archive:
            self.log("Converting training directory into tar archive...")
            archive_directory(str(folder), remove_dir)
            self.log("...converted.")
        return {"complete": True}


DONE, NOT_STARTED, RUNNING = "converged", "not yet started", "apparently still running"
UNCONVERGED, EXPIRED = "did not converge, restarted", "expired, restarted"
_STATES = (DONE, NOT_STARTED, RUNNING, UNCONVERGED, EXPIRED)


def _state_of(place: Path, expired: float) -> tuple[str, str]:
    """Return what has become of a training, and a remark on it."""
    if (place / CONVERGED).exists():
        if (place / CONVERGED).read_text().strip() == "True":
            return DONE, "Converged."
        return UNCONVERGED, "Not converged. Cleaning up directory to restart job."
    try:
        age = time.time() - (place / LOG).stat().st_mtime
    except FileNotFoundError:
        return NOT_STARTED, f"Not started; no {LOG} file."
    remark = f"Still running? No converged file. Age: {age / 3600.0:.1f} hr"
    if age > expired:
        return EXPIRED, f"{remark}. Assumed expired."
    return RUNNING, remark


def _clean(place: Path) -> None:
    """Remove everything of a training but its script."""
    for path in place.iterdir():
        if path.name == "run.py":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


class _Starter:
    """Starts the script of a training in its folder."""

    def __init__(self, log: Any, command: str, sleep: float) -> None:
        self.log, self.sleep = log, sleep
        python = shlex.quote(str(Path(sys.executable).parent))
        self.command, self.line = command, f'PATH={python}:"$PATH"; {command}'

    def __call__(self, place: Path) -> None:
        code = subprocess.run(self.line, shell=True, cwd=place, check=False).returncode
        if code:
            self.log(f"{place}: {self.command!r} ended with code {code}.")
        time.sleep(self.sleep)


def _output(predictions: Array, output: Sequence[float | str], mean: bool, quantiles: Any) -> Any:
    """Return what `output` names of predictions, whose first axis is the calculators."""
    wanted = list(output)
    everything = bool(wanted) and wanted[-1] == "e"
    chosen = wanted[:-1] if everything else wanted
    if not wanted or not all(isinstance(q, float | int) and 0.0 <= q <= 1.0 for q in chosen):
        raise InputError(
            f"BootStrap: output is {output!r}; give quantiles from 0 to 1, and 'e' at the end for "
            "all predictions"
        )
    result = list(quantiles(predictions, np.array(chosen, dtype=float))) if chosen else []
    if everything:
        result.append(predictions)
    if len(result) > 1:
        return result
    return predictions.mean(axis=0) if mean and not everything else result[0]


def _mquantiles(predictions: Array, chosen: Array) -> Array:
    from scipy.stats.mstats import mquantiles

    found: Array = np.asarray(mquantiles(predictions, prob=chosen, axis=0))
    return found


def bootstrap(vector: Sequence[Any], size: int | None = None, return_missing: bool = False) -> Any:
    """Draw items at random, with replacement, by numpy's global random numbers.

    Parameters
    ----------
    vector : sequence
        The items.
    size : int, optional
        How many are drawn; as many as there are by default.
    return_missing : bool
        Return those that were not drawn, too.

    Returns
    -------
    list, or two lists
    """
    given = list(vector)
    n = len(given) if size is None else size
    drawn = np.random.choice(len(given), size=n, replace=True)  # noqa: NPY002  (a script's seed)
    chosen = [given[index] for index in drawn]
    if not return_missing:
        return chosen
    return chosen, [given[index] for index in sorted(set(range(len(given))) - set(drawn.tolist()))]


def archive_directory(source_dir: str, remove_dir: bool = False, suffix: str = "") -> None:
    """Pack a folder into a .tar.gz file beside it, and remove the folder if asked for."""
    with tarfile.open(f"{source_dir}{suffix}.tar.gz", "w:gz") as tar:
        tar.add(source_dir)
    if remove_dir:
        shutil.rmtree(source_dir)


class TrainingArchive:
    """Reads images and calculators out of a packed training folder.

    Parameters
    ----------
    name : str
        The .tar.gz file.
    """

    def __init__(self, name: str | os.PathLike[str]) -> None:
        try:
            self.tf = tarfile.open(name)  # noqa: SIM115  (open as long as the object)
        except (OSError, tarfile.TarError) as error:
            raise InputError(f"{os.fspath(name)} is no packed training: {error}") from error

    def get_trajectory(self, path: str) -> Any:
        """Return the images of a file, by its name in the training folder, as a trajectory."""
        from ase.io import Trajectory

        descriptor, name = tempfile.mkstemp(suffix=".traj")
        try:
            with open(descriptor, "wb") as file:
                file.write(self._bytes(path))
            return Trajectory(name)  # type: ignore[no-untyped-call]
        finally:
            Path(name).unlink()

    def get_amp_calc(self, path: str) -> Amp:
        """Load the calculator in a .amp file, by its name in the training folder."""
        return Amp.load(io.StringIO(self._bytes(path).decode()))

    def _bytes(self, path: str) -> bytes:
        with contextlib.suppress(KeyError):
            member = self.tf.extractfile(path)
            if member is not None:
                return member.read()
        raise InputError(f"{path} is not among the files of {self.tf.name!s}")
