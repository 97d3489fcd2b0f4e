"""Greedy decoding in batches, with the probabilities that stop criteria read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from budgetctl.evals.pocket.families import COLOURS, FINDS, NAMES, WEEKDAYS
from budgetctl.evals.pocket.tokenizer import CLOSE_TEXT, END_THINK, THINK
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

FIRST_WORDS = (*NAMES, *COLOURS, *WEEKDAYS, *FINDS, *map(str, range(10)))
"""How the value of an answer can begin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A greedy reply to one prefix."""

    ids: list[int]
    logprobs: list[float]
    """Of each token, in nats; empty unless asked for."""
    answer_mass: list[float]
    """Total probability of the tokens that begin an answer's value, at each position."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thought:
    """A question's natural thinking, and what follows it."""

    prompt: list[int]
    thinking: list[int]
    """The tokens between the markers."""
    reply: list[int]
    """Everything that was generated, markers included."""


class Decoder:
    """The model with its tokenizer, as a function from prefixes to greedy replies."""

    def __init__(
        self, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, *, batch: int = 128
    ) -> None:
        self.model, self.tokenizer, self.batch = model, tokenizer, batch
        self.open, self.shut = tokenizer.convert_tokens_to_ids([THINK, END_THINK])
        self.close = tokenizer.encode(CLOSE_TEXT, add_special_tokens=False)
        self.values = tokenizer.convert_tokens_to_ids([f" {word}" for word in FIRST_WORDS])

    def prompt(self, text: str, *, thinking: bool = True) -> list[int]:
        """Return the ids of a one-question chat, up to where the reply begins."""
        chat = [{"role": "user", "content": text}]
        shown = self.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
        return list(self.tokenizer.encode(shown, add_special_tokens=False))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of ids without the chat's own markers."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    @torch.inference_mode()
    def replies(
        self, prefixes: Sequence[list[int]], *, limit: int, probabilities: bool = False
    ) -> Iterator[Reply]:
        """Yield the greedy replies to the prefixes, in order, of at most ``limit`` tokens each."""
        pad, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        for at in range(0, len(prefixes), self.batch):
            rows = prefixes[at : at + self.batch]
            longest = max(map(len, rows))
            ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=self.model.device)
            mask = torch.tensor(
                [[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self.model.device
            )
            out = self.model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=limit,
                do_sample=False,
                output_logits=probabilities,
                return_dict_in_generate=True,
            )
            new = out.sequences[:, longest:].tolist()
            chosen: list[list[float]] = [[] for _ in rows]
            mass: list[list[float]] = [[] for _ in rows]
            if probabilities:
                logp = torch.stack(out.logits, dim=1).float().log_softmax(-1)
                chosen = logp.gather(-1, out.sequences[:, longest:, None])[..., 0].tolist()
                mass = logp[..., self.values].exp().sum(-1).tolist()
            for row, logprobs, masses in zip(new, chosen, mass, strict=True):
                size = row.index(end) if end in row else len(row)
                yield Reply(ids=row[:size], logprobs=logprobs[:size], answer_mass=masses[:size])

    def thoughts(self, texts: Sequence[str], *, limit: int = 768) -> Iterator[Thought]:
        """Yield the natural, greedy thinking about each text."""
        prompts = [self.prompt(text) for text in texts]
        for prompt, reply in zip(prompts, self.replies(prompts, limit=limit), strict=True):
            inside = reply.ids[1:] if reply.ids[:1] == [self.open] else []
            thinking = inside[: inside.index(self.shut)] if self.shut in inside else inside
            yield Thought(prompt=prompt, thinking=thinking, reply=reply.ids)

    def cut(self, thought: Thought, tokens: int) -> list[int]:
        """Return the prefix that asks for the answer after so many tokens of thinking."""
        return [*thought.prompt, self.open, *thought.thinking[:tokens], *self.close]

    @torch.inference_mode()
    def close_margins(self, thoughts: Sequence[Thought]) -> list[list[float]]:
        """Return ``logp(likeliest token) - logp(end of thinking)``, in nats, after each number of tokens."""
        rows = [[*t.prompt, self.open, *t.thinking] for t in thoughts]
        longest, pad = max(map(len, rows)), self.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=self.model.device)
        logits = self.model(ids, use_cache=False).logits.float()
        margins = (logits.max(-1).values - logits[..., self.shut]).tolist()
        return [m[len(t.prompt) : len(row)] for m, t, row in zip(margins, thoughts, rows, strict=True)]
