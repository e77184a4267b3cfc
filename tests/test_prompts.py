import csv
import gzip
import hashlib
import json
from itertools import chain

import datasets
import pytest
from pyarrow import Table, parquet

from mavis import sources
from mavis.dialogues import dialogue
from mavis.prompts import digest, plain, read_prompts

CHOSEN = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Why: \nAssistant: x?\n\nAssistant: So."
OPEN = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Why: \nAssistant: x?\n\nAssistant:"
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Why?"},
]
MANY = [f"What about {n}?" for n in range(300)]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


# plain, dialogue


def test_plain_writes_a_chat_as_a_dialogue_that_dialogue_reads_back():
    assert plain(CHAT) == "Be kind.\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"
    assert dialogue(plain(CHAT)) == CHAT


def test_plain_keeps_a_system_text_with_a_single_question():
    assert dialogue(plain(CHAT[:2])) == CHAT[:2]


def test_dialogue_reads_hh_rlhf():
    assert dialogue(OPEN) == [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Why: \nAssistant: x?"},
    ]
    assert dialogue("\n\nHuman: Hi. \n\nAssistant: ") == [{"role": "user", "content": "Hi."}]
    assert dialogue("Human: Hi.\n\nAssistant:") == [{"role": "user", "content": "Hi."}]


def test_dialogue_makes_the_roles_alternate():
    text = "\n\nHuman: a\n\nHuman: b\n\nAssistant: \n\nHuman: c\n\nAssistant:"

    assert dialogue(text) == [{"role": "user", "content": "a\n\nb\n\nc"}]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hi.",
        "\n\nHuman: Hi.",
        CHOSEN,
        "\n\nAssistant:",
        "\n\nHuman: \n\nAssistant:",
        "Assistant:",
    ],
)
def test_other_text_is_no_dialogue(text):
    assert dialogue(text) is None


# files


def write_json(path):
    path.write_text(json.dumps([{"prompt": text} for text in MANY]), encoding="utf-8")


def write_json_gz(path):
    path.write_bytes(gzip.compress(json.dumps(MANY).encode()))


def write_jsonl(path):
    lines(path, [{"prompt": text, "other": 1} for text in MANY])


def write_csv(path):
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["id", "question"], *enumerate(MANY)])


def write_txt(path):
    path.write_text("\n\n".join(MANY) + "\r\n", encoding="utf-8")


def write_parquet(path):
    parquet.write_table(Table.from_pylist([{"instruction": text} for text in MANY]), path)


FILES = {
    "p.json": write_json,
    "p.json.gz": write_json_gz,
    "p.jsonl": write_jsonl,
    "p.csv": write_csv,
    "p.txt": write_txt,
    "p.parquet": write_parquet,
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same(tmp_path, name):
    FILES[name](tmp_path / name)

    assert read_prompts(str(tmp_path / name), split=None) == MANY


@pytest.mark.parametrize("name", ["p.json", "p.jsonl", "p.parquet", "p.csv.gz"])
def test_a_broken_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b'{"prompt": "x"}\n{oh \xff')

    with pytest.raises(ValueError, match=f"{name}.*cannot be read"):
        read_prompts(str(tmp_path / name))


def test_a_broken_line_is_numbered(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "x"}\n\n{oh\n')

    with pytest.raises(ValueError, match="line 3 is not JSON"):
        read_prompts(str(tmp_path / "p.jsonl"))


@pytest.mark.parametrize("name", ["no.jsonl", "sub/no.txt", "/no/no.csv.gz"])
def test_a_missing_file_is_said_to_be_missing(name):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_prompts(name)


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    (tmp_path / "p.xml").write_text("x")

    with pytest.raises(ValueError, match=r"must end in \.json"):
        read_prompts(str(tmp_path / "p.xml"))


def test_a_changed_file_is_read_again(tmp_path):
    for text in ("one", "two"):
        source = lines(tmp_path / "p.jsonl", [text])
        assert read_prompts(source, split=None) == [text]


# rows


def test_hh_rlhf_is_cut_before_the_last_reply(tmp_path):
    source = lines(tmp_path / "p.jsonl", [{"rejected": "x", "chosen": CHOSEN}])

    assert read_prompts(source, None) == [OPEN]


def test_a_chat_is_cut_before_the_last_reply_and_dropped_when_empty(tmp_path):
    reply = {"role": "assistant", "content": "Because.", "name": "x"}
    chats = [[*CHAT, reply], CHAT, [reply], [CHAT[0], reply], [*CHAT[:2], reply, CHAT[3]]]
    source = lines(tmp_path / "p.jsonl", [{"messages": chat, "id": 1} for chat in chats])

    first, second = read_prompts(source, None)
    assert first == CHAT
    assert second == [*CHAT[:2], {"role": "assistant", "content": "Because."}, CHAT[3]]


def test_a_column_can_be_named_and_a_single_one_needs_no_name(tmp_path):
    source = lines(tmp_path / "p.jsonl", [{"a": "first", "prompt": "second"}])

    assert read_prompts(source, None, column="a") == ["first"]
    assert read_prompts(lines(tmp_path / "q.jsonl", [{"what": "x"}]), None) == ["x"]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"a": "x", "b": "y"}], {}, "column must be given.*it has a, b"),
        ([{"a": "x", "b": "y"}], {"column": "c"}, "column 'c' is not in row 1.*which has a, b"),
        ([{"prompt": "x"}, {"b": "y"}], {}, "column 'prompt' is not in row 2"),
        ([{"prompt": "x"}, {"prompt": " \n"}], {}, "empty prompt in row 2"),
        ([{"prompt": None}], {}, "empty prompt in row 1"),
        ([{"prompt": 5}], {}, "strings or chats, got 5 in row 1"),
        ([{"chosen": "\n\nHuman: Hi."}], {}, "row 1 .* has no 'Assistant:' turn"),
        ([[{"role": "robot", "content": "x"}]], {}, "a chat must be .*robot.* in row 1"),
        ([[{"role": "user", "content": " "}]], {}, "empty prompt in row 1"),
        ([], {}, "no prompts in"),
        (["x"], {"limit": 0}, "limit must be at least 1, got 0"),
        (["x"], {"split": "extra"}, "split 'extra' is not in .*which has train"),
    ],
)
def test_bad_data_gets_a_clear_line(tmp_path, rows, options, message):
    source = lines(tmp_path / "p.jsonl", rows)

    with pytest.raises(ValueError, match=message):
        read_prompts(source, **{"split": None, **options})


# functions


def test_a_function_can_be_the_source(monkeypatch, tmp_path):
    text = "def mine():\n    return ['a', {'prompt': 'b'}, 'a']\n"
    (tmp_path / "my_prompts.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert read_prompts("my_prompts:mine", None) == ["a", "b"]


# splits


def test_a_file_is_cut_by_prompt_and_nothing_is_lost(tmp_path):
    source = lines(tmp_path / "p.jsonl", MANY + MANY)
    parts = {name: read_prompts(source, name) for name in ("train", "validation", "test")}

    assert sorted(chain(*parts.values())) == sorted(MANY)
    # 300 draws: both tenths lie within 10 and 50 but for 1 in 10,000 hashes; this one is fixed.
    assert all(10 <= len(parts[name]) <= 50 for name in ("validation", "test"))
    assert parts["train"] == [text for text in MANY if text in set(parts["train"])]


def test_a_prompt_keeps_its_split_when_others_come(tmp_path):
    few, all_of = lines(tmp_path / "few.jsonl", MANY[:100]), lines(tmp_path / "all.jsonl", MANY)

    for split in ("train", "validation", "test"):
        assert set(read_prompts(few, split)) <= set(read_prompts(all_of, split))


@pytest.mark.parametrize("count", [3, 4, 5, 10])
def test_few_prompts_still_give_every_split_one(tmp_path, count):
    source = lines(tmp_path / "p.jsonl", MANY[:count])
    parts = [read_prompts(source, name) for name in ("train", "validation", "test")]

    assert all(parts)
    assert sorted(chain(*parts)) == sorted(MANY[:count])


def test_too_few_prompts_are_said_to_be(tmp_path):
    source = lines(tmp_path / "p.jsonl", ["only one"])

    with pytest.raises(ValueError, match=r"no prompts in .* for split"):
        [read_prompts(source, name) for name in ("train", "validation")]


def test_limit_takes_the_first(tmp_path):
    source = lines(tmp_path / "p.jsonl", MANY)

    assert read_prompts(source, "test", limit=2) == read_prompts(source, "test")[:2]


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


def test_the_hub_is_asked_for_the_split_and_configuration(monkeypatch):
    asked = []

    def load(name, configuration, split):
        asked.append((name, configuration, split))
        return datasets.Dataset.from_dict({"chosen": [CHOSEN]})

    monkeypatch.setattr(sources, "reachable", lambda name, *_: name)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: ["train", "test"])
    monkeypatch.setattr(datasets, "load_dataset", load)

    assert read_prompts("owner/name", "test") == [OPEN]
    assert read_prompts("owner/name:part", "test") == [OPEN]
    assert asked == [("owner/name", None, "test"), ("owner/name", "part", "test")]


def test_a_digest_is_of_the_plain_text():
    assert digest("Why?") == hashlib.sha256(b"Why?").hexdigest()[:16]
    assert digest([{"role": "user", "content": "Why?"}]) == digest("Why?")
    assert digest("\ud800")  # half of a surrogate pair, as files may hold
