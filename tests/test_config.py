"""Configuration: file, environment and mapping give one checked controller, or an error that helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from budgetctl import ConfigError, Settings


def write(folder: Path, text: str) -> Path:
    path = folder / "budgetctl.toml"
    path.write_text(text)
    return path


def test_nothing_configured_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert Settings.load(env={}) == Settings()


def test_the_file_of_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, 'policy = "cap:100"\nroute = "support"\n[limits]\ndeadline_s = 4\n')
    monkeypatch.chdir(tmp_path)
    settings = Settings.load(env={})
    assert (settings.policy, settings.route, settings.limits.deadline_s) == ("cap:100", "support", 4)


def test_the_environment_wins_over_the_file_key_by_key(tmp_path: Path):
    path = write(tmp_path, 'policy = "cap:100"\n[limits]\ndeadline_s = 4\n')
    env = {"BUDGETCTL_POLICY": "off", "BUDGETCTL_LIMITS__DEADLINE_S": "2.5", "BUDGETCTL_HOME": "/nowhere"}
    settings = Settings.load(path, env=env)
    assert (settings.policy, settings.limits.deadline_s) == ("off", 2.5)


def test_settings_become_a_controller_with_its_sink(tmp_path: Path):
    controller = Settings.load({"policy": "off", "sink": tmp_path / "out.jsonl"}, env={}).controller(
        strict=True
    )
    assert str(controller.policy) == "off"
    assert controller.strict
    assert len(controller.sinks) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('polcy = "off"', ["unknown key 'polcy'", "allowed: policy, classifier"]),
        ('policy = "cap:-1"', ["policy: seen 'cap:-1'", "from 1 to"]),
        ('mode = "sometimes"', ["mode: seen 'sometimes'", "'enforce' or 'observe'"]),
        ("[limits]\ndeadline_s = -1", ["limits.deadline_s: seen -1", "greater than 0"]),
        ("[limits]\nseconds = 1", ["unknown key 'limits.seconds'", "allowed: deadline_s"]),
        ("policy = off", ["not valid TOML"]),
    ],
)
def test_a_bad_file_names_file_key_value_and_what_is_allowed(tmp_path: Path, text: str, said: list[str]):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as seen:
        Settings.load(path, env={})
    for part in [*said, str(path)]:
        assert part in str(seen.value)


def test_a_bad_variable_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="BUDGETCTL_MODE: mode: seen 'sometimes'"):
        Settings.load(write(tmp_path, ""), env={"BUDGETCTL_MODE": "sometimes"})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nothing\.toml: cannot be read"):
        Settings.load(tmp_path / "nothing.toml", env={})


def test_every_mistake_is_reported_at_once(tmp_path: Path):
    with pytest.raises(ConfigError) as seen:
        Settings.load(write(tmp_path, 'mode = "x"\npolcy = 1\n'), env={})
    assert len(str(seen.value).splitlines()) == 2
