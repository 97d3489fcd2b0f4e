"""Gives vLLM the pace of a real model: loaded by the server, see :func:`served.serving_vllm`.

With a model as small as the pocket reasoner tokens come faster than the server's event loop can pass them on.
It then hears of nothing else, a client's leaving included, until it has generated everything.
"""

from __future__ import annotations

import time
from typing import Any

from vllm.v1.sample.logits_processor import LogitsProcessor

STEP_S = 0.004


class Pace(LogitsProcessor):
    """Leaves the logits alone and takes its time before every step."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        pass

    def is_argmax_invariant(self) -> bool:
        return True

    def apply(self, logits: Any) -> Any:
        return logits

    def update_state(self, batch_update: Any) -> None:
        time.sleep(STEP_S)
