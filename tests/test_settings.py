"""Settings: every number has its bounds, and what has no effect or contradicts itself is refused with the remedy."""

import dataclasses
import importlib.util
import inspect
import types
import typing

import pytest
import tyro

from agents.algorithms.a2c import A2CConfig
from agents.algorithms.best_of_n import BestOfNConfig
from agents.algorithms.dpo import DPOConfig, OfflineDPOConfig
from agents.algorithms.grpo import CISPOConfig, DAPOConfig, GRPOConfig, SAPOConfig
from agents.algorithms.imitation import DistillationConfig, ExpertIterationConfig, SFTConfig
from agents.algorithms.nlpo import NLPOConfig
from agents.algorithms.ppo import PPOConfig
from agents.algorithms.registry import ALGORITHMS, find
from agents.algorithms.reinforce import ReinforceConfig, RLOOConfig
from agents.comparing import config as comparing
from agents.comparing.config import CompareConfig, GridConfig, ReproduceConfig
from agents.overoptimisation import config as overoptimisation
from agents.overoptimisation.config import OveroptimiseConfig
from agents.rlhf import config as rlhf
from agents.rlhf.config import RLHFConfig, RoundPPOConfig
from agents.settings import shared
from agents.settings.bounds import Checked, Range, default_of, offered
from agents.settings.flags import check_options
from agents.settings.shared import TrainConfig
from agents.training import evaluate
from agents.training.evaluate import EvaluateConfig

OWN = {find(name).__module__: inspect.getmodule(find(name)) for name in ALGORITHMS}
MODULES = (shared, *OWN.values(), comparing, overoptimisation, rlhf, evaluate)
CONFIGS = [
    cls
    for module in MODULES
    for _, cls in inspect.getmembers(module, inspect.isclass)
    if issubclass(cls, Checked) and dataclasses.is_dataclass(cls) and cls.__module__ == module.__name__
]
if importlib.util.find_spec("sb3_contrib"):
    from agents.integrations.sb3 import SB3Config

    CONFIGS.append(SB3Config)
NAN, INF = float("nan"), float("inf")
# What a class asks for in all cases, and what makes a setting one that has an effect.
NEEDED = {ReproduceConfig: {"row": "ppo"}, EvaluateConfig: {"run": "runs/x"}}


def numbers(cls):
    """Name, type and range of the numbers that a class offers; the range is None where the type names none."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for name in offered(cls):
        hint = hints[name]
        while typing.get_origin(hint) in (tuple, typing.Union, types.UnionType):
            hint = typing.get_args(hint)[0]
        within = next(iter(getattr(hint, "__metadata__", ())), None)
        base = getattr(hint, "__origin__", hint)
        if base in (int, float):
            yield name, typing.get_origin(hints[name]) is tuple, within


def test_every_number_of_every_class_has_bounds():
    for cls in CONFIGS:
        for name, _, within in numbers(cls):
            assert isinstance(within, Range), (cls.__name__, name)


@pytest.mark.parametrize("cls", CONFIGS, ids=lambda cls: cls.__name__)
def test_no_number_may_be_nan_infinite_or_out_of_its_bounds(cls):
    for name, is_tuple, within in numbers(cls):
        wrong = [NAN, INF, -INF]
        wrong += [within.low if within.above else within.low - 1] * (within.low > -INF)
        wrong += [within.high if within.below else within.high + 1] * (within.high < INF)
        for value in wrong:
            given = (value,) if is_tuple else value
            with pytest.raises(ValueError, match=rf"{name}=.*{name.replace('_', '-')} takes"):
                cls(**NEEDED.get(cls, {}), **{name: given})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_envs", 10**20), ("total_tokens", 10**20), ("eval_episodes", 10**20), ("epochs", 10**20),
        ("temperature", 1e-320), ("top_p", 1e-320),
    ],
)  # fmt: skip
def test_numbers_that_no_machine_can_hold_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name}=.*takes"):
        PPOConfig(**{name: value})


def test_a_whole_number_is_asked_for_where_one_is_meant():
    with pytest.raises(ValueError, match=r"epochs=1\.5: --epochs takes whole numbers"):
        PPOConfig(epochs=1.5)


@pytest.mark.parametrize(
    ("cls", "settings", "told"),
    [
        (PPOConfig, {"gamma": 2.0}, "gamma=2.0: --gamma takes numbers that are at least 0 and at most 1"),
        (PPOConfig, {"kl_coef": -1.0}, "--kl-coef takes"),
        (TrainConfig, {"seed": -1}, "seed=-1: --seed takes whole numbers that are at least 0"),
        (TrainConfig, {"threads": -2}, "--threads"),
        (RoundPPOConfig, {"kl_coef": -1.0}, "--ppo.kl-coef"),
        # Nothing that would tell one response of a context from another.
        (DPOConfig, {"responses_per_context": 1}, "--responses-per-context 2"),
        (OfflineDPOConfig, {"responses_per_context": 1}, "--responses-per-context 2"),
        (RLOOConfig, {"responses_per_context": 1}, "--responses-per-context 2"),
        (GRPOConfig, {"responses_per_context": 1}, "--responses-per-context 2"),
        (ExpertIterationConfig, {"responses_per_context": 1}, "--responses-per-context 2"),
        (DistillationConfig, {"responses_per_context": 1}, "--responses-per-context 2"),
        (GRPOConfig, {"num_envs": 9}, "num_envs=9 in groups of responses_per_context=4"),
        (DPOConfig, {"num_envs": 1, "minibatches": 1}, "num_envs=1 in groups"),
        # Without effect.
        (GRPOConfig, {"max_refills": 3}, "leave out --max-refills"),
        (OfflineDPOConfig, {"preferences": "x.jsonl", "pairs": 5}, "leave out --pairs"),
        (OfflineDPOConfig, {"preferences": "x.jsonl", "label_temperature": 0.5}, "leave out --label-temperature"),
        (DPOConfig, {"labels": "best", "label_temperature": 0.5}, "leave out --label-temperature"),
        (PPOConfig, {"kl_horizon": 5}, "leave out --kl-horizon"),
        (PPOConfig, {"kl_target": 6.0, "kl_coef": 0.0}, "--kl-coef above 0"),
        (TrainConfig, {"stop_on_alarm": True}, "give --judge"),
        (TrainConfig, {"eval_split": "test"}, "leave out --eval-split"),
        (TrainConfig, {"eval_episodes": 0, "eval_every": 3}, "leave out --eval-every"),
        (TrainConfig, {"eval_episodes": 0, "also": ("mmenv/VQAHard-v0",)}, "leave out --also"),
        (TrainConfig, {"eval_episodes": 0, "metrics": ("cider",)}, "leave out --metrics"),
        (SFTConfig, {"watch_every": None, "judge": "preference"}, "leave out --judge"),
        (BestOfNConfig, {"reward": "gold"}, "give --reward a preference model"),
        # The loop's.
        (RoundPPOConfig, {"eval_episodes": 0}, "--ppo.eval-episodes takes"),
        (RLHFConfig, {"annotator": "browser", "flip": 0.3}, "leave out --flip"),
        (RLHFConfig, {"overlap": 2}, "leave out --overlap"),
        (RLHFConfig, {"pool": 2}, "leave out --pool"),
        (RLHFConfig, {"combine": "mean", "weight": 2.0}, "leave out --weight"),
        (RLHFConfig, {"port": 80_000, "annotator": "browser"}, "port=80000"),
        (RLHFConfig, {"held_out": 0.0, "ppo": RoundPPOConfig(stop_on_alarm=True)}, "--held-out above 0"),
        (CompareConfig, {"baseline": "nope"}, "baseline='nope'"),
        (OveroptimiseConfig, {"vary_flip": (0.6,)}, "vary_flip=(0.6,)"),
        (GridConfig, {"eval_episodes": 0}, "--eval-episodes"),
    ],
)  # fmt: skip
def test_settings_without_effect_or_against_each_other_are_refused_with_the_remedy(cls, settings, told):
    with pytest.raises(ValueError) as raised:
        cls(**settings)
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        # No ratio of probabilities corrects further passes.
        (A2CConfig, {"epochs": 3}),
        (ReinforceConfig, {"epochs": 2}),
        (RLOOConfig, {"epochs": 2}),
        (BestOfNConfig, {"learning_rate": 1.0}),
        (BestOfNConfig, {"minibatches": 2}),
        (BestOfNConfig, {"eval_every": 1}),
        (SFTConfig, {"missing_eos_penalty": 2.0}),
        (SFTConfig, {"responses_per_context": 8}),
        (OfflineDPOConfig, {"labels": "best"}),
        (OfflineDPOConfig, {"train_encoder": True}),
        (NLPOConfig, {"top_p": 0.8}),
        (CISPOConfig, {"clip_coef": 0.1}),
        (SAPOConfig, {"clip_high": 0.3}),
        (GRPOConfig, {"weight_cap": 2.0}),
        (DAPOConfig, {"kl_in": "reward"}),
        # The loop sets these, or its policies lack them.
        (RoundPPOConfig, {"dataset": "x"}),
        (RoundPPOConfig, {"lora_rank": 4}),
        (RoundPPOConfig, {"image_encoder": "encoders"}),
        (RoundPPOConfig, {"final_split": "validation"}),
    ],
)
def test_what_would_have_no_effect_is_no_setting(cls, settings):
    (name,) = settings
    with pytest.raises(TypeError, match=rf"unexpected keyword argument '{name}'"):
        cls(**settings)
    assert name not in offered(cls)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_command_line_offers_what_has_an_effect_and_nothing_else(name, capsys):
    cls = find(name).Config
    with pytest.raises(SystemExit):
        tyro.cli(cls, args=["--help"])
    text = capsys.readouterr().out
    left_out = set(default_names(cls)) - set(offered(cls))
    assert left_out == {field.name for field in dataclasses.fields(cls) if not field.init}
    shown = {word.split("=")[0].rstrip(",") for word in text.split() if word.startswith("--")}
    for field in default_names(cls):
        assert (f"--{field.replace('_', '-')}" in shown or f"--no-{field.replace('_', '-')}" in shown) == (
            field not in left_out
        ), field


def default_names(cls):
    return [field.name for field in dataclasses.fields(cls)]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"start": 3}, "start=3: --start takes text"),
        ({"also": "mmenv/VQAHard-v0"}, "--also takes a list"),
        ({"dtype": "float16"}, "--dtype takes one of 'float32', 'bfloat16'"),
        ({"overwrite": 1}, "--overwrite takes true or false"),
        ({"num_envs": True}, "--num-envs takes whole numbers"),
        ({"seed": None}, "--seed takes whole numbers"),
        ({"stop_at_kl": 0.0}, "--stop-at-kl takes numbers that are above 0"),
    ],
)
def test_a_setting_of_another_type_is_refused_by_name(settings, told):
    with pytest.raises(ValueError, match=f"{told}"):
        PPOConfig(**settings)


def test_a_class_of_ones_own_checks_its_numbers_too():
    @dataclasses.dataclass(frozen=True)
    class Mine(PPOConfig):
        mine: float = 1.0

    assert Mine().mine == default_of(Mine, "mine") == 1.0
    with pytest.raises(ValueError, match="mine=nan: --mine takes"):
        Mine(mine=NAN)


@pytest.mark.parametrize(
    ("cls", "word", "meant"),
    [
        (PPOConfig, "--lr", "--learning-rate"),
        (PPOConfig, "--total-steps=100", "--total-tokens"),
        (PPOConfig, "--beta", "--kl-coef"),
        (PPOConfig, "--learning_rat", "--learning-rate"),
        (RLHFConfig, "--ppo.lr", "--ppo.learning-rate"),
        (RLHFConfig, "--label", "--labels"),
    ],
)
def test_an_option_that_does_not_exist_is_answered_with_the_one_that_was_meant(cls, word, meant):
    with pytest.raises(ValueError, match=rf"cmd has no option {word.split('=')[0].replace('_', '-')}.*mean {meant}\?"):
        check_options(cls, "cmd", [word, "3"])


def test_options_that_exist_are_parsed_however_they_are_written():
    words = ["--ppo.learning_rate=0.5", "--ppo.no-pictures", "--seed", "3", "--ppo.epochs", "3"]
    check_options(RLHFConfig, "rlhf", words)
    found = tyro.cli(RLHFConfig, args=words)
    assert (found.ppo.learning_rate, found.ppo.pictures, found.seed, found.ppo.epochs) == (0.5, False, 3, 3)
    check_options(PPOConfig, "ppo", words := ["--also", "a", "b", "--no-overwrite"])
    assert tyro.cli(PPOConfig, args=words).also == ("a", "b")
