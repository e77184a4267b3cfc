"""Other policies as guides: what they say of a token, as a log-ratio to the reference policy.

A policy stands where a value stands, so that MOD, soups and tuned models run in the same decoding
core as MAVIS: same prompts, same candidates, same random draws, same KL. A policy mixed at weight
w and strength β moves the reference by β·w·log π_i/π_ref: at β·w = 1 it is the policy itself.
"""
# ruff: noqa: ARG002 - a source hears of everything, and takes what it needs

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mavis.guide.folders import loading
from mavis.guide.policy import GuidedPolicy
from mavis.guide.reference import ReferencePolicy
from mavis.guide.rows import Index, Reading, Rows
from mavis.guide.tilt import Settings
from mavis.guide.tokens import names_alike
from mavis.guide.trunk import adapting
from mavis.guide.values import ValueSource
from mavis.measure.rivals.divergence import mixture
from mavis.names import locate

ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Policies:
    """Policies that share one model: the model itself, or adapters over it.

    Args:
        model: a causal LM, or a `peft` model that holds the adapters.
        objectives: a name for each policy, by which weights are given.
        vocabulary: V of the reference policy.
        adapters: which adapter each policy is; none if the model is the policy.
    """

    model: PreTrainedModel
    objectives: tuple[str, ...]
    vocabulary: int
    adapters: tuple[str, ...] = ()

    def open(self, rows: int) -> "LogRatios":
        """A source with room for `rows` rows."""
        return LogRatios(self, rows)


class LogRatios(ValueSource):
    """log π_i/π_ref of N policies over one model, read in one call: row r of policy i is r·N + i.

    Tokens that a policy knows beyond the reference's vocabulary are left out of its distribution.
    """

    def __init__(self, policies: Policies, rows: int) -> None:
        self.policies, self.count = policies, len(policies.objectives)
        self.rows = Rows(policies.model, rows * self.count, extra=self._adapters)
        self._ratios = torch.empty(0)

    def extend(
        self, rows: Index, tokens: Sequence[Sequence[int]], reading: Reading, settings: Settings
    ) -> None:
        """Read the same tokens with every policy."""
        silent = reading.logits is None
        repeated = [t for t in tokens for _ in range(self.count)]
        logits = self.rows.extend(self._all(rows), repeated, silent).logits
        if silent:
            return
        assert logits is not None
        assert reading.logits is not None
        temperature = settings.temperature[:, None]
        log_ref = torch.log_softmax(reading.logits / temperature, -1)  # [R, V]
        logits = logits[:, : self.policies.vocabulary].view(len(rows), self.count, -1)
        log_pi = torch.log_softmax(logits / temperature[..., None], -1)  # [R, N, V]
        self._ratios = (log_pi - log_ref[:, None]).transpose(1, 2)

    def values(self, rows: Index, candidates: Tensor) -> Tensor:
        """Gather the candidates' log-ratios [R, K, N] from the states just read."""
        index = candidates[..., None].expand(-1, -1, self.count)
        return self._ratios.gather(1, index)

    def commit(self, rows: Index, chosen: Tensor) -> None:
        """Nothing to keep: the token is read with the next step."""

    def copy(self, dst: Index, src: Index) -> None:
        """Copy the rows of every policy."""
        self.rows.copy(self._all(dst), self._all(src))

    def clear(self, rows: Index) -> None:
        """Clear the rows of every policy."""
        self.rows.clear(self._all(rows))

    def _all(self, rows: Index) -> Index:
        return (rows[:, None] * self.count + np.arange(self.count)).ravel()

    def _adapters(self, rows: Index) -> Mapping[str, Any]:
        names = self.policies.adapters
        return {"adapter_names": [names[row % self.count] for row in rows]} if names else {}


def mod(
    reference: ReferencePolicy,
    folders: Mapping[str, str | Path],
    divergence: str = "reverse_kl",
    alpha: float | None = None,
) -> GuidedPolicy:
    """Multi-objective decoding: single-objective policies, mixed by weights of each request.

    Args:
        reference: π_ref, with the tokenizer that all of them have.
        folders: of each objective's policy: a model of any size, or an adapter.
        divergence: that the policies were trained under; see `divergence.mixture`.
        alpha: of the α-divergence.

    Returns:
        a policy whose weights are MOD's, and whose β (default 1) multiplies them all.

    Raises:
        FileNotFoundError: a folder is missing, or holds no policy.
        ValueError: another tokenizer, a model that cannot be guided, or an unknown divergence.
    """
    return GuidedPolicy(reference, load_policies(reference, folders), mixture(divergence, alpha))


def load_policies(
    reference: ReferencePolicy, folders: Mapping[str, str | Path]
) -> tuple[Policies, ...]:
    """Load policies from their folders; adapters of one base share it, and are read together."""
    places = {name: locate(str(folder), f"policy of {name}") for name, folder in folders.items()}
    loaded = []
    by_base: dict[str, dict[str, str]] = {}
    for name, place in places.items():
        if (Path(place) / ADAPTER).is_file():
            by_base.setdefault(_base(place), {})[name] = place
        else:
            policy = ReferencePolicy.load(place, device=str(reference.model.device))
            _check_tokenizer(place, policy.tokenizer, reference)
            loaded.append(guide(reference, name, policy.model))
    for base, adapters in by_base.items():
        model = _with_adapters(reference, base, adapters)
        loaded.append(
            Policies(model, tuple(adapters), reference.vocabulary, adapters=tuple(adapters))
        )
    return tuple(loaded)


def guide(reference: ReferencePolicy, name: str, model: PreTrainedModel) -> Policies:
    """A model as a policy to be mixed in, under a name.

    Raises:
        ValueError: the model knows fewer tokens than the reference policy.
    """
    size = len(model.get_output_embeddings().weight)
    if size < reference.vocabulary:
        raise ValueError(
            f"the policy {name} knows {size} tokens, the reference {reference.name} "
            f"{reference.vocabulary}."
        )
    return Policies(model.eval().requires_grad_(False), (name,), reference.vocabulary)


def base_of(reference: ReferencePolicy, base: str) -> PreTrainedModel:
    """The model that adapters are put on, with the reference's own weights where it is that one."""
    model = reference.model
    if locate(base) != locate(reference.name):
        return ReferencePolicy.load(base, device=str(model.device)).model
    # New modules around the same tensors: adapters change modules, and the reference has none.
    tensors = (*model.parameters(), *model.buffers())
    return deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _with_adapters(
    reference: ReferencePolicy, base: str, adapters: Mapping[str, str]
) -> PreTrainedModel:
    from peft import PeftModel

    for place in adapters.values():
        named = place if (Path(place) / "tokenizer_config.json").is_file() else locate(base)
        with loading(f"the tokenizer of {named}"):
            tokenizer = AutoTokenizer.from_pretrained(named)
        _check_tokenizer(place, tokenizer, reference)
    (first, place), *others = adapters.items()
    with loading(f"adapter {place}"), adapting():
        model = PeftModel.from_pretrained(base_of(reference, base), place, adapter_name=first)
    for name, folder in others:
        with loading(f"adapter {folder}"):
            model.load_adapter(folder, adapter_name=name)
    return cast(PreTrainedModel, model.eval().requires_grad_(False))


def _base(folder: str) -> str:
    """The name of the model that an adapter is for."""
    file = Path(folder) / ADAPTER
    try:
        return str(json.loads(file.read_text())["base_model_name_or_path"])
    except (ValueError, KeyError) as error:
        raise ValueError(f"{file} does not say which model the adapter is for.") from error


def _check_tokenizer(
    place: str, found: PreTrainedTokenizerBase, reference: ReferencePolicy
) -> None:
    if not names_alike(found, reference.tokenizer):
        raise ValueError(
            f"policy {place} and reference {reference.name} have different tokenizers: policies "
            "can only be mixed token by token."
        )
