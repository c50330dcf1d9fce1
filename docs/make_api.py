"""Write docs/api.md: the public names, with their signatures, docstrings and settings, as the code has them.

python docs/make_api.py
"""

import inspect
import pkgutil
import re
import textwrap
from pathlib import Path
from typing import Any

import primegpt
from primegpt import extend, tokenizers
from primegpt.config import Section, sections

PAGE = Path(__file__).with_name("api.md")
HEAD = """\
# Reference

Made from the code by `python docs/make_api.py`; a test keeps it current. What is not named here is private.

"""
SETTINGS = """\
Settings of a run, by section: keys of a TOML file, of `settings=`, and flags (`--train.max_steps 500`). Above all
sections stands `extension`, a file with [parts of your own](extending.md)."""


def api_page() -> str:
    """The whole page as Markdown."""
    names = [f"primegpt.{name}" for name in primegpt.__all__ if name not in ("extend", "tokenizers")]
    names += [f"primegpt.tokenizers.{name}" for name in tokenizers.__all__]
    names += [f"primegpt.extend.{name}" for name in extend.__all__]
    parts = [described(name, pkgutil.resolve_name(name)) for name in names]
    tables = [table(name, section) for name, section in sections().items() if name != "plan"]
    return HEAD + "\n".join([*parts, f"## Settings\n\n{SETTINGS}\n", *tables])


def described(name: str, thing: Any) -> str:
    """A function with its signature; a class with its public methods and properties."""
    if inspect.isclass(thing) and issubclass(thing, Section):
        return f"## `{name}`\n\n{doc(thing)}\n\nIts values are under [Settings](#settings).\n"
    if not inspect.isclass(thing):
        return f"## `{name}`\n\n{code(name, thing)}\n\n{doc(thing)}\n"
    members = [(key, member) for key, member in vars(thing).items() if not key.startswith("_")]
    lines = [f"## `{name}`", "", doc(thing), ""]
    for key, member in members:
        member = getattr(member, "__func__", member)
        if inspect.isfunction(member) and member.__doc__:
            lines += [f"### `.{key}`", "", code(key, member), "", doc(member), ""]
        elif (getter := getattr(member, "fget", None) or getattr(member, "func", None)) and getter.__doc__:
            lines += [f"### `.{key}`", "", doc(getter), ""]
    return "\n".join(lines)


def code(name: str, function: Any) -> str:
    """Its signature, without what only types say."""
    parameters = list(inspect.signature(function).parameters.values())
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters if p.name not in ("self", "cls")]
    shown = str(inspect.Signature(bare))
    shown = re.sub(r"<function (\w+) at 0x\w+>", r"\1", shown)
    return "```text\n" + "\n".join(textwrap.wrap(f"{name}{shown}", 110, subsequent_indent="    ")) + "\n```"


def doc(thing: Any) -> str:
    """A docstring, its examples as code."""
    text = inspect.getdoc(thing) or ""
    text = re.sub(r"(?m)(?:^>>> .*\n?)+", lambda found: f"```python\n{found[0].rstrip()}\n```\n", text)
    return text.replace(">>> ", "").rstrip()


def table(name: str, section: Any) -> str:
    """A row a setting: its key, its default, what it is."""
    rows = [f"### `{name}`", "", doc(section), "", "| key | default | |", "| --- | --- | --- |"]
    for key, field in section.model_fields.items():
        default = repr(field.get_default(call_default_factory=True)).replace("|", "\\|")
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append(f"| `{key}` | `{default}` | {text} |")
    return "\n".join([*rows, ""])


if __name__ == "__main__":
    PAGE.write_text(api_page(), encoding="utf-8")
