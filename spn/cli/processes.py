"""Starts the processes of a job: a command becomes torchrun, on this machine or on every node of a Slurm job."""

import os
import socket
import sys

from spn.config import InputError

WAIT_SECONDS = 600
"""Longest that processes go on after those of another node have ended: the first may be writing what it made."""

# Only Slurm knows how many of a job's GPUs are on which node.
TORCHRUN_ON_NODE = 'exec "$0" -m torch.distributed.run --nproc-per-node="$SLURM_GPUS_ON_NODE" "$@"'


def start_processes(gpus: int, nodes: int, arguments: list[str]) -> None:
    """With several GPUs, become torchrun, which runs the same command once per GPU and returns its exit status.

    With several nodes, become srun, which starts torchrun on each of them. Does nothing in the processes that torchrun
    started. Raises InputError if several nodes are no Slurm job, or would not have a GPU each.
    """
    if gpus < 2 and nodes < 2:
        return
    from spn.distributed import is_one_of_several

    if is_one_of_several():
        return
    # The option --threads decides; otherwise torchrun would choose a number and warn.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    command = _on_nodes(nodes, gpus) if nodes > 1 else _on_this_machine(gpus)
    os.execvp(command[0], [*command, "-m", "spn", *arguments])


def _on_this_machine(gpus: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"]


def _on_nodes(nodes: int, gpus: int) -> list[str]:
    """Return the command that starts torchrun on every node of a Slurm job; this one, the first, is where they meet."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        raise InputError(f"--nodes: expected 1 outside of a Slurm job, got {nodes}")
    if gpus < nodes:
        raise InputError(f"--gpus: expected the GPUs of all {nodes} nodes together, at least one on each, got {gpus}")
    # Without binding, the processes of a node share all CPUs that the job has there.
    srun = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--cpu-bind=none"]
    endpoint = f"{socket.gethostname()}:{_free_port()}"
    meeting = [f"--nnodes={nodes}", f"--rdzv-id={job}", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}"]
    return [*srun, f"--wait={WAIT_SECONDS}", "sh", "-c", TORCHRUN_ON_NODE, sys.executable, *meeting]


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("", 0))
        return int(listening.getsockname()[1])
