"""Files of rows: what can be read in one way only is read, the rest is refused with its line."""

import gzip
import json
import re

import pytest
from pyarrow import Table, parquet

from mavis.tables import read, suffix, table


@pytest.fixture
def rows(tmp_path):
    """`rows(name, content)`: the rows of a file of that name, as plain values."""

    def rows_of(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return [dict(row) if isinstance(row, dict) else row for row in read(path)]

    return rows_of


def refused(rows, name, content):
    """The one line that says why a file is refused."""
    with pytest.raises(ValueError, match=r"^file .* cannot be read: ") as error:
        rows(name, content)
    said = str(error.value)
    assert name in said
    assert "\n" not in said
    assert len(said) < 600
    return said


# CSV


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'prompt,reply\n"How, then; now?",b\n'),
        ("a.csv", 'prompt;reply\n"How, then; now?";b\n'),
        ("a.csv", "prompt\treply\nHow, then; now?\tb\n"),
        ("a.csv", "prompt|reply\r\nHow, then; now?|b\r\n"),
        ("a.csv", 'prompt,reply\r"How, then; now?",b\r'),
        ("a.csv", '\n\nprompt, reply\n\n"How, then; now?", b\n\n'),
        ("a.csv", '\ufeffprompt;reply\n"How, then; now?";b\n'),
        ("a.tsv", "prompt\treply\nHow, then; now?\tb\n"),
        ("A.TSV", "prompt\treply\nHow, then; now?\tb\n"),
    ],
)
def test_the_separator_is_the_one_that_divides_the_header(rows, name, text):
    assert rows(name, text) == [{"prompt": "How, then; now?", "reply": "b"}]


def test_two_possible_separators_are_told_apart_by_the_rows(rows):
    text = "prompt;reply, if any\nHow?;b\nWho, then?;c\n"

    assert rows("a.csv", text) == [
        {"prompt": "How?", "reply, if any": "b"},
        {"prompt": "Who, then?", "reply, if any": "c"},
    ]
    both = "prompt;reply, if any\nHow?;b,\nWho?;c,\n"
    assert "may be separated by ',' or ';'" in refused(rows, "a.csv", both)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('prompt\n"How, then; now?"\n', "How, then; now?"),  # one column of texts with separators
        ("prompt\nHow; then?\n", "How; then?"),
        ('prompt\n"How\n\ndo I?"\n', "How\n\ndo I?"),
        ('prompt\n"He said ""no"""\n', 'He said "no"'),
        ("prompt\n" + "a" * 200_000 + "\n", "a" * 200_000),
    ],
)
def test_a_single_column_holds_what_it_likes(rows, text, found):
    assert rows("a.csv", text) == [{"prompt": found}]


def test_columns_without_names_are_left_to_themselves(rows):
    text = ",prompt,,\n0,How?,,\n"  # an index in front, empty ones behind

    assert rows("a.csv", text) == [{"": "", "prompt": "How?"}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt\nHow, then?\n", "row 1 has more cells than there are columns"),
        ("prompt,reply\na,b\na\n", "row 2 has fewer cells than there are columns"),
        ("prompt,prompt\na,b\n", "a column comes twice: prompt, prompt"),
        ('prompt\n"How?\nWho?\n', "line 3 ends no record .*is a quotation mark left open"),
        ('prompt,b\n"say \\"hi\\", ok",x\n', "line 2 ends no record"),
        ("a," * 20_000 + "\n", "its first line has 20,001 cells"),
    ],
)
def test_tables_that_are_none(rows, text, said):
    with pytest.raises(ValueError, match=said):
        rows("a.csv", text)


def test_nothing_in_it_is_no_row(rows):
    assert rows("a.csv", "") == rows("a.csv", "prompt,reply\n") == rows("a.txt", "\n\n") == []


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl", "a.json", "a.csv.gz"])
def test_an_encoding_is_known_by_its_mark(rows, name, encoding):
    text = "prompt\tid\nHöw 😀?\t1\n" if ".csv" in name else '["Höw 😀?"]\n'
    data = text.encode(encoding)
    (row,) = rows(name, gzip.compress(data) if name.endswith(".gz") else data)

    assert "Höw 😀?" in str(row)
    assert "\ufeff" not in str(row)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("ok\nHöw?\n".encode("latin-1"), r"line 2 is not UTF-8 \(byte 0xf6 at place 2\)"),
        ("ok\nHow?\n".encode("utf-16-le"), "line 1 holds a NUL character"),
        (b'"ok"\nab\0c', "line 2 holds a NUL character"),
        (b"\xff\xfea", "begins as UTF-16 but does not go on so"),
        (b"PK\x03\x04\0\0", "it is a zip archive"),
        (b"PAR1\0\0", r"it is a Parquet file: let its name end in \.parquet"),
        (gzip.compress(b"a", mtime=0), r"it is compressed by gzip: let its name end in \.gz"),
        (bytes(range(256)), "line 2 is not UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl", "a.json"])
def test_what_is_no_text_is_said_to_be_none(rows, name, data, said):
    with pytest.raises(ValueError, match=said):
        rows(name, data)


@pytest.mark.parametrize("data", [b"no gzip", gzip.compress(b"x\n" * 99, mtime=0)[:-9], b""])
def test_a_broken_archive_is_named(rows, data):
    if data:
        refused(rows, "a.txt.gz", data)
    else:
        assert rows("a.txt.gz", data) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [("prompt\treply\na\tb\n", r"ends? in \.tsv"), ('{"prompt": "a"}\n', r"end in \.jsonl")],
)
def test_a_table_is_no_text(rows, text, said):
    assert re.search(said, refused(rows, "a.txt", text))
    assert rows("a.txt", "\tif x:\n{x}\n") == ["\tif x:", "{x}"]


# JSON


@pytest.mark.parametrize(
    "value",
    [
        ["a", "b"],
        [{"prompt": "a"}, {"prompt": "b"}],
        {"prompt": ["a", "b"], "id": [1, 2]},
        {"prompt": ["a", "b"]},
        {"version": "1.0", "data": [{"prompt": "a"}, {"prompt": "b"}]},
        {"data": [{"prompt": "a"}, {"prompt": "b"}]},
        {"data": ["a", "b"]},
    ],
)
def test_every_shape_of_json_is_rows(rows, value):
    found = rows("a.json", json.dumps(value, indent=1))

    assert [row if isinstance(row, str) else next(iter(row.values())) for row in found] == [
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a"}]},
        {"chosen": [{"role": "user"}], "rejected": [{"role": "user"}, {"role": "assistant"}]},
        {"conversations": [{"from": "human", "value": "a"}], "id": "x"},
        {"prompt": "a", "tags": ["x", "y"]},
        {"prompt": "a"},
    ],
)
def test_a_row_that_stands_alone_is_a_row(row):
    assert table(row) == [row]


def test_json_lines_and_values_one_behind_another(rows):
    assert rows("a.jsonl", '\n{"a": 1}\r\n\n  \n"b\u2028"\n') == [{"a": 1}, "b\u2028"]
    assert rows("a.json", '{\n "a": 1\n}\n{"a": 2} {"a": 3}') == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert rows("a.jsonl", '{"a": NaN}')[0]["a"] != 0
    assert rows("a.jsonl", '"\\ud83d"') == ["\ud83d"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": 2\n', "line 3 is not JSON .*at place 8"),
        ("a.jsonl", '[\n {"a": 1}\n]', r"line 1 .*a single JSON value, let its name end in \.json"),
        ("a.json", '[\n {"a": 1},\n {"a" 2}\n]', "line 3 is not JSON .*at place 7"),
        ("a.json", '{"a": 1},\n{"a": 2}', "line 1 is not JSON"),
        ("a.jsonl", '{"a": 1}\n{"a": 1, "a": 2}', "line 2: an object has 'a' twice"),
        ("a.json", "[" * 100_000, "nested too deep"),
        ("a.jsonl", "[" * 100_000, "nested too deep"),
        ("a.json", '{"train": [1], "test": [1, 2]}', "lists of several lengths .train, test."),
    ],
)
def test_broken_json_is_said_with_its_line(rows, name, text, said):
    assert re.search(said, refused(rows, name, text))


# Parquet, and the rest


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    chats = [{"messages": [{"role": "user", "content": str(n)}]} for n in range(3000)]
    parquet.write_table(Table.from_pylist(chats), path)

    assert list(read(path)) == chats
    parquet.write_table(Table.from_arrays([[1], [2]], names=["a", "a"]), path)
    with pytest.raises(ValueError, match="a column comes twice: a, a"):
        list(read(path))


def test_rows_are_read_as_they_are_asked_for(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('"a"\n"b"\n{broken')
    found = read(path)

    assert (next(found), next(found)) == ("a", "b")
    with pytest.raises(ValueError, match="line 3"):
        next(found)


@pytest.mark.parametrize("name", ["a.xml", "a", "a.gz", "a.zip", "a.jsonl.zst"])
def test_other_kinds_of_files_are_refused(tmp_path, name):
    (tmp_path / name).write_text("x")

    assert suffix(tmp_path / name) == ""
    with pytest.raises(ValueError, match=r"must end in \.json, .*\.parquet .*got '.*a"):
        list(read(tmp_path / name))
