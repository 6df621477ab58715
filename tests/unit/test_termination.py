"""SIGTERM in a training: a scheduler may send it more than once, and at any moment."""

import signal
import sys
from types import FrameType
from typing import Any

import pytest

from spn.training.termination import noting_sigterm


@pytest.mark.timeout(60)
def test_sigterm_may_come_again_wherever_the_first_is_being_noted() -> None:
    lines: list[int] = []

    def again(frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            sys.settrace(None)
            lines.append(frame.f_lineno)
            signal.raise_signal(signal.SIGTERM)
            sys.settrace(again)
        return again

    with noting_sigterm() as terminated:
        sys.settrace(again)
        signal.raise_signal(signal.SIGTERM)
        sys.settrace(None)
        assert terminated()
    assert lines
