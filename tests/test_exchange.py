"""Import and export: what goes out comes back, bad lines cost themselves alone, media stay in their folder."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from xml.etree import ElementTree

import datasets
import pytest
from PIL import Image
from rich.console import Console

from mmenv.cli import main
from mmenv.data.media import DatasetError
from mmenv.feedback.comparison import TIE, Comparison, ComparisonError
from mmenv.feedback.comparison_files import read_comparisons, write_comparisons
from mmenv.feedback.exchange.files import FORMATS, export_feedback, import_feedback
from mmenv.feedback.exchange.label_studio_exports import read_task
from mmenv.feedback.store import FeedbackStore, StoreConfig

ASKED = "what is it ?"
THREE = ("a red dog", "a cat", "<b>nothing</b>")


@pytest.fixture
def folder(tmp_path):
    """A run's folder with four pictures and a sound."""
    place = tmp_path / "run"
    (place / "samples").mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (8, 8), (60 * i, 10, 200)).save(place / "samples" / f"{i}.png")
    (place / "samples" / "0.flac").write_bytes(b"a sound")
    return place


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(tmp_path / "here.db", StoreConfig(repeat_gap=0)) as opened:
        yield opened


@pytest.fixture
def other(tmp_path):
    with FeedbackStore(tmp_path / "there.db") as opened:
        yield opened


@pytest.fixture
def judged(store, folder):
    """A store with a choice, a tie, a ranking, scores, a repeat, a skip, an undone one, and one that nobody judged."""
    provenance = {"policies": ["old", "new", "new"], "checkpoint": "round-1", "seed": 7}
    store.add([
        Comparison("s0", ASKED, THREE, image="samples/0.png", audio="samples/0.flac", provenance=provenance),
        *(Comparison(f"s{i}", ASKED, THREE, image=f"samples/{i}.png", provenance=provenance) for i in (1, 2, 3)),
        Comparison("s4", "say it", THREE[:2], stops=("eos", "budget")),
        Comparison("s5", "say it", THREE[:2]),
        Comparison("s6", "say it", THREE[:2]),
    ], folder)  # fmt: skip
    said = [{"choice": 1}, {"choice": TIE}, {"ranking": [2, 0, 1]}, {"scores": [1.0, 5.0, 3.0]}, {"skipped": True}]
    for i, one in enumerate(said):
        item = store.next("ann")
        assert store.record(
            item.id, "ann", f"k{i}", **one, order=tuple(range(len(item.comparison.responses)))[::-1], seconds=i
        )
    again = store.next("ann", repeats=1.0)
    n = len(again.comparison.responses)
    assert store.record(again.id, "ann", "again", choice=0, ranking=range(n), scores=[5.0] * n)
    assert store.record(store.next("ann").id, "ann", "undone", choice=0)
    store.undo("ann")
    assert store.record(store.next("bob", overlap=2).id, "bob", "b", choice=0)
    assert len(store.judgements()) == 6
    return store


def said(comparisons):
    """All but the paths, which an export may change."""
    return [replace(c, image=None, audio=None) for c in comparisons]


# There and back


@pytest.mark.parametrize("form", ["comparisons", "label-studio"])
def test_what_is_exported_comes_back_with_its_media_and_only_once(judged, other, tmp_path, form):
    path = tmp_path / "out" / "feedback.json"
    count = export_feedback(judged, path, form)
    assert count == (6 if form == "comparisons" else 7)
    brought = import_feedback(other, path, form)
    assert brought.faults == ()
    assert brought.judgements == 6
    key = lambda c: (c.created, c.annotator, c.sample_id)  # noqa: E731
    assert sorted(said(other.judgements()), key=key) == sorted(said(judged.judgements()), key=key)
    for there in other.items():
        if there.comparison.image is not None:
            here = next(i for i in judged.items() if i.comparison.sample_id == there.comparison.sample_id)
            assert there.folder == tmp_path / "out"
            assert (there.folder / there.comparison.image).read_bytes() == (
                here.folder / here.comparison.image
            ).read_bytes()
    assert import_feedback(other, path, form).judgements == 0
    assert import_feedback(judged, path, form).judgements == 0  # where it came from, it is known too
    assert len(judged.items()) == 7


@pytest.mark.parametrize("form", ["comparisons", "label-studio"])
def test_spoken_replies_travel_with_an_export(store, other, folder, tmp_path, form):
    for name in ("cat", "dog"):
        (folder / "samples" / f"{name}.wav").write_bytes(name.encode())
    provenance = {"spoken": ["samples/cat.wav", None, "samples/dog.wav"]}
    (number,) = store.add([Comparison("s0", ASKED, ("a cat", "nothing", "a dog"), provenance=provenance)], folder)
    store.record(number, "ann", "k", choice=2)
    out = tmp_path / "elsewhere" / "feedback.json"
    export_feedback(store, out, form)
    for database in (other, store):
        assert import_feedback(database, out, form).faults == ()
    (there,) = other.items()
    heard = [path and (there.folder / path).read_bytes() for path in there.comparison.provenance["spoken"]]
    assert heard == [b"cat", None, b"dog"]
    assert len(store.items()) == 1  # the same content is the same item, wherever its sounds lie
    (folder / "samples" / "dog.wav").unlink()
    with pytest.raises(DatasetError, match=r"samples/dog\.wav.*is no file"):
        export_feedback(store, tmp_path / "late" / "feedback.json", form)


def test_label_studio_plays_spoken_replies_where_their_responses_stand(store, folder, tmp_path):
    (folder / "samples" / "0.wav").write_bytes(b"one")
    (folder / "samples" / "1.wav").write_bytes(b"two")
    spoken = {"spoken": ["samples/0.wav", "samples/1.wav"]}
    store.add([Comparison(f"s{i}", ASKED, ("one", "two"), provenance=spoken) for i in range(8)], folder)
    export_feedback(store, tmp_path / "ls" / "tasks.json", "label-studio")
    tags = {tag.get("name"): tag for tag in ElementTree.parse(tmp_path / "ls" / "tasks.xml").getroot()}
    first = set()
    for one in json.loads((tmp_path / "ls" / "tasks.json").read_text()):
        for k, response in enumerate(one["data"]["responses"]):
            address = one["data"][tags[f"spoken_{k}"].get("value")[1:]]
            assert (tmp_path / "ls" / address.split("?d=")[1]).read_text() == response["body"]
        first.add(one["data"]["responses"][0]["body"])
    assert first == {"one", "two"}


def test_an_export_into_the_runs_own_folder_copies_nothing(judged, folder):
    export_feedback(judged, folder / "labels.jsonl")
    assert read_comparisons(folder / "labels.jsonl").comparisons == judged.judgements()
    assert not (folder / "media").exists()


def test_an_export_of_one_annotator_holds_only_that_ones(judged, tmp_path):
    assert export_feedback(judged, tmp_path / "bob.jsonl", annotator="bob") == 1
    assert [c.annotator for c in read_comparisons(tmp_path / "bob.jsonl").comparisons] == ["bob"]


def test_an_export_whose_picture_is_gone_says_so(judged, folder, tmp_path):
    (folder / "samples" / "0.png").unlink()
    with pytest.raises(DatasetError, match=r"samples/0\.png.*is no file"):
        export_feedback(judged, tmp_path / "out" / "labels.jsonl")


@pytest.mark.parametrize("form", FORMATS)
def test_hostile_text_goes_out_and_comes_back_unchanged(store, other, tmp_path, form):
    hostile = (
        "<script>alert(1)</script>",
        "\ud83d half a pair \0 \u2028 \x1b[2J 日本語",
        "'; DROP TABLE feedback_items;",
    )
    store.merge([Comparison("s", hostile[0], hostile[1:], 0, annotator="ann", created="2026-01-01")])
    out = tmp_path / "prefs" if form == "preferences" else tmp_path / "out.json"
    export_feedback(store, out, form)
    file = out / "preferences.jsonl" if form == "preferences" else out
    assert import_feedback(other, file, form).judgements == 1
    assert other.judgements()[0].prompt == hostile[0]
    assert other.judgements()[0].responses == hostile[1:]


# Preference trainers


def test_preferences_load_with_datasets_and_bring_their_pictures(judged, tmp_path):
    rows = export_feedback(judged, tmp_path / "prefs", "preferences")
    loaded = datasets.load_dataset(str(tmp_path / "prefs"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == ["prompt", "chosen", "rejected", "images"]
    assert len(loaded) == rows
    first = loaded[0]
    assert (first["prompt"], first["chosen"], first["rejected"]) == (ASKED, THREE[1], THREE[0])
    assert first["images"][0].getpixel((0, 0)) == (0, 10, 200)
    assert sum(bool(row["images"]) for row in loaded) >= rows - 1
    by_json = datasets.load_dataset(
        "json", data_files=str(tmp_path / "prefs" / "metadata.jsonl"), split="train", cache_dir=str(tmp_path / "c2")
    )
    assert len(by_json) == rows


def test_one_picture_is_enough_for_an_image_folder(store, folder, tmp_path):
    one = Comparison("s", "p", ("a", "b"), image="samples/1.png")
    store.merge([replace(one, choice=1, annotator="ann"), Comparison("t", "p", ("a", "b"), 0, annotator="ann")], folder)
    export_feedback(store, tmp_path / "prefs", "preferences")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "prefs"), split="train")
    assert [len(row["images"]) for row in loaded] == [1, 0]


def test_preferences_without_pictures_are_plain_text_columns(store, tmp_path):
    store.merge([Comparison("s", "p", THREE, ranking=(2, 0, 1), annotator="ann"), Comparison("t", "p", THREE, TIE)])
    assert export_feedback(store, tmp_path / "prefs", "preferences") == 3
    loaded = datasets.load_dataset(str(tmp_path / "prefs"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.to_list()[0] == {"prompt": "p", "chosen": THREE[2], "rejected": THREE[0]}


def test_preferences_come_back_as_pairs_with_the_chosen_one_preferred(judged, other, tmp_path):
    rows = export_feedback(judged, tmp_path / "prefs", "preferences")
    brought = import_feedback(other, tmp_path / "prefs" / "metadata.jsonl", "preferences", annotator="trainer")
    assert (brought.judgements, brought.faults) == (rows, ())
    for one in other.judgements():
        assert (one.choice, one.annotator, len(one.responses)) == (0, "trainer", 2)
    assert (
        import_feedback(other, tmp_path / "prefs" / "metadata.jsonl", "preferences", annotator="trainer").judgements
        == 0
    )


def test_preferences_of_other_trainers_name_their_pictures_images(store, folder):
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "images": ["samples/1.png"]}
    (folder / "dpo.jsonl").write_text(json.dumps(row))
    assert import_feedback(store, folder / "dpo.jsonl", "preferences").judgements == 1
    assert store.items()[0].comparison.image == "samples/1.png"


# Bad input


def test_half_written_lines_cost_themselves_alone_and_are_named_by_number(store, tmp_path):
    good = [Comparison(f"s{i}", "p", ("a", "b"), i % 2, annotator="ann") for i in range(4)]
    lines = [json.dumps(c.to_row()) for c in good]
    bad_name = json.dumps({**good[0].to_row(), "annotator": "a\u0000b"})
    bad_time = json.dumps({**good[0].to_row(), "provenance": {"seconds": "long"}})
    bad_order = json.dumps({**good[0].to_row(), "provenance": {"order": [0, "1"]}})
    bad_choice = json.dumps({**good[0].to_row(), "choice": 2})
    far = json.dumps({**good[0].to_row(), "created": "x" * 41})
    rows = [lines[0], lines[1][:30], "", lines[1], bad_name, bad_time, bad_order, lines[2], bad_choice, far, lines[3]]
    (tmp_path / "c.jsonl").write_text("\n".join([*rows, lines[0][:-3]]))
    brought = import_feedback(store, tmp_path / "c.jsonl")
    assert [fault.line for fault in brought.faults] == [2, 5, 6, 7, 9, 10, 12]
    assert (brought.comparisons, brought.judgements) == (4, 4)
    assert [j.sample_id for j in store.judgements()] == ["s0", "s1", "s2", "s3"]


@pytest.mark.parametrize("form", FORMATS)
def test_media_outside_the_folder_of_the_file_cost_their_line(store, folder, tmp_path, form):
    (tmp_path / "secret.png").write_bytes(b"x")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    paths = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "samples/none.png", "samples/1.png", "a\0b"]
    rows = {
        "comparisons": [Comparison(f"s{i}", "p", ("a", "b"), 0, image=p).to_row() for i, p in enumerate(paths)],
        "preferences": [{"prompt": "p", "chosen": "a", "rejected": "b", "images": [p]} for p in paths],
        "label-studio": [
            {"id": i, "data": {"prompt": "p", "responses": ["a", "b"], "image": f"/data/local-files/?d={p}"}}
            for i, p in enumerate(paths)
        ],
    }[form]
    text = json.dumps(rows) if form == "label-studio" else "\n".join(map(json.dumps, rows))
    (folder / "in.json").write_text(text)
    brought = import_feedback(store, folder / "in.json", form)
    assert [fault.line for fault in brought.faults] == [1, 2, 3, 4, 6]
    assert [item.comparison.image for item in store.items()] == ["samples/1.png"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": None}, "chosen None is not text"),
        ({"prompt": [{"role": "user", "content": "p"}]}, "is not text"),
        ({"images": ["a", "b"]}, "one path at most"),
        ({"images": "a.png"}, "one path at most"),
    ],
)
def test_a_preference_that_is_none_is_named(store, tmp_path, change, message):
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    (tmp_path / "p.jsonl").write_text(json.dumps({**row, **change}) + "\n[1]\n{\n" + json.dumps(row))
    brought = import_feedback(store, tmp_path / "p.jsonl", "preferences")
    assert [fault.line for fault in brought.faults] == [1, 2, 3]
    assert message in brought.faults[0].reason
    assert brought.judgements == 1


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_is_not_there_is_named(store, tmp_path, form):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.json: give"):
        import_feedback(store, tmp_path / "none.json", form)


# Label Studio


def comparisons_of(task):
    """The undecided comparison of a task, and one for each judgement; an annotation that cannot be read fails."""
    comparisons, faults, _ = read_task(task)
    if faults:
        raise ComparisonError(faults[0])
    return comparisons


def task(*regions, n=2, **annotation):
    result = [{"from_name": name, "to_name": "prompt", "type": kind, "value": value} for name, kind, value in regions]
    return {
        "id": 11, "data": {"prompt": "p", "responses": list(THREE[:n])},
        "annotations": [{"id": 5, "completed_by": 3, "created_at": "2026-01-01T00:00:00Z", "lead_time": 4.5,
                         "was_cancelled": False, "result": result, **annotation}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("regions", "n", "expected"),
    [
        ([("c", "choices", {"choices": ["Response 2"]})], 2, {"choice": 1}),
        ([("c", "choices", {"choices": ["a cat"]})], 2, {"choice": 1}),
        ([("c", "choices", {"choices": ["Tie"]})], 2, {"choice": TIE}),
        ([("pw", "pairwise", {"selected": "right"})], 2, {"choice": 1}),
        ([("r", "ranker", {"ranker": ["2", "0", "1"]})], 3, {"ranking": (2, 0, 1)}),
        ([("r", "ranker", {"ranker": {"r": ["1", "0"], "_": []}})], 2, {"ranking": (1, 0)}),
        ([("score_1", "rating", {"rating": 2}), ("score_0", "rating", {"rating": 5})], 2, {"scores": (5.0, 2.0)}),
        ([("score_0", "number", {"number": 0.5}), ("score_1", "number", {"number": 3})], 2, {"scores": (0.5, 3.0)}),
    ],
)
def test_annotations_of_each_tag_are_understood(regions, n, expected):
    item, judgement = comparisons_of(task(*regions, n=n))
    assert not item.decided
    assert judgement == replace(
        item, **expected, annotator="label-studio/3", created="2026-01-01T00:00:00Z",
        provenance={"seconds": 4.5, "order": list(range(n))},
    )  # fmt: skip


def test_places_are_those_shown_and_ids_those_of_the_item():
    listed = [{"id": str(i), "title": f"Response {k + 1}", "body": THREE[i]} for k, i in enumerate([2, 0, 1])]
    regions = [
        ("choice", "choices", {"choices": ["Response 1"]}), ("ranking", "ranker", {"ranker": ["2", "0", "1"]}),
        *((f"score_{k}", "number", {"number": 10.0 + k}) for k in range(3)),
    ]  # fmt: skip
    one = task(*regions)
    one["data"]["responses"] = listed
    _, judgement = comparisons_of(one)
    assert judgement.responses == THREE
    assert (judgement.choice, judgement.ranking, judgement.scores) == (2, (2, 0, 1), (11.0, 12.0, 10.0))
    assert judgement.provenance["order"] == [2, 0, 1]


def test_ids_that_are_no_indices_stand_in_the_order_of_the_list():
    one = task(("ranking", "ranker", {"ranker": ["y", "x"]}))
    one["data"]["responses"] = [{"id": "x", "body": "a"}, {"id": "y", "body": "b"}]
    assert comparisons_of(one)[1].ranking == (1, 0)


def test_tasks_show_the_responses_in_a_blind_order(store, tmp_path):
    store.add(Comparison(f"s{i}", "p", ("old", "new")) for i in range(200))
    export_feedback(store, tmp_path / "tasks.json", "label-studio")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    first = [one["data"]["responses"][0]["body"] for one in tasks]
    assert 60 < first.count("old") < 140
    assert {one["data"]["responses"][0]["title"] for one in tasks} == {"Response 1"}


def test_cancelled_and_empty_annotations_say_nothing():
    choice = ("c", "choices", {"choices": ["Response 1"]})
    assert len(comparisons_of(task(choice, was_cancelled=True))) == 1
    assert len(comparisons_of(task())) == 1


def test_annotators_are_known_by_their_address():
    choice = ("c", "choices", {"choices": ["Response 1"]})
    assert (
        comparisons_of(task(choice, completed_by={"id": 3, "email": "ann@here"}))[1].annotator
        == "label-studio/ann@here"
    )
    assert comparisons_of(task(choice, completed_by=None))[1].annotator is None


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (task(("c", "choices", {"choices": ["Response 3"]})), "outside the 2 responses"),
        (task(("score_2", "number", {"number": 1})), "outside the 2 responses"),
        (task(("c", "choices", {"choices": ["a", "b"]})), "none of the responses"),
        (task(("c", "choices", {})), "none of the responses"),
        (task(("c", "choices", ["x"])), "is not an object"),
        (task(("pw", "pairwise", {"selected": "up"})), "not a side"),
        (task(("r", "ranker", {"ranker": ["0"]})), "each of 2 responses once"),
        (task(("r", "ranker", {"ranker": {"best": ["0"], "worst": ["1"]}})), "rank by their ids"),
        (task(("score_0", "rating", {"rating": 2})), "score each of them"),
        (task(("score_0", "rating", {"rating": 2}), ("score_1", "rating", {"rating": "x"})), "not a list of float"),
        (task(("stars", "rating", {"rating": 2})), "does not name the response"),
        (task(("t", "textarea", {"text": ["hm"]})), "another project"),
        ({"data": {"prompt": "p"}}, "no list of responses"),
        ({"data": {"prompt": "p", "responses": [3]}}, "not a list of str"),
        ({"data": {"responses": ["a"]}}, "is not text"),
        ({"data": {"prompt": "p", "responses": ["a"], "image": "https://x/y.png"}}, "not a file beside"),
        ({"data": {"prompt": "p", "responses": ["a"]}, "annotations": 3}, "not a list of objects"),
        ({"data": {"prompt": "p", "responses": ["a"], "image": "http://["}}, "not a file beside"),
        ({"data": {"prompt": "p", "responses": ["a"]}, "annotations": [{"result": 3}]}, "not a list of regions"),
        (3, "is not a task"),
    ],
)
def test_a_task_that_is_none_is_named_and_costs_itself_alone(store, tmp_path, bad, message):
    good = task(("c", "choices", {"choices": ["Response 1"]}))
    (tmp_path / "ls.json").write_text(json.dumps([bad, good]))
    brought = import_feedback(store, tmp_path / "ls.json", "label-studio")
    assert [fault.line for fault in brought.faults] == [1]
    assert message in brought.faults[0].reason
    assert brought.judgements == 1


def test_an_export_that_stops_in_the_middle_is_refused_whole(store, tmp_path):
    (tmp_path / "ls.json").write_text(json.dumps([task()])[:-5])
    with pytest.raises(ComparisonError, match=r"not complete JSON.*export it again"):
        import_feedback(store, tmp_path / "ls.json", "label-studio")
    (tmp_path / "ls.json").write_text("{}")
    with pytest.raises(ComparisonError, match="no list of tasks"):
        import_feedback(store, tmp_path / "ls.json", "label-studio")


def test_the_labelling_configuration_names_what_the_tasks_and_annotations_have(judged, tmp_path):
    export_feedback(judged, tmp_path / "ls" / "tasks.json", "label-studio")
    tasks = json.loads((tmp_path / "ls" / "tasks.json").read_text())
    tags = {tag.get("name"): tag for tag in ElementTree.parse(tmp_path / "ls" / "tasks.xml").getroot()}
    for one in tasks:
        for tag in tags.values():
            value = tag.get("value", "$prompt")
            assert value in ("$image", "$audio") or value[1:] in one["data"]
        for region in (r for a in one["annotations"] for r in a["result"]):
            assert region["from_name"] in tags
            assert tags[region["from_name"]].get("toName") == region["to_name"]
            assert region["type"] == tags[region["from_name"]].tag.lower()
    assert {"image", "audio", "score_2"} <= set(tags)
    assert tasks[0]["data"]["image"].startswith("/data/local-files/?d=media/")


# The command


def run(*words):
    console = Console(file=io.StringIO(), width=200)
    code = main(["feedback", *map(str, words)], console)
    return code, console.file.getvalue()


def test_the_command_imports_and_exports(tmp_path):
    write_comparisons(tmp_path / "in.jsonl", [Comparison(f"s{i}", "p", ("a", "b"), 1) for i in range(3)])
    database = tmp_path / "feedback.db"
    code, said = run("import", tmp_path / "in.jsonl", "--store", database, "--annotator", "ann")
    assert code == 0
    assert "3 comparisons read, 3 judgements new" in said
    code, said = run("export", tmp_path / "prefs", "--store", database, "--format", "preferences")
    assert (code, "3 preferences" in said) == (0, True)
    assert (tmp_path / "prefs" / "preferences.jsonl").exists()
    code, said = run("export", tmp_path / "out.jsonl", "--store", database)
    assert (code, "3 judgements" in said) == (0, True)
    assert {c.annotator for c in read_comparisons(tmp_path / "out.jsonl").comparisons} == {"ann"}


def test_the_command_names_bad_lines_and_bad_databases(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"half\n' + json.dumps(Comparison("s", "p", ("a", "b"), 1).to_row()))
    code, said = run("import", tmp_path / "in.jsonl", "--store", tmp_path / "feedback.db")
    assert code == 1
    assert "1 judgements new" in said
    assert "in.jsonl, line 1:" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("no database at all, " * 100)
    assert run("export", tmp_path / "out.jsonl", "--store", tmp_path / "notes.txt")[0] == 1
    assert "not a valid SQLite database" in capsys.readouterr().err


def test_an_import_of_a_file_that_is_not_there_says_so_and_makes_no_store(tmp_path, capsys):
    assert run("import", tmp_path / "none.jsonl", "--store", tmp_path / "feedback.db")[0] == 1
    assert "there is no file" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_an_export_of_a_store_that_is_not_there_says_so_and_makes_none(tmp_path, capsys):
    assert run("export", tmp_path / "out.jsonl", "--store", tmp_path / "missing.db")[0] == 1
    assert "missing.db does not exist" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_a_time_that_no_column_can_hold_costs_its_line_alone(other, tmp_path):
    rows = [
        {"sample_id": str(i), "prompt": "p", "responses": ["x", "y"], "choice": 0, "annotator": "a",
         "provenance": {"seconds": seconds}}
        for i, seconds in enumerate((1, 10**400, 2))
    ]  # fmt: skip
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    brought = import_feedback(other, tmp_path / "c.jsonl", "comparisons")
    assert (brought.judgements, [fault.line for fault in brought.faults]) == (2, [2])


# All the forms of Label Studio's JSON


DATA = {"prompt": "p", "responses": list(THREE[:2])}
FLAT = {**DATA, "id": 7, "annotator": 1, "annotation_id": 3, "created_at": "2026-03-29T05:39:54Z", "lead_time": 3.4}
CHOICE = {"from_name": "choice", "to_name": "prompt", "type": "choices", "value": {"choices": ["Response 2"]}}
NUMBERS = {"scores": (1.0, 4.0)}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"choice": "Response 2"}, {"choice": 1}),
        ({"choice": "a cat"}, {"choice": 1}),
        ({"choice": "tie"}, {"choice": TIE}),
        ({"better": "Response 2", "topic": "animals"}, {"choice": 1}),
        ({"choice": ["Response 2"]}, {"choice": 1}),
        ({"choice": {"choices": ["Response 2"]}}, {"choice": 1}),
        ({"choice": [{"choices": ["Response 2"]}]}, {"choice": 1}),
        ({"pairwise": [{"selected": "right"}]}, {"choice": 1}),
        ({"pairwise": "right"}, {"choice": 1}),
        ({"ranking": {"_": ["1", "0"]}}, {"ranking": (1, 0)}),
        ({"ranking": [{"ranker": {"_": ["1", "0"]}}]}, {"ranking": (1, 0)}),
        ({"ranking": ["1", "0"]}, {"ranking": (1, 0)}),
        ({"order": [1, 0]}, {"ranking": (1, 0)}),
        ({"score_0": 1, "score_1": 4}, NUMBERS),
        ({"score_0": [{"number": 1}], "score_1": [{"number": 4}]}, NUMBERS),
        ({"stars_0": [{"rating": 1}], "stars_1": [{"rating": 4}]}, NUMBERS),
        ({"stars_0": {"rating": 1}, "stars_1": {"rating": 4}, "comment": "hm"}, NUMBERS),
    ],
)
def test_judgements_of_json_min_are_those_of_json(columns, expected):
    item, judgement = comparisons_of({**FLAT, **columns})
    assert judgement == replace(
        item, **expected, annotator="label-studio/1", created=FLAT["created_at"],
        provenance={"seconds": 3.4, "order": [0, 1]},
    )  # fmt: skip


@pytest.mark.parametrize(
    "columns",
    [{"choice": "Response 9"}, {"choice": "neither"}, {"ranking": {"_": ["1"]}}, {"score_0": 1}, {"comment": "hm"},
     {"score_0": "x", "score_1": 2}, {}, {"choice": "Response 1", "other": "Response 2"}, {"ranking": "first"}],
)  # fmt: skip
def test_a_judgement_of_json_min_that_cannot_be_read_is_reported_by_number(store, tmp_path, columns):
    (tmp_path / "min.json").write_text(json.dumps([{**FLAT, "choice": "Response 1"}, {**FLAT, "id": 8, **columns}]))
    brought = import_feedback(store, tmp_path / "min.json", "label-studio")
    assert [fault.line for fault in brought.faults] == [2]
    assert (brought.judgements, brought.errors) == (1, 1)


def test_a_task_that_nobody_has_annotated_is_an_item_and_no_fault(store, tmp_path):
    (tmp_path / "tasks.json").write_text(
        json.dumps([DATA, {"id": 3, "data": DATA}, {"id": 4, "data": DATA, "annotations": []}])
    )
    brought = import_feedback(store, tmp_path / "tasks.json", "label-studio")
    assert (brought.comparisons, brought.judgements, brought.faults) == (3, 0, ())


@pytest.mark.parametrize(
    "tasks",
    [
        [{"id": 7, "data": DATA, "completions": [{"result": [CHOICE], "created_at": 1774762794, "id": 1}]}],
        [{"id": 7, "data": DATA, "annotations": [], "completions": [{"result": [CHOICE]}]}],
        [{"id": 3, "result": [CHOICE], "completed_by": {"id": 1}, "task": {"id": 7, "data": DATA}}],
        {"id": 3, "result": [CHOICE], "completed_by": {"id": 1}, "task": {"id": 7, "data": DATA}},
        {"id": 7, "data": DATA, "annotations": [{"result": [CHOICE]}]},
    ],
)
def test_completions_and_the_files_of_a_target_storage_are_read(store, tmp_path, tasks):
    (tmp_path / "old.json").write_text(json.dumps(tasks))
    brought = import_feedback(store, tmp_path / "old.json", "label-studio")
    assert brought.faults == ()
    (judgement,) = store.judgements()
    assert (judgement.choice, judgement.sample_id) == (1, "label-studio/7")
    assert judgement.created.startswith("20")


def test_an_annotation_that_cannot_be_read_costs_no_other_of_its_task(store, tmp_path):
    bad = {**CHOICE, "value": {"choices": ["Response 5"]}}
    comment = {"type": "textarea", "value": {"text": ["hm"]}}
    annotations = [
        {"id": 1, "result": [CHOICE], "completed_by": 1}, {"id": 2, "result": [bad], "completed_by": 2},
        {"id": 3, "result": [CHOICE], "completed_by": 3}, {"id": 4, "result": [comment]},
    ]  # fmt: skip
    (tmp_path / "ls.json").write_text(json.dumps([{"id": 7, "data": DATA, "annotations": annotations}]))
    brought = import_feedback(store, tmp_path / "ls.json", "label-studio")
    assert [j.annotator for j in store.judgements()] == ["label-studio/1", "label-studio/3"]
    assert [fault.line for fault in brought.faults] == [1, 1]
    assert "annotation 2: response 5" in brought.faults[0].reason
    assert "annotation 4: " in brought.faults[1].reason
    assert brought.errors == 2


@pytest.mark.parametrize(
    "beside", [{"type": "relation", "from_id": "a", "to_id": "b"}, {"type": "labels", "value": None}, {"id": "x"}]
)
def test_what_stands_beside_a_judgement_and_judges_nothing_does_not_matter(beside):
    one = {"id": 7, "data": DATA, "annotations": [{"result": [beside, CHOICE]}]}
    assert comparisons_of(one)[1].choice == 1


def test_a_score_that_is_no_number_is_not_said_twice():
    nan = [{"type": "number", "from_name": f"score_{i}", "value": {"number": float("nan")}} for i in range(2)]
    with pytest.raises(ComparisonError, match=r"finite|number"):
        comparisons_of({"id": 7, "data": DATA, "annotations": [{"result": nan}]})


def test_two_regions_that_say_different_things_are_not_one_judgement():
    other = {**CHOICE, "value": {"choices": ["Response 1"]}}
    one = {"id": 7, "data": DATA, "annotations": [{"result": [CHOICE, other]}]}
    with pytest.raises(ComparisonError, match="given twice, 1 and 0"):
        comparisons_of(one)
    one["annotations"][0]["result"][1] = CHOICE
    assert comparisons_of(one)[1].choice == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"annotations": [{"id": 5, "result": [CHOICE], "was_cancelled": True}]}, "annotation 5 was cancelled"),
        ({"completions": [{"id": 5, "result": [CHOICE], "skipped": True}]}, "annotation 5 was cancelled"),
        ({"annotations": [{"id": 5, "result": []}]}, "annotation 5 is empty"),
        ({"predictions": [{"result": [CHOICE], "model_version": "m"}]}, "1 predictions left out"),
        ({"drafts": [{"result": [CHOICE]}]}, "1 drafts left out"),
    ],
)
def test_what_is_no_judgement_is_listed_and_is_no_error(tmp_path, capsys, more, said):
    (tmp_path / "ls.json").write_text(json.dumps([{"id": 7, "data": DATA, **more}]))
    code, _ = run("import", tmp_path / "ls.json", "--store", tmp_path / "f.db", "--format", "label-studio")
    assert code == 0
    assert f"task 1: {said}" in capsys.readouterr().err


# Commands and paths that are odd


def test_markup_in_paths_and_data_is_text(tmp_path, capsys):
    folder = tmp_path / "a[/b]c [red]"
    folder.mkdir(parents=True)
    rows = [Comparison("[/s]", "[/p]", ("a[/x]", "b"), 1, annotator="[/ann]").to_row(), {"sample_id": "[/z]"}]
    (folder / "in[b].jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, said = run("import", folder / "in[b].jsonl", "--store", folder / "feedback.db")
    assert code == 1
    assert f"new to {folder}/feedback.db" in said
    assert "in[b].jsonl, line 2" in capsys.readouterr().err
    code, said = run("export", folder / "out[b].jsonl", "--store", folder / "feedback.db")
    assert (code, said) == (0, f"{folder}/out[b].jsonl: 1 judgements\n")


def test_an_export_reads_no_media_of_a_folder_that_nobody_named(tmp_path, capsys):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "x.png").write_bytes(b"secret")
    database = tmp_path / "theirs" / "feedback.db"
    with FeedbackStore(database) as store:
        one = Comparison("s", "p", ("a", "b"), 1, annotator="ann", image="x.png")
        store.merge([one], tmp_path / "private")
    for form, name in (("comparisons", "out.jsonl"), ("preferences", "prefs"), ("label-studio", "tasks.json")):
        words = ("export", tmp_path / "out" / name, "--store", database, "--format", form)
        assert run(*words)[0] == 1
        assert f"give --media {tmp_path}/private" in capsys.readouterr().err
        assert not [*(tmp_path / "out").rglob("*.png")]
        assert run(*words, "--media", tmp_path / "private")[0] == 0
        (copy,) = (tmp_path / "out").rglob("*.png")
        copy.unlink()


def test_an_export_does_not_write_through_a_link(store, tmp_path):
    store.merge([Comparison("s", "p", ("a", "b"), 1, annotator="ann")])
    (tmp_path / "mine").write_text("mine")
    for form, name in (
        ("comparisons", "o.jsonl"),
        ("preferences", "prefs/preferences.jsonl"),
        ("label-studio", "o.json"),
    ):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + ".tmp").symlink_to(tmp_path / "mine")
        export_feedback(store, path.parent if form == "preferences" else path, form)
        assert (tmp_path / "mine").read_text() == "mine"
        assert path.is_file()


@pytest.mark.parametrize("form", ["comparisons", "label-studio"])
def test_numbers_without_bounds_cost_their_line_alone(store, tmp_path, form):
    huge = "1" + "0" * 400
    good = Comparison("s", "p", ("a", "b"), 1, annotator="ann").to_row()
    if form == "comparisons":
        lines = [
            json.dumps({**good, "choice": None, "scores": ["HUGE", 1]}),
            json.dumps({**good, "provenance": {"seconds": "HUGE"}}),
            json.dumps({**good, "choice": "HUGE"}), json.dumps({**good, "ranking": ["HUGE", 0]}),
            json.dumps({**good, "provenance": {"order": ["HUGE", 0]}}), json.dumps(good),
        ]  # fmt: skip
        text = "\n".join(lines)
    else:
        number = {"type": "number", "value": {"number": "HUGE"}}
        results = [
            [{**number, "from_name": f"score_{i}"} for i in range(2)], [CHOICE],
            [{**CHOICE, "value": {"choices": ["Response 9999"]}}],
            [{"type": "ranker", "value": {"ranker": ["HUGE", "0"]}}], [CHOICE],
        ]  # fmt: skip
        tasks = [
            {"id": i, "data": DATA, "annotations": [{"result": result}]}
            for i, result in enumerate([*results, [CHOICE]])
        ]
        tasks[1]["annotations"][0]["lead_time"] = "HUGE"
        tasks[4]["annotations"][0]["created_at"] = "HUGE"
        text = json.dumps(tasks)
    (tmp_path / "in.json").write_text(text.replace('"HUGE"', huge))
    brought = import_feedback(store, tmp_path / "in.json", form)
    assert [fault.line for fault in brought.faults] == [1, 2, 3, 4, 5]
    assert brought.judgements == 1
