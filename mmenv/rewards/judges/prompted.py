"""A judge by prompt, here: a language or vision-language model answers a question about the response in one word."""

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

YES_NO = {"yes": 1.0, "no": 0.0}
GRADES = {"1": 0.0, "2": 0.25, "3": 0.5, "4": 0.75, "5": 1.0}
QUESTION = 'Question: {prompt}\nAnswer: "{response}"\nIs this answer right? Reply with yes or no.'
BATCH = 16


def load_judge(folder: str | Path, **more: Any) -> PromptJudge:
    """A judge from a folder that ``save_pretrained`` wrote; nothing is fetched and no code of the folder is run.

    Args:
        folder: a vision-language model where its processor reads images, else a causal language model.
        **more: ``question``, ``values`` and ``name`` of ``PromptJudge``.

    Raises:
        WeightsError: the folder holds no such model.
        ModuleNotFoundError: transformers is missing.
    """
    folder, transformers = Path(folder), installed("transformers")
    config, reader = read_config(folder), read_processor(folder)
    kinds = (
        (transformers.AutoModelForMultimodalLM, transformers.MODEL_FOR_MULTIMODAL_LM_MAPPING),
        (transformers.AutoModelForCausalLM, transformers.MODEL_FOR_CAUSAL_LM_MAPPING),
    )
    kind = next((auto for auto, mapping in kinds if type(config) in mapping), None)
    if kind is None:
        raise WeightsError(
            f"{folder} holds a {config.model_type}, which is no model that answers: give a language model"
        )
    return PromptJudge(read_model(kind, folder), reader, **{"name": folder.name, **more})


class PromptJudge:
    """The expected value of a model's one-word answer, over the answers that were offered.

    Nothing is sampled and nothing is parsed: the score is the mean of the answers' values, weighted by the probability
    that the model's next token is one of them. So every judgement can be read, and the same is always judged the same.

    Args:
        model: a causal language model, or a vision-language model.
        reader: its tokenizer or processor; a chat template is used where it has one.
        question: what is asked; ``{prompt}`` and ``{response}`` are filled in.
        values: answer -> its value, ``YES_NO`` or ``GRADES`` for example; each answer one token of the model's.
        name: name of the reward in ``info``.

    Raises:
        WeightsError: an answer is no single token, or two begin alike.
    """

    def __init__(
        self, model: Any, reader: Any, question: str = QUESTION, values: Mapping[str, float] = YES_NO,
        name: str = "judge",
    ) -> None:  # fmt: skip
        self.model, self.chat = model.eval().requires_grad_(False), ChatReader(reader, name)
        check_embedding(model, self.chat)
        self.question, self.name, self.sees = question, name, "image" in self.chat.media
        self.values = torch.tensor(list(values.values()), dtype=torch.float32)
        self.tokens = [_forms(self.chat.tokenizer, answer) for answer in values]
        known = [token for forms in self.tokens for token in forms]
        if len(set(known)) != len(known):
            raise WeightsError(f"some of the answers {list(values)} are one token to the model: give others")

    @torch.no_grad()
    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """Expected values, float32 (n,)."""
        cuts = [slice(i, i + BATCH) for i in range(0, len(samples), BATCH)]
        return np.concatenate([(self._answers(samples[c], responses[c]) @ self.values).numpy() for c in cuts])

    def probabilities(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """How likely each answer is among those offered, float32 (n, answers)."""
        with torch.no_grad():
            return self._answers(samples, responses).numpy()

    def _answers(self, samples: Sequence[Sample], responses: Sequence[Response]) -> Tensor:
        inputs = self._read([self._asked(s, r) for s, r in zip(samples, responses, strict=True)], samples)
        last = last_real(inputs["attention_mask"])
        logits = self.model(**inputs).logits[torch.arange(len(last)), last].float()  # (n, V)
        each = torch.stack([logits[:, forms].logsumexp(1) for forms in self.tokens], 1)  # (n, answers)
        return each.softmax(1)

    def _read(self, questions: Sequence[Turns], samples: Sequence[Sample]) -> dict[str, Tensor]:
        # Padding stands on the right: positions are counted from the first column.
        return self.chat.read(questions, **media_of(self.chat, samples), asks=True)

    def _asked(self, sample: Sample, response: Response) -> Turns:
        prompt = sample.prompt if "audio" in self.chat.media else sample.text
        return Turns(self.question.format(prompt=prompt, response=response.text))


def _forms(tokenizer: Any, answer: str) -> list[int]:
    """The tokens that an answer may be: as it stands, capitalised, and after a space."""
    words, known = sorted({answer, answer.capitalize()}), tokenizer.get_vocab()
    rows = [tokenizer.encode(space + word, add_special_tokens=False) for word in words for space in ("", " ")]
    # SentencePiece puts a space before a text, which is not there behind a template: the piece without it counts too.
    rows += [[known[word]] for word in words if word in known]
    found = sorted({row[0] for row in rows if len(row) == 1 and row[0] != tokenizer.unk_token_id})
    if not found:
        raise WeightsError(f"the answer {answer!r} is no single token of {type(tokenizer).__name__}: give another word")
    return found
