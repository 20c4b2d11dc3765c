"""Every command explains each of its arguments and options."""

import re

import pytest
from cli_runs import kwsq, kwsq_convert

COMMANDS = re.findall(r"^  ([a-z][a-z-]+)  ", kwsq("--help").stdout.split("Commands:")[1], re.MULTILINE)
GROUPED = [("gate", "judge"), ("gate", "plan")]


def unexplained(text: str) -> set[str]:
    """Return the arguments and options that a help text says nothing of; [required] and [default: ..] say nothing."""
    sections = re.split(r"^(?:Arguments|Options):$", text, flags=re.MULTILINE)[1:]
    entries = [entry for section in sections for entry in re.split(r"^  (?=-|\[?[A-Z]{2})", section, flags=re.M)[1:]]
    found = {}
    for entry in entries:
        name, _, words = entry.partition("  ")
        name, _, more = name.partition("\n")  # a long name has its text on the next line
        found[name] = re.sub(r"\[(required|default:.*?)\]|\(.*?\)", "", more + words, flags=re.DOTALL).strip()
    assert found
    return {name for name, words in found.items() if not words}


@pytest.mark.parametrize("command", [*((name,) for name in COMMANDS), *GROUPED], ids=" ".join)
def test_every_argument_and_option_of_a_command_is_explained(command: tuple[str, ...]) -> None:
    assert unexplained(kwsq(*command, "--help").stdout) == set()


def test_kwsq_convert_explains_its_own() -> None:
    text = kwsq_convert("--help").stdout
    assert unexplained(text) == set()
    silent = text.replace("The ONNX model.", "")
    assert silent != text
    assert unexplained(silent) == {"MODEL"}


def test_all_commands_are_found() -> None:
    assert {"convert", "lint", "train", "eval", "gate"} <= set(COMMANDS)
