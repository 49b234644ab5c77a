"""Reward models behind vLLM's score and pooling endpoints, and judges behind OpenAI's chat completions."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmenv.data.sample import Response, Sample
from mmenv.rewards.base import RewardError
from mmenv.rewards.remote.client import Connection, RefusedRequestError, RequestPolicy, gathered
from mmenv.rewards.remote.messages import MessageError, json_object, number
from mmenv.rewards.remote.replies import grade, reply_of

logger = logging.getLogger(__name__)
UNGRADED = (400, 413, 422, 451)  # HTTP status of a service that refuses one response: filtered, too long
FEW_REFUSALS = 8  # refusals that are accepted whatever share they are

RUBRIC = (
    "You are shown {what} and an answer to it. Judge how correct, complete and brief the answer is, and reply with "
    "one whole number from {least} (wrong) to {most} (perfect), and nothing else."
)


class Endpoint:
    """A connection to a server that lists its models.

    Args:
        url: address of the server.
        model: name of the model; None takes the first that the server lists.
        prefix: path before ``/models``, where the server lists them.
        policy: deadlines, retries and token.
    """

    def __init__(self, url: str, model: str | None, prefix: str, policy: RequestPolicy) -> None:
        self.connection, self.prefix, self._model = Connection(url, policy), prefix, model

    @property
    def model(self) -> str:
        """The model's name; the server is asked once."""
        if self._model is None:
            self._model = self.connection.ask(
                f"{self.prefix}/models", lambda body: read(lambda: str(json_object(body)["data"][0]["id"])), "GET"
            )
        return self._model


def read(part: Callable[[], Any]) -> Any:
    """The part of an answer that ``part`` extracts.

    Raises:
        MessageError: the answer has another form.
    """
    try:
        return part()
    except MessageError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise MessageError(f"an unknown form of answer ({type(error).__name__}: {error})") from error


def data_url(image: np.ndarray) -> str:
    """An image uint8 (H, W, 3) as a data URL with a PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def message_parts(sample: Sample, images: bool) -> list[dict[str, Any]]:
    """A sample as the parts of a message: its image if it has one and ``images`` is true, then its prompt."""
    parts: list[dict[str, Any]] = []
    if images and sample.image is not None:
        parts.append({"type": "image_url", "image_url": {"url": data_url(sample.image)}})
    # A model that reads text learns the spoken words from ``said`` alone.
    return [*parts, {"type": "text", "text": " ".join(filter(None, (sample.prompt, sample.said)))}]


class VLLMScore:
    """The score endpoint of vLLM: a cross-encoder or reranker reads prompt and response as a pair.

    One request holds many pairs of texts; with images each pair is a request of its own.

    Args:
        url: address of the server, for example ``http://gpu:8000``.
        model: its name on the server; None takes the first that the server lists.
        images: whether images are sent; the model must read them.
        activation: vLLM's ``use_activation``: False for raw logits, None for the model's default.
        batch_size: most pairs of one request.
        **settings: the fields of ``RequestPolicy``.
    """

    name = "vllm-score"

    def __init__(
        self, url: str, model: str | None = None, images: bool = False, activation: bool | None = None,
        batch_size: int = 64, **settings: Any,
    ) -> None:  # fmt: skip
        self.endpoint = Endpoint(url, model, "/v1", RequestPolicy(**{"variable": "VLLM_API_KEY", **settings}))
        self.images, self.batch_size = images, batch_size
        self.more = {} if activation is None else {"use_activation": activation}

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """The server's scores, float32 (n,)."""
        step = 1 if self.images else self.batch_size
        cuts = [slice(i, i + step) for i in range(0, len(samples), step)]
        return gathered(lambda cut: self._ask(samples[cut], responses[cut]), cuts, self.endpoint.connection)

    def _ask(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        messages = [message_parts(s, self.images) for s in samples]
        prompts = [parts[-1]["text"] if len(parts) == 1 else {"content": parts} for parts in messages]
        body = {"model": self.endpoint.model, "text_1": prompts, "text_2": [r.text for r in responses], **self.more}
        if len(samples) == 1:
            body |= {"text_1": prompts[0], "text_2": responses[0].text}  # older servers refuse a list of images
        return self.endpoint.connection.ask("/score", lambda a: by_index(a, "score", len(samples)), json=body)


class VLLMPooling:
    """The pooling endpoint of vLLM: a reward model reads the conversation of prompt and response.

    Of a model that scores every token, as vLLM's reward models do, the last score counts.

    Args:
        url: address of the server.
        model: its name on the server; None takes the first that the server lists.
        images: whether images are sent; the model must read them.
        activation: vLLM's ``use_activation``: False for raw logits, None for the model's default.
        **settings: the fields of ``RequestPolicy``.
    """

    name = "vllm-pooling"

    def __init__(
        self, url: str, model: str | None = None, images: bool = False, activation: bool | None = None, **settings: Any
    ) -> None:
        self.endpoint = Endpoint(url, model, "/v1", RequestPolicy(**{"variable": "VLLM_API_KEY", **settings}))
        self.images, self.more = images, {} if activation is None else {"use_activation": activation}

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """The server's scores, float32 (n,).

        Raises:
            RewardError: the model returns an embedding instead of a score.
        """
        pairs = list(zip(samples, responses, strict=True))
        return gathered(lambda pair: self._ask(*pair), pairs, self.endpoint.connection)

    def _ask(self, sample: Sample, response: Response) -> np.ndarray:
        parts = message_parts(sample, self.images)
        user: Any = parts if len(parts) > 1 else parts[0]["text"]
        turns = [{"role": "user", "content": user}, {"role": "assistant", "content": response.text}]
        body = {"model": self.endpoint.model, "messages": turns, **self.more}
        return self.endpoint.connection.ask("/pooling", last_number, json=body)


def by_index(body: bytes, key: str, n: int) -> np.ndarray:
    """The numbers of an answer's ``data``, ordered by their ``index``: float32 (n,).

    Raises:
        MessageError: one is missing, or the answer has another form.
        RewardError: one is not a finite number.
    """
    rows = read(lambda: {row["index"]: row[key] for row in json_object(body)["data"]})
    if any(type(index) is not int for index in rows) or sorted(rows) != list(range(n)):
        raise MessageError(f"scores came for {list(rows)[:5]}, {len(rows)} of {n}")
    return np.array([number(rows[i]) for i in range(n)], np.float32)


def last_number(body: bytes) -> np.ndarray:
    """The last score of a pooling answer: float32 (1,).

    Raises:
        MessageError: the answer has another form.
        RewardError: a token has several numbers, or the last one is not a finite number.
    """
    rows = read(lambda: json_object(body)["data"][0]["data"])
    if not isinstance(rows, list) or not rows:
        raise MessageError(f"pooled data {rows!r:.80}")
    last = rows[-1] if isinstance(rows[0], list) else rows  # else one vector for the whole conversation
    if not isinstance(last, list) or len(last) != 1:
        count = len(last) if isinstance(last, list) else 0
        raise RewardError(
            f"the model answers with {count} numbers, an embedding or several classes: serve a reward model with one "
            "label"
        )
    return np.array([number(last[0])], np.float32)


class ChatJudge:
    """A prompted judge behind OpenAI's ``/chat/completions``: vLLM, llama.cpp, Ollama, or a service.

    A reply is invalid if it is truncated, filtered or refused, calls a tool, or holds no number in the range after its
    reasoning. The judge is then asked again, ``attempts`` times in all. After that it is an error, unless
    ``on_refusal`` gives the score of such a response: a missing judgement never becomes a score silently.

    Args:
        url: address with its version, for example ``http://gpu:8000/v1``.
        model: its name on the server; None takes the first that the server lists.
        rubric: instruction to the judge; ``{what}``, ``{least}`` and ``{most}`` are filled in.
        least, most: range of the grades, which is mapped to [0, 1].
        images: whether images are sent.
        attempts: most replies that are requested until one is valid.
        temperature: of the first reply; later ones have at least 0.7, so that they differ. None leaves it out, for
            models that refuse it.
        max_tokens: of a reply, with its reasoning; None leaves it out.
        max_completion_tokens: the newer name of ``max_tokens``, which it replaces.
        on_refusal: score in [0, 1] of a response without a valid reply. Each is counted and logged; an error if they
            are the majority. None: the first is an error.
        parse: text of a reply -> grade, or None without one; by default ``grade``.
        **settings: the fields of ``RequestPolicy``.

    Attributes:
        failures: number of invalid replies.
        graded, refusals: number of responses that the judge graded, and of those that got ``on_refusal``.

    Raises:
        ValueError: names the argument and the remedy.
    """

    name = "judge"

    def __init__(
        self, url: str, model: str | None = None, rubric: str = RUBRIC, least: int = 1, most: int = 5,
        images: bool = True, attempts: int = 3, temperature: float | None = 0.0, max_tokens: int | None = 16,
        max_completion_tokens: int | None = None, on_refusal: float | None = None,
        parse: Callable[[str, int, int], float | None] | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        if least >= most or attempts < 1:
            raise ValueError(f"least={least}, most={most}, attempts={attempts}: give a range, and 1 attempt or more")
        if on_refusal is not None and not 0 <= on_refusal <= 1:
            raise ValueError(f"on_refusal={on_refusal} is not a score: give a number from 0 to 1, or None for an error")
        if temperature is not None and not temperature >= 0:
            raise ValueError(f"temperature={temperature} is negative: give 0 or more, or None to leave it out")
        tokens = ("max_tokens", max_tokens) if max_completion_tokens is None else (
            "max_completion_tokens", max_completion_tokens
        )  # fmt: skip
        if tokens[1] is not None and tokens[1] < 1:
            raise ValueError(f"{tokens[0]}={tokens[1]} is too small: give 1 or more, or None to leave it out")
        self.endpoint = Endpoint(url, model, "", RequestPolicy(**{"variable": "OPENAI_API_KEY", **settings}))
        self.rubric, self.least, self.most, self.images = rubric, least, most, images
        self.attempts, self.temperature, self.parse = attempts, temperature, parse or grade
        self.limits = {} if tokens[1] is None else {tokens[0]: tokens[1]}
        self.on_refusal = on_refusal
        self.failures = self.graded = self.refusals = 0

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """The judge's grades mapped to [0, 1]: float32 (n,).

        Raises:
            RewardError: a response has no valid reply and ``on_refusal`` is None, or most responses have none.
        """
        pairs = list(zip(samples, responses, strict=True))
        return gathered(lambda pair: self._judge(*pair), pairs, self.endpoint.connection)

    def _judge(self, sample: Sample, response: Response) -> np.ndarray:
        messages, problem = self.messages(sample, response), ""
        for attempt in range(self.attempts):
            try:
                value, problem = self._ask(messages, attempt)
            except RefusedRequestError as error:
                if error.status not in UNGRADED:
                    raise
                problem = str(error)
                break  # a retry would be refused too
            if value is not None:
                self._count(graded=1)
                return np.array([(value - self.least) / (self.most - self.least)], np.float32)
            self._count(failures=1)
        return self._refused(sample, problem)

    def _ask(self, messages: list[dict[str, Any]], attempt: int) -> tuple[float | None, str]:
        """A grade, or None and the problem of the reply."""
        body = {"model": self.endpoint.model, "messages": messages, **self.limits}
        if self.temperature is not None:
            body["temperature"] = self.temperature if attempt == 0 else max(0.7, self.temperature)
        text, problem = self.endpoint.connection.ask("/chat/completions", reply_of, json=body)
        if text is None:
            return None, problem
        value = self.parse(text, self.least, self.most)
        if value is None or not self.least <= value <= self.most:
            return None, f"no number from {self.least} to {self.most} in {text[:200]!r}"
        return value, ""

    def _refused(self, sample: Sample, problem: str) -> np.ndarray:
        """The score of a response without a grade; an error if ``on_refusal`` is None or most have no grade."""
        judge = f"judge {self.endpoint.model!r}"
        if self.on_refusal is None:
            raise RewardError(
                f"{judge} did not grade the response to sample {sample.id!r}: {problem}. Change the rubric, give "
                "parse= or more max_tokens=, or temperature=None and max_completion_tokens= to newer models; "
                "on_refusal=SCORE says what such responses score (?on_refusal=0.5 in an address, also in a run's "
                "config.json before --resume)"
            )
        self._count(refusals=1)
        logger.warning("%s did not grade sample %r, on_refusal=%g: %s", judge, sample.id, self.on_refusal, problem)
        if self.refusals > max(FEW_REFUSALS, self.graded):
            raise RewardError(
                f"{judge} graded {self.graded} responses and failed to grade {self.refusals}, but on_refusal is for "
                f"exceptions: correct rubric or parse=. The last problem: {problem}"
            )
        return np.array([self.on_refusal], np.float32)

    def _count(self, **more: int) -> None:
        """Add to counters under the connection's lock, which a fork renews; several threads judge."""
        with self.endpoint.connection.lock:
            for name, n in more.items():
                setattr(self, name, getattr(self, name) + n)

    def messages(self, sample: Sample, response: Response) -> list[dict[str, Any]]:
        """The messages to the judge; JSON quotes around the response mark its end, whatever it holds."""
        with_image = self.images and sample.image is not None
        what = "a picture with a question" if with_image else "a question"
        rubric = self.rubric.format(what=what, least=self.least, most=self.most)
        answer = {"type": "text", "text": f"Answer: {json.dumps(response.text, ensure_ascii=False)}"}
        return [
            {"role": "system", "content": rubric},
            {"role": "user", "content": [*message_parts(sample, self.images), answer]},
        ]
