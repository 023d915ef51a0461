"""A real SLURM on this machine: one controller and a few nodes, gone when this process ends.

Every node is a PID, mount and UTS namespace of its own with its own slurmd, so that killing a
node is what pulling its plug is: all that ran on it is gone in the same instant. It has a host name
of its own, and another boot id each time it is switched on, so that a process of one node can no
more judge those of another one than on a real cluster. Each daemon dies with the process that
started it, however that ends.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pace import stretched

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "unshare", "setpriv")
NAMESPACES = ("unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")
ENDED = {
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL",
    "DEADLINE", "PREEMPTED",
}  # fmt: skip

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/run/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/state
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.%n.pid
SlurmdSpoolDir={root}/spool.%n
SlurmdParameters=config_overrides
SlurmdTimeout={patience:.0f}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=5
MinJobAge=3600
MailProg=/bin/true
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

NODE = """\
hostname {name}
cat /proc/sys/kernel/random/uuid >{root}/boot.{name}
mount --bind {root}/boot.{name} /proc/sys/kernel/random/boot_id
mount --bind {root}/pmix.{name} {root}/pmix
mount --bind {root}/hosts /etc/hosts
mount --bind -o ro {root}/readonly {root}/readonly
mount -o remount,bind,ro {root}/readonly
mount -t tmpfs none /dev/shm
slurmd -D -N {name} >>{root}/log/slurmd.{name} 2>&1 &
while kill -0 $!; do wait; done
"""


def why_not() -> str | None:
    """Say what this machine lacks for a SLURM of its own, or return None."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"no {', '.join(missing)}: install slurmctld, slurmd, slurm-client and munge"
    if os.geteuid() != 0:
        return "starting SLURM's daemons and nodes' namespaces takes root"
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "--ipc", "true"],
        capture_output=True,
    )
    return "namespaces are not allowed here" if tried.returncode else None


def _path() -> str:
    return os.environ["PATH"] + ":/usr/sbin:/sbin"


def _free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def until(condition: Callable[[], object], seconds: float, what: str | Callable[[], str]) -> None:
    """Wait until `condition` holds, on a slow machine longer."""
    start = time.monotonic()
    while not condition():
        waited = time.monotonic() - start
        if waited > stretched(seconds):
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {waited:.0f} s in vain: {said}")
        time.sleep(0.2)


@dataclass(frozen=True)
class JobState:
    """What ``scontrol show job`` says."""

    name: str
    exit_code: int
    signal: int
    restarts: int
    batch_host: str

    @property
    def ended(self) -> bool:
        return self.name in ENDED


class Cluster:
    """A controller and `n_nodes` nodes n1, n2, …; a context manager."""

    def __init__(self, n_nodes: int = 3, cpus: int = 4) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.nodes = [f"n{i + 1}" for i in range(n_nodes)]
        self.cpus = cpus
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "PMI", "OMPI_"))},
            "SLURM_CONF": str(self.root / "slurm.conf"),
            "PATH": _path(),
        }
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def readonly(self) -> Path:
        """A folder that jobs can read and not write."""
        return self.root / "readonly"

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        root = self.root
        root.chmod(0o755)
        for name in ("run", "log", "state", "pmix", "readonly"):
            (root / name).mkdir()
        key = root / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        port, *node_ports = _free_ports(1 + len(self.nodes))
        lines = [
            SLURM_CONF.format(
                host=socket.gethostname(), port=port, root=root, patience=stretched(10)
            )
        ]
        hosts = [Path("/etc/hosts").read_text()]
        for name, node_port in zip(self.nodes, node_ports, strict=True):
            (root / f"pmix.{name}").mkdir()
            hosts.append(f"127.0.0.1 {name}\n")
            lines.append(
                f"NodeName={name} NodeAddr=127.0.0.1 Port={node_port} CPUs={self.cpus}"
                " RealMemory=2000 State=UNKNOWN\n"
            )
        (root / "slurm.conf").write_text("".join(lines))
        (root / "mpi.conf").write_text(f"PMIxCliTmpDirBase={root}/pmix\n")
        (root / "hosts").write_text("".join(hosts))
        self._daemon(
            "munged",
            ["munged", "-F", "--force", f"--key-file={key}", f"--socket={root}/run/munge.sock",
             f"--pid-file={root}/run/munged.pid", f"--log-file={root}/log/munge",
             f"--seed-file={root}/munge.seed"],
        )  # fmt: skip
        until((root / "run/munge.sock").exists, 10, "munged's socket")
        self._daemon("slurmctld", [*NAMESPACES, "slurmctld", "-D"])
        for name in self.nodes:
            self.start_node(name)
        self.wait_idle(30)

    def _daemon(self, name: str, command: list[str]) -> None:
        with open(self.root / "log" / name, "ab") as log:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", *command],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start_node(self, name: str) -> None:
        """Switch a node on."""
        script = NODE.format(name=name, root=self.root)
        self._daemon(name, [*NAMESPACES, "--uts", "--ipc", "bash", "-c", script])

    def kill_node(self, name: str) -> None:
        """Pull a node's plug."""
        daemon = self._daemons.pop(name)
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        for pid in children:  # the first process of its namespace
            os.kill(int(pid), signal.SIGKILL)
        if not children:
            daemon.kill()
        daemon.wait()

    def stop(self) -> None:
        """End every daemon and job, and remove all files."""
        for name in reversed(list(self._daemons)):
            self.kill_node(name)
        shutil.rmtree(self.root, ignore_errors=True)

    def wait_idle(self, seconds: float = 30) -> None:
        """Wait until every node is up and free."""
        n = len(self.nodes)
        try:
            until(lambda: self.run("sinfo", "-h", "-t", "idle", "-o", "%D") == str(n), seconds, "")
        except AssertionError:
            logs = "".join(
                f"--- {log.name}\n{log.read_text()[-2000:]}"
                for log in sorted((self.root / "log").iterdir())
            )
            raise AssertionError(f"nodes not idle: {self.run('sinfo')}\n{logs}") from None

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Run one of SLURM's commands and return what it prints."""
        done = subprocess.run(
            command,
            env=self.environ,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=stretched(60),
        )
        return (done.stdout + done.stderr).strip()

    def submit(
        self, *arguments: str | Path, cwd: Path, environ: dict[str, str] | None = None
    ) -> int:
        """``sbatch`` with these arguments; return the job's number."""
        done = subprocess.run(
            ["sbatch", "--parsable", *map(str, arguments)],
            env={**self.environ, **(environ or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=stretched(60),
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split(";")[0])

    def state(self, job: int | str) -> JobState:
        """The state of a job."""
        text = self.run("scontrol", "show", "job", str(job))
        match = re.search(r"ExitCode=(\d+):(\d+)", text)
        assert match, text
        values = dict(re.findall(r"(JobState|Restarts|BatchHost)=(\S+)", text))
        return JobState(
            values["JobState"], int(match[1]), int(match[2]), int(values["Restarts"]),
            values.get("BatchHost", ""),
        )  # fmt: skip

    def about(self, job: int | str) -> str:
        """All that SLURM says of a job and of the nodes."""
        return f"{self.run('scontrol', 'show', 'job', str(job))}\n{self.run('sinfo', '-N', '-l')}"

    def end_time(self, job: int) -> None:
        """Let a job's time be up soon, within the half minute in which SLURM looks for that."""
        self.run("scontrol", "update", f"jobid={job}", "EndTime=now+1")

    def wait(self, job: int | str, seconds: float = 120) -> JobState:
        """Wait until a job has ended, and return its last state."""
        until(lambda: self.state(job).ended, seconds, lambda: self.about(job))
        return self.state(job)

    def wait_running(self, job: int | str, seconds: float = 60) -> JobState:
        """Wait until a job runs."""
        until(lambda: self.state(job).name == "RUNNING", seconds, f"job {job} running")
        return self.state(job)
