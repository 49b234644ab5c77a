"""Offline DPO: every pair that a judgement states is learned from, and what states none is told by number."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_algorithms import trainer

from agents.distributed import processes
from agents.rollouts.batch import Batch, to_responses, tokens_of
from mmenv.data.sample import Response

LINE = {
    "sample_id": "a",
    "prompt": "what is it ?",
    "responses": ["yes", "no"],
    "choice": None,
    "annotator": "ann",
    "image": "x.png",
}
JUDGED = {
    "choice": {"choice": 1},
    "four": {"responses": ["yes", "no", "two", "three"], "choice": 2},
    "ranking": {"responses": ["yes", "no", "two"], "ranking": [2, 0, 1]},
    "scores": {"responses": ["yes", "no", "two"], "scores": [1, 3, 3]},
}
SILENT = {
    "tie": {"choice": "tie"},
    "equal scores": {"scores": [2, 2]},
    "single": {"responses": ["yes"], "scores": [5]},
    "of a run": {"scores": [0.1, 0.9], "annotator": None},
}
STATED = {
    "choice": [("no", "yes")],
    "four": [("two", "yes"), ("two", "no"), ("two", "three")],
    "ranking": [("two", "yes"), ("two", "no"), ("yes", "no")],
    "scores": [("no", "yes"), ("two", "yes")],
}  # fmt: skip


def read(tmp_path, lines, tail=""):
    """The batch of a file of judgements."""
    tmp_path.mkdir(exist_ok=True)
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(tmp_path / "x.png")
    text = "".join(json.dumps({**LINE, "sample_id": str(i), **line}) + "\n" for i, line in enumerate(lines))
    (tmp_path / "judged.jsonl").write_text(text + tail)
    run = trainer("offline-dpo", tmp_path / "run", preferences=str(tmp_path / "judged.jsonl"))
    run.algorithm.prepare(run.env)
    return run.algorithm.pairs


def pairs_in(batch):
    return [tuple(batch.texts[i : i + 2]) for i in range(0, len(batch.texts), 2)]


@pytest.mark.parametrize("kind", JUDGED)
def test_a_judgement_becomes_the_pairs_that_it_states(tmp_path, kind):
    assert sorted(pairs_in(read(tmp_path, [JUDGED[kind]]))) == sorted(STATED[kind])


def test_all_judgements_of_a_file_are_learned_from_and_the_rest_is_counted(tmp_path, capsys):
    lines = [*JUDGED.values(), *SILENT.values()]
    data = read(tmp_path, lines, '{"sample_id": "q", "prompt": "x", "responses": ["a"')
    assert len(pairs_in(data)) == 9
    said = capsys.readouterr().out
    for told in ("4 judgements state 9 pairs", "2 are ties", "1 are of a single response", "1 are not judged yet",
                 "1 lines cannot be read, as line 9"):  # fmt: skip
        assert told in said


def test_a_file_that_states_no_preference_says_what_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"no preference between two responses .*2 are ties.*label it first"):
        read(tmp_path, SILENT.values())


def test_pairs_that_are_equal_within_the_budget_are_left_out_and_counted(tmp_path, capsys):
    long = "a red car is left of the dog "  # six tokens are the budget
    lines = [{"choice": 0, "responses": [long + "yes", long + "no"]}, {"choice": 0}]
    assert pairs_in(read(tmp_path, lines)) == [("yes", "no")]
    assert "1 of 2 pairs are the same within 6 tokens and are left out" in capsys.readouterr().out
    with pytest.raises(ValueError, match="none of 1 pairs differs within 6 tokens"):
        read(tmp_path / "alone", lines[:1])


def test_responses_that_are_cut_are_counted(tmp_path, capsys):
    read(tmp_path, [{"choice": 0, "responses": ["a red car is left of the dog", "no"]}])
    assert "1 of 2 responses are cut to 6 tokens" in capsys.readouterr().out


def test_own_responses_are_learned_from_as_the_tokens_that_were_sampled(tmp_path):
    run = trainer("offline-dpo", tmp_path / "run")
    run.policy.eval()
    batch = run.algorithm.play(run.policy, run.env)
    said = to_responses(batch)
    again = Batch.from_responses(run.policy, run.env, batch.samples, [[r] for r in said])
    assert torch.equal(again.tokens, batch.tokens)
    assert torch.equal(again.mask, batch.mask)
    # A text that encodes otherwise than it was sampled does not matter.
    odd = Response("yes", (9, 8, 7), "budget")
    assert tokens_of(run.env.tokenizer, odd, 6) == [9, 8, 7]
    assert tokens_of(run.env.tokenizer, odd, 2) == [9, 8]


def test_several_processes_share_the_pairs_and_all_learn_from_all(tmp_path, monkeypatch):
    run = trainer("offline-dpo", tmp_path / "run")
    run.policy.eval()
    shares = []

    def gather(value):
        shares.append(value)
        return [value, value]

    monkeypatch.setattr(processes, "size", lambda: 2)
    monkeypatch.setattr(processes, "gather", gather)
    pairs = run.algorithm._sampled(run.env)
    assert len(shares[0]) == 20
    assert len(pairs) == 40


def test_a_start_that_always_says_the_same_gives_no_pairs_and_ends_in_a_sentence(tmp_path):
    run = trainer("offline-dpo", tmp_path / "run", temperature=1e-6)
    run.policy.eval()
    generator, state = run.algorithm.reference.generator, run.randomness.rng.bit_generator.state
    with pytest.raises(ValueError, match=r"0 pairs that differ in .* give fewer --pairs"):
        run.algorithm.collect(run.env)
    assert run.algorithm.reference.generator is generator
    assert run.randomness.rng.bit_generator.state == state


def test_the_encoder_learns_from_demonstrations_where_it_is_asked_to(tmp_path):
    run = trainer("sft", tmp_path / "run", train_encoder=True, total_tokens=1)
    encoder = [p.detach().clone() for p in run.policy.network.encoder_parameters()]
    run._update()
    assert not all(torch.equal(a, b) for a, b in zip(encoder, run.policy.network.encoder_parameters(), strict=True))
    assert np.isfinite(run.last_kl)
