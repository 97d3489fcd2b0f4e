"""The engine: sans-io machines that drive one logical call; integrations give them their io."""

from budgetctl.engine.chat import ChatCall
from budgetctl.engine.chunks import Codec
from budgetctl.engine.continuation import Continuation, chatml
from budgetctl.engine.effects import CallerClosed, Close, Effect, Emit, Machine, Receive, Send
from budgetctl.engine.passing import PassingCall
from budgetctl.engine.transcript import Counter, Transcript

__all__ = [
    "CallerClosed",
    "ChatCall",
    "Close",
    "Codec",
    "Continuation",
    "Counter",
    "Effect",
    "Emit",
    "Machine",
    "PassingCall",
    "Receive",
    "Send",
    "Transcript",
    "chatml",
]
