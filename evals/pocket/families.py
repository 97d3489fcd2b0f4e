"""The eight families of small word problems, each with its own step-by-step derivation.

A family draws a problem at a level from 1 (easy) to 5 (hard). What makes a problem hard is how many
steps its derivation takes, and in most families that number cannot be read from the prompt's length:
a chain of notes has as many boxes whether one or seven of them must be opened.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

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
PETS = ("cat", "dog", "bird", "rabbit")
FINDS = ("coin", "key", "ring", "map", "pearl", "letter")
ORDERS = (
    ("taller", "tallest", "shortest"),
    ("older", "oldest", "youngest"),
    ("faster", "fastest", "slowest"),
)
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


def swaps(rng: random.Random, level: int) -> Problem:
    """Who holds a thing after some rounds of swapping (later rounds do not matter)."""
    lo, hi = ((1, 1), (2, 3), (4, 5), (6, 7), (8, 9))[level - 1]
    asked = rng.randint(lo, hi)
    people = rng.sample(NAMES, 3 if level < 3 else 4)
    colours = rng.sample(COLOURS, len(people))
    toy, target = rng.choice(TOYS), rng.randrange(len(people))
    rounds = [rng.sample(people, 2) for _ in range(rng.randint(max(asked, 4), 9))]
    has = rng.choice(("has", "holds", "takes"))
    intro = ", ".join(f"{p} {has} the {c} {toy}" for p, c in zip(people, colours, strict=True))
    told = " ".join(f"Round {i}: {a} and {b} swap." for i, (a, b) in enumerate(rounds, 1))
    thing = f"the {colours[target]} {toy}"
    question = rng.choice(
        (
            f"Who has {thing} after round {asked}?",
            f"After round {asked}, who has {thing}?",
            f"Where is {thing} after round {asked}?",
        )
    )
    holder = people[target]
    steps = [f"At first {holder} has {thing}."]
    for i, (a, b) in enumerate(rounds[:asked], 1):
        moved = holder in (a, b)
        holder = (b if holder == a else a) if moved else holder
        steps.append(f"Round {i}: {a} and {b}, {'so' if moved else 'still'} {holder}.")
    return Problem(
        family="swaps",
        level=level,
        key=f"{people}{colours}{toy}{target}{rounds}{asked}",
        text=f"{intro}. {told} {question}",
        steps=tuple(steps),
        answer=holder,
    )


def halve_or_triple(number: int) -> int:
    """Return the next number of a Collatz walk."""
    return 3 * number + 1 if number % 2 else number // 2


@cache
def _walk_starts(lo: int, hi: int) -> tuple[tuple[int, int], ...]:
    found = []
    for below in (5, 10, 20, 50):
        for start in range(below, 300):
            number, count, peak = start, 0, start
            while number >= below:
                number, count = halve_or_triple(number), count + 1
                peak = max(peak, number)
            if lo <= count <= hi and peak < 1000:
                found.append((start, below))
    return tuple(found)


def walk(rng: random.Random, level: int) -> Problem:
    """Halve even numbers and triple odd ones until the number is small: a short prompt, a long walk."""
    start, below = rng.choice(_walk_starts(*((1, 1), (2, 3), (4, 6), (7, 10), (11, 16))[level - 1]))
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
    steps, number = [], start
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


def order(rng: random.Random, level: int) -> Problem:
    """Who is at the end of a chain of comparisons, climbed from the first person who is named."""
    hops = level if level < 5 else rng.randint(5, 6)
    people = rng.sample(NAMES, rng.randint(max(hops + 1, 4), 7))
    more, top, bottom = rng.choice(ORDERS)
    up = rng.random() < 0.5
    first = hops if up else len(people) - 1 - hops  # people[0] is the top, people[-1] the bottom
    clues = [(i, i + 1) for i in range(len(people) - 1)]
    rng.shuffle(clues)
    starts = next((c for c in clues if c[0] == first), None)
    if starts is None:  # the bottom person is the subject of no clue: the first clue names the one above
        starts = (first - 1, first)
        opening = f"{people[first]} is not {more} than {people[first - 1]}."
    else:
        opening = f"{people[starts[0]]} is {more} than {people[starts[1]]}."
    clues.remove(starts)
    told = " ".join([opening, *(f"{people[a]} is {more} than {people[b]}." for a, b in clues)])
    steps, at = [f"Start with {people[first]}."], first
    for _ in range(hops):
        a, b = (at - 1, at) if up else (at, at + 1)
        steps.append(f"{people[a]} is {more} than {people[b]}.")
        at = a if up else b
    steps.append(f"Nobody is {more} than {people[at]}." if up else f"{people[at]} is {more} than nobody.")
    end = top if up else bottom
    question = rng.choice(
        (f"Who is the {end}?", f"Which of them is the {end}?", f"Tell me who is the {end}.")
    )
    return Problem(
        family="order",
        level=level,
        key=f"{people}{more}{up}{clues}{first}",
        text=f"{told} {question}",
        steps=tuple(steps),
        answer=people[at],
    )


def days(rng: random.Random, level: int) -> Problem:
    """Which weekday it is some days from now or ago: always a short prompt."""
    offset = rng.randint(*((1, 2), (3, 6), (8, 20), (21, 48), (49, 90))[level - 1])
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


def count(rng: random.Random, level: int) -> Problem:
    """How many people have a certain pet."""
    lo, hi = ((2, 3), (4, 5), (6, 7), (8, 9), (10, 12))[level - 1]
    people = rng.sample(NAMES, rng.randint(lo, hi))
    asked, *others = rng.sample(PETS, 3)
    pets = [asked if rng.random() < 0.5 else rng.choice(others) for _ in people]
    verb = rng.choice(("has", "owns", "wants"))
    told = " ".join(f"{p} {verb} a {pet}." for p, pet in zip(people, pets, strict=True))
    question = rng.choice(
        (f"How many {asked}s are there?", f"How many of these pets are {asked}s?", f"Count the {asked}s.")
    )
    steps, seen = [], 0
    for person, pet in zip(people, pets, strict=True):
        seen += pet == asked
        steps.append(f"{person}: {pet}, {seen}." if pet == asked else f"{person}: {pet}.")
    return Problem(
        family="count",
        level=level,
        key=f"{people}{pets}{asked}",
        text=f"{told} {question}",
        steps=tuple(steps),
        answer=str(seen),
    )


def story(rng: random.Random, level: int) -> Problem:
    """A long story that says the answer in so many words: long to read, nothing to work out."""
    lo, hi = ((1, 2), (3, 4), (5, 6), (7, 9), (10, 12))[level - 1]
    (name, other), (toy, toy2) = rng.sample(NAMES, 2), rng.sample(TOYS, 2)
    colour, colour2 = rng.sample(COLOURS, 2)
    got = rng.choice(("bought", "found", "lost", "made"))
    facts = [f"{name} {got} a {colour} {toy}."]
    if level > 1:
        facts.append(f"{other} {got} a {colour2} {toy2}.")
    told = rng.sample(FILLERS, rng.randint(lo, hi))
    for fact in facts:
        told.insert(rng.randint(0, len(told)), fact)
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
        steps=(f"The story says that {name} {got} a {colour} {toy}.",),
        answer=colour,
    )


def sums(rng: random.Random, level: int) -> Problem:
    """A running total over the days of a week, asked for at one of them."""
    asked = rng.randint(*((1, 1), (2, 2), (3, 4), (5, 5), (6, 7))[level - 1])
    total = start = rng.randint(2, 9)
    name, goods = rng.choice(NAMES), rng.choice(GOODS)
    gains, losses = ("gets", "finds", "buys"), ("loses", "sells", "gives away")
    told, steps, moves, answer = [], [f"Start with {start}."], [], start
    for i in range(rng.randint(asked, 7)):
        amount = rng.randint(1, 9)
        plus = total < amount or (rng.random() < 0.55 and total + amount < 40)
        after = total + amount if plus else total - amount
        told.append(f"On {WEEKDAYS[i]} {name} {rng.choice(gains if plus else losses)} {amount}.")
        moves.append(amount if plus else -amount)
        if i < asked:
            steps.append(f"{WEEKDAYS[i]}: {total} {'plus' if plus else 'minus'} {amount} is {after}.")
            answer = after
        total = after
    day = WEEKDAYS[asked - 1]
    question = rng.choice(
        (
            f"How many {goods} does {name} have after {day}?",
            f"After {day}, how many {goods} are there?",
            f"How many {goods} are there at the end of {day}?",
        )
    )
    return Problem(
        family="sums",
        level=level,
        key=f"{name}{goods}{start}{moves}{asked}",
        text=f"{name} has {start} {goods}. {' '.join(told)} {question}",
        steps=tuple(steps),
        answer=str(answer),
    )


def notes(rng: random.Random, level: int) -> Problem:
    """Follow notes from box to box: the same list of boxes, whatever the number of hops."""
    hops = rng.randint(*((0, 1), (2, 2), (3, 3), (4, 5), (6, 7))[level - 1])
    size = rng.randint(max(8, hops + 4), 11)
    boxes = rng.sample(COLOURS, size)
    chain, rest = boxes[: hops + 1], boxes[hops + 1 :]
    things = rng.sample(FINDS, min(len(rest), rng.randint(3, 4)) + 1)
    holds = {chain[-1]: things[0], **dict(zip(rest, things[1:], strict=False))}
    to = dict(pairwise(chain))
    for box in rest:
        if box not in holds:
            to[box] = rng.choice([b for b in boxes if b != box])
    says = {b: f"The {b} box says {to[b]}." if b in to else f"The {b} box holds a {holds[b]}." for b in boxes}
    listed = rng.sample(boxes, size)
    question = rng.choice(
        (
            f"Start at the {chain[0]} box and follow the notes. What do you find?",
            f"What do you find if you start at the {chain[0]} box?",
            f"You open the {chain[0]} box and follow the notes. What is at the end?",
        )
    )
    return Problem(
        family="notes",
        level=level,
        key=f"{listed}{to}{holds}{chain[0]}",
        text=f"{' '.join(says[b] for b in listed)} {question}",
        steps=tuple(says[b] for b in chain),
        answer=things[0],
    )


FAMILIES: dict[str, Callable[[random.Random, int], Problem]] = {
    f.__name__: f for f in (count, days, notes, order, story, sums, swaps, walk)
}
LEVELS = (1, 2, 3, 4, 5)
