"""Prompts that leave room for an answer are taken in the seed's order; the others are counted."""

import json

import pytest

from mavis.decoding.prompt_filter import check_enough, fitting_prompts

SHORT = ["an ant", "a tin", "hats", "tens", "umbra"]
LONG = "an ant " * 40  # longer than the tiny model's context


@pytest.fixture
def source(tmp_path):
    rows = [*SHORT[:2], LONG, *SHORT[2:]]
    for split in ("validation", "test"):  # or some of these would be held out
        (tmp_path / f"{split}.jsonl").write_text('{"prompt": "tins"}')
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"prompt": row}) for row in rows))
    return str(tmp_path)


def test_long_prompts_are_left_out_and_counted(tiny_reference, source, capsys):
    found = fitting_prompts(tiny_reference, source, "train", None, 20, None)
    assert found == SHORT
    assert "1 of 6 train prompts of" in capsys.readouterr().err
    fitting_prompts(tiny_reference, source, "train", None, 20, None, quiet=True)
    assert capsys.readouterr().err == ""


def test_a_longer_answer_leaves_less_room(tiny_reference, source):
    most = tiny_reference.context - min(map(tiny_reference.length, SHORT))
    kept = fitting_prompts(tiny_reference, source, "train", None, most, None, quiet=True)
    assert kept
    assert {tiny_reference.length(prompt) for prompt in kept} == {tiny_reference.context - most}
    with pytest.raises(ValueError, match=r"6 of 6 train prompts .* shorten them, or lower max_tok"):
        fitting_prompts(tiny_reference, source, "train", None, most + 1, None)


def test_the_seed_gives_the_order_and_fewer_are_the_first_of_more(tiny_reference, source):
    def take(seed, wanted=None):
        return fitting_prompts(tiny_reference, source, "train", None, 20, seed, wanted, quiet=True)

    assert sorted(take(0)) == sorted(SHORT)
    assert take(0) == take(0)
    assert len({tuple(take(seed)) for seed in range(5)}) > 2
    assert take(3, 2) == take(3)[:2]


def test_a_spread_needs_two():
    check_enough(["a", "b"], "here", "test")
    with pytest.raises(ValueError, match=r"holds one of them: give two or more, as test\.jsonl"):
        check_enough(["a"], "here", "test")
