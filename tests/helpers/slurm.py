"""A real Slurm in a folder: several nodes with declared GPUs on this machine, with accounting, thrown away afterwards.

Everything is on loopback and belongs to whoever runs the tests; neither root, systemd nor cgroups are needed.
"""

import contextlib
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

SECONDS = 30
"""Longest wait for a daemon or a command; they take one or two."""

PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/sbin"))
"""This environment's programs, and daemons, which Debian keeps where an ordinary user does not look."""

# A GPU has to be a character device, or no job is told which ones it has; these are there on every machine.
DEVICES = ("/dev/null", "/dev/zero")

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={controller}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
# The least loaded node first, so that jobs are spread.
SelectTypeParameters=CR_CPU_Memory,CR_LLN
GresTypes=gpu
# Nodes may have more than the machine.
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,sched_interval=2,bf_interval=2
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Memory is watched by polling, as there are no cgroups.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
MinJobAge=86400
# As long from SIGTERM to SIGKILL as a busy machine may need to save.
KillWait=60
CompleteWait=0
ReturnToService=2
SlurmdTimeout=5
PropagateResourceLimits=NONE
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=64000 Gres=gpu:{gpus}\n"
# Those of the profile, and one whose jobs take the nodes from others.
PARTITIONS = """\
PartitionName=cpu Nodes=ALL PriorityTier=1 State=UP
PartitionName=gpu Nodes=ALL PriorityTier=1 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF State=UP
"""
SLURMDBD_CONF = """\
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accounting}
SlurmUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm
"""


@dataclass(frozen=True)
class Job:
    """What the accounting knows of a job; one that was queued again has a record for each time."""

    id: str
    name: str
    """Rule and wildcards, as `train/low`."""
    state: str
    node: str
    gpus: int
    megabytes: int
    minutes: int
    start: datetime | None
    end: datetime | None

    @property
    def times(self) -> tuple[datetime, datetime]:
        """Start and end of a job that has run."""
        assert self.start is not None
        assert self.end is not None
        return self.start, self.end


class Cluster:
    """A Slurm that runs as long as the context; `variables` lead its commands to it."""

    def __init__(self, folder: Path, num_nodes: int = 3) -> None:
        """Name the folder for everything it writes, and the number of nodes."""
        self.folder = folder
        self.nodes = tuple(f"node{index}" for index in range(1, num_nodes + 1))
        self.variables = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}{os.pathsep}{PATH}"}
        self._user, self._host = psutil.Process().username(), platform.node().split(".")[0]
        names = ("controller", "accounting", "database", *self.nodes)
        self._ports = dict(zip(names, _free_ports(len(names)), strict=True))
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Cluster":
        try:
            self._configure()
            self._start_accounting()
            self.start_controller()
            for node in self.nodes:
                self.start_node(node)
            wait_for(lambda: set(self.run("sinfo", "-hN", "-t", "idle", "-o", "%N").split()) == set(self.nodes))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # Daemons first, the database last; then what outlives its daemon: steps and jobs.
        for name in reversed(tuple(self._daemons)):
            self._stop(name, signal.SIGTERM)
        _kill(self._processes())

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands and give its output."""
        environment = os.environ | self.variables
        # Without a limit they wait for minutes where the controller does not answer.
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=True
        ).stdout

    def jobs(self) -> list[Job]:
        """Return the records of all jobs, the oldest first."""
        # The accounting learns of comments at the end of a job only.
        comments = dict(line.split("|") for line in self.run("squeue", "-ht", "all", "-o", "%i|%k").splitlines())
        fields = "JobIDRaw,State,NodeList,AllocTRES,ReqMem,TimelimitRaw,Start,End"
        table = self.run("sacct", "-nPX", "--noconvert", "--duplicates", "--starttime", "now-1days", "--format", fields)
        return [_job(comments, line.split("|")) for line in table.splitlines()]

    def job_of(self, process: psutil.Process) -> Job:
        """Return the job that runs a process."""
        number = process.environ()["SLURM_JOB_ID"]
        return next(job for job in reversed(self.jobs()) if job.id == number)

    def runs(self, job: Job) -> bool:
        """Tell whether a process of a job is left, whatever Slurm says of it."""
        return any(_variable(each, "SLURM_JOB_ID") == job.id for each in self._processes())

    def take(self, node: str) -> None:
        """Let a more important job have a node: Slurm sends the others SIGTERM, and queues them again."""
        place = ("--partition=urgent", "--exclusive", f"--nodelist={node}")
        self.run("sbatch", *place, "--comment=urgent", "--output=/dev/null", "--wrap=true")

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        self._start(f"slurmd.{node}", "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """Kill a node with everything that runs on it, as a loss of power would."""
        self._stop(f"slurmd.{node}", signal.SIGKILL)
        _kill(self._processes(node))

    def start_controller(self) -> None:
        """Start the scheduler, or start it again: it knows of the jobs it had."""
        self._start("slurmctld", "slurmctld", "-D")
        wait_for(lambda: "UP" in self.run("scontrol", "ping"))

    def kill_controller(self) -> None:
        """Kill the scheduler; what runs, runs on."""
        self._stop("slurmctld", signal.SIGKILL)

    def _configure(self) -> None:
        ports, host = self._ports, self._host
        values = {"folder": self.folder, "host": host, "user": self._user, "password": "unimportant", **ports}
        nodes = [NODE.format(name=node, host=host, port=ports[node], gpus=len(DEVICES)) for node in self.nodes]
        gpus = [f"NodeName={node} Name=gpu File={device}\n" for node in self.nodes for device in DEVICES]
        version = tuple(map(int, re.findall(r"\d+", subprocess.check_output([_find("slurmd"), "-V"], text=True))[:2]))
        files = {
            "slurm.conf": SLURM_CONF.format(**values) + "".join(nodes) + PARTITIONS,
            "slurmdbd.conf": SLURMDBD_CONF.format(**values),
            "gres.conf": "".join(gpus),
            "cgroup.conf": f"CgroupPlugin={'disabled' if version >= (23, 11) else 'cgroup/v1'}\n",
            "munge.key": os.urandom(64).hex(),
            # One statement a line.
            "grants.sql": "CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'unimportant';\n"
            "GRANT ALL ON slurm.* TO slurm@'127.0.0.1';\n",
            # Inside a job the plugin removes all of Slurm's variables, and /etc/slurm knows of no cluster here.
            "bin/srun": f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {_find("srun")} "$@"\n',
        }
        (self.folder / "bin").mkdir(parents=True)
        for name, text in files.items():
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o600)
        (self.folder / "bin/srun").chmod(0o700)

    def _start_accounting(self) -> None:
        folder, user, port = self.folder, self._user, self._ports["database"]
        socket_file, database = folder / "munge.socket", folder / "database"
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log"}
        self._start("munged", "munged", "-F", "--force", *(f"--{key}={folder / name}" for key, name in files.items()))
        install = [_find("mariadb-install-db"), "--no-defaults", f"--datadir={database}", f"--user={user}"]
        install += ["--skip-test-db", "--auth-root-authentication-method=normal"]
        subprocess.run(install, check=True, capture_output=True, timeout=SECONDS)
        flags = [f"--datadir={database}", f"--user={user}", f"--socket={folder / 'sql.socket'}", "--skip-name-resolve"]
        flags += [f"--init-file={folder / 'grants.sql'}", f"--pid-file={folder / 'sql.pid'}"]
        flags += ["--bind-address=127.0.0.1", f"--port={port}"]
        flags += ["--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0"]
        self._start("mariadbd", "mariadbd", "--no-defaults", *flags)
        wait_for(lambda: _listens(port) and socket_file.exists())
        self._start("slurmdbd", "slurmdbd", "-D")
        wait_for(lambda: "Cluster" in self.run("sacctmgr", "-P", "list", "cluster"))
        for what in (("cluster", "test"), ("account", "lab"), ("user", user, "account=lab")):
            self.run("sacctmgr", "-iQ", "add", *what)

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                [_find(command[0]), *command[1:]],
                env=os.environ | self.variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _stop(self, name: str, number: int) -> None:
        daemon = self._daemons.pop(name)
        daemon.send_signal(number)
        try:
            daemon.wait(SECONDS)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _processes(self, node: str = "") -> list[psutil.Process]:
        """List what jobs run on a node, or on all, with Slurm's own processes for them."""
        return [each for each in psutil.process_iter() if self._node_of(each) in ((node,) if node else self.nodes)]

    def _node_of(self, process: psutil.Process) -> str | None:
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("slurmstepd"):
                # It has overwritten its variables, but keeps the log of its node.
                files = {file.path for file in process.open_files()}
                return next((node for node in self.nodes if f"{self.folder}/slurmd.{node}.log" in files), None)
            # By the folder of the wrapper: the plugin removes SLURM_CONF inside a job.
            if str(self.folder / "bin") in (_variable(process, "PATH") or "").split(os.pathsep):
                return _variable(process, "SLURMD_NODENAME")
        return None


def wait_for(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait until a condition holds; a command that fails has not held yet."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(subprocess.SubprocessError):
            if condition():
                return
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def _job(comments: dict[str, str], fields: list[str]) -> Job:
    number, state, node, gpus, megabytes, minutes, start, end = fields
    # The plugin's words: rule_train_wildcards_low.
    name = comments[number].removeprefix("rule_").replace("_wildcards_", "/")
    times = (datetime.fromisoformat(at) if at[:1].isdigit() else None for at in (start, end))
    gpu = re.search(r"gres/gpu=(\d+)", gpus)
    return Job(
        number,
        name,
        state,
        node,
        int(gpu[1]) if gpu else 0,
        int(megabytes.removesuffix("M")),
        int(minutes) if minutes.isdigit() else 0,
        *times,
    )


def _variable(process: psutil.Process, name: str) -> str | None:
    with contextlib.suppress(psutil.Error):
        return process.environ().get(name)
    return None


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _find(program: str) -> str:
    """Return the path of a program; one that is missing stops the test with the command that installs it."""
    path = shutil.which(program, path=PATH)
    assert path is not None, f"{program} is missing: make packages"
    return path


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
