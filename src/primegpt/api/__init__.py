"""The functions behind both the command line and `import primegpt`: train, resume, load, generate, evaluate, export.

run = primegpt.train("my.txt", minutes=2)
print(run.generate("ROMEO:", max_new_tokens=200))
run = primegpt.load("runs/my-1")  # .model .tokenizer .config
"""

import importlib
from typing import TYPE_CHECKING

# Where each function lives. Imported on first use: to generate text one need not import what trains or exports.
_HOMES = {
    "Chat": "chat",
    "Run": "runs",
    "completion_facts": "runs",
    "demo": "songs",
    "describe": "facts",
    "describe_evaluation": "evaluation_table",
    "evaluate": "evaluation",
    "experiment_alignment": "experiments",
    "experiment_duplication": "experiments",
    "export": "interop",
    "finetune": "finetuning",
    "forecast": "facts",
    "forecast_table": "facts",
    "import_model": "interop",
    "info": "facts",
    "load": "runs",
    "play": "playing",
    "report": "reports",
    "resume": "training",
    "serve": "serving",
    "train": "training",
}
__all__ = [
    "Chat",
    "Run",
    "completion_facts",
    "demo",
    "describe",
    "describe_evaluation",
    "evaluate",
    "experiment_alignment",
    "experiment_duplication",
    "export",
    "finetune",
    "forecast",
    "forecast_table",
    "import_model",
    "info",
    "load",
    "play",
    "report",
    "resume",
    "serve",
    "train",
]

if TYPE_CHECKING:
    from primegpt.api.chat import Chat
    from primegpt.api.evaluation import evaluate
    from primegpt.api.evaluation_table import describe_evaluation
    from primegpt.api.experiments import experiment_alignment, experiment_duplication
    from primegpt.api.facts import describe, forecast, forecast_table, info
    from primegpt.api.finetuning import finetune
    from primegpt.api.interop import export, import_model
    from primegpt.api.playing import play
    from primegpt.api.reports import report
    from primegpt.api.runs import Run, completion_facts, load
    from primegpt.api.serving import serve
    from primegpt.api.songs import demo
    from primegpt.api.training import resume, train


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
