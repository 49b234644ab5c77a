"""docs/leaderboard.md from the rows of its two tables. Every sentence about who is ahead is written by the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from agents.comparing import claims, conditions, gaps, results, study, tables
from agents.comparing.aggregate import mean_interval
from agents.comparing.paired_tests import paired_tests
from agents.comparing.results import Row
from experiments.pages import DOCS, write_section

Table = Literal["tuned", "fixed"]
DATA = {"tuned": DOCS / "leaderboard.jsonl", "fixed": DOCS / "leaderboard-fixed.jsonl"}
PAGE = DOCS / "leaderboard.md"
TITLES = {"tuned": "Table A: tuned", "fixed": "Table B: one setting for all"}
HEADLINE = ("ppo", "rloo", "grpo", "dapo", "gspo", "online-dpo")  # rows with more seeds, in one table of tests
NOT_RUN = """The contest on scenes has not been run yet. `python -m experiments.leaderboard run` runs it, and
`python -m experiments.leaderboard page` writes this page."""


def write() -> None:
    """Write docs/leaderboard.md between its marks."""
    parts = []
    for name in ("tuned", "fixed"):
        table: Table = "tuned" if name == "tuned" else "fixed"
        rows = results.read(DATA[table])
        if rows:
            parts += [f"## {TITLES[table]}", *sections(rows, table)]
    write_section(PAGE, "leaderboard", "\n\n".join(parts or [NOT_RUN]))


def sections(rows: Sequence[Row], table: Table) -> list[str]:
    """All that the page says of one table, in Markdown."""
    done = [row for row in rows if row["status"] == "done"]
    marks = gaps.known_marks(done)
    parts = [study.header(rows, "gold"), *ahead(done)]
    parts += ["### Greedy gold", by_id(done, "greedy gold"), below_start(done)]
    parts += ["### Sampled gold", by_id(done, "gold")]
    if marks:
        share = tables.by_environment(gaps.shares(done, marks), "")
        parts += ["### Share of the gap closed", "Greedy gold: 0 is the start, 1 the oracle.", share]
        text = "The mean sampled gold of five updates has come half of the way from the start's to the oracle's."
        parts += ["### Tokens and seconds to half of the gap", text, gaps.halves_table(done, marks)]
    parts += ["### Curves", *curves(done, table)]
    for entry in dict.fromkeys(entry for row in done for entry in row["also"]):
        of_entry = [row for row in done if entry in row["also"]]
        greedy = tables.by_environment(results.scores(of_entry, "greedy gold", entry), "greedy gold")
        parts += [f"### The same policies on `{entry}`", "Greedy gold.", greedy]
    parts += ["### KL to the start", "Nats a response, of a batch of the final policy.", by_id(done, "kl")]
    parts += ["### Conditions", conditions.table(done), *bullets(conditions.differences(done))]
    parts += other_libraries(done)
    failed = [row for row in rows if row["status"] == "failed"]
    return parts + (["### Failed", tables.failures(failed)] if failed else [])


def bullets(sentences: Sequence[str]) -> list[str]:
    """Sentences as a Markdown list; nothing where there are none."""
    return ["\n".join(f"- {sentence}" for sentence in sentences)] if sentences else []


def by_id(rows: Sequence[Row], score: str) -> str:
    """Mean and interval of every row on every id."""
    return tables.by_environment(results.scores(rows, score), score)


def ahead(rows: Sequence[Row]) -> list[str]:
    """What the tests say about the headline's rows, and about all rows: over all ids, by greedy gold."""
    parts = []
    scores = {label: cells for label, cells in results.scores(rows, "greedy gold").items() if cells}
    headline = {label: cells for label, cells in scores.items() if label in HEADLINE}
    for what, some in (("the rows of the headline", headline), ("all rows", scores)):
        if len(some) > 1 and _share_cells(some):
            sentences = claims.sentences(paired_tests(some), "greedy gold")
            parts += [f"Over all ids, between {what}:", *bullets(sentences)]
    return parts


def _share_cells(scores: dict[str, Any]) -> bool:
    """Whether any two rows have a run on one id with one seed."""
    common = set.intersection(*(set(cells) for cells in scores.values()))
    return bool(common)


def below_start(rows: Sequence[Row]) -> str:
    """A sentence about the rows that end no higher than the greedy start, on each id."""
    lines = []
    for env_id in dict.fromkeys(row["env_id"] for row in rows):
        of_id = [row for row in rows if row["env_id"] == env_id and _learns(row)]
        labels = [label for label in dict.fromkeys(row["label"] for row in of_id)
                  if _gain([row for row in of_id if row["label"] == label]) <= 0]  # fmt: skip
        names = ", ".join(f"`{label}`" for label in labels)
        what = f"these end no higher than the greedy start: {names}" if labels else "every row that learns ends higher"
        lines.append(f"{env_id}: {what}{'' if labels else ' than the greedy start'}.")
    return "\n".join(f"- {line}" for line in lines)


def _learns(row: Row) -> bool:
    return "learning_rate" in row["config"]


def _gain(rows: Sequence[Row]) -> float:
    """Mean greedy gold after training, less that before."""
    values = [row["greedy"]["gold"]["after"] - row["greedy"]["gold"]["before"] for row in rows]
    return float(mean_interval(values).value)


def curves(rows: Sequence[Row], table: Table) -> list[str]:
    """A figure for each id: sampled gold over tokens."""
    parts = []
    for env_id in dict.fromkeys(row["env_id"] for row in rows):
        of_id = [row for row in rows if row["env_id"] == env_id]
        name = f"leaderboard-{table}-{env_id.rpartition('/')[2]}"
        order = list(dict.fromkeys(row["label"] for row in of_id))
        text = study.efficiency(of_id, order, DOCS / "img" / name, "gold")
        if text:
            parts += [f"`{env_id}`: {text}", f"![sampled gold over tokens](img/{name}.svg)"]
    return parts


# Of rows of other libraries: the settings that a reader needs to repeat them there.
STATED = {
    "sb3": ("n_steps", "epochs", "minibatches", "clip_coef", "value_coef", "gae_lambda", "max_grad_norm", "adam_eps"),
    "trl": ("loss_type", "kl_coef", "epochs", "minibatches", "clip_coef", "max_grad_norm", "adam_eps"),
}


def other_libraries(rows: Sequence[Row]) -> list[str]:
    """A sentence for each row of another library, with its settings; all else is that library's default."""
    sentences = []
    for label in dict.fromkeys(row["label"] for row in rows):
        row = next(row for row in rows if row["label"] == label)
        names = STATED.get(row["algorithm"].partition("-")[0], ())
        values = ", ".join(f"{name.replace('_', '-')} {row['config'][name]}" for name in names if name in row["config"])
        if values:
            sentences.append(f"`{label}` has {values}; all else is its library's own default.")
    return bullets(sentences)
