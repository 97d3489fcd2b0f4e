"""The capability table: which row speaks for a model, what it says, and what a bad file is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from budgetctl.capabilities import ENDPOINTS, UNKNOWN, Cap, Capability, Effort, Table, guess_endpoint
from budgetctl.errors import ConfigError


@pytest.fixture(scope="module")
def table() -> Table:
    return Table.load()


def test_every_shipped_row_says_where_it_comes_from(table: Table):
    assert table.rows
    assert all(row.source and row.verified_on for row in table.rows)
    assert {e for row in table.rows for e in row.endpoints} <= set(ENDPOINTS)


@pytest.mark.parametrize(
    ("model", "endpoint", "cap", "off", "efforts"),
    [
        ("gpt-5-mini", "openai", False, False, ("minimal", "low", "medium", "high")),
        ("gpt-5.1", "openai", False, True, ("none", "low", "medium", "high")),
        ("o3", "openai", False, False, ("low", "medium", "high")),
        ("gpt-4o-mini", "openai", False, False, ()),
        ("gpt-5.3-chat-latest", "openai", False, False, ()),
        ("Qwen/Qwen3-8B", "vllm", True, True, ()),
        ("deepseek-ai/DeepSeek-R1", "vllm", True, False, ()),
        ("Qwen/Qwen3-4B-Instruct-2507", "vllm", False, False, ()),
        ("qwen3-4b", "sglang", True, True, ()),
        ("Qwen3-4B-Q8_0.gguf", "llama.cpp", True, True, ()),
        ("./models/pocket-1", "transformers-serve", True, True, ()),
        ("pocket-1", "in-process", True, True, ()),
    ],
)
def test_what_a_policy_is_told(table: Table, model: str, endpoint: str, cap: bool, off: bool, efforts):
    facts = table.lookup(model, endpoint).facts()
    assert (facts.can_cap, facts.can_switch_off, facts.efforts) == (cap, off, efforts)


@pytest.mark.parametrize("model", [None, "", "some-new-model"])
def test_an_unknown_model_has_no_controls(table: Table, model: str | None):
    found = table.lookup(model, "vllm")
    assert found is UNKNOWN
    assert not found.known
    assert found.facts().can_cap is found.facts().can_switch_off is False


def test_case_and_folders_do_not_matter(table: Table):
    rows = {table.lookup(m, "vllm").models for m in ("QWEN/QWEN3-8B", "qwen3-8b", "/mnt/models/Qwen3-8B/")}
    assert len(rows) == 1
    assert rows != {UNKNOWN.models}


def test_a_kind_of_endpoint_that_does_not_exist_is_refused(table: Table):
    with pytest.raises(ConfigError, match=r"'tgi', allowed: openai, azure, "):
        table.lookup("Qwen3-8B", "tgi")


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        (None, "openai"),
        ("https://api.openai.com/v1/", "openai"),
        ("https://eu.api.openai.com/v1", "openai"),
        ("https://my-resource.openai.azure.com/openai", "azure"),
        ("https://my-resource.cognitiveservices.azure.com/openai/v1/", "azure"),
        ("https://my-resource.services.ai.azure.com/openai/v1", "azure"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://api.deepseek.com", "deepseek"),
        ("https://dashscope.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("https://oss-cn-beijing.aliyuncs.com/v1", "openai-compatible"),
        ("https://API.X.AI/v1", "xai"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "google-openai"),
        ("http://localhost:8000/v1", "openai-compatible"),
        ("http://localhost:11434/v1", "openai-compatible"),
        ("https://api.openai.com.evil.example/v1", "openai-compatible"),
    ],
)
def test_the_kind_of_endpoint_is_guessed_from_the_host(url: str | None, kind: str):
    assert guess_endpoint(url) == kind


def test_own_rows_win(tmp_path: Path, table: Table):
    path = tmp_path / "own.toml"
    path.write_text(
        '[[row]]\nmodels = ["*qwen3*"]\nendpoints = ["vllm"]\nnatural_p99 = 9000\nsource = "measured"\n'
    )
    mine = Table.load(path)
    assert mine.lookup("Qwen3-8B", "vllm").facts().natural_p99 == 9000
    assert mine.lookup("Qwen3-8B", "vllm").cap is None
    assert mine.lookup("Qwen3-8B", "sglang") == table.lookup("Qwen3-8B", "sglang")
    assert mine.version != table.version


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            'models = ["x"]\nendpoints = ["vllm"]\ncapp = 1',
            r"row 1: unknown key 'capp' = 1; allowed: models, ",
        ),
        (
            'models = ["x"]\nendpoints = ["vllm"]\ncap = { strength = "strong" }',
            r"row 1: key 'cap.strength': seen 'strong', allowed: 'hard', 'advisory' or 'none'",
        ),
        (
            'models = ["x"]\nendpoints = ["vllm"]\ncap = { strength = "hard", tokens = 3 }',
            r"row 1: unknown key 'cap.tokens' = 3; allowed: parameters, strength",
        ),
        (
            'models = ["x"]\nendpoints = ["vllm"]\neffort = { levels = ["low"], below = { none = 5 } }',
            r"row 1: key 'effort.below': seen \{'none': 5\}, allowed: .*levels of minimal, low, ",
        ),
        ('models = ["x"]\nendpoints = ["tgi"]', r"row 1: key 'endpoints.0': seen 'tgi', allowed: 'openai', "),
        ('models = ["x"]', r"row 1: key 'endpoints' is missing"),
        ("models = [", r"not valid TOML"),
    ],
)
def test_a_bad_file_is_told_where_and_what(tmp_path: Path, text: str, told: str):
    path = tmp_path / "own.toml"
    path.write_text(f"[[row]]\n{text}\n")
    with pytest.raises(ConfigError, match=told) as caught:
        Table.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Table.load(tmp_path / "nowhere.toml")


def test_one_way_of_continuing_is_a_list_of_one_and_the_order_is_kept(tmp_path: Path):
    path = tmp_path / "own.toml"
    head = '[[row]]\nmodels = ["{}"]\nendpoints = ["vllm"]\nsource = "me"\ncontinuation = {}\n'
    path.write_text(head.format("a", '"chat"') + head.format("b", '["chat", "raw_completions", "reask"]'))
    rows = Table.load(path)
    assert rows.lookup("a", "vllm").continuation == ("chat",)
    assert rows.lookup("b", "vllm").continuation == ("chat", "raw_completions", "reask")
    path.write_text(head.format("a", '["shout"]'))
    with pytest.raises(ConfigError, match="'raw_completions', 'chat' or 'reask'"):
        Table.load(path)
    path.write_text(head.format("a", "[]"))
    with pytest.raises(ConfigError, match="continuation"):
        Table.load(path)


def test_only_llama_cpp_ends_a_thought_live(table: Table):
    live = {endpoint for row in table.rows if row.live_end for endpoint in row.endpoints}
    assert live == {"llama.cpp"}


def test_controls_that_do_not_work_are_left_out(table: Table):
    qwen = table.lookup("Qwen3-8B", "vllm")
    assert qwen.continuation == ("raw_completions", "chat", "reask")
    assert qwen.without(frozenset({"raw_completions"})).continuation == ("chat", "reask")
    assert qwen.without(frozenset({"raw_completions", "chat", "reask"})).continuation is None
    llama = table.lookup("Qwen3-8B", "llama.cpp")
    assert not llama.without(frozenset({"reasoning_control"})).live_end
    assert llama.without(frozenset({"raw_completions"})).stoppable
    assert qwen.without(frozenset({"thinking_token_budget"})).cap is None
    assert qwen.without(frozenset({"thinking_token_budget"})).off == qwen.off
    assert qwen.without(frozenset({"abort_continue"})).continuation is None
    assert table.lookup("o3", "openai").without(frozenset({"reasoning_effort"})).effort is None
    assert qwen.without(frozenset()) is qwen


LEVELS = ["none", "low", "medium", "high"]


@pytest.mark.parametrize(
    ("levels", "asked", "nearest"),
    [
        (LEVELS, "medium", "medium"),
        (LEVELS, "max", "high"),
        (LEVELS, "minimal", "low"),
        (["minimal", "medium"], "low", "minimal"),
        (["none", "default"], "default", "default"),
        (["none", "default"], "low", None),
        (["low", "high"], "none", None),
        (["low", "high"], "lowish", None),
    ],
)
def test_levels_are_rounded_down_and_none_is_a_switch(levels: list[str], asked: str, nearest: str | None):
    assert Effort(levels=tuple(levels)).nearest(asked) == nearest


def test_the_level_for_a_cap_is_data_that_a_user_and_a_row_can_replace(tmp_path: Path, table: Table):
    row = '[[row]]\nmodels = ["{}"]\nendpoints = ["openai"]\nsource = "me"\n'
    path = tmp_path / "own.toml"
    path.write_text(
        "effort_below = { low = 100, high = 900 }\n"
        + row.format("a")
        + 'effort = { levels = ["low", "medium", "high"] }\n'
        + row.format("b")
        + 'effort = { levels = ["low", "medium", "high"], below = { medium = 50 } }\n'
    )
    mine = Table.load(path)

    def levels(found: Table, model: str) -> list[str | None]:
        effort = found.lookup(model, "openai").effort
        assert effort is not None
        return [effort.for_cap(tokens) for tokens in (20, 500, 5000, 50000)]

    assert levels(table, "gpt-5") == ["minimal", "minimal", "medium", None]
    assert levels(mine, "gpt-5") == ["low", "high", None, None]
    assert levels(mine, "a") == ["low", "high", None, None]
    assert levels(mine, "b") == ["medium", None, None, None]
    assert mine.version != table.version


def test_a_model_is_silent_where_its_row_or_its_default_level_says_so():
    row = {"models": ("m",), "endpoints": ("openai",)}
    assert not Capability(**row).silent
    assert not Capability(**row, thinks_by_default=True).silent
    assert Capability(**row, thinks_by_default=False).silent
    assert Capability(**row, effort=Effort(levels=("none", "low"), default="none")).silent


def test_a_constant_that_is_refused_takes_its_cap_along():
    cap = Cap(parameters=("thinking.budget_tokens",), strength="advisory", also={"thinking.type": "enabled"})
    effort = Effort(levels=("low",), parameter="output_config.effort")
    row = Capability(models=("m",), endpoints=("openai",), cap=cap, effort=effort)
    assert row.without(frozenset({"thinking.type"})).cap is None
    assert row.without(frozenset({"output_config.effort"})).effort is None
