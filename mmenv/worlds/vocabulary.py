"""Every word of the scene world: of its questions, their answers, captions and dialogues."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from mmenv.tokenizer import NUMBER_WORDS, WordTokenizer
from mmenv.worlds.caption_writing import FORMS as CAPTION_FORMS
from mmenv.worlds.dialogues import PHRASES
from mmenv.worlds.questions import FORMS
from mmenv.worlds.scenes import PLACES, RELATIONS
from mmenv.worlds.things import COLOURS, LETTERS, SIZES, categories, concepts

# Words of short replies that no question has: "it is a dog .", "i see two dogs and a cat".
REPLIES = ("yes no nothing it is a an there are i see and .",)


@functools.cache
def world_words() -> tuple[str, ...]:
    """All words and marks, each once, in an order that is fixed by the tables: marks and words of phrasings first."""
    phrasings = [phrasing for forms in FORMS.values() for form in forms for phrasing in form.phrasings]
    nouns = [noun for c in concepts() for noun in (c.name, c.plural)]
    kinds = [noun for pair in categories().items() for noun in pair]
    texts = (*REPLIES, *phrasings, "letter digit", *PLACES, *RELATIONS, *NUMBER_WORDS, *COLOURS, *SIZES, *LETTERS)
    return tuple(dict.fromkeys(words_of([*texts, *kinds, *nouns, *PHRASES, *CAPTION_FORMS])))


@functools.cache
def world_tokenizer() -> WordTokenizer:
    """The tokenizer of ``world_words``: one token a word or mark."""
    return WordTokenizer(world_words())


def words_of(templates: Iterable[str]) -> list[str]:
    """Words of texts whose slots, like ``{name}``, are left out, in order and with repetitions."""
    return [word for template in templates for word in re.sub(r"\{\w*\}", " ", template).split()]
