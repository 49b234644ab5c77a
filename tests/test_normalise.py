"""The one normalisation of text: what it makes equal, and that doing it twice changes nothing."""

from __future__ import annotations

import random
import sys
import timeit

import pytest

from mmenv.rewards.metrics.references import ReferenceReward
from mmenv.tokenizer import normalise

PIECES = (
    "a", "an", "the", "A", "The", "2", "20", "21", "07", "it's", "It’s", "isn't", "isnt", "won't", "n't", "'", "''",
    "don'tn't", "d'ont", "do'nt", "o'clock", "dog's", "a's", "1's", "dogs'", "y'all'd've", "-", "--", "_", ".", ",",
    "e\u0301", "e\u00ad\u0301", "\u0301", "İ", "ß", "ﬁ", "²", "½", "…", "\u200d", "\u200b", "赤", "हिन्दी", "ᄒ", "ᅡ", "ᆫ",
    "colour", "Grey", "`", "´", "\ud800", "\n", "\t", "\x00", "Σ", "ΑΣ", "🐶",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("A dog.", "dog"),
        ("YES", "yes"),
        ("yes .", "yes"),
        ("2", "two"),
        ("20 / 21", "twenty 21"),
        ("top-left", "top left"),
        ("It's the 2nd dog-house, a GREY one.", "it is 2nd dog house gray one"),
        ("there isn’t any", "there is not any"),
        ("there isnt any", "there is not any"),
        ("I can't, I cannot and I won't", "i can not i can not and i will not"),
        ("the dog's plate", "dog plate"),
        ("there's one", "there is one"),
        ("which colour?", "which color"),
        ("  spaces\tand\nlines ", "spaces and lines"),
        ("ﬁne Ｄｏｇ", "fine dog"),
        ("“dog”", "dog"),
        ("a", ""),
        ("", ""),
    ],
)
def test_spelling_does_not_count(text, form):
    assert normalise(text) == form


def test_normalising_twice_changes_nothing():
    rng = random.Random(0)
    for _ in range(20_000):
        gaps = rng.choice(("", " "))
        text = gaps.join(rng.choice(PIECES) for _ in range(rng.randint(1, 6)))
        form = normalise(text)
        assert normalise(form) == form, repr(text)


def test_no_character_is_normalised_to_something_that_changes_again():
    for code in range(sys.maxunicode + 1):
        form = normalise(chr(code))
        assert normalise(form) == form, hex(code)


def test_case_articles_and_a_full_stop_never_change_the_form():
    rng = random.Random(1)
    words = ["dog", "two", "isn't", "top", "left", "gray", "it's", "yes", "plate", "12", "no"]
    for _ in range(2_000):
        text = " ".join(rng.choice(words) for _ in range(rng.randint(1, 8)))
        for other in (text.upper(), text.title(), f"{text}.", f"{text} .", f"the {text}", f"An {text}!"):
            assert normalise(other) == normalise(text), (text, other)


def test_an_exact_match_does_not_ask_for_spelling():
    exact = ReferenceReward("exact")._compare
    assert exact(["two dogs"], "2 Dogs.") == 1.0
    assert exact(["a dog"], "dog") == 1.0
    assert exact(["dog"], "cat") == 0.0
    assert exact(["?"], "!") == 0.0


def test_a_short_text_is_normalised_within_microseconds():
    texts = [f"It is a dog at the top left, and {i} cats." for i in range(21)]
    assert min(timeit.repeat(lambda: [normalise(t) for t in texts], number=20, repeat=5)) / 20 / 21 < 50e-6
