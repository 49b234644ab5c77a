"""VQA accuracy: how many people gave an answer, after normalising both texts.

The formula and the rules are those of the official evaluation, https://visualqa.org/evaluation.html (Antol et al. 2015,
Goyal et al. 2017). They are not ``mmenv.tokenizer.normalise``: numbers become digits, and none above ten; contractions
are restored and not opened; marks inside words follow rules of their own. Published scores depend on each of these.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from mmenv.tokenizer import ARTICLES, IN_WORDS, NUMBER_WORDS, UnicodeTokenizer

PEOPLE_NEEDED = 3  # people who gave an answer that counts in full
_NUMBERS = {"none": "0"} | {word: digits for digits, word in IN_WORDS.items() if word in NUMBER_WORDS[:11]}  # to ten
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
# Contractions without one of their apostrophes -> restored. The last entry is an error of the official list, kept.
_RESTORED = {word[:i] + word[i + 1 :]: word for word in _CONTRACTIONS for i, mark in enumerate(word) if mark == "'"} | {
    "somebody'd": "somebodyd"
}


def without_punctuation(text: str) -> str:
    """Remove marks at the edge of words, replace those inside by a space, and remove periods outside decimals."""
    plain = text
    number = _COMMA_IN_NUMBER.search(text) is not None
    for mark in _MARKS:
        edge = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if edge or number else " ")
    return _PERIOD.sub("", plain)


def normalised(text: str) -> str:
    """Lower case, numbers as digits, no articles, apostrophes restored, no punctuation."""
    plain = without_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = [_NUMBERS.get(word, word) for word in plain.lower().split()]
    return " ".join(_RESTORED.get(word, word) for word in words if word not in ARTICLES)


def comparable(text: str) -> str:
    """``normalised``; if nothing is left, as of "A" or "?", the text without marks, or unchanged."""
    lower = _plain(text)
    return normalised(lower) or " ".join(without_punctuation(lower).split()) or lower


def _plain(text: str) -> str:
    """Unicode NFC in lower case with straight apostrophes, as tokenizers read it."""
    return " ".join(unicodedata.normalize("NFC", text.lower()).replace("\u2019", "'").split())


def joined(text: str, answer: str) -> str:
    """Remove the spaces that a tokenizer puts around marks where ``answer`` has none.

    ``joined("at 11 : 30", "11:30")`` is ``"at 11:30"``, because the rules of the evaluation expect text as people
    write it.
    """
    spaced = f" {text} "
    for word in sorted(set(_plain(answer).split()), key=len, reverse=True):
        apart = " ".join(UnicodeTokenizer.pieces(word))
        if apart != word:
            spaced = spaced.replace(f" {apart} ", f" {word} ")
    return spaced.strip()


def vqa_accuracy(answers: Sequence[str], text: str) -> float:
    """The mean, over each person left out, of ``min(1, n / 3)`` where n of the others gave this answer.

    Both the answers and the response are normalised; the official files hold normalised answers already. An empty
    response scores 0.

    Args:
        answers: of people, ten in VQA. With fewer than four, which the formula does not cover, any match scores 1.
        text: the response, as a person writes or as a tokenizer decodes.

    Returns:
        in [0, 1]
    """
    response = _plain(text)
    equal_to = {a: bool(response) and comparable(joined(response, a)) == comparable(a) for a in set(answers)}
    matches = np.array([equal_to[a] for a in answers])
    if len(matches) <= PEOPLE_NEEDED:
        return float(matches.any())
    return float(np.minimum(1.0, (matches.sum() - matches) / PEOPLE_NEEDED).mean())
