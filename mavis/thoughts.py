r"""Thoughts: what a reasoning model writes between tags before it answers.

A reward scores the answer alone, and a judge's verdict is what it writes after its thoughts.
"""

import re

_NAMES = "think|thinking|thought|thoughts|reasoning"
_TAG = re.compile(rf"<(?P<close>/?)\s*(?P<name>{_NAMES})\s*>", re.IGNORECASE)


def without_thought(reply: str) -> str:
    r"""A reply without the thoughts in it, and without the white space that parts them from it.

    A thought that is cut off goes to the end of the reply. One whose opening tag stood in the
    prompt goes from the beginning of the reply to its closing tag. A reply without a tag comes
    back as it is.

    >>> without_thought("<think>A joke? Yes.</think>\n\nMoo.")
    'Moo.'
    >>> without_thought("Yes, a joke.</think>Moo."), without_thought("<think>A joke? On the")
    ('Moo.', '')
    >>> without_thought(" 2 < 3, I think.")
    ' 2 < 3, I think.'
    """
    answer, at, inside = "", 0, ""  # inside: the name of the tag that is open
    for tag in _TAG.finditer(reply):
        name = tag["name"].lower()
        if inside and not (tag["close"] and name == inside):
            continue  # a thought may speak of tags
        if not inside:
            answer = "" if tag["close"] else _joined(answer, reply[at : tag.start()], at)
        inside, at = ("" if tag["close"] else name), tag.end()
    return answer if inside else _joined(answer, reply[at:], at)


def _joined(before: str, after: str, at: int) -> str:
    """Join the texts before and after a thought, which ended at `at` (0: there was no thought).

    White space on its two sides is kept between the words around it, but is not doubled.
    """
    if not at:
        return after
    return before + after.removeprefix(before[-1]) if before.strip() else after.lstrip()
