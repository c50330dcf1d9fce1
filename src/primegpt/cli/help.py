"""Help pages with many flags: those that most people want first, then a panel for each section of the configuration."""

from typing import TYPE_CHECKING

from cyclopts.help import DefaultFormatter, HelpEntry, HelpPanel

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

MANY = 30  # flags, from where on a page is divided
COMMON = (
    *("--out", "--resume", "--minutes", "--model.preset", "--model.n-layer", "--model.n-embd", "--model.block-size"),
    *("--tokenizer.kind", "--train.batch-size", "--train.learning-rate", "--train.max-steps"),
    *("--lora", "--reward"),
)
TITLES = {
    "model": "The network",
    "tokenizer": "The tokenizer",
    "data": "The text",
    "train": "Training",
    "generate": "Generation",
    "lora": "Adapters",
    "reinforce": "Rewards",
}


class Sections(DefaultFormatter):
    """As cyclopts has it, but for a panel of parameters that is too long to be read."""

    def __call__(self, console: "Console", options: "ConsoleOptions", panel: HelpPanel) -> None:
        for part in divided(panel):
            super().__call__(console, options, part)


def divided(panel: HelpPanel) -> list[HelpPanel]:
    """The panel itself, or, where it has very many flags, one for the common ones and one for each section."""
    flags = [entry for entry in panel.entries if entry.positive_names]
    if len(flags) < MANY or len(flags) < len(panel.entries):
        return [panel]
    parts: dict[str, list[HelpEntry]] = {"Common": [], "Further": []}
    for entry in sorted(flags, key=_rank):
        name = entry.positive_names[0]
        section = name.removeprefix("--").partition(".")[0]
        title = "Common" if name in COMMON else TITLES.get(section, "Further")
        parts.setdefault(title, []).append(entry)
    return [panel.copy(title=title, entries=entries) for title, entries in parts.items() if entries]


def _rank(entry: HelpEntry) -> int:
    """The common ones in the order in which they stand here; all others as they were."""
    name = entry.positive_names[0]
    return COMMON.index(name) if name in COMMON else len(COMMON)
