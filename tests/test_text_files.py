"""Files as people have them: the right rows, or a message with the line and a way out."""

import codecs
import gzip
import json
import os
import socket
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import pytest

from ablation.data.separated_values import TableRow, TextFormat
from ablation.data.text_files import read_rows
from ablation.system.errors import DataError

EXPECTED = [["ham", "hello"], ["spam", "win, now; a|b"], ["ham", "é"]]
NAMES = ("Label", "Text")


def rows_of(
    content: bytes, name: str = "a.csv", columns: Sequence[str] = NAMES, **form: str
) -> list[TableRow]:
    Path(name).write_bytes(content)
    return list(read_rows(Path(name), columns, TextFormat(**form)))


def fields_of(content: bytes, *args: object, **form: str) -> list[list[str]]:
    return [row.fields for row in rows_of(content, *args, **form)]


def table(delimiter: str) -> str:
    return "".join(
        f'"{label}"{delimiter}"{text}"\r\n' for label, text in [NAMES, *map(tuple, EXPECTED)]
    )


# ---------------------------------------------------------------- delimiters


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_found(delimiter: str, name: str) -> None:
    content = table(delimiter).encode()
    assert fields_of(content, name) == EXPECTED
    body = content.split(b"\r\n", 1)[1]
    assert fields_of(body, name, ("1", "2")) == EXPECTED
    assert fields_of(gzip.compress(content), f"{name}.gz") == EXPECTED


@pytest.mark.parametrize(
    ("delimiter", "name"), [(",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "pipe")]
)
def test_a_delimiter_that_is_said_or_in_excels_line(delimiter: str, name: str) -> None:
    content = table(delimiter).encode()
    assert fields_of(content, "a", NAMES, delimiter=name) == EXPECTED
    rows = rows_of(f"sep={delimiter}\r\n".encode() + content)
    assert [row.fields for row in rows] == EXPECTED
    assert [row.line for row in rows] == [3, 4, 5]
    with pytest.raises(DataError, match=r"a\.csv"):
        rows_of(content, delimiter="semicolon" if name != "semicolon" else "tab")


def test_excels_line_may_name_any_delimiter() -> None:
    assert fields_of(b"sep=^\nLabel^Text\nham^a,b\n") == [["ham", "a,b"]]


def test_texts_that_hold_other_delimiters() -> None:
    lines = ["ham;Hello, you\n", "spam;Win, now, here\n", "ham;well\n"]
    assert fields_of("".join(lines).encode(), "a.csv", ("1", "2"))[1] == ["spam", "Win, now, here"]
    # Two names in one field of another delimiter.
    assert fields_of(b"id,x;Label;Text\n1,2;ham;a\n") == [["ham", "a"]]


def test_a_delimiter_that_cannot_be_told_is_refused() -> None:
    content = b"ham;Hello, you\nspam;Win, now\n"
    with pytest.raises(
        DataError, match=r"with comma and semicolon as well.*--delimiter comma or se"
    ):
        rows_of(content, "a.csv", ("1", "2"))
    expected = [["ham", "Hello, you"], ["spam", "Win, now"]]
    assert fields_of(content, "a.csv", ("1", "2"), delimiter="semicolon") == expected
    assert fields_of(b"ham\ta,b\nspam\tc,d\n", "a.tsv", ("1", "2"))[0] == ["ham", "a,b"]


def test_a_text_that_goes_on_behind_the_first_lines() -> None:
    content = "Text;Label\n" + "a, b;ham\n" * 97 + '"over\n100; lines";ham\nc;ham\n'
    assert fields_of(content.encode())[-2:] == [["ham", "over\n100; lines"], ["ham", "c"]]


def test_what_is_damaged_far_below_is_named_with_its_line() -> None:
    content = b"Label;Text\n" + b"ham;a\n" * 500 + b"ham;a;b\n"
    with pytest.raises(DataError, match=r"line 502: 3 fields.*holds a semicolon"):
        rows_of(content)


# ---------------------------------------------------------------- names and positions


def test_positions_on_a_file_with_names() -> None:
    content = b"0,0,1\nham,x,hello\nspam,y,win\n"
    assert fields_of(content, "a.csv", ("1", "3"), header="yes") == [
        ["ham", "hello"],
        ["spam", "win"],
    ]
    assert fields_of(content, "a.csv", ("1", "3"))[0] == ["0", "1"]
    with pytest.raises(DataError, match=r'has 2 columns "Label".*positions.*--header yes'):
        rows_of(b"Label,Label,Text\nham,ham,a\n")


def test_names_that_come_again() -> None:
    with pytest.raises(DataError, match="line 4: this is the line of names again"):
        rows_of(b"Label,Text\nham,a\n\nLabel,Text\nham,b\n")
    assert fields_of(b"Text\na\nText\n", "a.csv", ["Text"]) == [["a"], ["Text"]]


def test_lines_are_those_of_the_file() -> None:
    content = b'Label,Text\nham,a\n\nham,"b\nb"\nham,c\n'
    assert [row.line for row in rows_of(content)] == [2, 4, 6]
    # Editors count no line at a lone carriage return, unless the file has no others.
    assert [row.line for row in rows_of(b'Label,Text\r\nham,"a\rb"\r\nham,c\r\n')] == [2, 3]
    assert [row.line for row in rows_of(b"Label,Text\rham,a\rham,c\r")] == [2, 3]


# ---------------------------------------------------------------- quotes

GOOD = "".join(f"good stuff {i},pos\nbad stuff {i},neg\n" for i in range(5))
MERGED = '"Never again,neg\nlovely food,pos\nthe so called chef",neg\n'


@pytest.mark.parametrize("delimiter", ["\t", "|"])
def test_rows_that_a_quote_merged_are_refused(delimiter: str) -> None:
    content = ("text,label\n" + GOOD + MERGED).replace(",", delimiter).encode()
    columns = ("label", "text")
    with pytest.raises(DataError, match=r"line 12: a quote opens.*--quoting none.*--quoting csv"):
        rows_of(content, "a.tsv", columns)
    assert len(fields_of(content, "a.tsv", columns, quoting="none")) == 13
    assert fields_of(content, "a.tsv", columns, quoting="none")[10] == ["neg", '"Never again']
    assert len(fields_of(content, "a.tsv", columns, quoting="csv")) == 11


def test_lines_that_could_be_rows_are_told() -> None:
    (row,) = rows_of(("text,label\n" + MERGED).encode(), "a.csv", ("label", "text"))
    assert row.apart == [
        ["neg", '"Never again'],
        ["pos", "lovely food"],
        ["neg", 'the so called chef"'],
    ]
    (row,) = rows_of(b'Text\n"one, two\nthree, four"\n', "a.csv", ("Text",))
    assert not row.apart, "of one column, no line is a row without being a text"
    for text in ("Dear Sir,\nyou, me, all,\nyours", "two\nlines", "one, line"):
        (row,) = rows_of(f'Label,Text\nham,"{text}"\n'.encode())
        assert row.fields == ["ham", text]
        assert not row.apart


def test_quotes_that_are_ordinary_characters() -> None:
    content = b'ham\t"Never" again\nspam\t"\nham\tsay "hi"\n'
    with pytest.raises(DataError, match=r"line 1: .*--quoting none"):
        rows_of(content, "a.tsv", ("1", "2"))
    assert fields_of(content, "a.tsv", ("1", "2"), quoting="none") == [
        ["ham", '"Never" again'],
        ["spam", '"'],
        ["ham", 'say "hi"'],
    ]


# ---------------------------------------------------------------- encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "latin-1", "utf-16", "cp850"])
def test_encodings(encoding: str) -> None:
    assert fields_of(table(";").encode(encoding), "a.csv", NAMES, encoding=encoding) == EXPECTED


def test_a_mark_of_byte_order_is_no_name() -> None:
    for encoding, mark in (("utf-16-le", codecs.BOM_UTF16_LE), ("utf-8", codecs.BOM_UTF8)):
        content = mark + "Label,Text\nham,a\n".encode(encoding)
        assert fields_of(content, encoding=encoding) == [["ham", "a"]]


def test_bytes_that_are_no_utf8_are_named_with_their_line() -> None:
    lines = ["Label,Text\r\n"] + ["ham,hello\r\n"] * 3000
    lines[1234] = "ham,café\r\n"
    windows = "".join(lines).encode("cp1252")
    with pytest.raises(DataError, match=r"line 1235: not UTF-8: byte 0xe9.*--encoding cp1252"):
        rows_of(windows)
    assert fields_of(windows, encoding="cp1252")[1233] == ["ham", "café"]
    for text in ("всё", "日本語日本語"):  # what is hardly ASCII is of no Western language
        with pytest.raises(DataError, match="line 2: not UTF-8") as error:
            rows_of(f"Label,Text\na,{text}\n".encode("cp1251" if "в" in text else "shift_jis"))
        assert "cp1252" not in str(error.value)
    # Where the file is UTF-8 elsewhere, another encoding would spoil that.
    lines[100] = "ham,é\r\n"
    damaged = "".join(lines).encode().replace("café".encode(), b"caf\xc3")
    with pytest.raises(DataError, match="line 1235") as error:
        rows_of(damaged)
    assert "cp1252" not in str(error.value)


def test_utf16_is_recognised() -> None:
    text = "Label,Text\nham,hello\n" * 20
    for encoding, found in (("utf-16", "utf-16"), ("utf-16-le", "utf-16-le"), ("utf-32", "utf-32")):
        with pytest.raises(DataError, match=f"seems to be {found.upper()}: add --encoding {found}"):
            rows_of(text.encode(encoding))
    with pytest.raises(DataError, match="is not UTF-16"):
        rows_of(b"Label,Text\nham,a\n", encoding="utf-16")
    with pytest.raises(DataError, match="line 2: not UTF-16"):
        rows_of("Label,Text\nham,".encode("utf-16") + b"\x00\xd8\x41\x00", encoding="utf-16")


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf_8_sig", "cp1252", "latin-1", "ascii"])
def test_what_fits_is_said_whatever_was_named(encoding: str) -> None:
    with pytest.raises(DataError, match=r"add --encoding utf-16\."):
        rows_of("Label,Text\nham,a\n".encode("utf-16"), encoding=encoding)


@pytest.mark.parametrize("encoding", ["UTF8", "utf_8", "utf-8-sig"])
def test_cp1252_is_suggested_whatever_utf8_is_called(encoding: str) -> None:
    with pytest.raises(DataError, match=r"line 2: not .* add --encoding cp1252"):
        rows_of(b"Label,Text\nham,caf\xe9\n", encoding=encoding)


# ---------------------------------------------------------------- other formats


def json_lines(rows: Sequence[object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.txt", "a.csv"])
def test_json_lines(name: str) -> None:
    content = json_lines([{"id": 7, "Text": text, "Label": label} for label, text in EXPECTED])
    rows = rows_of(content.replace(b"\n", b"\n\n"), name)
    assert [row.fields for row in rows] == EXPECTED
    assert [row.line for row in rows] == [1, 3, 5]
    assert fields_of(gzip.compress(content), f"{name}.gz") == EXPECTED


def test_values_of_json() -> None:
    values = ["a", 10, 0.50, True, None, "", 10**5000]
    rows = [f'{{"Label": {json.dumps(v)[:9]}, "Text": "x"}}' for v in values[:-1]]
    rows += [f'{{"Label": 1{"0" * 5000}, "Text": "x"}}', '{"Text": "x"}', '{"Label": 1.50}']
    labels = [label for label, _ in fields_of("\n".join(rows).encode(), "a.jsonl")]
    assert labels == ["a", "10", "0.5", "true", "", "", f"1{'0' * 5000}", "", "1.50"]


JSON_FAULTS = {
    "[1]": "line 2: it is not an object",
    "{": "line 2: Expecting",
    '{"Label": "a", "Label": "b", "Text": "c"}': "line 2: it has a key twice",
    '{"Label": ["a"], "Text": "c"}': 'line 2: the column "Label" holds a list',
    '{"Label": "\\ud800", "Text": "c"}': "line 2: .*surrogates",
    "[" * 100_000: "line 2",
}


@pytest.mark.parametrize("line", JSON_FAULTS, ids=lambda line: line[:20])
def test_damaged_json(line: str) -> None:
    content = b'{"Label": "a", "Text": "b"}\n' + line.encode() + b"\n"
    with pytest.raises(DataError, match=rf"a\.jsonl, {JSON_FAULTS[line]}"):
        rows_of(content, "a.jsonl")


def test_json_has_names() -> None:
    with pytest.raises(DataError, match='has no column "1"; it has "Label", "Text"'):
        rows_of(b'{"Label": "a", "Text": "b"}\n', "a.jsonl", ("1", "2"))
    assert fields_of(b'{"1": "a", "0": "b"}\n', "a.jsonl", ("0", "1")) == [["b", "a"]]
    with pytest.raises(DataError, match='has no column "Label"; it has "label", "Text"'):
        rows_of(b'{"label": "a", "Text": "b"}\n', "a.jsonl")


def test_an_object_may_lack_a_key_also_the_first_one() -> None:
    rows = [{"Text": "a"}, {"Label": "ham", "Text": "b"}, {"Label": "spam"}]
    assert fields_of(json_lines(rows), "a.jsonl") == [["", "a"], ["ham", "b"], ["spam", ""]]
    with pytest.raises(DataError, match='has 2 columns "Label"'):
        rows_of(json_lines([*rows, {" Label ": "ham", "Text": "c"}]), "a.jsonl")


def parquet(path: Path) -> list[list[str]]:
    return [row.fields for row in read_rows(path, NAMES)]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    write_table = pytest.importorskip("pyarrow.parquet").write_table
    columns = {"id": [1, 2, 3], "Text": ["a", None, "é"], "Label": [0, 1, 10]}
    write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    expected = [["0", "a"], ["1", ""], ["10", "é"]]
    assert parquet(tmp_path / "a.parquet") == expected
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(content))
    assert parquet(tmp_path / "a.parquet.gz") == expected
    for damaged in (content[:-20], content[:4] + b"\xff" * 200 + content[204:]):
        (tmp_path / "b.parquet").write_bytes(damaged)
        with pytest.raises(DataError, match=r"b\.parquet, after row 0: .*Fetch it again"):
            parquet(tmp_path / "b.parquet")


@pytest.mark.parametrize("values", [[3.0, None, 1.0], [3, 2, 1]])
def test_numbers_with_gaps_are_named(
    values: list, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pandas makes 3.0 of 3 beside one that is missing."""
    pyarrow = pytest.importorskip("pyarrow")
    write_table = pytest.importorskip("pyarrow.parquet").write_table
    columns = {"Text": ["a", "b", "c"], "Label": values, "other": [0.5, 1.5, 2.5]}
    write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    for _ in range(2):
        parquet(tmp_path / "a.parquet")
    notices = [record.getMessage() for record in caplog.records]
    assert len(notices) == (None in values)
    assert all('the column "Label" are floating-point' in notice for notice in notices)


def test_checksums_that_parquet_has_are_checked(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    write_table = pytest.importorskip("pyarrow.parquet").write_table
    table, path = pyarrow.table({"Text": ["abcdefgh"], "Label": ["ham"]}), tmp_path / "a.parquet"
    write_table(table, path, write_page_checksum=True, write_statistics=False)
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"abcdefgH", 1))
    with pytest.raises(DataError, match=r"a\.parquet, after row 0: .*Fetch it again"):
        parquet(path)


def test_parquet_by_what_is_asked_of_pyarrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same without pyarrow: a module of that name with the few functions that are used."""

    class File:
        schema_arrow = types.SimpleNamespace(names=["Text", "id", "Label"])

        def __init__(self, stream: object, page_checksum_verification: bool) -> None:
            assert stream.read(4) == b"PAR1"

        def iter_batches(self, size: int, columns: list[str]) -> list[object]:
            assert columns == ["Label", "Text"]
            values = {"Label": [0, None, True], "Text": ["a", "b", "c"]}
            column = types.SimpleNamespace(
                column=lambda name: types.SimpleNamespace(to_pylist=lambda: values[name])
            )
            return [column, column]

    parts = types.SimpleNamespace(ParquetFile=File)
    module = types.SimpleNamespace(parquet=parts, ArrowException=RuntimeError)
    monkeypatch.setitem(sys.modules, "pyarrow", module)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parts)
    (tmp_path / "a").write_bytes(b"PAR1 and so on")
    assert parquet(tmp_path / "a") == [["0", "a"], ["", "b"], ["true", "c"]] * 2
    assert [row.line for row in read_rows(tmp_path / "a", NAMES)] == [1, 2, 3, 4, 5, 6]
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"PAR1 and so on"))
    assert len(parquet(tmp_path / "a.gz")) == 6


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a").write_bytes(b"PAR1 and so on")
    with pytest.raises(
        DataError, match=r"is a Parquet file.*pip install pyarrow, or save it as CSV"
    ):
        parquet(tmp_path / "a")


OTHERS = {
    gzip.compress(gzip.compress(b"Label,Text", mtime=0), mtime=0): "is packed twice",
    b"PK\x03\x04" + bytes(range(256)): "is a zip, as Excel workbooks",
    b"\xd0\xcf\x11\xe0\xa1\xb1" + bytes(500): "is an old Excel workbook",
    b"%PDF-1.7\n%\xe2\xe3": "is a PDF",
    b"SQLite format 3\0\x10": "is an SQLite database",
    b"\x89HDF\r\n": "data of another program",
    b"ARROW1\0\0": "is an Arrow file",
    b"\x89PNG\r\n\x1a\n": "is a picture",
    b"\x28\xb5\x2f\xfd\x04": "is packed",
    b"\n<!DOCTYPE html><html>": "is a page of HTML",
    b"<?xml version='1.0'?>": "is a page of HTML or XML",
    b"version https://git-lfs.github.com/spec/v1\noid": "pointer of git-lfs",
    b'[\n {"Label": "a", "Text": "b"}\n]': "is a JSON array.*one object a line",
    b'{\n "Label": "a", "Text": "b"\n}': "is JSON on several lines",
}


@pytest.mark.parametrize("content", OTHERS, ids=lambda content: repr(content[:10]))
def test_other_files_are_recognised(content: bytes) -> None:
    for name, packed in (("a.csv", content), ("a.csv.gz", gzip.compress(content))):
        with pytest.raises(
            DataError, match=f"(?s){OTHERS[content]}.*What is read is CSV, TSV, JSON"
        ):
            rows_of(packed, name)


def test_damaged_gz() -> None:
    packed = gzip.compress(b"Label,Text\n" + os.urandom(30_000).hex().encode() + b",a\n")
    for damaged in (packed[:-9], packed[:10_000], packed[:50] + b"\0" * 500 + packed[550:]):
        with pytest.raises(DataError, match=r"a\.csv\.gz is a damaged \.gz file"):
            rows_of(damaged, "a.csv.gz")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for name, reason in (
            ("fifo", r"a pipe \(FIFO\)"),
            (".", "a folder"),
            ("/dev/zero", "a device"),
            ("socket", "a socket"),
            ("loop", "Too many levels"),
            ("gone", "No such file"),
        ):
            with pytest.raises(DataError, match=f"cannot be read: (it is )?{reason}"):
                list(read_rows(tmp_path / name, NAMES))
