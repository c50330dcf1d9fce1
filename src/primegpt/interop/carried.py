"""What goes with a model from a folder of others to the one that it is exported to: licences, and how it generates."""

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from primegpt.config import Config, resolve
from primegpt.errors import UsageError
from primegpt.interop.chat_template import ends_of
from primegpt.interop.hf_config import generation_settings, read_generation_settings
from primegpt.interop.weight_files import inside
from primegpt.run import atomic
from primegpt.tokenizers.base import Tokenizer

GENERATION = "generation_config.json"
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*")  # as repositories on the hub have them
MAX_LICENCES = 20
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def is_licence(name: str) -> bool:
    return any(fnmatch(name.upper(), pattern) for pattern in LICENCES)


def read_carried(folder: Path) -> dict[str, bytes]:
    """File name -> content. Raises UsageError for a file that leads elsewhere or is too large for what it is called."""
    names = sorted(path.name for path in folder.iterdir() if is_licence(path.name) and path.is_file())
    if len(names) > MAX_LICENCES:
        raise UsageError(f"{folder} has {len(names)} files that are called licences", "remove those that are none")
    names += [GENERATION] if (folder / GENERATION).is_file() else []
    return {name: _read(folder, name) for name in names}


def _read(folder: Path, name: str) -> bytes:
    path = inside(folder, name)
    with atomic.io_errors(f"read {path}", UsageError), open(path, "rb") as file:
        content = file.read(atomic.MAX_JSON_BYTES + 1)
    if len(content) > atomic.MAX_JSON_BYTES:
        raise UsageError(f"{path} is larger than {atomic.MAX_JSON_BYTES >> 20} MB", "no such file is")
    return content


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the {GENERATION} that came with this run is not JSON: {error}", "remove it") from error
    if not isinstance(found, dict):
        raise UsageError(f"the {GENERATION} that came with this run holds no JSON object", "remove it")
    return found


def generation_config(config: Config, tokenizer: Tokenizer, carried: Mapping[str, bytes]) -> bytes:
    """generation_config.json: the one that came along, with what has changed since; to the byte if nothing has."""
    now, wanted = generation_settings(config.generate, tokenizer), ends_of(config.data, tokenizer)
    if GENERATION not in carried:
        return atomic.canonical_json(now | ({"eos_token_id": wanted} if len(wanted) > 1 else {}))
    theirs = _object(carried[GENERATION])
    came = resolve({"generate": read_generation_settings(theirs, GENERATION)}).generate
    before = generation_settings(came, tokenizer)
    changed = {key: value for key, value in now.items() if key not in IDS and before.get(key) != value}
    gone = before.keys() - now.keys()
    if "do_sample" in changed:  # what stood there without effect would have one now
        gone |= {"min_p"} - now.keys()
    if (ends := theirs.get("eos_token_id")) is not None:
        known = ends if isinstance(ends, list) else [ends]
        if new := [end for end in wanted if end not in known]:  # of a chat that was trained since
            changed["eos_token_id"] = [*known, *new]
    if not changed and not gone & theirs.keys():
        return carried[GENERATION]
    return atomic.canonical_json({key: value for key, value in theirs.items() if key not in gone} | changed)
