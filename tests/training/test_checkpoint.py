"""A checkpoint is there as a whole, or as it was before; a damaged one is named."""

from types import SimpleNamespace
from zipfile import ZipFile

import pytest

from mavis.training.run_folder import check_checkpoint, save_checkpoint


def trainer_of(write, main=True):
    """As much of a trainer as is asked for; `met` counts how often the processes wait."""
    met = []
    strategy = SimpleNamespace(barrier=lambda: met.append(1))
    saves = {"save_checkpoint": lambda file, **_: write(file)}
    return SimpleNamespace(is_global_zero=main, strategy=strategy, met=met, **saves)


def archive(text):
    def write(file):
        with ZipFile(file, "w") as parts:
            parts.writestr("data", text)

    return write


def test_what_is_saved_passes_the_check(tmp_path):
    file = tmp_path / "last.ckpt"
    trainer = trainer_of(archive("one"))
    save_checkpoint(trainer, file)
    check_checkpoint(file)
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", ".last.ckpt.sha256"}
    assert trainer.met == [1]


def test_a_save_that_fails_leaves_the_last_one(tmp_path):
    file = tmp_path / "last.ckpt"
    save_checkpoint(trainer_of(archive("one")), file)
    before = file.read_bytes()

    def half(draft):
        draft.write_bytes(b"half of")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(trainer_of(half), file)
    assert file.read_bytes() == before
    check_checkpoint(file)


def test_only_the_first_process_puts_it_in_place(tmp_path):
    trainer = trainer_of(archive("one"), main=False)
    save_checkpoint(trainer, tmp_path / "last.ckpt")
    assert not (tmp_path / "last.ckpt").exists()
    assert trainer.met == [1]


@pytest.mark.parametrize("checksum", [True, False])
def test_a_changed_byte_is_found(tmp_path, checksum):
    """With the checksum beside it, or, as it once was, by those within."""
    file = tmp_path / "last.ckpt"
    save_checkpoint(trainer_of(archive("a" * 100)), file)
    if not checksum:
        (tmp_path / ".last.ckpt.sha256").unlink()
    content = bytearray(file.read_bytes())
    content[content.index(b"aaaa")] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged.*`mavis fit` with the same"):
        check_checkpoint(file)
