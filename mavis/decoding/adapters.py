"""Adapters by PEFT, of any kind: what a folder holds, and how it is put on its base model.

Plain LoRA adapters of one base share it, and are read side by side in one batch. Every other kind
may change the base's own weights, or cannot be chosen row by row: it gets a copy to itself.
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mavis.checksums import check
from mavis.decoding.model_folders import loading
from mavis.decoding.probe import log_probs, probe_tokens, same_policy
from mavis.hub import reachable

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

# What may differ between LoRA adapters that are read side by side: nothing but low-rank factors.
PLAIN = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
    *("revision", "inference_mode", "r", "lora_alpha", "lora_dropout", "use_rslora"),
    *("rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "fan_in_fan_out"),
    *("layers_to_transform", "layers_pattern", "megatron_core", "init_lora_weights"),
    *("runtime_config", "loftq_config", "ensure_weight_tying"),
}
# Which dimension of an adapter's tensors, at the embeddings or the head, has the tokens.
_BY_TOKEN = {".weight": 0, ".base_layer.weight": 0, ".lora_embedding_A": 1, ".lora_B.weight": 0}
_PLAIN_STARTS = {True, False, "gaussian", "orthogonal"}  # others take their start off the base
# Kinds whose effect on a token depends on more than the tokens before it, or on more than weights.
_BY_CONTEXT = {"XLORA", "POLY", "ADAPTION_PROMPT", "CARTRIDGE"}
_BY_CONTEXT_OPTIONS = ("alora_invocation_tokens", "arrow_config", "layer_replication")


@dataclass(frozen=True)
class Adapter:
    """A policy that is an adapter in a folder."""

    name: str
    folder: str

    @cached_property
    def config(self) -> Any:
        """Its configuration, as PEFT reads it.

        Raises:
            FileNotFoundError: the folder holds no weights.
            ModuleNotFoundError: the `lora` extra is not installed.
            ValueError: it is no adapter that can be a policy.
        """
        if find_spec("peft") is None:
            raise ModuleNotFoundError(
                f'{self.folder} is an adapter, which peft is needed for: pip install "mavis[lora]"'
            )
        from peft import PeftConfig

        kind = _content(Path(self.folder) / CONFIG)["peft_type"]
        with peft_errors(f"{self.folder}/{CONFIG}"):
            config = PeftConfig.from_pretrained(self.folder)
        task = str(getattr(config.task_type, "value", config.task_type))
        if task not in {"CAUSAL_LM", "None"}:
            raise ValueError(f"{self.folder} is a {kind} adapter for {task}, not for CAUSAL_LM.")
        options = [name for name in _BY_CONTEXT_OPTIONS if getattr(config, name, None)]
        if config.is_prompt_learning or kind in _BY_CONTEXT or options:
            option = f" with {options[0]}" if options else ""
            raise ValueError(
                f"{self.folder} is a {kind} adapter{option}: only adapters that change weights, "
                "the same ones for every text, can be a policy. Give a full model in its place."
            )
        if not any((Path(self.folder) / file).is_file() for file in WEIGHTS):
            raise FileNotFoundError(
                f"{self.folder} holds no weights of an adapter: {WEIGHTS[0]} is missing."
            )
        return config

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Its weights by name."""
        from peft import load_peft_weights

        with peft_errors(f"adapter {self.folder}"):
            return dict(load_peft_weights(self.folder, device="cpu"))

    @cached_property
    def plain(self) -> bool:
        """Whether it is LoRA and nothing else, so that it can share its base, and a batch."""
        config = self.config
        return (
            kind_of(config) == "LORA"
            and set(unusual_options(config)) <= PLAIN
            and config.init_lora_weights in _PLAIN_STARTS
            and all(".lora_" in name and "bias" not in name for name in self.weights)
        )


def is_adapter(place: str) -> bool:
    """Whether a folder holds an adapter, not a model."""
    return (Path(place) / CONFIG).is_file()


def description(config: Any) -> str:
    """The kind of an adapter, with the options that set it apart: "LORA adapter with use_dora"."""
    unusual = [name for name in unusual_options(config) if name not in PLAIN]
    return f"{kind_of(config)} adapter{' with ' if unusual else ''}{', '.join(unusual)}"


def put_on(
    model: PreTrainedModel, adapters: Sequence[Adapter]
) -> tuple[PreTrainedModel, list[str]]:
    """Put adapters on a model, which is changed.

    Returns:
        the model with its adapters, and the name that each has in it.

    Raises:
        ValueError: an adapter does not fit.
    """
    from peft import PeftModel

    names = [f"policy_{number}" for number in range(len(adapters))]  # PEFT does not take all names
    adapted: Any = None
    for adapter, name in zip(adapters, names, strict=True):
        with peft_errors(f"adapter {adapter.folder}"):
            if adapted is None:
                _grow(model, adapter)
                adapted = PeftModel.from_pretrained(model, adapter.folder, adapter_name=name)
            else:
                adapted.load_adapter(adapter.folder, adapter_name=name)
    for adapter, name in zip(adapters, names, strict=True):
        _check_whole(adapted, adapter, name)
    return cast(PreTrainedModel, adapted.eval().requires_grad_(False)), names


def merged(model: PreTrainedModel, what: str) -> PreTrainedModel:
    """Fold a model's active adapter into its weights; the model itself is used up.

    Raises:
        ValueError: it cannot be.
    """
    adapted: Any = model
    kind = description(adapted.active_peft_config)
    try:
        with peft_errors(what):
            return cast(PreTrainedModel, adapted.merge_and_unload())
    except ValueError as error:
        raise ValueError(
            f"{what} is a {kind}, which cannot be merged into weights "
            f"({str(error.__cause__).rstrip('.')})."
        ) from error


def untie(model: nn.Module) -> None:
    """Give every module parameters of its own, where several had one in common."""
    known = set()
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if id(parameter) in known:
            place, _, last = name.rpartition(".")
            own = nn.Parameter(parameter.detach().clone(), requires_grad=False)
            setattr(model.get_submodule(place), last, own)
        known.add(id(parameter))


def base_of_adapter(folder: str) -> str:
    """Find the model that an adapter is for: a path, or a name on the hub.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: the adapter cannot be a policy, a file of it is damaged, or its base is an
            adapter again.
    """
    check(Path(folder), "restore it from a copy, or make it again.")
    named = str(Adapter(folder, folder).config.base_model_name_or_path or "")
    remedy = f"Write into {Path(folder) / CONFIG}, as base_model_name_or_path, where it is now."
    if not named:
        raise ValueError(f"adapter {folder} does not say which model it is for. {remedy}")
    try:
        base = reachable(named, f"the base of adapter {folder}")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{str(error).split(': say')[0].rstrip('.')}. {remedy}") from error
    if is_adapter(base):
        raise ValueError(f"the base of adapter {folder} is an adapter, too: merge {base} first.")
    return base


def with_adapter(model: PreTrainedModel, folder: str) -> PreTrainedModel:
    """Fold an adapter into a model, which is used up; the result is named after the adapter.

    Raises:
        ValueError: the adapter does not fit, or cannot be merged.
    """
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    tied = len({id(cast(Any, end).weight) for end in ends}) == 1
    adapted = put_on(model, [Adapter(folder, folder)])[0]
    vocabulary = len(cast(Any, adapted.get_output_embeddings()).weight)
    tokens = probe_tokens(vocabulary)
    wanted = log_probs(adapted, tokens, vocabulary)
    untie(adapted)  # or what an adapter adds to one place would be added to another, too
    whole = merged(adapted, f"adapter {folder}")
    table: Any = whole.get_input_embeddings()
    head: Any = whole.get_output_embeddings()
    if tied and torch.equal(table.weight, head.weight):
        head.weight = table.weight
    whole.config.tie_word_embeddings = head.weight is table.weight
    if not same_policy(log_probs(whole, tokens, vocabulary), wanted, whole.dtype):
        raise ValueError(
            f"adapter {folder} changes its base in a way that weights cannot hold: give a full "
            "model in its place."
        )
    whole.name_or_path = whole.config.name_or_path = str(Path(folder).absolute())
    return whole


def _grow(model: PreTrainedModel, adapter: Adapter) -> None:
    """Make room for the tokens that an adapter knows beyond its base's."""
    rows = 1 + max(_token_indices(adapter.config), default=-1)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        place = next((name for name, module in model.named_modules() if module is layer), "")
        for part, axis in _BY_TOKEN.items():
            tensor = adapter.weights.get(f"base_model.model.{place}{part}")
            rows = max(rows, 0 if tensor is None else tensor.shape[axis])
    if rows > len(cast(Any, model.get_input_embeddings()).weight):
        model.resize_token_embeddings(rows, mean_resizing=False)


def _token_indices(config: Any) -> list[int]:
    """The tokens whose embeddings an adapter replaces: a list, or one for each layer."""
    indices = getattr(config, "trainable_token_indices", None)
    indices = indices or getattr(config, "token_indices", None) or []
    groups = indices.values() if isinstance(indices, dict) else [indices]
    return [int(index) for group in groups for index in group]


def _check_whole(model: Any, adapter: Adapter, name: str) -> None:
    """See that PEFT has loaded all that the file holds: it is silent about much of the rest."""
    from peft import get_peft_model_state_dict

    with peft_errors(f"adapter {adapter.folder}"):
        loaded = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    state = model.state_dict()
    for key, tensor in adapter.weights.items():
        place = loaded.get(key, state.get(key))
        if place is None or place.shape != tensor.shape:
            raise ValueError(f"adapter {adapter.folder} does not fit its base: {key} has no place.")
    if missing := sorted(loaded.keys() - adapter.weights.keys()):
        raise ValueError(f"adapter {adapter.folder} is not whole: it lacks {missing[0]}.")


def kind_of(config: Any) -> str:
    """The kind of an adapter, as its configuration names it."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def unusual_options(config: Any) -> Iterator[str]:
    """The options of an adapter that are not as PEFT has them by default."""
    for option in fields(config):
        default = option.default_factory() if callable(option.default_factory) else option.default
        if getattr(config, option.name) not in (default, None, [], {}):
            yield option.name


def _content(file: Path) -> dict[str, Any]:
    """Read the configuration of an adapter, and check what PEFT does not."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is no configuration of an adapter.")
    needed = {"peft_type": "kind it is of", "base_model_name_or_path": "model it is for"}
    for key, what in needed.items():
        if key not in content:
            raise ValueError(f"{file} does not say which {what}: {key} is missing.")
    return content


@contextmanager
def peft_errors(what: str) -> Iterator[None]:
    """Turn PEFT's errors into one line, and drop its warnings: they are of what is checked here."""
    with loading(what), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
