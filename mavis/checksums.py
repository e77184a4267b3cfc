"""Checksums of what is written, so that a damaged file is named and never used.

A folder that is written as a whole holds `SHA256SUMS`; a file that is written by itself has
`.NAME.sha256` beside it. Both are lines of the program `sha256sum`, which can check them too. What
has no checksum, from before there were any or copied by itself, is taken as it is.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

SUMS = "SHA256SUMS"
DRAFT = ".part"  # ends the name of what is being written
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
REMEDY = "restore it from a copy, or delete it and give the same command again."


class DamagedError(ValueError):
    """A file is not what was written; the message names it."""

    def __init__(self, file: Path, sums: Path | None, remedy: str) -> None:
        """Name the file, the file of its checksum unless there is none, and what to do."""
        self.file = file
        where = f", its checksum in {sums.name} is another" if sums else ""
        super().__init__(f"{file} is damaged or was changed{where}: {remedy}")


def seal(folder: Path) -> None:
    """Write the checksums of the files in a folder, and give the files the mode of the umask.

    All but README.md, which is for people, who may edit it.
    """
    (folder / SUMS).unlink(missing_ok=True)
    files = sorted(folder.rglob("*"))
    files = [file for file in files if file.is_file() and file != folder / "README.md"]
    lines = [_line(sha256(file), file.relative_to(folder).as_posix()) for file in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    for file in files:
        shutil.copymode(folder / SUMS, file)  # libraries make their files private


def install_all(draft: Path, folder: Path) -> None:
    """Move all files of a finished draft folder into a folder, and write their checksums there.

    What has the same name is replaced, what has another stays. Killed half-way, the folder has no
    checksums of it; so the card that marks the folder as whole must be written after this.
    """
    seal(draft)
    (folder / SUMS).unlink(missing_ok=True)
    for new in sorted(draft.iterdir(), key=lambda new: new.name == SUMS):  # which come last
        if (folder / new.name).is_dir():
            shutil.rmtree(folder / new.name)
        new.replace(folder / new.name)
    draft.rmdir()


def install(draft: Path, file: Path) -> None:
    """Move a finished draft of a file into its place, and write its checksum beside it.

    Killed at any moment, the file is the old one or the new one, and passes for whole.
    """
    beside, now = _beside(file), _line(sha256(draft), file.name)
    before = beside.read_text(encoding="utf-8") if beside.is_file() else ""
    _write(beside, before + now if file.is_file() and before else now)
    shutil.copymode(beside, draft)
    draft.replace(file)
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
    with file.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _beside(file: Path) -> Path:
    return file.with_name(f".{file.name}.sha256")


def _line(digest: str, name: str) -> str:
    return f"{digest}  {name}\n"


def _read(sums: Path) -> Iterator[tuple[str, str]]:
    """The checksums and names of a file of them."""
    if not sums.is_file():
        return
    lines = sums.read_text(encoding="utf-8", errors="replace").split("\n")
    if lines.pop() or not lines:  # every line has its end, and there is one at least
        raise DamagedError(sums, None, REMEDY)
    for line in lines:
        if (match := _LINE.fullmatch(line)) is None:
            raise DamagedError(sums, None, REMEDY)
        yield match[1], match[2]


def _write(file: Path, text: str) -> None:
    draft = file.with_name(file.name + DRAFT)
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)
