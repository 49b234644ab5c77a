"""Samples of files and tables: rows that were checked, media that are read when they are used."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmenv.data.cache import ImageCache
from mmenv.data.faults import Faults
from mmenv.data.media import DatasetError, Source, read_audio, read_image
from mmenv.data.sample import ALL, Response, Sample, SplitDataset, divided, kept_of_reply, say_how_divided
from mmenv.tokenizer import UnicodeTokenizer

SPLIT_NAMES = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip
KEPT_BYTES = 1 << 26  # of the pictures that a dataset keeps in memory


@dataclass(frozen=True, slots=True)
class DatasetTurn:
    """One prompt, written or spoken, and its references.

    Attributes:
        prompt: ``""`` where the user only speaks.
        audio: where the sound lies.
        references: may be empty.
        frames: length of the sound at 16 kHz.
    """

    prompt: str
    audio: Source | None = None
    references: tuple[str, ...] = ()
    frames: int = 0


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A checked entry.

    Attributes:
        where: file and line, for errors.
        id: unique within the dataset.
        image: where the picture lies.
        turns: one, or those of a dialogue.
        split: a value of ``SPLIT_NAMES``, ``""`` where the dataset has no splits.
    """

    where: str
    id: str
    image: Source | None
    turns: tuple[DatasetTurn, ...]
    split: str = ""


@dataclass(frozen=True)
class CheckedRows:
    """What a file or table holds: the rows that are right, and the faults of the others, a sentence each."""

    name: str
    rows: list[DatasetRow]
    faults: list[str]


def without_doubles(checked: CheckedRows) -> CheckedRows:
    """Only the first row of each id; the others are faults."""
    first: dict[str, str] = {}
    faults, rows = list(checked.faults), []
    for row in checked.rows:
        if row.id in first:
            before = first[row.id].removeprefix(f"{checked.name}, ")
            faults.append(f"{row.where}: id {row.id!r} is that of {before}: rename one")
        else:
            first[row.id] = row.where
            rows.append(row)
    return CheckedRows(checked.name, rows, faults)


class MediaDataset(SplitDataset):
    """Samples that are read when they are used; decoded pictures are cached on disk, recent samples in memory.

    Args:
        name: path of the file, or another name for messages.
        rows: its checked entries.
        image_size: side of the square that images are fitted into.
        skipped: faults of the entries that were left out.
        cache: of decoded pictures; None makes one.

    Attributes:
        kept: number of samples that stay in memory.
    """

    def __init__(
        self,
        name: str,
        rows: Sequence[DatasetRow],
        image_size: int,
        skipped: tuple[str, ...] = (),
        cache: ImageCache | None = None,
    ) -> None:
        self.name, self.rows, self.image_size, self.skipped = name, rows, image_size, skipped
        self.cache = cache or ImageCache(name, (r.image for r in rows if r.image is not None), image_size)
        self.kept = max(1, min(1024, KEPT_BYTES // (3 * image_size**2)))
        self._recent: dict[int, Sample] = {}
        self._lock = threading.Lock()
        self._splits: dict[str, MediaDataset] = {}
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, place: int) -> Sample:
        """The first turn of a row, from memory where it was used lately.

        Raises:
            DatasetError: one of its media is broken.
        """
        with self._lock:
            sample = self._recent.pop(place, None)
        sample = sample or self._read(place)
        with self._lock:
            self._recent[place] = sample
            if len(self._recent) > self.kept:
                del self._recent[next(iter(self._recent))]  # used longest ago: every use moves to the end
        return sample

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_recent": {}, "_splits": {}, "_places": {}}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that rows belong to; none where the dataset has no splits."""
        return tuple(dict.fromkeys(row.split for row in self.rows if row.split))

    def split(self, name: str) -> MediaDataset:
        """The samples of a split, or of ``"all"``; where rows name none, a hash of their ids divides them.

        Raises:
            DatasetError: it has others.
        """
        if name == ALL:
            return self
        if not self._splits:
            self._splits.update(self._divided())
        if name not in self._splits:
            names = ", ".join(self._splits)
            raise DatasetError(f"{self.name} has no split {name!r}, only {names}: take one, {ALL!r}, or add it")
        return self._splits[name]

    def _divided(self) -> dict[str, MediaDataset]:
        parts: dict[str, list[int]] = {name: [] for name in self.split_names}
        for i, row in enumerate(self.rows):
            if row.split:
                parts[row.split].append(i)
        if not parts:
            parts = divided([row.id for row in self.rows])
            say_how_divided(self.name, parts)
        # Rows carry the name of their split, so that a part is not divided again.
        rows = {name: [replace(self.rows[i], split=name) for i in places] for name, places in parts.items()}
        return {name: MediaDataset(self.name, part, self.image_size, (), self.cache) for name, part in rows.items()}

    def image_of(self, row: DatasetRow) -> Any:
        """The pixels of a row, uint8 (side, side, 3), from the cache where it has them; None without a picture.

        Raises:
            DatasetError: the file is broken.
        """
        if row.image is None:
            return None
        pixels = self.cache.get(row.image)
        if pixels is None:
            pixels = read_image(row.image, self.image_size, row.where)
            self.cache.put(row.image, pixels)
        return pixels

    def _read(self, index: int, number: int = 0, before: str = "") -> Sample:
        row = self.rows[index]
        turn = row.turns[number]
        prompt = " ".join(filter(None, (before, turn.prompt)))
        audio = None if turn.audio is None else read_audio(turn.audio, row.where)
        name = f"{row.id}/{number}" if number else row.id
        return Sample(name, index, prompt, self.image_of(row), audio, turn.references, turn=number)

    def follow_up(self, sample: Sample, response: Response) -> Sample | None:
        """The next turn of a dialogue; its prompt holds the earlier prompts and replies.

        Args:
            sample: the turn before.
            response: the reply to it, of which the first words go into the prompt.
        """
        number = sample.turn + 1
        index = self._place(sample.id.removesuffix(f"/{sample.turn}") if sample.turn else sample.id)
        if index is None or number >= len(self.rows[index].turns):
            return None
        reply = kept_of_reply(UnicodeTokenizer.pieces(response.text))
        following = self._read(index, number, " ".join(filter(None, (sample.prompt, reply))))
        return replace(following, index=sample.index)

    def _place(self, name: str) -> int | None:
        if not self._places:
            self._places.update({row.id: i for i, row in enumerate(self.rows)})
        return self._places.get(name)

    def _training(self) -> Sequence[DatasetRow]:
        names = self.split_names
        return [row for row in self.rows if row.split == "train"] if "train" in names else self.rows

    def references(self) -> Iterator[tuple[str, ...]]:
        return (turn.references for row in self._training() for turn in row.turns)

    def prompts(self) -> Iterator[str]:
        return iter(dict.fromkeys(turn.prompt for row in self.rows for turn in row.turns))

    def longest(self) -> tuple[int, int]:
        frames = max((turn.frames for row in self.rows for turn in row.turns), default=0)
        return frames, max((len(row.turns) for row in self.rows), default=1)

    def modalities(self) -> set[str]:
        """``"image"`` where every row has a picture, ``"audio"`` where every turn has a sound."""
        have = {"image": all(row.image is not None for row in self.rows)}
        have["audio"] = all(turn.audio is not None for row in self.rows for turn in row.turns)
        return {name for name, everywhere in have.items() if everywhere}

    def faults(self) -> dict[int, list[str]]:
        """Faults of the media by row; decodes every file, and caches the pictures."""
        by_row: dict[int, list[str]] = {}
        for i, row in enumerate(self.rows):
            faults = Faults()
            faults.check(self.image_of, row)
            for turn in row.turns:
                if turn.audio is not None:
                    faults.check(read_audio, turn.audio, row.where)
            if faults.sentences:
                by_row[i] = faults.sentences
        return by_row
