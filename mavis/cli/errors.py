"""Format an error as one readable line, and choose its exit status."""

import errno
import os
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
LONGEST = 560  # maximum characters of an error line
NOISE = (  # lines of a parser error that do not explain it
    *("Does not validate against", "Subtypes:", "Errors:", "Given value type:"),
    *("Expected a <class 'NoneType'>", "Given value: NestedArg"),
)
INPUT = (  # errors caused by the user's input
    *(ValueError, LookupError, FileNotFoundError, FileExistsError),
    *(NotADirectoryError, IsADirectoryError, PermissionError),
)
# Errors that mavis raises with whole sentences, which need no class name.
SENTENCES = (ValueError, LookupError, OSError, ImportError, RuntimeError)
MEMORY = "lower --rows (--data.rows of a fit) or --max_tokens, so that less is held at a time"
FULL = os.strerror(errno.ENOSPC)  # "No space left on device"
FREE_SPACE = "Free some space and give the same command again; what a fit has finished is kept."


def complaint(error: BaseException) -> str:
    """Describe an error in one line.

    Errors raised by mavis are whole sentences. A library's error may say too little, so its class
    is added, and how to see the traceback.
    """
    error = _within(error)
    if _is_memory(error):
        more = f": {_first(error)}" if str(error) else ""
        return _short(f"out of memory ({MEMORY}){more}")
    text = _system(error) if isinstance(error, OSError) else _first(error)
    if FULL in str(error):  # libraries have classes of their own for it
        return _short(f"{text.rstrip('.')}. {FREE_SPACE}")
    if isinstance(error, UnicodeError):
        return _short(f"a text is not UTF-8: {error}; --debug shows which file it is.")
    named = (
        f"{type(error).__name__}: {text}" if text else f"{type(error).__name__}, without a message"
    )
    if is_ours(error) and text:
        return _short(text if isinstance(error, SENTENCES) else named)
    if isinstance(error, OSError | ImportError) and text:
        return _short(text)
    return _short(f"{named.rstrip('. ')}; --debug shows where.")


def status(error: BaseException) -> int:
    """Return 2 if the user's input is wrong, and 1 if the command failed."""
    if isinstance(error, LookupError) and not is_ours(error):
        return 1  # a library's KeyError is not about the input
    return 2 if isinstance(error, INPUT) else 1


def is_ours(error: BaseException) -> bool:
    """Return whether mavis raised the error, rather than a library that it called."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return trace is None or Path(trace.tb_frame.f_code.co_filename).is_relative_to(PACKAGE)


def _within(error: BaseException) -> BaseException:
    """Our own error where the parser repeats it, followed by every argument of a class."""
    inner = error.__cause__ or error.__context__
    while inner is not None and not is_ours(error):
        if is_ours(inner) and isinstance(inner, SENTENCES) and str(inner) in str(error):
            return inner
        inner = inner.__cause__ or inner.__context__
    return error


def _is_memory(error: BaseException) -> bool:
    of_torch = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    named = type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported here
    of_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return of_torch or named or of_system or isinstance(error, MemoryError)


def _system(error: OSError) -> str:
    """Return the system's error message and the file, without the error number."""
    if error.strerror is None or error.filename is None:
        return _first(error)
    also = f" -> {error.filename2}" if error.filename2 else ""
    return f"{error.filename}{also}: {error.strerror.lower()}."


def _first(error: BaseException) -> str:
    """The first lines of an error, without what its library says about usage."""
    lines = [line.strip().removeprefix("- ") for line in str(error).splitlines()]
    text = " ".join([line for line in lines if line and not line.startswith(NOISE)][:4])
    return text.strip("'\"") if isinstance(error, LookupError) and is_ours(error) else text


def _short(text: str) -> str:
    """Replace control characters, and cut the text to a few terminal lines."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}…"
