"""Budgets inside model.generate: exact positions, row by row, on a tiny random model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from budgetctl import errors  # noqa: E402  (after the skips)
from budgetctl.integrations import transformers as ours  # noqa: E402
from budgetctl.integrations.transformers import BudgetLogitsProcessor, generate  # noqa: E402
from budgetctl.types import Budget, StopReason  # noqa: E402

CLOSE = "\n</think>\n\n"
UNLIMITED = Budget(stop="none")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}<|im_start|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% else %}<think>{% endif %}"
)


def build_tokenizer(template: str = TEMPLATE) -> Any:
    """One token per character, three chat markers and two thinking tags."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = ["?", "\n", " ", ".", "$", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    core = Tokenizer(models.WordLevel({c: i for i, c in enumerate(letters)}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    core.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="?",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small are faster on one thread, and tests may share the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    """A random model that writes letters only: no tag and no end by itself."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=1024,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    head = torch.nn.Linear(32, 64)
    head.weight.data = model.lm_head.weight.data
    head.bias.data = torch.where(
        torch.arange(64) < tokenizer.convert_tokens_to_ids("<|endoftext|>"), 0.0, -1e4
    )
    model.lm_head = head
    return model


class Scripted:
    """A row of scores per step: the model 'wants' to say the letters of a script."""

    def __init__(self, tokenizer: Any, budgets: Sequence[Budget | None], **options: Any) -> None:
        self.tokenizer = tokenizer
        self.processor = BudgetLogitsProcessor(tokenizer, budgets, close_text=CLOSE, **options)
        self.limit = self.processor.answer_limit()

    def run(self, prompts: Sequence[str], scripts: Sequence[str], *, steps: int) -> list[str]:
        """Return what each row says; a script is read on where it was left when a token is forced."""
        ids = self.ids(prompts)
        width = ids.shape[1]
        queues = [self.tokenizer.encode(s, add_special_tokens=False) for s in scripts]
        for step in range(steps):
            wanted = torch.tensor([q[step] if step < len(q) else 0 for q in queues])
            scores = torch.nn.functional.one_hot(wanted, 64).float()
            ids = torch.cat([ids, self.processor(ids, scores).argmax(dim=1, keepdim=True)], dim=1)
            self.limit(ids, None)
        return [self.tokenizer.decode(row[width:]) for row in ids]

    def ids(self, prompts: Sequence[str]) -> Any:
        return self.tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left")[
            "input_ids"
        ]


def say(
    tokenizer: Any, budget: Budget | None, script: str, *, prompt: str = "<think>", steps: int = 40
) -> str:
    (text,) = Scripted(tokenizer, [budget]).run([prompt], [script], steps=steps)
    return text


def test_the_close_comes_at_the_end_of_the_grace_when_no_sentence_ends(tokenizer: Any) -> None:
    text = say(tokenizer, Budget(reasoning_tokens=20), "x" * 40)
    assert text == "x" * 22 + CLOSE + "x" * (40 - 22 - 4)


@pytest.mark.parametrize("ending", [20, 21, 22])
def test_the_close_waits_for_the_end_of_a_sentence(tokenizer: Any, ending: int) -> None:
    script = "x" * (ending - 1) + "." + "x" * 20
    text = say(tokenizer, Budget(reasoning_tokens=20), script)
    assert text.index(CLOSE) == ending


def test_sentences_before_the_cap_and_inside_formulas_do_not_end_a_thought(tokenizer: Any) -> None:
    early = say(tokenizer, Budget(reasoning_tokens=20), "x" * 18 + "." + "x" * 20)
    formula = say(tokenizer, Budget(reasoning_tokens=20), "x" * 10 + "$" + "x" * 9 + "." + "x" * 20)
    assert early.index(CLOSE) == formula.index(CLOSE) == 22


def test_the_models_own_close_is_left_alone(tokenizer: Any) -> None:
    script = "xx</think>" + "y" * 37
    assert say(tokenizer, Budget(reasoning_tokens=20), script) == script


def test_a_second_thought_gets_no_second_budget(tokenizer: Any) -> None:
    script = "x" * 15 + "</think>yy<think>" + "z" * 30
    text = say(tokenizer, Budget(reasoning_tokens=20), script, steps=45)
    assert text.startswith("x" * 15 + "</think>yy<think>" + "z" * 7 + CLOSE)


def test_thinking_in_the_prompt_counts_and_earlier_turns_do_not(tokenizer: Any) -> None:
    budget = Budget(reasoning_tokens=20)
    prefilled = say(tokenizer, budget, "x" * 40, prompt="<think>aaaaa")
    history = say(tokenizer, budget, "x" * 40, prompt="<think>aaaaa</think>bb<think>")
    assert (prefilled.index(CLOSE), history.index(CLOSE)) == (17, 22)


def test_counting_starts_where_the_model_opens_its_thinking(tokenizer: Any) -> None:
    text = say(tokenizer, Budget(reasoning_tokens=20), "yyyy<think>" + "x" * 40, prompt="ask")
    assert text.startswith("yyyy<think>" + "x" * 22 + CLOSE)


def test_a_row_whose_thinking_is_closed_is_left_alone(tokenizer: Any) -> None:
    assert say(tokenizer, Budget(reasoning_tokens=5), "x" * 40, prompt="<think></think>") == "x" * 40


def test_a_cap_of_zero_closes_a_thought_as_it_opens(tokenizer: Any) -> None:
    assert say(tokenizer, Budget(reasoning_tokens=0), "<think>" + "x" * 39, prompt="a").startswith(
        "<think>" + CLOSE
    )


def test_rows_keep_their_own_budgets_under_left_padding(tokenizer: Any) -> None:
    budgets = [Budget(reasoning_tokens=5), None, Budget(reasoning_tokens=20), Budget(stop="none")]
    prompts = ["a<think>", "aaaaaaaaa<think>", "aaaa<think>", "<think>"]
    texts = Scripted(tokenizer, budgets).run(prompts, ["x" * 40] * 4, steps=40)
    assert [t.find(CLOSE) for t in texts] == [5, -1, 22, -1]


def test_answer_tokens_end_a_row(tokenizer: Any) -> None:
    scripted = Scripted(tokenizer, [Budget(reasoning_tokens=5, answer_tokens=10), None])
    scripted.run(["<think>", "<think>"], ["x" * 40] * 2, steps=5 + 4 + 9)
    assert scripted.processor.rows.answers_full == [False, False]
    scripted = Scripted(tokenizer, [Budget(reasoning_tokens=5, answer_tokens=10), None])
    scripted.run(["<think>", "<think>"], ["x" * 40] * 2, steps=5 + 4 + 10)
    assert scripted.processor.rows.answers_full == [True, False]


def test_the_deadline_keeps_the_time_to_answer(tokenizer: Any) -> None:
    seconds = iter(range(1000))
    budgets = [Budget(deadline_s=60.0, answer_tokens=20), None]
    scripted = Scripted(tokenizer, budgets, clock=lambda: float(next(seconds)), started=0.0)
    texts = scripted.run(["<think>"] * 2, ["x" * 100] * 2, steps=100)
    assert texts[0].index(CLOSE) == 48  # the first look, every 16 steps, at which 20 s or fewer are left
    assert CLOSE not in texts[1]
    assert scripted.processor.rows.reasons == [StopReason.DEADLINE, StopReason.NATURAL]


def test_loops_end_a_thought_unless_nothing_was_asked_for(tokenizer: Any) -> None:
    loop, lively = "abcde " * 100, "".join("abcdefghij"[i * i % 97 % 10] for i in range(600))
    budgets = [Budget(), Budget(stop="none"), Budget()]
    scripted = Scripted(tokenizer, budgets)
    texts = scripted.run(["<think>"] * 3, [loop, loop, lively], steps=450)
    assert [t.find(CLOSE) for t in texts] == [384, -1, -1]
    assert scripted.processor.rows.reasons[0] is StopReason.LOOP


def test_scores_are_only_touched_where_a_token_is_forced(tokenizer: Any) -> None:
    scripted = Scripted(tokenizer, [Budget(reasoning_tokens=2), Budget()])
    ids, scores = scripted.ids(["<think>", "<think>"]), torch.zeros(2, 64)
    for _ in range(3):
        given = scripted.processor(ids, scores)
        if ids.shape[1] < 3:
            assert given is scores
        ids = torch.cat([ids, given.argmax(dim=1, keepdim=True)], dim=1)
    assert given[1].equal(scores[1])
    assert given[0].isinf().sum() == 63
    assert not scores.isinf().any()


def test_rows_without_a_budget_are_what_plain_generate_gives(model: Any, tokenizer: Any) -> None:
    inputs = tokenizer(
        ["abc<think>", "ab<think>", "what is 1<think>"],
        return_tensors="pt",
        padding=True,
        padding_side="left",
    )
    inputs = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    plain = model.generate(**inputs, max_new_tokens=60, do_sample=False)
    processor = BudgetLogitsProcessor(tokenizer, [None, Budget(reasoning_tokens=10), None], close_text=CLOSE)
    budgeted = model.generate(**inputs, max_new_tokens=60, do_sample=False, logits_processor=[processor])
    assert torch.equal(plain[0], budgeted[0])
    assert torch.equal(plain[2], budgeted[2])
    start = inputs["input_ids"].shape[1]
    cap = tokenizer.decode(budgeted[1, start:]).index(CLOSE)
    assert 10 <= cap <= 11
    assert torch.equal(plain[1, : start + cap], budgeted[1, : start + cap])


def test_sampling_obeys_the_budget_too(model: Any, tokenizer: Any) -> None:
    torch.manual_seed(1)
    (done,) = generate(
        model,
        tokenizer,
        ["abc"],
        budgets=[Budget(reasoning_tokens=20, answer_tokens=8)],
        close_text=CLOSE,
        do_sample=True,
        temperature=0.1,
        top_p=0.9,
    )
    assert done.usage.reasoning_tokens in (21, 22, 23)  # the cap, its grace, and the closing line end


def test_generate_splits_counts_and_says_why(model: Any, tokenizer: Any) -> None:
    budgets = [
        Budget(reasoning_tokens=20, answer_tokens=8),
        Budget(reasoning_tokens=0, answer_tokens=8),
        None,
    ]
    capped, off, plain = generate(
        model, tokenizer, ["abc", "abc", "abc"], budgets=budgets, close_text=CLOSE, max_new_tokens=50
    )
    assert capped.stop is StopReason.CAP
    assert capped.text.startswith(capped.reasoning)
    assert "</think>" in capped.text
    assert "</think>" not in capped.reasoning + capped.answer
    assert capped.usage.provenance == "counted"
    assert off.stop is StopReason.OFF
    assert off.usage.reasoning_tokens == 0
    assert off.usage.answer_tokens == 8
    assert plain.stop is StopReason.LENGTH
    assert (plain.usage.reasoning_tokens, plain.answer, plain.recovered) == (50, "", False)


def test_a_row_without_an_answer_is_continued_once(model: Any, tokenizer: Any) -> None:
    budget = Budget(answer_tokens=8, stop="none")
    (done,) = generate(model, tokenizer, ["abc"], budgets=[budget], close_text=CLOSE, max_new_tokens=30)
    assert done.recovered
    assert done.answer
    assert done.stop is StopReason.LENGTH
    assert done.usage.output_tokens == 30 + 4 + 8


def test_a_cap_gives_way_to_the_callers_output_limit(model: Any, tokenizer: Any) -> None:
    budget = Budget(reasoning_tokens=500, answer_tokens=10)
    (done,) = generate(model, tokenizer, ["abc"], budgets=[budget], close_text=CLOSE, max_new_tokens=65)
    assert done.stop is StopReason.CAP
    assert done.answer
    assert done.usage.output_tokens is not None
    assert done.usage.output_tokens <= 65


def test_batches_keep_the_order_and_clocks_are_injected(model: Any, tokenizer: Any) -> None:
    ticks = iter(range(10_000))
    budgets = [Budget(reasoning_tokens=n, answer_tokens=4) for n in (10, 30, 20, 0, 5)]
    done = generate(
        model,
        tokenizer,
        ["a", "bbbbbb", "cc", "d", "eee"],
        budgets=budgets,
        close_text=CLOSE,
        batch_size=2,
        clock=lambda: float(next(ticks)),
    )
    spent = [d.usage.reasoning_tokens or 0 for d in done]
    assert sorted(range(5), key=spent.__getitem__) == [3, 4, 0, 2, 1]
    for one in done:
        assert one.timing.ttft_s is not None
        assert one.timing.ttfo_s is not None
        assert one.timing.e2e_s is not None
        assert one.timing.ttft_s <= one.timing.ttfo_s <= one.timing.e2e_s
        assert one.timing.e2e_s - one.timing.ttft_s == (one.usage.output_tokens or 0) - 1


def test_a_template_without_a_switch_gets_its_thinking_closed_at_once(model: Any) -> None:
    tokenizer = build_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}<think>")
    budget = Budget(reasoning_tokens=0, answer_tokens=4)
    (done,) = generate(model, tokenizer, ["abc"], budgets=[budget], close_text=CLOSE)
    assert done.text.startswith(CLOSE)
    assert done.stop is StopReason.OFF


def test_conversations_are_only_read(model: Any, tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "abc"}]
    generate(model, tokenizer, [chat], budgets=[Budget(reasoning_tokens=5, answer_tokens=2)])
    assert chat == [{"role": "user", "content": "abc"}]


def test_what_cannot_work_is_named(model: Any, tokenizer: Any) -> None:
    with pytest.raises(errors.ConfigError, match=r"'<thought>' must be one token"):
        BudgetLogitsProcessor(tokenizer, [None], open_tag="<thought>")
    with pytest.raises(errors.ConfigError, match="1 for 2 rows"):
        BudgetLogitsProcessor(tokenizer, [None])(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 64))
    with pytest.raises(ValueError, match="seen 1 for 2"):
        generate(model, tokenizer, ["a", "b"], budgets=[UNLIMITED])


def test_default_close_text_ends_with_the_tag() -> None:
    tokenizer = build_tokenizer()
    assert ours.close_ids(tokenizer, close_text="so", close_tag="</think>") == tokenizer.encode(
        "so</think>\n\n"
    )
    assert tokenizer.convert_tokens_to_ids("</think>") in ours.close_ids(
        tokenizer, close_text=None, close_tag="</think>"
    )


@pytest.fixture(scope="module")
def pocket() -> Any:
    """The pocket reasoner and its tokenizer."""
    from budgetctl.evals import pocket

    if not pocket.path().exists():
        pytest.skip("no pocket reasoner in this checkout")
    return pocket.load()


def test_the_pocket_reasoner_answers_under_every_cap(pocket: Any) -> None:
    from budgetctl.evals.pocket import CLOSE_TEXT, questions

    chats = [q.text for q in questions("test", 4)]
    spent = []
    for cap in (40, 10, 0):
        budgets = [Budget(reasoning_tokens=cap)] * len(chats)
        done = generate(*pocket, chats, budgets=budgets, close_text=CLOSE_TEXT, max_new_tokens=128)
        assert all(d.answer for d in done)
        spent.append(sum(d.usage.reasoning_tokens or 0 for d in done))
    assert spent[0] > spent[1] > spent[2] == 0


def test_a_controller_decides_for_every_row_and_records_it(pocket: Any) -> None:
    from budgetctl.controller import Controller
    from budgetctl.outcomes import Outcome, outcome

    class Keep:
        def __init__(self) -> None:
            self.rows: list[Outcome] = []

        def write(self, row: Outcome, **_: Any) -> None:
            self.rows.append(row)

    kept = Keep()
    controller = Controller("cap:8+stop:none", classifier=None, sinks=[kept])
    done = generate(*pocket, ["What is 3 + 4 ?", "What is 2 + 2 ?"], controller=controller)
    assert [d.outcome for d in done] == kept.rows
    for one in done:
        record = outcome(one)
        assert record.answered
        assert record.usage.provenance == "counted"
        assert record.usage.reasoning_tokens == one.usage.reasoning_tokens
        assert [(c.name, c.value, c.strength) for c in record.controls] == [("logits", 8, "hard")]


def test_an_observing_controller_changes_nothing(pocket: Any) -> None:
    from budgetctl.controller import Controller

    chats = ["What is 3 + 4 ?"]
    observing = Controller("cap:1", classifier=None, mode="observe")
    plain = generate(*pocket, chats, max_new_tokens=64)
    observed = generate(*pocket, chats, controller=observing, max_new_tokens=64)
    assert observed[0].text == plain[0].text
    assert observed[0].outcome is not None
    assert plain[0].outcome is None


def test_a_failing_model_is_recorded_and_its_error_kept(pocket: Any) -> None:
    from budgetctl.controller import Controller

    seen: list[Any] = []
    sink = type("Sink", (), {"write": lambda self, row, **_: seen.append(row)})()
    controller = Controller("cap:8", classifier=None, sinks=[sink])
    with pytest.raises(ValueError, match="nonsense"):
        generate(*pocket, ["What is 3 + 4 ?"], controller=controller, nonsense=1)
    assert [(row.stop.reason, row.answered) for row in seen] == [("error", False)]
