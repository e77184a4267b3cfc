"""Checksums of what is written, so that a damaged file is named and never used.

A folder that is written as a whole holds `SHA256SUMS`; a file that is written by itself has
`.NAME.sha256` beside it. Both are lines of the program `sha256sum`, which can check them too. What
has no checksum, from before there were any or copied by itself, is taken as it is.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SUMS = "SHA256SUMS"
REMEDY = "restore it from a copy, or delete it and give the same command again."


class DamagedError(ValueError):
    """A file is not what was written; the message names it."""

    def __init__(self, file: Path, sums: Path, remedy: str) -> None:
        """Say which file, where its checksum stands, and what to do."""
        self.file = file
        super().__init__(
            f"{file} is damaged or was changed, its checksum in {sums.name} is another: {remedy}"
        )


def seal(folder: Path) -> None:
    """Note the checksums of the files in a folder, and open them as far as the umask says.

    All but README.md, which is for people, who may edit it.
    """
    (folder / SUMS).unlink(missing_ok=True)
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    files = [file for file in found if file != folder / "README.md"]
    lines = [_line(sha256(file), file.relative_to(folder).as_posix()) for file in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    for file in files:
        _open(file, folder / SUMS)


def install(draft: Path, file: Path) -> None:
    """Move a finished draft of a file into its place, and note its checksum beside it.

    Killed at any moment, the file is the old one or the new one, and passes for whole.
    """
    beside, now = _beside(file), _line(sha256(draft), file.name)
    before = beside.read_text(encoding="utf-8") if beside.is_file() else ""
    _write(beside, before + now if file.is_file() and before else now)
    _open(draft, beside)
    os.replace(draft, file)  # noqa: PTH105 - must replace what is there
    _write(beside, now)


def check(place: Path, remedy: str = REMEDY) -> None:
    """Compare a file or the files of a folder with their checksums, as far as there are any.

    Raises:
        DamagedError: a file is not what was written.
        FileNotFoundError: a file is missing.
    """
    if place.is_dir():
        sums, known = place / SUMS, [(digest, place / name) for digest, name in _read(place / SUMS)]
    else:
        sums = beside if (beside := _beside(place)).is_file() else place.parent / SUMS
        known = [(digest, place) for digest, name in _read(sums) if name == place.name]
    for file in dict.fromkeys(file for _, file in known):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: {remedy}")
        if (sha256(file), file) not in known:
            raise DamagedError(file, sums, remedy)


def sha256(file: Path) -> str:
    """The SHA-256 of a file, read in pieces: about a second per GB."""
    digest, piece = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with file.open("rb", buffering=0) as stream:
        while size := stream.readinto(piece):
            digest.update(piece[:size])
    return digest.hexdigest()


def _beside(file: Path) -> Path:
    return file.with_name(f".{file.name}.sha256")


def _line(digest: str, name: str) -> str:
    return f"{digest}  {name}\n"


def _read(sums: Path) -> Iterator[tuple[str, str]]:
    """The checksums and names of a file of them."""
    text = ""
    with suppress(FileNotFoundError):
        text = sums.read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        digest, _, name = line.partition("  ")
        yield digest, name


def _write(file: Path, text: str) -> None:
    draft = file.with_name(file.name + ".part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, file)  # noqa: PTH105


def _open(file: Path, like: Path) -> None:
    """Give a file the mode of one that was made by plain means: libraries make theirs private."""
    file.chmod(like.stat().st_mode)
