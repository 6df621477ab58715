"""Vector quantisation (van den Oord, Vinyals and Kavukcuoglu 2017), with restarts of codes that are no longer used.

NOTE: VQGAN's published quantiser put beta on the codebook's term; here it is on the commitment, as in the papers.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from spn.distributed import collect, is_first, mean, num_processes
from spn.shapes import Codes, PerImage, Vectors


class Quantised(NamedTuple):
    """The nearest codes of the encoder's outputs."""

    codes: Codes
    vectors: Vectors
    """The codes' vectors; their gradient goes straight through to the encoder's outputs."""
    codebook: PerImage
    """||sg(z) - e||^2, averaged over the numbers of an image: moves codes towards outputs."""
    commitment: PerImage
    """||z - sg(e)||^2, averaged likewise: moves outputs towards codes."""


class Quantiser(nn.Module):
    """A codebook, and the number of training steps since each code was last used."""

    idle: Int[Tensor, " code"]

    def __init__(self, num_codes: int, code_width: int, restart_after: int) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(num_codes, code_width))
        self.restart_after = restart_after
        self.register_buffer("idle", torch.zeros(num_codes, dtype=torch.long))

    @torch.no_grad()
    def initialise(self, outputs: Vectors) -> None:
        """Draw all codes from the encoder's outputs, without replacement if there are enough of them.

        All processes are given the same batch.
        """
        self.codebook.copy_(self._draw(outputs))
        self.idle.zero_()

    @torch.no_grad()
    def nearest(self, outputs: Vectors) -> Codes:
        """Return the code at the least squared distance from each output; the lowest of several."""
        with torch.autocast(outputs.device.type, enabled=False):  # distances between near codes need all bits
            outputs = outputs.to(self.codebook.dtype)
            # ||z||^2 is the same for all codes.
            distances = self.codebook.square().sum(1) - 2 * outputs @ self.codebook.T
        return distances.argmin(-1)

    def lookup(self, codes: Codes) -> Vectors:
        """Return the vectors of codes."""
        return F.embedding(codes.long(), self.codebook)

    def forward(self, outputs: Vectors) -> Quantised:
        """Quantise the encoder's outputs; in training, restart codes first and then note which are used."""
        outputs = outputs.to(self.codebook.dtype)
        if self.training:
            self._restart(outputs)
        codes = self.nearest(outputs)
        if self.training:
            self._note(codes)
        vectors = self.lookup(codes)
        return Quantised(
            codes,
            outputs + (vectors - outputs).detach(),
            (vectors - outputs.detach()).square().mean((1, 2, 3)),
            (outputs - vectors.detach()).square().mean((1, 2, 3)),
        )

    @torch.no_grad()
    def _restart(self, outputs: Vectors) -> None:
        """Move every code that was unused for too long to an output drawn from the whole batch."""
        is_dead = self.idle >= self.restart_after
        if num_processes() > 1:
            if not is_dead.any():  # which all processes know; the shares of the batch are sent only if needed
                return
            outputs = torch.stack(collect(list(outputs.cpu()))).to(outputs.device)
        self.codebook.copy_(torch.where(is_dead[:, None], self._draw(outputs), self.codebook))
        self.idle.masked_fill_(is_dead, 0)

    @torch.no_grad()
    def _note(self, codes: Codes) -> None:
        """Count another step for every code, from 0 for those that any process used."""
        used = mean(code_counts(codes, len(self.idle)).double()) > 0
        self.idle.add_(1).masked_fill_(used, 0)

    def _draw(self, outputs: Vectors) -> Float[Tensor, "code width"]:
        """Draw an output for each code with torch's global generator; all processes take the first one's."""
        pool = outputs.flatten(0, 2)
        order = torch.randperm(len(pool), device=pool.device)
        drawn = pool[order[torch.arange(len(self.idle), device=pool.device) % len(pool)]]
        return mean(drawn * num_processes() * is_first())


def code_counts(codes: Codes, num_codes: int) -> Int[Tensor, " code"]:
    """Count how often each code occurs."""
    # Not torch.bincount, for whose result a device would have to be waited for.
    counted = codes.flatten().long()
    return torch.zeros(num_codes, dtype=torch.long, device=codes.device).index_add_(
        0, counted, torch.ones_like(counted)
    )
