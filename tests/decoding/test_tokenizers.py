"""Tokenizers: which of them name tokens alike, and what their tokens spell."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from mavis.baselines.policy_guides import mod
from mavis.decoding.backbone import sibling
from mavis.decoding.decode import decode
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import Request, SamplingParams
from mavis.decoding.tokenizers import Spelling, names_alike
from mavis.decoding.value_model import ValueModel

Tokenizer = Callable[..., PreTrainedTokenizerBase]
Model = Callable[..., PreTrainedModel]


def test_more_tokens_are_no_other_tokenizer(tiny_tokenizer: Tokenizer) -> None:
    ours, more, fewer = tiny_tokenizer(), tiny_tokenizer(), tiny_tokenizer(37)
    more.add_special_tokens({"sep_token": "[SEP]"})
    more.add_tokens(["zebra"])
    assert names_alike(more, ours)
    assert names_alike(ours, ours)
    assert names_alike(ours, fewer)
    assert not names_alike(ours, more)
    assert not names_alike(fewer, ours)
    other = tiny_tokenizer(37)
    other.add_tokens(["zebra"])  # the id of another token of ours
    assert not names_alike(other, ours)


@pytest.fixture
def grown(tmp_path: Path, tiny_tokenizer: Tokenizer, tiny_lm: Model) -> Path:
    """The tiny llama's folder with two more tokens, as recipes for fine-tuning leave it."""
    tokenizer, model = tiny_tokenizer(), tiny_lm()
    tokenizer.add_special_tokens({"sep_token": "[PAD]"})
    tokenizer.add_tokens(["zebra"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for part in (tokenizer, model):
        part.save_pretrained(tmp_path / "grown")
    return tmp_path / "grown"


def test_policies_and_trunks_may_have_more_tokens(
    grown: Path, tiny_reference: ReferencePolicy
) -> None:
    trunk = sibling(str(grown), tiny_reference)
    assert len(trunk.get_input_embeddings().weight) == 42
    mixed = mod(tiny_reference, {"humor": grown})
    (answer,) = mixed.generate(["a bun"], weights={"humor": 1.0}, top_k=0, max_tokens=12)
    (alone,) = GuidedPolicy(tiny_reference).generate(["a bun"], top_k=0, max_tokens=12)
    assert answer.tokens == alone.tokens  # the same model, but for tokens that are no candidates
    assert answer.kl == pytest.approx(0, abs=1e-3)


def test_a_reference_with_fewer_tokens_than_they_have(
    grown: Path, tiny_reference: ReferencePolicy
) -> None:
    """The other way round they lack what the reference may say."""
    reference = ReferencePolicy.load(str(grown))
    tokens = tiny_reference.tokenizer
    path = grown.parent / "ours"
    tiny_reference.model.save_pretrained(path)
    tokens.save_pretrained(path)
    for make in (lambda: sibling(str(path), reference), lambda: mod(reference, {"humor": path})):
        with pytest.raises(ValueError, match=r"different tokenizers"):
            make()


def test_a_value_model_outlives_tokens_that_are_added_later(
    tiny_lm: Model,
    tiny_tokenizer: Tokenizer,
    tiny_network: Callable[..., ValueModel],
    tmp_path: Path,
) -> None:
    before = ReferencePolicy(tiny_lm(vocab=48), tiny_tokenizer(), "padded")  # with room for more
    network = tiny_network(before)
    network.save_pretrained(tmp_path / "value")
    later = tiny_tokenizer()
    later.add_special_tokens({"sep_token": "[PAD]"})
    later.add_tokens(["zebra", "yak"])
    after = ReferencePolicy(before.model, later, "padded")
    assert after.fingerprint != before.fingerprint
    assert after.knows(before.fingerprint)
    assert not before.knows(after.fingerprint)
    assert not after.knows(ReferencePolicy(tiny_lm(vocab=37), tiny_tokenizer(37)).fingerprint)
    again = ValueModel.from_pretrained(tmp_path / "value", after)
    asked = GuidedPolicy(before, (network,)).generate(["a bun"])
    assert GuidedPolicy(after, (again,)).generate(["a bun"])[0].tokens == asked[0].tokens


def test_special_tokens_and_unknown_ids_spell_nothing(tiny_tokenizer: Tokenizer) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"sep_token": "<um>"})
    spelling, ids = Spelling(tokenizer), tokenizer.get_vocab()
    tokens = [999, *(ids[token] for token in ("a", "<um>", " ", "<pad>", "um", "<end>", "n")), 41]
    assert spelling.text(tokens) == "a umn"
    assert spelling.text(tokens, last=2) == "umn"
    assert spelling.text([]) == ""


@pytest.mark.parametrize(
    ("tokens", "string", "stops"),
    [
        (("a", "um", "n"), "mn", True),  # over the border of two tokens
        (("a", "um", "n"), "aumn", True),
        (("a", "um", "n"), "au", True),
        (("a", "<um>", "n"), "an", True),  # as it is shown
        (("a", "<um>", "n"), "<um>", True),  # as it is said
        (("a", "<um>"), "a<um>", True),
        (("a", "<um>", "n"), "nn", False),
        (("a", "<um>", "n"), "um", False),  # a part of a name is no text
        (("a", "<um>", "n"), "<", False),
        (("a",), "an", False),
        ((), "a", False),
    ],
)
def test_stop_strings(
    tiny_tokenizer: Tokenizer, tokens: tuple[str, ...], string: str, stops: bool
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"sep_token": "<um>"})
    said = [tokenizer.get_vocab()[token] for token in tokens]
    assert Spelling(tokenizer).stops([*said, 777], (string, "@@")) is stops


def test_stop_strings_of_the_user_are_cut_out_of_the_text(tiny_reference: ReferencePolicy) -> None:
    (whole,) = GuidedPolicy(tiny_reference).generate(["a bun"], max_tokens=30)
    said = tiny_reference.decode(whole.tokens)
    for size in (1, 2, 4):
        for at in range(3, len(said) - size, 4):
            string = said[at : at + size]
            start = tiny_reference.encode("a bun").tokens
            job = Request(
                start, 30, SamplingParams(), (0, *start, "sample", 0), stop=(string, "@@@")
            )
            (span,) = decode(tiny_reference, (), [job])
            assert span.reason == "stop"
            assert span.tokens == whole.tokens[: len(span.tokens)]
            shown = tiny_reference.decode(span.tokens, job.stop)
            assert shown == said[: said.index(string)].rstrip()


@pytest.mark.parametrize("stop", ["\n\n", ("",), ("a", "")])
def test_stop_strings_that_are_none(stop: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"stop (strings )?must be"):
        Request([3], 4, SamplingParams(), (0,), stop)


def test_the_folder_of_a_model_with_padded_embeddings(
    tiny_lm: Model, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """More embeddings than tokens are common: for the reference, for policies, for trunks."""
    tiny_lm(vocab=64).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    reference = ReferencePolicy.load(str(tmp_path))
    assert len(AutoModelForCausalLM.from_pretrained(tmp_path).get_input_embeddings().weight) == 64
    sibling(str(tmp_path), reference)
    mixed = mod(reference, {"humor": tmp_path})
    answers = mixed.generate(["a bun"], weights={"humor": 1.0}, top_k=0, n=10)
    assert all(answer.text.isprintable() or "\n" in answer.text for answer in answers)
