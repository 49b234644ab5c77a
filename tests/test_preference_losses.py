"""IPO and KTO against a few lines of NumPy and their exact optima, on the world of test_exact_references."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_algorithms import trainer
from test_exact_references import BETA, SEQUENCES, WORTH, apart, flat, learner, log_probabilities, trained, world
from test_offline_dpo import LINE
from test_return_baselines import moved

from agents.algorithms.dpo import pairs_of
from agents.algorithms.kto import KTOConfig, labels_of
from agents.maths.losses import ipo_loss, kto_loss
from mmenv.feedback.comparison import Comparison

SCORES = np.array([WORTH[s] for s in SEQUENCES])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step(name, rows=None, **settings):
    """An algorithm whose policy has left the reference, and its loss on ``rows`` of a batch.

    Returns:
        algorithm, the data of the rows (B), their log-probabilities and log-ratios (B,), and the loss.
    """
    env = world(64)
    algorithm = learner(name, env, kl_coef=BETA, **settings)
    moved(algorithm, 0.05)
    batch = algorithm.collect(env)
    with torch.no_grad():
        data = algorithm.data(batch, algorithm.reference.evaluate(batch.responses()).logp)
    if rows is not None:
        data = data.select(rows(batch).flatten())
    new = algorithm.policy.evaluate(data.responses)
    logp = (new.logp * data.mask).sum(1)
    log_ratio = (logp.detach() - data.ref_logp).double().numpy()
    return algorithm, data, logp, log_ratio, algorithm.loss(new, data)[0].value


def assert_gradient(algorithm, loss, logp, weights):
    """The gradient of a loss is the sum of weights (S,) times that of the responses' log-probabilities."""
    expected = (torch.from_numpy(weights).float() * logp).sum()
    parameters = algorithm.stepper.parameters
    gradients = [torch.autograd.grad(x, parameters, retain_graph=True, allow_unused=True) for x in (loss, expected)]
    found, exact = map(flat, gradients)
    assert exact.norm() > 1e-3
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "settings"), [("ipo", {"pairs": 64}), ("online-dpo", {"loss": "ipo"})])
def test_the_loss_and_gradient_of_ipo_are_those_of_its_paper(name, settings):
    algorithm, data, logp, log_ratio, loss = step(name, pairs_of, **settings)
    p = data.preferred.double().numpy()[0::2]
    margin = log_ratio[0::2] - log_ratio[1::2]
    expected = p * (margin - 1 / (2 * BETA)) ** 2 + (1 - p) * (margin + 1 / (2 * BETA)) ** 2
    assert (p == 1).all() if name == "ipo" else p.std() > 0.1
    assert loss.item() == pytest.approx(expected.mean(), abs=1e-6)
    slope = 2 * (margin - (2 * p - 1) / (2 * BETA)) / len(p)
    assert_gradient(algorithm, loss, logp, np.stack([slope, -slope], 1).flatten())


@pytest.mark.slow
def test_ipo_ends_at_the_reference_times_the_exponential_of_the_win_rate():
    beta = 0.1
    algorithm, env, found = trained("ipo", 120, learning_rate=5e-3, kl_coef=beta, pairs=4000)
    with torch.no_grad():
        start = log_probabilities(algorithm.reference, env)
    win_rate = sigmoid(SCORES[:, None] - SCORES) @ start.exp().double().numpy()
    best = (start + torch.from_numpy(win_rate / beta)).log_softmax(0)
    print(f"ipo start {apart(start, best):.3f} found {apart(found, best):.3f}")
    assert apart(start, best) > 0.3
    assert apart(found, best) < 0.08


def test_the_loss_and_gradient_of_kto_are_those_of_its_paper():
    settings = {"judgements": 64, "desirable_weight": 1.5, "undesirable_weight": 0.5}
    algorithm, data, logp, log_ratio, loss = step("kto", **settings)
    # There is one picture: the responses to another context are the same responses. They are of the reference, so that
    # the mean is negative.
    point = 0.0
    assert log_ratio.mean() < 0
    assert data.reference_point.tolist() == pytest.approx([point] * 64, abs=1e-6)
    value, weights = np.zeros(64), np.zeros(64)
    for i, desirable in enumerate(data.desirable.tolist()):
        sign, weight = (1, 1.5) if desirable else (-1, 0.5)
        share = sigmoid(sign * BETA * (log_ratio[i] - point))
        value[i] = weight * (1 - share)
        weights[i] = -sign * weight * BETA * share * (1 - share) / 64
    assert 10 < data.desirable.sum() < 54
    assert loss.item() == pytest.approx(value.mean(), abs=1e-6)
    assert_gradient(algorithm, loss, logp, weights)


def test_the_loss_of_kto_compares_log_ratios_with_the_reference_point():
    ratios, ones = torch.tensor([0.5, -2.0]), torch.ones(2)
    at_0, at_1 = (kto_loss(ratios, x * ones, torch.tensor([1.0, 0.0]), 0.3, (1.0, 1.0)).value for x in (0.0, 1.0))
    expected = [np.mean([1 - sigmoid(0.3 * (0.5 - x)), 1 - sigmoid(0.3 * (x + 2))]) for x in (0, 1)]
    assert [at_0.item(), at_1.item()] == pytest.approx(expected, abs=1e-6)


def test_the_reference_point_is_the_mean_log_ratio_of_responses_to_other_contexts_and_at_least_0(tmp_path):
    run = trainer("kto", tmp_path / "run")
    run.policy.eval()
    algorithm = run.algorithm
    moved(algorithm, 0.05)
    batch = algorithm.play(run.policy, run.env)
    k = int(batch.contexts.max()) + 1
    assert k > 1
    log_ratios = []
    for row, context in enumerate(batch.contexts.tolist()):
        other = (context + 1) % k
        one = batch.responses()._replace(
            prefix=batch.prefix.select(torch.tensor([other])), tokens=batch.tokens[row : row + 1],
            mask=batch.mask[row : row + 1], contexts=torch.zeros(1, dtype=torch.long),
        )  # fmt: skip
        new, old = (policy.evaluate(one).logp for policy in (run.policy, algorithm.reference))
        log_ratios.append(((new - old) * one.mask).sum().item())
    assert np.mean(log_ratios) > 1e-3
    assert algorithm.reference_point(batch).item() == pytest.approx(np.mean(log_ratios), abs=1e-5)
    algorithm.policy, algorithm.reference = algorithm.reference, algorithm.policy
    assert algorithm.reference_point(batch).item() == 0.0


def test_the_margin_of_ipo_is_pulled_to_a_finite_target():
    margin = torch.tensor([9.0, 1.0], requires_grad=True)
    ipo_loss(margin, torch.ones(2), 0.5).value.backward()
    assert margin.grad.tolist() == [8.0, 0.0]


def test_kto_moves_probability_to_desirable_responses():
    algorithm, env, found = trained("kto", 40, learning_rate=5e-3, judgements=1000, label_temperature=1e-6)
    with torch.no_grad():
        start = log_probabilities(algorithm.reference, env)
    good = torch.from_numpy(start.exp().numpy() @ SCORES < SCORES)
    before, after = start.exp()[good].sum().item(), found.exp()[good].sum().item()
    print(f"kto desirable {before:.3f} -> {after:.3f}")
    assert before < 0.7
    assert after > 0.9


CHOICE = Comparison("a", "x", ("yes", "no", "two"), choice=1, annotator="ann")
RANKING = Comparison("a", "x", ("yes", "no", "two"), ranking=(2, 0, 1), annotator="ann")
RATED = Comparison("a", "x", ("yes", "no", "two"), scores=(1.0, 3.0, 2.0), annotator="ann")


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (CHOICE, [(1, True), (0, False), (1, True), (2, False)]),
        (RANKING, [(2, True), (0, False), (2, True), (1, False), (0, True), (1, False)]),
        (RATED, [(0, False), (1, True), (2, False)]),
        (Comparison("a", "x", ("yes",), scores=(5.0,), annotator="ann"), [(0, True)]),
        (Comparison("a", "x", ("yes", "no"), choice="tie", annotator="ann"), []),
    ],
)
def test_a_judgement_states_which_responses_are_desirable(comparison, expected):
    assert labels_of(comparison, 2.0) == expected


def test_kto_learns_from_every_judgement_of_a_file_and_counts_the_rest(tmp_path, capsys):
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(tmp_path / "x.png")
    judged = [
        {"responses": ["yes"], "scores": [5]},
        {"responses": ["no"], "scores": [1]},
        {"responses": ["two", "three"], "choice": 1},
        {"choice": "tie"},
        {"scores": [0.1, 0.9], "annotator": None},
    ]
    lines = [json.dumps({**LINE, "sample_id": str(i), **line}) for i, line in enumerate(judged)]
    (tmp_path / "judged.jsonl").write_text("\n".join(lines) + "\n")
    run = trainer("kto", tmp_path / "run", preferences=str(tmp_path / "judged.jsonl"))
    run.algorithm.prepare(run.env)
    batch = run.algorithm.judged
    assert list(zip(batch.texts, batch.scores.tolist(), strict=True)) == [
        ("yes", 1),
        ("no", 0),
        ("three", 1),
        ("two", 0),
    ]
    text = capsys.readouterr().out
    for part in (
        "3 judgements state 4 labels",
        "1 are ties",
        "1 are not judged yet",
        "2 responses are desirable, 2 are",
    ):
        assert part in text
    assert np.isfinite(run._update()["kto_loss"])


def test_kto_refuses_a_file_without_judgements_and_settings_without_effect(tmp_path):
    (tmp_path / "judged.jsonl").write_text(json.dumps({**LINE, "choice": "tie"}) + "\n")
    run = trainer("kto", tmp_path / "run", preferences=str(tmp_path / "judged.jsonl"))
    with pytest.raises(ValueError, match=r"no desirable or undesirable response \(.*1 are ties.*label it first"):
        run.algorithm.prepare(run.env)
    with pytest.raises(ValueError, match="nothing to learn: give one"):
        KTOConfig(desirable_weight=0.0, undesirable_weight=0.0)
    with pytest.raises(ValueError, match="judgements=10 has no effect"):
        KTOConfig(preferences="x", judgements=10)
