"""What stands beside a tokenizer's vocabulary: which token ends a text, tokens that were added, the chat template."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from primegpt.config import MAX_VOCAB
from primegpt.errors import quoted
from primegpt.tokenizers.tokenizer_json import (
    Document,
    added_token,
    refuse_too_many,
    refuse_too_many_values,
    vocabulary_of,
)

CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
TEMPLATE = "chat_template.jinja"
JSON, MODEL, TEKKEN, TIKTOKEN = "tokenizer.json", "tokenizer.model", "tekken.json", ".tiktoken"
VOCAB, MERGES = "vocab.json", "merges.txt"
PAIR = {VOCAB, MERGES}
COMPANIONS = (CONFIG, MAP, ADDED, TEMPLATE)
MAX_BYTES = 16 * 2**20
MAX_MODEL = 24 * 2**20  # of a tokenizer.model; the largest in use have 5 MB
MAX_TEMPLATE = 200_000  # characters
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
# Where nothing says what ends a text, the first of these that there is.
ENDS = (
    *("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<EOS>", "<|im_end|>"),
    *("<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>"),
)


def refuse_too_large(name: str, content: bytes) -> None:
    """Raise ValueError for a tokenizer's file that would take minutes or gigabytes when it is read."""
    if name.endswith(".json"):
        refuse_too_many_values(content)
    elif name == MODEL:
        if len(content) > MAX_MODEL:
            raise ValueError(f"{name} is larger than {MAX_MODEL >> 20} MB, as none is")
    elif content.count(b"\n") > MAX_VOCAB:
        raise ValueError(f"{name} has more than {MAX_VOCAB:,} lines")


def is_file_of(name: str) -> bool:
    """Whether a file of that name is a tokenizer's, to be kept with it."""
    known = (JSON, MODEL, TEKKEN, *PAIR, "vocab.bpe", "encoder.json", *COMPANIONS)
    return name in known or name.endswith(TIKTOKEN)


class Roles(NamedTuple):
    """The special tokens that have a part of their own."""

    eot: str
    eot_id: int
    bos: str | None
    pad: str | None
    unk: str | None


@dataclass(frozen=True)
class Settings:
    """What the files beside a vocabulary say.

    Attributes:
        named: role -> token.
        tokens: added token -> its entry, as in tokenizer.json; the id is None where nothing says it.
        adds_bos: whether a text gets the beginning-of-text token before it, where that is said.
        kind: the class that Transformers has for it.
    """

    named: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    chat_template: str | None = None
    adds_bos: bool | None = None
    kind: str | None = None

    def added_to(self, document: Document) -> Document:
        """`document` with the tokens that Transformers would add to it, and those with a role special."""
        entries = {token["content"]: token for token in document["added_tokens"]}
        vocabulary = vocabulary_of(document)
        following = max(vocabulary.values(), default=-1) + 1
        for content, entry in self._those_with_ids_first():
            if content not in vocabulary:
                vocabulary[content] = following if entry["id"] is None else entry["id"]
                following = max(following, vocabulary[content] + 1)
            id = vocabulary[content]
            if entry["id"] not in (None, id):
                raise ValueError(f"the added token {quoted(content)} has the id {id} and the id {entry['id']}")
            special = entry["special"] or entries.get(content, entry)["special"]
            flags = entry if entry["full"] else {**entry, **entries.get(content, {})}
            entries[content] = {**flags, "id": id, "special": special}
            entries[content].pop("full")
        if len(set(vocabulary.values())) < len(vocabulary):
            raise ValueError("two of its tokens have the same id")
        refuse_too_many(len(entries))
        return {**document, "added_tokens": sorted(entries.values(), key=lambda token: token["id"])}

    def beyond(self, pieces: Sequence[bytes], special_tokens: Mapping[str, int]) -> dict[str, int]:
        """The ids of added tokens, for a vocabulary in another form than tokenizer.json. Raises ValueError."""
        found, known = dict[str, int](), {piece: id for id, piece in enumerate(pieces)}
        following = len(pieces)
        for content, entry in self._those_with_ids_first():
            there = special_tokens.get(content, known.get(content.encode()))
            if there is None and not entry["special"]:
                raise ValueError(f"its added token {quoted(content)} is not special, and only tokenizer.json has such")
            id = following if there is None else there
            following += there is None
            if entry["id"] not in (None, id):
                raise ValueError(f"the added token {quoted(content)} has the id {id} and the id {entry['id']}")
            if entry["special"]:
                found[content] = id
        return found

    def _those_with_ids_first(self) -> list[tuple[str, dict[str, Any]]]:
        """The added tokens by their ids, and then those that come after all others, as nothing says theirs."""
        return sorted(self.tokens.items(), key=lambda item: (item[1]["id"] is None, item[1]["id"] or 0))

    def roles(self, special_tokens: Mapping[str, int], given: Mapping[str, str | None]) -> Roles:
        """The tokens with a role: as named here, else as the vocabulary's own file has it. Raises ValueError."""
        found = {role: self.named.get(role) or given.get(role) for role in ROLES}
        named = {role: name if name in special_tokens else None for role, name in found.items()}
        end = named["eos_token"] or next((name for name in ENDS if name in special_tokens), None) or named["bos_token"]
        if end is None:
            raise ValueError("nothing says which token ends a text (eos_token)")
        return Roles(end, special_tokens[end], named["bos_token"], named["pad_token"], named["unk_token"])


def read(files: Mapping[str, bytes]) -> Settings:
    """What the companions among `files` say. Raises ValueError for what would change ids and is not implemented."""
    found = {name: _object(name, files[name]) for name in (MAP, CONFIG) if name in files}
    config = found.get(CONFIG, {})
    if config.get("auto_map"):
        raise ValueError(f"{CONFIG} has auto_map: it asks for code of its own to be run")
    if config.get("do_lower_case"):
        raise ValueError(f"{CONFIG} has do_lower_case = {quoted(config['do_lower_case'])}, which changes every text")
    named: dict[str, str] = {}
    tokens: dict[str, dict[str, Any]] = {}
    for content, id in _object(ADDED, files[ADDED]).items() if ADDED in files else ():
        tokens[content] = _entry({"content": content}, id, full=False)
    for settings in found.values():
        for id, token in (settings.get("added_tokens_decoder") or {}).items():
            tokens[token["content"]] = _entry(token, int(id), full=True)
        for role in ROLES:
            if settings.get(role) is not None:
                named[role] = _content(settings[role])
        for name in (*named.values(), *_listed(settings)):
            tokens[name] = {**(tokens.get(name) or _entry({"content": name}, None, full=False)), "special": True}
    refuse_too_many(len(tokens))
    adds_bos, kind = config.get("add_bos_token"), config.get("tokenizer_class")
    return Settings(named, tokens, _template(config, files), adds_bos, kind)


def _listed(settings: Mapping[str, Any]) -> Iterable[str]:
    for key in ("additional_special_tokens", "extra_special_tokens"):
        entries = settings.get(key) or ()
        for entry in entries.values() if isinstance(entries, dict) else entries:
            yield _content(entry)


def _object(name: str, content: bytes) -> dict[str, Any]:
    if len(content) > MAX_BYTES:
        raise ValueError(f"{name} is larger than {MAX_BYTES >> 20} MB")
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError(f"{name} does not hold a JSON object")
    return found


def _content(entry: Any) -> str:
    content = entry["content"] if isinstance(entry, dict) else entry
    if not isinstance(content, str):
        raise ValueError(f"{quoted(entry)} is no token")
    return content


def _entry(token: Mapping[str, Any], id: int | None, *, full: bool) -> dict[str, Any]:
    """An entry of added_tokens; `full` where the file says its flags too."""
    return {**added_token(token, 0 if id is None else id), "id": id, "full": full}


def _template(config: Mapping[str, Any], files: Mapping[str, bytes]) -> str | None:
    found = files[TEMPLATE].decode() if TEMPLATE in files else config.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = next((entry["template"] for entry in found if entry["name"] == "default"), None)
    if found is not None and (not isinstance(found, str) or len(found) > MAX_TEMPLATE):
        raise ValueError(f"its chat template is none, or longer than {MAX_TEMPLATE:,} characters")
    return found


def with_tokens(files: Mapping[str, bytes], source: str, names: Sequence[str], first: int) -> dict[str, bytes]:
    """`files` with special tokens from the id `first` on, where Transformers looks for them."""
    if not names:
        return dict(files)
    changed = dict(files)
    new = [added_token({"content": name}, first + i, special=True) for i, name in enumerate(names)]
    if source == JSON:
        document = json.loads(files[source])
        document["added_tokens"] = [*(document.get("added_tokens") or []), *new]
        changed[source] = _written(document, files[source])
    if source != JSON or CONFIG in files:
        config = _object(CONFIG, files[CONFIG]) if CONFIG in files else {}
        entries = {str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in new}
        config["added_tokens_decoder"] = {**(config.get("added_tokens_decoder") or {}), **entries}
        key = (
            "extra_special_tokens"
            if isinstance(config.get("extra_special_tokens"), list)
            else "additional_special_tokens"
        )
        config[key] = [*(config.get(key) or []), *names]
        changed[CONFIG] = _written(config, files.get(CONFIG, b"{\n"))
    return changed


def _written(values: Mapping[str, Any], before: bytes) -> bytes:
    """JSON as the file had it before: in lines or in one."""
    indent = 2 if b"\n" in before.strip()[:100] else None
    return (json.dumps(values, ensure_ascii=False, indent=indent) + ("\n" if before.endswith(b"\n") else "")).encode()
