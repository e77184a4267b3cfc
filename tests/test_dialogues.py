"""Dialogues and chats are cut before their reply, or refused."""

import json

import numpy as np
import pytest

from mavis.dialogues import LONGEST, dialogue, parted
from mavis.prompts import plain

CHOSEN = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Why: \nAssistant: x?\n\nAssistant: So."
OPEN = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Why: \nAssistant: x?\n\nAssistant:"
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Why?"},
]
ASKED = [{"role": "user", "content": "Hi."}]
REPLY = {"role": "assistant", "content": "Hello."}


def test_dialogue_reads_hh_rlhf():
    assert dialogue(OPEN) == [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Why: \nAssistant: x?"},
    ]
    assert dialogue("\n\nHuman: Hi. \n\nAssistant: ") == [{"role": "user", "content": "Hi."}]
    assert dialogue("Human: Hi.\n\nAssistant:") == [{"role": "user", "content": "Hi."}]


def test_dialogue_reads_what_plain_writes():
    assert dialogue(plain(CHAT)) == CHAT
    assert dialogue(plain(CHAT[:2])) == CHAT[:2]  # a system text with a single question


def test_dialogue_makes_the_roles_alternate():
    text = "\n\nHuman: a\n\nHuman: b\n\nAssistant: \n\nHuman: c\n\nAssistant:"

    assert dialogue(text) == [{"role": "user", "content": "a\n\nb\n\nc"}]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hi.",
        "\n\nHuman: Hi.",
        CHOSEN,
        "\n\nAssistant:",
        "\n\nHuman: \n\nAssistant:",
        "Assistant:",
    ],
)
def test_other_text_is_no_dialogue(text):
    assert dialogue(text) is None


# Texts


def test_a_dialogue_is_cut_behind_its_last_assistant_and_stays_as_it_is():
    assert parted(CHOSEN, "row 1") == (OPEN, "So.")
    assert parted(OPEN, "row 1") == (OPEN, None)
    assert parted("Be kind.\n\nHuman: Hi.\n\nAssistant: Yo.", "row 1") == (
        "Be kind.\n\nHuman: Hi.\n\nAssistant:",
        "Yo.",
    )


@pytest.mark.parametrize(
    "text",
    [
        "Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: SECRET",
        "\n\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: SECRET",
        "\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: SECRET",
        "  Human: a\n\n Assistant: b\n\n Human: c\n\n Assistant: SECRET",
        "\r\n\r\nHuman: a\r\n\r\nAssistant: b\r\n\r\nHuman: c\r\n\r\nAssistant: SECRET",
        "Human: a\nAssistant: b\nHuman: c\nAssistant: SECRET",
        "\n\nHuman: a\nAssistant: b\n\nHuman: c\nAssistant: SECRET",
        "Human: a\rAssistant: b\rHuman: c\rAssistant: SECRET",
        "human: a\n\nassistant: b\n\nhuman: c\n\nassistant: SECRET",
        "HUMAN: a\nASSISTANT: b\nHUMAN: c\nASSISTANT: SECRET",
        "User: a\nAssistant: b\nUser: c\nAssistant: SECRET",
        "### Human: a### Assistant: b### Human: c### Assistant: SECRET",
        "### Human: a\n### Assistant: b\n### Human: c\n### Assistant: SECRET",
        "###Human : a\n\n###Assistant : b\n\n###Human : c\n\n###Assistant : SECRET",
        "**Human:** a\n\n**Assistant:** b\n\n**Human:** c\n\n**Assistant:** SECRET",
        "**Human**: a\n**Assistant**: b\n**Human**: c\n**Assistant**: SECRET",
        "- Human: a\n- Assistant: b\n- Human: c\n- Assistant: SECRET",
        "[human]: a\n[assistant]: b\n[human]: c\n[assistant]: SECRET",
    ],
)
def test_a_dialogue_may_begin_as_it_likes(text):
    prompt, reply = parted(text, "row 1")

    assert reply == "SECRET"
    assert dialogue(prompt) == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Human: a", "the dialogue in row 1 has no 'Assistant:' turn"),
        ("\n\nHuman: a", "has no 'Assistant:' turn"),
        ("User: a\nBot: SECRET", "has no 'Assistant:' turn"),
        ("Be kind.\nHuman: a Assistant: SECRET", "goes on behind 'Assistant:'"),
        ("Human: a Assistant: SECRET", "has no 'Assistant:' turn"),
        ("<human>: a\n<bot>: SECRET", "has no 'Assistant:' turn"),
        ("Fix this:\nuser: a\nassistant: b\n", "goes on behind 'assistant:'"),
        ("roles:\n  user: a\n  assistant: b\nWhat is this?", "goes on behind 'assistant:'"),
        ("How?\n\nAssistant: SECRET", "row 1 goes on behind 'Assistant:'"),
        ("Assistant: SECRET\n\nHuman: a", "goes on behind 'Assistant:'"),
        ("A chat. USER: a ASSISTANT: SECRET</s>", "goes on behind 'ASSISTANT:'"),
        ("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nSECRET", "im_start.>assistant"),
        ("<s>[INST] a [/INST] SECRET</s>", r"goes on behind '\[/INST\]'"),
        ("### Instruction:\na\n\n### Response:\nSECRET", "goes on behind '### Response:'"),
        ("<start_of_turn>user\na\n<start_of_turn>model\nSECRET", "start_of_turn>model"),
        ("\n\nHuman: \n\nAssistant: SECRET", "empty prompt in row 1"),
        ("[{'role': 'user', 'content': 'a'}]", "looks like a list of messages, but is not JSON"),
        ("a" * (LONGEST + 1), "row 1 has 1,000,001 characters, more than 1,000,000"),
    ],
)
def test_what_may_hold_a_reply_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        parted(text, "row 1")


@pytest.mark.parametrize(
    "text",
    [
        "  Hi.\r\n",
        "What is a human: an ape?",
        "Who is your assistant: Bob?",
        "### Instruction:\na\n\n### Response:\n",  # written out for a model, and open
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n",
        "[INST] a [/INST]",
        "Q: 1 + 1\nA: 2\nQ: 2 + 2\nA:",
        '[{"a": 1}] is a list.',
    ],
)
def test_other_texts_stay_as_they_are(text):
    assert parted(text, "row 1") == (text, None)


def test_halves_of_pairs_are_joined_or_replaced():
    assert parted("a \ud83d\ude00 \ud83d", "row 1") == ("a 😀 \ufffd", None)
    assert parted([{"role": "user", "content": "\ude00"}], "row 1")[0][0]["content"] == "\ufffd"


# Chats


@pytest.mark.parametrize(
    ("chat", "prompt", "reply"),
    [
        ([*CHAT, REPLY], CHAT, "Hello."),
        (CHAT, CHAT, None),
        ([*ASKED, REPLY, REPLY], ASKED, None),  # which of the two?
        ([{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "So."}], ASKED, "So."),
        ([{"role": "user", "content": [{"type": "text", "text": "Hi."}]}, REPLY], ASKED, "Hello."),
        (
            [{"role": "user", "content": [{"type": "text", "text": t} for t in ("H", "i.")]}],
            ASKED,
            None,
        ),
        ([*ASKED, {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}], ASKED, None),
        ([{**ASKED[0], "tool_calls": None, "name": "x"}, REPLY], ASKED, "Hello."),
        (np.array([*ASKED, REPLY], dtype=object), ASKED, "Hello."),
        ((ASKED[0], REPLY), ASKED, "Hello."),
        (json.dumps([*ASKED, REPLY]), ASKED, "Hello."),
        ([REPLY], None, None),
        ([CHAT[0]], None, None),
        ([], None, None),
    ],
)
def test_a_chat_is_cut_before_the_last_reply(chat, prompt, reply):
    assert parted(chat, "row 1") == (prompt, reply)


TOOL = {"role": "tool", "content": "5"}


@pytest.mark.parametrize(
    "chat",
    [
        [*ASKED, REPLY, TOOL, REPLY],
        [{"role": "developer", "content": "x"}, *ASKED],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "image", "url": "x"}]}],
        [{"role": "user", "content": [{"type": "text", "text": "Hi."}, {"type": "image"}]}],
        [*ASKED, {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}, *ASKED],
        [{"from": "human", "value": "a"}, {"from": "observation", "value": "b"}],
        [{"text": "a"}],
        ["Hi."],
        [["user", "Hi."]],
    ],
)
def test_other_chats_are_refused(chat):
    with pytest.raises(ValueError, match=r"a chat must be a list of .*, got .* in row 1"):
        parted(chat, "row 1")


@pytest.mark.parametrize("value", [None, "", float("nan"), [{"role": "user", "content": " "}]])
def test_nothing_is_an_empty_prompt(value):
    with pytest.raises(ValueError, match="empty prompt in row 1"):
        parted(value, "row 1")


@pytest.mark.parametrize("value", [5, True, b"a", {"text": "x" * 9999}])
def test_what_is_no_text_is_shown_briefly(value):
    with pytest.raises(ValueError, match=r"strings or chats, got .* in row 1") as it:
        parted(value, "row 1")
    assert len(str(it.value)) < 200


def test_a_long_chat_is_too_long():
    with pytest.raises(ValueError, match="row 1 has 1,000,002 characters"):
        parted([{"role": "user", "content": "a" * (LONGEST // 2 + 1)}] * 2, "row 1")
