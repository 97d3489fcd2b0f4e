"""Every command explains itself."""

import argparse

import pytest

from budgetctl.cli import parser


def commands(one, name="budgetctl"):
    yield name, one
    for action in one._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                yield from commands(below, f"{name} {word}")


@pytest.mark.parametrize(("name", "command"), [pytest.param(*c, id=c[0]) for c in commands(parser())])
def test_help_names_every_argument(name, command):
    shown = " ".join(command.format_help().split())
    assert shown.startswith(f"usage: {name} ")
    for action in command._actions:
        for option in action.option_strings:
            assert option in shown
