"""What a value model is built from and how it is learned, where the user has not said it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor
from transformers import PreTrainedModel

from mavis.decoding.model_card import Source
from mavis.decoding.reference import SMALL
from mavis.training.state_features import NONLINEAR

Credit = Literal["token", "joint"]

HEAD_WIDTH = 512  # of the hidden layer that reads the reference's states for `shared` values
FEW_LAYERS = 2  # of the reference that joint credit copies for `state` values
DEPTH = 0.4  # of the layer of the reference that it reads for `shared` values
# Numbers of a state that it reads at most. It solves as many equations, and of D numbers it keeps
# sums of D² for each fold of the prompts: .3 GB, and half as much for discounted increments.
WIDEST = 3072
NO_LAYERS = "layers are of `shared` or `state` values: give such a source, or no layers."
LAYERS = "layers"  # in a checkpoint: those that its values read
HIDDEN = "network.head.residual.up.weight"  # there, of a head that has a hidden layer
RANDOM = "joint_head.states.directions"  # there, of joint credit: see `state_features`


@dataclass(frozen=True)
class Design:
    """How a value model is built and learned.

    Args:
        source: where its values come from.
        credit: how they are learned.
        layers: whose states are read side by side, of the trunk or, for `shared` values, of the
            reference: 0 the embeddings, l after layer l; empty: the last state.
        trunk: first layers of the reference, or another model; None: half of the reference's.
        nonlinear: random features of a state that joint credit foretells the next one from.
        head_width: of the head's hidden layer; 0: there is none.
    """

    source: Source
    credit: Credit
    layers: tuple[int, ...]
    trunk: int | str | None
    nonlinear: int = NONLINEAR
    head_width: int = 0


def check(
    source: Source | None,
    credit: Credit | None,
    layers: tuple[int, ...] | None,
    lora: dict[str, Any] | None,
    taught: bool = False,
) -> None:
    """Refuse choices that contradict each other.

    Raises:
        ValueError: joint credit of `action` values or adapters, layers of `action` values, or a
            teacher of values that are not `shared` or are learned otherwise.
    """
    if taught and (source not in (None, "shared") or credit == "joint"):
        raise ValueError(
            "a teacher is of `shared` values, which learn from it in gradient steps: leave "
            "model.source and model.credit out, or model.teacher."
        )
    if credit == "joint" and source == "action":
        raise ValueError("joint credit is of `state` or `shared` values, got source action.")
    if layers and source == "action":
        raise ValueError(NO_LAYERS)
    if credit == "joint" and lora is not None:
        raise ValueError("joint credit trains no adapters: leave lora out, or credit joint.")


def choose(
    reference: PreTrainedModel,
    source: Source | None,
    credit: Credit | None,
    layers: tuple[int, ...] | None,
    trunk: int | str | None,
    lora: dict[str, Any] | None,
    taught: bool = False,
) -> Design:
    """Fill in what is None, by the size of the reference.

    Gradient steps learn a small model's values best, in a trunk of their own. Of a large model,
    frozen states and joint credit learn more from as many trees, in seconds.

    Raises:
        ValueError: layers are given where `action` values are chosen.
    """
    config = reference.config.get_text_config()
    depth, width = int(config.num_hidden_layers), int(config.hidden_size)
    large = reference.num_parameters() >= SMALL
    if taught:
        source, credit = "shared", "token"
    source = source or ("state" if large or credit == "joint" else "action")
    joint = large and source != "action" and lora is None
    credit = credit or ("joint" if joint else "token")
    if layers and source == "action":
        raise ValueError(NO_LAYERS)
    if credit == "token":
        # A trunk learns what states should say; those of the reference say what they say.
        width = HEAD_WIDTH if source == "shared" else 0
        return Design(source, credit, layers or (), trunk, head_width=width)
    trunk = min(FEW_LAYERS, depth) if trunk is None else trunk
    if layers is None and source == "shared":
        layers = (round(DEPTH * depth),)
    elif layers is None and isinstance(trunk, int):
        # The token itself is in the embeddings, what it means here in the last states.
        every = (0, trunk // 2, trunk) if trunk > 1 else (0, trunk)
        layers = every if len(every) * width <= WIDEST else ()
    return Design(source, credit, layers or (), trunk)


def begun(
    design: Design,
    checkpoint: Mapping[str, Any],
    width: int,
    layers: tuple[int, ...] | None,
    trunk: int | str | None,
) -> Design:
    """The design of a run that is resumed, which an earlier mavis may have chosen otherwise.

    Before there was joint credit, all values were learned token by token; before layers were
    chosen, joint credit read the last states, and checkpoints did not say which. Expectations were
    foretold from states alone, and heads were linear.

    Args:
        design: what is chosen now.
        checkpoint: of the run.
        width: numbers in the state of a layer.
        layers: as given.
        trunk: as given.
    """
    state = checkpoint["state_dict"]
    inner = len(state[HIDDEN]) if HIDDEN in state else 0
    if design.credit == "joint" and not any(name.startswith("joint_head.") for name in state):
        return Design(design.source, "token", layers or (), trunk, head_width=inner)
    if design.credit == "joint" and RANDOM not in state:
        design = replace(design, nonlinear=0)
    design = replace(design, head_width=inner)
    if layers is not None:
        return design
    if LAYERS in checkpoint:
        return replace(design, layers=tuple(checkpoint[LAYERS]))
    head = state.get("network.head.state.weight")
    alone = len(design.layers) > 1 and head is not None and head.shape[1] == width
    return replace(design, layers=()) if alone else design


def differing(mine: Mapping[str, Any], its: Mapping[str, Any]) -> str:
    """The first name that one of two states lacks, or has in another shape; "" if there is none.

    Args:
        mine: state of a module.
        its: state of another.
    """
    shapes = [
        {name: one.shape if isinstance(one, Tensor) else None for name, one in state.items()}
        for state in (mine, its)
    ]
    names = shapes[0] | shapes[1]  # of both
    return next((n for n in names if shapes[0].get(n, n) != shapes[1].get(n, n)), "")
