"""Rounds what a network returns, so that another machine's last digits make no difference.

Networks for coding compute in float64, in which two machines, batch sizes or numbers of threads differ by about 1e-13.
Values are rounded to a grid, and the encoder moves the grid by one of 256 offsets such that no value lies within
`GUARD` of where rounding goes up or down. A decoder within this distance then rounds every value as the encoder did.
The more values, the fewer offsets suit them all, and none those of a photograph; so each run of sub-pixels has its own.
"""

import numpy as np
from jaxtyping import Float64, Int64

OFFSETS = 256
GUARD = 1e-10
"""Distance that a rounded value keeps from an edge of rounding, in its own unit: 1000 times what machines differ by."""


RUN = 1 << 16
"""Sub-pixels of a run. With ten components each, a mixture's means rule out two thirds of the offsets."""


def steps_of_run(num_images: int) -> int:
    """Return the steps of a run, in each of which a sub-pixel of each of so many images is coded."""
    return max(1, RUN // num_images)


class Grid:
    """A grid of rounding, moved by `offset` / 256 of a step; an encoder notes which offsets its values rule out."""

    def __init__(self, offset: Int64[np.ndarray, " _"], notes_edges: bool = False) -> None:
        """`offset` is that of every sub-pixel, or of all of them."""
        self._offset, self._notes_edges = offset, notes_edges
        self.ruled_out: list[tuple[Int64[np.ndarray, " near"], Int64[np.ndarray, " near"]]] = []
        """Numbers of sub-pixels whose values do not keep their distance, and the offsets at which, as far as noted."""

    def round(
        self, values: Float64[np.ndarray, "*batch _"], points: Int64[np.ndarray, "..."]
    ) -> Int64[np.ndarray, "*batch _"]:
        """Round to steps of 2^-points; return values in units of 2^-(points + 8).

        Raises FloatingPointError for values that are not finite.
        """
        if not np.isfinite(values).all():
            raise FloatingPointError("expected finite outputs of the network, got others")
        steps = values * np.exp2(points) + 0.5
        if self._notes_edges:
            self._note_edges(steps, GUARD * np.exp2(points))
        offset = self._offset.reshape(-1, *[1] * (values.ndim - 1))
        return (np.floor(steps + offset / OFFSETS).astype(np.int64) << 8) - offset

    def _note_edges(self, steps: Float64[np.ndarray, "..."], guard: Float64[np.ndarray, "..."]) -> None:
        moved = steps * OFFSETS
        nearest = np.rint(moved)
        is_near = np.abs(moved - nearest) < guard * OFFSETS
        # At offset o the edges are where steps + o / 256 is whole.
        self.ruled_out.append((np.nonzero(is_near)[0], (-nearest[is_near].astype(np.int64)) % OFFSETS))
