"""What a user reads when the job's surroundings are wrong."""

from __future__ import annotations

import shutil

import pytest
from cluster import Cluster
from folder import Folder

ARGUMENTS = ("images.traj", "--label", "amp")


def failed(
    folder: Folder, *options: str, arguments: tuple[str, ...] = ARGUMENTS
) -> tuple[int, str]:
    """Run a job that has to fail within 30 s; return its code and log."""
    job = folder.submit("fingerprint", *options, arguments=arguments)
    state = folder.wait(job, 30)
    assert state.name == "FAILED", folder.log(job)
    assert not list(folder.path.glob("*.ampdb/loose/*"))
    return state.exit_code, folder.log(job)


def test_srun_without_the_interface_of_this_mpi(folder: Folder):
    folder.env(launcher="srun", mpi="none")
    code, said = failed(folder)
    assert code == 7
    assert "4 ranks" in said
    assert "MPI sees only one" in said
    assert "Traceback" not in said


def test_mpirun_of_another_mpi(folder: Folder):
    openmpi = shutil.which("mpirun.openmpi")
    if openmpi is None:
        pytest.skip("no Open MPI: install openmpi-bin")
    (folder.path / "bin").mkdir()
    (folder.path / "bin" / "mpirun").symlink_to(openmpi)
    folder.env(
        launcher="mpirun", PATH=f'"{folder.path}/bin:$PATH"', OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_oob_tcp_if_include="lo",
    )  # fmt: skip
    code, said = failed(folder)
    assert code == 7
    assert "mpirun" in said
    assert "Open MPI" in said
    assert "MPICH" in said


def test_no_program_on_the_path(folder: Folder):
    folder.env(PATH="/usr/bin:/bin")
    code, said = failed(folder)
    assert code == 7
    assert "ampmpi is not on the PATH" in said
    assert "env.sh" in said


def test_a_module_that_fails(folder: Folder):
    (folder.path / "env.sh").write_text("echo 'module: no openmpi' >&2; return 1\n")
    code, said = failed(folder)
    assert code == 7
    assert "module: no openmpi" in said


def test_no_mpi_library(folder: Folder):
    folder.env(MPI4PY_LIBMPI="libnompi.so", launcher="srun")
    code, said = failed(folder)
    assert code == 7
    assert "cannot load an MPI library" in said
    assert "module" in said
    assert "Traceback" not in said


def test_launcher_that_is_none(folder: Folder):
    folder.env(launcher="aprun")
    code, said = failed(folder)
    assert code == 2
    assert "give srun or mpirun" in said


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_dblabel_where_nothing_can_be_written(launcher: str, folder: Folder, cluster: Cluster):
    folder.env(launcher=launcher)
    where = cluster.readonly / "amp"
    code, said = failed(folder, arguments=(*ARGUMENTS, "--dblabel", str(where)))
    assert code == 4
    assert f"cannot create the database {where}-fingerprints.ampdb: the file system is" in said
    assert "choose another place" in said
    assert "images of" not in said  # said before any image is read
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("ampmpi: error")]
    assert len(errors) == 1, said
