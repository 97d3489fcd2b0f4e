import pytest
from budgetctl.evals.suites import open_suite, with_settings

from budgetctl.config.sections import EvalSettings
from budgetctl.errors import ConfigError


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "suite.jsonl"
    path.write_text('{"question": "1+1?", "answer": "2", "level": 3}\n')
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grader": "operator:eq"}, "a suite file needs a model"),
        ({"model": "m"}, "a suite file needs a grader"),
        ({"grader": "operator:eq", "model": "nowhere/at/all"}, "transformers cannot load it"),
        ({"grader": "operator:eq", "model": "m", "concurrency": 4}, "answers in batches"),
        ({"grader": "operator:eq", "model": "m", "endpoint": "vllm"}, "give that too"),
        ({"grader": "operator:eq", "model": "m", "per_minute": 9}, "give --base-url too"),
        ({"per_minute": 0}, "--per-minute 0: expected a number above 0"),
    ],
)
def test_what_does_not_fit_together_is_said(suite, monkeypatch, arguments, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=message):
        open_suite(suite, **arguments)


def test_several_samples_in_this_process_are_drawn():
    pytest.importorskip("transformers")
    assert open_suite("pocket", limit=2).backend.settings["sampling"] == {}
    assert open_suite("pocket", limit=2, samples=3).backend.settings["sampling"] == {"temperature": 0.6}
    with pytest.raises(ConfigError, match="every sample is the same answer"):
        open_suite("pocket", limit=2, samples=3, sampling={"temperature": 0})


def test_a_model_of_transformers_answers_a_suite_of_your_own(tmp_path):
    pytest.importorskip("transformers")
    from budgetctl.evals import pocket

    from budgetctl.types import Budget

    asked = pocket.questions("test", 2)
    path = tmp_path / "suite.jsonl"
    path.write_text("".join(f'{{"question": "{q.text}", "answer": "{q.answer}"}}\n' for q in asked))
    suite = open_suite(
        str(path), grader=lambda answer, raw: raw["answer"] in answer, model=str(pocket.path())
    )
    results = suite.backend.generate(
        suite.questions, [Budget(), Budget(reasoning_tokens=0, answer_tokens=24)], seeds=[0, 1]
    )
    assert results[0].reasoning_tokens > 0
    assert results[1].reasoning_tokens == 0
    assert all(r.answered and r.started_s and r.ttft_s for r in results)


def test_draws_of_a_batch_repeat_with_its_seed():
    pytest.importorskip("transformers")
    from budgetctl.types import Budget

    suite = open_suite("pocket", limit=6, samples=2, sampling={"temperature": 1.5})
    ask = [suite.backend.generate(suite.questions, [Budget()] * 6, seeds=[s] * 6) for s in (1, 1, 2)]
    texts = [[r.thinking_tail for r in results] for results in ask]
    assert texts[0] == texts[1] != texts[2]


def test_trial_answers_of_a_model_in_this_process_are_as_the_settings_say():
    pytest.importorskip("transformers")
    settings = EvalSettings.model_validate({"trials": {"every": 4, "tokens": 3}})
    suite = open_suite("pocket", limit=2, **with_settings("pocket", {}, settings=settings))
    assert suite.backend.settings["trials"] == {"every": 4, "tokens": 3}
    usual = open_suite("pocket", limit=2, **with_settings("pocket", {}, settings=EvalSettings()))
    assert "trials" not in usual.backend.settings
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        EvalSettings.model_validate({"trials": {"tokens": 0}})


def test_settings_fill_what_is_not_given_except_for_the_built_in_suite():
    settings = EvalSettings(model="m", base_url="http://127.0.0.1:1/v1")
    given = {"model": "mine", "grader": None}
    filled = with_settings("a.jsonl", given, settings=settings)
    assert (filled["model"], filled["base_url"], filled["grader"]) == ("mine", "http://127.0.0.1:1/v1", None)
    assert with_settings("pocket", {}, settings=settings)["base_url"] is None
