"""Learning from judgements: likelihoods against closed forms and by hand, and models that recover an order."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from agents.rollouts.pairs import annotate
from mmenv.data.sample import Response, Sample
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.feedback.comparison import Comparison
from mmenv.rewards.preference import losses
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.preference.evidence import PAIR, RANKED, SCORED, TIED, Likelihood, flatten
from mmenv.rewards.preference.model import PreferenceHead, PreferenceModel
from mmenv.rewards.preference.training import Pairs, agreement, fit
from mmenv.worlds.vocabulary import world_tokenizer
from tests.backbones import small_backbone

GAPS = torch.linspace(-4, 4, 9)
WORDS = ("yes", "no", "two", "three")  # from the best to the worst
IMAGE = np.zeros((96, 96, 3), np.uint8)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("model", [losses.davidson, losses.rao_kupper])
def test_win_loss_and_tie_have_probability_one_together(model):
    parameter = torch.tensor(0.7)
    win, tie, loss = (model(g, parameter, t).neg().exp() for g, t in ((GAPS, False), (GAPS, True), (-GAPS, False)))
    torch.testing.assert_close(win + tie + loss, torch.ones(9))


def test_davidson_is_bradley_terry_times_the_chance_of_no_tie():
    gap, nu = torch.tensor([1.3]), 0.5
    both = math.exp(0.65) + math.exp(-0.65)
    expected = math.exp(0.65) / (both + nu)
    assert losses.davidson(gap, torch.tensor(math.log(nu)), False).neg().exp().item() == pytest.approx(expected)
    assert losses.davidson(gap, torch.tensor(-30.0), False).item() == pytest.approx(losses.bradley_terry(gap).item())


def test_rao_kupper_is_a_threshold_in_nats():
    gap, threshold = torch.tensor([1.3]), torch.tensor(0.4)
    assert losses.rao_kupper(gap, threshold, False).neg().exp().item() == pytest.approx(sigmoid(0.9))
    tie = losses.rao_kupper(gap, threshold, True).neg().exp().item()
    assert tie == pytest.approx(1 - sigmoid(0.9) - sigmoid(-1.7), abs=1e-6)


def test_plackett_luce_sums_to_one_over_all_rankings():
    scores = torch.tensor([0.3, -1.0, 2.0, 0.1])
    orders = torch.tensor(list(itertools.permutations(range(4))))
    every = losses.plackett_luce(scores[orders], torch.ones(24, 4, dtype=torch.bool), torch.full((24,), 3))
    assert every.neg().exp().sum().item() == pytest.approx(1)


def test_plackett_luce_of_two_is_bradley_terry_and_padding_says_nothing():
    scores = torch.tensor([[0.5, -0.2, 9.0]])
    real = torch.tensor([[True, True, False]])
    found = losses.plackett_luce(scores, real, torch.tensor([1]))
    assert found.item() == pytest.approx(losses.bradley_terry(torch.tensor([0.7])).item())


def test_the_best_alone_is_a_softmax():
    scores = torch.tensor([[1.0, 0.0, -1.0]])
    found = losses.plackett_luce(scores, torch.ones(1, 3, dtype=torch.bool), torch.tensor([1]))
    assert found.item() == pytest.approx(-scores.log_softmax(1)[0, 0].item())


def test_grades_have_probability_one_together_and_rise_with_the_score():
    thresholds = torch.tensor([-1.0, 0.0, 2.0])
    levels = torch.arange(4).expand(9, 4)
    p = losses.cumulative_logit(GAPS[:, None].expand(9, 4), levels, thresholds).neg().exp()
    torch.testing.assert_close(p.sum(1), torch.ones(9))
    assert ((p * torch.arange(4)).sum(1).diff() > 0).all()
    assert p[4, 0].item() == pytest.approx(sigmoid(-1.0))


def test_a_margin_asks_for_a_clearer_difference():
    a, b = torch.tensor([1.0]), torch.tensor([0.0])
    assert losses.bradley_terry(a - b - 1.0).item() == pytest.approx(math.log(2))
    assert losses.bradley_terry(a - b).item() < math.log(2)


def comparison(responses, **judged):
    return Comparison("s", "what ?", tuple(responses), annotator="ann", **judged)


def samples_of(comparisons):
    return [Sample(f"s/{i}", i, "what ?", IMAGE) for i, _ in enumerate(comparisons)]


def test_each_judgement_is_read_as_what_it_is():
    mixed = [
        comparison("ab", choice=1),
        comparison("abc", choice=2),
        comparison("abc", ranking=(1, 2, 0)),
        comparison("ab", choice="tie"),
        comparison("ab", scores=(1, 4)),
        comparison("ab"),
        comparison("a", choice=0),
        Comparison("s", "p", ("a", "b"), scores=(0.1, 0.2)),  # a reward function's
    ]
    of, responses, evidence = flatten(mixed, samples_of(mixed), RewardConfig())
    assert evidence.kind.tolist() == [PAIR, RANKED, RANKED, TIED, SCORED]
    assert evidence.stages[:3].tolist() == [1, 1, 2]
    said = [
        [responses[r].text for r, real in zip(*row, strict=True) if real] for row in zip(evidence.rows, evidence.real)
    ]
    assert said == [["b", "a"], ["c", "a", "b"], ["b", "c", "a"], ["a", "b"], ["a", "b"]]
    assert [s.index for s in of] == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4]
    dropped = flatten(mixed, samples_of(mixed), RewardConfig(ties="drop"))[2]
    assert dropped.kind.tolist() == [PAIR, RANKED, RANKED, SCORED]


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(ValueError, match="label some"):
        flatten([comparison("ab")], samples_of("a"), RewardConfig())
    with pytest.raises(ValueError, match="'drop'"):
        RewardConfig(ties="ignore")
    many = [comparison("ab", scores=(i, i + 0.5)) for i in range(20)]
    evidence = flatten(many, samples_of(many), RewardConfig())[2]
    with pytest.raises(ValueError, match="regression"):
        Likelihood(evidence, RewardConfig())


def test_margins_are_in_nats_and_the_clearest_is_one():
    chosen = [comparison("ab", choice=0, scores=(5, 1)), comparison("ab", choice=1, scores=(2, 3))]
    margin = flatten(chosen, samples_of(chosen), RewardConfig(margins=True))[2].margin
    assert margin.tolist() == [1.0, 0.25]
    assert flatten(chosen, samples_of(chosen), RewardConfig())[2].margin.tolist() == [0.0, 0.0]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return small_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.mark.parametrize("kind", ["last", "mean", "sum"])
def test_padding_changes_no_score(kind):
    torch.manual_seed(0)
    head = PreferenceHead(kind, 16)
    states, tokens, words = torch.randn(5, 7, 16), torch.randint(9, (5, 7)), torch.randn(9, 16)
    lengths = [1, 7, 3, 2, 5]
    mask = (torch.arange(7) < torch.tensor(lengths)[:, None]).float()
    rows = [(slice(i, i + 1), slice(n)) for i, n in enumerate(lengths)]
    alone = [head(states[row], tokens[row], words, mask[row]) for row in rows]
    torch.testing.assert_close(head(states, tokens, words, mask), torch.cat(alone))


def test_a_sum_adds_log_probabilities_and_what_the_layer_reads_is_a_mean():
    torch.manual_seed(0)
    state, token, words = torch.randn(1, 1, 16), torch.tensor([[4]]), torch.randn(9, 16)
    for kind, times in (("sum", 6), ("mean", 1), ("last", 1)):
        head = PreferenceHead(kind, 16)
        once = head(state, token, words, torch.ones(1, 1))
        six = head(state.expand(1, 6, 16), token.expand(1, 6), words, torch.ones(1, 6))
        read = head.out(head.body(state))[0, 0]
        torch.testing.assert_close(six - read, times * (once - read))


def test_a_new_head_scores_words_by_the_log_probabilities_of_the_language_head(backbone):
    model, sample = PreferenceModel(backbone, head="sum"), Sample("s", 0, "what ?", IMAGE)
    torch.nn.init.zeros_(model.head.out.weight)  # the layer is drawn by the seed, so that members differ
    words = ["red", "two", "dog", "yes", "left"]
    scores = model([sample] * 5, [Response(word, stop="budget") for word in words])
    with torch.no_grad():
        reading = model.reader.read([sample], [Response("red")])
        logits = backbone.network.logits(backbone.network(reading.prefix, reading.tokens)[0, 0]).log_softmax(0)
    expected = [logits[backbone.tokenizer.encode(word)[0]].item() for word in words]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def judged(how, n=160, seed=0):
    """Comparisons of the four words by an annotator who knows their order."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(n):
        k = 2 if how in ("choice", "margin") else 3
        names = [WORDS[i] for i in rng.permutation(4)[:k]]
        order = sorted(range(k), key=lambda i: WORDS.index(names[i]))
        grades = tuple(float(4 - WORDS.index(name)) for name in names)
        if how == "ranking":
            found.append(comparison(names, ranking=tuple(order)))
        elif how == "scores":
            found.append(comparison(names, scores=grades))
        elif how == "margin":
            found.append(comparison(names, choice=order[0], scores=grades))
        else:
            found.append(comparison(names, choice=order[0]))
    return found


@pytest.mark.parametrize(
    ("how", "config"),
    [
        ("choice", RewardConfig()),
        ("best of three", RewardConfig()),
        ("margin", RewardConfig(margins=True)),
        ("ranking", RewardConfig()),
        ("scores", RewardConfig()),
        ("scores", RewardConfig(scores="regression")),
    ],
)
def test_the_order_is_learned_from_every_kind_of_judgement(backbone, how, config):
    torch.manual_seed(0)
    model, comparisons = PreferenceModel(backbone), judged(how)
    config = dataclasses.replace(config, epochs=10, lr=5e-3, backbone_lr=3e-3, batch=32)
    fit(model, comparisons, samples_of(comparisons), config)
    scores = model(samples_of(WORDS), comparison(WORDS).as_responses())
    known = 3 if how == "best of three" else 4  # the two worst of four are never the best of three
    assert (np.diff(scores[:known]) < 0).all(), scores
    said = model(*flatten(comparisons, samples_of(comparisons), config)[:2])
    assert said.mean() == pytest.approx(0, abs=0.02)
    assert said.std() == pytest.approx(1, abs=0.02)


def test_the_centre_pulls_the_mean_score_of_a_comparison_to_zero(backbone):
    comparisons, level = judged("choice"), {}
    for centre in (0.0, 1.0):
        torch.manual_seed(0)
        model = PreferenceModel(backbone)
        config = RewardConfig(epochs=10, lr=5e-3, backbone_lr=3e-3, batch=32, centre=centre)
        fit(model, comparisons, samples_of(comparisons), config)
        level[centre] = abs(model.mean)
    assert level[0.0] > 1, level
    assert level[1.0] < 0.2, level


@pytest.mark.parametrize("ties", ["davidson", "rao-kupper"])
def test_ties_bring_scores_together(backbone, ties):
    """Yes and two are tied whenever they meet; yes beats no. Dropped, the ties say nothing of two."""
    tied = [comparison(("yes", "two"), choice="tie")] * 60
    won = [comparison(("yes", "no"), choice=0)] * 60
    gaps = {}
    for how in (ties, "drop"):
        torch.manual_seed(0)
        model = PreferenceModel(backbone)
        fit(model, tied + won, samples_of(tied + won), RewardConfig(10, 5e-3, 3e-3, batch=32, ties=how))
        yes, no, two = model(samples_of("abc"), comparison(("yes", "no", "two")).as_responses()) * model.std
        gaps[how] = abs(yes - two)
        assert yes - no > 1
    assert gaps[ties] < 0.5
    assert gaps[ties] < gaps["drop"]


@pytest.mark.parametrize("ties", ["davidson", "rao-kupper"])
def test_how_common_ties_are_is_recovered(ties):
    """Outcomes drawn from the model itself, scores known: the likelihood finds its parameter."""
    rng, n = np.random.default_rng(0), 6000
    gap = torch.from_numpy(rng.normal(0, 1.5, n)).float()
    true = torch.tensor(-0.3) if ties == "davidson" else torch.tensor(0.6)
    loss = losses.davidson if ties == "davidson" else losses.rao_kupper
    p = torch.stack([loss(gap, true, False), loss(-gap, true, False), loss(gap, true, True)], 1).neg().exp().numpy()
    drawn = [rng.choice(3, p=row / row.sum()) for row in p]
    made = [comparison("ab", choice=(0, 1, "tie")[d]) for d in drawn]
    evidence = flatten(made, samples_of(made), RewardConfig())[2]
    found = Likelihood(evidence, RewardConfig(ties=ties))
    scores = torch.where(
        torch.tensor(drawn)[:, None] == 1, torch.stack([0 * gap, gap], 1), torch.stack([gap, 0 * gap], 1)
    )
    optimiser = torch.optim.Adam(found.parameters(), lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        found(scores, evidence).mean().backward()
        optimiser.step()
    learned = found.tie if ties == "davidson" else torch.nn.functional.softplus(found.tie)
    assert learned.item() == pytest.approx(true.item(), abs=0.1)


def test_training_repeats_itself_and_leaves_global_randomness_alone(backbone):
    comparisons, weights = judged("choice", 40), []
    torch.manual_seed(5)
    for _ in range(2):
        before = torch.random.get_rng_state()
        model = PreferenceModel(backbone)
        torch.random.set_rng_state(before)
        fit(model, comparisons, samples_of(comparisons), RewardConfig(epochs=2))
        assert torch.equal(torch.random.get_rng_state(), before)
        weights.append(model.head.out.weight.detach().clone())
    assert torch.equal(*weights)


def test_a_confident_fit_tells_the_loss_of_every_epoch(backbone):
    comparisons, seen = judged("choice", 64), []
    model = PreferenceModel(backbone)
    config = RewardConfig(epochs=6, lr=5e-3, backbone_lr=3e-3, batch=16)
    fit(model, comparisons, samples_of(comparisons), config, lambda passes, loss: seen.append((passes, loss)))
    assert [passes for passes, _ in seen] == [k / 4 for k in range(1, 25)]
    assert seen[-1][1] < 0.5 * seen[3][1]


def named(n, words, seed):
    """Pairs of a word of the prompt and another word; gold is 1 for the first."""
    rng = np.random.default_rng(seed)
    samples, responses, gold = [], [], []
    for i in range(n):
        first, second, absent = (words[k] for k in rng.choice(len(words), 3, replace=False))
        pair = [(first, second)[rng.integers(2)], absent][:: 1 if rng.random() < 0.5 else -1]
        samples.append(Sample(f"s/{i}", i, f"{first} {second}", IMAGE))
        responses.append(tuple(Response(word) for word in pair))
        gold.append([float(word != absent) for word in pair])
    return Pairs(samples, responses, np.array(gold))


@pytest.mark.slow
def test_a_model_trained_whole_learns_to_match_response_and_prompt_where_a_head_alone_cannot(tmp_path):
    """The backbone is untrained: its last state holds no match, and no head finds one in it.

    A head that reads each token would: it compares words with states, into which attention begins by copying.
    """
    words = [word for word in world_tokenizer().words[3:] if word.isalpha()][-24:]
    parent = small_backbone(tmp_path, width=64, layers=2, image_side=32, image_grid=2)
    train, test = named(2000, words, 0), named(200, words, 1)
    labels = annotate(train, SyntheticAnnotator(0.0), np.random.default_rng(0))
    found = {}
    for config in (RewardConfig(4, 3e-3, 3e-3), RewardConfig(4, 3e-3, trained="head")):
        torch.manual_seed(0)
        model = PreferenceModel(parent, head="last")
        fit(model, labels, train.samples, config)
        found[config.trained] = agreement(model, test)[0]
    assert found["all"] > 0.9
    assert found["head"] < 0.65


def test_training_leaves_the_parent_and_its_encoders_as_they_are(backbone):
    comparisons, before = judged("choice", 40), {k: v.clone() for k, v in backbone.network.state_dict().items()}
    model = PreferenceModel(backbone)
    fit(model, comparisons, samples_of(comparisons), RewardConfig(epochs=1))
    after = model.backbone.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.network.state_dict().items())
    assert {"embed.weight", "blocks.0.qkv.weight", "norm.weight"} <= changed
    assert not {name for name in changed if name.startswith(("encoders", "media_position", "value_head"))}
    assert model.backbone.encoders is backbone.network.encoders


def test_a_head_alone_leaves_the_backbone_to_its_parent(backbone):
    comparisons, model = judged("choice", 40), PreferenceModel(backbone)
    fit(model, comparisons, samples_of(comparisons), RewardConfig(epochs=1, trained="head"))
    assert model.backbone is backbone.network
    assert not any(parameter.requires_grad for parameter in backbone.network.parameters())


def test_a_rate_that_has_no_effect_is_refused_and_so_are_impossible_ones():
    with pytest.raises(ValueError, match=r"backbone_lr=0\.01 has no effect with trained='head'"):
        RewardConfig(trained="head", backbone_lr=0.01)
    for field, bad in {"lr": 0.0, "backbone_lr": 2.0, "l2": -0.1, "epochs": 0, "batch": 0, "hidden": 0}.items():
        with pytest.raises(ValueError, match=f"{field}={bad}"):
            RewardConfig(**{field: bad})
    for field in ("trained", "head", "ties", "scores"):
        with pytest.raises(ValueError, match=f"{field}='odd' is unknown: give one of"):
            RewardConfig(**{field: "odd"})
