"""Configuration: file, environment and mapping give one checked controller, or an error that helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from budgetctl import ConfigError, Query, Settings, override
from budgetctl.names import Alias
from budgetctl.types import Limits


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
        (
            'polcy = "off"',
            ["unknown key 'polcy' = 'off' (did you mean 'policy'?)", "allowed: policy, classifier"],
        ),
        ('policy = "cap:-1"', ["policy: seen 'cap:-1'", "from 1 to"]),
        ('mode = "sometimes"', ["mode: seen 'sometimes'", "'enforce' or 'observe'"]),
        ("[limits]\ndeadline_s = -1", ["limits.deadline_s: seen -1", "greater than 0"]),
        ("[limits]\nseconds = 1", ["unknown key 'limits.seconds'", "allowed: deadline_s"]),
        (
            "[limits]\nreasoning_tokens = -1",
            ["limits.reasoning_tokens: seen -1", "greater than or equal to 0"],
        ),
        ("policy = off", ["not valid TOML"]),
        (
            '[models.fast]\nmodel = "m"\nendpoit = "vllm"',
            ["unknown key 'models.fast.endpoit' = 'vllm' (did you mean 'endpoint'?)"],
        ),
        ('[models.fast]\nendpoint = "vllm"', ["key 'models.fast.model' is missing"]),
        ('[models.fast]\nmodel = "m"\nendpoint = "vlm"', ["models.fast.endpoint: seen 'vlm'", "'vllm'"]),
        ('[models.fast]\nmodel = "m"\nbase_url = "host"', ["models.fast.base_url: seen 'host'"]),
        ('[models.fast]\nmodel = "m"\npolicy = "of"', ["models.fast.policy: seen 'of'", "allowed: auto"]),
        ('[policies]\noff = "cap:3"', ["policies.off: seen 'cap:3'", "cannot name a policy"]),
        ('[policies]\na = "b"\nb = "off"', ["policies.a: seen 'b'", "unknown part 'b'"]),
        (
            'policy = "carful"\n[policies]\ncareful = "off"',
            ["policy: seen 'carful'", "certified:CERT, careful"],
        ),
        ('policy = "careful:3"\n[policies]\ncareful = "off"', ["a named policy takes no argument"]),
        ('[routes.s]\npolicy = "of"', ["routes.s.policy: seen 'of'"]),
        ("[routes.s.limits]\ndeadline = 3", ["unknown key 'routes.s.limits.deadline'", "'deadline_s'"]),
        (
            'route = "suport"\n[routes.support]',
            ["no such route (did you mean 'support'?)", "allowed: support"],
        ),
        ("[presets.balanced.trial_answer]\nconfidence = 2", ["presets.balanced: seen", "trial_answer"]),
        ("[presets.safe]", ["unknown key 'presets.safe'", "allowed: balanced, aggressive"]),
        ("limits = 5", ["limits: seen 5: Input should be a table"]),
        ("[models]\nfast = 3", ["models.fast: seen 3: Input should be a table"]),
        (
            "[[spend.limits]]\nname = 'a'\nusd = 1\nwindow = 'week'",
            ["spend.limits.0.window: seen 'week'", "7d"],
        ),
        ("[[spend.limits]]\nname = 'a'\nusd = 1", ["key 'spend.limits.0.window' is missing"]),
        ("[spend]\nhold = 3", ["unknown key 'spend.hold' = 3 (did you mean 'hold_s'?)"]),
        ("[routes.s]\nusd_per_month = -1", ["routes.s.usd_per_month: seen -1"]),
        (
            "[routes.s]\nusd_per_month = 1\n[[spend.limits]]\nname = 'route-s'\nusd = 1\nwindow = 'day'",
            ["spend.limits: seen ['route-s']", "a route's own limit"],
        ),
        ("[audit]\nrate = 0.1", ["audit: seen {'rate': 0.1}: rate and certificate need a journal"]),
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


# --- names -------------------------------------------------------------------------------------------------

NAMED: dict[str, Any] = {
    "policy": "cap:9",
    "policies": {"careful": "quantile:0.95&deadline:20", "both": "careful&cap:4000"},
    "models": {
        "small": "gpt-5-nano",
        "fast": {"model": "Qwen/Qwen3-8B", "endpoint": "vllm", "policy": "careful"},
    },
    "routes": {
        "support": {"policy": "cap:2000", "owner": "ops", "target_p95_s": 8, "limits": {"deadline_s": 5}},
        "batch": {"limits": {"reasoning_tokens": 100}},
    },
    "limits": {"deadline_s": 60},
}


def named(**changes: Any) -> Settings:
    return Settings.load({**NAMED, **changes}, env={})


def test_a_named_policy_is_a_policy_wherever_one_is_named():
    settings = named(policy="careful&cap:4000")
    assert str(settings.controller().policy) == "quantile:0.95&deadline:20&cap:4000"
    assert str(settings.controller(policy="both").policy) == str(settings.controller().policy)
    assert str(settings.controller().with_policy("both&off").policy).endswith("&off")
    with override(settings.parse("careful")):
        assert (
            settings.controller(classifier=None).decide(Query.from_text("?")).policy
            == "quantile:0.95&deadline:20"
        )


def test_a_model_may_be_its_name_alone():
    assert named().names.models["small"] == Alias(model="gpt-5-nano")
    fast = named().names.models["fast"]
    assert (fast.model, fast.endpoint, str(fast.policy)) == (
        "Qwen/Qwen3-8B",
        "vllm",
        "quantile:0.95&deadline:20",
    )


def test_changing_the_model_behind_an_alias_is_one_line_or_one_variable():
    env = {"BUDGETCTL_MODELS__FAST": "gpt-oss-20b", "BUDGETCTL_MODELS__NEW": "m"}
    models = Settings.load(NAMED, env=env).names.models
    assert (models["fast"].model, models["fast"].endpoint, models["new"].model) == (
        "gpt-oss-20b",
        "vllm",
        "m",
    )


def test_variables_reach_every_table_and_names_with_a_dash():
    env = {
        "BUDGETCTL_ROUTES__SUPPORT_EU__LIMITS__DEADLINE_S": "3",
        "BUDGETCTL_PRESETS__BALANCED__TRIAL_ANSWER__CONFIDENCE": "0.9",
        "BUDGETCTL_PRESETS__BALANCED__TRIAL_ANSWER__MASS": "0.1",
        "BUDGETCTL_DATA": "/no/setting",
    }
    settings = Settings.load({"routes": {"support-eu": {"policy": "off"}}}, env=env)
    assert settings.names.routes["support-eu"].limits == Limits(deadline_s=3)
    assert settings.presets.balanced == {"trial_answer": {"confidence": 0.9, "mass": 0.1}}


def test_a_variable_is_named_also_deep_in_a_table():
    with pytest.raises(
        ConfigError, match=r"^BUDGETCTL_MODELS__FAST__POLICY: models\.fast\.policy: seen 'of'"
    ):
        Settings.load(NAMED, env={"BUDGETCTL_MODELS__FAST__POLICY": "of"})
    with pytest.raises(ConfigError, match=r"^BUDGETCTL_MODELS__NEW: key 'models\.new\.model' is missing"):
        Settings.load(NAMED, env={"BUDGETCTL_MODELS__NEW__ENDPOINT": "vllm"})
    with pytest.raises(ConfigError, match="BUDGETCTL_LIMITS__DEADLINE_S: seen beside BUDGETCTL_LIMITS"):
        Settings.load({}, env={"BUDGETCTL_LIMITS": "1", "BUDGETCTL_LIMITS__DEADLINE_S": "1"})


def test_a_route_brings_its_policy_and_its_limits_key_by_key():
    controller = named().controller()
    support, batch = controller.with_route("support"), named().controller(route="batch")
    assert (str(support.policy), support.limits, support.route) == (
        "cap:2000",
        Limits(deadline_s=5),
        "support",
    )
    assert (str(batch.policy), batch.limits) == ("cap:9", Limits(deadline_s=60, reasoning_tokens=100))
    assert (controller.route, str(controller.policy)) == (None, "cap:9"), "the controller itself stays"
    assert support.speeds is controller.speeds, "routes share what is learnt"
    with pytest.raises(
        ConfigError, match=r"route: seen 'suport' \(did you mean 'support'\?\); allowed: support, batch"
    ):
        controller.with_route("suport")


def test_the_default_route_is_the_settings_own():
    assert named(route="support").controller().route == "support"
    assert str(named(route="support").controller().policy) == "cap:2000"


def test_without_routes_a_route_is_a_label():
    assert Settings.load({"route": "anything"}, env={}).controller().route == "anything"


def test_own_presets_reach_the_controller_and_the_hash_of_the_policy():
    mine = {"presets": {"balanced": {"trial_answer": {"confidence": 0.9, "mass": 0.1}}}}
    plain, own = (Settings.load(given, env={}).controller(policy="off") for given in ({}, mine))
    assert own.presets == mine["presets"]
    hashes = [c.decide(Query.from_text("?")).policy_hash for c in (plain, own)]
    assert hashes[0] != hashes[1]


def test_the_schema_for_editors_knows_every_key_and_says_what_it_is():
    schema = Settings.model_json_schema()
    assert set(schema["properties"]) == set(Settings.model_fields)
    sections = [schema, *schema["$defs"].values()]
    tables = [part for section in sections for part in section.get("anyOf", [section])]
    for table in tables:
        if table["type"] == "object":
            assert table["additionalProperties"] is False
            assert all({"description", "$ref"} & set(key) for key in table["properties"].values()), table[
                "title"
            ]


# --- spending limits ---------------------------------------------------------------------------------------


def test_spending_limits_are_those_of_the_file_and_of_its_routes():
    text = {
        "spend": {"limits": [{"name": "all", "tokens": 9, "window": "5h"}], "hold_s": 30},
        "routes": {"support eu": {"usd_per_month": 5.5}, "free": {}},
    }
    settings = Settings.load(text, env={"BUDGETCTL_SPEND__UNKNOWN_PRICE": "tokens"})
    ledger = settings.ledger
    assert ledger is not None
    assert (ledger.settings.hold_s, ledger.settings.unknown_price) == (30, "tokens")
    everything, monthly = ledger.settings.limits
    assert (everything.name, everything.tokens, everything.window) == ("all", 9, "5h")
    assert (monthly.name, monthly.usd, monthly.window) == ("route-support-eu", 5.5, "month")
    assert monthly.scope == {"route": "support eu"}


def test_all_controllers_of_a_configuration_share_its_accounts():
    settings = Settings.load({"spend": {"limits": [{"name": "all", "usd": 9, "window": "day"}]}}, env={})
    assert settings.controller().ledger is settings.controller().ledger is settings.ledger
    assert settings.controller(ledger=None).ledger is None


def test_without_limits_there_is_no_ledger():
    assert Settings.load({"routes": {"a": {}}}, env={}).controller().ledger is None


def test_accounts_on_redis_need_an_address():
    redis = pytest.importorskip("redis")
    text = {"spend": {"limits": [{"name": "all", "usd": 9, "window": "day"}]}}
    settings = Settings.load(text, env={"BUDGETCTL_SPEND__REDIS": "redis://:secret@localhost:6390/2"})
    client = settings.controller().ledger.store.client  # type: ignore[union-attr]
    assert isinstance(client, redis.Redis)
    assert client.connection_pool.connection_kwargs["db"] == 2
    with pytest.raises(ConfigError) as seen:
        Settings.load(text, env={"BUDGETCTL_SPEND__REDIS": "//:secret@localhost"}).controller()
    assert "secret" not in str(seen.value)
