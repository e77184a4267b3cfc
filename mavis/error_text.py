"""What an error says, as a part of our own messages: on one line, and cut where it is long."""


def message(error: BaseException, most: int = 300) -> str:
    r"""The message of an error; the name of its class if it has none.

    >>> message(OSError("two\nlines")), message(KeyError())
    ('two lines', 'KeyError')
    """
    return _line(str(error), most) or type(error).__name__


def reason(error: BaseException, most: int = 300) -> str:
    """The class of an error and its message.

    >>> reason(KeyError("humor"))
    "KeyError: 'humor'"
    """
    return _line(f"{type(error).__name__}: {error}", most)


def _line(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]} …"
