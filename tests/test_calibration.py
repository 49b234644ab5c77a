"""Reports on preference models against closed forms; train-reward from files to weights, table and plot."""

from __future__ import annotations

import dataclasses
import io
import json
import sys

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from safetensors import safe_open

from mmenv.cli import main
from mmenv.data.sample import Sample
from mmenv.feedback.annotators import AnnotatorPanel, SyntheticAnnotator
from mmenv.feedback.comparison import Comparison
from mmenv.feedback.comparison_files import read_comparisons, write_comparisons
from mmenv.feedback.comparison_media import sample_of
from mmenv.registration import task_of
from mmenv.rewards.loading import load_reward
from mmenv.rewards.preference.calibration import (
    TEMPERATURES,
    calibration_error,
    caution,
    correlation,
    evaluate,
    fit_temperature,
    log_loss,
    plot_reliability,
    probabilities,
    reliability,
    scaled,
)
from mmenv.rewards.preference.command import JudgedComparisons, split
from mmenv.rewards.preference.ensemble import EnsembleReward
from mmenv.rewards.preference.model import PreferenceModel
from mmenv.statistics import clustered_wilson, wilson
from tests.backbones import small_backbone


def test_wilson_is_the_textbook_interval():
    share = wilson(8, 10)  # Wilson's interval of 8 of 10, z = 1.96
    assert (share.value, share.n) == (0.8, 10)
    assert share.low == pytest.approx(0.4902, abs=1e-3)
    assert share.high == pytest.approx(0.9433, abs=1e-3)
    assert wilson(0, 20).low == 0
    assert np.isnan(wilson(0, 0).value)
    assert all(
        s.low <= s.value <= s.high for n in range(1, 60) for s in (wilson(0, n), wilson(n // 2, n), wilson(n, n))
    )


def test_units_that_hang_together_count_for_fewer():
    rng = np.random.default_rng(0)
    alone = (rng.random(60) < 0.7).astype(float)
    assert clustered_wilson(alone, np.arange(60)) == wilson(alone.sum(), 60)
    # Five copies of each are worth no more than one of each.
    copied = clustered_wilson(np.repeat(alone, 5), np.repeat(np.arange(60), 5))
    assert copied[:3] == pytest.approx(wilson(alone.sum(), 60)[:3])
    assert copied.n == 300
    # Pairs that are independent within their samples are worth as many, about.
    free = (rng.random(300) < 0.7).astype(float)
    assert clustered_wilson(free, np.repeat(np.arange(60), 5)).low == pytest.approx(
        wilson(free.sum(), 300).low, abs=0.02
    )


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_where_all_are_right_the_interval_is_that_of_the_clusters(right):
    share = clustered_wilson(np.full(30, right), np.repeat(np.arange(6), 5))
    assert share[:3] == wilson(6 * right, 6)[:3]
    one = clustered_wilson(np.array([1.0, 0.0, 1.0]), np.zeros(3))
    assert one.low < 0.3 < 0.9 < one.high
    assert np.isnan(clustered_wilson(np.empty(0), np.empty(0)).value)


def test_the_interval_over_clusters_covers_the_truth_where_one_over_pairs_does_not():
    rng, held = np.random.default_rng(1), {"pairs": 0, "clusters": 0}
    for _ in range(400):
        share = np.repeat(rng.beta(1.4, 0.6, 40), 6)  # of mean 0.7, another for every sample
        credit = (rng.random(240) < share).astype(float)
        for name, found in (
            ("pairs", wilson(credit.sum(), 240)), ("clusters", clustered_wilson(credit, np.repeat(np.arange(40), 6)))
        ):  # fmt: skip
            held[name] += found.low < 0.7 < found.high
    assert held["clusters"] > 0.92 * 400
    assert held["pairs"] < 0.8 * 400


def test_a_calibrated_model_has_no_calibration_error_and_a_boaster_has():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 40_000)
    given = np.where(rng.random(len(p)) < p, p, 1 - p)  # what happened has the chance that was stated
    assert calibration_error(reliability(given)) < 0.01
    boast = np.where(given > 0.5, 0.99, 0.01)
    assert calibration_error(reliability(boast)) == pytest.approx(0.99 - 0.75, abs=0.01)


def overconfident(n, times, members=1):
    """Differences in nats of which people follow a ``times``-th, and which sample each is of; some samples have two."""
    rng = np.random.default_rng(1)
    true = rng.normal(0, 1.5, n)
    won = rng.random(n) < 1 / (1 + np.exp(-true))
    return np.tile(times * np.where(won, true, -true), (members, 1)), np.arange(n) * 2 // 3


@pytest.mark.parametrize("times", [0.3, 1, 4])
def test_the_temperature_undoes_what_the_scores_were_multiplied_by(times):
    nats, _ = overconfident(20_000, times, members=2)
    assert fit_temperature(nats) == pytest.approx(times, rel=0.05)


def test_a_temperature_takes_the_boast_out_of_calibration_and_log_loss():
    nats, samples = overconfident(4000, 4)
    given = probabilities(nats, 1.0)
    found = scaled(nats, samples)
    assert calibration_error(reliability(given)) > 0.1
    assert found.calibration_error < 0.04
    assert found.log_loss < log_loss(given) - 0.1
    assert ((probabilities(nats, found.temperature) > 0.5) == (given > 0.5)).all()


def test_no_pair_is_judged_at_a_temperature_that_it_was_fitted_to():
    """Pairs of even samples are always right and those of odd ones as often wrong: each half is judged as the other."""
    nats, samples = np.array([[2.0, 2.0, 2.0, -2.0]]), np.array([0, 2, 1, 3])
    found = scaled(nats, samples)
    most, least = probabilities(nats, TEMPERATURES[0]), probabilities(nats, TEMPERATURES[1])
    assert found.log_loss == pytest.approx(log_loss(np.array([*least[:2], *most[2:]])), rel=1e-2)
    assert scaled(nats[:, :2], np.zeros(2, int)).calibration_error > 0  # one sample alone: at 1


def test_bins_hold_every_pair_once_also_at_the_ends():
    bins = reliability(np.array([0.5, 0.500001, 1.0, 0.0, 0.75]))
    assert [b.accuracy.n for b in bins] == [2, 1, 2]
    assert [b.accuracy.value for b in bins] == [0.75, 1.0, 0.5]  # a half is half right


def test_what_does_not_vary_has_no_correlation():
    assert correlation(np.ones(3), np.arange(3)) is None
    assert correlation(np.arange(3.0), -np.arange(3.0)) == pytest.approx(-1)


def words(samples, responses):
    """A reward that is fond of length."""
    return np.array([float(len(r.text.split())) for r in responses], np.float32)


def judged(n, prefer, name="ann"):
    rng = np.random.default_rng(0)
    made = [
        Comparison(f"s/{i}", "p", (" ".join("a" * int(rng.integers(1, 4))), "b " * 4), annotator=name) for i in range(n)
    ]
    return [Comparison(**{**vars(c), "choice": prefer}) for c in made]


def test_the_report_finds_a_length_bias_and_tells_annotators_apart():
    comparisons = judged(30, 1) + judged(20, 0, "ben") + judged(5, "tie")
    report = evaluate(words, comparisons, [Sample(c.sample_id, 0, "p") for c in comparisons])
    assert report.comparisons == 55
    assert report.ties == 5
    assert report.accuracy[0] == pytest.approx(0.6)
    assert report.annotators["ann"].value == 1.0
    assert report.annotators["ben"].value == 0.0
    assert report.length["correlation"] == pytest.approx(1)
    assert report.length["longer preferred"].value == 1.0
    assert report.length["shorter preferred"].value == 0.0
    assert report.length["same length"].n == 0
    assert report.log_loss > np.log(2)
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["annotators"]["ben"]["n"] == 20
    assert plain["length"]["same length"]["value"] is None


def test_a_pair_of_equal_rewards_is_half_right_and_counted():
    def flat(samples, responses):
        return np.zeros(len(samples), np.float32)

    comparisons = judged(30, 1)
    report = evaluate(flat, comparisons, [Sample(c.sample_id, 0, "p") for c in comparisons])
    assert (report.accuracy.value, report.undecided) == (0.5, 30)
    assert [b.accuracy.value for b in report.bins] == [0.5]
    assert evaluate(words, comparisons, [Sample(c.sample_id, 0, "p") for c in comparisons]).undecided == 0


def test_pairs_of_one_sample_make_the_interval_wider():
    rng = np.random.default_rng(0)
    comparisons = [
        Comparison(f"s/{i // 5}", "p", ("a", "b b"), int(rng.random() < 0.9) if i // 5 % 2 else 0, annotator="ann")
        for i in range(100)
    ]
    report = evaluate(words, comparisons, [Sample(c.sample_id, 0, "p") for c in comparisons])
    share = wilson(report.accuracy.value * 100, 100)
    assert report.accuracy.high - report.accuracy.low > 1.3 * (share.high - share.low)


def test_a_model_that_may_be_no_better_than_a_coin_is_named():
    assert caution(wilson(80, 100)) is None
    assert "1.7% to 38.2%" not in caution(wilson(6, 10))
    assert "over 10 pairs, 31.3% to 83.2%, includes one half" in caution(wilson(6, 10))
    assert "lies below one half" in caution(wilson(1, 100))


def test_undecided_comparisons_have_no_report():
    with pytest.raises(ValueError, match="hold more"):
        evaluate(words, judged(3, "tie"), [Sample("s", 0, "p")] * 3)


def test_the_same_response_twice_is_no_pair():
    same = [Comparison(f"s/{i}", "p", ("a b", "a b"), 0, annotator="ann") for i in range(9)]
    comparisons = same + judged(30, 1)
    report = evaluate(words, comparisons, [Sample(c.sample_id, 0, "p") for c in comparisons])
    assert (report.accuracy.value, report.accuracy.n) == (1.0, 30)
    with pytest.raises(ValueError, match="hold more"):
        evaluate(words, same, [Sample(c.sample_id, 0, "p") for c in same])


def test_the_plot_is_a_picture(tmp_path):
    comparisons = judged(30, 1)
    report = evaluate(words, comparisons, [Sample(c.sample_id, 0, "p") for c in comparisons])
    plot_reliability(report, tmp_path / "r.png")
    assert np.asarray(Image.open(tmp_path / "r.png")).std() > 5


def test_a_sample_is_either_learned_from_or_held_out():
    comparisons = [Comparison(f"s/{i % 100}", "p", ("a", "b"), 0) for i in range(400)]
    train, test = split(
        JudgedComparisons(comparisons, [Sample(c.sample_id, 0, "p") for c in comparisons]), 0.25, seed=1
    )
    assert not {c.sample_id for c in train.comparisons} & {c.sample_id for c in test.comparisons}
    assert len(test.comparisons) == pytest.approx(100, abs=45)
    assert len(train.samples) + len(test.samples) == 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Comparisons of a right and a wrong answer by three annotators, some of them ties, with pictures, on disk."""
    root, rng = tmp_path_factory.mktemp("labels"), np.random.default_rng(0)
    task = task_of("mmenv/VQA-v0")(dataset=None, image_size=None, tokenizer=None)
    made, golds = [], []
    for i in range(240):
        sample = task.sample("train", i)
        Image.fromarray(sample.image).save(root / f"{i}.png")
        right, wrong = sample.references[0], "no" if sample.references[0] == "yes" else "yes"
        answers = [right, wrong][:: 1 if rng.random() < 0.5 else -1]
        made.append(Comparison(sample.id, sample.prompt, tuple(answers), image=f"{i}.png"))
        golds.append([float(a == right) for a in answers])
    panel = AnnotatorPanel.of(3, base=SyntheticAnnotator(0.1, tie_band=0.1))
    write_comparisons(root / "labels.jsonl", panel.judge(made, golds, rng, overlap=2))
    with (root / "labels.jsonl").open("a") as file:
        file.write('{"sample_id": "half\n')
    return root


@pytest.fixture(scope="module")
def run(folder):
    """Runs train-reward from a small network: flags -> exit code and what was printed."""
    backbone = small_backbone(folder).path

    def with_flags(*flags):
        console = Console(file=io.StringIO(), width=160)
        code = main(["train-reward", "--backbone", str(backbone), *map(str, flags)], console)
        return code, console.file.getvalue()

    return with_flags


def test_an_ensemble_is_trained_reported_and_paid_by(run, folder, tmp_path):
    out = tmp_path / "rewards" / "five.safetensors"
    code, said = run(
        "--comparisons", folder / "labels.jsonl", "--out", out, "--members", 3, "--epochs", 24, "--ties", "rao-kupper"
    )  # fmt: skip
    assert code == 0
    assert "line 481 left out" in said
    assert "expected calibration error" in said
    assert "accuracy, synthetic-2" in said
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["accuracy"]["value"] > 0.75
    assert report["config"]["ties"] == "rao-kupper"
    assert report["trained_on"] + report["comparisons"] == 480
    assert out.with_name("five-reliability.png").is_file()
    assert "caution" not in said
    with safe_open(out, "pt") as file:
        stored = json.loads(file.metadata()["report"])
    assert stored == {k if k != "value" else "accuracy": v for k, v in report["accuracy"].items()}
    reward = load_reward(out)
    assert isinstance(reward, EnsembleReward)
    assert len(reward.models) == 3
    assert reward.temperature == report["scaling"]["temperature"] != 1.0
    assert reward.with_combine("minimum").temperature == reward.temperature
    assert f"at temperature {reward.temperature:.2f}" in said
    env = gym.make("mmenv/VQA-v0", reward=str(out))
    env.reset(seed=0)
    assert np.isfinite(env.step(1)[1])


def test_a_model_that_was_calibrated_is_as_sure_as_it_was_told_when_it_is_read_again(run, folder, tmp_path):
    out = tmp_path / "one.safetensors"
    code, _ = run("--comparisons", folder / "labels.jsonl", "--out", out, "--members", 1, "--epochs", 8)
    assert code == 0
    told = json.loads(out.with_suffix(".json").read_text())["scaling"]["temperature"]
    model = load_reward(out)
    assert model.temperature == told
    comparisons = read_comparisons(folder / "labels.jsonl").comparisons[:60]
    samples = [sample_of(c, folder) for c in comparisons]
    scaled_report = evaluate(model, comparisons, samples)
    model.temperature = 1.0
    plain = evaluate(model, comparisons, samples)
    assert scaled_report.accuracy == plain.accuracy
    sure = [
        np.average([b.confidence for b in r.bins], weights=[b.accuracy.n for b in r.bins])
        for r in (plain, scaled_report)
    ]
    assert (sure[1] < sure[0]) == (told > 1)


def test_a_single_member_is_a_plain_model_and_nothing_held_out_has_no_report(run, folder, tmp_path):
    out = tmp_path / "one.safetensors"
    flags = ("--comparisons", folder / "labels.jsonl", "--out", out, "--members", 1, "--epochs", 1, "--held-out", 0)
    code, said = run(*flags, "--hidden", 8)
    assert code == 0
    assert "there is no report" in said
    model = load_reward(out)
    assert isinstance(model, PreferenceModel)
    assert model.head.out.in_features == 8
    assert not out.with_suffix(".json").exists()


def few(folder, tmp_path, **changes):
    """A file of five comparisons of the folder, with their media, each changed alike."""
    made = [dataclasses.replace(c, **changes) for c in read_comparisons(folder / "labels.jsonl").comparisons[:5]]
    path = folder / f"{tmp_path.name}.jsonl"
    write_comparisons(path, made)
    return path


def test_weights_are_saved_also_where_no_pair_is_held_out_that_could_be_reported_on(run, folder, tmp_path):
    out, files = tmp_path / "few.safetensors", few(folder, tmp_path, choice="tie", ranking=None, scores=None)
    flags = ("--out", out, "--members", 1, "--epochs", 1, "--held-out", 0.5)
    code, said = run("--comparisons", files, *flags)
    assert code == 0
    assert "there is no report: none of" in said
    assert isinstance(load_reward(out), PreferenceModel)
    assert not out.with_suffix(".json").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["few.safetensors"]


def test_few_labels_end_in_a_caution_that_the_weights_keep(run, folder, tmp_path):
    out = tmp_path / "few.safetensors"
    code, said = run(
        "--comparisons", few(folder, tmp_path), "--out", out, "--members", 1, "--epochs", 1, "--held-out", 0.5
    )
    assert code == 0
    assert "caution: the accuracy's interval over" in said
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["report"])["low"] <= 0.5


def test_where_every_sample_is_held_out_nothing_is_trained(run, folder, tmp_path, capsys):
    code, _ = run("--comparisons", few(folder, tmp_path), "--out", tmp_path / "r.safetensors", "--held-out", 0.9999)
    assert code == 1
    assert "all 5 judged comparisons are of samples that are held out: give --held-out 0" in capsys.readouterr().err


def test_responses_that_the_model_reads_alike_are_left_out_by_number(run, folder, tmp_path, capsys):
    long = "dog " * 99
    files = few(folder, tmp_path, responses=(long + "dog", long + "cat"))
    both = folder / f"{tmp_path.name}-both.jsonl"
    both.write_text(files.read_text() + few(folder, tmp_path).read_text())
    flags = ("--out", tmp_path / "r.safetensors", "--members", 1, "--epochs", 1, "--held-out", 0)
    code, said = run("--comparisons", both, *flags)
    assert code == 0
    assert "5 of 10 comparisons left out: the model reads 95 tokens of a response" in said
    files.write_text("".join(both.read_text().splitlines(keepends=True)[:5]))
    assert run("--comparisons", files, *flags)[0] == 1
    assert "no comparison is left to learn from" in capsys.readouterr().err


def test_without_matplotlib_there_is_a_model_and_a_report_and_no_plot(run, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    out = tmp_path / "r.safetensors"
    code, said = run(
        "--comparisons", few(folder, tmp_path), "--out", out, "--members", 1, "--epochs", 1, "--held-out", 0.5
    )
    assert code == 0
    assert 'there is no plot: matplotlib.figure is missing: pip install -c constraints.txt -e ".[agents]"' in said
    assert out.with_suffix(".json").is_file()
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--comparisons FILE.jsonl or --store URL"),
        (("--comparisons", "nowhere.jsonl"), "nowhere.jsonl is no file"),
        (("--comparisons", "LABELS", "--held-out", "1.5"), "held_out=1.5"),
        (("--comparisons", "LABELS", "--members", "0"), "members=0"),
        (("--comparisons", "LABELS", "--epochs", "0"), "epochs=0"),
        (("--comparisons", "LABELS", "--hidden", "0"), "hidden=0"),
        (("--comparisons", "LABELS", "--out", "reward.bin"), "does not end in .safetensors"),
    ],
)
def test_a_bad_flag_is_an_error_that_names_it(run, folder, tmp_path, capsys, flags, said):
    flags = [str(folder / "labels.jsonl") if f == "LABELS" else f for f in flags]
    code, _ = run("--out", tmp_path / "r.safetensors", *flags)
    assert code == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("url", ["{}", "sqlite:///{}"])
def test_a_store_that_is_not_there_is_named_with_what_makes_one_and_is_not_made(run, tmp_path, capsys, url):
    pytest.importorskip(
        "mmenv.feedback.store", reason='pip install -c constraints.txt -e ".[labelling]"', exc_type=ImportError
    )
    missing = tmp_path / "folder" / "missing.db"
    code, _ = run("--store", url.format(missing), "--out", tmp_path / "r.safetensors")
    said = capsys.readouterr().err
    assert code == 1
    assert said.startswith(f"error: {missing} does not exist")
    assert "mmenv label --run" in said
    assert "mmenv feedback import" in said
    assert not missing.parent.exists()


def test_a_store_that_cannot_be_read_is_an_error_without_a_traceback(run, tmp_path, capsys):
    pytest.importorskip(
        "mmenv.feedback.store", reason='pip install -c constraints.txt -e ".[labelling]"', exc_type=ImportError
    )
    (tmp_path / "labels.db").write_bytes(b"no database" * 100)
    assert run("--store", tmp_path / "labels.db", "--out", tmp_path / "r.safetensors")[0] == 1
    assert "is not a valid SQLite database" in capsys.readouterr().err


def test_labels_of_a_store_are_learned_from(run, folder, tmp_path):
    store = pytest.importorskip(
        "mmenv.feedback.store",
        reason='labels from a store: pip install -c constraints.txt -e ".[labelling]"',
        exc_type=ImportError,
    )

    with store.FeedbackStore(tmp_path / "labels.db") as database:
        database.merge(read_comparisons(folder / "labels.jsonl").comparisons, folder)
    out = tmp_path / "r.safetensors"
    flags = ("--store", tmp_path / "labels.db", "--out", out, "--members", 1, "--epochs", 2)
    assert run(*flags)[0] == 1  # its media lie elsewhere, and nobody has named that folder
    code, said = run(*flags, "--media", folder)
    assert code == 0, said
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["trained_on"] + report["comparisons"] == 480
