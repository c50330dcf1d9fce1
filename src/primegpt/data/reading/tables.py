"""Records in rows under a header: CSV and TSV, whatever separates their fields."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from itertools import chain
from typing import BinaryIO

from primegpt.data.reading.records import TEXT_FIELD, Document, Lines, Reading, missing_field, record_document
from primegpt.errors import DataError, quoted

SAMPLE = 1 << 16  # characters, and lines, that the separator is found by
SAMPLED_LINES = 100
SEPARATORS = ",;\t|"
FIELD_LIMIT = 2**31 - 1  # of characters: the size of the whole record is limited, and so is its field
WORDS, LONGEST_NAME = 6, 100  # the name of a column has fewer words, and at most so many characters

_EXCELS = re.compile(r'"?sep=([^\w"\r\n ])"?\s*', re.IGNORECASE)  # a first line that names the separator to Excel


def read_tsv(file: BinaryIO, name: str, reading: Reading) -> Iterator[Document]:
    """Rows under a header, separated by tabs."""
    return read_csv(file, name, reading, "\t")


def read_csv(file: BinaryIO, name: str, reading: Reading, separator: str | None = None) -> Iterator[Document]:
    """Rows under a header; separated by whichever of comma, semicolon, tab and bar makes equal rows of the first ones.

    Empty lines, and Excel's `sep=;` before the header, are no rows.
    """
    csv.field_size_limit(FIELD_LIMIT)  # a setting of the whole process, there is no other
    lines = Lines(file, name, reading.limit)
    sample, failed = _sample(lines)
    before = 0
    while before < len(sample) and not sample[before].strip():
        before += 1
    if before < len(sample) and (told := _EXCELS.fullmatch(sample[before])):
        separator, before = told[1], before + 1
    sample = sample[before:]
    asked = {*reading.named} if reading.text_field is None else {reading.text_field}
    separator = separator or _separator(sample, asked)
    rows = csv.reader(chain(sample, _failing(failed), lines), delimiter=separator, strict=True)
    header = list[str]()
    start = before + 1
    while True:
        place = f"{name}, line {start}"
        lines.begin()
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise DataError(f"{place}: broken CSV: {error}", "quote fields that hold quotes or line ends") from None
        start = before + rows.line_num + 1
        if row is None:
            return
        if row and not header:
            header = [name.strip() for name in row]
            _check_header(header, place, reading.text_field, asked)
        elif row:
            if len(row) != len(header):
                raise DataError(
                    f"{place}: {len(row)} fields under a header of {len(header)}",
                    f"quote fields that hold {separator!r} or line ends",
                )
            yield record_document(dict(zip(header, row, strict=True)), name, place, reading.text_field)


def _sample(lines: Lines) -> tuple[list[str], DataError | None]:
    """The first lines, and what was wrong with the next: the records before that are good."""
    sample, size = list[str](), 0
    try:
        while size < SAMPLE and len(sample) < SAMPLED_LINES:
            lines.begin()
            sample.append(next(lines))
            size += len(sample[-1])
    except StopIteration:
        pass
    except DataError as error:
        return sample, error
    return sample, None


def _failing(error: DataError | None) -> Iterator[str]:
    if error:
        raise error
    yield from ()


def _separator(sample: Sequence[str], asked: Set[str]) -> str:
    """The one under which the header has a column that is asked for, or several, and the rows have as many fields."""
    by_count = sorted(SEPARATORS, key=lambda separator: -sample[0].count(separator)) if sample else SEPARATORS
    return max(by_count, key=lambda separator: _fit(sample, separator, asked))  # of equals, the first


def _fit(sample: Sequence[str], separator: str, asked: Set[str]) -> tuple[bool, bool]:
    """Whether the rows are equal, and whether the header has a column that is asked for."""
    reader, rows = csv.reader((line[:SAMPLE] for line in sample), delimiter=separator, strict=True), list[list[str]]()
    try:
        rows.extend(reader)
    except csv.Error:
        if reader.line_num < len(sample):  # not within the field that the sample ends in
            return False, False
    else:
        if len(sample) == SAMPLED_LINES or sum(map(len, sample)) >= SAMPLE:
            rows.pop()  # which may be cut
    if not rows or len(rows[0]) < 2:
        return False, False
    header, *others = rows
    return all(len(row) in (0, len(header)) for row in others), not asked.isdisjoint(name.strip() for name in header)


def _check_header(header: list[str], place: str, text_field: str | None, asked: Set[str]) -> None:
    name, count = Counter(filter(None, header)).most_common(1)[0] if any(header) else ("", 0)
    if count > 1 and not _is_data(name, text_field):
        raise DataError(f"{place}: there are two columns {quoted(name)}", "rename one of them")
    if not asked.isdisjoint(header):
        return
    if any(_is_data(name, text_field) for name in header):
        raise DataError(
            f"{place}: this looks like data, where the names of columns are expected",
            f"put a line of names first, such as {text_field or 'prompt,response'}",
        )
    if text_field is not None:
        raise missing_field(place, text_field, header, TEXT_FIELD, "column")


def _is_data(name: str, text_field: str | None) -> bool:
    """Whether this is no name of a column. A number may be one, where nobody says which column is the text."""
    sentence = len(name) > LONGEST_NAME or len(name.split()) >= WORDS or "\n" in name
    return sentence or (text_field is not None and name.strip().isdigit())
