"""What is on disk is whole, whatever happened while it was written."""

import json

import pytest
from datasets import Dataset

from mavis import storage
from mavis.storage import Shards, chunks, write_json, write_whole

ROWS = [{"index": n, "rewards": [float(n), float("nan")]} for n in range(7)]


def indices(shards):
    return [row["index"] for row in shards.rows()]


def test_rows_come_back(tmp_path):
    shards = Shards(tmp_path / "a")
    assert shards.rows() == []
    shards.append(ROWS[:2])
    shards.append([])
    shards.append(ROWS[2:3])
    assert indices(shards) == [0, 1, 2]
    assert indices(Shards(tmp_path / "a", writer=5)) == [0, 1, 2]


def test_two_writers_do_not_meet(tmp_path):
    for writer in (0, 1):
        Shards(tmp_path, writer).append(ROWS[writer : writer + 1])
        Shards(tmp_path, writer).append(ROWS[writer + 2 : writer + 3])
    assert sorted(indices(Shards(tmp_path))) == [0, 1, 2, 3]


def test_gather_keeps_what_came_before_a_failure(tmp_path):
    def rows():
        yield from ROWS[:5]
        raise KeyboardInterrupt

    shards = Shards(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        shards.gather(rows(), 2)
    assert indices(shards) == [0, 1, 2, 3, 4]
    shards.gather(iter(ROWS[5:]), 10)
    assert indices(shards) == list(range(7))


def test_half_a_shard_is_none(tmp_path, monkeypatch):
    shards = Shards(tmp_path)
    shards.append(ROWS[:2])
    whole = Dataset.save_to_disk

    def half(self, path, **options):
        whole(self, path, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Dataset, "save_to_disk", half)
    with pytest.raises(OSError, match="No space left"):
        shards.gather(iter(ROWS[2:6]), 2)
    monkeypatch.undo()
    assert indices(shards) == [0, 1]
    shards.append(ROWS[2:4])  # over what the failed write left behind
    assert indices(shards) == [0, 1, 2, 3]


def test_write_whole_keeps_the_old_file(tmp_path):
    file = tmp_path / "deep" / "metrics.json"
    write_json(file, {"a": 1})

    def fails(draft):
        draft.write_text("{")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(file, fails)
    assert json.loads(file.read_text()) == {"a": 1}
    write_json(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 2}


def test_write_whole_replaces_a_folder(tmp_path):
    folder = tmp_path / "value"

    def write(text):
        def make(draft):
            draft.mkdir(exist_ok=True)
            (draft / text).write_text(text)

        return make

    write_whole(folder, write("one"))
    write_whole(folder, write("two"))
    assert [path.name for path in folder.iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["value"]


def test_a_draft_of_a_folder_that_was_left_behind_is_no_part_of_the_next(tmp_path):
    folder = tmp_path / "value"

    def fails(draft):
        draft.mkdir()
        (draft / "old").write_text("old")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(folder, fails)
    assert not folder.exists()

    def works(draft):
        draft.mkdir(exist_ok=True)
        (draft / "new").write_text("new")

    write_whole(folder, works)
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_chunks():
    assert list(chunks("abcde", 2)) == ["ab", "cd", "e"]


def test_slow_rows_are_not_waited_for(tmp_path, monkeypatch):
    """A process that is killed has saved what took long."""
    monkeypatch.setattr(storage, "LONGEST", -1.0)  # every row has waited long enough
    shards = Shards(tmp_path)
    seen = []

    def rows():
        for row in ROWS[:3]:
            seen.append(len(shards.rows()))
            yield row

    shards.gather(rows(), 16)
    assert seen == [0, 1, 2]
