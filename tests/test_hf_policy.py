"""Models of transformers as policies: one distribution, adapters, starts, and what is refused."""

from __future__ import annotations

import dataclasses
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from tokenizers.processors import TemplateProcessing

from agents import files
from agents.algorithms.imitation import SFTConfig
from agents.algorithms.ppo import PPOConfig
from agents.algorithms.registry import find
from agents.distributed import sharding
from agents.policies.token_policy import Responses, TokenPolicy
from agents.policies.transformers.config import HFConfig
from agents.policies.transformers.loading import load_transformers, merged
from agents.policies.transformers.network import HFNetwork
from agents.rollouts.rollout import rollout
from agents.training.start import find_start
from agents.training.trainer import Trainer
from benchmarks.models import KINDS, SPECIAL, llama, llava, qwen2_vl, tokenizer, words
from mmenv.models.checkpoints import WeightsError
from mmenv.models.representation.word_alignment import image_batch
from mmenv.tokenizer import HFTokenizer
from mmenv.worlds.things import COLOURS, DIGITS, LETTERS, SIZES, concepts, mark_word
from mmenv.worlds.vocabulary import world_tokenizer

TASKS = {"llama": "mmenv/VQA-v0", "llava": "mmenv/VQA-v0", "qwen2-audio": "mmenv/SpokenDialogue-v0"}
ENDS = frozenset({1, *range(60, 140)})  # many, so that responses of random weights are of many lengths


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    shorter = {"qwen2-audio": {"seconds": 4}}  # the longest utterance has three
    return {kind: make(tmp_path_factory.mktemp(kind), **shorter.get(kind, {})) for kind, make in KINDS.items()}


def network_of(folders, kind, **asked):
    image_encoder = "encoders" if kind == "llama" else ""
    network = load_transformers(
        HFConfig(str(folders[kind]), **{"lora_rank": 4, "image_encoder": image_encoder, **asked})
    )
    network.tokenizer.eos_ids = ENDS
    return network


def env_of(network, env_id, n=8, **arguments):
    arguments = {"reward": "gold", "tokenizer": network.tokenizer, **arguments}
    return gym.make_vec(env_id, num_envs=n, autoreset_mode="Disabled", copy=False, **arguments).unwrapped


def policy_of(network, **asked):
    return TokenPolicy(network, 32, generator=torch.Generator().manual_seed(0), **asked).eval()


def played(folders, kind, n=16, each=2, **asked):
    """A policy that has learned something, and its responses to contexts that several of them share."""
    network = network_of(folders, kind, **asked)
    learn_something(network)
    policy, env = policy_of(network), env_of(network, TASKS[kind], n)
    return policy, rollout(policy, env, {"sample_index": np.arange(n // each).repeat(each)})


def learn_something(network):
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.requires_grad and ("lora_B" in name or "value" in name):
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [4, 0])
def test_cached_logprobs_equal_those_of_the_parallel_pass(folders, kind, rank):
    policy, batch = played(folders, kind, lora_rank=rank)
    lengths = batch.mask.sum(1)
    assert len(lengths.unique()) > 4
    assert not batch.prefix.mask.all()  # prompts of several lengths: padding on the left
    with torch.no_grad():
        logp, values, _ = policy.evaluate(batch.responses())
    assert (logp - batch.logp).abs().max() < 1e-4
    assert ((values - batch.values) * batch.mask).abs().max() < 1e-4


def test_responses_that_begin_with_a_prefix_are_scored_as_they_were_sampled(folders):
    network = network_of(folders, "llava")
    learn_something(network)
    policy, env = policy_of(network), env_of(network, TASKS["llava"])
    prefixes = [[], [40], [41, 42, 43], [44], [], [45, 46], [41, 42, 43], [47]]
    batch = rollout(policy, env, {"sample_index": np.arange(4).repeat(2), "response": prefixes})
    assert (batch.mask.argmax(1) == torch.tensor([len(p) for p in prefixes])).all()
    with torch.no_grad():
        logp, values, _ = policy.evaluate(batch.responses())
    assert (logp - batch.logp).abs().max() < 1e-4
    assert ((values - batch.values) * batch.mask).abs().max() < 1e-4


def test_positions_in_three_directions_are_those_of_qwen2_vl_itself():
    network = HFNetwork(*qwen2_vl(), HFConfig("qwen2-vl", lora_rank=4))
    network.tokenizer.eos_ids = ENDS
    learn_something(network)
    policy = policy_of(network)
    batch = rollout(policy, env_of(network, "mmenv/VQA-v0"), {"sample_index": np.arange(4).repeat(2)})
    with torch.no_grad():
        logp = policy.evaluate(batch.responses())[0]
    assert (logp - batch.logp).abs().max() < 1e-4
    for i, context in enumerate(batch.contexts.tolist()):
        prefix, n = batch.prefix.select(torch.tensor([context])), int(batch.mask[i].sum())
        ids = torch.cat([prefix.prompt[:, prefix.mask[0]], batch.tokens[i : i + 1, :n]], 1)
        with torch.no_grad():
            out = network.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=(ids == 3).int(),
                image_grid_thw=prefix.media["image_grid_thw"].flatten(0, 1),
                pixel_values=prefix.media["pixel_values"].flatten(0, 1),
            )  # fmt: skip
        theirs = out.logits[0, -n - 1 : -1, : network.config.vocab_size] + policy.logit_bias
        sampled = batch.tokens[i, :n, None]
        assert (theirs.log_softmax(-1).gather(1, sampled)[:, 0] - batch.logp[i, :n]).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_what_act_says_token_by_token_scores_the_same_in_the_parallel_pass(folders, kind):
    network = network_of(folders, kind)
    policy, env = policy_of(network), env_of(network, TASKS[kind])
    observations, _ = env.reset(options={"sample_index": np.arange(8)})
    prefix, state, starts = policy.encode(observations), None, np.ones(8, bool)
    sampled, logps = [], []
    for _ in range(4):
        actions, logp, _, state = policy.act(observations, state, starts)
        starts = np.zeros(8, bool)
        sampled.append(torch.from_numpy(actions))
        logps.append(torch.from_numpy(logp))
    tokens = torch.stack(sampled, 1)
    with torch.no_grad():
        logp, *_ = policy.evaluate(Responses(prefix, tokens, torch.ones(8, 4), torch.arange(8)))
    assert (logp - torch.stack(logps, 1)).abs().max() < 1e-4


def test_a_fresh_context_among_old_ones_is_read_as_if_it_were_alone(folders):
    network = network_of(folders, "qwen2-audio")
    env, policy = env_of(network, TASKS["qwen2-audio"], 4), policy_of(network)
    observations, _ = env.reset(options={"sample_index": np.arange(4)})
    prefix = policy.encode(observations)
    with torch.no_grad():
        _, cache = policy.begin(prefix)
        for token in (20, 21, 22):
            policy.step(torch.full((4,), token), cache)
        _, fresh = policy.begin(policy.encode(observations, np.array([2])))
        cache.replace(torch.tensor([1]), fresh)
        after = policy.step(torch.full((4,), 30), cache)
        _, alone = policy.begin(policy.encode(observations, np.array([2])))
        expected = policy.step(torch.tensor([30]), alone)
    assert (after[1] - expected[0]).abs().max() < 1e-4
    assert (after[2] - expected[0]).abs().max() > 1e-3  # the others go on with what they wrote


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_with_checkpoints_are_those_without(folders, kind):
    policy, batch = played(folders, kind)
    saving = network_of(folders, kind, gradient_checkpointing=True)
    saving.load_trained_state(policy.network.trained_state())
    grads = []
    for network in (policy.network, saving):
        logp, values, _ = policy_of(network).evaluate(batch.responses())
        (logp.sum() + values.sum()).backward()
        grads.append({n: p.grad for n, p in network.named_parameters() if p.requires_grad})
    for name, grad in grads[0].items():
        assert grad is not None, name
        scale = grad.abs().max().clamp(min=1e-3)
        assert ((grad - grads[1][name]).abs().max() / scale) < 1e-3, name


def test_checkpoints_are_taken_in_the_backward_pass(folders, monkeypatch):
    called = []
    network = network_of(folders, "llava", gradient_checkpointing=True)
    layer = network.model.get_decoder().layers[0]
    monkeypatch.setattr(layer.mlp, "forward", lambda x, f=layer.mlp.forward: (called.append(1), f(x))[1])
    env = env_of(network, TASKS["llava"])
    batch = rollout(policy_of(network), env)
    called.clear()
    logp, *_ = policy_of(network).evaluate(batch.responses())
    assert len(called) == 1
    logp.sum().backward()
    assert len(called) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_the_model_without_adapters(folders, kind):
    policy, batch = played(folders, kind)
    fresh = policy_of(network_of(folders, kind))
    reference = policy_of(policy.network.frozen())
    with torch.no_grad():
        ours, theirs, untrained = (p.evaluate(batch.responses())[0] for p in (policy, reference, fresh))
        again = policy.evaluate(batch.responses())[0]
    assert torch.equal(theirs, untrained)
    assert (ours - theirs).abs().max() > 0.01
    assert torch.equal(ours, again)  # adapters are on again
    shared = {id(p) for p in policy.network.parameters()} | {id(p) for p in policy.network.model.parameters()}
    own = [*reference.network.parameters()]
    vision = policy.network.vision
    projector = 0 if vision is None else sum(p.numel() for p in vision.projector.parameters())
    assert sum(p.numel() for p in own) == projector + policy.network.width + 1  # of the model itself there is one copy
    assert not shared & {id(p) for p in own}


def test_the_reference_keeps_its_projector_while_the_policy_learns(folders):
    network = network_of(folders, "llama")
    reference, env = policy_of(network.frozen()), env_of(network, TASKS["llama"])
    batch = rollout(policy_of(network), env)
    with torch.no_grad():
        before = reference.evaluate(batch.responses())[0]
        network.vision.projector[2].weight += 0.5
        assert torch.equal(reference.evaluate(batch.responses())[0], before)
        assert not torch.equal(policy_of(network).evaluate(batch.responses())[0], before)


def test_an_image_encoder_tells_pictures_apart_and_a_model_without_one_does_not(folders):
    seeing, blind = network_of(folders, "llama"), network_of(folders, "llama", image_encoder="")
    env = env_of(seeing, TASKS["llama"], 2)
    observations, _ = env.reset(options={"sample_index": np.array([0, 1])})
    same = {k: np.stack([v[0], v[0]]) for k, v in observations.items()}
    other = {**same, "image": observations["image"].copy()}
    for network, sees in ((seeing, True), (blind, False)):
        policy = policy_of(network)
        with torch.no_grad():
            hidden = [policy.begin(policy.encode(o))[0][1] for o in (same, other)]
        assert torch.equal(*hidden) != sees


def test_the_image_token_of_a_thing_is_nearest_to_a_word_of_the_model_that_is_true_of_it(folders):
    network, known = network_of(folders, "llama"), world_tokenizer()
    batch = image_batch(16, "test")
    seen = network.vision(network.vision.encode(batch.images))[batch.owner, batch.token]  # (things, width)
    words = torch.cat([network.model.get_input_embeddings().weight[network.tokenizer.encode(w)] for w in known.words])
    nearest = (F.normalize(seen, dim=-1) @ F.normalize(words, dim=-1).T).argmax(-1)
    right = [
        known.words[word] in words_of(*labels) for word, labels in zip(nearest, batch.labels.tolist(), strict=True)
    ]
    assert np.mean(right) > 0.9


def words_of(concept: int, colour: int, mark: int, size: int) -> set[str]:
    """The words that are true of a thing with these labels of ``image_batch``."""
    thing = concepts()[concept]
    carried = (*COLOURS, "")[colour], (*LETTERS, *map(mark_word, DIGITS), "")[mark]
    return {thing.name, thing.plural, thing.category, SIZES[size], *carried}


def test_a_nucleus_is_part_of_the_one_distribution(folders):
    network = network_of(folders, "llava")
    policy, env = policy_of(network, top_p=0.5), env_of(network, TASKS["llava"], 32)
    batch = rollout(policy, env)
    with torch.no_grad():
        logp, _, entropy = policy.evaluate(batch.responses())
        whole = policy_of(network).evaluate(batch.responses())[0]
    assert (logp - batch.logp).abs().max() < 1e-4
    assert torch.isfinite(entropy).all()
    shorter = (logp - whole)[batch.mask > 0]
    assert (shorter > 0.3).all()  # divided by a half or a little more
    learn_something(network)
    moved = policy.evaluate(batch.responses())[0]
    assert torch.isfinite(moved).all()  # also of tokens outside of the moved nucleus


def test_special_tokens_are_never_said_but_the_end_is(folders):
    network = network_of(folders, "llava")
    policy = policy_of(network)
    logp = policy.log_probs(torch.randn(50, network.width))
    special = [i for i in range(len(SPECIAL)) if i not in ENDS]
    assert torch.isinf(logp[:, special]).all()
    assert torch.isfinite(logp[:, len(SPECIAL) :]).all()
    assert torch.isfinite(logp[:, 1]).all()


def test_masks_and_rollouts_of_forty_nine_thousand_actions(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    n = 49_152
    many = [*words(), *(f"w{i}" for i in range(n - len(words())))]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(many)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    config = transformers.LlamaConfig(
        vocab_size=n, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        pad_token_id=0, eos_token_id=1, initializer_range=1.0,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    network = load_transformers(HFConfig(str(tmp_path)))
    env = env_of(network, "mmenv/VQA-v0", 16, action_masking=True)
    assert env.single_action_space.n == n
    env.reset(seed=0)
    masks = env.action_masks()
    assert masks.shape == (16, n)
    assert not masks[:, 0].any()
    assert masks[:, 1:].all()
    batch = rollout(policy_of(network), env)
    assert batch.tokens.max() > 1000
    assert (batch.tokens[batch.mask > 0] != 0).all()


def letters(samples, responses):
    """A reward that any model can climb: the share of words in the first half of the alphabet."""
    return np.array([np.mean([w < "m" for w in r.text.split()] or [0.0]) for r in responses], np.float32)


SHORT = {
    "num_envs": 16, "minibatches": 1, "total_tokens": 400, "eval_episodes": 8,
    "pictures": False, "lora_rank": 4, "learning_rate": 1e-3,
}  # fmt: skip


@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo", "online-dpo", "sft"])
def test_algorithms_train_a_model_that_sees(folders, tmp_path, name):
    config = find(name).Config(start=str(folders["llava"]), **SHORT)
    trainer = Trainer(name, config, tmp_path, reward=letters, max_response_tokens=8)
    before = {k: v.clone() for k, v in trainer.policy.network.trained_state().items()}
    summary = trainer.train()
    assert summary is not None
    assert summary["tokens"] >= 400
    rows = files.read_lines(tmp_path / "metrics.jsonl")
    assert all(np.isfinite(v) for row in rows for v in row.values())
    if name in ("ppo", "grpo"):
        assert rows[0]["first_ratio"] == pytest.approx(1, abs=1e-4)
    after = trainer.policy.network.trained_state()
    assert any(not torch.equal(before[k], after[k]) for k in before if "lora_B" in k)


def test_ppo_with_adapters_climbs_a_reward(folders, tmp_path):
    longer = {"total_tokens": 20_000, "num_envs": 64, "learning_rate": 1e-2, "eval_episodes": 64, "lora_rank": 16}
    free = {"kl_coef": 0.0, "missing_eos_penalty": 0.0, "seed": 1}
    config = PPOConfig(start=str(folders["llava"]), **{**SHORT, **longer, **free})
    summary = Trainer("ppo", config, tmp_path, reward=letters, max_response_tokens=8).train()
    assert summary["reward"]["after"] > summary["reward"]["before"] + 0.15


class Halted(Trainer):
    """A run that is interrupted after its first update."""

    def _update(self):
        row = super()._update()
        self.interrupts.requested = True
        return row


def test_a_resumed_run_ends_with_the_weights_of_one_that_went_through(folders, tmp_path):
    config = PPOConfig(start=str(folders["llava"]), checkpoint_every=1, **SHORT)
    through = Trainer("ppo", config, tmp_path / "through", reward="gold", max_response_tokens=8)
    through.train()
    halted = Halted("ppo", config, tmp_path / "resumed", reward="gold", max_response_tokens=8)
    assert halted.train() is None
    resumed = Trainer("ppo", config, tmp_path / "resumed", resume=True, reward="gold", max_response_tokens=8)
    assert 0 < resumed.tokens < 400
    resumed.train()
    ours, theirs = through.policy.network.trained_state(), resumed.policy.network.trained_state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_what_was_learned_is_back_before_the_policy_is_shared_out(folders, tmp_path, monkeypatch):
    config = PPOConfig(start=str(folders["llava"]), checkpoint_every=1, **SHORT)
    halted = Halted("ppo", config, tmp_path, reward="gold", max_response_tokens=8)
    assert halted.train() is None
    shared = []
    monkeypatch.setattr(sharding, "is_enabled", lambda: True)
    monkeypatch.setattr(sharding, "shard", lambda policy, parts: shared.append(policy.network.trained_state()))
    resumed = Trainer("ppo", config, tmp_path, resume=True, reward="gold", max_response_tokens=8)
    learned = halted.policy.network.trained_state()
    assert any(v.any() for k, v in learned.items() if "lora_B" in k)
    for weights in (shared[0], resumed.policy.network.trained_state()):
        assert all(torch.equal(learned[k], weights[k]) for k in learned)


@pytest.mark.parametrize("kind", ["llama", "llava"])
def test_a_run_that_starts_from_a_run_says_what_that_one_learned(folders, tmp_path, kind):
    image_encoder = "encoders" if kind == "llama" else ""
    config = SFTConfig(start=str(folders[kind]), image_encoder=image_encoder, **SHORT)
    first = Trainer("sft", config, tmp_path / "sft", reward="gold")
    first.train()
    batch = rollout(first.policy, first.env)
    follow = find_start(PPOConfig(start=str(tmp_path / "sft"), lora_rank=2))
    with torch.no_grad():
        learned = first.policy.evaluate(batch.responses())[0]
        start = policy_of(follow.network("", first.env.episode_spec)).evaluate(batch.responses())[0]
        base = policy_of(first.policy.network.frozen()).evaluate(batch.responses())[0]
    assert (learned - start).abs().max() < 1e-3
    assert (learned - base).abs().max() > 1e-2
    assert follow.network("", first.env.episode_spec).config.lora_rank == 2


def test_all_weights_learn_without_adapters_and_the_reference_does_not(folders, tmp_path):
    config = PPOConfig(start=str(folders["llava"]), **{**SHORT, "lora_rank": 0})
    trainer = Trainer("ppo", config, tmp_path, reward=letters, max_response_tokens=8)
    start = {k: v.clone() for k, v in trainer.policy.network.model.state_dict().items()}
    trainer.train()
    ours = trainer.policy.network.model.state_dict()
    theirs = trainer.algorithm.reference.network.model.state_dict()
    moved = [k for k in ours if not torch.equal(ours[k], start[k])]
    assert any("language_model" in k for k in moved)
    assert not any("vision_tower" in k for k in moved)
    assert all(torch.equal(theirs[k], start[k]) for k in start)


def test_bfloat16_samples_and_scores_alike(folders):
    policy, batch = played(folders, "llava", dtype="bfloat16")
    assert policy.network.model.dtype == torch.bfloat16
    with torch.no_grad():
        logp = policy.evaluate(batch.responses())[0]
    # Eight bits of a mantissa: far from 1e-4, and far from the 1 that a wrong position or mask makes.
    assert ((logp - batch.logp) * batch.mask).abs().mean() < 0.05


def test_merged_weights_say_what_the_adapters_said(folders):
    policy, batch = played(folders, "llava")
    with torch.no_grad():
        before = policy.evaluate(batch.responses())[0]
        again = policy_of(merged(policy.network, policy.network.config)).evaluate(batch.responses())[0]
    assert (before - again).abs().max() < 1e-4


def test_weights_of_other_adapters_are_refused(folders):
    small, large = network_of(folders, "llava"), network_of(folders, "llava", lora_rank=0)
    with pytest.raises(WeightsError, match="only one of them has"):
        small.load_trained_state(large.trained_state())


@pytest.mark.parametrize("kind", ["llava", "llama"])
def test_an_environment_that_shows_no_picture_is_refused_by_name(folders, kind):
    network = network_of(folders, kind)
    with pytest.raises(ValueError, match="reads image, and this environment has none"):
        network.encode({"prompt": torch.zeros(2, 4, dtype=torch.long)})


def test_more_tokens_than_the_model_has_positions_are_refused(folders):
    network = network_of(folders, "llama")
    observations = {"image": torch.zeros(1, 48, 48, 3, dtype=torch.uint8), "prompt": torch.full((1, 500), 9)}
    with pytest.raises(ValueError, match="exceed the 512 positions"):
        network.start(network.encode(observations), 4)


def test_encoders_that_cannot_learn_are_not_asked_to(folders):
    with pytest.raises(WeightsError, match="train_encoder=True"):
        find_start(PPOConfig(start=str(folders["llava"]), train_encoder=True))


@pytest.mark.parametrize("start", [None, "start"])
@pytest.mark.parametrize(
    "settings",
    [{"lora_rank": 3}, {"dtype": "bfloat16"}, {"gradient_checkpointing": True}, {"image_encoder": "encoders"}],
)
def test_settings_of_transformers_are_refused_where_another_network_starts(start, settings):
    named = re.escape(f"start={start!r}")
    with pytest.raises(
        WeightsError, match=f"{next(iter(settings))}=.*{named} .*no model of transformers.*leave out --"
    ):
        find_start(PPOConfig(start=start, **settings))


@pytest.mark.parametrize("template", ["<|vision|> {{ messages[0]['content'] }} :", None])
def test_a_context_begins_once(folders, template):
    known = tokenizer()
    known.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|vision|> $A", special_tokens=[("<|vision|>", 7)]
    )
    known.bos_token, known.chat_template = "<|vision|>", template
    assert known("a dog")["input_ids"][0] == 7
    model = transformers.AutoModelForCausalLM.from_pretrained(folders["llama"])
    prefix = HFNetwork(model, known, HFConfig("llama")).encode({"prompt": torch.tensor([known.encode("a dog")[1:]])})
    assert prefix.prompt[0].tolist().count(7) == 1


def test_merged_weights_have_the_precision_that_is_asked_for(folders):
    network = network_of(folders, "llava", dtype="bfloat16")
    assert merged(network, HFConfig(network.config.path, dtype="float32")).model.dtype == torch.float32


def test_folders_that_hold_no_language_model_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        load_transformers(HFConfig(str(tmp_path)))
    transformers.ViTModel(
        transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path / "vit")
    with pytest.raises(WeightsError, match="holds a vit, which writes no text"):
        load_transformers(HFConfig(str(tmp_path / "vit")))


def test_a_tokenizer_whose_pad_token_ends_texts_pads_with_another():
    known = tokenizer()
    known.pad_token = known.eos_token
    found = HFTokenizer(known)
    assert found.eos_ids == {1}
    assert found.pad_id not in (1, 2)
    assert found.decode([*found.encode("a dog"), 1]) == "a dog"
    assert known.pad_token == known.eos_token  # not changed


def test_an_end_that_the_tokenizer_holds_for_a_word_is_no_part_of_the_text():
    known = tokenizer()
    dot = known.convert_tokens_to_ids(":")
    found = HFTokenizer(known, eos_ids=[1, dot])
    assert found.decode([*found.encode("a dog"), dot]) == "a dog"


class Characters:
    """A tokenizer of bytes: words of any text take many tokens."""

    vocab_size, pad_id, end_id, eos_ids = 258, 256, 257, frozenset({257})

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(i for i in ids if i < 256).decode(errors="replace")


@pytest.mark.parametrize("word", ["x", "\ufffd", "x y "])
def test_long_replies_fit_the_prompt_of_the_next_turn(word):
    env = gym.make("mmenv/SpokenDialogue-v0", tokenizer=Characters(), reward="gold", max_response_tokens=200).unwrapped
    longest = next(i for i in range(50) if env.task.sample("train", i).truth.turns == 4)
    env.reset(options={"sample_index": longest})
    for _ in range(4):
        for token in [*(word * 200).encode()[:199], 257]:
            _, _, terminated, *_ = env.step(np.int64(token))
    assert terminated


def test_a_tokenizer_without_an_end_is_refused():
    known = tokenizer()
    known.eos_token = None
    with pytest.raises(ValueError, match="has no end token"):
        HFTokenizer(known)


def test_a_model_of_text_alone_needs_no_image_encoder_where_there_is_no_picture(tmp_path):
    network = load_transformers(HFConfig(str(llama(tmp_path)), lora_rank=2))
    env = env_of(network, "mmenv/VQA-v0")
    assert rollout(policy_of(network), env).num_tokens > 0


def test_llava_of_the_tests_sees(tmp_path):
    network = load_transformers(HFConfig(str(llava(tmp_path)), lora_rank=2))
    env = env_of(network, "mmenv/Captioning-v0", 2)
    observations, _ = env.reset(options={"sample_index": np.array([0, 1])})
    policy = policy_of(network)
    with torch.no_grad():
        hidden, _ = policy.begin(policy.encode(observations))
    assert (hidden[0] - hidden[1]).abs().max() > 1e-3  # one prompt, two pictures


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["ppo", "best-of-n"])
@pytest.mark.parametrize("kind", ["", "llava"])
def test_algorithms_run_on_a_gpu(folders, tmp_path, name, kind):
    config_of = find(name).Config
    short = {k: v for k, v in SHORT.items() if k in {f.name for f in dataclasses.fields(config_of)}}
    config = config_of(start=str(folders[kind]) if kind else "", device="cuda", **short)
    summary = Trainer(name, config, tmp_path, reward=letters, max_response_tokens=8).train()
    assert np.isfinite(summary["reward"]["after"])
