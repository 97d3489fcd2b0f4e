"""The pocket reasoner's own tokenizer: whole words, single digits, and Qwen3's chat markers.

A word carries the space before it, as in byte-level tokenizers, so text comes back character by
character. Words outside the vocabulary become ``<unk>``.
"""

from __future__ import annotations

import re
import string
from itertools import islice
from typing import TYPE_CHECKING

from budgetctl.evals.pocket.questions import stream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

THINK, END_THINK = "<think>", "</think>"
TRANSITION = "\n\nTime to answer based on the reasoning so far.\n"
TRANSITION_CLOSE = f"{TRANSITION}{END_THINK}\n\n"
"""The close that other models need a sentence for; this one has met it in training."""
CLOSE_TEXT = f"\n{END_THINK}\n\n"
"""What ends a thinking that is cut. The bare marker: the sentence makes no answer of this model better."""

PIECES = r" ?[A-Za-z]+| ?[0-9]|\n\n|\n|[\s\S]"
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>")
_PHRASES = (
    "The answer is user assistant system You are a helpful assistant. Think step by step. "
    "Answer with one short sentence. Thanks! Thank you. Hello, what is the answer? Please answer:"
)

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- set said = namespace(text='') %}
    {%- if message.content is string %}
        {%- set said.text = message.content %}
    {%- else %}
        {%- for part in message.content or [] if part.type == 'text' %}
            {%- set said.text = said.text + part.text %}
        {%- endfor %}
    {%- endif %}
    {%- if message.role == 'assistant' %}
        {%- set said.text = said.text.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + said.text + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


def vocabulary() -> list[str]:
    """Return every piece in a fixed order: characters, then the words of the families in both spacings."""
    pieces = set(string.printable) - set("\r\x0b\x0c")
    pieces |= {f" {digit}" for digit in string.digits} | {"\n\n"}
    texts = [TRANSITION, _PHRASES]
    for worked in islice(stream("train", seed=0), 4000):
        texts += [worked.question.text, worked.thinking]
    for text in texts:
        for piece in re.findall(PIECES, text):
            if piece.strip().isalpha():
                pieces |= {piece.strip(), f" {piece.strip()}"}
    return sorted(pieces)


def build() -> PreTrainedTokenizerFast:
    """Return the tokenizer with its chat template (``enable_thinking``, on unless it is False)."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*_SPECIAL, *vocabulary()]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in _SPECIAL])
    core.add_tokens([AddedToken(word, special=False, normalized=False) for word in (THINK, END_THINK)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=core,
        unk_token="<unk>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
