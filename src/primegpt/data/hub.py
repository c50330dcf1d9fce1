"""A data set of the Hugging Face hub, or a folder in its layout, streamed through the `datasets` library."""

import re
from collections.abc import Iterator
from pathlib import Path

from primegpt.data.formats import INSTALL_DATA, Document, record_document
from primegpt.errors import DataError

PREFIX = "hf:"
ASK_SECONDS = 5.0
_SPLIT = re.compile(r"(train|validation|valid|val|test|dev|unsupervised)", re.IGNORECASE)


def read_dataset(address: str, text_field: str | None) -> Iterator[Document]:
    """The rows of a `datasets` data set, streamed: NAME, NAME:SPLIT, NAME:CONFIG, NAME:CONFIG:SPLIT.

    NAME is one of the Hugging Face hub, or a folder of data files. The split is "train" if none is said.
    """
    source = f"{PREFIX}{address}"
    name, config, split = parse_dataset(address)
    try:
        import datasets
    except ImportError:
        raise DataError(f"{source} needs the package datasets, which is not installed", INSTALL_DATA) from None
    number = 0
    try:
        if not Path(name).exists():
            _ask_hub(name)
        for row in datasets.load_dataset(name, config, split=split, streaming=True):
            number += 1
            yield record_document(row, source, f"{source}, row {number}", text_field)
    except DataError:
        raise
    except Exception as error:  # the library raises what it pleases: its own, the hub's, the network's, the builder's
        raise DataError(
            f"{source} cannot be read{f' after row {number}' if number else ''}: {_first_line(error)}",
            "check name, configuration and split; offline, fetch its files elsewhere and name those",
        ) from None


def _ask_hub(name: str) -> None:
    """One request, so that what cannot be reached fails at once: loading tries again for half a minute."""
    import huggingface_hub

    if not huggingface_hub.constants.HF_HUB_OFFLINE:  # then it does not ask, and looks into its cache
        huggingface_hub.HfApi().dataset_info(name, timeout=ASK_SECONDS)


def parse_dataset(address: str) -> tuple[str, str | None, str]:
    """Name, configuration and split of an address NAME[:CONFIG][:SPLIT]; NAME::SPLIT leaves the first out."""
    if Path(address).exists():  # C:\data is a folder
        return address, None, "train"
    name, *rest = address.split(":")
    if len(rest) > 2 or not name:
        raise DataError(f"hf:{address} is no data set", "write hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT")
    if len(rest) == 1:
        rest = ["", rest[0]] if _SPLIT.fullmatch(rest[0]) else [rest[0], ""]
    config, split = rest or ("", "")
    return name, config or None, split or "train"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
