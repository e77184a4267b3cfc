"""The tilt of logits that another engine has computed: values of its last states, nothing else.

Nothing in here knows the engine. It gives logits [R, V] and the states [R, H] that they were made
of, and gets logits from which it samples the guided policy.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from mavis.checksums import check
from mavis.decoding.guides import objectives_of, relative_strength_of
from mavis.decoding.loading import value_folder
from mavis.decoding.model_card import REMEDY, ModelCard, read_card
from mavis.decoding.model_folders import load_tokenizer
from mavis.decoding.request import SamplingParams
from mavis.decoding.tilt import RowSettings, candidates, tilt
from mavis.decoding.tokenizers import fingerprint, was_before
from mavis.decoding.value_model import ValueModel
from mavis.decoding.value_states import side_by_side
from mavis.value_places import VARIABLE

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"


def folders() -> dict[str, str]:
    """The folders of value models by objective that the environment names.

    Raises:
        ValueError: it names none.
    """
    try:
        found = json.loads(os.environ.get(VARIABLE, ""))
        return {str(name): str(value_folder(folder)) for name, folder in found.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f'{VARIABLE} must name value models, such as {VARIABLE}=\'{{"humor": "runs/humor"}}\'.'
        ) from error


def cards(places: Mapping[str, str], depth: int | None = None) -> dict[str, ModelCard]:
    """The cards of value models, by folder, after a check that an engine can carry them.

    Args:
        places: folders by objective.
        depth: layers of the model, where it is known.

    Raises:
        ValueError: one does not know its objective, or reads something else than the last state.
    """
    found: dict[str, ModelCard] = {}
    for name, place in places.items():
        card = read_card(Path(place))
        if name not in card.objectives:
            known = ", ".join(card.objectives)
            raise ValueError(f"{place} has no values of {name}, but of {known}.")
        last = card.layers in ((), (depth,)) if depth is not None else len(card.layers) <= 1
        if card.source != "shared" or not last:
            what = "earlier layers" if card.source == "shared" else f"`{card.source}` values"
            raise ValueError(
                f"{place} reads {what}: vLLM carries `shared` values of the last state. Fit such "
                "ones by --model.source shared --model.layers []."
            )
        found[place] = card
    return found


class SharedTilt:
    """Guides the logits of an engine's model.

    Args:
        places: folders of value models, by objective.
        model: the folder that the engine serves, with safetensors and a tokenizer.
        device: of the engine's states.

    Raises:
        ValueError: the value models read something else, or are of another model.
    """

    def __init__(self, places: Mapping[str, str], model: str, device: torch.device) -> None:
        config = AutoConfig.from_pretrained(model)
        text = config.get_text_config()
        read = cards(places, int(text.num_hidden_layers))
        tokenizer = load_tokenizer(model, model)
        for place, card in read.items():
            same = card.fingerprint == fingerprint(tokenizer)
            if not (same or was_before(tokenizer, card.fingerprint)):
                raise ValueError(f"{place} is of {card.reference}, whose tokens are not {model}'s.")
        self.vocabulary, self.device = int(text.vocab_size), device
        table = embedding_table(Path(model)).to(device)
        self.guides = tuple(
            ValueModel(card, None, table, self.vocabulary) for card in read.values()
        )
        for place, guide in zip(read, self.guides, strict=True):
            check(Path(place), REMEDY)
            guide.load_head(Path(place), model)
            guide.to(device).eval()
        every = objectives_of(self.guides)
        self.objectives = tuple(name for name in every if name in places)
        self._columns = [every.index(name) for name in self.objectives]

    def strength(self, weights: Sequence[float]) -> float:
        """The strength that weights [M] are guided with where none is asked for."""
        natural = [beta for guide in self.guides if (beta := guide.natural_beta) is not None]
        every = [0.0] * len(objectives_of(self.guides))
        for column, weight in zip(self._columns, weights, strict=True):
            every[column] = weight
        usual = min(natural) if natural else SamplingParams.beta
        return usual * relative_strength_of(self.guides, every)

    @torch.inference_mode()
    def __call__(self, logits: Tensor, hidden: Tensor, settings: RowSettings) -> Tensor:
        """T · log π [R, V], −∞ for what is no candidate: an engine divides by T once more.

        Args:
            logits: of the reference policy, not divided by a temperature [R, V].
            hidden: its last states [R, H].
            settings: of the rows; the order of objectives is that of `objectives`.
        """
        options = candidates(logits, settings)
        values = torch.cat([_values(g, hidden, options.tokens) for g in self.guides], -1)
        log_pi = tilt(options.log_ref, values[..., self._columns], settings.weights, settings.beta)
        scaled = settings.temperature[:, None] * log_pi
        return torch.full_like(logits, -torch.inf).scatter(1, options.tokens, scaled.to(logits))


def _values(guide: ValueModel, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Values of the candidates [R, K, M] at the last states [R, H]."""
    layers = guide.card.layers
    return guide.action_values(
        side_by_side(dict.fromkeys(layers, hidden), layers) if layers else hidden, tokens
    )


def embedding_table(folder: Path) -> Tensor:
    """The input embeddings [V, E] of a model in a folder, and nothing else of it.

    Raises:
        FileNotFoundError: its weights are in no safetensors file.
    """
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    wanted = model.get_input_embeddings().weight
    (name,) = [n for n, tensor in model.named_parameters() if tensor is wanted]
    index = folder / INDEX
    file = json.loads(index.read_text())["weight_map"][name] if index.is_file() else WHOLE
    if not (folder / file).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {file}: value models need the embeddings of the model they are of, "
            "as safetensors."
        )
    with safe_open(folder / file, "pt") as weights:
        found: Tensor = weights.get_tensor(name)
    return found
