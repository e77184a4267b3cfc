"""The value network: a small trunk that reads text, and a head that gives the values.

Three sources of values share this one class; they differ in what the head is asked:

    action   Q(s, ·) over the vocabulary, from the trunk's state at s
    state    V(s·a), from the trunk's state at s·a, as published
    shared   Q(s, ·), from the reference policy's own hidden states: no trunk at all

A state is the last hidden state or, for `state` and `shared`, those of several layers side by side.
Which source and layers a fit takes by itself is said in `training.value_design`.

Values are in standard units of the objective's reward. A network is saved as a folder:
`value.json`, `head.safetensors`, `trunk/` (by `save_pretrained`), README.md, and their checksums.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from mavis.checksums import check, seal
from mavis.decoding.architectures import check_reach
from mavis.decoding.backbone import embeddings, first_layers, load_trunk, merged, sibling, with_lora
from mavis.decoding.guides import GuideState
from mavis.decoding.kv_cache import hidden_states
from mavis.decoding.model_card import REMEDY, ModelCard, read_card
from mavis.decoding.model_folders import loading
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.spread import Covariance
from mavis.decoding.value_heads import ActionHead, StateHead
from mavis.decoding.value_states import ActionValues, SharedValues, StateValues, side_by_side
from mavis.progress import without_bars
from mavis.reward import Units


class ValueModel(nn.Module):
    """A trunk and a head; see the module's docstring for the three sources.

    Args:
        card: what the network is of.
        trunk: a headless `transformers` model, None for `shared`.
        table: the embeddings [V, E] that a `shared` head looks tokens up in: the reference
            policy's own; other sources use their trunk's.
        vocabulary: V, the number of the reference policy's logits.
    """

    kind = "value model"  # for errors

    def __init__(
        self, card: ModelCard, trunk: PreTrainedModel | None, table: Tensor, vocabulary: int
    ) -> None:
        super().__init__()
        self.card = card
        self.trunk = trunk
        # In a list, so that the reference policy's weights are no part of this module's state.
        self._table = [table]
        outputs = len(card.objectives)
        width = table.shape[1] if trunk is None else int(trunk.config.hidden_size)
        width *= max(1, len(card.layers))
        if card.source == "state":
            self.head: ActionHead | StateHead = StateHead(width, outputs)
        else:
            sizes = (width, self.table.shape[1], vocabulary, outputs)
            self.head = ActionHead(*sizes, card.head_width)
            self.head.centre.copy_(self.table.detach().float().mean(0))

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the M outputs."""
        return self.card.objectives

    @property
    def needs_hidden(self) -> bool:
        """Whether it values the reference policy's own hidden states."""
        return self.card.source == "shared"

    @property
    def natural_beta(self) -> float | None:
        """1 / η of its training; None if no η is known."""
        return 1 / self.card.eta if self.card.eta else None

    @property
    def covariance(self) -> Covariance:
        """Of its values [M, M], if they are of several objectives; see `spread`."""
        return self.card.covariance

    @property
    def units(self) -> dict[str, Units]:
        """Standard units of its objectives, which its values are in."""
        return dict(zip(self.card.objectives, self.card.units, strict=True))

    def start(self, rows: int) -> GuideState:
        """The state of its source for rows beside the reference policy's."""
        if self.trunk is None:
            return SharedValues(self.action_values, self.card.layers)
        if self.card.source == "state":
            return StateValues(self.trunk, self.state_values, rows, self.card.layers)
        return ActionValues(self.trunk, self.action_values, rows)

    @property
    def table(self) -> Tensor:
        """The token embeddings [V, E] of the action head."""
        return self._table[0] if self.trunk is None else embeddings(self.trunk)

    def states(self, model: PreTrainedModel, **inputs: Any) -> Tensor:
        """States [B, T, H] of the tokens that a headless model reads by a forward of `inputs`.

        The model is the trunk or, for `shared` values, the reference policy's. Where the card names
        n layers, their states stand side by side, and H is n times the model's width.
        """
        layers = self.card.layers
        output = model(**inputs, use_cache=False, **hidden_states(layers))
        if layers:
            return side_by_side(output.hidden_states, layers)
        return torch.as_tensor(output.last_hidden_state)

    def action_values(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Q(s, a): hidden [..., H], tokens [..., K] -> [..., K, M]."""
        return torch.as_tensor(self.head(hidden, tokens, self.table))

    def state_values(self, hidden: Tensor) -> Tensor:
        """V(s): hidden [..., H] -> [..., M]."""
        return torch.as_tensor(self.head(hidden))

    def save_pretrained(self, folder: Path, text: str = "") -> None:
        """Write the network as a folder, with `text` as its card for people."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "value.json").unlink(missing_ok=True)
        head = {name: value.contiguous().cpu() for name, value in self.head.state_dict().items()}
        save_file(head, folder / "head.safetensors")
        if self.trunk is not None:
            with without_bars():
                merged(self.trunk).save_pretrained(folder / "trunk")
        # The card comes last: its presence means that the weights are whole.
        (folder / "value.json").write_text(json.dumps(self.card.content(), indent=2) + "\n")
        seal(folder)
        (folder / "README.md").write_text(text, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path, reference: ReferencePolicy) -> "ValueModel":
        """Load a folder written by `save_pretrained`, for use with a reference policy.

        Raises:
            FileNotFoundError: the folder holds no value model.
            ValueError: its tokenizer or hidden size is not the reference policy's, it reads layers
                that there are not, it has fewer positions, or a file is damaged.
        """
        folder = Path(folder)
        card = read_card(folder)
        check(folder, REMEDY)
        if not reference.knows(card.fingerprint):
            raise ValueError(
                f"value model {folder} and reference {reference.name} have different tokenizers: "
                f"it was trained under {card.reference}. Use that one as the reference."
            )
        trunk = None
        if card.source != "shared":
            trunk = load_trunk(str(folder.absolute() / "trunk"))  # a path, never a hub name
            what = f"the trunk of value model {folder}"
            check_reach(trunk, what, reference.context, reference.name)
        of = f"reference {reference.name}" if trunk is None else f"the trunk of {folder}"
        _check_layers(card, trunk or reference.model, of)
        network = cls(card, trunk, embeddings(reference.model), reference.vocabulary)
        network.load_head(folder, reference.name)
        return network.to(reference.model.device).eval()

    def load_head(self, folder: Path, of: str) -> None:
        """Load the head that a folder holds; raise ValueError if it does not fit the model `of`."""
        with loading(f"the head of value model {folder}"):
            head = load_file(folder / "head.safetensors")
        if isinstance(self.head, ActionHead):
            # Heads of before there was a centre have none to subtract.
            head.setdefault("centre", torch.zeros_like(self.head.centre))
        try:
            self.head.load_state_dict(head)
        except RuntimeError as error:
            why = str(error).splitlines()[-1].strip()
            raise ValueError(
                f"value model {folder} does not fit the reference {of}: {why}"
            ) from error


def build_network(
    card: ModelCard,
    reference: ReferencePolicy,
    trunk: int | str | None = None,
    lora: dict[str, Any] | None = None,
) -> ValueModel:
    """Make a value network that is ready to be trained, for the states of a reference policy.

    Args:
        card: what it will be of.
        reference: the policy whose states it values.
        trunk: how many first layers of the reference model to copy (None: half of them, at least
            two), or the name of another causal LM with the same tokenizer.
        lora: arguments of `peft.LoraConfig`; None trains every parameter.

    Raises:
        ValueError: there are not so many layers, or the other model has another tokenizer.
    """
    model = None
    if card.source != "shared":
        if isinstance(trunk, str):
            model = sibling(trunk, reference)
        else:
            model = first_layers(reference.model, trunk)
        if lora is not None:
            model = with_lora(model, lora)
    _check_layers(card, model or reference.model, "the reference" if model is None else "the trunk")
    network = ValueModel(card, model, embeddings(reference.model), reference.vocabulary)
    return network.to(reference.model.device)


def _check_layers(card: ModelCard, model: PreTrainedModel, of: str) -> None:
    """Raise a ValueError if values read a layer that a model has not."""
    depth = int(model.config.get_text_config().num_hidden_layers)
    if beyond := [layer for layer in card.layers if not 0 <= layer <= depth]:
        raise ValueError(f"layers must be 0 to {depth} of {of}, got {beyond[0]}.")


@contextmanager
def decoding(network: ValueModel) -> Iterator[None]:
    """Ready a network that is being trained for decoding, and put it back as it was.

    In eval mode, with adapters folded into the weights.
    """
    training, adapted = network.training, hasattr(network.trunk, "merge_adapter")
    network.eval()
    if adapted:
        cast(Any, network.trunk).merge_adapter()
    try:
        yield
    finally:
        if adapted:
            cast(Any, network.trunk).unmerge_adapter()
        network.train(training)
