"""The pocket reasoner: a half-million-parameter language model that thinks before it answers.

It lives in the package, so a first run needs no key, no GPU and no download. It is a test bench, never
evidence about real models. Importing this package does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetctl.evals.pocket.questions import Question, grade, questions, read_answer
from budgetctl.evals.pocket.tokenizer import CLOSE_TEXT, END_THINK, THINK

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

__all__ = [
    "CLOSE_TEXT",
    "END_THINK",
    "NAME",
    "THINK",
    "Question",
    "grade",
    "load",
    "path",
    "questions",
    "read_answer",
]

NAME = "pocket-1"
"""The model's name in recordings, and its folder in this package."""


def path() -> Path:
    """Return the folder of the shipped model, which transformers and vLLM load as it is."""
    return Path(__file__).parent / NAME


def load(
    device: str = "cpu", *, folder: Path | None = None
) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerBase]:
    """Return the model in evaluation mode and its tokenizer.

    Args:
        device: A torch device.
        folder: Another trained copy than the shipped one.

    Raises:
        ImportError: torch or transformers is not installed.
    """
    import torch
    from transformers import AutoTokenizer, Qwen3ForCausalLM

    source = folder or path()
    with _quiet():
        model = Qwen3ForCausalLM.from_pretrained(source, local_files_only=True)
    torch.nn.Module.to(model, device)  # the override of transformers mistypes its argument
    model.train(False)
    return model, AutoTokenizer.from_pretrained(source, local_files_only=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the bar that transformers draws while loading: here it would only flash by."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
