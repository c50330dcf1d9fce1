"""Write docs/settings.md: every setting of a run, with its default and its help, as the code has them.

python docs/make_settings.py
"""

import inspect
from pathlib import Path

from primegpt.config import Section, sections

PAGE = Path(__file__).with_name("settings.md")
HEAD = """\
# Settings

Settings of a run, by section: keys of a TOML file, of `settings=`, and flags (`--train.max_steps 500`). Above all
sections stands `extension`, a file with [parts of your own](extending.md).

Made from the code by `python docs/make_settings.py`; a test keeps it current.

"""


def settings_page() -> str:
    """The whole page as Markdown."""
    return HEAD + "\n".join(table(name, section) for name, section in sections().items() if name != "plan")


def table(name: str, section: type[Section]) -> str:
    """A row a setting: its key, its default, what it is."""
    rows = [f"## `{name}`", "", inspect.getdoc(section) or "", "", "| key | default | |", "| --- | --- | --- |"]
    for key, field in section.model_fields.items():
        default = repr(field.get_default(call_default_factory=True)).replace("|", "\\|")
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append(f"| `{key}` | `{default}` | {text} |")
    return "\n".join([*rows, ""])


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
