"""What `spn VERB --help` shows."""

import shlex

import pytest

from spn.cli.main import _parser, main
from spn.cli.texts import EXAMPLES


@pytest.mark.parametrize("verb", EXAMPLES)
def test_every_verb_has_an_example_that_it_takes(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    shown = capsys.readouterr().out.split("example:\n  ")[1].strip()
    assert shown == EXAMPLES[verb]
    command = shlex.split(shown.split(" > ")[0])
    assert command[:2] == ["spn", verb]
    _parser().parse_args(command[1:])
