"""Ladders on recordings: as policies of a replay, and what a choice between two rungs is worth.

``recorded``  what every rung did with the same calls
``policies``  cascades and routers as policies of ``eval replay``
``scores``    what says how much a call wants the large model, before anything is asked
``choices``   two rungs and a score, as a router or as a cascade: what ``eval ladder`` judges
``sweep``     the curve of a choice, from no call sent up to all
``standing``  where a curve lies between the random mix and the oracle, with intervals
``judge``     all of that about one choice
"""
