"""Other policies as guides: a token's value is its log-ratio to the reference policy.

So MOD, soups and tuned models run in the same decoding core as MAVIS: same prompts, same
candidates, same random draws, same KL. A policy mixed at weight w and strength β moves the
reference by β·w·log π_i/π_ref: at β·w = 1 it is the policy itself.
"""
# ruff: noqa: ARG002 - a state is passed everything, and uses what it needs

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mavis.baselines.adapter_bases import base_of, check_vocabulary, same_model
from mavis.baselines.adapters import base_for
from mavis.baselines.mod_divergences import mixture
from mavis.checksums import DRAFT, check, install_all
from mavis.decoding.adapters import Adapter, description, is_adapter, put_on
from mavis.decoding.architectures import check_reach
from mavis.decoding.guides import GuideState, Reading
from mavis.decoding.kv_cache import CachedRows, Index
from mavis.decoding.model_folders import load_tokenizer
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.probe import log_probs, probe_tokens, same_policy
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.tokenizers import names_alike
from mavis.hub import locate
from mavis.reward import Units


@dataclass(frozen=True)
class PolicyGuide:
    """Policies that share one model: the model itself, or adapters over it.

    Args:
        model: a causal LM, or a `peft` model that holds the adapters.
        objectives: a name for each policy, by which weights are given.
        vocabulary: V of the reference policy.
        adapters: which adapter each policy is; none if the model is the policy.
        folders: what each policy was loaded from, for messages.
    """

    model: PreTrainedModel
    objectives: tuple[str, ...]
    vocabulary: int
    adapters: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    kind = "policy"  # for errors
    needs_hidden = False
    natural_beta = 1.0  # log-ratios are in nats, as π_ref is
    units: ClassVar[Mapping[str, Units]] = MappingProxyType({})

    def start(self, rows: int) -> "PolicyLogRatios":
        """Its state, with room for `rows` rows."""
        return PolicyLogRatios(self, rows)


class PolicyLogRatios(GuideState):
    """log π_i/π_ref of N policies over one model, read in one call: row r of policy i is r·N + i.

    Tokens that a policy knows beyond the reference's vocabulary are left out of its distribution. A
    token that a policy forbids has the log-ratio -inf; one that the reference forbids has 0, as it
    is impossible under any policy.
    """

    rows: CachedRows

    def __init__(self, policies: PolicyGuide, rows: int) -> None:
        self.policies, self.count = policies, len(policies.objectives)
        self.rows = CachedRows(policies.model, rows * self.count, extra=self._adapters)
        self._ratios = torch.empty(0)

    def extend(self, read: Reading) -> None:
        """Read the same tokens with every policy."""
        rows, tokens, output, settings, every = read
        silent = output.logits is None
        repeated = [t for t in tokens for _ in range(self.count)]
        logits = self.rows.extend(self._all(rows), repeated, silent, every).logits
        if silent:
            return
        assert logits is not None
        assert output.logits is not None
        temperature = settings.temperature[:, None]
        log_ref = torch.log_softmax(output.logits.flatten(0, -2) / temperature, -1)  # [R, V]
        logits = logits[..., : self.policies.vocabulary]  # of all policies of a row, in turn
        # From [R·N, V], or [R·N, q, V] with `every`, to [R, N, V] or [R·q, N, V].
        logits = logits.view(len(rows), self.count, *logits.shape[1:]).movedim(1, -2)
        logits = logits.flatten(0, -3)
        log_pi = torch.log_softmax(logits / temperature[..., None], -1)  # [R, N, V]
        ratios = log_pi - log_ref[:, None]
        self._ratios = ratios.masked_fill_((log_ref == -torch.inf)[:, None], 0.0).transpose(1, 2)

    def values(self, rows: Index, candidates: Tensor) -> Tensor:
        """Gather the candidates' log-ratios [R, K, N] from the states just read."""
        index = candidates[..., None].expand(-1, -1, self.count)
        return self._ratios.gather(1, index)

    def copy(self, dst: Index, src: Index) -> None:
        """Copy the rows of every policy."""
        self.rows.copy(self._all(dst), self._all(src))

    def clear(self, rows: Index) -> None:
        """Clear the rows of every policy."""
        self.rows.clear(self._all(rows))

    def reserve(self, rows: int) -> None:
        """Make room for the rows of every policy."""
        self.rows.reserve(rows * self.count)

    def _all(self, rows: Index) -> Index:
        return (rows[:, None] * self.count + np.arange(self.count)).ravel()

    def _adapters(self, rows: Index) -> Mapping[str, Any]:
        names = self.policies.adapters
        if len(names) < 2:  # the active one
            return {}
        return {"adapter_names": [names[row % self.count] for row in rows]}


def mod(
    reference: ReferencePolicy,
    folders: Mapping[str, str | Path],
    divergence: str = "reverse_kl",
    alpha: float | None = None,
    base: str | None = None,
) -> GuidedPolicy:
    """Multi-objective decoding: single-objective policies, mixed by weights of each request.

    Args:
        reference: π_ref, with the tokenizer that all of them have.
        folders: of each objective's policy: a model of any size, or an adapter.
        divergence: that the policies were trained under; see `mod_divergences.mixture`.
        alpha: of the α-divergence.
        base: the model that adapters are put on, in place of the one that each names.

    Returns:
        a policy whose weights are MOD's, and whose β (default 1) multiplies them all.

    Raises:
        FileNotFoundError: a folder is missing, or holds no policy.
        ValueError: what is given is no folder by objective; another tokenizer, a model that cannot
            be guided, an adapter that does not fit its base or is no fixed change of its weights,
            or an unknown divergence.
    """
    rule = mixture(divergence, alpha)
    return GuidedPolicy(reference, load_policies(reference, folders, base), rule)


def load_policies(
    reference: ReferencePolicy, folders: Mapping[str, str | Path], base: str | None = None
) -> tuple[PolicyGuide, ...]:
    """Load policies from their folders; plain LoRA adapters of one base are read together.

    An adapter is put on `base` where it is given, else on the model that it names; where that is
    not on this machine, on the reference itself, if it fits, with a warning.

    Raises:
        ValueError: what is given is no folder by objective.
    """
    _check_folders(folders)
    places = {name: locate(str(folder), f"policy of {name}") for name, folder in folders.items()}
    adapters = [Adapter(name, place) for name, place in places.items() if is_adapter(place)]
    for adapter in adapters:  # refused before any model is loaded
        check(Path(adapter.folder))
        _ = adapter.config
    guides = []
    for name, place in places.items():
        if not is_adapter(place):
            policy = ReferencePolicy.load(place, device=str(reference.model.device))
            _check_tokenizer(place, policy.tokenizer, reference)
            guides.append(guide(reference, name, policy.model, place))
    together: dict[str, list[Adapter]] = {}
    for adapter in adapters:
        model_name = base_for(reference, adapter, base)
        other = None if same_model(model_name, reference.name) else model_name
        check_policy(adapter.folder, reference, other)
        if adapter.plain:
            together.setdefault(model_name, []).append(adapter)
        else:
            model = base_of(reference, model_name, copied=True)
            guides.append(_adapted(reference, model, [adapter]))
    return (
        *guides,
        *(_adapted(reference, base_of(reference, one), many) for one, many in together.items()),
    )


def _check_folders(folders: Any) -> None:
    """Raise a ValueError unless each folder is given by the name of its policy."""
    given = list(folders.values()) if isinstance(folders, Mapping) else [None]
    if not all(isinstance(one, str | Path) and str(one).strip() for one in given):
        raise ValueError(
            'policies must be folders by objective, as in {"humor": "runs/tuned/rloo-humor"}, '
            f"got {folders!r}."
        )


def guide(
    reference: ReferencePolicy, name: str, model: PreTrainedModel, place: str = ""
) -> PolicyGuide:
    """A model as a policy to be mixed in, under a name.

    Raises:
        ValueError: the model knows fewer tokens, or fewer positions, than the reference policy.
    """
    check_vocabulary(reference, f"the policy {name}", model)
    check_reach(model, f"the policy {name}", reference.context, reference.name)
    places = (place,) if place else ()
    frozen = model.eval().requires_grad_(False)
    return PolicyGuide(frozen, (name,), reference.vocabulary, folders=places)


def _adapted(
    reference: ReferencePolicy, base: PreTrainedModel, adapters: Sequence[Adapter]
) -> PolicyGuide:
    """Put adapters on a base, which is changed, and check that they are read as PEFT reads them."""
    model, names = put_on(base, adapters)
    check_vocabulary(reference, f"the base of {adapters[0].folder}", model)
    objectives, places = zip(*((one.name, one.folder) for one in adapters), strict=True)
    policies = PolicyGuide(model, objectives, reference.vocabulary, tuple(names), places)
    _check_reading(policies, adapters)
    return policies


def _check_reading(policies: PolicyGuide, adapters: Sequence[Adapter]) -> None:
    """Check that adapters, read in steps and side by side, are what PEFT makes of each alone."""
    model: Any = policies.model
    tokens, every = probe_tokens(policies.vocabulary), np.arange(len(adapters))
    with torch.no_grad():
        rows = policies.start(1).rows
        rows.extend(every, [tokens[:-3]] * len(every), silent=True)
        logits = rows.extend(every, [tokens[-3:]] * len(every)).logits
        assert logits is not None
    together = logits[:, : policies.vocabulary].log_softmax(-1)  # [N, V]
    for ours, name, adapter in zip(together, policies.adapters, adapters, strict=True):
        model.set_adapter(name)
        alone = log_probs(model, tokens, policies.vocabulary)[-1]
        if not same_policy(ours, alone, model.dtype):
            raise ValueError(
                f"{adapter.folder} is a {description(adapter.config)}, which is another policy "
                "when it is read token by token, beside others: it cannot be mixed. Give a full "
                "model in its place."
            )
    model.requires_grad_(False)


def save_policy(model: PreTrainedModel, reference: ReferencePolicy, folder: Path) -> None:
    """Write a model, or the adapter on it, and its tokenizer to a folder, with checksums."""
    draft = folder / DRAFT
    shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
    # Of a model with an adapter nothing but the adapter is saved, and nothing asked of the hub.
    adapted = hasattr(model, "merge_and_unload")
    cast(Any, model).save_pretrained(draft, **({"save_embedding_layers": False} if adapted else {}))
    reference.tokenizer.save_pretrained(draft)
    install_all(draft, folder)


def check_policy(folder: str | Path, reference: ReferencePolicy, base: str | None = None) -> None:
    """Raise a ValueError if a policy's tokenizer, or else that of its base, differs from ours."""
    source = folder if (Path(folder) / "tokenizer_config.json").is_file() else base
    if source is not None:
        tokenizer = load_tokenizer(str(source), locate(str(source)))
        _check_tokenizer(folder, tokenizer, reference)


def _check_tokenizer(
    place: str | Path, tokenizer: PreTrainedTokenizerBase, reference: ReferencePolicy
) -> None:
    """A policy may know more tokens than the reference, but none of the reference's differently."""
    if not names_alike(tokenizer, reference.tokenizer):
        raise ValueError(
            f"policy {place} and reference {reference.name} have different tokenizers: policies "
            "can only be mixed token by token."
        )
