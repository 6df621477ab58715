"""A machine for forecasts: its speeds and its memory."""

from spn.planning import Machine, Speeds
from spn.planning.probe import Speed

EVEN = Speed(per_flop=1e-10, per_call=1e-5, per_byte=1e-10)
SPEEDS = Speeds({"float32": EVEN, "bfloat16": EVEN}, sampling=EVEN)
PLENTY = 1 << 50
"""Bytes."""


def machine(memory: int = PLENTY) -> Machine:
    """Return the machine of these speeds, with so many bytes."""
    return Machine(SPEEDS, memory, "this machine", "estimates for this machine")
