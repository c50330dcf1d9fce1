"""Conversations as others write them, as turns: OpenAI's `messages` with weights, ShareGPT's `conversations`.

{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "weight": 0}, …]}
{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}, …]}
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from primegpt.errors import DataError, listed, nearest, quoted

NOTHING = (None, "", [], {})  # values by which a field says nothing
LISTS = ("messages", "conversations")
ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant",
}  # fmt: skip
READ = {"role", "from", "content", "value", "weight"}  # keys of a message
_TOOLS = ("tool", "function", "function_call", "observation", "ipython")
_WITHOUT = "leave out conversations with tools"


class Turn(NamedTuple):
    """What one side says."""

    role: str
    """system, user or assistant."""
    content: str
    learnt: bool
    """Whether training asks for it: what the assistant says, unless its weight is 0."""


def list_of(record: Mapping[str, Any]) -> str:
    """The field that holds the messages."""
    return next((name for name in LISTS if record.get(name) is not None), LISTS[0])


def messages_of(record: Mapping[str, Any], where: str) -> Sequence[object]:
    """The messages of a record. Raises DataError if there is no list of them."""
    messages = record.get(list_of(record))
    if isinstance(messages, Sequence) and not isinstance(messages, str) and messages:
        return messages
    raise DataError(
        f"{where}: there is no list 'messages', only {listed(record) or 'nothing'}",
        'a record is {"messages": [{"role", "content"}, …]}; --data.template response reads prompts and responses',
    )


def turn_of(message: object, where: str) -> Turn:
    """A message as a turn. Raises DataError for one that is none, or says what the chat template has no place for."""
    if not isinstance(message, Mapping):
        raise DataError(f"{where} has no text 'content'", 'a message is {"role": "user", "content": "…"}')
    said = message.get("role", message.get("from"))
    if said in _TOOLS or message.get("tool_calls") or message.get("function_call"):
        raise DataError(f"{where} is a tool message, which the chat template cannot represent", _WITHOUT)
    role = ROLES.get(said) if isinstance(said, str) else None
    if role is None:
        raise DataError(f"{where} has the role {quoted(said)}", nearest(str(said), ROLES))
    content = _text(message.get("content", message.get("value")), where)
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise DataError(f"{where} has the weight {quoted(weight)}", "a weight is 0 (not trained on) or 1")
    if weight == 1 and role != "assistant":
        raise DataError(f"{where} is the {role}'s and has the weight 1", "only what the assistant says is trained on")
    return Turn(role, content, role == "assistant" and weight != 0)


def unread_keys(record: Mapping[str, Any]) -> Iterator[str]:
    """What the messages of a valid record say that a turn does not: "messages.name"."""
    name = list_of(record)
    for message in record[name]:
        yield from (f"{name}.{key}" for key in message if key not in READ and message[key] not in NOTHING)


def _text(content: object, where: str) -> str:
    """The text of a message; of one in parts, theirs in a row."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise DataError(f"{where} has no text 'content'", 'a message is {"role": "user", "content": "…"}')
    texts = list[str]()
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else part
            raise DataError(f"{where} has content of type {quoted(kind)}", "only text can be learnt: leave it out")
        texts.append(text)
    return "".join(texts)
