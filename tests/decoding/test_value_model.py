"""The value network: its start, its heads, its trunk, and what a saved folder gives back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from mavis.decoding.backbone import shared_layers
from mavis.decoding.guides import objectives_of
from mavis.decoding.model_card import ModelCard, Source
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.value_heads import ActionHead
from mavis.decoding.value_model import ValueModel, build_network, decoding
from mavis.reward import Units

Build = Callable[..., ReferencePolicy]
Make = Callable[..., ValueModel]

SOURCES = get_args(Source)
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
PROMPT, SOME = [5, 3, 9, 20, 11, 4], [7, 30, 3]


def card(reference: ReferencePolicy, source: Source = "action", *objectives: str) -> ModelCard:
    names = objectives or ("humor",)
    units = tuple(Units(0.0, 1.0) for _ in names)
    return ModelCard(
        source=source,
        objectives=names,
        units=units,
        reference=reference.name,
        fingerprint=reference.fingerprint,
    )


def numbers(naive: Any, reference: ReferencePolicy, network: ValueModel) -> torch.Tensor:
    return torch.tensor(naive(reference, [network]).values(PROMPT, SOME))


def state(network: ValueModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


# Heads


@pytest.mark.parametrize("source", SOURCES)
def test_a_new_network_values_everything_at_zero(
    tiny_reference: ReferencePolicy, source: Source
) -> None:
    network = build_network(card(tiny_reference, source, "a", "b"), tiny_reference)
    hidden, tokens = torch.randn(3, 5, 32), torch.randint(40, (3, 5, 4))
    if source == "state":
        found = network.state_values(hidden)
        assert found.shape == (3, 5, 2)
    else:
        found = network.action_values(hidden, tokens)
        assert found.shape == (3, 5, 4, 2)
    assert found.dtype == torch.float32
    assert (found == 0).all()
    found.sum().backward()  # and yet it can learn
    assert network.head.state.weight.grad is not None
    assert all(p.grad is not None and p.grad.any() for p in network.head.parameters())


@pytest.mark.parametrize("source", ["action", "shared"])
def test_the_centre_is_the_mean_embedding(tiny_reference: ReferencePolicy, source: Source) -> None:
    head = build_network(card(tiny_reference, source), tiny_reference).head
    assert isinstance(head, ActionHead)
    table = tiny_reference.model.get_input_embeddings().weight
    torch.testing.assert_close(head.centre, table.mean(0))
    assert not head.centre.requires_grad


# Trunks


def test_a_part_of_the_reference_shares_its_weights(build_reference: Build, family: str) -> None:
    """And gives the states of its layers as the whole does."""
    reference = build_reference(family, layers=4)
    whole = reference.model.base_model
    own = {parameter.data_ptr() for parameter in whole.parameters()}
    ids = torch.tensor([PROMPT])
    states = whole(ids, output_hidden_states=True).hidden_states
    for layers, count in (((2, 0), 3), ((0,), 1), ((1,), 2)):
        part = shared_layers(reference.model, layers)
        assert part.config.num_hidden_layers == count
        assert all(parameter.data_ptr() in own for parameter in part.parameters())
        found = part(ids, output_hidden_states=True).hidden_states
        for at in layers:
            assert torch.equal(found[at], states[at])
    for layers in ((), (3, 0), (4,)):
        assert shared_layers(reference.model, layers) is whole


def test_all_layers_copied_are_the_reference_itself(build_reference: Build, family: str) -> None:
    reference = build_reference(family, layers=3)
    trunk = build_network(card(reference), reference, trunk=3).eval().trunk
    assert trunk is not None
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        ours = trunk(input_ids=ids).last_hidden_state
        theirs = reference.model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(ours, theirs)
    parameters = dict(reference.model.base_model.named_parameters())
    assert {name for name, _ in trunk.named_parameters()} == set(parameters)
    for name, parameter in trunk.named_parameters():
        assert parameter.requires_grad
        assert parameter.data_ptr() != parameters[name].data_ptr()


def test_first_layers_are_the_first_layers(build_reference: Build, family: str) -> None:
    reference = build_reference(family, layers=3)
    trunk = build_network(card(reference), reference, trunk=2).trunk
    assert trunk is not None
    assert trunk.config.num_hidden_layers == 2
    assert reference.model.config.num_hidden_layers == 3
    whole = reference.model.base_model.state_dict()
    for name, tensor in trunk.state_dict().items():
        assert torch.equal(tensor, whole[name]), name


@pytest.mark.parametrize(("depth", "expected"), [(1, 1), (2, 2), (3, 2), (4, 2), (6, 3)])
def test_half_the_layers_by_default(build_reference: Build, depth: int, expected: int) -> None:
    reference = build_reference(layers=depth)
    trunk = build_network(card(reference), reference).trunk
    assert trunk is not None
    assert trunk.config.num_hidden_layers == expected


@pytest.mark.parametrize("layers", [0, -1, 3])
def test_layers_that_are_not_there(tiny_reference: ReferencePolicy, layers: int) -> None:
    with pytest.raises(ValueError, match=rf"trunk must be 1 to 2 layers .*, got {layers}"):
        build_network(card(tiny_reference), tiny_reference, trunk=layers)


def test_the_copy_of_a_half_precision_model_is_float32(build_reference: Build) -> None:
    reference = build_reference()
    reference.model.half()
    network = build_network(card(reference), reference)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    whole = reference.model.base_model.state_dict()
    assert network.trunk is not None
    for name, tensor in network.trunk.state_dict().items():
        assert torch.equal(tensor, whole[name].float())


def test_the_reference_is_no_part_of_a_shared_network(tiny_reference: ReferencePolicy) -> None:
    network = build_network(card(tiny_reference, "shared"), tiny_reference)
    assert network.trunk is None
    assert all(name.startswith("head.") for name in network.state_dict())
    assert all(p.requires_grad for p in network.parameters())


@pytest.fixture
def other(tiny_lm: Callable[..., PreTrainedModel], tmp_path: Path) -> Callable[..., str]:
    """Save another causal LM, and say where."""

    def save(tokenizer: PreTrainedTokenizerBase | None, **model: Any) -> str:
        folder = tmp_path / "other"
        tiny_lm(**model).save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        return str(folder)

    return save


def test_another_model_as_trunk(
    tiny_reference: ReferencePolicy, other: Callable[..., str], tiny_network: Make, tmp_path: Path
) -> None:
    name = other(tiny_reference.tokenizer, family="gpt2", layers=1, seed=5, hidden_size=24)
    network = build_network(card(tiny_reference), tiny_reference, trunk=name)
    assert network.trunk is not None
    assert network.trunk.config.model_type == "gpt2"
    assert network.action_values(torch.randn(24), torch.tensor([30])).shape == (1, 1)
    network = tiny_network(tiny_reference, "action", trunk=name)
    network.save_pretrained(tmp_path / "value")
    again = ValueModel.from_pretrained(tmp_path / "value", tiny_reference)
    assert state(again).keys() == state(network).keys()


def test_another_tokenizer_as_trunk(
    tiny_reference: ReferencePolicy,
    other: Callable[..., str],
    tiny_tokenizer: Callable[..., PreTrainedTokenizerBase],
) -> None:
    name = other(tiny_tokenizer(39))
    with pytest.raises(ValueError, match=r"trunk .*other.* different tokenizers"):
        build_network(card(tiny_reference), tiny_reference, trunk=name)


def test_a_trunk_with_fewer_tokens(
    tiny_reference: ReferencePolicy, other: Callable[..., str]
) -> None:
    name = other(tiny_reference.tokenizer, vocab=39)
    with pytest.raises(ValueError, match=r"knows 39 tokens, the reference tiny llama 40"):
        build_network(card(tiny_reference), tiny_reference, trunk=name)


def test_a_trunk_with_fewer_positions(
    build_reference: Callable[..., ReferencePolicy], other: Callable[..., str]
) -> None:
    reference = build_reference()
    learned = {"family": "gpt2", "max_position_embeddings": 48}
    name = other(reference.tokenizer, **learned)
    with pytest.raises(
        ValueError,
        match=r"trunk .*other has learned positions for 48 .* tiny llama reads up to 160",
    ):
        build_network(card(reference), reference, trunk=name)
    other(reference.tokenizer, **learned | {"max_position_embeddings": 160})
    build_network(card(reference), reference, trunk=name)
    other(reference.tokenizer, max_position_embeddings=48)  # positions that are worked out
    build_network(card(reference), reference, trunk=name)


def test_a_value_model_under_a_reference_of_longer_context(
    build_reference: Callable[..., ReferencePolicy],
    tiny_network: Make,
    tmp_path: Path,
) -> None:
    short = build_reference("gpt2", max_position_embeddings=48)
    tiny_network(short).save_pretrained(tmp_path)
    ValueModel.from_pretrained(tmp_path, short)
    with pytest.raises(ValueError, match=r"trunk of value model .* for 48 .* reads up to 160"):
        ValueModel.from_pretrained(tmp_path, build_reference())


def test_a_trunk_without_a_tokenizer(
    tiny_reference: ReferencePolicy, other: Callable[..., str]
) -> None:
    with pytest.raises(ValueError, match=r"tokenizer of trunk .* cannot be loaded") as caught:
        build_network(card(tiny_reference), tiny_reference, trunk=other(None))
    assert "\n" not in str(caught.value)


def test_a_trunk_that_cannot_be_cached(
    tiny_reference: ReferencePolicy, other: Callable[..., str]
) -> None:
    grows = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    name = other(tiny_reference.tokenizer, family="llama", rope_parameters=grows)
    with pytest.raises(ValueError, match="llama models cannot be guided"):
        build_network(card(tiny_reference), tiny_reference, trunk=name)


def test_a_missing_trunk(tiny_reference: ReferencePolicy) -> None:
    with pytest.raises(FileNotFoundError, match=r"trunk '\./nowhere' is missing"):
        build_network(card(tiny_reference), tiny_reference, trunk="./nowhere")


# Adapters


def test_only_adapters_and_head_are_trained(tiny_reference: ReferencePolicy) -> None:
    network = build_network(card(tiny_reference), tiny_reference, lora=LORA)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    adapters = {name for name in trained if "lora_" in name}
    assert {name for name in trained if not name.startswith("head.")} == adapters
    assert len(adapters) == 2 * 2 * 2  # two layers, two projections, A and B


@pytest.mark.parametrize("source", ["action", "state"])
def test_a_saved_adapter_is_folded_into_a_plain_model(
    tiny_reference: ReferencePolicy, tiny_network: Make, source: Source, tmp_path: Path, naive: Any
) -> None:
    network = tiny_network(tiny_reference, source, lora=LORA)
    before = state(network)
    network.save_pretrained(tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(network).items())

    plain = AutoModel.from_pretrained(tmp_path / "trunk")
    assert not any("lora" in name for name in plain.state_dict())
    assert not [file for file in tmp_path.rglob("*") if "adapter" in file.name]
    again = ValueModel.from_pretrained(tmp_path, tiny_reference)
    adapted = numbers(naive, tiny_reference, network)
    assert torch.allclose(numbers(naive, tiny_reference, again), adapted, atol=1e-5)
    plain_trunk = tiny_network(tiny_reference, source)
    assert not torch.allclose(numbers(naive, tiny_reference, plain_trunk), adapted, atol=1e-2)


def test_decoding_folds_adapters_in_and_out_again(
    tiny_reference: ReferencePolicy, tiny_network: Make, naive: Any
) -> None:
    network = tiny_network(tiny_reference, lora=LORA).train()
    before, adapted = state(network), numbers(naive, tiny_reference, network)
    with decoding(network):
        assert not network.training
        assert torch.allclose(numbers(naive, tiny_reference, network), adapted, atol=1e-5)
        assert any(not torch.equal(now, before[name]) for name, now in state(network).items())
    assert network.training
    for name, tensor in state(network).items():
        torch.testing.assert_close(tensor, before[name])
    with pytest.raises(KeyboardInterrupt), decoding(network):
        raise KeyboardInterrupt
    assert network.training
    assert torch.allclose(numbers(naive, tiny_reference, network), adapted, atol=1e-5)


def test_decoding_leaves_an_evaluating_network_as_it_is(
    tiny_reference: ReferencePolicy, tiny_network: Make
) -> None:
    network = tiny_network(tiny_reference)
    with decoding(network):
        assert not network.training
    assert not network.training


# Several networks


def test_objectives_are_those_of_all_networks_in_order(
    tiny_reference: ReferencePolicy, tiny_network: Make
) -> None:
    two = tiny_network(tiny_reference, "shared", ("humor", "kind"))
    one = tiny_network(tiny_reference, "shared", ("sense",))
    assert objectives_of([one, two]) == ("sense", "humor", "kind")
    assert objectives_of([]) == ()
    with pytest.raises(ValueError, match="different objectives, got humor twice"):
        objectives_of([two, one, two])
