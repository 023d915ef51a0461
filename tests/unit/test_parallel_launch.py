"""Signals, settings and launchers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from ampmpi.errors import LaunchError
from ampmpi.parallel import launch
from ampmpi.parallel.launch import StopRequest, stop_before_walltime


@pytest.mark.parametrize(
    ("environ", "ranks"),
    [
        ({}, 1),
        ({"PMI_SIZE": "4"}, 4),
        ({"OMPI_COMM_WORLD_SIZE": "3", "SLURM_STEP_NUM_TASKS": "1"}, 3),
        ({"PMI_SIZE": "1", "SLURM_STEP_NUM_TASKS": "8"}, 1),
        ({"SLURM_STEP_NUM_TASKS": "8"}, 8),
        ({"SLURM_NTASKS": "8"}, 1),
        ({"PMI_SIZE": "many"}, 1),
    ],
)
def test_ranks_that_a_launcher_promises(environ, ranks):
    assert launch.ranks_promised(environ) == ranks
    launch.check_ranks(max(ranks, 2), environ)
    if ranks > 1:
        with pytest.raises(LaunchError, match=f"started {ranks} ranks, but MPI sees only one"):
            launch.check_ranks(1, environ)
    else:
        launch.check_ranks(1, environ)


@pytest.mark.parametrize(
    ("environ", "size"),
    [
        ({"PMI_SIZE": "4", "SLURM_STEP_NUM_TASKS": "2"}, 4),  # mpirun on two nodes
        ({"PMI_SIZE": "2", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, 2),  # mpirun -n 2
        ({"PMI_SIZE": "2", "SLURM_STEP_NUM_TASKS": "4"}, 2),  # the same in srun -n 4 --pty bash
        ({"PMI_SIZE": "4", "OMPI_COMM_WORLD_SIZE": "2", "SLURM_STEP_NUM_TASKS": "4"}, 2),
        ({"PMI_SIZE": "4", "OMPI_COMM_WORLD_SIZE": "1"}, 1),
        ({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "4"}, 2),  # a launcher that says nothing
        ({"PMI_SIZE": "1"}, 4),
    ],
)
def test_launches_that_are_right(environ, size):
    launch.check_ranks(size, environ)


@pytest.mark.parametrize(
    ("environ", "size", "said"),
    [
        ({"PMI_SIZE": "4"}, 2, "started 4 ranks, but MPI sees only 2"),
        ({"OMPI_COMM_WORLD_SIZE": "4", "SLURM_STEP_NUM_TASKS": "2"}, 3, "MPI sees only 3"),
        ({"PMI_SIZE": "8", "OMPI_COMM_WORLD_SIZE": "4"}, 2, "started 4 ranks"),
    ],
)
def test_launches_in_which_some_ranks_do_not_see_the_others(environ, size, said):
    with pytest.raises(LaunchError, match=said):
        launch.check_ranks(size, environ)


def test_runs_of_a_batch_job():
    environ = {"SLURM_JOB_ID": "42", "SLURM_CLUSTER_NAME": "big one\n"}
    assert launch.batch_job({"SLURM_RESTART_COUNT": "3"}) == ("", 0)
    assert launch.batch_job(environ) == ("bigone.42", 0)
    assert launch.batch_job({**environ, "SLURM_RESTART_COUNT": "3"}) == ("bigone.42", 3)


def test_only_the_first_process_speaks():
    assert launch.speaks({})
    assert launch.speaks({"PMI_RANK": "0", "SLURM_PROCID": "3"})
    assert not launch.speaks({"OMPI_COMM_WORLD_RANK": "2"})


def test_first_signal_is_remembered():
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in launch.WARNINGS}
    try:
        request.install()
        assert not request.requested
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.requested
        assert request.signal_name == "SIGUSR1"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_signals_are_caught_for_a_while_and_handlers_of_a_script_stay():
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in launch.WARNINGS}
    heard = []
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: heard.append("SIGTERM"))
    try:
        with request.caught():
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard == ["SIGTERM"]
            assert not request.requested
            os.kill(os.getpid(), signal.SIGUSR1)
            assert request.signal_name == "SIGUSR1"
        assert not request.requested
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("environ", "several"),
    [
        ({}, False),
        ({"PMI_SIZE": "2"}, True),
        ({"PMI_SIZE": "1"}, False),
        ({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"SLURM_STEP_NUM_TASKS": "4"}, False),
    ],
)
def test_several_ranks_are_those_of_an_mpi_launcher(environ, several):
    assert launch.several_ranks(environ) == several


@pytest.mark.parametrize(("said", "threads"), [(None, 1), ("1", 1), ("2", 2)])
def test_blas_has_one_thread_unless_the_environment_says_how_many(said, threads):
    code = (
        "import numpy\n"
        "from threadpoolctl import threadpool_info, threadpool_limits\n"
        "from ampmpi.parallel.threads import one_blas_thread\n"
        "threadpool_limits(2, user_api='blas')\n"
        "with one_blas_thread():\n"
        "    print({pool['num_threads'] for pool in threadpool_info()})\n"
        "print({pool['num_threads'] for pool in threadpool_info()})\n"
    )
    env = {name: value for name, value in os.environ.items() if name not in launch.THREADS}
    if said is not None:
        env["OMP_NUM_THREADS"] = said
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert result.stdout.split("\n")[:2] == [f"{{{threads}}}", "{2}"], result.stderr


def test_signals_are_caught_before_anything_heavy_is_imported():
    code = (
        "import sys, signal\n"
        "seen = []\n"
        "original = signal.signal\n"
        "def note(*args):\n"
        "    seen.append(sorted({'numpy', 'click', 'ase', 'mpi4py', 'numba'} & set(sys.modules)))\n"
        "    return original(*args)\n"
        "signal.signal = note\n"
        "import ampmpi.cli.main\n"
        "print(seen)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[[], [], []]", result.stderr


def test_warnings_repeated_while_python_ends_do_no_harm():
    code = (
        "import os, signal, time\n"
        "from ampmpi.cli.main import ampmpi\n"
        "parent = os.getpid()\n"
        "if os.fork() == 0:\n"
        "    while os.getppid() == parent:\n"
        "        os.kill(parent, signal.SIGUSR1)\n"
        "        os.kill(parent, signal.SIGTERM)\n"
        "        time.sleep(0.001)\n"
        "    os._exit(0)\n"
        "ampmpi()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result
    assert result.stderr == ""


def test_settings_of_the_user_are_kept(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/chosen")
    for name in launch.THREADS[1:]:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(os, "environ", os.environ)
    launch.prepare()
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    assert os.environ["NUMBA_CACHE_DIR"] == "/chosen"
    for name in launch.THREADS[1:]:
        monkeypatch.delenv(name)


def test_kernels_are_kept_where_one_can_write(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    folder = launch.kernel_cache({"XDG_CACHE_HOME": str(home)})
    assert folder is not None
    assert folder.parent == home / "ampmpi"
    assert folder.name == f"numba-{launch.cpu_type()}"
    (tmp_path / "file").touch()
    monkeypatch.setattr(launch.tempfile, "gettempdir", lambda: str(tmp_path))
    elsewhere = launch.kernel_cache({"XDG_CACHE_HOME": str(tmp_path / "file")})
    assert elsewhere is not None
    assert elsewhere.parent == tmp_path / f"ampmpi-{os.getuid()}"
    monkeypatch.setattr(launch.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    assert launch.kernel_cache({"XDG_CACHE_HOME": str(tmp_path / "file")}) is None


def test_types_of_cpu_are_told_apart(tmp_path):
    names = []
    for flags in ("sse avx2", "sse avx2 avx512f", "sse avx2"):
        info = tmp_path / "cpuinfo"
        info.write_text(
            f"processor : 0\nmodel name : X\ncpu MHz : {len(names)}\nflags : {flags}\n\nprocessor"
        )
        names.append(launch.cpu_type(info))
    assert names[0] == names[2] != names[1]
    assert launch.cpu_type(tmp_path / "none")


def test_note_of_a_compile(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert not launch.is_compiled("x")
    with launch.compile_lock():
        launch.note_compiled("x")
    assert launch.is_compiled("x")
    assert not launch.is_compiled("y")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "none"))
    with launch.compile_lock():
        launch.note_compiled("x")
    assert not launch.is_compiled("x")


def test_a_job_is_warned_before_slurm_ends_it():
    code = (
        "import os, signal, time\n"
        "from ampmpi.parallel.launch import stop, stop_before_walltime\n"
        "stop.install()\n"
        "stop_before_walltime({'SLURM_JOB_END_TIME': str(int(time.time()) + 2)})\n"
        "began = time.time()\n"
        "while not stop.requested and time.time() < began + 20: time.sleep(0.01)\n"
        "assert stop.signal_name == 'SIGUSR1'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("end", ["", "soon", "1000"])
def test_without_a_known_end_nobody_is_warned(end):
    n_threads = threading.active_count()
    stop_before_walltime({"SLURM_JOB_END_TIME": end})
    assert threading.active_count() == n_threads
