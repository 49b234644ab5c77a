"""The tokenizer of a model of transformers, with the end tokens at which ``generate`` would stop."""

from __future__ import annotations

from typing import Any

from mmenv.models.chat import ChatReader, check_embedding
from mmenv.models.checkpoints import WeightsError
from mmenv.tokenizer import HFTokenizer


def tokenizer_of(model: Any, chat: ChatReader) -> HFTokenizer:
    """The tokenizer as an environment takes it; a response ends where ``generate`` or the chat template ends one.

    Raises:
        WeightsError: no token ends a response, or the model embeds fewer tokens than the tokenizer has.
    """
    check_embedding(model, chat)
    tokenizer, named = chat.tokenizer, model.generation_config.eos_token_id
    if named is None:  # a generation_config.json without end tokens
        named = model.config.get_text_config().eos_token_id
    vocabulary = set(tokenizer.get_vocab().values())
    ends = {tokenizer.eos_token_id, chat.turn_end, *(named if isinstance(named, list) else [named])}
    ends &= vocabulary  # a default configuration names a token that the vocabulary may lack
    if not ends:
        raise WeightsError(
            f"{chat.name} has no end token: set tokenizer.eos_token, or eos_token_id of its generation_config.json"
        )
    return HFTokenizer(
        tokenizer, eos_ids=ends, end_id=chat.turn_end, lead=chat.lead, gap=chat.gap, literal=chat.literal
    )
