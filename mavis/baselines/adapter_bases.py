"""The model that an adapter is put on: the one that it names, or the reference policy itself.

An adapter names the model that it was trained on, often by a name that means nothing elsewhere: a
folder of another machine, or a name on the hub for what is a folder here.
"""

import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

from transformers import PreTrainedModel

from mavis.decoding.adapters import is_adapter
from mavis.decoding.architectures import check_reach
from mavis.decoding.gguf_files import is_gguf
from mavis.decoding.reference import ReferencePolicy
from mavis.hub import MavisWarning, is_local, locate, reachable


def base_of(reference: ReferencePolicy, base: str, copied: bool = False) -> PreTrainedModel:
    """Load the model that adapters are put on.

    If that is the reference policy, its weights are shared, or copied for those who change them.

    Raises:
        ValueError: another model has fewer learned positions than the reference reads.
    """
    model = reference.model
    if not same_model(base, reference.name):
        other = ReferencePolicy.load(base, device=str(model.device)).model
        check_reach(other, f"the base {base}", reference.context, reference.name)
        return other
    # New modules around the same tensors: adapters change modules, and the reference has none.
    tensors = () if copied else (*model.parameters(), *model.buffers())
    return deepcopy(model, {id(tensor): tensor for tensor in tensors})


def same_model(name: str, other: str) -> bool:
    """Whether two names mean one folder, or one model on the hub."""
    first, second = _located(name), _located(other)
    if first is None or second is None:
        return name == other
    return first.resolve() == second.resolve()


def check_vocabulary(reference: ReferencePolicy, what: str, model: PreTrainedModel) -> None:
    """Raise ValueError when a model knows fewer tokens than the reference policy."""
    size = len(model.get_output_embeddings().weight)
    if size < reference.vocabulary:
        raise ValueError(
            f"{what} knows {size} tokens, the reference {reference.name} {reference.vocabulary}."
        )


def find_base(
    reference: ReferencePolicy, named: str, what: str, given: str | None, fits: Callable[[], object]
) -> str:
    """Decide which model an adapter is put on, without asking the hub where that can be avoided.

    Args:
        reference: π_ref.
        named: the base that the adapter names.
        what: the adapter, for messages.
        given: the base that the user names.
        fits: raises ValueError if the adapter does not fit the reference.

    Returns:
        `given`; else the named base where it is on this machine; else the reference, where the
        adapter fits it, with a warning that says so; else the named base on the hub.

    Raises:
        FileNotFoundError: `given` is missing, or the hub does not have the named base.
        ValueError: the named base is nowhere, and the adapter does not fit the reference.
    """
    if given is not None:
        return reachable(given, f"base of {what}")
    if named and same_model(named, reference.name):
        return reference.name
    if (here := _on_this_machine(named)) is not None:
        return here
    gone = f"is for the model {named!r}, which is not on this machine"
    problem = f"{what} {gone if named else 'does not say which model it is for'}"
    try:
        fits()
    except ValueError as error:
        if named and not is_local(named):  # nothing else is left
            return reachable(named, f"base of {what},")
        raise ValueError(
            f"{problem}, and it does not fit the reference {reference.name} ({error}): say by "
            "`base` where its model is."
        ) from error
    warnings.warn(
        f"{problem}: it is put on the reference {reference.name}, whose shapes it fits. Say by "
        "`base` if that is not the model it was trained on.",
        MavisWarning,
        stacklevel=2,
    )
    return reference.name


def _on_this_machine(named: str) -> str | None:
    """A folder of the named model: a local one, or an earlier download."""
    place = _located(named)
    if place is None:
        return None
    if place.exists():
        there = (place / "config.json").is_file() or is_gguf(str(place)) or is_adapter(str(place))
        return str(place) if there else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(named, "config.json")
    except HFValidationError:
        return None
    folder = Path(config).parent if isinstance(config, str) else None
    weights = folder is not None and any((*folder.glob("*.safetensors"), *folder.glob("*.bin")))
    return str(folder) if weights else None


def _located(name: str) -> Path | None:
    """The path of a folder, or a name on the hub; None for a folder that is gone, or no name."""
    try:
        return Path(locate(name))
    except (FileNotFoundError, ValueError):
        return None
