import pytest

from mavis.thoughts import without_thought


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("<think>a</think>b", "b"),
        ("<think>\na\n</think>\n\n b", "b"),
        ("<think></think>b", "b"),
        ("\n<think>a</think>b", "b"),
        ("b <think>a</think> c <think>a</think>d", "b c d"),
        ("b<think>a</think>\nc", "b\nc"),  # the words behind a thought are not those before it
        ("b <think>a</think>\n\nc", "b \n\nc"),
        ("<think>a</think>b<think>a</think> c", "b c"),
        ("<THINK>a</Think >b", "b"),
        ("<thinking>a</thinking>b", "b"),
        ("<reasoning>a</reasoning>b", "b"),
        ("<think>a", ""),  # cut off
        ("b\n<think>a", "b\n"),
        ("<think>a</thinking>b", ""),
        ("a</think>\nb", "b"),  # opened in the prompt
        ("a</think>b</think>c", "c"),
        ("<think>I shall write <think> here.</think>b", "b"),
        ("<think>a<think>a</think>a</think>b", "b"),
        ("</think>", ""),
        ("<think>", ""),
    ],
)
def test_thoughts_are_left_out(reply, answer):
    assert without_thought(reply) == answer


@pytest.mark.parametrize("reply", ["", " ", "\n\na ", "<thin>a</thin>", "think> a < think", "a <b"])
def test_a_reply_without_thoughts_stays_as_it_is(reply):
    assert without_thought(reply) == reply
