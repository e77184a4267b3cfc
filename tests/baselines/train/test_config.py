"""The defaults of a training."""

from dataclasses import replace

import pytest

from mavis.baselines.train.config import ParmConfig, TuneConfig


def test_sizes_are_those_of_the_method():
    dpo = TuneConfig(objectives="a", method="dpo")
    assert (dpo.steps, dpo.batch, dpo.generations) == (176, 64, 8)
    assert dpo.num_prompts == 176 * 64 // 8
    assert TuneConfig(objectives="a", steps=2, batch=16).num_prompts == 4
    sft = TuneConfig(method="sft")
    assert (sft.steps, sft.batch, sft.generations, sft.num_prompts) == (100, 32, 1, 3200)
    assert replace(dpo, eta=0.1).steps == 176


def test_the_learning_rate_goes_by_method_size_and_adapters():
    assert TuneConfig(objectives="a").default_lr(large=False) == 1e-3
    assert TuneConfig(objectives="a", lora=True).default_lr(large=False) == 4e-3
    assert TuneConfig(method="sft", lora=True).default_lr(large=True) == 2e-4


def test_a_rank_is_kept_for_adapters_alone():
    assert TuneConfig(objectives="a").settings()["lora_rank"] is None
    assert TuneConfig(objectives="a", lora=True).settings()["lora_rank"] == 16


def test_weights_without_objectives_are_refused():
    with pytest.raises(ValueError, match="weights must be left out for sft"):
        TuneConfig(method="sft", weights="a=1")


def test_where_a_reward_model_is_kept():
    assert ParmConfig(objectives="a,b").folder == "runs/tuned/parm-a+b"
    assert ParmConfig(objectives="a,b", out="x").folder == "x"
