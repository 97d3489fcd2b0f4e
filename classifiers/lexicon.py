"""Classes of common words that say what a question is about and what it asks for."""

from __future__ import annotations

_LEXICON: dict[str, str] = {
    "what": "what",
    "who": "who whom whose which",
    "when": "when where",
    "how": "how many much",
    "why": "why explain because reason justify describe discuss",
    "choice": "choose option options select following correct true false best",
    "list": "list name all every each enumerate find",
    "prove": "prove proof show derive theorem lemma verify contradiction",
    "compute": "calculate compute solve evaluate simplify determine integral derivative equation value",
    "code": "code function python java javascript sql class return def import program algorithm implement "
    "bug debug script array string",
    "write": "write translate summarize summarise rewrite draft essay poem email story",
    "logic": "if then else unless either neither nor not no none only some any both",
    "compare": "more less than greater fewer larger smaller most least highest lowest better equal same",
    "order": "before after until first last next then previous again once second third",
    "arithmetic": "plus minus times divided multiply add subtract sum difference product total half twice "
    "double average ratio percent even odd",
    "change": "gives gets takes buys sells loses finds moves swap swaps exchange becomes leaves left "
    "remaining",
    "relation": "follow follows says contains holds has owns between above below next opposite older taller",
    "constraint": "must exactly without such satisfy given suppose assume constraint maximum minimum at",
    "probability": "probability chance random expected likely odds distribution",
    "time": "day days week weeks month months year years hour hours minute minutes monday tuesday wednesday "
    "thursday friday saturday sunday today tomorrow yesterday ago",
    "careful": "careful carefully tricky hard difficult challenging detail detailed step steps precisely",
    "hasty": "easy simple quick quickly brief briefly short just fast",
}

CLASSES = tuple(_LEXICON)
"""Names of the classes, in order."""

WORD_CLASS = {word.encode(): i for i, words in enumerate(_LEXICON.values()) for word in words.split()}
"""The class of a lower-case word; where a word is listed twice, the later class has it."""
