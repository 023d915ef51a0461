"""A SLURM for the whole run, and folders in which jobs are submitted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ase.io import write
from cluster import Cluster, until, why_not
from folder import N_IMAGES, Folder, contents, images
from pace import stretched

BIN = Path(sys.executable).parent

OPENMPI = {
    "MPI4PY_LIBMPI": "libmpi.so.40",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    # All nodes are one machine, where Open MPI leaves the loopback out unless it is told.
    "OMPI_MCA_btl_tcp_if_include": "lo",
    "OMPI_MCA_oob_tcp_if_include": "lo",
}
MPICH_SRUN = {"launcher": "srun"}
MPICH_MPIRUN = {"launcher": "mpirun"}
OPENMPI_SRUN = {"launcher": "srun", "mpi": "pmix", **OPENMPI}
OPENMPI_MPIRUN = {"launcher": "mpirun.openmpi", **OPENMPI}
WAYS = {
    "mpich-srun": MPICH_SRUN,
    "mpich-mpirun": MPICH_MPIRUN,
    "openmpi-srun": OPENMPI_SRUN,
    "openmpi-mpirun": OPENMPI_MPIRUN,
}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Cluster() as running:
        running.environ["PATH"] = f"{BIN}{os.pathsep}{running.environ['PATH']}"
        running.environ["TEST_PYTHON"] = sys.executable
        # MPICH's other network layer, UCX, sometimes garbles its messages to SLURM's PMI-2.
        running.environ["MPIR_CVAR_CH4_NETMOD"] = "ofi"
        yield running


@pytest.fixture(autouse=True)
def healthy(cluster: Cluster) -> Iterator[None]:
    """Every test finds all nodes up and free, and leaves no job behind."""
    yield
    cluster.run("scancel", "--state=PENDING", "--user=root")
    cluster.run("scancel", "--user=root")
    for node in cluster.nodes:
        cluster.run("scontrol", "update", f"nodename={node}", "state=idle")
    until(lambda: cluster.run("squeue", "-h") == "", 30, "jobs end")


@pytest.fixture
def folder(cluster: Cluster, tmp_path: Path) -> Folder:
    write(tmp_path / "images.traj", images())
    return Folder(cluster, tmp_path)


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest, folder: Folder, cluster: Cluster) -> Iterator[str]:
    """Each MPI with each launcher, set in the site's env.sh."""
    settings = dict(WAYS[request.param])
    if request.param.startswith("openmpi"):
        openmpi = shutil.which("mpirun.openmpi")
        if openmpi is None:
            pytest.skip("no Open MPI: install openmpi-bin")
        if "srun" in request.param:
            tried = cluster.run("srun", "--mpi=pmix", "--ntasks=1", "true")
            if tried:
                pytest.skip("SLURM finds no PMIx library: install libpmix-dev")
        # As a module would: its mpirun first on the PATH.
        (folder.path / "bin").mkdir()
        (folder.path / "bin" / "mpirun").symlink_to(openmpi)
        settings["launcher"] = settings["launcher"].partition(".")[0]
        settings["PATH"] = f'"{folder.path}/bin:$PATH"'
    folder.env(**settings)
    return request.param


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """The databases of an undisturbed run on one rank."""
    path = tmp_path_factory.mktemp("undisturbed")
    write(path / "images.traj", images())
    subprocess.run(
        [BIN / "ampmpi", "fingerprint", "images.traj", "--label", "amp", "--derivatives"],
        cwd=path, check=True, capture_output=True, timeout=stretched(200),
    )  # fmt: skip
    found = contents(path)
    assert [len(entries) for entries in found.values()] == [N_IMAGES, N_IMAGES]
    return found
