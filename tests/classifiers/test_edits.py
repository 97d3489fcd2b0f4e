import random
import re

import pytest
from budgetctl.classifiers.edits import EDITS, TYPO_RATE, casual, copy, paraphrase, typos

WORDS = (
    "Several travellers crossed the frozen river before sunrise because their guide expected warmer weather."
)
FIXED = {
    "fence": "Look at this:\n```python\nreturned = something(value)\n```\nWhat does this program print?",
    "open fence": "Please repair this program:\n```\nreturned = something + otherthing",
    "inline code": "Explain what `functools.reduce` does with several arguments",
    "indented": "Continue the sequence below please:\n\n    alpha beta gamma\n",
    "bare code": "Where does this program go wrong?\nfor (int index = start) {\nindex = index + other;\n}",
    "formula": "Find the value of $\\alpha + velocity$ where $$\\frac{mass}{volume} = rho$$ holds always.",
    "spaced formula": "Find all integers $ number $ such that $ number + other $ divides the product.",
    "display": "Simplify the following expression \\[ \\text{distance} + time \\] completely please",
    "boxed": "Give your answer in \\boxed{answer} and nothing else please",
    "data": "Sort the list ['banana', 'apple', 'cherry'] and also {\"name\": \"something\"} please",
    "address": "Summarize the page at https://example.com/long/path.html for people without much time",
    "quoted word": 'How often does the letter r occur in "strawberry" when written normally?',
    "capitals": "In the triangle ABCD points lie somewhere inside",
}
KEPT = {
    "fence": "```python\nreturned = something(value)\n```",
    "open fence": "```\nreturned = something + otherthing",
    "inline code": "`functools.reduce`",
    "indented": "    alpha beta gamma",
    "bare code": "\nfor (int index = start) {\nindex = index + other;\n}",
    "formula": "$$\\frac{mass}{volume} = rho$$",
    "spaced formula": "$ number + other $",
    "display": "\\[ \\text{distance} + time \\]",
    "boxed": "\\boxed{answer}",
    "data": "['banana', 'apple', 'cherry']",
    "address": "https://example.com/long/path.html",
    "quoted word": '"strawberry"',
    "capitals": "ABCD",
}


def variants(edit, text, n=60):
    return [edit(text, random.Random(seed)) for seed in range(n)]


@pytest.mark.parametrize("name", EDITS)
def test_a_seed_gives_the_same_edit_and_seeds_differ(name):
    edit = EDITS[name]
    assert variants(edit, WORDS) == variants(edit, WORDS)
    assert len(set(variants(edit, WORDS))) > 5


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("kind", FIXED)
def test_what_is_not_prose_stays(name, kind):
    edited = variants(EDITS[name], FIXED[kind])
    assert all(KEPT[kind] in text for text in edited)
    assert any(text != FIXED[kind] for text in edited)


@pytest.mark.parametrize("name", EDITS)
def test_numbers_stay_in_order(name):
    text = (
        "Anna has 12 apples, gives 3.5 to Ben2 and sells 1,000. What is the total in 7 days? Call 555-0199."
    )
    for edited in variants(EDITS[name], text):
        assert re.findall(r"\d+", edited) == re.findall(r"\d+", text)


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
    ],
)
def test_a_blank_text_stays(name, text):
    assert set(variants(EDITS[name], text, 10)) == {text}


@pytest.mark.parametrize("text", ["12 + 30 = ?", "is it so", "$energy$ ABCD"])
def test_typos_need_a_word_of_four_letters(text):
    assert set(variants(typos, text, 10)) == {text}


def test_typos_hit_the_stated_share_of_letters():
    text = f"{WORDS} " * 20
    letters = sum(len(word) for word in re.findall(r"[A-Za-z]{4,}", text))
    per_edit = [
        sum(a != b for a, b in zip(text.split(), t.split(), strict=True)) for t in variants(typos, text)
    ]
    mean = sum(per_edit) / len(per_edit)
    # Two errors in one word count once here.
    assert 0.75 * TYPO_RATE <= mean / letters <= TYPO_RATE


def test_typos_are_the_four_kinds_that_hands_make():
    changes = set()
    for edited in variants(typos, "weather", 200):
        if sorted(edited) == sorted("weather"):
            changes.add("swapped")
        else:
            changes.add(len(edited) - len("weather"))
    assert changes == {"swapped", -1, 0, 1}


def test_short_words_have_no_typos():
    for edited in variants(typos, "It is not so far to the mountains"):
        assert edited.startswith("It is not so far to the ")


def test_dollars_are_no_formula():
    text = "It costs $5 for several children and then $10 for everyone"
    assert any("several" not in edited for edited in variants(typos, text))


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("I know that they don't like it here", "they do not like"),
        ("I know that they do not like it here", "they don't like"),
        ("Compute the area of the field", "alculate the area"),
        ("Calculate the area of the field", "ompute the area"),
        ("We walked home. Find the shortest way", "etermine the shortest"),
        ("What is the height of the tower?", "Give the height of the tower."),
        ("The sun rose early. Everyone left", "early.\nEveryone"),
        ('She said "come in here" to them', "\u201ccome in here\u201d"),
        ("She said \u201ccome in here\u201d to them", '"come in here"'),
        ("Name the largest planet.", "Could you name the largest planet?"),
        ("Name the largest planet.", "Please name the largest planet"),
        ("Please name the largest planet", "Name the largest planet"),
        ("Everyone left early", "everyone left early"),
        ("Everyone left early", "Everyone left early. "),
        ("Everyone left early.", "Everyone left early Thank"),
        ("Where did they go?", "Where did they go??"),
        ("Where did they go?", "Hi! "),
    ],
)
def test_paraphrases_offer(text, seen):
    assert any(seen in edited for edited in variants(paraphrase, text, 300))


def test_a_paraphrase_always_changes_something_and_keeps_most_words():
    words = set(WORDS.lower().strip(".").split())
    for edited in variants(paraphrase, WORDS, 200):
        assert edited != WORDS
        assert words <= set(re.findall(r"[a-z]+", edited.lower()))


def test_paraphrases_do_not_contract_before_a_stop():
    assert not any("they're." in t for t in variants(paraphrase, "Tell me who they are. Then stop", 200))


def test_paraphrases_leave_nouns_that_look_like_verbs():
    for edited in variants(paraphrase, "This is a rare find of old coins", 200):
        assert "rare find of old coins" in edited


def test_a_lone_variable_keeps_its_case():
    assert not any("X plus" in t for t in variants(paraphrase, "x plus one is even", 200))


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("Where did Anna go?", "where did anna go"),
        ("If it rains, we stay", "If it rains we stay"),
        ("I think they don't know", "dont"),
        ("Everyone left early.", "hey Everyone left early"),
        ("Everyone left early.", r"Everyone left early\Z"),
    ],
)
def test_casual_writing_offers(text, seen):
    assert any(re.search(seen, edited) for edited in variants(casual, text, 300))


def test_copies_for_training_differ_and_are_never_casual():
    copies = [copy(WORDS, number=number) for number in range(6)]
    assert len({WORDS, *copies}) == 7
    assert copies == [copy(WORDS, number=number) for number in range(6)]
    asides = ("ok so", "quick one", "hey", "i'm stuck", "next question")
    assert not any(edited.startswith(asides) for edited in copies)
