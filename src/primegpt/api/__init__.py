"""The functions behind both the command line and `import primegpt`: train, resume, load, generate, evaluate, demo.

run = primegpt.train("my.txt", minutes=2)
print(run.generate("ROMEO:", max_new_tokens=200))
run = primegpt.load("runs/my-1")  # .model .tokenizer .config
"""

from primegpt.api.evaluation import evaluate
from primegpt.api.evaluation_table import describe_evaluation
from primegpt.api.facts import describe, info
from primegpt.api.interop import export, import_model
from primegpt.api.runs import Run, load
from primegpt.api.songs import demo
from primegpt.api.training import resume, train

__all__ = [
    "Run",
    "demo",
    "describe",
    "describe_evaluation",
    "evaluate",
    "export",
    "import_model",
    "info",
    "load",
    "resume",
    "train",
]
