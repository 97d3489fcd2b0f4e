"""The engine: sans-io machines that drive one logical call; integrations give them their io."""

from budgetctl.engine.chat import ChatCall
from budgetctl.engine.chunks import Codec
from budgetctl.engine.continuation import Continuation, chatml
from budgetctl.engine.effects import (
    ENDED,
    SILENT,
    CallerClosed,
    Close,
    Effect,
    Emit,
    Machine,
    Receive,
    Send,
    Wait,
)
from budgetctl.engine.endings import Ending, endings
from budgetctl.engine.passing import PassingCall
from budgetctl.engine.spending import SpendingCall
from budgetctl.engine.transcript import Counter, Transcript

__all__ = [
    "ENDED",
    "SILENT",
    "CallerClosed",
    "ChatCall",
    "Close",
    "Codec",
    "Continuation",
    "Counter",
    "Effect",
    "Emit",
    "Ending",
    "Machine",
    "PassingCall",
    "Receive",
    "Send",
    "SpendingCall",
    "Transcript",
    "Wait",
    "chatml",
    "endings",
]
