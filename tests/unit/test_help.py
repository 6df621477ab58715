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


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sample model -n 0 -o out.png", "argument -n/--num-images: expected a positive whole number, got 0"),
        ("sample model", "the following arguments are required: -o/--output"),
        ("decode model file -o ", "argument -o/--output: expected a path, got nothing"),
    ],
)
def test_a_mistake_in_an_option_is_told_in_one_line(
    command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *rest = command.split(" ")
    with pytest.raises(SystemExit, match="2"):
        main([verb, *rest])
    assert capsys.readouterr().err == f"spn: error: {message}; see spn {verb} --help\n"
