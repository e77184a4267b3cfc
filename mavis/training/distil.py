"""Distillation: `shared` values that are learned from those of finished `action` values.

A head over the reference's own states costs nothing to decode, and is what serving engines can
carry, but it learns less from rollouts than a model of its own does: a reply's reward is one noisy
number for all of its tokens. A teacher says without noise what every candidate of a state is worth.
Only differences between candidates bend the policy. So the loss of a state is

    E_w[(e − E_w e)²] + ε (E_w e)²        e(a) = Q(s, a) − Q_teacher(s, a)

over its candidates a, where w is half the reference policy and half the policy that the teacher
guides: what either may choose. States are those of the rollout trees, so that from the second round
on what the learned policy does wrong is among what is corrected.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mavis.decoding.loading import value_folder
from mavis.decoding.model_card import ModelCard, read_card
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import SamplingParams, row_settings
from mavis.decoding.tilt import tilt
from mavis.decoding.value_model import ValueModel
from mavis.training.batching import Batch, inputs

LEVEL = 0.1  # ε, of the error that all candidates of a state have in common


def check_teachers(folders: Sequence[str], objectives: Sequence[str]) -> None:
    """Look whether folders, of value models or runs, hold `action` values of each objective once.

    Raises:
        FileNotFoundError: a folder holds no value model.
        ValueError: they do not.
    """
    cards = [(folder, read_card(value_folder(folder))) for folder in folders]
    for folder, card in cards:
        if card.source != "action":
            raise ValueError(
                f"model.teacher: {folder} has `{card.source}` values: give `action` values, which "
                "know all candidates of a state at once (--model.source action)."
            )
    for name in objectives:
        owners = [folder for folder, card in cards if name in card.objectives]
        if len(owners) != 1:
            found = f"both {owners[0]} and {owners[1]} have" if owners else "no teacher has"
            known = sorted({one for _, card in cards for one in card.objectives})
            raise ValueError(
                f"model.teacher: {found} values of {name} (there are {', '.join(known)}): give "
                "one value model for each objective."
            )


class Teachers:
    """Finished `action` values, of M objectives in all.

    Args:
        folders: of the value models, or of the runs that made them; see `check_teachers`.
        objectives: names of those that values are to be learned of.
        reference: the reference policy of both.

    Raises:
        ValueError: they do not fit the reference, or are damaged.
    """

    def __init__(
        self, folders: Sequence[str], objectives: Sequence[str], reference: ReferencePolicy
    ) -> None:
        self._reference = reference
        places = [value_folder(folder) for folder in folders]
        self._models = [ValueModel.from_pretrained(place, reference) for place in places]
        names = [name for model in self._models for name in model.objectives]
        self._columns = [names.index(name) for name in objectives]
        self._units = [one for model in self._models for one in model.card.units]

    def loss(
        self,
        network: ValueModel,
        hidden: Tensor,
        batch: Batch,
        sampling: Sequence[SamplingParams],
    ) -> Tensor:
        """The loss of the module's docstring: mean over states and objectives.

        Args:
            network: the `shared` values that learn.
            hidden: the states that they are read from [B, T, H].
            batch: trees or parts of them, with candidates; the states are those that a token was
                sampled at.
            sampling: the policy that is learned for, of each pack.
        """
        assert batch.candidates is not None
        at = _sampled_at(batch)  # [B, T]; S of them
        tokens, log_ref = batch.candidates[at], batch.log_ref[at]  # [S, K]
        counts = zip(sampling, at.sum(1).tolist(), strict=True)
        rows = [one for one, count in counts for _ in range(count)]
        with torch.no_grad():
            settings = row_settings(rows, self._reference.vocabulary, log_ref.device)
            wanted = self._values(batch, at, tokens, network.card)  # [S, K, M]
            guided = tilt(log_ref, wanted, settings.weights, settings.beta)
            share = (log_ref.softmax(-1) + guided.exp())[..., None] / 2  # [S, K, 1]
        error = network.action_values(hidden[at], tokens) - wanted
        level = (share * error).sum(1, keepdim=True)  # [S, 1, M]
        apart = (share * (error - level).square()).sum(1)
        return (apart + LEVEL * level[:, 0].square()).mean()

    def _values(self, batch: Batch, at: Tensor, tokens: Tensor, card: ModelCard) -> Tensor:
        """Values of candidates [S, K] at states of packs, in a card's units: [S, K, M], float32."""
        found = []
        for model in self._models:
            assert model.trunk is not None
            hidden = model.states(model.trunk, **inputs(model.trunk, batch))
            found.append(model.action_values(hidden[at], tokens))
        # The units' means are the same for all candidates, and left out.
        known = zip(self._columns, card.units, strict=True)
        scales = torch.tensor([self._units[column].std / own.std for column, own in known])
        return torch.cat(found, -1)[..., self._columns] * scales.to(tokens.device)


def _sampled_at(batch: Batch) -> Tensor:
    """Which states of packs [B, T] a token of a response was sampled at."""
    pack, token = (batch.depth >= 0).nonzero(as_tuple=True)
    found = torch.zeros_like(batch.leaf)
    found[pack, batch.previous[pack, token]] = True
    return found
