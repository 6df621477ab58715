"""Several processes for one verb."""

import os
import sys


def share_among_gpus(count: int, arguments: list[str]) -> None:
    """Become torchrun where there are several GPUs: it runs the same command in a process for each, and ends like them.

    Does nothing in the processes that torchrun started.
    """
    if count < 2:
        return
    from spn.distributed import is_one_of_several

    if is_one_of_several():
        return
    # Threads are the option --threads, not what torchrun would choose and warn of.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    os.execv(sys.executable, [sys.executable, *torchrun, "-m", "spn", *arguments])
