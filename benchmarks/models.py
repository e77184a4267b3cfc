"""Random models for the benchmarks: speed does not depend on what the weights say.

A pair is a Llama as reference policy and as many smaller Llamas as value models, over one made-up
vocabulary. There is no end token: every answer runs to its limit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

from mavis.decoding.backbone import embeddings
from mavis.decoding.model_card import ModelCard, Source
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.value_model import ValueModel
from mavis.reward import Units
from mavis.training.value_design import HEAD_WIDTH

CONTEXT = 1024


@dataclass(frozen=True)
class Width:
    """The size of one Llama with heads of `head` dimensions and tied embeddings.

    Keys and values have one head for each `group` of query heads.
    """

    hidden: int
    layers: int
    inner: int
    head: int = 64
    group: int = 1


@dataclass(frozen=True)
class Size:
    """The size of a pair."""

    vocabulary: int
    base: Width
    value: Width


SIZES = {
    "tiny": Size(256, Width(32, 2, 48, 16), Width(16, 2, 32, 8)),
    "small": Size(4096, Width(384, 6, 1432), Width(192, 4, 1024)),  # 15.0 M and 3.7 M parameters
    "medium": Size(32000, Width(768, 12, 2048), Width(448, 6, 1536)),  # 109.5 M and 31.5 M
    # Those of real models, for `gpu.py`: SmolLM2 135M, half of its layers, and Mistral 7B.
    "135m": Size(49152, Width(576, 30, 1536, 64, 3), Width(576, 15, 1536, 64, 3)),
    "7b": Size(32000, Width(4096, 32, 14336, 128, 4), Width(1024, 16, 3584, 64)),
}


def sizes_of(size: Size) -> dict[str, float]:
    """Millions of parameters of a pair."""
    pair = {"base": size.base, "value": size.value}
    return {name: round(_config(size, w).millions, 1) for name, w in pair.items()}


@dataclass(frozen=True)
class _Built:
    config: LlamaConfig
    millions: float


def _config(size: Size, width: Width) -> _Built:
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=width.hidden,
        num_hidden_layers=width.layers,
        intermediate_size=width.inner,
        num_attention_heads=width.hidden // width.head,
        num_key_value_heads=width.hidden // width.head // width.group,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    layer = (2 + 2 / width.group) * width.hidden**2 + 3 * width.hidden * width.inner
    return _Built(config, (width.layers * layer + size.vocabulary * width.hidden) / 1e6)


@contextmanager
def made_at(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Make what is made in this block on a device, in a type: a large model fits nowhere else."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def reference_of(
    size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> ReferencePolicy:
    """A random reference policy whose words are t0, t1 and so on."""
    torch.manual_seed(0)
    words = {f"t{number}": number for number in range(size.vocabulary)}
    core = Tokenizer(models.WordLevel(words, unk_token="t0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="t0")
    with made_at(device, dtype):
        model = LlamaForCausalLM(_config(size, size.base).config)
    return ReferencePolicy(model, tokenizer)


def network_of(size: Size, reference: ReferencePolicy, source: Source, name: str) -> ValueModel:
    """A random value network of one objective; its values are of the order of 1."""
    card = ModelCard(
        source=source,
        objectives=(name,),
        units=(Units(0.0, 1.0),),
        reference="reference",
        fingerprint=reference.fingerprint,
        head_width=HEAD_WIDTH if source == "shared" else 0,
    )
    trunk = None if source == "shared" else LlamaModel(_config(size, size.value).config)
    table = embeddings(reference.model)
    network = ValueModel(card, trunk, table, reference.vocabulary).eval().requires_grad_(False)
    network.to(reference.model.device)
    for parameter in network.head.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return network


def prompts_of(size: Size, count: int, shortest: int, longest: int) -> list[list[int]]:
    """Ragged prompts, evenly from the shortest to the longest."""
    random = np.random.default_rng(0)
    lengths = np.linspace(shortest, longest, count).round().astype(int)
    return [[int(t) for t in random.integers(1, size.vocabulary, n)] for n in lengths]


def text_of(tokens: list[int]) -> str:
    """Tokens as the words that `reference_of` reads."""
    return " ".join(f"t{token}" for token in tokens)
