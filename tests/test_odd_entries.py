"""One odd entry costs that entry alone; a null is the same as nothing; CSV is read as JSON lines are."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
from datafiles import COLOURS, captioned, coco, picture, vqa, write_json
from PIL import Image

import mmenv
from mmenv.data.readers import checks, manifest
from mmenv.data.readers.by_path import check_dataset
from mmenv.data.sample import CAPTION_PROMPT

LARGE = 10**6


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with 1.png, 2.png and 1.wav."""
    for i in (1, 2):
        picture(tmp_path / str(i), "RGB", COLOURS["red"], (9, 9))
    soundfile.write(tmp_path / "1.wav", [0.1, -0.1] * 800, 16_000)
    return tmp_path


def lines(folder: Path, *entries: Any) -> Path:
    """A manifest; a string is written as it is."""
    text = "\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder


def table(folder: Path, text: str, name: str = "metadata.csv") -> Path:
    (folder / name).write_bytes(text.encode())
    return folder / name


GOOD = {"file_name": "1.png", "prompt": "what ?", "answer": "red"}
ODD = {
    "name too long": {**GOOD, "file_name": "a" * 5000},
    "half a surrogate in a name": '{"file_name": "\\ud800.png", "prompt": "?"}',
    "half a surrogate in a prompt": '{"file_name": "1.png", "prompt": "\\ud800"}',
    "half a surrogate in an answer": '{"file_name": "1.png", "prompt": "?", "answers": ["a", "\\udfff"]}',
    "half a surrogate in an id": '{"file_name": "1.png", "prompt": "?", "id": "\\ud800"}',
    "an integer of 5,000 digits": '{"file_name": "1.png", "prompt": "?", "id": ' + "9" * 5000 + "}",
    "a column of 5,000 digits": {"audio_" + "9" * 5000: "1.wav"},
    "deep": "[" * 100_000,
    "links in a circle": {**GOOD, "file_name": "circle.png"},
    "a folder": {**GOOD, "file_name": "."},
    "a text of a million letters": {**GOOD, "answer": "a" * LARGE},
    "a prompt of a million letters": {**GOOD, "prompt": "a" * LARGE},
    "bytes": '{"file_name": "1.png", "prompt": "\\u0000", "answer": 1e999}',
    "turns of numbers": {"turns": [3]},
    "a sound for a picture": {"image": "1.wav", "prompt": "?"},
    "a picture for a sound": {"audio": "1.png"},
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_line_is_named_and_costs_itself_alone(folder, odd):
    (folder / "circle.png").symlink_to(folder / "circle.png")
    lines(folder, GOOD, ODD[odd], {**GOOD, "file_name": "2.png"})
    with pytest.raises(mmenv.DatasetError, match=r"metadata\.jsonl, line 2: ") as caught:
        mmenv.read_dataset(folder)
    assert len(str(caught.value)) < 600
    with pytest.warns(mmenv.DatasetWarning, match=r"metadata\.jsonl, line 2: "):
        assert len(mmenv.read_dataset(folder, broken="skip")) == 2
    dataset, faults = check_dataset(folder)
    assert len(dataset) == 2
    assert faults
    assert all("metadata.jsonl, line 2: " in fault for fault in faults)


def test_whatever_reading_one_line_raises_is_a_fault_of_that_line(folder, monkeypatch):
    for error in (OSError("disk"), RuntimeError("loop"), RecursionError("deep"), OverflowError("large")):

        def fail(*_, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(manifest, "_dialogue", fail)
            _, faults = check_dataset(lines(folder, GOOD))
        assert faults[0].startswith(f"{folder}/metadata.jsonl, line 1: {type(error).__name__}")


def test_a_line_of_ten_million_bytes_is_refused_before_it_is_read(folder, monkeypatch):
    monkeypatch.setattr(manifest, "LONGEST_LINE", 100)
    lines(folder, GOOD, {**GOOD, "answer": "a" * 100})
    read = []
    monkeypatch.setattr(manifest, "parsed", lambda text: read.append(text) or json.loads(text))
    assert "bytes, more than 100" in check_dataset(folder)[1][0]
    assert len(read) == 1


@pytest.mark.parametrize("name", ["a" * 5000, "circle", "circle.jsonl", "a\0b.jsonl"])
def test_a_path_that_no_file_can_have_is_an_error_of_the_dataset(tmp_path, name):
    for loop in ("circle", "circle.jsonl"):
        (tmp_path / loop).symlink_to(tmp_path / loop)
    with pytest.raises(mmenv.DatasetError):
        mmenv.read_dataset(tmp_path / name)


@pytest.mark.parametrize("odd", [3, "x", [], {"file_name": "a" * 5000, "id": 77}, {"file_name": "\ud800", "id": 77}])
def test_an_odd_picture_of_coco_costs_itself_alone(tmp_path, odd):
    path = coco(tmp_path, 3)
    content = json.loads(path.read_text())
    content["images"].insert(0, odd)
    content["annotations"].insert(0, odd)
    write_json(path, content)
    dataset, faults = check_dataset(path)
    assert len(dataset) == 3
    assert any("images[0]" in fault for fault in faults)


@pytest.mark.parametrize(
    "odd", [3, "x", {"question_id": 77, "image_id": 10**500, "question": "?"}, {"question": "\ud800", "image_id": 1}]
)
def test_an_odd_question_of_vqav2_costs_itself_alone(tmp_path, odd):
    path = vqa(tmp_path, 3)
    content = json.loads(path.read_text())
    content["questions"].insert(1, odd)
    write_json(path, content)
    dataset, faults = check_dataset(path)
    assert len(dataset) == 3
    assert any("questions[1]" in fault for fault in faults)


def with_nulls(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with a null in every column that it could have and has not."""
    keys = """
        file_name image image_file_name audio audio_file_name images prompt question references answers answer captions
        caption text transcription chosen rejected id split turns audio_1 answer_1
    """
    return dict.fromkeys(keys.split()) | entry


@pytest.mark.parametrize(
    "entry",
    [
        {"file_name": "1.png", "caption": "red"},
        {"file_name": "1.png", "question": "?", "answers": ["a", "b"]},
        {"image": "1.png", "audio": "1.wav", "text": "red"},
        {"prompt": "?", "chosen": "a", "rejected": "b"},
        {"turns": [{"audio": "1.wav", "answer": "a"}, {"audio": "1.wav", "prompt": "?"}]},
        {"audio_1": "1.wav", "answer_1": "a"},
        {"file_name": "1.png", "prompt": "?"},
    ],
)
def test_a_null_is_the_same_as_nothing(folder, entry):
    plain = mmenv.read_dataset(lines(folder, entry)).rows
    nulls = with_nulls(entry)
    if "turns" in entry:
        nulls["turns"] = [with_nulls(turn) | {"turns": None} for turn in entry["turns"]] + [None]
    if "answers" in entry:
        nulls["answers"] = [None, *entry["answers"], None]
    (folder / "metadata.jsonl").write_text(json.dumps(nulls))
    assert check_dataset(folder)[1] == []
    assert check_dataset(folder)[0].rows == plain


def test_null_is_nothing_in_the_files_of_coco_and_vqav2(tmp_path):
    path = coco(tmp_path / "a", 3)
    before, content = mmenv.read_dataset(path).rows, json.loads(path.read_text())
    content["images"].append(None)
    content["annotations"].insert(0, None)
    content["questions"] = None
    content["images"][0]["date_captured"] = None
    write_json(path, content)
    assert (check_dataset(path)[0].rows, check_dataset(path)[1]) == (before, [])
    write_json(path, {**content, "annotations": None})
    assert check_dataset(path)[0][0].references == ()

    path = vqa(tmp_path / "b", 3)
    content = json.loads(path.read_text())
    content["questions"][0]["question_id"] = content["images"] = None
    write_json(path, content)
    answers = path.with_name("v2_mscoco_val2014_annotations.json")
    content = json.loads(answers.read_text())
    del content["annotations"][0]["question_id"]
    content["annotations"][1]["multiple_choice_answer"] = None
    content["annotations"][1]["answers"].append(None)
    write_json(answers, content)
    dataset, faults = check_dataset(path)
    assert faults == []
    assert [row.id for row in dataset.rows] == ["0", "20", "30"]
    content = json.loads(path.read_text())
    write_json(path, {**content, "data_subtype": None})
    with pytest.raises(mmenv.DatasetError, match="no folder with COCO__0000"):  # and not "None"
        check_dataset(path)


def test_null_is_nothing_in_a_table_of_datasets(folder):
    datasets = pytest.importorskip("datasets")
    columns = {
        "image": [str(folder / "1.png"), None, str(folder / "2.png")],
        "audio": [None, str(folder / "1.wav"), str(folder / "1.wav")],
        "prompt": [None, None, "?"],
        "answers": [["a", None], None, [None]],
        "id": [None, "b", "c"],
    }
    made = datasets.Dataset.from_dict(columns)
    made = made.cast_column("image", datasets.Image()).cast_column("audio", datasets.Audio())
    dataset = mmenv.from_datasets(made)
    assert [(s.image is None, s.audio is None) for s in dataset] == [(False, True), (True, False), (False, False)]
    assert [s.references for s in dataset] == [("a",), (), ()]
    assert dataset[0].prompt == dataset[1].prompt == ""
    made = made.select([0, 0]).remove_columns(["audio", "id"])
    assert [s.prompt for s in mmenv.from_datasets(made)] == [CAPTION_PROMPT] * 2
    nothing = datasets.Dataset.from_dict({"image": [None], "text": ["x"]}).cast_column("image", datasets.Image())
    with pytest.raises(mmenv.DatasetError, match="row 0: neither a picture nor a sound"):
        mmenv.from_datasets(nothing)


ENTRIES = (("1.png", "a dog", "d1"), ("2.png", 'two "dogs",\nand a cat', "d2"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_is_read_whatever_program_wrote_it(folder, delimiter, end, mark):
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        file.write(mark)
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end)
        writer.writerow(("file_name", "caption", "id", ""))
        writer.writerows((*entry, "") for entry in ENTRIES)
    for path in (folder, folder / "metadata.csv"):
        found = mmenv.read_dataset(path)
        assert [(s.references[0], s.id) for s in found] == [(text, name) for _, text, name in ENTRIES]
        assert [row.where.rpartition(", ")[2] for row in found.rows] == ["line 2", "line 3"]
    assert check_dataset(folder)[1] == []


def test_tsv_is_read_and_quotes_are_only_needed_where_there_are_tabs(folder):
    path = table(folder, 'file_name\tcaption\n1.png\tred, "and" round\n', "rows.tsv")
    assert mmenv.read_dataset(path)[0].references == ('red, "and" round',)


def test_an_empty_cell_is_nothing_and_an_empty_line_too(folder):
    table(folder, "file_name,audio,prompt,answer,split,id\n1.png,,,,,\n\n,,,,,\n2.png,,?,red,,7\n,1.wav,,red,,\n")
    dataset, faults = check_dataset(folder)
    assert [s.id for s in dataset] == ["7", f"{folder.name}/6"]
    assert [s.prompt for s in dataset] == ["?", ""]
    assert [fault.partition(": ")[0].rpartition(", ")[2] for fault in faults] == ["line 2"]


def test_csv_has_splits_and_dialogues(folder):
    table(folder, "image,audio_1,answer_1,audio_2,answer_2,split\n1.png,1.wav,a,1.wav,b,train\n2.png,1.wav,c,,,test\n")
    rows = mmenv.read_dataset(folder).rows
    assert [(row.split, len(row.turns)) for row in rows] == [("train", 2), ("test", 1)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('1.png,"never closed\n2.png,b', "line 2: invalid CSV"),
        ("1.png,a,b,c\n2.png,b", "line 2: 4 cells, more than the 2 columns"),
        ("3.png,a\n2.png,b", "line 2: file_name '3.png' is no file"),
        ('1.png,"' + "a" * 200_000 + '"\n2.png,b', "line 2: invalid CSV (field larger"),
    ],
)
def test_an_odd_record_of_csv_costs_itself_alone(folder, text, expected):
    table(folder, f"file_name,caption\n{text}\n")
    dataset, faults = check_dataset(folder)
    assert [s.references for s in dataset] == [("b",)]
    assert [expected in fault for fault in faults] == [True]


def test_a_cell_of_csv_may_hold_a_list_of_answers(folder):
    text = """1.png,"[""a"", ""b""]"\n1.png,[laughs]\n1.png,"['a' 'b']"\n1.png,"[""a"", 3]"\n"""
    table(folder, f"file_name,answers,prompt\n{text}".replace("\n", ",?\n").replace("prompt,?", "prompt"))
    dataset, faults = check_dataset(folder)
    assert [s.references for s in dataset] == [("a", "b"), ("[laughs]",)]
    assert "line 4: answers " in faults[0]
    assert "no JSON list" in faults[0]
    assert "line 5: answers 3 is no text" in faults[1]


def test_two_columns_of_a_name_are_refused_and_not_merged(folder):
    table(folder, "file_name,caption,caption,,\n1.png,a dog,a puppy,,\n")
    with pytest.raises(mmenv.DatasetError, match="line 1: several columns are named 'caption': give each"):
        mmenv.read_dataset(folder)


def test_a_line_of_csv_that_is_no_utf8_costs_itself_alone(folder):
    (folder / "metadata.csv").write_bytes("file_name,caption\n1.png,grün\n2.png,b\n".encode("latin-1"))
    dataset, faults = check_dataset(folder)
    assert [s.references for s in dataset] == [("b",)]
    assert "line 2: no UTF-8" in faults[0]


@pytest.mark.parametrize("text", ["", "\n\n", "file_name,caption\n", "1.png,a dog\n"])
def test_csv_without_entries_is_empty(folder, text):
    table(folder, text)
    with pytest.raises(mmenv.DatasetError, match="is empty"):
        mmenv.read_dataset(folder)


def test_subfolders_with_csv_are_splits(folder):
    for name in ("train", "test"):
        (folder / name).mkdir()
        Image.new("RGB", (9, 9)).save(folder / name / "1.png")
        table(folder / name, f"file_name,text\n1.png,{name}\n")
    assert mmenv.read_dataset(folder).split("test")[0].references == ("test",)


def test_tables_are_told_how_they_are_read(folder):
    (folder / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(mmenv.DatasetError, match=r"datasets\.load_dataset\('parquet'"):
        mmenv.read_dataset(folder / "rows.parquet")
    (folder / "rows.parquet").rename(folder / "metadata.parquet")
    with pytest.raises(mmenv.DatasetError, match=r"datasets\.load_dataset reads"):
        mmenv.read_dataset(folder)
    with pytest.raises(mmenv.DatasetError, match=r"neither a folder nor a \.jsonl, \.csv, \.tsv, \.json file"):
        mmenv.read_dataset(folder / "1.png")


def test_json_lines_count_before_csv(folder):
    table(folder, "file_name,text\n1.png,csv\n")
    assert mmenv.read_dataset(lines(folder, GOOD))[0].references == ("red",)


def test_a_text_may_be_long_but_not_without_end(tmp_path):
    folder = captioned(tmp_path, 1)
    text = "a " * (checks.LONGEST_TEXT // 2)
    assert mmenv.read_dataset(lines(folder, {"file_name": "0.png", "caption": text}))[0].references == (text,)
