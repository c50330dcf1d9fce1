"""Text as no browser takes it for markup."""

import re
from html import escape
from typing import Any

_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def escaped(value: Any) -> str:
    """`value` as HTML text, fit for attributes too; characters that HTML cannot hold are shown as �."""
    return escape(_UNSEEN.sub("�", str(value).replace("\r\n", "\n")))
