"""Comparisons on disk: what is written is read, a bad line costs itself alone, media stay in their folder."""

import json

import pytest

from mmenv.data.media import DatasetError
from mmenv.feedback.comparison import Comparison, ComparisonError
from mmenv.feedback.comparison_files import preference_rows, read_comparisons, write_comparisons
from mmenv.feedback.comparison_media import sample_of

ONE = Comparison("vqa/plain/train/1", "what is it ?", ("a dog", "a cat"), 1, annotator="ann", created="2026-01-01")


def test_what_is_written_is_read(tmp_path):
    full = Comparison(
        "s", "p", ("a", "b", "c"), "tie", (0.5, 1.0, 2.0), (2, 0, 1), "ann", "2026-01-01T00:00:00.000Z", "m/1.png",
        "m/1.flac", ("eos", "budget", "eos"), {"policy": "ppo", "seed": 3},
    )  # fmt: skip
    write_comparisons(tmp_path / "c.jsonl", [ONE, full])
    reading = read_comparisons(tmp_path / "c.jsonl")
    assert reading.comparisons == [ONE, full]
    assert reading.faults == []


def test_the_samples_of_a_run_are_undecided():
    row = {
        "sample_id": "s",
        "prompt": "",
        "responses": ["a", "b"],
        "choice": None,
        "scores": [0.1, 2.0],
        "annotator": None,
    }
    assert not Comparison.from_row(row).decided
    assert Comparison.from_row({**row, "annotator": "ann"}).decided


def test_a_half_written_line_costs_that_line_alone(tmp_path):
    good = json.dumps(ONE.to_row())
    lines = [good, good[: len(good) // 2], "", '{"sample_id": "s"}', "[1]", good]
    (tmp_path / "c.jsonl").write_text("\n".join(lines) + "\n\xff".encode("latin-1").decode("latin-1"), "latin-1")
    reading = read_comparisons(tmp_path / "c.jsonl")
    assert reading.comparisons == [ONE, ONE]
    assert [fault.line for fault in reading.faults] == [2, 4, 5, 7]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"choice": 2}, "outside the 2 responses"),
        ({"choice": True}, "neither an index"),
        ({"choice": "left"}, "neither an index"),
        ({"ranking": [0, 0]}, "each of 2 responses once"),
        ({"scores": [1.0]}, "one finite number each"),
        ({"scores": [1.0, float("nan")]}, "one finite number each"),
        ({"responses": []}, "no responses"),
        ({"responses": "a"}, "not a list of str"),
        ({"stops": ["eos"]}, "one each"),
        ({"prompt": 3}, "not text"),
        ({"provenance": 3}, "not an object"),
    ],
)
def test_an_impossible_comparison_is_named(change, said):
    with pytest.raises(ComparisonError, match=said):
        Comparison.from_row({**ONE.to_row(), **change})


def test_a_media_path_cannot_leave_its_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    for path in ("../secret.png", "/etc/passwd", str(tmp_path / "secret.png")):
        with pytest.raises(DatasetError, match="leaves the folder"):
            sample_of(Comparison("s", "p", ("a",), image=path), tmp_path / "in")


def test_pairs_that_a_judgement_states():
    three = ("a", "b", "c")
    assert Comparison("s", "p", three, 1).preference_pairs() == [(1, 0), (1, 2)]
    assert Comparison("s", "p", three, "tie").preference_pairs() == []
    assert Comparison("s", "p", three, ranking=(2, 0, 1)).preference_pairs() == [(2, 0), (2, 1), (0, 1)]
    assert Comparison("s", "p", three, scores=(1, 3, 1), annotator="x").preference_pairs() == [(1, 0), (1, 2)]


def test_preference_rows_are_those_of_preference_trainers():
    assert preference_rows([ONE]) == [{"prompt": "what is it ?", "chosen": "a cat", "rejected": "a dog", "images": []}]


def test_preferences_as_prompt_chosen_and_rejected_are_comparisons(tmp_path):
    good = {"prompt": "what ?", "chosen": "a cat", "rejected": "a dog", "images": ["1.png"]}
    lines = [good, {**good, "rejected": "a cat"}, {**good, "chosen": 3}]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(row) for row in lines))
    reading = read_comparisons(tmp_path / "p.jsonl")
    (found,) = reading.comparisons
    assert (found.responses, found.choice, found.image) == (("a cat", "a dog"), 0, "1.png")
    assert [fault.line for fault in reading.faults] == [2, 3]


@pytest.mark.parametrize(
    "row",
    [
        {"sample_id": "a", "prompt": "p", "responses": ["x", "y"], "choice": 1},
        {"prompt": "p", "chosen": "x", "rejected": "y", "images": ["a.png"]},
    ],
)
def test_a_null_is_the_same_as_nothing(tmp_path, row):
    keys = "sample_id image audio choice scores ranking annotator created stops provenance chosen images"
    for i, content in enumerate((row, dict.fromkeys([*keys.split(), "images_file_names"]) | row)):
        (tmp_path / f"{i}").mkdir()
        (tmp_path / f"{i}" / "c.jsonl").write_text(json.dumps(content))
    plain, nulls = (read_comparisons(tmp_path / f"{i}" / "c.jsonl") for i in (0, 1))
    assert plain == nulls
    assert len(plain.comparisons) == 1


@pytest.mark.parametrize(
    "odd", ['"scores": [1e999, 0]', f'"scores": [{10**400}, 0]', f'"choice": {"9" * 5000}', '"a": "\\ud800"']
)
def test_numbers_that_nothing_can_hold_cost_their_line_alone(tmp_path, odd):
    good = json.dumps({"sample_id": "a", "prompt": "p", "responses": ["x", "y"], "choice": 1})
    (tmp_path / "c.jsonl").write_text(f"{good}\n{good[:-1]}, {odd}}}\n{good}\n")
    reading = read_comparisons(tmp_path / "c.jsonl")
    assert len(reading.comparisons) + len(reading.faults) == 3
    assert {fault.line for fault in reading.faults} <= {2}


@pytest.mark.parametrize(
    ("media", "image", "audio"),
    [({"image": "1.png"}, "1.png", None), ({"images": ["1.png"], "image": "1.png"}, "1.png", None),
     ({"audio": "1.flac", "images": None}, None, "1.flac"), ({"image": None, "audio": None}, None, None)],
)  # fmt: skip
def test_the_picture_and_the_sound_of_a_preference_are_kept(tmp_path, media, image, audio):
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b", **media}))
    (found,) = read_comparisons(tmp_path / "p.jsonl").comparisons
    assert (found.image, found.audio) == (image, audio)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"chosen": None}, "chosen None is not text"), ({"rejected": None}, "rejected None is not text"),
     ({"image": {"path": "1.png"}}, "images"), ({"images": ["1.png"], "image": "2.png"}, "one path at most"),
     ({"audio": {"path": "1.flac"}}, "is not a path")],
)  # fmt: skip
def test_half_a_preference_and_media_that_are_no_paths_are_named(tmp_path, change, reason):
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b", **change}))
    (fault,) = read_comparisons(tmp_path / "p.jsonl").faults
    assert reason in fault.reason
