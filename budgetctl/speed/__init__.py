"""How fast each endpoint and model answers, learned from the calls that went through.

A request that waited ``ttft`` seconds for its first token and ended after ``seconds`` with ``tokens`` tokens
says that one token took ``(seconds - ttft) / tokens``; the median of that is kept by how many calls were in
flight. What a request waits for the others is the sum of what they take, as far as the server takes one after
the other: ``ttft = alone + share * (in flight - 1) * (alone + service)``. The share is about 1 for a server
that serves one request at a time and about 0 for one that serves all at once. It is the mean wait over the
mean of what a request would wait for if all others took what it takes itself: both means are of the same
calls, so the share stays where it is when calls become longer or shorter.

One stalled call must not move a deadline, and load changes over the day: what is not a mean is a weighted
median over recent calls, and no number counts for more in a mean than their 95th percentile or four medians.
How far such forecasts
were off is kept as well: a high percentile of observed / predicted is the margin that deadlines are kept with
(split conformal prediction, with weights that fade as in Barber et al., Conformal prediction beyond
exchangeability, 2023).
"""

from __future__ import annotations

from .flight import Flight, Request
from .place import Adherence
from .speeds import Speeds

__all__ = ["Adherence", "Flight", "Request", "Speeds"]
