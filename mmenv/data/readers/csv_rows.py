"""Entries of a CSV or TSV file, as ``metadata.csv`` of Hugging Face's folders: an empty cell is no value."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmenv.data.faults import Faults
from mmenv.data.media import DatasetError

SUFFIXES = (".csv", ".tsv")
_LISTS = ("references", "answers", "answer", "captions", "caption", "text", "transcription")  # may hold JSON lists
_DELIMITERS = ",;\t"


def csv_entries(path: Path, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """First line and values by column of each record; what cannot be read goes to ``faults``.

    Commas, semicolons and tabs are told apart by the header. Cells may be quoted and hold line ends; of answers they
    may hold a JSON list, ``["a dog", "a puppy"]``.

    Raises:
        DatasetError: the header is no UTF-8 text, or names two columns alike.
    """
    raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)
    lines = [_decoded(f"{path}, line {number}", line) for number, line in enumerate(raw, 1)]
    begin = next((i for i, line in enumerate(lines) if not isinstance(line, str) or line.strip()), len(lines))
    if begin == len(lines):
        return
    header = lines[begin]
    if isinstance(header, DatasetError):
        raise header
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(_DELIMITERS, key=header.count)
    columns: list[str] = []
    for number, cells in _records(path, lines, begin, delimiter, faults):
        if not columns:
            columns = [name.strip() for name in cells]
            double = [name for name, times in Counter(columns).items() if name and times > 1]
            if double:
                remedy = "give each a name of its own, or write answers into one cell as a JSON list"
                raise DatasetError(f"{path}, line {number}: several columns are named {double[0]!r}: {remedy}")
        elif len(cells) > len(columns):
            remedy = 'put texts with a delimiter in quotes, as in "red, and round"'
            faults.add(f"{path}, line {number}: {len(cells)} cells, more than the {len(columns)} columns: {remedy}")
        elif any(cell.strip() for cell in cells):
            values = faults.check(_values, f"{path}, line {number}", columns, cells)
            if values is not None:
                yield number, values


def _values(where: str, columns: list[str], cells: list[str]) -> dict[str, Any]:
    """The cells of a record that are not empty, by their column."""
    pairs = [(name, cell) for name, cell in zip(columns, cells) if name and cell.strip()]
    return {name: _value(where, name, cell) for name, cell in pairs}


def _value(where: str, name: str, cell: str) -> Any:
    """A cell's text, or the list that it holds."""
    text = cell.strip()
    if name.rstrip("_0123456789") not in _LISTS or not text.startswith(('["', "['")):
        return cell
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f'{where}: {name} {text[:60]!r} is no JSON list: write it as ["a dog", "a puppy"]'
        ) from error


def _decoded(where: str, line: bytes) -> str | DatasetError:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        return DatasetError(f"{where}: no UTF-8 text ({error}): save the file as UTF-8")


def _records(
    path: Path, lines: list[str | DatasetError], begin: int, delimiter: str, faults: Faults
) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line and cells of each record; after one that cannot be read the next line begins another."""
    while begin < len(lines):
        first = lines[begin]
        if isinstance(first, DatasetError):
            faults.add(str(first))
            begin += 1
            continue
        text = (str(line) for line in lines[begin:])
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            cells = next(reader)
        except csv.Error as error:  # a quote that is never closed, or a cell without end
            faults.add(f"{path}, line {begin + 1}: invalid CSV ({error}): close its quotes")
            begin += 1
            continue
        broken = [line for line in lines[begin : begin + reader.line_num] if isinstance(line, DatasetError)]
        if broken:
            for fault in broken:
                faults.add(str(fault))
        elif cells:
            yield begin + 1, cells
        begin += reader.line_num
