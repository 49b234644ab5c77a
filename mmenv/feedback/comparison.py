"""Comparisons: some responses to one prompt, and a judgement of them.

As a JSON object, one a line in ``samples.jsonl``:

    {"sample_id", "prompt", "image"?, "audio"?, "responses": [..], "choice": index | "tie" | null,
     "scores"?: [..], "ranking"?: [..], "annotator", "created"}

``image`` and ``audio`` are paths relative to the file. ``stops`` and ``provenance`` (the policy, its checkpoint, the
seed) may stand beside them; other keys are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from mmenv.data.sample import Response

Choice = int | Literal["tie"] | None
TIE: Literal["tie"] = "tie"


class ComparisonError(ValueError):
    """A comparison or a judgement is impossible; the message names the value and the remedy."""


@dataclass(frozen=True)
class Comparison:
    """Some responses to one prompt, and an annotator's judgement of them, if there is one.

    Attributes:
        sample_id: of the ``Sample`` that was responded to.
        prompt: its text.
        responses: texts, one or more.
        choice: index of the preferred response, ``"tie"``, or None without a choice.
        scores: one number for each response, or None.
        ranking: indices of the responses, best first, or None.
        annotator: name of who judged; None before a judgement.
        created: time of the judgement, ISO 8601 in UTC; ``""`` if it is unknown.
        image, audio: paths of the media relative to the file that holds the comparison.
        stops: ``"eos"`` or ``"budget"`` for each response; empty means ``"eos"`` for all.
        provenance: where the responses come from: policy, checkpoint, seed and what else a run records.

    Raises:
        ComparisonError: choice, ranking, scores or stops do not fit the responses.
    """

    sample_id: str
    prompt: str
    responses: tuple[str, ...]
    choice: Choice = None
    scores: tuple[float, ...] | None = None
    ranking: tuple[int, ...] | None = None
    annotator: str | None = None
    created: str = ""
    image: str | None = None
    audio: str | None = None
    stops: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.responses)
        if not n:
            raise ComparisonError(f"{self.sample_id!r} has no responses: give at least one")
        check_judgement(n, self.choice, self.ranking, self.scores)
        if self.stops and len(self.stops) != n:
            raise ComparisonError(f"stops {list(self.stops)} for {n} responses: give one each, or none")

    @property
    def decided(self) -> bool:
        """Whether it holds a judgement."""
        # Scores without an annotator are those of a run's reward function.
        scored = self.scores is not None and self.annotator is not None
        return self.choice is not None or self.ranking is not None or scored

    def as_responses(self) -> list[Response]:
        """The responses as reward functions take them."""
        stops = self.stops or ("eos",) * len(self.responses)
        return [Response(text, (), stop) for text, stop in zip(self.responses, stops, strict=True)]

    def preference_pairs(self) -> list[tuple[int, int]]:
        """Pairs (better, worse) of response indices; see the function of this name."""
        return preference_pairs(len(self.responses), self.choice, self.ranking, self.scores)

    def to_row(self) -> dict[str, Any]:
        """The JSON object of its line."""
        media = {"image": self.image, "audio": self.audio}
        row: dict[str, Any] = {"sample_id": self.sample_id, "prompt": self.prompt}
        row |= {key: path for key, path in media.items() if path is not None}
        row |= {"responses": list(self.responses), "choice": self.choice}
        lists = {"scores": self.scores, "ranking": self.ranking, "stops": self.stops or None}
        row |= {key: list(values) for key, values in lists.items() if values is not None}
        if self.provenance:
            row["provenance"] = dict(self.provenance)
        return {**row, "annotator": self.annotator, "created": self.created}

    @classmethod
    def from_row(cls, row: Any) -> Comparison:
        """A comparison from the JSON object of a line.

        Raises:
            ComparisonError: a key is missing, or its value is of the wrong kind.
        """
        if not isinstance(row, dict):
            raise ComparisonError(f"{str(row)[:60]!r} is not an object: write one comparison a line")
        missing = [key for key in ("sample_id", "prompt", "responses") if key not in row]
        if missing:
            raise ComparisonError(f"no {', '.join(missing)} among {sorted(row)}: add it")
        optional = ("image", "audio", "annotator", "created")
        texts = {key: None if row.get(key) is None else _text(row, key) for key in optional}
        provenance = row.get("provenance") or {}
        if not isinstance(provenance, dict):
            raise ComparisonError(f"provenance {provenance!r} is not an object: write one")
        return cls(
            sample_id=_text(row, "sample_id"),
            prompt=_text(row, "prompt"),
            responses=_tuple(row, "responses", str) or (),
            choice=row.get("choice"),
            scores=_tuple(row, "scores", float),
            ranking=_tuple(row, "ranking", int),
            annotator=texts["annotator"],
            created=texts["created"] or "",
            image=texts["image"],
            audio=texts["audio"],
            stops=_tuple(row, "stops", str) or (),
            provenance=provenance,
        )


def check_judgement(
    n: int, choice: Any = None, ranking: Sequence[int] | None = None, scores: Sequence[float] | None = None
) -> None:
    """Check that a judgement fits ``n`` responses.

    Raises:
        ComparisonError: names the value and the remedy.
    """
    if choice is not None and choice != TIE and (isinstance(choice, bool) or not isinstance(choice, int)):
        raise ComparisonError(f"choice {choice!r} is neither an index nor 'tie' nor null: give one of these")
    if isinstance(choice, int) and not 0 <= choice < n:
        raise ComparisonError(f"choice {choice} is outside the {n} responses: give 0 to {n - 1}, 'tie' or null")
    if ranking is not None and sorted(ranking) != list(range(n)):
        raise ComparisonError(f"ranking {list(ranking)} does not name each of {n} responses once: give such a list")
    if scores is not None and (len(scores) != n or not all(math.isfinite(s) for s in scores)):
        raise ComparisonError(f"scores {list(scores)} for {n} responses: give one finite number each")


def _text(row: dict[str, Any], key: str) -> str:
    if isinstance(row[key], str):
        return str(row[key])
    raise ComparisonError(f"{key} {row[key]!r} is not text: write a string")


def _tuple(row: dict[str, Any], key: str, kind: type) -> tuple[Any, ...] | None:
    """A list of one kind as a tuple; None for a missing key."""
    values = row.get(key)
    if values is None:
        return None
    kinds = (int, float) if kind is float else kind
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, kinds) for v in values):
        raise ComparisonError(f"{key} {values!r} is not a list of {kind.__name__}: write one")
    try:
        return tuple(kind(value) for value in values)
    except OverflowError as error:  # an integer of hundreds of digits
        raise ComparisonError(f"{key} hold a number that is too large ({error}): write it smaller") from error


def preference_pairs(
    n: int, choice: Choice, ranking: Sequence[int] | None, scores: Sequence[float] | None
) -> list[tuple[int, int]]:
    """Pairs (better, worse) of ``n`` responses that a judgement states.

    The chosen response is better than every other, a ranking orders them all, a greater score is better. A tie states
    no pair.
    """
    if ranking is not None:
        return [(a, b) for i, a in enumerate(ranking) for b in ranking[i + 1 :]]
    if isinstance(choice, int):
        return [(choice, other) for other in range(n) if other != choice]
    if choice is None and scores is not None:
        return [(a, b) for a in range(n) for b in range(n) if scores[a] > scores[b]]
    return []


def now() -> str:
    """The time as ``created`` has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
