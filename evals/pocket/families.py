"""The eight families of small word problems, each with its own step-by-step derivation.

A family draws a problem at a level from 1 (easy) to 5 (hard). What makes a problem hard is how many
steps its derivation takes, and in most families that number cannot be read from the prompt's length:
seven days or sixty from now are asked about in the same words.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

NAMES = (
    "Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana",
    "Ivan", "Jade", "Kim", "Leo", "Mia", "Noah", "Olga", "Paul",
)  # fmt: skip
COLOURS = (
    "red", "blue", "green", "yellow", "pink", "black",
    "white", "brown", "gray", "orange", "purple", "golden",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TOYS = ("ball", "hat", "cup", "kite", "scarf")
GOODS = ("apples", "coins", "marbles", "stamps", "shells")
EVENTS = ("party", "trip", "exam", "match", "concert", "visit")
CREATURES = ("snail", "frog", "beetle", "mouse", "crab")
FILLERS = (
    "It rained in the morning.", "The bus was late again.", "The market was full of people.",
    "A band played in the square.", "The bakery sold fresh bread.", "Nobody was in a hurry.",
    "The sun came out at noon.", "Two old men played chess.", "A train passed by the river.",
    "The shop on the corner was closed.", "Children ran across the street.", "The coffee was too hot.",
    "A dog slept under the table.", "The wind was cold.", "Someone told a funny story.",
    "The church bell rang three times.", "The road was long and quiet.", "Later they all had soup.",
    "The lights went on in the evening.", "The radio played an old song.",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One drawn problem: what is asked, how it is derived, and the answer's value."""

    family: str
    level: int
    key: str
    """The content without the wording: the split is decided by it."""
    text: str
    steps: tuple[str, ...]
    answer: str


def days(rng: random.Random, level: int) -> Problem:
    """Which weekday it is some days from now or ago: always a short prompt."""
    offset = rng.randint(*((1, 2), (3, 6), (8, 20), (21, 41), (42, 69))[level - 1])
    today, name, event = rng.randrange(7), rng.choice(NAMES), rng.choice(EVENTS)
    ago = rng.random() < 0.3
    unit = "day" if offset == 1 else "days"
    told, asks = (
        (
            f"{name} had the {event} {offset} {unit} ago.",
            (f"What day was the {event}?", f"On which day was the {event}?"),
        )
        if ago
        else (
            f"{name} has the {event} in {offset} {unit}.",
            (f"What day is the {event}?", f"On which day is the {event}?"),
        )
    )
    steps, left = [f"Today is {WEEKDAYS[today]}."], offset
    while left >= 7:
        steps.append(f"{left} minus 7 is {left - 7}.")
        left -= 7
    sign = -1 if ago else 1
    steps += [
        f"{i} {'back' if ago else 'on'} is {WEEKDAYS[(today + sign * i) % 7]}." for i in range(1, left + 1)
    ]
    if not left:
        steps.append("That is the same day.")
    facts = [f"Today is {WEEKDAYS[today]}.", told]
    if rng.random() < 0.5:
        facts.reverse()
    return Problem(
        family="days",
        level=level,
        key=f"{today}{name}{event}{offset}{ago}",
        text=f"{' '.join(facts)} {rng.choice(asks)}",
        steps=tuple(steps),
        answer=WEEKDAYS[(today + sign * offset) % 7],
    )


def halve_or_triple(number: int) -> int:
    """Return the next number of a Collatz walk."""
    return 3 * number + 1 if number % 2 else number // 2


@cache
def _walk_starts(lo: int, hi: int) -> tuple[tuple[int, int], ...]:
    found = []
    for below in (5, 10, 20, 50):
        for start in range(below, 200):
            number, count, peak = start, 0, start
            while number >= below:
                number, count = halve_or_triple(number), count + 1
                peak = max(peak, number)
            if lo <= count <= hi and peak < 300:
                found.append((start, below))
    return tuple(found)


def walk(rng: random.Random, level: int) -> Problem:
    """Halve even numbers and triple odd ones until the number is small: a short prompt, a long walk."""
    start, below = rng.choice(_walk_starts(*((1, 1), (2, 3), (4, 5), (6, 8), (9, 12))[level - 1]))
    name, counting = rng.choice(NAMES), rng.random() < 0.5
    rule = rng.choice(
        (
            "If a number is even, halve it. If it is odd, triple it and add one.",
            "An even number is halved. An odd number is tripled, plus one.",
        )
    )
    asks = (
        (
            f"How many steps until the number is below {below}?",
            f"How many steps does it take to get below {below}?",
        )
        if counting
        else (f"What is the first number below {below}?", f"Which number below {below} comes first?")
    )
    picks = rng.choice(("starts with", "picks", "begins with"))
    steps: list[str] = []
    number = start
    while number >= below:
        after = halve_or_triple(number)
        steps.append(f"Step {len(steps) + 1}: {number} is {'odd' if number % 2 else 'even'}, so {after}.")
        number = after
    return Problem(
        family="walk",
        level=level,
        key=f"{name}{start}/{below}/{counting}",
        text=f"{name} {picks} the number {start}. {rule} {rng.choice(asks)}",
        answer=str(len(steps) if counting else number),
        steps=(*steps, f"{number} is below {below}."),
    )


def story(rng: random.Random, level: int) -> Problem:
    """A story that says the answer in so many words: long to read, nothing to work out."""
    name, toy, colour = rng.choice(NAMES), rng.choice(TOYS), rng.choice(COLOURS)
    got = rng.choice(("bought", "found", "lost", "made"))
    told = _fillers(rng, level)
    told.insert(rng.randint(0, len(told)), f"{name} {got} a {colour} {toy}.")
    question = rng.choice(
        (
            f"What colour is the {toy} of {name}?",
            f"Which colour is the {toy} that {name} {got}?",
            f"Tell me the colour of the {toy}.",
        )
    )
    return Problem(
        family="story",
        level=level,
        key=f"{name}{toy}{colour}{told}",
        text=f"{' '.join(told)} {question}",
        steps=(f"The story says that the {toy} is {colour}.",),
        answer=colour,
    )


def tally(rng: random.Random, level: int) -> Problem:
    """One small sum, told among things that do not matter: longer to read, never harder."""
    name, goods = rng.choice(NAMES), rng.choice(GOODS)
    first, more = rng.randint(2, 9), rng.randint(1, 9)
    told = _fillers(rng, level)
    told.insert(0, f"{name} has {first} {goods}.")
    told.insert(rng.randint(1, len(told)), f"{name} {rng.choice(('gets', 'finds', 'buys'))} {more} more.")
    question = rng.choice((f"How many {goods} does {name} have?", f"How many {goods} are there now?"))
    return Problem(
        family="tally",
        level=level,
        key=f"{name}{goods}{told}",
        text=f"{' '.join(told)} {question}",
        steps=(f"{first} plus {more} is {first + more}.",),
        answer=str(first + more),
    )


def _fillers(rng: random.Random, level: int) -> list[str]:
    return rng.sample(FILLERS, rng.randint(*((0, 1), (2, 3), (4, 5), (6, 8), (9, 11))[level - 1]))


def savings(rng: random.Random, level: int) -> Problem:
    """After how many days of equal gains an amount is reached."""
    count = rng.randint(*((1, 1), (2, 3), (4, 5), (6, 8), (9, 12))[level - 1])
    gain = rng.randint(2, min(9, 90 // count))
    start = rng.randint(2, min(30, 98 - gain * count))
    wanted = start + gain * count - rng.randint(0, gain - 1)
    name, goods = rng.choice(NAMES), rng.choice(GOODS)
    asks = (
        f"After how many days are there at least {wanted}?",
        f"How many days does it take to have at least {wanted}?",
    )
    steps = [
        f"Day {day}: {start + gain * (day - 1)} plus {gain} is {start + gain * day}."
        for day in range(1, count + 1)
    ]
    return Problem(
        family="savings",
        level=level,
        key=f"{name}{goods}{start}+{gain}>{wanted}",
        text=f"{name} has {start} {goods}. Every day {name} {rng.choice(('gets', 'finds', 'buys'))} {gain} "
        f"more. {rng.choice(asks)}",
        steps=(*steps, f"{start + gain * count} is enough."),
        answer=str(count),
    )


def sharing(rng: random.Random, level: int) -> Problem:
    """How many friends get a share, or what is left over: a division done by taking away."""
    count = rng.randint(*((1, 1), (2, 3), (4, 5), (6, 8), (9, 12))[level - 1])
    share = rng.randint(3, min(9, 90 // count))
    left = rng.randrange(share)
    start, name, goods = share * count + left, rng.choice(NAMES), rng.choice(GOODS)
    counting = rng.random() < 0.5
    asks = (
        (f"How many friends get {share}?", "For how many friends is that enough?")
        if counting
        else ("How many are left at the end?", f"How many {goods} are left over?")
    )
    steps = [
        f"Friend {i}: {start - share * (i - 1)} minus {share} is {start - share * i}."
        for i in range(1, count + 1)
    ]
    return Problem(
        family="sharing",
        level=level,
        key=f"{name}{goods}{start}/{share}{counting}",
        text=f"{name} has {start} {goods} and {rng.choice(('gives', 'hands'))} {share} to every friend. "
        f"{rng.choice(asks)}",
        steps=(*steps, f"{left} is less than {share}."),
        answer=str(count if counting else left),
    )


def clock(rng: random.Random, level: int) -> Problem:
    """What a clock of twelve hours shows some hours from now."""
    rounds = rng.randint(*((0, 0), (1, 1), (2, 3), (4, 5), (6, 7))[level - 1])
    hour = rng.randint(1, 11)
    total = 12 * rounds + rng.randint(1, 12)
    while total <= hour:
        hour, total = rng.randint(1, 11), 12 * rounds + rng.randint(1, 12)
    later, name, event = total - hour, rng.choice(NAMES), rng.choice(EVENTS)
    asks = ("Which hour does the clock show then?", f"What is the hour of the {event}?")
    steps = [f"{hour} plus {later} is {total}."]
    steps += [f"{total - 12 * i} minus 12 is {total - 12 * (i + 1)}." for i in range(rounds)]
    return Problem(
        family="clock",
        level=level,
        key=f"{name}{event}{hour}+{later}",
        text=f"The clock shows {hour}. {name} has the {event} in {later} "
        f"{'hour' if later == 1 else 'hours'}. {rng.choice(asks)}",
        steps=tuple(steps),
        answer=str(total - 12 * rounds),
    )


def well(rng: random.Random, level: int) -> Problem:
    """On which day a climber that slips back every night gets out of a well."""
    count = rng.randint(*((1, 1), (2, 3), (4, 5), (6, 7), (8, 9))[level - 1])
    climb = rng.randint(3, 9)
    slip = rng.randint(1, climb - 1)
    gain = climb - slip
    while gain * (count - 1) + climb > 60:
        climb = rng.randint(3, 9)
        slip = rng.randint(1, climb - 1)
        gain = climb - slip
    # Deep enough for the day before to fall short of the top.
    reached = gain * (count - 1) + climb
    depth = reached - rng.randint(0, (gain if count > 1 else climb) - 1)
    creature, name = rng.choice(CREATURES), rng.choice(NAMES)
    asks = ("On which day is it out?", "After how many days is it out?")
    steps = [
        f"Day {i + 1}: {gain * i} plus {climb} is {gain * i + climb}, minus {slip} is {gain * (i + 1)}."
        for i in range(count - 1)
    ]
    return Problem(
        family="well",
        level=level,
        key=f"{name}{creature}{depth}:{climb}-{slip}",
        text=f"The {creature} of {name} is in a well, {depth} deep. Every day it climbs {climb}, "
        f"every night it slips {slip}. {rng.choice(asks)}",
        steps=(*steps, f"Day {count}: {gain * (count - 1)} plus {climb} is {reached}. {reached} is enough."),
        answer=str(count),
    )


FAMILIES: dict[str, Callable[[random.Random, int], Problem]] = {
    f.__name__: f for f in (clock, days, savings, sharing, story, tally, walk, well)
}
LEVELS = (1, 2, 3, 4, 5)
