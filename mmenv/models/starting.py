"""Start of training on other data: a shipped network, extended to more words and longer texts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from mmenv.models.checkpoints import WeightsError, load_pretrained, read_tensors, resolve, vocabulary_in
from mmenv.models.transformer import Network
from mmenv.tokenizer import Tokenizer, WordTokenizer
from mmenv.worlds.vocabulary import world_tokenizer


def start_network(
    start: str | Path, tokenizer: Tokenizer, max_prompt: int, max_response: int, max_audio_samples: int = 0
) -> Network:
    """The network by a shipped name or path, fitted to a tokenizer and to the longest texts and sounds.

    A network whose words and sizes fit is returned unchanged. So is every network for a tokenizer that is no
    ``WordTokenizer``: their vocabularies cannot be matched by word.

    Args:
        start: a name or path.
        tokenizer: of the environment.
        max_prompt, max_response: widths of the observations in tokens.
        max_audio_samples: length of the audio observation at 16 kHz.

    Raises:
        WeightsError: the file is missing, broken or of another kind, or does not name its words.
    """
    path = resolve(start)
    network = load_pretrained(path)
    config, audio = network.config, max_audio_samples // 1600
    vocabulary = vocabulary_in(read_tensors(path)[1]) or world_tokenizer()
    if not isinstance(tokenizer, WordTokenizer):
        return network
    if vocabulary.vocab_size != config.vocab_size == tokenizer.vocab_size:
        vocabulary = tokenizer  # weights do not name the words of a registered task
    if vocabulary.vocab_size != config.vocab_size:
        raise WeightsError(
            f"{path} has {config.vocab_size} words, this task {tokenizer.vocab_size}, the embedded world "
            f"{world_tokenizer().vocab_size}, and it does not name them: give weights of this task or of the world"
        )
    room = (max_prompt, max_response, audio)
    enough = all(a <= b for a, b in zip(room, (config.max_prompt, config.max_response, config.max_audio_tokens)))
    if tokenizer.words == vocabulary.words and enough:
        return network
    return fitted(network, vocabulary, tokenizer, *room)


def fitted(
    network: Network,
    vocabulary: WordTokenizer,
    tokenizer: WordTokenizer,
    max_prompt: int,
    max_response: int,
    audio: int,
) -> Network:
    """A network with the encoders, blocks and positions of another, and the embeddings of the words they share.

    Embeddings of new words and positions are random with a fixed seed.

    Args:
        network: the old network.
        vocabulary: the old words.
        tokenizer: the new words.
        max_prompt, max_response: longest texts in tokens; never less than before.
        audio: longest utterance in tenths of a second; never less than before.
    """
    old = network.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        new = Network(
            dataclasses.replace(
                old,
                vocab_size=tokenizer.vocab_size,
                pad_id=tokenizer.pad_id,
                max_prompt=max(old.max_prompt, max_prompt),
                max_response=max(old.max_response, max_response),
                max_audio_tokens=max(old.max_audio_tokens, audio),
            )
        )
    before = network.state_dict()
    with torch.no_grad():
        for name, tensor in new.state_dict().items():
            if name != "embed.weight":
                tensor[: len(before[name])] = before[name]  # only positions can be more than before
    ids = {word: i for i, word in enumerate(vocabulary.words)}
    shared = [(i, ids[word]) for i, word in enumerate(tokenizer.words) if word in ids]
    rows, origins = (torch.tensor(column) for column in zip(*shared, strict=True))  # pad, end and unknown are in both
    new.embed.weight.data[rows] = before["embed.weight"][origins]
    return new.eval()
