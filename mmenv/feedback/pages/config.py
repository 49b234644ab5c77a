"""Settings of labelling and of its server, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from tyro.conf import UseAppendAction, arg

from mmenv.arguments import one_of, positive

Mode = Literal["compare", "rank", "score"]
MODES: tuple[Mode, ...] = get_args(Mode)
STORE = "feedback.db"
UNSET = arg(help_behavior_hint="")  # help of an option says nothing of a default that is None


@dataclass(frozen=True)
class LabelConfig:
    """The kind of judgement, and how items are assigned.

    Attributes:
        mode: choose one of the responses, put them in order, or give each 1 to 5 points.
        overlap: how many annotators judge an item.
        repeats: share of items that come again to the same annotator, to measure self-agreement.

    Raises:
        ValueError: names the argument and the remedy.
    """

    mode: Mode = "compare"
    overlap: int = 1
    repeats: float = 0.05

    def __post_init__(self) -> None:
        one_of("mode", self.mode, MODES)
        positive("overlap", self.overlap)
        if not 0 <= self.repeats < 1:
            raise ValueError(f"repeats {self.repeats} is not a share: give a number from 0 up to 1")


@dataclass(frozen=True)
class LabelOptions(LabelConfig):
    """Options of ``python -m mmenv label``; give either ``run`` or ``pairs``.

    Attributes:
        run: folder of a run; its samples.jsonl is labelled.
        pairs: file of comparisons, one a line; give either this or run.
        store: where answers go: a SQLite file or postgresql://user@host/name.
        host: address to listen at; one that other machines can reach asks them for a token.
        port: port to listen at; 0 takes a free one.
        certificate: PEM file, to serve https.
        private_key: PEM file of the certificate's key.
        https: a proxy in front of this server speaks https to browsers.
        names: name that browsers know the server by, beside its address.
        media: folder, beside those of the file and the store, in and below which media may be read.
    """

    run: Annotated[Path | None, UNSET] = None
    pairs: Annotated[Path | None, UNSET] = None
    store: Annotated[str | None, arg(help_behavior_hint=f"(default: {STORE} beside the file)")] = None
    host: str = "127.0.0.1"
    port: int = 8765
    certificate: Annotated[Path | None, UNSET] = None
    private_key: Annotated[Path | None, UNSET] = None
    https: bool = False
    names: Annotated[UseAppendAction[tuple[str, ...]], arg(name="name")] = ()
    media: UseAppendAction[tuple[Path, ...]] = ()

    @property
    def source(self) -> Path:
        """The file of comparisons.

        Raises:
            ValueError: neither or both of ``run`` and ``pairs`` are given.
        """
        if (self.run is None) == (self.pairs is None):
            raise ValueError("give either --run DIR or --pairs FILE")
        return self.pairs or Path(self.run or "") / "samples.jsonl"

    @property
    def database(self) -> str:
        """Path or URL of the store."""
        return self.store or str(self.source.parent / STORE)
