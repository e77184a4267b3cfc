import csv
import gzip
import hashlib
import json
import re
from itertools import chain

import pytest
from pyarrow import Table, parquet

from mavis.prompts import BadRow, digest, exchange, plain, read_prompts

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


# plain


def test_plain_writes_a_chat_as_a_dialogue():
    assert plain(CHAT) == "Be kind.\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"


def test_plain_of_a_question_is_the_question():
    assert plain(CHAT[1:2]) == "Hi."
    assert plain("Hi. ") == "Hi. "


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


def test_an_instruction_is_read_with_its_input(tmp_path):
    rows = [
        {"instruction": "Sum up.", "input": "A text.", "output": "x"},
        {"instruction": "Tell a joke.", "input": "", "output": "x"},
        {"instruction": "Tell two.", "input": None},
        {"instruction": "Tell three."},
    ]
    prompts = ["Sum up.\n\nA text.", "Tell a joke.", "Tell two.", "Tell three."]

    assert read_prompts(lines(tmp_path / "p.jsonl", rows), None) == prompts
    assert read_prompts(lines(tmp_path / "p.jsonl", rows), None, "instruction") == prompts
    for row in ({"instruction": "a", "input": 5}, {"instruction": " ", "input": "a"}):
        with pytest.raises(BadRow, match="in row 1"):
            read_prompts(lines(tmp_path / "p.jsonl", [row]), None)
    aside = [{"question": "Why?", "input": "not a part", "context": "neither"}]
    assert read_prompts(lines(tmp_path / "p.jsonl", aside), None) == ["Why?"]


def test_chosen_is_a_dialogue_or_a_reply(tmp_path):
    for chosen in ("With a needle.", "Q: How?\nA: With a needle."):
        source = lines(tmp_path / "p.jsonl", [{"chosen": chosen, "rejected": "x"}])
        with pytest.raises(BadRow, match=r"chosen in row 1 .* is no dialogue"):
            read_prompts(source, None)
        assert read_prompts(
            lines(tmp_path / "p.jsonl", [{"prompt": "How?", "chosen": chosen}]), None
        )


def test_a_first_line_that_may_be_a_prompt_is_not_lost(tmp_path):
    for first in ("How do I sew?", "Hello", "query"):
        (tmp_path / "p.csv").write_text(f"{first}\nHow do I knit?\n")
        with pytest.raises(
            ValueError, match=f"its first line, {re.escape(first)}, may be a prompt"
        ):
            read_prompts(str(tmp_path / "p.csv"), None)
    assert read_prompts(str(tmp_path / "p.csv"), None, column="query") == ["How do I knit?"]


def test_the_prompt_and_the_reply_of_a_row():
    assert exchange({"text": CHOSEN}, "text", "row 1") == (OPEN, "So.")
    assert exchange(CHOSEN, None, "row 1") == (OPEN, "So.")
    assert exchange({"prompt": "a", "chosen": CHOSEN}, "prompt", "row 1") == ("a", None)


BAD = [
    {"messages": CHAT},
    {"messages": [*CHAT, {"role": "tool", "content": "5"}]},
    {"messages": None},
    {"messages": CHAT[1:2]},
    {"other": "x"},
]


def test_bad_rows_stop_or_are_skipped_and_counted(tmp_path, capsys):
    source = lines(tmp_path / "p.jsonl", BAD)
    with pytest.raises(BadRow, match=r"'tool'.* in row 2"):
        read_prompts(source, None)

    for _ in range(2):  # for several splits, as a fit does
        assert read_prompts(source, None, on_bad_row="skip") == [CHAT, CHAT[1:2]]
    (line,) = capsys.readouterr().err.splitlines()
    assert f"3 of 5 rows of {source!r} were skipped, the first because of this: a chat" in line
    assert line.endswith(f"in row 2 of {source!r}.")


def test_skipping_can_be_quiet_but_not_of_everything(tmp_path, capsys):
    source = lines(tmp_path / "p.jsonl", BAD)
    read_prompts(source, None, on_bad_row="skip", quiet=True)
    assert capsys.readouterr().err == ""
    source = lines(tmp_path / "p.jsonl", BAD[1:3])
    with pytest.raises(
        ValueError, match=r"no prompts in .*: 2 of 2 rows .* were skipped, the first"
    ):
        read_prompts(source, None, on_bad_row="skip")
    with pytest.raises(ValueError, match="on_bad_row must be stop or skip, got 'jump'"):
        read_prompts(source, None, on_bad_row="jump")


def test_a_broken_file_is_no_bad_row(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "x"}\n{"prompt": ')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read_prompts(str(tmp_path / "p.jsonl"), None, on_bad_row="skip")


def test_every_row_is_kept_if_so_wanted(tmp_path):
    source = lines(tmp_path / "p.jsonl", ["b", "a", "b", "b"])

    assert read_prompts(source, None, unique=False) == ["b", "a", "b", "b"]
    assert read_prompts(source, None) == ["b", "a"]
    source = lines(tmp_path / "p.jsonl", MANY + MANY)
    train = read_prompts(source, "train")
    assert read_prompts(source, "train", unique=False) == train + train
    source = lines(tmp_path / "p.jsonl", [CHAT, [{"role": "assistant", "content": "x"}]])
    assert len(read_prompts(source, None)) == 1
    with pytest.raises(BadRow, match="nobody asks anything in the chat in row 2"):
        read_prompts(source, None, unique=False)


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

    with pytest.raises(ValueError, match=r"no prompts in .* for split .*: from the 1 in it train"):
        [read_prompts(source, name) for name in ("train", "validation")]


def test_limit_takes_the_first(tmp_path):
    source = lines(tmp_path / "p.jsonl", MANY)

    for split in ("train", "validation", "test", None):
        for limit in (1, 2, 7, 1000):
            assert read_prompts(source, split, limit=limit) == read_prompts(source, split)[:limit]
    few = lines(tmp_path / "p.jsonl", MANY[:4])
    assert read_prompts(few, "train", limit=1) == read_prompts(few, "train")[:1]


def test_what_stands_behind_a_limit_is_not_read(tmp_path):
    source = lines(tmp_path / "p.jsonl", MANY)
    with (tmp_path / "p.jsonl").open("a") as file:
        file.write("{broken")

    assert read_prompts(source, None, limit=5) == MANY[:5]
    assert len(read_prompts(source, "train", limit=5)) == 5
    with pytest.raises(ValueError, match="line 301"):
        read_prompts(source, "train")


def test_a_digest_is_of_the_plain_text():
    assert digest("Why?") == hashlib.sha256(b"Why?").hexdigest()[:16]
    assert digest([{"role": "user", "content": "Why?"}]) == digest("Why?")
    assert digest("\ud800")  # half of a surrogate pair, as files may hold
