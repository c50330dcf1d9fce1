"""Kinds of files × shapes of records, each written here: right token by token, or one line with place and way out.

What is expected is said by this file alone: each shape names what its records become, part by part, and each kind
whether it can carry that. No cell may be silently anything else.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.prepare import prepare
from primegpt.data.preparing.survey import Library, survey
from primegpt.data.template import template_for
from primegpt.errors import PrimegptError

N = 12  # records of a file
CONTEXT, ASKED, PROMPT = 0, 1, 2  # roles, as the design numbers them
Parts = list[tuple[str, int | None, bool]]  # content, role (none in plain text), whether it is a special token


def said(n: int, what: str) -> str:
    """A text with all that separators, quotes, scripts and line ends can do to a reader."""
    return f'{what} {n}: río, "Wörter"; a | b\tc\r\n漢字 🎵 {n * n}\nend'


# ---- shapes of records


@dataclass
class Shape:
    template: str
    record: Callable[[int], dict[str, Any]]
    expected: Callable[[int], Parts] | None
    """What record n becomes; None if it is to be refused."""
    settings: dict[str, Any] = field(default_factory=dict)
    in_rows: bool = True
    """Whether a table of strings can say it too; null is then empty, and a number its digits."""


def text(n: int) -> Parts:
    return [(said(n, "text"), None, False)]


def response(prompt: str, answer: str) -> Parts:
    return [
        ("<prompt>", CONTEXT, True),
        (prompt, PROMPT, False),
        ("<response>", CONTEXT, True),
        (answer, ASKED, False),
        ("</response>", ASKED, True),
    ]


def asked(n: int) -> Parts:
    return response(said(n, "Do"), said(n, "So"))


def with_input(n: int) -> Parts:
    return response(f"{said(n, 'Do')}\n\n{said(n, 'it')}" if n % 2 else said(n, "Do"), said(n, "So"))


def song(n: int, *labels: str) -> Parts:
    return [
        ("<prompt>", CONTEXT, True),
        *((label, CONTEXT, True) for label in labels),
        (said(n, "Do"), PROMPT, False),
        ("\n", CONTEXT, False),
        ("<song>", CONTEXT, True),
        ("\n", ASKED, False),
        ("[verse]", ASKED, True),
        (f"\nla {n}\n", ASKED, False),
        ("</song>", ASKED, True),
    ]


def chat(n: int, *, weights: bool = False) -> Parts:
    first = CONTEXT if weights else ASKED
    return [
        *[("<system>", CONTEXT, True), ("Be kind", CONTEXT, False), ("</turn>", CONTEXT, True)],
        *[("<user>", CONTEXT, True), (said(n, "Hi"), CONTEXT, False), ("</turn>", CONTEXT, True)],
        *[("<assistant>", CONTEXT, True), (said(n, "Oh"), first, False), ("</turn>", first, True)],
        *[("<assistant>", CONTEXT, True), (said(n, "Ah"), ASKED, False), ("</turn>", ASKED, True)],
    ]


def turns(n: int, role: str = "role", content: str = "content", **first: Any) -> list[dict[str, Any]]:
    names = {"from": ("system", "human", "gpt"), "role": ("system", "user", "assistant")}[role]
    texts = [(names[0], "Be kind"), (names[1], said(n, "Hi")), (names[2], said(n, "Oh")), (names[2], said(n, "Ah"))]
    messages = [{role: name, content: spoken} for name, spoken in texts]
    messages[2] |= first
    return messages


LYRICS = {"prompt": "Do", "lyrics": "[Verse 1]\nla"}


def lyrics(n: int, **labels: Any) -> dict[str, Any]:
    return {"prompt": said(n, "Do"), "lyrics": f"[Verse 1]\nla {n}", **labels}


SHAPES = {
    "text": Shape("text", lambda n: {"id": str(n), "text": said(n, "text")}, text),
    "text-named": Shape("text", lambda n: {"body": said(n, "text"), "n": n}, text, {"text_field": "body"}),
    "text-null": Shape(
        "text", lambda n: {"text": said(n, "text") if n else None, "x": "a"}, lambda n: text(n) if n else []
    ),
    "text-missing": Shape("text", lambda n: {"body": said(n, "text"), "n": str(n)}, None),
    "text-number": Shape("text", lambda n: {"text": n + 1000, "a": "b"}, None, in_rows=False),
    "text-list": Shape("text", lambda n: {"text": [said(n, "text")], "a": "b"}, None, in_rows=False),
    "response": Shape("response", lambda n: {"prompt": said(n, "Do"), "response": said(n, "So")}, asked),
    "response-named": Shape(
        "response",
        lambda n: {"q": said(n, "Do"), "a": said(n, "So"), "x": "y"},
        asked,
        {"prompt_field": "q", "response_field": "a"},
    ),
    "completion": Shape("response", lambda n: {"prompt": said(n, "Do"), "completion": said(n, "So")}, asked),
    "alpaca": Shape(
        "response",
        lambda n: {"instruction": said(n, "Do"), "input": said(n, "it") * (n % 2), "output": said(n, "So")},
        with_input,
    ),
    "dolly": Shape(
        "response",
        lambda n: {"instruction": said(n, "Do"), "context": said(n, "it") * (n % 2), "response": said(n, "So")},
        with_input,
    ),
    "two-prompts": Shape(
        "response",
        lambda n: {"a": said(n, "Do"), "b": said(n, "it") * (n % 2), "response": said(n, "So")},
        with_input,
        {"prompt_field": ("a", "b")},
    ),
    "response-empty": Shape(
        "response", lambda n: {"prompt": said(n, "Do"), "response": ""}, lambda n: response(said(n, "Do"), "")
    ),
    "response-missing": Shape("response", lambda n: {"prompt": said(n, "Do"), "answer": said(n, "So")}, None),
    "response-null": Shape("response", lambda n: {"prompt": said(n, "Do"), "response": None}, None, in_rows=False),
    "song": Shape("song", lyrics, song),
    "song-labels": Shape(
        "song", lambda n: lyrics(n, genre="R&B", emotion="Sad"), lambda n: song(n, "<genre_rb>", "<sad>")
    ),
    "song-genres": Shape(
        "song",
        lambda n: lyrics(n, genre=["rap", "Pop"]),
        lambda n: song(n, "<genre_rap>", "<genre_pop>"),
        in_rows=False,
    ),
    "song-number": Shape("song", lambda n: lyrics(n, genre=5), None),
    "song-polka": Shape("song", lambda n: lyrics(n, genre="polka"), None),
    "openai": Shape("chat", lambda n: {"messages": turns(n)}, chat, in_rows=False),
    "openai-weights": Shape(
        "chat", lambda n: {"messages": turns(n, weight=0)}, lambda n: chat(n, weights=True), in_rows=False
    ),
    "openai-weight-2": Shape("chat", lambda n: {"messages": turns(n, weight=2)}, None, in_rows=False),
    "openai-tools": Shape("chat", lambda n: {"messages": turns(n, tool_calls=[{"id": "1"}])}, None, in_rows=False),
    "sharegpt": Shape("chat", lambda n: {"conversations": turns(n, "from", "value")}, chat, in_rows=False),
    "chat-missing": Shape("chat", lambda n: {"prompt": said(n, "Do"), "response": said(n, "So")}, None),
}


# ---- kinds of files


def rows(records: list[dict[str, Any]], separator: str, **options: Any) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(records[0]), delimiter=separator, **options)
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue().encode()


def lines(records: list[dict[str, Any]], end: str = "\n", **options: Any) -> bytes:
    return "".join(json.dumps(record, **options) + end for record in records).encode()


def columns(records: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(records), file)
    return file.getvalue()


TABLES = {
    "commas.csv": lambda records: rows(records, ","),
    "semicolons.csv": lambda records: rows(records, ";"),
    "tabs.csv": lambda records: rows(records, "\t"),
    "bars.csv": lambda records: rows(records, "|"),
    "quoted.csv": lambda records: rows(records, ";", quoting=csv.QUOTE_ALL, lineterminator="\n"),
    "excel.csv": lambda records: b"sep=;\r\n" + rows(records, ";"),
    "blank.csv": lambda records: b"\n\r\n" + rows(records, ","),
    "tabs.tsv": lambda records: rows(records, "\t"),
    "packed.csv.gz": lambda records: gzip.compress(rows(records, "|")),
    "packed.tsv.gz": lambda records: gzip.compress(rows(records, "\t")),
}
OBJECTS = {
    "lines.jsonl": lines,
    "LINES.NDJSON": lambda records: lines(records, "\r\n", ensure_ascii=False),
    "empty-lines.jsonl": lambda records: lines(records, "\n\n \n"),
    "packed.jsonl.gz": lambda records: gzip.compress(lines(records)),
    "list.json": lambda records: json.dumps(records).encode(),
    "pretty.json": lambda records: json.dumps(records, indent=2, ensure_ascii=False).encode(),
    "in-a-row.json": lambda records: lines(records, indent=1),
    "lines.json": lines,
    "packed.json.gz": lambda records: gzip.compress(json.dumps(records).encode()),
    "columns.parquet": columns,
}
TEXTS = ("plain.txt", "notes.md", "README", "poem.lyrics", "packed.txt.gz", "page.html", "script.py")
ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "latin-1", "cp1251", "gb18030")


def tarred(data: bytes, mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zipped(data: bytes, *names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, data)
    return file.getvalue()


NO_TEXT = {
    "PDF document": lambda data: b"%PDF-1.4\n" + data,
    "RTF document": lambda data: rb"{\rtf1 " + data,
    "Word document": lambda data: zipped(data, "[Content_Types].xml", "word/document.xml"),
    "zip archive": lambda data: zipped(data, "a.txt"),
    "tar archive": lambda data: tarred(data, "w"),
    "tar archive in gzip": lambda data: tarred(data, "w:gz"),
    "bzip2 file": bz2.compress,
    "xz file": lzma.compress,
    "gzip file": gzip.compress,
    "PNG image": lambda data: b"\x89PNG\r\n\x1a\n" + data,
    "program": lambda data: b"\x7fELF" + data,
    "SQLite database": lambda data: b"SQLite format 3\0" + data,
    "binary data": lambda data: os.urandom(3000),
}


# ---- cells


@dataclass
class Cell:
    name: str
    file: str
    data: bytes
    config: dict[str, Any]
    expected: list[Parts] | None
    """The documents it becomes; None if it is to be refused."""
    why: str = ""
    """What a refusal has to say."""


def as_strings(records: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [{name: "" if value is None else str(value) for name, value in record.items()} for record in records]


def cells() -> list[Cell]:
    found = list[Cell]()
    for shape_name, shape in SHAPES.items():
        records = [shape.record(n) for n in range(N)]
        config = {"template": shape.template, **shape.settings}
        expected = shape.expected and [parts for n in range(N) if (parts := shape.expected(n))]
        for file, write in (TABLES | OBJECTS).items():
            as_rows = file in TABLES
            if as_rows and not shape.in_rows and shape_name in ("text-number", "text-list", "response-null"):
                continue  # in a table these are strings like any other
            fits = expected if shape.in_rows or not as_rows else None
            data = write(as_strings(records) if as_rows else records)
            place = "" if fits else r"(line|record|row) \d+|there is no column"
            found.append(Cell(f"{shape_name} in {file}", file, data, config, fits, place))
    whole = "\n".join(said(n, "text") for n in range(N))
    for file in TEXTS:
        data = gzip.compress(whole.encode()) if file.endswith(".gz") else whole.encode()
        found.append(Cell(f"text in {file}", file, data, {}, [[(whole, None, False)]]))
        for template in ("song", "response", "chat"):
            found.append(Cell(f"{template} in {file}", file, data, {"template": template}, None, "is plain text"))
        found.append(
            Cell(f"a field in {file}", file, data, {"text_field": "body"}, None, "is plain text, without fields")
        )
    for encoding in ENCODINGS:
        for file, template in (("a.txt", "text"), ("a.jsonl", "text"), ("a.json", "response"), ("a.csv", "text")):
            shape = SHAPES[template]
            records = [shape.record(n) for n in range(N)]
            if file == "a.txt":
                data, right = whole.encode(), [[(whole, None, False)]]
            else:
                data = rows(records, ",") if file == "a.csv" else lines(records, ensure_ascii=False)
                right = [shape.expected(n) for n in range(N)] if shape.expected else []
            letters = data.decode().replace("río", "рио") if encoding == "cp1251" else data.decode()
            fits = encoding == "utf-8-sig"
            data, why = letters.encode(encoding, "ignore"), "" if fits else "not UTF-8"
            found.append(
                Cell(f"{file} in {encoding}", file, data, {"template": template}, right if fits else None, why)
            )
    for kind, write in NO_TEXT.items():
        for file in ("a.txt", "a.csv", "a.jsonl", "a.json", "a.md"):
            found.append(Cell(f"{kind} as {file}", file, write(whole.encode()), {}, None, f"is an? {kind}|is {kind}"))
    return found


CELLS = {cell.name: cell for cell in cells()}
SOME = sorted(random.Random(0).sample(sorted(CELLS), 60))


def documents(corpus: Corpus) -> list[tuple[list[int], list[int]]]:
    """Ids and roles of each document of both splits."""
    found = []
    for shards in (corpus.train, corpus.val):
        for start, stop in map(shards.document, range(shards.n_documents)):
            roles = shards.roles(start, stop).tolist() if shards.has_roles else []
            found.append((shards.slice(start, stop).tolist(), roles))
    return found


def ids_and_roles(parts: Parts, corpus: Corpus) -> tuple[list[int], list[int]]:
    tokenizer, ids, roles = corpus.tokenizer, list[int](), list[int]()
    if parts[0][1] is None:
        ids.append(tokenizer.eot_id)
    for content, role, special in parts:
        new = [tokenizer.token_id(content)] if special else [tokenizer.encode(character)[0] for character in content]
        ids += new
        roles += [role] * len(new) if role is not None else []
    return ids, roles


def check(cell: Cell, folder: Path) -> None:
    (folder / cell.file).write_bytes(cell.data)
    config = DataConfig(sources=(str(folder / cell.file),), **cell.config)
    try:
        corpus = prepare(config, TokenizerConfig(kind="char"), context=4000, cache=folder)
    except PrimegptError as error:
        message = str(error)
        assert cell.expected is None, message
        assert message.startswith(str(folder / cell.file)) or f": {folder / cell.file} is plain text" in message
        assert re.search(cell.why, message), message
        assert message.isprintable()
        assert "; " in message  # the way out
        assert len(message) < 400
        return
    with_roles = cell.config.get("template", "text") != "text"
    assert cell.expected is not None, "it was read, though it says something else"
    if len(cell.expected) == 1:  # one text, whose end is held out
        (first, _), (second, _) = documents(corpus)
        assert first + second[1:] == ids_and_roles(cell.expected[0], corpus)[0]
    else:
        assert sorted(documents(corpus)) == sorted(ids_and_roles(parts, corpus) for parts in cell.expected)
    assert corpus.train.has_roles == with_roles
    corpus.close()


@pytest.mark.parametrize("name", SOME)
def test_a_cell_is_right_or_refused_in_a_line(tmp_path, name):
    check(CELLS[name], tmp_path)


@pytest.mark.reliability
@pytest.mark.parametrize("name", sorted(CELLS.keys() - set(SOME)))
def test_every_other_cell_is_right_or_refused_in_a_line(tmp_path, name):
    check(CELLS[name], tmp_path)


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(20))
def test_damaged_cells_are_read_or_refused_in_a_line(tmp_path, seed):
    """Bytes changed, cut out, put in, or cut off, 100 times a seed: no traceback, and every refusal is short."""
    draw = random.Random(seed)
    for _ in range(100):
        cell = CELLS[draw.choice(sorted(CELLS))]
        data = bytearray(cell.data)
        for _ in range(draw.randint(1, 3)):
            at, length = draw.randrange(len(data) + 1), draw.choice([0, 1, 20, len(data)])
            data[at : at + length] = draw.choice([b"", b'"', b"\n", b"\0", b"{", b"]", b"\xff\xfe", draw.randbytes(3)])
        (tmp_path / cell.file).write_bytes(data)
        config = DataConfig(sources=(str(tmp_path / cell.file),), **cell.config)
        message = "read; "
        try:
            survey(Library(config, lambda line: None), template_for(config))
        except PrimegptError as error:
            message = str(error)
        assert message.isprintable()
        assert len(message) < 700
        assert "; " in message


def test_the_matrix_is_large_enough():
    kinds = {(cell.file, cell.name.split(" in ")[-1].split(" as ")[0]) for cell in CELLS.values()}
    assert len(kinds) > 40
    assert len(CELLS) > 500
    assert sum(cell.expected is not None for cell in CELLS.values()) > 250
