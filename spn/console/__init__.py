"""What the terminal shows of a running workflow: progress, the time left, and why jobs failed.

`follow` listens to Snakemake's logger. Nothing here imports Snakemake or torch.
"""

from spn.console.follow import follow
from spn.console.watch import watch

__all__ = ["follow", "watch"]
