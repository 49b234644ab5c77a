"""Preferences on disk: JSON lines, one comparison each, and the columns that preference trainers read.

    {"sample_id", "prompt", "image"?, "audio"?, "responses": [..], "choice": index | "tie" | null,
     "scores"?: [..], "ranking"?: [..], "annotator", "created"}

``image`` and ``audio`` are paths relative to the file. ``stops`` and ``provenance`` (the policy, its checkpoint, the
seed) may stand beside them; other keys are kept and ignored.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mmenv.data.media import DEFAULT_SIDE, path_inside, read_audio, read_image
from mmenv.data.sample import Response, Sample

Choice = int | Literal["tie"] | None
TIE: Literal["tie"] = "tie"
SPOKEN = "spoken"  # in the provenance: paths of the responses as sounds, None where one is not spoken
# ``datasets`` turns the column ``images_file_names`` of an image folder into ``images``, with the pictures in it.
IMAGES_COLUMN = "images_file_names"


class ComparisonError(ValueError):
    """A comparison that says something impossible; the message names the value and the remedy."""


@dataclass(frozen=True)
class Comparison:
    """Some responses to one prompt, and what an annotator said of them, if anything.

    Attributes:
        sample_id: of the ``Sample`` that was responded to.
        prompt: its text.
        responses: what was said, one or more.
        choice: index of the preferred response, ``"tie"``, or None where nobody has chosen.
        scores: one number for each response, or None.
        ranking: indices of the responses, best first, or None.
        annotator: who said it; None before anybody has.
        created: when, ISO 8601 in UTC; ``""`` where that is not known.
        image, audio: paths of the media relative to the file that the comparison stands in.
        stops: ``"eos"``, ``"budget"`` or ``"pad"`` for each response; empty means that all ended by themselves.
        provenance: where the responses come from: policy, checkpoint, seed and whatever else a run wants to keep.

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
        """Whether somebody has said anything of the responses."""
        # Scores without an annotator are those of a run's reward function.
        scored = self.scores is not None and self.annotator is not None
        return self.choice is not None or self.ranking is not None or scored

    def as_responses(self) -> list[Response]:
        """The responses as reward functions take them."""
        stops = self.stops or ("eos",) * len(self.responses)
        return [Response(text, (), stop) for text, stop in zip(self.responses, stops, strict=True)]

    def to_row(self) -> dict[str, Any]:
        """The object of its line."""
        optional = {"image": self.image, "audio": self.audio}
        row: dict[str, Any] = {
            "sample_id": self.sample_id, "prompt": self.prompt, **{k: v for k, v in optional.items() if v is not None},
            "responses": list(self.responses), "choice": self.choice,
        }  # fmt: skip
        lists = {"scores": self.scores, "ranking": self.ranking, "stops": self.stops or None}
        row |= {k: list(v) for k, v in lists.items() if v is not None}
        if self.provenance:
            row["provenance"] = dict(self.provenance)
        return {**row, "annotator": self.annotator, "created": self.created}

    @classmethod
    def from_row(cls, row: Any) -> Comparison:
        """A comparison from the object of a line.

        Raises:
            ComparisonError: a key is missing, or its value is of the wrong kind.
        """
        if not isinstance(row, dict):
            raise ComparisonError(f"{str(row)[:60]!r} is no object: write one comparison a line")
        missing = [k for k in ("sample_id", "prompt", "responses") if k not in row]
        if missing:
            raise ComparisonError(f"no {', '.join(missing)} among {sorted(row)}: add it")
        optional = {
            k: None if row.get(k) is None else _text(row, k) for k in ("image", "audio", "annotator", "created")
        }
        provenance = row.get("provenance") or {}
        if not isinstance(provenance, dict):
            raise ComparisonError(f"provenance {provenance!r} is no object: write one")
        return cls(
            sample_id=_text(row, "sample_id"),
            prompt=_text(row, "prompt"),
            responses=_items(row, "responses", str) or (),
            choice=row.get("choice"),
            scores=_items(row, "scores", float),
            ranking=_items(row, "ranking", int),
            annotator=optional["annotator"],
            created=optional["created"] or "",
            image=optional["image"],
            audio=optional["audio"],
            stops=_items(row, "stops", str) or (),
            provenance=provenance,
        )


def check_judgement(
    n: int, choice: Any = None, ranking: Sequence[int] | None = None, scores: Sequence[float] | None = None
) -> None:
    """Whether a judgement fits ``n`` responses.

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
    raise ComparisonError(f"{key} {row[key]!r} is no text: write a string")


def _items(row: dict[str, Any], key: str, kind: type) -> tuple[Any, ...] | None:
    """A list of one kind as a tuple; None where there is none."""
    value = row.get(key)
    if value is None:
        return None
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, list) or any(isinstance(v, bool) or not isinstance(v, allowed) for v in value):
        raise ComparisonError(f"{key} {value!r} is no list of {kind.__name__}: write one")
    try:
        return tuple(kind(v) for v in value)
    except OverflowError as error:  # an integer of hundreds of digits
        raise ComparisonError(f"{key} hold a number that is too large ({error}): write it smaller") from error


class Fault(NamedTuple):
    """A line that could not be read: its number, from 1, and why."""

    line: int
    reason: str


class Reading(NamedTuple):
    """What a file holds: the good lines, and the bad ones by number."""

    comparisons: list[Comparison]
    faults: list[Fault]


def read_comparisons(path: str | Path) -> Reading:
    """All comparisons of a JSON lines file, or preferences as prompt, chosen and rejected; a bad line costs that line.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: give JSON lines of comparisons, such as a run's samples.jsonl")
    found, faults = [], []
    for number, raw in enumerate(path.read_bytes().split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            row = row_of_line(raw)
            preferred = isinstance(row, dict) and not row.keys().isdisjoint(("chosen", "rejected"))
            name = f"{path.stem}/{number}"
            found.append(comparison_of_preference(row, name) if preferred else Comparison.from_row(row))
        except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or no comparison
            faults.append(Fault(number, str(error)))
    return Reading(found, faults)


def row_of_line(raw: bytes) -> Any:
    """The value of a line of JSON; of an object a null is the same as no entry."""
    row = json.loads(raw.decode("utf-8-sig"))
    return {key: value for key, value in row.items() if value is not None} if isinstance(row, dict) else row


def comparison_of_preference(row: Any, sample_id: str) -> Comparison:
    """A comparison of two responses, the chosen one first.

    Args:
        row: with ``prompt``, ``chosen``, ``rejected`` and, where there are media, ``images``, ``images_file_names`` or
            ``image``, and ``audio``.
        sample_id: for rows that have none.

    Raises:
        ComparisonError: a column is missing or is no text, or there is more than one picture.
    """
    if not isinstance(row, dict):
        raise ComparisonError(f"{str(row)[:60]!r} is no object: write one preference a line")
    for key in ("prompt", "chosen", "rejected"):
        if not isinstance(row.get(key), str):
            raise ComparisonError(f"{key} {row.get(key)!r} is no text: write a string")
    images = row.get(IMAGES_COLUMN, row.get("images")) or []
    images = [path for path in (*images, row.get("image")) if path is not None] if isinstance(images, list) else images
    if not isinstance(images, list) or len(set(map(str, images))) > 1 or not all(isinstance(p, str) for p in images):
        raise ComparisonError(f"images {images!r}: give a list of one path at most, relative to the file")
    if not isinstance(row.get("audio", ""), str | None):
        raise ComparisonError(f"audio {row['audio']!r:.80} is no path: give one, relative to the file")
    told = {key: row[key] for key in ("sample_id", "annotator", "created", "audio") if isinstance(row.get(key), str)}
    if row["chosen"] == row["rejected"]:
        raise ComparisonError(f"chosen and rejected are the same, {row['chosen'][:60]!r}: remove the line")
    return Comparison(
        **{"sample_id": sample_id, **told},
        prompt=row["prompt"],
        responses=(row["chosen"], row["rejected"]),
        choice=0,
        image=images[0] if images else None,
    )


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON that UTF-8 can hold: readable, but for halves of surrogate pairs, which stay escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return json.dumps(value, indent=indent) if re.search("[\ud800-\udfff]", text) else text


def write_comparisons(path: str | Path, comparisons: Iterable[Comparison]) -> None:
    """Write a file anew: a kill leaves the old one or the new one whole."""
    write_whole(Path(path), "".join(as_json(c.to_row()) + "\n" for c in comparisons))


def write_whole(path: Path, text: str) -> None:
    """Replace a file at once; a link in the place of its temporary name is not followed."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    with temporary.open("x", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


def sample_of(comparison: Comparison, folder: str | Path, index: int = 0, side: int = DEFAULT_SIDE) -> Sample:
    """The ``Sample`` of a comparison, with its media from ``folder``; paths may not leave it.

    Args:
        comparison: from a file in ``folder``.
        folder: where its media paths begin.
        index: number to give the sample.
        side: of the square in pixels that an image is fitted into.

    Raises:
        DatasetError: a path leaves the folder, or a file is missing or broken.
    """
    root, where = Path(folder).resolve(), f"{folder}, {comparison.sample_id}"
    image = audio = None
    if comparison.image is not None:
        image = read_image(path_inside(root, where, "image", comparison.image), side, where)
    if comparison.audio is not None:
        audio = read_audio(path_inside(root, where, "audio", comparison.audio), where)
    return Sample(comparison.sample_id, index, comparison.prompt, image, audio)


def spoken_paths(comparison: Comparison) -> list[str | None]:
    """Sound of each response, in the item's order, as the provenance has it."""
    given, n = comparison.provenance.get(SPOKEN), len(comparison.responses)
    if not isinstance(given, list) or len(given) != n:
        return [None] * n
    return [path if isinstance(path, str) else None for path in given]


def media_paths(comparison: Comparison) -> dict[str, str]:
    """Paths of all media by name: ``image``, ``audio``, and ``spoken-0`` for the first response as a sound."""
    paths = {"image": comparison.image, "audio": comparison.audio}
    paths |= {f"{SPOKEN}-{i}": path for i, path in enumerate(spoken_paths(comparison))}
    return {name: path for name, path in paths.items() if path is not None}


def with_media(comparison: Comparison, paths: Mapping[str, str]) -> Comparison:
    """A comparison with these paths, by the names of ``media_paths``, and no others."""
    provenance = comparison.provenance
    if any(spoken_paths(comparison)):
        spoken = [paths.get(f"{SPOKEN}-{i}") for i in range(len(comparison.responses))]
        provenance = {**provenance, SPOKEN: spoken}
    return replace(comparison, image=paths.get("image"), audio=paths.get("audio"), provenance=provenance)


def ordered(comparison: Comparison) -> list[tuple[int, int]]:
    """Pairs (better, worse) of response indices that a judgement states; see ``stated_pairs``."""
    return stated_pairs(len(comparison.responses), comparison.choice, comparison.ranking, comparison.scores)


def stated_pairs(
    n: int, choice: Choice, ranking: Sequence[int] | None, scores: Sequence[float] | None
) -> list[tuple[int, int]]:
    """Pairs (better, worse) of ``n`` responses.

    A choice is better than every other response, a ranking orders them all, a greater score is better. A tie states
    none.
    """
    if ranking is not None:
        return [(a, b) for i, a in enumerate(ranking) for b in ranking[i + 1 :]]
    if isinstance(choice, int):
        return [(choice, other) for other in range(n) if other != choice]
    if choice is None and scores is not None:
        return [(a, b) for a in range(n) for b in range(n) if scores[a] > scores[b]]
    return []


def to_preferences(comparisons: Iterable[Comparison]) -> list[dict[str, Any]]:
    """Rows of ``prompt``, ``chosen``, ``rejected`` and ``images`` (a list of paths, as TRL's DPO reads them)."""
    return [
        {"prompt": c.prompt, "chosen": c.responses[a], "rejected": c.responses[b],
         "images": [c.image] if c.image is not None else []}
        for c in comparisons
        for a, b in ordered(c)
    ]  # fmt: skip


def now() -> str:
    """The time as ``created`` has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
