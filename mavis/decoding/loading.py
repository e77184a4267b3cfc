"""`mavis.load`: a guided policy from the folders of its value models."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mavis.decoding.model_card import ModelCard, read_card
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy, spare_threads
from mavis.decoding.value_model import ValueModel
from mavis.devices import check_device
from mavis.hub import MavisWarning, is_local

Folder = str | Path
RIGHT_CALL = 'mavis.load({"humor": "runs/humor/value"})'
_MODEL = "config.json"  # what a folder of `transformers` holds, and one of ours does not


def load(
    values: Mapping[str, Folder] | Folder | Collection[Folder] | None = None,
    reference: Folder | None = None,
    device: str | None = None,
    template_args: Mapping[str, Any] | None = None,
) -> GuidedPolicy:
    """Load a guided policy.

    A small model on a CPU gets one torch thread, unless OMP_NUM_THREADS is set: more are slower.

    Args:
        values: the folder of each objective's value model, by objective
            (`{"humor": "runs/humor/value"}`); or one folder or a list of them, which are of all
            the objectives that their cards name. The folder of a run stands for its `value`.
        reference: the reference policy; None takes the one the value models were trained under,
            or the embedded one.
        device: where to run (`cpu`, `cuda:1`); None takes an accelerator if there is one.
        template_args: arguments of the reference's chat template, such as
            `{"enable_thinking": False}`.

    Warns:
        MavisWarning: the reference's weights are not those that a value model was trained under.

    Raises:
        FileNotFoundError: a folder is missing, or is no model.
        ValueError: a value model is of another objective, was trained under another reference
            than the others, or does not fit the reference policy; there is no such device.
    """
    cards = _cards(values)
    asked = {"reference": reference, "template": None, "template_args": template_args}
    for what, given in asked.items():
        known = {str(getattr(card, what)) for card in cards.values()}
        if len(known) > 1 and given is None:
            raise ValueError(
                f"value models must be of one {what}, got {' and '.join(sorted(known))}."
            )
    check_device(device)
    policy = _reference(cards, reference, device, template_args)
    networks = [ValueModel.from_pretrained(folder, policy) for folder in cards]
    for folder, card in cards.items():
        if card.reference_weights and card.reference_weights != policy.weights_digest:
            warnings.warn(
                f"the weights of reference {policy.name} are not those that value model {folder} "
                "was trained under: its values may mislead. Take the old weights, or fit again.",
                MavisWarning,
                stacklevel=2,
            )
    return GuidedPolicy(policy, tuple(networks))


def value_folder(folder: Folder) -> Path:
    """The folder of a value model: this one, or the `value` of a run in it."""
    path = Path(folder).expanduser()
    run = path / "value"
    return run if not (path / "value.json").exists() and (run / "value.json").exists() else path


def _cards(values: Any) -> dict[Path, ModelCard]:
    """The card of every value model by its folder, in order.

    Raises:
        FileNotFoundError: a folder holds no value model.
        ValueError: what is asked for is no folder, or of another objective.
    """
    if values is None:
        return {}
    named = isinstance(values, Mapping)
    folders = list(values.values()) if named else values
    folders = [folders] if isinstance(folders, str | Path) else folders
    if not isinstance(folders, Sequence):
        raise ValueError(f"values must be folders by objective, as in {RIGHT_CALL}.")
    for folder in folders:
        if not isinstance(folder, str | Path) or not str(folder).strip():
            raise ValueError(
                f"values must be folders by objective, as in {RIGHT_CALL}, got {folder!r}."
            )
    places = [value_folder(folder) for folder in folders]
    cards = {place: _card(place) for place in places}
    for name, place in zip(values, places, strict=True) if named else ():
        if name not in cards[place].objectives:
            raise ValueError(
                f"values.{name} must be a value model of {name}, but {place} is of "
                f"{', '.join(cards[place].objectives)}."
            )
    if not named:
        _check_different(cards)
    return cards


def _check_different(cards: Mapping[Path, ModelCard]) -> None:
    """Raise ValueError for two value models of one objective."""
    home: dict[str, Path] = {}
    for folder, card in cards.items():
        for name in card.objectives:
            if home.setdefault(name, folder) != folder:
                raise ValueError(
                    f"values must be of different objectives, but {home[name]} and "
                    f"{folder} are both of {name}."
                )


def _card(folder: Path) -> ModelCard:
    if not folder.exists():
        raise FileNotFoundError(
            f"{folder} holds no value model: there is no such folder. `mavis fit` leaves one in "
            f"its run, as in {RIGHT_CALL}."
        )
    if (folder / _MODEL).is_file() and not (folder / "value.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no value model: value.json is missing. It is a language model: a "
            'reference policy is given by reference=, as in mavis.load(reference="…").'
        )
    return read_card(folder)


def _reference(
    cards: Mapping[Path, ModelCard],
    given: Folder | None,
    device: str | None,
    template_args: Mapping[str, Any] | None,
) -> ReferencePolicy:
    """The reference policy that was asked for, or the one that the value models know."""
    folder, card = next(iter(cards.items()), (None, None))
    known = card.reference if card else "sandbox/reference"
    name = known if given is None else str(given)
    if card and given is None and is_local(name) and not Path(name).exists():
        raise FileNotFoundError(
            f"value model {folder} was trained under the reference {name}, which is no longer "
            f'there: say where it is now by reference="PATH" (`--reference PATH`).'
        )
    template = card.template if card else None
    if template_args is None and card:
        template_args = card.template_args
    policy = ReferencePolicy.load(name, template, device, template_args)
    spare_threads(policy.model)
    return policy
