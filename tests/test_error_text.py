"""What other libraries' errors say is one line of a message."""

from mavis.error_text import message, reason


def test_lines_are_joined():
    assert message(OSError("two\n  lines")) == "two lines"
    assert reason(OSError("two\n  lines")) == "OSError: two lines"


def test_an_error_without_a_message_has_its_class():
    assert message(SystemExit()) == "SystemExit"
    assert reason(SystemExit()) == "SystemExit:"


def test_a_long_message_is_cut():
    assert message(ValueError("a" * 300)) == "a" * 300
    assert message(ValueError("a" * 301)) == "a" * 300 + " …"
    assert reason(ValueError("abc"), 13) == "ValueError: a …"
