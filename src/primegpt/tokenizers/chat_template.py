"""The chat template that came with a tokenizer: a conversation as the model was trained to see it.

Templates are programs (Jinja) of whoever wrote the file. One is run in Jinja's immutable sandbox, in a process of its
own that is stopped after some seconds and, where the system can, given so much memory and no more. What it writes is
cut at the special tokens that it writes itself; those that a message spells stay text.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence

from primegpt.errors import TokenizerError, UsageError

SECONDS = 10
MEMORY = 1 << 30  # bytes
MAX_OUTPUT = 4_000_000  # characters

Message = Mapping[str, str]

# What Transformers gives a template: its settings of Jinja, `raise_exception`, `strftime_now`, options of `tojson`, and
# the block that marks what the assistant says for those who train, which writes what is in it.
_PROGRAM = """
import json, sys
asked = json.load(sys.stdin)
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (asked["memory"], asked["memory"]))
except (ImportError, ValueError, OSError):  # a system that has no such limit, or a lower one already
    pass
import datetime
from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
class Generation(Extension):
    tags = {"generation"}
    def parse(self, parser):
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)
def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
def refuse(message):
    raise TemplateError(message)
options = {"trim_blocks": True, "lstrip_blocks": True, "extensions": ["jinja2.ext.loopcontrols", Generation]}
environment = ImmutableSandboxedEnvironment(**options)
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = refuse
environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
written, length = [], 0
for piece in environment.from_string(asked["template"]).generate(**asked["values"]):
    written.append(piece)
    length += len(piece)
    if length > asked["most"]:
        refuse("it writes more than %d characters" % asked["most"])
json.dump("".join(written), sys.stdout)
"""


def render(template: str, messages: Sequence[Message], tokens: Mapping[str, str]) -> str:
    """What `template` makes of a conversation, up to where the assistant is to go on; `tokens` are those with a role.

    Raises TokenizerError where it fails, or takes too much time or memory.
    """
    values = {**tokens, "messages": messages, "add_generation_prompt": True, "tools": None, "documents": None}
    asked = {"template": template, "values": values, "memory": MEMORY, "most": MAX_OUTPUT}
    command, given = [sys.executable, "-I", "-c", _PROGRAM], json.dumps(asked).encode()
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise _failed(f"it takes more than {SECONDS} s") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it was stopped"]
        raise _failed(lines[-1].rpartition("TemplateError: ")[2][:200])
    return json.loads(done.stdout)


def _failed(why: str) -> TokenizerError:
    return TokenizerError(
        f"the model's own chat template fails ({why})", "train it on conversations with --data.template chat"
    )


def with_marks(messages: Iterable[Message], names: Iterable[str]) -> tuple[list[dict[str, str]], str]:
    """The messages with a mark inside of each special token that they spell, and the mark, which no message has."""
    messages = [dict(message) for message in messages]
    said = "".join(text for message in messages for text in message.values())
    mark = next((chr(point) for point in range(0xE000, 0xF8FF) if chr(point) not in said), None)
    if mark is None:
        raise UsageError("the conversation has every private character there is", "leave some of them out")
    spelt = re.compile("|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in names if len(name) > 1))
    marked = [{key: spelt.sub(lambda found: found[0] + mark, text) for key, text in m.items()} for m in messages]
    return marked, mark


def apart(text: str, names: Iterable[str], mark: str) -> list[tuple[str, bool]]:
    """`text` in parts, the special tokens among `names` (True) and what stands between (False), without the mark."""
    ordered = sorted(names, key=len, reverse=True)
    if not ordered:
        return [(text.replace(mark, ""), False)]
    found = re.split("(" + "|".join(map(re.escape, ordered)) + ")", text)
    return [(part.replace(mark, ""), at % 2 == 1) for at, part in enumerate(found) if part]
