"""What `spn VERB --help` shows."""

import shlex

import pytest

from spn.cli.main import _parser, main
from spn.cli.texts import EXAMPLES

MOST = "expected a whole number of at most 2,147,483,647"


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
        ("sample model -n 99999999999999999999 -o out.png", f"argument -n/--num-images: {MOST}, got {'9' * 20}"),
        ("score model a.png --batch-size 2147483648", f"argument --batch-size: {MOST}, got 2147483648"),
        ("train low --data a --output b --micro-batch 2147483648", f"argument --micro-batch: {MOST}, got 2147483648"),
        ("sample model", "the following arguments are required: -o/--output"),
        ("decode model file -o ", "argument -o/--output: expected a path, got nothing"),
        ("preprocess --scale-factor 2 --output .", "argument --output: expected a file ending in .h5, got ."),
        ("codec depth --data S2.h5 --output a.yaml", "argument --output: expected a file ending in .json, got a.yaml"),
        ("summarise depth --output nats.npy", "argument --output: expected a file ending in .json, got nats.npy"),
        ("record depth --output results", "argument --output: expected a file ending in .json, got results"),
        (f"train low --data S2.h5 --output {__file__}", "argument --output: expected a folder, got a file: "),
        (f"export depth --data S2.h5 --output {__file__}", "argument --output: expected a folder, got a file: "),
    ],
)
def test_a_mistake_in_an_option_is_told_in_one_line(
    command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *rest = command.split(" ")
    with pytest.raises(SystemExit, match="2"):
        main([verb, *rest])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"spn: error: {message}")
    assert line.endswith(f"; see spn {verb} --help")
