"""Sources: folders, clones from the hub, functions and the hub itself."""

import json
import sys
from itertools import chain

import datasets
import pytest
from pyarrow import Table, parquet

from mavis import data_files
from mavis.prompts import read_prompts

CHOSEN = "\n\nHuman: Hi.\n\nAssistant: So."
OPEN = "\n\nHuman: Hi.\n\nAssistant:"
MANY = [f"What about {n}?" for n in range(300)]


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def module(monkeypatch, tmp_path):
    """`module(text)`: the name of a module with that text."""

    def write(text):
        (tmp_path / "my_prompts.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "my_prompts", raising=False)
        return "my_prompts"

    return write


# Functions


@pytest.mark.parametrize(
    "value",
    [
        "['a', {'prompt': 'b'}, 'a']",
        "('a', 'b')",
        "iter(['a', 'b'])",
        "(x for x in 'ab')",
        "numpy.array(['a', 'b'])",
        "numpy.array(['a', 'b'], dtype=object)",
        "pandas.Series(['a', 'b'])",
        "pandas.DataFrame({'prompt': ['a', 'b'], 'id': [1, 2]})",
        "datasets.Dataset.from_dict({'prompt': ['a', 'b']})",
        "datasets.Dataset.from_dict({'prompt': ['a', 'b']})['prompt']",
        "{'prompt': ['a', 'b'], 'id': [1, 2]}",
    ],
)
def test_a_function_can_be_the_source(module, value):
    name = module(f"import datasets, numpy, pandas\ndef mine():\n    return {value}\n")
    found = read_prompts(f"{name}:mine", None)

    assert found == ["a", "b"]
    assert {type(text) for text in found} == {str}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 'abc'", "my_prompts:mine' failed .*must return prompts or rows.* got 'abc'"),
        ("return None", "got None"),
        ("return [][0]", "my_prompts:mine' failed .IndexError"),
        ("yield 'a'; raise OSError('two\\nlines')", r"failed \(OSError: two lines\)"),
        ("return []", "no prompts in 'my_prompts:mine'"),
        ("import pandas; return ['a', pandas.NA]", "got <NA> in row 2"),
        ("import numpy; return numpy.zeros((2, 2))", "got 0.0 in row 1"),
        ("import numpy; return numpy.array('a')", "failed .TypeError"),
        ("return [b'a']", "got b'a' in row 1 of 'my_prompts:mine'"),
        ("import datasets as d; return d.DatasetDict(a=d.Dataset.from_dict({}))", "Dataset"),
    ],
)
def test_a_function_that_gives_no_prompts(module, body, said):
    name = module(f"def mine():\n    {body}\n")

    with pytest.raises(ValueError, match=said) as error:
        read_prompts(f"{name}:mine", None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "mine = 5", "def mine(:", "raise KeyError", "raise SystemExit"]
)
def test_a_function_that_cannot_be_had(module, text):
    with pytest.raises(ValueError, match=r"prompts .*'my_prompts:mine'"):
        read_prompts(f"{module(text)}:mine", None)


# Folders


def test_a_folder_holds_a_file_per_split(tmp_path):
    lines(tmp_path / "train.jsonl", MANY)
    lines(tmp_path / "dev-00000-of-00002.jsonl", ["a"])
    lines(tmp_path / "dev-00001-of-00002.jsonl", ["b"])
    (tmp_path / "README.md").write_text("x")

    assert read_prompts(str(tmp_path), "validation") == ["a", "b"]
    train, test = read_prompts(str(tmp_path), "train"), read_prompts(str(tmp_path), "test")
    assert sorted(train + test) == sorted(MANY)  # only the missing split is cut from it
    assert len(read_prompts(str(tmp_path), None)) == 302


def test_a_folder_of_nothing_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no \.json"):
        read_prompts(str(tmp_path))


def test_folders_saved_by_datasets(tmp_path):
    rows = datasets.Dataset.from_dict({"question": MANY, "id": range(300)})
    rows.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": rows, "extra": rows.select([0])}).save_to_disk(
        str(tmp_path / "more")
    )

    assert read_prompts(str(tmp_path / "one"), None) == MANY
    assert len(read_prompts(str(tmp_path / "one"), "train")) < 300
    assert read_prompts(str(tmp_path / "more"), "extra") == MANY[:1]
    with pytest.raises(ValueError, match="which has train, extra"):
        read_prompts(str(tmp_path / "more"), "more")


def write_parquet(path, texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(Table.from_pylist([{"prompt": text} for text in texts]), path)


def clutter(folder):
    """What lies beside the data in a clone."""
    for name in ("dataset_infos.json", "dataset_dict.json", "state.json", ".gitattributes"):
        (folder / name).write_text("{}")
    (folder / "README.md").write_text("# A data set\n")
    (folder / "LICENSE.txt").write_text("Mine.")


def test_a_clone_of_json_lines_is_a_data_set(tmp_path):
    lines(tmp_path / "data" / "train.jsonl", ["a"])
    lines(tmp_path / "data" / "test.jsonl", ["b"])
    clutter(tmp_path)

    assert read_prompts(str(tmp_path), "train") == ["a"]
    assert read_prompts(str(tmp_path), "test") == ["b"]
    with pytest.raises(ValueError, match=r"split 'no' is not in .*, which has train, test"):
        read_prompts(str(tmp_path), "no")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-0000{}-of-00002.parquet", "data/test-00000-of-00001.parquet"),
        ("default/train/000{}.parquet", "default/test/0000.parquet"),
    ],
)
def test_a_clone_of_parquet_is_a_data_set(tmp_path, train, test):
    write_parquet(tmp_path / train.format(0), MANY[:150])
    write_parquet(tmp_path / train.format(1), MANY[150:])
    write_parquet(tmp_path / test, ["b"])
    clutter(tmp_path)

    assert read_prompts(str(tmp_path), "test") == ["b"]
    parts = [read_prompts(str(tmp_path), name) for name in ("train", "validation")]
    assert sorted(chain(*parts)) == sorted(MANY)


def test_a_readme_may_say_what_is_what(tmp_path):
    lines(tmp_path / "en" / "first.jsonl", ["a"])
    lines(tmp_path / "en" / "second.jsonl", ["b"])
    lines(tmp_path / "train.jsonl", ["not this"])
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: en\n  data_files:\n"
        "  - {split: train, path: en/first.jsonl}\n  - {split: dev, path: en/second.jsonl}\n"
        "- config_name: all\n  data_files: en/*.jsonl\n---\n"
    )

    assert read_prompts(f"{tmp_path}:en", "train") == ["a"]
    assert read_prompts(f"{tmp_path}:en", "validation") == ["b"]
    assert read_prompts(f"{tmp_path}:all", None) == ["a", "b"]
    for source in (str(tmp_path), f"{tmp_path}:fr"):
        with pytest.raises(ValueError, match="has the configurations en, all: write one of them"):
            read_prompts(source, None)


def test_what_cannot_be_read_is_not_left_out(tmp_path):
    lines(tmp_path / "data" / "train-00000-of-00002.jsonl", ["a"])
    lines(tmp_path / "data" / "train-00001-of-00002.jsonl.zst", ["b"])
    lines(tmp_path / "data" / "state.csv", ["c"])

    with pytest.raises(ValueError, match=r"file must end in .*jsonl\.zst"):
        read_prompts(str(tmp_path), None)


def test_one_file_is_all_there_is_to_train_on(tmp_path):
    lines(tmp_path / "alpaca_data.jsonl", MANY)
    clutter(tmp_path)

    assert len(read_prompts(str(tmp_path), "train")) < 300


def test_files_with_names_of_their_own_are_splits(tmp_path):
    lines(tmp_path / "humor.jsonl", ["a"])
    lines(tmp_path / "kind.jsonl", ["b"])

    assert read_prompts(str(tmp_path), "kind") == ["b"]
    with pytest.raises(ValueError, match=r"split 'train' is not in .*, which has humor, kind"):
        read_prompts(str(tmp_path), "train")


def test_files_may_have_the_split_in_their_names(tmp_path):
    lines(tmp_path / "my_train.jsonl", ["a"])
    lines(tmp_path / "my_test.jsonl", ["b"])

    assert read_prompts(str(tmp_path), "test") == ["b"]


@pytest.mark.parametrize("card", ["configs: [", "configs: [5]", "configs: {a: b}"])
def test_a_broken_card_is_named(tmp_path, card):
    lines(tmp_path / "data" / "train.jsonl", ["a"])
    (tmp_path / "README.md").write_text(f"---\n{card}\n---\n")

    with pytest.raises(ValueError, match=r"prompts folder .* is no data set") as error:
        read_prompts(str(tmp_path), None)
    assert "\n" not in str(error.value)


def test_a_clone_of_other_things_is_refused(tmp_path):
    clutter(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no \.json"):
        read_prompts(str(tmp_path))
    (tmp_path / "a.png").write_text("x")
    with pytest.raises((ValueError, FileNotFoundError), match=r"holds no \.json|must end in"):
        read_prompts(str(tmp_path), None)


def test_a_damaged_data_set_is_named(tmp_path):
    datasets.Dataset.from_dict({"prompt": MANY}).save_to_disk(str(tmp_path / "one"))
    (arrow,) = (tmp_path / "one").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:100])

    with pytest.raises(ValueError, match="one' is a damaged data set of `datasets`"):
        read_prompts(str(tmp_path / "one"))


def test_a_folder_may_be_called_like_a_file(tmp_path):
    lines(tmp_path / "p.jsonl" / "train.jsonl", ["a"])

    assert read_prompts(str(tmp_path / "p.jsonl"), None) == ["a"]


def test_a_file_has_no_configurations(tmp_path):
    source = lines(tmp_path / "p.jsonl", ["a"])
    with pytest.raises(ValueError, match="a file has no configurations, leave out :en"):
        read_prompts(f"{source}:en", None)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("https://example.com/datasets/a/b", "is a web address: give the name on the hub"),
        ("~nobody-of-this-name/x", "is missing"),
        ("no/such/folder", "is missing"),
    ],
)
def test_what_is_not_there_is_said_to_be_missing(source, said):
    with pytest.raises(FileNotFoundError, match=said):
        read_prompts(source)


# The hub


def test_the_hub_is_asked_for_the_split_and_configuration(monkeypatch):
    asked = []

    def load(name, configuration, split):
        asked.append((name, configuration, split))
        return datasets.Dataset.from_dict({"chosen": [CHOSEN]})

    monkeypatch.setattr(data_files, "reachable", lambda name, *_: name)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: ["train", "test"])
    monkeypatch.setattr(datasets, "load_dataset", load)

    assert read_prompts("owner/name", "test") == [OPEN]
    assert read_prompts("owner/name:part", "test") == [OPEN]
    assert asked == [("owner/name", None, "test"), ("owner/name", "part", "test")]


def test_the_hub_s_errors_are_one_line(monkeypatch):
    def ask(*_, **__):
        raise RuntimeError("Config name is missing.\nPlease pick one")

    monkeypatch.setattr(data_files, "reachable", lambda name, *_: name)
    monkeypatch.setattr(datasets, "get_dataset_split_names", ask)
    with pytest.raises(ValueError, match=r"owner/name.*:CONFIGURATION.*missing\. Please pick one"):
        read_prompts("owner/name")
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: ["train"])
    monkeypatch.setattr(datasets, "load_dataset", ask)
    with pytest.raises(ValueError, match=r"owner/name.*missing\. Please pick one"):
        read_prompts("owner/name", None)
