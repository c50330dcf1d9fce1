"""How a run was trained to be talked to, as the Jinja template that Transformers and llama.cpp put messages into.

Rendered, and read with special tokens allowed, it gives the ids that `Run.conversation` gives: what stands in
data/template.py, in the language of others.
"""

from pathlib import Path

from primegpt.config import DataConfig
from primegpt.data.template import TEMPLATES, ChatTemplate, ResponseTemplate, layout_name
from primegpt.errors import UsageError
from primegpt.interop.weight_files import inside
from primegpt.run import atomic
from primegpt.tokenizers.base import Tokenizer
from primegpt.tokenizers.companions import TEMPLATE as FILE

MAX_BYTES = 2**20

_TURNS = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</turn>{% endfor %}"
_LAST = "<prompt>{{ messages[-1]['content'] }}<response>"
# The name of a layout -> its template, and the token that ends an answer.
LAYOUTS = {
    ChatTemplate.name: (f"{_TURNS}{{% if add_generation_prompt %}}<assistant>{{% endif %}}", "</turn>"),
    ResponseTemplate.name: (_LAST, "</response>"),
}


def chat_template(data: DataConfig, tokenizer: Tokenizer) -> str | None:
    """The template of a run's layout; None for plain text, and for songs, whose labels no message has."""
    return LAYOUTS.get(layout_name(data, tokenizer), (None,))[0]


def read_template(folder: Path) -> str | None:
    """The chat template that stands in a folder by itself, as it is written today; older ones are never ours."""
    if not (folder / FILE).is_file():
        return None
    path = inside(folder, FILE)
    with atomic.io_errors(f"read {path}", UsageError), open(path, "rb") as file:
        return file.read(MAX_BYTES).decode(errors="replace")


def layout_of(template: object, tokenizer: Tokenizer) -> str | None:
    """The name of the layout of ours whose template this is, if `tokenizer` has its tokens."""
    if not isinstance(template, str):  # a file may hold anything
        return None
    found = next((name for name, (known, _) in LAYOUTS.items() if known == template), None)
    if found is None or not tokenizer.special_tokens.keys() >= set(TEMPLATES[found].special_tokens["control"]):
        return None
    return found


def ends_of(data: DataConfig, tokenizer: Tokenizer) -> list[int]:
    """The ids that end an answer: the tokenizer's end of text, and that of a turn."""
    _, turn = LAYOUTS.get(layout_name(data, tokenizer), (None, None))
    return [tokenizer.eot_id, *([tokenizer.special_tokens[turn]] if turn in tokenizer.special_tokens else [])]
