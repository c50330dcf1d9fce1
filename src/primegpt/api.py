"""The functions of both the command line and `import primegpt`: train, resume, load, generate, evaluate, export.

run = primegpt.train("my.txt", minutes=2)
print(run.generate("ROMEO:", max_new_tokens=200))
run = primegpt.load("runs/my-1")  # .model .tokenizer .config
"""

import importlib
from typing import TYPE_CHECKING

# ruff: noqa: F401 - imported for whoever imports them from here
if TYPE_CHECKING:
    from primegpt.experiments.runner import experiment
    from primegpt.inference.run import Run, completion_facts, load
    from primegpt.jobs.chat import Chat
    from primegpt.jobs.evaluation import evaluate
    from primegpt.jobs.evaluation_table import describe_evaluation
    from primegpt.jobs.facts import describe, forecast, forecast_table, info
    from primegpt.jobs.finetuning import finetune
    from primegpt.jobs.interop import export, import_model
    from primegpt.jobs.listing import report
    from primegpt.jobs.outlook import outlook, outlook_table
    from primegpt.jobs.publishing import push
    from primegpt.jobs.reinforcing import reinforce
    from primegpt.jobs.resuming import resume
    from primegpt.jobs.songs import demo
    from primegpt.jobs.training import train
    from primegpt.serving.serve import play, serve

# Where each of them lives. Imported on first use: to generate text one need not import what trains or exports.
_HOMES = {
    "experiments.runner": ["experiment"],
    "jobs.chat": ["Chat"],
    "jobs.evaluation": ["evaluate"],
    "jobs.evaluation_table": ["describe_evaluation"],
    "jobs.facts": ["describe", "forecast", "forecast_table", "info"],
    "jobs.finetuning": ["finetune"],
    "jobs.outlook": ["outlook", "outlook_table"],
    "jobs.interop": ["export", "import_model"],
    "jobs.publishing": ["push"],
    "jobs.songs": ["demo"],
    "jobs.listing": ["report"],
    "jobs.reinforcing": ["reinforce"],
    "jobs.resuming": ["resume"],
    "jobs.training": ["train"],
    "serving.serve": ["play", "serve"],
    "inference.run": ["Run", "completion_facts", "load"],
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"primegpt.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
