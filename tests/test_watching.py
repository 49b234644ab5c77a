"""What a run says of itself: chosen responses, what is watched, memory of passes, and what not to rely on."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_algorithms import even_tokens, trainer
from test_ppo import tiny
from torch.overrides import TorchFunctionMode

from agents import files
from agents.algorithms.nlpo import NLPO, NLPOConfig
from agents.algorithms.registry import ALGORITHMS
from agents.algorithms.reinforce import RLOO
from agents.policies.chooser import Chooser
from agents.training import cautions
from agents.training.alarm import alarm


def test_the_curves_of_best_of_n_show_the_responses_that_it_chose(tmp_path):
    run = trainer("best-of-n", tmp_path / "run", n=8)
    run.policy.eval()
    plain = run.algorithm.play(run.policy, run.env).scores.mean().item()
    row = run._update()
    assert row["reward"] > plain + 0.02
    assert row["kl"] == pytest.approx(np.log(8) - 7 / 8)
    assert "gold" in row
    batch = run.algorithm.collect(run.env)
    said = [tuple(t[: int(m.sum())].tolist()) for t, m in zip(batch.tokens, batch.mask, strict=True)]
    paid = even_tokens(batch.samples, [dataclasses.make_dataclass("R", ["tokens"])(tokens) for tokens in said])
    np.testing.assert_allclose(batch.scores, paid, atol=1e-6)


def test_best_of_n_in_a_dialogue_chooses_every_reply(tmp_path):
    run = trainer("best-of-n", tmp_path / "run", n=2, num_envs=4, env_id="mmenv/SpokenDialogue-v0")
    batch = run.algorithm.collect(run.env)
    assert {sample.turn for sample in batch.samples} > {0}
    assert len(batch.texts) == len(batch.samples) == len(batch.scores) == len(batch.gold)


class OnDevice(TorchFunctionMode):
    """Notes tensors that are made without saying where: on a GPU they could not index what lies there."""

    makers = (torch.arange, torch.full, torch.ones, torch.zeros, torch.tensor, torch.empty)

    def __init__(self):
        self.made = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in self.makers and "device" not in (kwargs or {}):
            self.made.append(function.__name__)
        return function(*args, **(kwargs or {}))


def test_best_of_n_makes_its_tensors_on_the_policys_device(tmp_path):
    run = trainer("best-of-n", tmp_path / "run", n=2)
    run.policy.eval()
    chooser = Chooser(run.policy, run.env, 2, torch.Generator().manual_seed(0))
    hidden = torch.zeros(3, run.policy.network.config.width)

    class Canned:
        """A cache that needs no network, whose own tensors are not the chooser's."""

        def select(self, index):
            assert index.device == run.policy.device
            return self

    chooser.policy = run.policy
    run.policy.encode = lambda observations: None
    run.policy.begin = lambda prefix: (hidden, Canned())
    run.policy.step = lambda tokens, cache: hidden.repeat_interleave(2, 0)
    with OnDevice() as noted:
        tokens = chooser.write({})
    assert tokens.shape == (6, 6)
    assert noted.made == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_trains_and_evaluates_on_a_gpu(tmp_path, name):
    run = trainer(name, tmp_path / "run", device="cuda", total_tokens=100, eval_episodes=8)
    run.train()
    assert np.isfinite(json.loads((tmp_path / "run" / "summary.json").read_text())["reward"]["after"])


@pytest.mark.parametrize("name", ["sft", "distillation", "offline-dpo"])
def test_off_policy_algorithms_sample_their_own_responses_as_often_as_asked(tmp_path, name):
    run = trainer(name, tmp_path / "run", watch_every=2)
    rows = [run._update() for _ in range(4)]
    assert [("reward" in row, "kl" in row) for row in rows] == [(False, False), (True, True)] * 2
    never = trainer(name, tmp_path / "never", watch_every=None, total_tokens=100)
    never.train()
    rows = files.read_lines(tmp_path / "never" / "metrics.jsonl")
    assert not any("reward" in row for row in rows)
    assert np.isfinite(json.loads((tmp_path / "never" / "summary.json").read_text())["kl"])


class Mute(RLOO):
    """One of one's own whose update says nothing of the KL."""

    def update(self, batch, progress):
        super().update(batch, progress)
        return {}


def test_the_kl_is_known_where_an_algorithm_of_ones_own_says_nothing_of_it(tmp_path):
    run = trainer("test_watching:Mute", tmp_path / "run")
    assert np.isfinite(run._update()["kl"])


@pytest.mark.parametrize("name", ["ppo", "grpo", "online-dpo", "expert-iteration"])
def test_no_pass_reads_more_responses_than_a_part_of_a_step_holds(tmp_path, name, monkeypatch):
    run = trainer(name, tmp_path / "run", num_envs=16, minibatches=2, micro_batches=4, responses_per_context=4)
    widths = []
    for policy in (run.policy, run.algorithm.reference):
        read = policy.read

        def counted(responses, read=read):
            widths.append(len(responses.tokens))
            return read(responses)

        monkeypatch.setattr(policy, "read", counted)
    run._update()
    run._final_kl()
    assert max(widths) <= 2, "16 responses, two minibatches of four parts each"


def test_passes_in_parts_score_as_one_does(tmp_path):
    run = trainer("ppo", tmp_path / "run", minibatches=2)
    run.policy.eval()
    algorithm, batch = run.algorithm, run.algorithm.play(run.policy, run.env)
    stepper, responses = algorithm.stepper, batch.responses()
    whole = stepper.evaluate(algorithm.reference, responses)
    stepper.config = dataclasses.replace(algorithm.config, micro_batches=3)
    parts = stepper.evaluate(algorithm.reference, responses)
    alone = stepper.evaluate(algorithm.reference, responses, entropy=False)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a * batch.mask, b * batch.mask, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole[0], alone[0], atol=1e-5, rtol=1e-5)
    assert not alone[1].any()


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_tokens_may_be_scored_again_so_that_ratios_begin_at_1(tmp_path, name):
    ratios = []
    for again in (False, True):
        run = trainer(name, tmp_path / str(again), recompute_logp=again, minibatches=1, epochs=1)
        sampled = run.algorithm.collect

        def drifted(env, collect=sampled):
            batch = collect(env)
            return dataclasses.replace(batch, logp=batch.logp - 0.1 * batch.mask)  # as another kernel would have it

        run.algorithm.collect = drifted
        ratios.append(run._update()["first_ratio"])
    assert ratios == [pytest.approx(np.exp(0.1), rel=1e-4), pytest.approx(1.0, abs=1e-6)]


def test_a_token_that_nlpo_sampled_never_has_probability_0_when_it_is_scored(tmp_path):
    run = trainer("nlpo", tmp_path / "run", mask_top_p=0.3)
    run.policy.eval()
    batch = run.algorithm.collect(run.env)
    with torch.no_grad():
        # The mask moves a little, as it does between a cached and a parallel pass in bfloat16: the border flips.
        for p in run.policy.mask.network.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
        logp = run.policy.evaluate(batch.responses())[0]
    assert torch.isfinite(logp).all()


def test_nlpo_refuses_a_network_of_which_there_is_no_copy():
    """A model of transformers shares its weights with its frozen start, whose state is another."""
    network = tiny()
    network.frozen = lambda: SimpleNamespace(trained_state=dict)
    with pytest.raises(ValueError, match="which a model of transformers does not give: take ppo"):
        NLPO.make_policy(NLPOConfig(), network, 6, torch.Generator())


def reported(path, **report):
    save_file({"x": torch.zeros(1)}, path, {"report": json.dumps(report)})
    return str(path)


def test_a_reward_that_may_be_no_better_than_chance_is_named(tmp_path):
    poor = reported(tmp_path / "poor.safetensors", accuracy=0.25, low=0.071, high=0.591, n=8)
    good = reported(tmp_path / "good.safetensors", accuracy=0.8, low=0.7, high=0.9, n=100)
    save_file({"x": torch.zeros(1)}, tmp_path / "silent.safetensors")
    told = cautions.of_models(poor, poor)
    assert [sentence.split()[0] for sentence in told] == ["reward", "judge"]
    assert "25.0% of 8 held-out comparisons, interval 7.1% to 59.1%" in told[0]
    for fine in (good, str(tmp_path / "silent.safetensors"), "preference", "http://localhost:1"):
        assert cautions.of_models(fine) == []


def test_a_run_too_short_for_its_alarm_says_so(tmp_path):
    rows = [{"judge": 0.0, "judge_error": 0.1, "reward": 0.0, "tokens": i} for i in range(12)]
    assert cautions.of_alarm(rows) is None
    assert "means over 6 updates, and the judge saw 7" in cautions.of_alarm(rows[:7])
    assert "the judge saw 2" in cautions.of_alarm([{"tokens": 1}, *rows[:2], {"tokens": 3}])
    run = trainer("ppo", tmp_path / "run", judge="preference", env_id="mmenv/VQA-v0")
    run.train()
    assert "give more --total-tokens" in json.loads((tmp_path / "run" / "summary.json").read_text())["cautions"][0]


def test_the_alarm_passes_over_updates_at_which_nobody_judged():
    judged = [
        {"judge": j, "judge_error": 0.01, "reward": 0.0, "tokens": i} for i, j in enumerate([1.0] * 6 + [0.0] * 6)
    ]
    thin = [row for one in judged for row in ({"tokens": one["tokens"]}, one)]
    assert alarm(judged) is not None
    assert alarm(thin).tokens == alarm(judged).tokens
