"""Gold of an answer: what a reply says is compared with the truth, however it is worded.

A reply is read for its *content*: nouns, colours, sizes, numbers, letters, directions, yes and no. Words of the
question may be repeated, words of plain English carry nothing, and any further content makes the reply wrong: who names
two things has not answered. So "dog", "A dog." and "it is the dog" are one answer, "dog cat" is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from mmenv.worlds.scenes import Scene, lies, unclear
from mmenv.worlds.words import Content, contents, words_of

BRIEF = 12  # words of a reply that cost nothing
ROUGH = 1 / 3  # what a rougher answer is worth
WORD_COST = 0.1  # of a word that is no English of this world, and of one that is said twice in a row
FRAME = frozenset(
    """
    it its is are was were be been being am there here this that these those they them their he she his her i you we my
    your our me us and of in on at to from with for by as into under underneath beneath onto picture image photo scene
    shown shows show showing contains contain see sees seen seeing can do does did has have had having would say says
    said think believe looks look like appears appear seems seem lies lie lying sits sit sitting stands stand standing
    located placed positioned put found visible present called named one ones thing things object objects item items
    kind kinds type types sort color colors colored size sized letter letters digit digits number numbers figure sum
    total count add adds added up together makes make equals written read reads marked mark marks badge label labeled
    plate plates background corner side part parts region area section spot answer which what where who how many much
    same also just only exactly nearest closest near close next most odd out belong belongs fit fits others other else
    than more fewer less all any some each both amount large enough or
    """.split()
) - {"large"}
NEGATIONS = frozenset("not never neither nor without except different differ unlike nobody nothing".split())
_YES = frozenset("yes yeah yep yup".split())
_NO = frozenset("no nope nah".split())
_DENIALS = NEGATIONS | _NO | {"none"}
_ODD = frozenset("belong fit different odd".split())
# What is asked about in questions for these is not their answer, so a reply may name it too.
_NOUNS = frozenset(("name", "category", "letter", "direction"))
_VERBS = frozenset(
    "is are was do does see sees shows show has have contains lies lie can sits stands appears looks belong".split()
)
_SUBJECTS = frozenset("there it they this that these those i you we picture image photo scene both he she".split())
Claim = tuple[str, Content, Content]  # "left", "above" or "more", and two nouns
_MIRRORED = {"right": "left", "below": "above"}
ZERO = Content("number", "zero")


def answer_parts(
    question: str, answer: str, reply: str, rough: str | None = None, *, scene: Scene | None = None
) -> dict[str, float]:
    """Parts of the gold of a reply, each in [0, 1]; gold is their product.

    ``correct`` is 1, ``ROUGH`` or 0. ``brevity`` is 1 up to ``BRIEF`` words, then ``BRIEF / words``. ``grammar`` falls
    by ``WORD_COST`` for each unknown word and each word said twice in a row.

    Args:
        question: as it was asked; its words may be repeated.
        answer: the right answer: a name, category, plural, color, size, number word, letter, place, "yes" or "no".
        reply: in free wording.
        rough: a rougher answer, the category of a thing for its name, or None.
        scene: what is asked about. With it a reply that says something false of two things is wrong ("no , the cat is
            left of the dog", where it is above), and "it is above the dog" may answer "is it left of the dog ?".
            Without it such statements are only compared with the question.
    """
    words, question_words = words_of(reply), words_of(question)
    if scene is not None and _says_what_is_false(words, scene):
        correct = 0.0
    elif answer in ("yes", "no"):
        correct = float(_polarity(words, question_words, scene is not None) == answer)
    else:
        correct = _named(words, question_words, answer, rough)
    flaws = sum(_is_strange(word, question_words) for word in words) + sum(a == b for a, b in pairwise(words))
    return {
        "correct": correct,
        "brevity": min(1.0, BRIEF / max(1, len(words))),
        "grammar": max(0.0, 1 - WORD_COST * flaws),
    }


def _is_strange(word: str, question_words: Sequence[str]) -> bool:
    is_known = word in contents() or word in FRAME or word in _YES or word in _DENIALS
    return not is_known and word not in question_words


def _content(words: Sequence[str]) -> set[Content]:
    """The content of words; the middle of a side is that side."""
    content = {contents()[word] for word in words if word in contents()}
    if sum(c.kind == "direction" for c in content) > 1:
        content.discard(Content("direction", "middle"))
    return content


def _named(words: Sequence[str], question_words: Sequence[str], answer: str, rough: str | None) -> float:
    """How far a reply names ``answer``, which is not yes or no."""
    right, in_question = _content(words_of(answer)), _content(question_words)
    kind = next(iter(right)).kind
    content = _content_of_reply(words, question_words, kind)
    if content is None:
        return 0.0
    chosen = _comparison(words)
    if chosen is not None and right <= in_question:  # "there are more animals than vehicles"
        return float(chosen[0] in right and content <= in_question)
    repeated_kind = kind in _NOUNS and not right & in_question
    content -= {c for c in in_question if c.kind != kind or repeated_kind}
    claim = _claim(words)
    if claim is not None and {*claim[1:]} <= right | in_question:  # "the dog is right of the cat"
        content = {c for c in content if c.kind != "direction"}
    roughly = _content(words_of(rough or ""))
    if content in (right, right | roughly):
        return 1.0
    return ROUGH if roughly and content == roughly else 0.0


def _content_of_reply(words: Sequence[str], question_words: Sequence[str], kind: str) -> set[Content] | None:
    """The content of a reply to a question for a ``kind``; None where it denies or affirms something."""
    telling = [word for before, word in pairwise(("", *words)) if before != "how"]  # "how large" tells no size
    content = _content([word for word in telling if word != "one" or kind == "number"])
    for i, word in enumerate(words):
        if word in _YES:
            return None
        if (word in _NO or word in NEGATIONS) and not _repeats_denial(words[i:], question_words):
            counted = words[i + 2 : i + 3] if words[i + 1 : i + 2] == ("any",) else words[i + 1 : i + 2]
            if kind != "number" or not counted or counted[0] not in question_words:
                return None
            content.add(ZERO)  # "there are no dogs"
    return content


def _repeats_denial(words: Sequence[str], question_words: Sequence[str]) -> bool:
    """Whether words begin with what a question for the odd one out says: "does not belong", "is different"."""
    if words[0] == "not":
        return words[1:2] in (("belong",), ("fit",)) and not _ODD.isdisjoint(question_words)
    return words[0] in question_words


def _polarity(words: Sequence[str], question_words: Sequence[str], is_true: bool = False) -> str:
    """Whether a reply says "yes" or "no" to a question; "" where it says neither, both, or something else.

    Args:
        words: of the reply.
        question_words: of the question.
        is_true: whether what the reply says of two things, if anything, is known to be true.
    """
    yes = any(word in _YES for word in words)
    denials = [i for i, word in enumerate(words) if word in _DENIALS and word not in question_words]
    claim, question = _claim(words), _claim(question_words)
    swapped = _excludes(claim, question, is_true)
    content = _content([word for word in words if word not in ("one", "none")])
    if swapped or claim == question is not None:
        content = {c for c in content if c.kind != "direction"}
    if not content <= _content(question_words) or (yes and denials):
        return ""
    if yes:
        return "" if swapped else "yes"
    if denials:
        if swapped:  # "no , the cat is left of the dog" denies, "the cat is not left of the dog" says nothing
            return "no" if denials == [0] else ""
        return "" if denials == [0] and _is_statement(words[1:], ()) else "no"
    if not _is_statement(words, question_words):
        return ""
    return "no" if swapped else "yes"


def _is_statement(words: Sequence[str], question_words: Sequence[str]) -> bool:
    """Whether words begin with a subject, which may be a noun of the question, and go on with a verb that fits it."""
    if not words or not (words[0] in _SUBJECTS or (words[0] in question_words and words[0] in contents())):
        return False
    complete = (
        not question_words or question_words[0] in words or any(word in contents() for word in words)
    )  # not "it is" to "do you see"
    return complete and any(word in _VERBS for word in words[1:])


def _excludes(claim: Claim | None, question: Claim | None, is_true: bool) -> bool:
    """Whether a claim of the nouns of a question says the opposite, or, if it is true, something else of them."""
    if claim is None or question is None:
        return False
    if claim == (question[0], question[2], question[1]):
        return True
    is_other = "more" not in (claim[0], question[0]) and claim[0] != question[0]
    return is_true and is_other and {*claim[1:]} == {*question[1:]}


def _says_what_is_false(words: Sequence[str], scene: Scene) -> bool:
    """Whether words claim of two nouns what is false in the scene, or deny what is true."""
    claim = _claim(words)
    if claim is None or "it" in (claim[1].value, claim[2].value):
        return False
    relation, first, second = claim[0], scene.named(claim[1].value), scene.named(claim[2].value)
    if relation == "more":
        holds = len(first) > len(second)
    else:
        relation = "left of" if relation == "left" else relation
        holds = any(lies(a, relation, b) or unclear(a, relation, b) for a in first for b in second if a is not b)
    denied = any(word in _DENIALS for word in words[1:])
    return holds == denied


def _claim(words: Sequence[str]) -> Claim | None:
    """What words claim of two nouns: that one lies left of or above the other, or is more than it; None if nothing."""
    comparison = _comparison(words)
    if comparison is not None:
        return "more", *comparison
    for i, word in enumerate(words):
        if word in ("above", "below") or (word in ("left", "right") and words[i + 1 : i + 2] == ("of",)):
            first, second = _noun(reversed(words[:i])), _noun(words[i + 1 :])
            if first is None or second is None:
                continue
            if word in _MIRRORED:
                return _MIRRORED[word], second, first
            return word, first, second
    return None


def _comparison(words: Sequence[str]) -> tuple[Content, Content] | None:
    """The noun of more things and that of fewer, as words with "than" compare them; None if they do not."""
    if "than" not in words:
        return None
    at = words.index("than")
    first, second = _noun(reversed(words[:at])), _noun(words[at + 1 :])
    if first is None or second is None:
        return None
    return (second, first) if "fewer" in words[:at] or "less" in words[:at] else (first, second)


def _noun(words: Iterable[str]) -> Content | None:
    """The first noun, or "it", among words."""
    for word in words:
        if word == "it":
            return Content("name", word)
        if word in contents() and contents()[word].kind in ("name", "category"):
            return contents()[word]
    return None
