"""What was written is told from what became of it."""

import os
import shutil
import subprocess

import pytest

from mavis.checksums import SUMS, DamagedError, check, install, install_all, seal


@pytest.fixture
def sealed(tmp_path):
    """A folder with files in it, some of them private."""
    folder = tmp_path / "model"
    (folder / "trunk").mkdir(parents=True)
    (folder / "head.bin").write_bytes(bytes(range(256)) * 9000)  # more than a piece
    (folder / "trunk" / "config.json").write_text('{"layers": 2}\n')
    (folder / "README.md").write_text("A card.\n")
    (folder / "head.bin").chmod(0o600)
    seal(folder)
    return folder


def put(file, text):
    draft = file.with_name("draft")
    draft.write_text(text)
    draft.chmod(0o600)
    install(draft, file)


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_a_whole_folder_passes(sealed):
    check(sealed)
    before = (sealed / SUMS).read_text()
    assert [line[66:] for line in before.splitlines()] == ["head.bin", "trunk/config.json"]
    seal(sealed)  # again: its own checksums are none of its files
    assert (sealed / SUMS).read_text() == before
    check(sealed)
    (sealed / "README.md").write_text("A better card.\n")  # people may edit it
    check(sealed)


@pytest.mark.parametrize("at", [0, 1_500_000, -1])
def test_a_flipped_bit_is_found(sealed, at):
    flip(sealed / "head.bin", at)
    with pytest.raises(DamagedError, match=r"model/head\.bin is damaged or was changed"):
        check(sealed)
    with pytest.raises(DamagedError, match=r"head\.bin"):
        check(sealed / "head.bin")  # a file of a folder, by itself
    check(sealed / "trunk" / "config.json")


def test_files_below_and_missing_ones(sealed):
    (sealed / "trunk" / "config.json").write_text('{"layers": 3}\n')
    with pytest.raises(DamagedError, match=r"trunk/config\.json is damaged .*: throw it away\."):
        check(sealed, "throw it away.")
    shutil.rmtree(sealed / "trunk")
    with pytest.raises(FileNotFoundError, match=r"trunk/config\.json is missing"):
        check(sealed)


def test_sha256sum_checks_them_too(sealed, tmp_path):
    put(tmp_path / "a.json", "[1]\n")
    for folder, sums in ((sealed, SUMS), (tmp_path, ".a.json.sha256")):
        done = subprocess.run(
            ["sha256sum", "-c", sums], cwd=folder, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kept", [0, 1, 40, -1])
def test_checksums_that_are_cut_off_are_named(sealed, kept):
    sums = sealed / SUMS
    sums.write_text(sums.read_text()[:kept])
    with pytest.raises(DamagedError, match=rf"{SUMS} is damaged or was changed: restore it"):
        check(sealed)


def test_the_checksums_of_another_program_are_read(sealed):
    (sealed / SUMS).write_text((sealed / SUMS).read_text().replace("  ", " *"))  # sha256sum -b
    check(sealed)
    flip(sealed / "head.bin", 0)
    with pytest.raises(DamagedError, match=r"head\.bin"):
        check(sealed)


def test_a_draft_is_moved_into_a_folder_that_holds_more(sealed, tmp_path):
    (sealed / "tuned.json").write_text("{}\n")
    draft = tmp_path / "draft"
    (draft / "trunk").mkdir(parents=True)
    (draft / "head.bin").write_bytes(b"new")
    (draft / "trunk" / "weights.bin").write_bytes(b"new")
    install_all(draft, sealed)
    check(sealed)
    assert not draft.exists()
    there = sorted(file.relative_to(sealed).as_posix() for file in sealed.rglob("*.*"))
    assert there == ["README.md", "head.bin", "trunk/weights.bin", "tuned.json"]
    flip(sealed / "trunk" / "weights.bin", 0)
    with pytest.raises(DamagedError, match=r"trunk/weights\.bin"):
        check(sealed)


def test_without_checksums_a_place_is_taken_as_it_is(sealed, tmp_path):
    (sealed / SUMS).unlink()
    flip(sealed / "head.bin", 3)
    check(sealed)
    (tmp_path / "old.json").write_text("[1]\n")
    check(tmp_path / "old.json")
    assert not [*sealed.glob(SUMS), *tmp_path.glob(".*.sha256")]  # a check writes none


def test_a_file_and_its_checksum(tmp_path):
    file = tmp_path / "a.json"
    for text in ("[1]\n", "[2]\n"):
        put(file, text)
        check(file)
    assert file.read_text() == "[2]\n"
    file.write_text("[3]\n")
    with pytest.raises(DamagedError, match=r"a\.json is damaged or was changed"):
        check(file)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_killed_while_it_is_put_there_it_passes_for_whole(tmp_path, monkeypatch, step):
    file = tmp_path / "a.json"
    put(file, "[1]\n")
    left, replace = [step], os.replace

    def killed(*names):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        replace(*names)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            put(file, "[2]\n")
    check(file)
    assert file.read_text() == ("[2]\n" if step == 3 else "[1]\n")
    put(file, "[3]\n")
    check(file)


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_modes_follow_the_umask(tmp_path, sealed, mask):
    before = os.umask(mask)
    try:
        seal(sealed)
        put(tmp_path / "a.json", "[1]\n")
    finally:
        os.umask(before)
    for file in (sealed / "head.bin", sealed / "trunk" / "config.json", tmp_path / "a.json"):
        assert file.stat().st_mode & 0o777 == 0o666 & ~mask
