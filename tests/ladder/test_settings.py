"""Ladders of a configuration: read, checked before they meet traffic, and climbed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import budgetctl
from budgetctl.cli import main
from budgetctl.errors import ConfigError
from budgetctl.ladder import Calibration
from tests.ladder.rungserver import serving

TABLE = {"rungs": ["small@off", "large@careful"], "accept": "confident:0.9", "local": ["small"]}


def load(**ladder: Any) -> budgetctl.Settings:
    return budgetctl.Settings.load(
        {"policies": {"careful": "cap:9000"}, "ladders": {"support": {**TABLE, **ladder}}}, env={}
    )


def flags(query: budgetctl.Query) -> bool:
    return "patient" in query.text


def test_a_configured_ladder_is_climbed(tmp_path: Path):
    Calibration(knots=((0.0, 0.1), (1.0, 0.5)), n=50).save(tmp_path / "drafts.json")
    settings = load(calibration=[str(tmp_path / "drafts.json")], private=f"{__name__}:flags")
    with serving() as server, server.sync() as client:
        ladder = settings.ladder("support", {"small": client, "large": client}, sink=None)
        assert [str(rung) for rung in ladder.ladder.rungs] == ["small@off", "large@cap:9000"]
        ladder.chat.completions.create(messages=[{"role": "user", "content": "Hi"}])
        assert server.asked == ["small", "large"]
        ladder.chat.completions.create(messages=[{"role": "user", "content": "patient 7"}])
        assert server.asked == ["small", "large", "small"]
    with pytest.raises(ConfigError, match="seen 'sales', allowed: support"):
        settings.ladder("sales", {})


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"rungs": ["small@of"]}, "unknown part 'of'"),
        ({"rungs": ["small@full", "small@off"]}, "less thinking first"),
        ({"rungs": []}, "at least 1 item"),
        ({"accept": "confidence"}, "allowed: confident:P, agreement"),
        ({"accept": "confident:high"}, "needs a probability"),
        ({"local": ["tiny"]}, "models of the rungs"),
        ({"private": True, "local": []}, "no rung is one"),
        ({"hedge": 3}, "unknown key 'ladders.support.hedge'"),
    ],
)
def test_what_is_wrong_names_the_ladder(table: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said) as error:
        load(**table)
    assert "ladders.support" in str(error.value)


def test_config_check_reads_what_a_ladder_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "budgetctl.toml"
    path.write_text(
        '[ladders.a]\nrungs = ["gpt-5", "gpt-5-nano"]\naccept = "agreement"\n'
        '[ladders.b]\nrungs = ["gpt-5-nano", "gpt-5"]\naccept = "verified:no_such_module:f"\n'
        '[ladders.c]\nrungs = ["gpt-5-nano", "gpt-5"]\naccept = "confident:0.9"\n'
        'calibration = ["none.json"]\n'
        '[ladders.d]\nrungs = ["gpt-5-nano", "gpt-5"]\naccept = "agreement"\n'
    )
    assert main(["config", "check", str(path), "--json"]) == 1
    errors = json.loads(capsys.readouterr().out)["errors"]
    assert [error.split(":")[0] for error in errors] == ["ladders.a", "ladders.b", "ladders.c"]
    assert "cheapest first" in errors[0]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("support", "small@off>large@cap:9000?confident:0.9"),
        ("small@off > careful?agree", "small@off>cap:9000?agree"),
        ("off>careful?need:0.1", "off>cap:9000?need:0.1"),
        ("careful", "cap:9000"),
        ("off & careful", "off&cap:9000"),
    ],
)
def test_what_an_evaluation_is_asked_may_use_the_names_of_the_configuration(text: str, named: str):
    assert load().evaluated(text) == named


@pytest.mark.parametrize(
    ("ladder", "said"),
    [
        ({"accept": "verified:my_checks:is_right"}, "functions judge in the client only"),
        ({"calibration": ["drafts.json"]}, "takes the confidence as it is"),
        ({"hedge_s": 2}, "one rung after the other"),
    ],
)
def test_what_no_evaluation_can_climb_is_refused(ladder: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=rf"ladder 'support' cannot be evaluated by its name: .*{said}"):
        load(**ladder).evaluated("support")


def test_a_name_is_that_of_a_policy_or_of_a_ladder():
    with pytest.raises(ConfigError, match="no name of a policy"):
        budgetctl.Settings.load(
            {"policies": {"a": "off"}, "ladders": {"a": TABLE | {"rungs": ["x"]}}}, env={}
        )
    with pytest.raises(ConfigError, match=r"cascade 'off>carefull\?agree': .*did you mean 'careful'"):
        load().evaluated("off>carefull?agree")
