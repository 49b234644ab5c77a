"""A prompted judge in this process: a language model answers a question about the response in one word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmenv.data.sample import Response, Sample
from mmenv.models.chat import ChatReader, Turns, check_embedding, last_real
from mmenv.models.checkpoints import WeightsError
from mmenv.models.folders import installed, read_config, read_model, read_processor
from mmenv.rewards.judges.classifier import media_of
from mmenv.rewards.judges.model_reward import ModelReward

YES_NO = {"yes": 1.0, "no": 0.0}
GRADES = {"1": 0.0, "2": 0.25, "3": 0.5, "4": 0.75, "5": 1.0}
QUESTION = 'Question: {prompt}\nAnswer: "{response}"\nIs this answer right? Reply with yes or no.'


def load_judge(folder: str | Path, **more: Any) -> PromptJudge:
    """A judge from a folder that ``save_pretrained`` wrote; nothing is fetched and no code of the folder is run.

    Args:
        folder: a vision-language model where its processor reads images, else a causal language model.
        **more: ``question``, ``values`` and ``name`` of ``PromptJudge``.

    Raises:
        WeightsError: the folder holds no such model.
        MissingExtraError: transformers is missing.
    """
    folder, transformers = Path(folder), installed("transformers")
    config, reader = read_config(folder), read_processor(folder)
    kinds = (
        (transformers.AutoModelForMultimodalLM, transformers.MODEL_FOR_MULTIMODAL_LM_MAPPING),
        (transformers.AutoModelForCausalLM, transformers.MODEL_FOR_CAUSAL_LM_MAPPING),
    )
    kind = next((auto for auto, mapping in kinds if type(config) in mapping), None)
    if kind is None:
        raise WeightsError(f"{folder} holds a {config.model_type}, which does not generate text: give a language model")
    return PromptJudge(read_model(kind, folder), reader, **{"name": folder.name, **more})


class PromptJudge(ModelReward):
    """The expected value of a model's one-word answer, over the possible answers.

    The score is the mean of the answers' values, weighted by the probabilities of the model's next token. Nothing is
    sampled or parsed, so every response gets a score, and the same one each time.

    Args:
        model: a causal language model, or a vision-language model.
        reader: its tokenizer or processor; a chat template is used where it has one.
        question: the question to the model; ``{prompt}`` and ``{response}`` are filled in.
        values: answer -> its value, ``YES_NO`` or ``GRADES`` for example; each answer is a single token.
        name: name of the reward in ``info``.

    Raises:
        WeightsError: an answer is not a single token, or two answers are the same token.
    """

    def __init__(
        self, model: Any, reader: Any, question: str = QUESTION, values: Mapping[str, float] = YES_NO,
        name: str = "judge",
    ) -> None:  # fmt: skip
        super().__init__(model, name, batch_size=16)
        self.chat = ChatReader(reader, name)
        check_embedding(model, self.chat)
        self.question = question
        self.values = torch.tensor(list(values.values()), dtype=torch.float32)
        self.tokens = [_forms(self.chat.tokenizer, answer) for answer in values]
        every_token = [token for forms in self.tokens for token in forms]
        if len(set(every_token)) != len(every_token):
            raise WeightsError(f"several of the answers {list(values)} are the same token of the model: give others")

    def score_batch(self, samples: Sequence[Sample], responses: Sequence[Response]) -> Tensor:
        """Expected values, float32 (n,)."""
        return self._answers(samples, responses) @ self.values

    def probabilities(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """Probabilities of the possible answers, float32 (n, answers)."""
        with torch.no_grad():
            return self._answers(samples, responses).numpy()

    def _answers(self, samples: Sequence[Sample], responses: Sequence[Response]) -> Tensor:
        inputs = self._read([self._asked(s, r) for s, r in zip(samples, responses, strict=True)], samples)
        last = last_real(inputs["attention_mask"])
        logits = self.model(**inputs).logits[torch.arange(len(last)), last].float()  # (n, V)
        each = torch.stack([logits[:, forms].logsumexp(1) for forms in self.tokens], 1)  # (n, answers)
        return each.softmax(1)

    def _read(self, questions: Sequence[Turns], samples: Sequence[Sample]) -> dict[str, Tensor]:
        # Padded on the right: positions are counted from the first column.
        return self.chat.read(questions, **media_of(self.chat, samples), asks=True)

    def _asked(self, sample: Sample, response: Response) -> Turns:
        prompt = sample.prompt if "audio" in self.chat.media else sample.text
        return Turns(self.question.format(prompt=prompt, response=response.text))


def _forms(tokenizer: Any, answer: str) -> list[int]:
    """The tokens of an answer as it is, capitalised, and after a space."""
    words, vocabulary = sorted({answer, answer.capitalize()}), tokenizer.get_vocab()
    rows = [tokenizer.encode(space + word, add_special_tokens=False) for word in words for space in ("", " ")]
    # SentencePiece puts a space before a text, but not after a template: the piece without a space counts too.
    rows += [[vocabulary[word]] for word in words if word in vocabulary]
    tokens = sorted({row[0] for row in rows if len(row) == 1 and row[0] != tokenizer.unk_token_id})
    if not tokens:
        raise WeightsError(f"the answer {answer!r} is not a single token of {type(tokenizer).__name__}: give another")
    return tokens
