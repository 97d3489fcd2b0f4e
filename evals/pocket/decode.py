"""Greedy decoding in batches: one key-value cache, from which finished rows leave and prefixes are shared.

Generic generation keeps every row until the longest one ends and reads the whole prefix again for every
cut. Recording a cube asks for many short cuts of one long trace, so both matter here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from budgetctl.evals.pocket.families import COLOURS, WEEKDAYS
from budgetctl.evals.pocket.tokenizer import CLOSE_TEXT, END_THINK, THINK
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

FIRST_WORDS = (*COLOURS, *WEEKDAYS, *map(str, range(10)))
"""How the value of an answer can begin."""


@dataclass(kw_only=True, slots=True)
class Cache:
    """Keys and values of a batch, one tensor ``(layers, rows, heads, room, head_dim)`` each."""

    keys: Tensor
    values: Tensor
    lengths: Tensor
    """How many positions of each row are filled."""

    def rows(self, index: Tensor, *, room: int, lengths: Tensor | None = None) -> Cache:
        """Return a copy of some rows, with room for more positions, cut to ``lengths`` if given."""
        lengths = self.lengths[index] if lengths is None else lengths
        used = int(lengths.max())
        layers, _, heads, _, size = self.keys.shape
        shape = (layers, len(index), heads, used + room, size)
        copy = Cache(keys=self.keys.new_zeros(shape), values=self.keys.new_zeros(shape), lengths=lengths)
        copy.keys[:, :, :, :used] = self.keys[:, index, :, :used]
        copy.values[:, :, :, :used] = self.values[:, index, :, :used]
        return copy


@dataclass(kw_only=True, slots=True)
class Reply:
    """A greedy reply to one prefix."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Of each token, in nats."""
    answer_mass: list[float] = field(default_factory=list)
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
        self.open = int(tokenizer.get_vocab()[THINK])
        self.shut = int(tokenizer.get_vocab()[END_THINK])
        self.close = list(tokenizer.encode(CLOSE_TEXT, add_special_tokens=False))
        self.values = tokenizer.convert_tokens_to_ids([f" {word}" for word in FIRST_WORDS])
        config = model.config
        base: float = config.to_dict()["rope_parameters"]["rope_theta"]
        powers = torch.arange(0, config.head_dim, 2) / config.head_dim
        angles = torch.arange(config.max_position_embeddings)[:, None] * base**-powers
        angles = torch.cat((angles, angles), dim=-1)
        self.cos, self.sin = angles.cos().to(model.device), angles.sin().to(model.device)

    def prompt(self, text: str, *, thinking: bool = True) -> list[int]:
        """Return the ids of a one-question chat, up to where the reply begins."""
        chat = [{"role": "user", "content": text}]
        shown = self.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
        return list(self.tokenizer.encode(str(shown), add_special_tokens=False))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of ids without the chat's own markers."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _rotate(self, x: Tensor, at: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=-1)
        return x * self.cos[at][:, None] + torch.cat((-right, left), dim=-1) * self.sin[at][:, None]

    def forward(self, ids: Tensor, cache: Cache) -> Tensor:
        """Return the states of ``(rows, n)`` new tokens; write them to the cache, whose lengths stay."""
        rows, new = ids.shape
        at = cache.lengths[:, None] + torch.arange(new, device=ids.device)
        used = int(at.max()) + 1
        seen = (torch.arange(used, device=ids.device) <= at[..., None])[:, None]
        row = torch.arange(rows, device=ids.device)[:, None]
        model: Any = self.model.model  # torch types submodules as tensors
        x = model.embed_tokens(ids)
        for i, layer in enumerate(model.layers):
            block, eps = layer.self_attn, self.model.config.rms_norm_eps
            y = rms_norm(x, x.shape[-1:], layer.input_layernorm.weight, eps)
            shape = (rows, new, -1, block.head_dim)
            q = rms_norm(block.q_proj(y).view(shape), shape[-1:], block.q_norm.weight, eps).transpose(1, 2)
            k = rms_norm(block.k_proj(y).view(shape), shape[-1:], block.k_norm.weight, eps).transpose(1, 2)
            cache.keys[i][row, :, at] = self._rotate(k, at).transpose(1, 2)
            cache.values[i][row, :, at] = block.v_proj(y).view(shape)
            keys, values = cache.keys[i, :, :, :used], cache.values[i, :, :, :used]
            y = scaled_dot_product_attention(self._rotate(q, at), keys, values, attn_mask=seen)
            x = x + block.o_proj(y.transpose(1, 2).reshape(rows, new, -1))
            y = rms_norm(x, x.shape[-1:], layer.post_attention_layernorm.weight, eps)
            x = x + layer.mlp.down_proj(silu(layer.mlp.gate_proj(y)) * layer.mlp.up_proj(y))
        return rms_norm(x, x.shape[-1:], model.norm.weight, self.model.config.rms_norm_eps)

    def prefill(self, prefixes: Sequence[list[int]], *, room: int) -> tuple[Tensor, Cache]:
        """Return the states of the prefixes, padded on the right, and their cache."""
        config = self.model.config
        lengths = torch.tensor([len(p) for p in prefixes], device=self.model.device)
        longest = int(lengths.max())
        ids = torch.tensor([p + [0] * (longest - len(p)) for p in prefixes], device=self.model.device)
        heads = config.num_key_value_heads or config.num_attention_heads
        shape = (config.num_hidden_layers, len(ids), heads, longest + room, config.head_dim)
        cache = Cache(
            keys=self.cos.new_zeros(shape),
            values=self.cos.new_zeros(shape),
            lengths=torch.zeros_like(lengths),
        )
        states = self.forward(ids, cache)
        cache.lengths = lengths
        return states, cache

    def logits(self, states: Tensor) -> Tensor:
        """Return the next-token logits of states."""
        return linear(states, self.model.lm_head.weight).float()

    def extend(self, last: Tensor, cache: Cache, *, limit: int) -> list[Reply]:
        """Return the greedy replies after the ``last`` states of a cache, of at most ``limit`` tokens."""
        replies = [Reply() for _ in last]
        writing: list[int | None] = [*range(len(last))]  # by row of the cache; None once a reply is complete
        for step in range(limit):
            logp = self.logits(last).log_softmax(-1)
            best, token = logp.max(-1)
            mass = logp[:, self.values].exp().sum(-1)
            steps = zip(writing, token.tolist(), best.tolist(), mass.tolist(), strict=True)
            writing = [self._write(replies, *found) for found in steps]
            kept = [row for row, reply in enumerate(writing) if reply is not None]
            if not kept:
                break
            if len(kept) < 0.8 * len(writing):
                index = torch.tensor(kept, device=last.device)
                cache, token = cache.rows(index, room=limit - step), token[index]
                writing = [writing[row] for row in kept]
            last = self.forward(token[:, None], cache)[:, -1]
            cache.lengths = cache.lengths + 1
        return replies

    def _write(
        self, replies: list[Reply], index: int | None, token: int, logprob: float, mass: float
    ) -> int | None:
        if index is None or token == self.tokenizer.eos_token_id:
            return None
        replies[index].ids.append(token)
        replies[index].logprobs.append(logprob)
        replies[index].answer_mass.append(mass)
        return index

    @torch.inference_mode()
    def replies(self, prefixes: Sequence[list[int]], *, limit: int) -> Iterator[Reply]:
        """Yield the greedy replies to the prefixes, in order, of at most ``limit`` tokens each."""
        for start in range(0, len(prefixes), self.batch):
            rows = prefixes[start : start + self.batch]
            states, cache = self.prefill(rows, room=limit)
            last = states[torch.arange(len(rows)), cache.lengths - 1]
            yield from self.extend(last, cache, limit=limit)

    def thoughts(self, texts: Sequence[str], *, limit: int = 768) -> Iterator[Thought]:
        """Yield the natural, greedy thinking about each text."""
        prompts = [self.prompt(text) for text in texts]
        for prompt, reply in zip(prompts, self.replies(prompts, limit=limit), strict=True):
            inside = reply.ids[1:] if reply.ids[:1] == [self.open] else []
            thinking = inside[: inside.index(self.shut)] if self.shut in inside else inside
            yield Thought(prompt=prompt, thinking=thinking, reply=reply.ids)

    @torch.inference_mode()
    def cuts(
        self, thoughts: Sequence[Thought], caps: Sequence[int], *, limit: int
    ) -> dict[tuple[int, int], tuple[Reply, float]]:
        """Cut each thought at each cap below its length, close it, and let the model answer.

        Returns:
            By (index of the thought, cap): the reply after ``CLOSE_TEXT``, and the close margin at the
            cut, ``logp(likeliest token) - logp(end of thinking)`` in nats.
        """
        found: dict[tuple[int, int], tuple[Reply, float]] = {}
        states, cache = self.prefill([[*t.prompt, self.open, *t.thinking] for t in thoughts], room=0)
        close = torch.tensor(self.close, device=states.device)
        for cap in caps:
            index = torch.tensor(
                [i for i, t in enumerate(thoughts) if cap < len(t.thinking)], dtype=torch.long
            )
            if not len(index):
                continue
            lengths = torch.tensor([len(thoughts[i].prompt) + 1 + cap for i in index.tolist()])
            index, lengths = index.to(states.device), lengths.to(states.device)
            logits = self.logits(states[index, lengths - 1])
            margins = (logits.max(-1).values - logits[:, self.shut]).tolist()
            branch = cache.rows(index, room=len(close) + limit, lengths=lengths)
            last = self.forward(close.expand(len(index), -1), branch)[:, -1]
            branch.lengths = branch.lengths + len(close)
            replies = self.extend(last, branch, limit=limit)
            for i, reply, margin in zip(index.tolist(), replies, margins, strict=True):
                found[i, cap] = (reply, margin)
        return found
