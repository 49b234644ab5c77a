"""Messages between client and reward server: samples, responses and scores, bit for bit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mmenv.data.sample import Response, Sample
from mmenv.rewards.base import RewardError

FORMAT = 1
TOKEN = "MMENV_REWARD_TOKEN"  # the environment variable of the token, on both sides
LARGEST = float(np.finfo(np.float32).max)
MEDIA = ("image", "audio")
TEXTS = ("id", "index", "prompt", "references", "turn", "said")


class MessageError(ValueError):
    """A message is truncated, has another form, or answers another request."""


def encode_request(request: str, samples: Sequence[Sample], responses: Sequence[Response]) -> bytes:
    """A request as a safetensors body: all text as JSON in one tensor, and each image and sound once.

    ``truth`` is not sent: it belongs to the world, and only gold reads it.

    Args:
        request: id of the request, which the answer repeats.
        samples, responses: n of each.
    """
    tensors: dict[str, np.ndarray] = {}
    rows = [_row(s, r, tensors) for s, r in zip(samples, responses, strict=True)]
    text = json.dumps({"format": FORMAT, "request": request, "rows": rows}, separators=(",", ":"))
    return save({"text": np.frombuffer(text.encode("ascii"), np.uint8), **tensors})


def _row(sample: Sample, response: Response, tensors: dict[str, np.ndarray]) -> list[Any]:
    media = [_place(getattr(sample, name), tensors) for name in MEDIA]
    return [[getattr(sample, name) for name in TEXTS], media, dataclasses.astuple(response)]


def _place(array: np.ndarray | None, tensors: dict[str, np.ndarray]) -> str | None:
    """Name of the tensor that holds an array; equal arrays share one."""
    if array is None:
        return None
    name = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).hexdigest()[:24]
    tensors.setdefault(name, np.ascontiguousarray(array))  # safetensors writes memory as it lies, wrong for a view
    return name


def decode_request(body: bytes) -> tuple[str, list[Sample], list[Response]]:
    """Id, samples and responses of a request; nothing in a body is ever executed.

    Raises:
        MessageError: the body is not a request of mmenv.
    """
    try:
        tensors = load(body)
        text = json.loads(tensors.pop("text").tobytes())
        if text["format"] != FORMAT:
            raise MessageError(f"the request has format {text['format']}, this server reads {FORMAT}: update the older")
        for array in tensors.values():
            array.flags.writeable = False
        pairs = [_read(row, tensors) for row in text["rows"]]
        return str(text["request"]), [s for s, _ in pairs], [r for _, r in pairs]
    except (SafetensorError, KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        if isinstance(error, MessageError):
            raise
        raise MessageError(f"the body is not a request of mmenv ({type(error).__name__}: {error})") from error


def _read(row: list[Any], tensors: dict[str, np.ndarray]) -> tuple[Sample, Response]:
    texts, media, (text, tokens, stop) = row
    image, audio = (None if name is None else tensors[name] for name in media)
    name, index, prompt, references, turn, said = texts
    # Errors and answers quote these values, and would fail on a number where a text belongs.
    mistyped = [x for x in (name, prompt, said, text, stop, *references) if not isinstance(x, str)]
    mistyped += [x for x in (index, turn, *tokens) if not isinstance(x, int)]
    if mistyped:
        raise MessageError(
            f"{mistyped[0]!r} is of the wrong type: names and texts are strings, numbers and tokens integers"
        )
    sample = Sample(name, index, prompt, image, audio, tuple(references), turn=turn, said=said)
    return sample, Response(text, tuple(tokens), stop)


def digest(body: bytes) -> str:
    """SHA-256 of a request's body, which the answer repeats."""
    return hashlib.sha256(body).hexdigest()


def encode_reply(request: str, body: bytes, samples: Sequence[Sample], scores: np.ndarray) -> bytes:
    """An answer as JSON; decimals that restore a float64 exactly restore a float32 too."""
    answer = {"request": request, "digest": digest(body), "ids": [s.id for s in samples], "scores": scores.tolist()}
    return json.dumps(answer, allow_nan=False).encode("ascii")


def decode_reply(reply: bytes, request: str, body: bytes, samples: Sequence[Sample]) -> np.ndarray:
    """The scores of an answer, float32 (n,).

    Raises:
        MessageError: the answer belongs to another request, or is truncated.
        RewardError: it does not have one finite number for each response.
    """
    answer = json_object(reply)
    try:
        ids, numbers, source = answer["ids"], answer["scores"], (answer["request"], answer["digest"])
    except KeyError as error:
        raise MessageError(f"this is not the answer of a reward server (KeyError: {error})") from error
    if source != (request, digest(body)) or ids != [s.id for s in samples]:
        count = len(ids) if isinstance(ids, list) else ids
        raise MessageError(f"the answer belongs to another request ({str(source[0])[:80]!r}, samples: {count!r:.80})")
    if not isinstance(numbers, list) or len(numbers) != len(samples):
        size = len(numbers) if isinstance(numbers, list) else type(numbers).__name__
        raise RewardError(f"the server answers with {size} scores for {len(samples)} responses: give one for each")
    return np.array([number(x) for x in numbers], np.float32)


def json_object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        MessageError: the text is not one.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8, and integers of thousands of digits
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise MessageError(f"this is not the answer of a reward server ({reason})") from error
    if not isinstance(value, dict):
        raise MessageError(f"this is not the answer of a reward server (it is {type(value).__name__}, not an object)")
    return value


def number(value: Any) -> float:
    """Check that a score is a finite number in the range of float32.

    Raises:
        RewardError: it is not.
    """
    # An integer of a thousand digits is compared without an overflow.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise RewardError(f"the server answers with the score {value!r:.80}: scores are finite numbers in float32")
    return float(value)
