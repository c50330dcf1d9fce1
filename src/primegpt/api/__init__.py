"""The functions behind both the command line and `import primegpt`: train, resume, load, generate, demo.

run = primegpt.train("my.txt", minutes=2)
print(run.generate("ROMEO:", max_new_tokens=200))
run = primegpt.load("runs/my-1")  # .model .tokenizer .config
"""

from primegpt.api.chat import Chat
from primegpt.api.facts import describe, info
from primegpt.api.runs import Run, completion_facts, load
from primegpt.api.songs import demo
from primegpt.api.training import resume, train

__all__ = ["Chat", "Run", "completion_facts", "demo", "describe", "info", "load", "resume", "train"]
