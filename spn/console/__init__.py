"""What a person sees of a running workflow: progress, the time left, and why a job failed.

Snakemake tells its logger of every job; `follow` listens there. Nothing here imports Snakemake or torch.
"""

from spn.console.follow import follow
from spn.console.watch import watch

__all__ = ["follow", "watch"]
