"""Budgets for models that run in this process, with Hugging Face transformers.

:func:`generate` answers whole lists of conversations, a budget per row. People with a ``model.generate`` call
of their own pass it a :class:`BudgetLogitsProcessor`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from budgetctl.adapters.base import DEADLINE, STOP, Rendered, fit_cap
from budgetctl.channels import CLOSE_TAG, OPEN_TAG
from budgetctl.integrations._logits import BudgetLogitsProcessor, close_ids
from budgetctl.integrations._logprobs import TokenLogprobs
from budgetctl.integrations._probes import Prober, left_padded
from budgetctl.integrations._rows import token_tables
from budgetctl.integrations._watch import Watch
from budgetctl.stopping import ANSWER_TOKENS, Preset, ProbeLedger, Trials, soft
from budgetctl.types import AppliedControl, Budget, CallerValues, Evidence, Query, StopReason, Timing, Usage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from budgetctl.capabilities import Capability
    from budgetctl.controller import Controller
    from budgetctl.outcomes import Outcome
    from budgetctl.session import Session

__all__ = ["BudgetLogitsProcessor", "Generation", "Trials", "generate"]

UNTOUCHED = Budget(stop="none")
"""A budget that asks for nothing: its row is generated as if budgetctl were not there."""

_SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_CRITERIA = {StopReason.CAP: "reasoning_cap", StopReason.DEADLINE: "deadline", StopReason.LOOP: "loop"}
Conversation = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What one row brought.

    Attributes:
        text: All that was generated, with tags, without the tokenizer's special tokens.
        reasoning: The thinking, forced closing words included.
        answer: The answer.
        usage: Counted tokens. Reasoning is what stands between the tags; the tags count with the answer.
        timing: Seconds from the start of the row's batch.
        stop: Why thinking ended.
        recovered: The row ended without an answer and was continued once with its thinking closed.
        criterion: Name of the criterion that ended thinking, if one did.
        probe_tokens: Tokens that were generated to see whether to stop; they are not part of the usage.
        prefilled_tokens: Tokens that were read again for it.
        fallback: What went wrong on the way and what was done instead, if anything did.
        logprobs: Log-probability of every token of the answer, its end left out, where they were asked for.
        thought: Tokens of the thinking as the model wrote it, up to where it ended or a close was forced,
            without tags: what another call may go on from.
        outcome: The record, where a controller decided.
    """

    text: str
    reasoning: str
    answer: str
    usage: Usage
    timing: Timing
    stop: StopReason
    recovered: bool = False
    criterion: str | None = None
    probe_tokens: int = 0
    prefilled_tokens: int = 0
    fallback: str | None = None
    logprobs: tuple[float, ...] | None = None
    thought: tuple[int, ...] = ()
    outcome: Outcome | None = None


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Conversation],
    *,
    budgets: Sequence[Budget | None] | None = None,
    controller: Controller | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
    close_text: str | None = None,
    open_tag: str = OPEN_TAG,
    close_tag: str = CLOSE_TAG,
    trials: Trials | None = None,
    presets: Mapping[str, Preset] | None = None,
    logprobs: bool = False,
    thoughts: Sequence[Sequence[int]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    **generation: Any,
) -> list[Generation]:
    """Answer every conversation within its thinking budget, in batches.

    A budget of 0 switches thinking off in the prompt where the chat template can (``enable_thinking``), and
    closes it as soon as it opens where not. The cap holds whatever the stop preset; ``safe`` also ends loops;
    ``balanced`` and ``aggressive`` ask the model for trial answers, at ends of sentences. A row that ends
    without an answer is continued once with its thinking closed, for at most the answer tokens of its budget.
    Rows with no budget (None, or one that asks for nothing) are left as they are.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, with a chat template.
        messages: Conversations, or plain user turns.
        budgets: One per conversation; the controller is then not asked.
        controller: Decides per conversation and records an outcome for each.
        max_new_tokens: Output limit of each row; None is the model's own, or what its context leaves.
        batch_size: Rows per batch, in the order given.
        close_text: Text that ends a thought; None is a short transition, the closing tag, an empty line.
        open_tag: The tag before thinking, one token.
        close_tag: The tag after it, one token.
        trials: How trial answers are asked for; None suits short final answers in a box.
        presets: Other soft criteria for ``balanced`` and ``aggressive``
            (see :func:`budgetctl.stopping.soft`); None takes the controller's.
        logprobs: Keep the log-probabilities of the answers' tokens, as the model sampled from them.
        thoughts: One per conversation, the ``thought`` of an earlier generation of this model, which its
            thinking goes on from; an empty one begins anew. The cap counts the whole thought, the usage what
            is generated now: what is read again counts as prompt. In greedy decoding the answer is that of a
            thought without the interruption. A budget of 0 does not go on.
        clock: Seconds, monotonic; a controller brings its own.
        **generation: Passed to ``model.generate`` (``do_sample``, ``temperature``, ...).

    Returns:
        One generation per conversation, in their order. Time stamps are taken on the host as the steps are
        launched; where the device runs behind, they lead it by at most a step or two.

    Raises:
        ConfigError: A thinking tag is not a single token of the tokenizer, or ``trials`` or ``presets`` name
            what cannot be.
        ValueError: ``budgets`` or ``thoughts`` and ``messages`` differ in length.
    """
    chats = [[{"role": "user", "content": m}] if isinstance(m, str) else [*m] for m in messages]
    if budgets is not None and len(budgets) != len(chats):
        raise ValueError(f"one budget per conversation, seen {len(budgets)} for {len(chats)}")
    if thoughts is not None and len(thoughts) != len(chats):
        raise ValueError(f"one thought per conversation, seen {len(thoughts)} for {len(chats)}")
    if controller is not None and presets is not None:  # a certificate binds their numbers
        controller = controller.with_presets(presets)
    runner = _Runner(
        model=model,
        tokenizer=tokenizer,
        close_text=close_text,
        tags=(open_tag, close_tag),
        trials=trials or Trials(),
        presets=presets if controller is None else controller.presets,
        max_new_tokens=max_new_tokens,
        logprobs=logprobs,
        clock=clock if controller is None else controller.clock,
        options=generation,
    )
    done: list[Generation] = []
    for start in range(0, len(chats), batch_size):
        part = slice(start, start + batch_size)
        batch = chats[part]
        begun = [()] * len(batch) if thoughts is None else thoughts[part]
        if budgets is not None:
            done += runner.run(batch, [b or UNTOUCHED for b in budgets[part]], begun)
        elif controller is None:
            done += runner.run(batch, [UNTOUCHED] * len(batch), begun)
        else:
            done += _run_sessions(runner, batch, begun, controller)
    return done


@dataclass(slots=True, kw_only=True)
class _Row:
    """One row of a batch: its generated ids and when each of them came."""

    prompt: list[int]
    budget: Budget
    begun: Sequence[int] = ()
    ids: list[int]
    stamps: list[float]
    reason: StopReason
    logprobs: list[float] | None = None
    evidence: Evidence | None = None
    probes: ProbeLedger | None = None
    failure: str | None = None
    recovered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runner:
    """Generates one batch; knows the model, and nothing of controllers."""

    model: Any  # the mixins of transformers are not typed
    tokenizer: Any
    close_text: str | None
    tags: tuple[str, str]
    trials: Trials
    presets: Mapping[str, Preset] | None
    max_new_tokens: int | None
    logprobs: bool
    clock: Callable[[], float]
    options: Mapping[str, Any]

    def run(
        self, chats: Sequence[Any], budgets: Sequence[Budget], thoughts: Sequence[Sequence[int]]
    ) -> list[Generation]:
        """Generate one batch."""
        started = self.clock()
        fitted = [self.fit(budget) for budget in budgets]
        begun = [() if b.off else thought for b, thought in zip(fitted, thoughts, strict=True)]
        prompts = [self._prompt(*one) for one in zip(chats, fitted, begun, strict=True)]
        rows = self._decode(prompts, fitted, started=started)
        for row, thought in zip(rows, begun, strict=True):
            row.begun = thought
        empty = [row for row in rows if row.budget != UNTOUCHED and not self._generation(row, started).answer]
        if empty:
            self._recover(empty, started=started)
        return [self._generation(row, started) for row in rows]

    def fit(self, budget: Budget) -> Budget:
        """Lower a cap to what the caller's output limit leaves beside the answer."""
        if not budget.reasoning_tokens:
            return budget
        reserve = budget.answer_tokens or ANSWER_TOKENS
        cap = fit_cap(budget.reasoning_tokens, limit=self.max_new_tokens, reserve=reserve)
        return replace(budget, reasoning_tokens=cap)

    @property
    def can_switch_off(self) -> bool:
        """Whether the chat template knows ``enable_thinking``."""
        return "enable_thinking" in self.tokenizer.get_chat_template()

    def _prompt(self, chat: Sequence[Mapping[str, Any]], budget: Budget, thought: Sequence[int]) -> list[int]:
        switch = {"enable_thinking": False} if budget.off and self.can_switch_off else {}
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **switch)
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        opening = [] if not thought or self._opened(ids) else [self._tag_ids[0]]
        return [*ids, *opening, *thought]

    def _opened(self, ids: Sequence[int]) -> bool:
        """Return whether a text ends inside a thought."""
        opened, closed = (_last(ids, tag) for tag in self._tag_ids)
        return opened > closed

    def _watch(self, budgets: Sequence[Budget], *, padding: Sequence[int]) -> Watch | None:
        """Return the soft criteria of a batch; None where its budgets have none."""
        criteria = [
            None if b.off else soft(b.stop, cap=b.reasoning_tokens, presets=self.presets) for b in budgets
        ]
        if not any(criteria):
            return None
        prober = Prober(
            self.model,
            self.tokenizer,
            self.trials,
            close=close_ids(self.tokenizer, close_text=self.close_text, close_tag=self.tags[1]),
            ends=self._eos_ids,
            pad=self._pad_id,
        )
        return Watch(criteria, prober=prober, padding=padding, close_id=self._tag_ids[1])

    def _processor(
        self, budgets: Sequence[Budget], *, started: float, watch: Watch | None
    ) -> BudgetLogitsProcessor:
        open_tag, close_tag = self.tags
        return BudgetLogitsProcessor(
            self.tokenizer,
            budgets,
            close_text=self.close_text,
            open_tag=open_tag,
            close_tag=close_tag,
            clock=self.clock,
            started=started,
            watch=watch,
        )

    def _decode(
        self,
        prompts: Sequence[list[int]],
        budgets: Sequence[Budget],
        *,
        started: float,
        limit: int | None = None,
        **options: Any,
    ) -> list[_Row]:
        """Run ``model.generate`` once and return what each row generated."""
        ids, seen = left_padded(prompts, pad=self._pad_id, device=self.model.device)
        width = ids.shape[1]
        watch = self._watch(budgets, padding=[width - len(prompt) for prompt in prompts])
        processor = self._processor(budgets, started=started, watch=watch)
        noted = TokenLogprobs() if self.logprobs else None
        out = self.model.generate(
            input_ids=ids,
            attention_mask=seen,
            logits_processor=[processor] if noted is None else [processor, noted],
            stopping_criteria=[processor.answer_limit(), *([] if noted is None else [noted.taken()])],
            max_new_tokens=self._output_limit(width, wanted=limit, budgets=budgets),
            pad_token_id=self._pad_id,
            **{**self.options, **options},
        )
        tokens = getattr(out, "sequences", out)[:, width:].tolist()
        rows = processor.rows
        done = [
            _Row(prompt=p, budget=b, ids=self._kept(ids), stamps=rows.stamps, reason=reason)
            for p, b, ids, reason in zip(prompts, budgets, tokens, rows.reasons, strict=True)
        ]
        if noted is not None:
            for row, values in zip(done, noted.of_rows(), strict=True):
                row.logprobs = values[: len(row.ids)]
        if watch is not None:
            for i, row in enumerate(done):
                row.evidence, row.probes = watch.evidence(i), watch.ledger(i)
                row.failure = None if row.probes is None else watch.failure
        return done

    def _output_limit(self, width: int, *, wanted: int | None, budgets: Sequence[Budget]) -> int:
        """Return the output limit of a batch: the caller's, else what context and recovery leave."""
        room = max(getattr(self.model.config, "max_position_embeddings", 1 << 20) - width, 1)
        if wanted is not None:
            return min(wanted, room)
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        own = getattr(self.model.generation_config, "max_new_tokens", None) or room
        reserve = max(b.answer_tokens or ANSWER_TOKENS for b in budgets)
        return min(own, room - min(reserve, room // 2))

    def _recover(self, rows: Sequence[_Row], *, started: float) -> None:
        """Give every row one more chance to answer, with its thinking closed."""
        close = close_ids(self.tokenizer, close_text=self.close_text, close_tag=self.tags[1])
        reserves = [row.budget.answer_tokens or ANSWER_TOKENS for row in rows]
        for row in rows:
            row.reason, row.recovered = self._stop(row), True
            row.ids = row.ids[:-1] if self._ended(row.ids) else row.ids
            row.stamps = row.stamps[: len(row.ids)]
        closing = [close if self._parts(row).thinking else [] for row in rows]
        more = self._decode(
            [row.prompt + row.ids + closed for row, closed in zip(rows, closing, strict=True)],
            [Budget(reasoning_tokens=0, answer_tokens=reserve, stop="none") for reserve in reserves],
            started=started,
            limit=max(reserves) + len(close),
            min_new_tokens=1,
        )
        for row, closed, answer in zip(rows, closing, more, strict=True):
            row.ids = row.ids + closed + answer.ids
            row.stamps = row.stamps + answer.stamps[:1] * len(closed) + answer.stamps
            if row.logprobs is not None and answer.logprobs is not None:
                kept = row.logprobs[: len(row.ids) - len(closed) - len(answer.ids)]
                row.logprobs = kept + [0.0] * len(closed) + answer.logprobs

    def _generation(self, row: _Row, started: float) -> Generation:
        parts = self._parts(row)
        answer = self._text([row.ids[i] for i in parts.answer]).strip()
        first = next((i for i in parts.answer if self._text([row.ids[i]]).strip()), None)
        stamps = [stamp - started for stamp in row.stamps]
        stop, recovered = self._stop(row), row.recovered and bool(answer)
        notes = [row.failure] if row.failure is not None else []
        if recovered:
            notes.append("empty answer: continued once with the thinking closed")
        return Generation(
            text=self._text(row.ids),
            reasoning=self._text([*row.begun, *(row.ids[i] for i in parts.reasoning)]).strip(),
            answer=answer,
            usage=Usage(
                prompt_tokens=len(row.prompt),
                reasoning_tokens=len(parts.reasoning),
                answer_tokens=len(row.ids) - len(parts.reasoning),
                output_tokens=len(row.ids),
                provenance="counted",
            ),
            timing=Timing(
                ttft_s=stamps[0],
                ttfo_s=None if first is None else stamps[first],
                e2e_s=stamps[len(row.ids) - 1],
            ),
            stop=stop,
            recovered=recovered,
            criterion=_CRITERIA.get(stop) if row.evidence is None else row.evidence.criterion,
            probe_tokens=row.probes.generated if row.probes is not None else 0,
            prefilled_tokens=row.probes.prefilled if row.probes is not None else 0,
            fallback="; ".join(notes) or None,
            logprobs=self._answer_logprobs(row, parts),
            thought=self._thought(row),
        )

    def _answer_logprobs(self, row: _Row, parts: _Parts) -> tuple[float, ...] | None:
        if row.logprobs is None:
            return None
        ends = self._eos_ids
        return tuple(row.logprobs[i] for i in parts.answer if row.ids[i] not in ends)

    def _thought(self, row: _Row) -> tuple[int, ...]:
        """Return the first block of thinking, without what was forced to close it."""
        open_id, close_id = self._tag_ids
        ids = row.ids
        if not self._opened(row.prompt):
            if ids[0] != open_id:
                return ()
            ids = ids[1:]
        end = next((i for i, token in enumerate(ids) if token == close_id), len(ids))
        if row.recovered or row.reason is not StopReason.NATURAL:
            close = close_ids(self.tokenizer, close_text=self.close_text, close_tag=self.tags[1])
            before = close.index(close_id)
            if ids[end - before : end] == close[:before]:
                end -= before
        return (*row.begun, *(token for token in ids[:end] if token not in self._eos_ids))

    def _parts(self, row: _Row) -> _Parts:
        open_id, close_id = self._tag_ids
        parts = _Parts(reasoning=[], answer=[], thinking=self._opened(row.prompt))
        for i, token in enumerate(row.ids):
            if token in (open_id, close_id):
                parts.thinking = token == open_id
            else:
                (parts.reasoning if parts.thinking else parts.answer).append(i)
        return parts

    @property
    def _tag_ids(self) -> tuple[int, int]:
        tables = token_tables(self.tokenizer, *self.tags)
        return tables.open_id, tables.close_id

    def _stop(self, row: _Row) -> StopReason:
        if row.budget.off:
            return StopReason.OFF
        cut = row.reason is StopReason.NATURAL and not self._ended(row.ids)
        return StopReason.LENGTH if cut and not row.recovered else row.reason

    def _kept(self, ids: list[int]) -> list[int]:
        """Drop the padding behind a finished row, of which at least one token is left."""
        end = next((i + 1 for i, token in enumerate(ids) if token in self._eos_ids), None)
        if end is None:
            end = len(ids)
            while end > 1 and ids[end - 1] == self._pad_id:
                end -= 1
        return ids[:end]

    def _ended(self, ids: Sequence[int]) -> bool:
        return bool(ids) and ids[-1] in self._eos_ids

    @property
    def _eos_ids(self) -> tuple[int, ...]:
        own = self.options.get("eos_token_id", getattr(self.model.generation_config, "eos_token_id", None))
        ids = self.tokenizer.eos_token_id if own is None else own
        return tuple(ids) if isinstance(ids, list | tuple) else (ids,)

    @property
    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self._eos_ids[0] if pad is None else pad)

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


@dataclass(slots=True, kw_only=True)
class _Parts:
    """Places of a row's tokens, tags left out, and whether it ends inside its thinking."""

    reasoning: list[int]
    answer: list[int]
    thinking: bool


def sampling_of(model: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a model samples, for certificates: nothing where it decodes greedily.

    Args:
        model: The model, whose own generation configuration stands behind ``options``.
        options: Arguments of ``generate``.
    """
    own = model.generation_config
    found = {name: options.get(name, getattr(own, name, None)) for name in _SAMPLING}
    if not found["do_sample"]:
        return {}
    return {name: value for name, value in found.items() if value is not None}


def _last(ids: Sequence[int], wanted: int) -> int:
    return max((i for i, token in enumerate(ids) if token == wanted), default=-1)


def _run_sessions(
    runner: _Runner, chats: Sequence[Any], thoughts: Sequence[Sequence[int]], controller: Controller
) -> list[Generation]:
    """Generate one batch on the controller's decisions and record every row."""
    name = str(getattr(runner.model.config, "name_or_path", "") or "") or None
    params = sampling_of(runner.model, runner.options)
    if runner.max_new_tokens is not None:
        params["max_new_tokens"] = runner.max_new_tokens
    sessions = [
        controller.session(
            Query.from_messages(chat, model=name),
            params=params,
            endpoint="in-process",
            render=_renderer(runner),
        )
        for chat in chats
    ]
    if runner.close_text is None:
        runner = replace(runner, close_text=sessions[0].capability.close_text)
    try:
        for session in sessions:
            session.reserve()
        done = runner.run(chats, [session.budget for session in sessions], thoughts)
    except BaseException as error:
        for session in sessions:
            _finish_failed(session, error)
            session.settle(error)
        raise
    generations = [_finish(session, one) for session, one in zip(sessions, done, strict=True)]
    for session in sessions:
        session.settle()
    return generations


def _finish(session: Session, done: Generation) -> Generation:
    outcome = session.finish(
        usage=done.usage,
        timing=done.timing,
        stop=done.stop,
        criterion=done.criterion,
        probe_tokens=done.probe_tokens,
        probe_prefill=done.prefilled_tokens,
        answered=bool(done.answer),
        fallback=done.fallback,
    )
    return replace(done, outcome=outcome)


def _finish_failed(session: Session, error: BaseException) -> None:
    session.finish(
        usage=Usage(),
        timing=Timing(),
        stop=StopReason.ERROR,
        answered=False,
        fallback=f"generation failed: {type(error).__name__}",
    )


def _renderer(runner: _Runner) -> Any:
    """Return what writes a budget into this integration's controls, which are all kept by us."""

    def render(
        budget: Budget, capability: Capability, params: Mapping[str, Any], *, caller_values: CallerValues
    ) -> Rendered:
        controls: list[tuple[str, Any]] = []
        if budget.off and runner.can_switch_off:
            controls.append(("enable_thinking", False))
        elif budget.reasoning_tokens is not None:
            controls.append(("logits", runner.fit(budget).reasoning_tokens))
        if budget.deadline_s is not None:
            controls.append((DEADLINE, budget.deadline_s))
        if budget.stop != "none":
            controls.append((STOP, budget.stop))
        return Rendered(
            params=dict(params),
            controls=tuple(AppliedControl(name=n, value=v, strength="hard") for n, v in controls),
            unsupported=() if budget.effort is None else (f"effort:{budget.effort}",),
            pinned=tuple(params),
        )

    return render
