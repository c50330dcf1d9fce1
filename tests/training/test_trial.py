"""What is wrong with a part of one's own shows before a run begins, in one line that names it."""

import pytest

from primegpt import extend
from primegpt.config import resolve
from primegpt.extend import ExtensionError
from primegpt.jobs.configuring import with_extension
from primegpt.terminal import silent
from primegpt.training.trial import try_parts

MODEL = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32, "vocab_size": 300}
HEAD = """import torch
from torch import nn
from primegpt import extend
from primegpt.model.gpt import MLP, Attention
"""


@pytest.fixture
def tried(tmp_path):
    """Try a part out as training does; what is said of it."""

    def attempt(code: str, preset: str = "gpt2", **chosen: str) -> str | None:
        path = tmp_path / "mine.py"
        path.write_text(HEAD + code, encoding="utf-8")
        model = {key: value for key, value in chosen.items() if key in extend.MODEL_KINDS}
        train = {key: value for key, value in chosen.items() if key in extend.TRAIN_KINDS}
        layer = {"model": MODEL | {"preset": preset} | model, "train": train | {"device": "cpu"}}
        try:
            try_parts(with_extension(resolve(layer | {"extension": str(path)}), silent))
        except ExtensionError as error:
            return str(error).replace(str(path), "mine.py")
        return None

    return attempt


NORM = "@extend.norm('n')\nclass N(nn.Module):\n    def __init__(self, config):\n        super().__init__()\n"
NETWORK = {
    "raises in construction": (
        "@extend.norm('n')\nclass N(nn.Module):\n    def __init__(self, config):\n        config.no_such_setting\n",
        "mine.py:8, norm 'n': AttributeError: 'ModelConfig' object has no attribute 'no_such_setting'; it is code",
    ),
    "raises in forward": (
        NORM + "    def forward(self, x):\n        return x @ x\n",
        "mine.py:10, norm 'n': RuntimeError: Expected size for first two dimensions",
    ),
    "takes no config": (
        "@extend.norm('n')\nclass N(nn.Module):\n    def __init__(self):\n        super().__init__()\n",
        "mine.py, norm 'n': TypeError: N.__init__() takes 1 positional argument but 2 were given",
    ),
    "no module": ("@extend.norm('n')\ndef n(config):\n    return 3\n", "mine.py, norm 'n' made a int; give a torch.nn"),
    "a buffer": (
        NORM + "        self.register_buffer('mean', torch.zeros(3))\n",
        "mine.py, norm 'n' has the buffer 'mean', and checkpoints keep parameters alone; make it a parameter",
    ),
    "no size": (
        NORM + "        self.lazy = nn.LazyLinear(3)\n",
        "mine.py, norm 'n' has parameters without a size; config.n_embd",
    ),
    "another shape": (
        NORM + "    def forward(self, x):\n        return x[..., :3]\n",
        "mine.py, norm 'n' gave [2, 8, 3] for [2, 8, 16]; give a tensor of the shape that came in",
    ),
    "NaN": (
        NORM + "    def forward(self, x):\n        return x * float('nan')\n",
        "mine.py, norm 'n' gave NaN or infinite numbers; look for",
    ),
    "an endless slope": (
        NORM + "    def forward(self, x):\n        return (x - x).sqrt() + x\n",
        "mine.py, norm 'n': the gradient of wte.weight is NaN or infinite; look for",
    ),
    "sees the future": (
        NORM + "    def forward(self, x):\n        return x - x.mean(dim=1, keepdim=True)\n",
        "mine.py, norm 'n' sees later tokens: they change what comes of earlier ones; a position may",
    ),
    "sees the past": (
        NORM + "    def forward(self, x):\n        return x + nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]\n",
        "mine.py, norm 'n' gives other numbers for a token by itself than for the text at once; in generation only",
    ),
}


@pytest.mark.parametrize(("code", "said"), NETWORK.values(), ids=NETWORK)
def test_a_faulty_norm(code, said, tried):
    found = tried(code, norm="n")
    assert found, "it was let through"
    assert found.startswith(said), found


def test_an_attention_that_forgets_the_past(tried):
    code = "@extend.attention('a')\nclass A(Attention):\n    def forward(self, x, view, past=None):\n"
    found = tried(code + "        return super().forward(x, view)\n", attention="a")
    assert found
    assert found.startswith("mine.py, attention 'a' gives other numbers for a token by itself"), found
    assert tried(code + "        return 2 * super().forward(x, view, past)\n", attention="a") is None


SGD = "class f(torch.optim.SGD):\n    def __init__(self, groups, config):\n        super().__init__(groups)\n"
STEPS = {
    "another loss's signature": (
        "objective",
        "def f(logits, targets, weights):\n    return logits\n",
        "mine.py, objective 'f': TypeError: missing a required argument: 'weights'; it is code",
    ),
    "a loss per token": (
        "objective",
        "def f(model, batch):\n    return model(batch.ids)[..., 0]\n",
        "mine.py, objective 'f' gave a loss of shape [2, 8]; give the sum over all targets, a scalar tensor",
    ),
    "a loss of NaN": (
        "objective",
        "def f(model, batch):\n    return model(batch.ids).sum() * float('nan')\n",
        "mine.py, objective 'f' gave a loss of nan; look for",
    ),
    "a loss that raises": (
        "objective",
        "def f(model, batch):\n    return batch.labels\n",
        "mine.py:7, objective 'f': AttributeError: 'Batch' object has no attribute 'labels'",
    ),
    "no optimizer": (
        "optimizer",
        "def f(groups, config):\n    return groups\n",
        "mine.py, optimizer 'f' made a list; give a torch.optim.Optimizer",
    ),
    "half of the weights": (
        "optimizer",
        "def f(groups, config):\n    return torch.optim.SGD(groups[:1])\n",
        "mine.py, optimizer 'f' has ",
    ),
    "hidden state": (
        "optimizer",
        SGD + "    t = 0\n    def step(self):\n        self.t += 1\n"
        "        self.param_groups[0]['lr'] /= self.t\n        super().step()\n",
        "mine.py, optimizer 'f': a step after a resume is not the one that would have been made; all that changes",
    ),
    "a counter": (
        "optimizer",
        SGD + "    def step(self):\n        super().step()\n"
        "        for p in self.param_groups[0]['params']:\n            self.state[p]['t'] = 1\n",
        "f keeps 't' as int, and checkpoints tensors; make it one",
    ),
    "weights of NaN": (
        "optimizer",
        SGD + "    @torch.no_grad()\n    def step(self):\n"
        "        for p in self.param_groups[0]['params']:\n            p.div_(0 * p)\n",
        "mine.py, optimizer 'f' made wte.weight NaN or infinite; look for",
    ),
    "a rate below zero": (
        "schedule",
        "def f(done):\n    return 0.5 - done\n",
        "mine.py, schedule 'f' gave -0.010000000000000009 for 0.51; give a share of the peak rate",
    ),
    "a rate that is none": (
        "schedule",
        "def f(done):\n    return 1 / done\n",
        "mine.py:7, schedule 'f': ZeroDivisionError: ",
    ),
}


@pytest.mark.parametrize(("kind", "code", "said"), STEPS.values(), ids=STEPS)
def test_a_faulty_part_of_training(kind, code, said, tried):
    found = tried(f"@extend.{kind}('f')\n{code}", **{kind: "f"})
    assert found, "it was let through"
    assert found.startswith(said), found


GOOD = {
    "norm": "@extend.norm('mine')\ndef n(config):\n    return nn.RMSNorm(config.n_embd)\n",
    "mlp": "@extend.mlp('mine')\nclass M(MLP):\n    def forward(self, x):\n        return self.c_proj(self.c_fc(x))\n",
    "attention": "@extend.attention('mine')\nclass A(Attention):\n    pass\n",
    "optimizer": "@extend.optimizer('mine')\ndef f(groups, config):\n    return torch.optim.Adam(groups)\n",
    "schedule": "@extend.schedule('mine')\ndef f(done):\n    return (1 - done) ** 2\n",
    "objective": "@extend.objective('mine')\ndef f(model, b):\n    return model(b.ids, targets=b.targets)[0]\n",
}


@pytest.mark.parametrize("preset", ["gpt2", "prime"])
def test_sound_parts_pass_all_together(preset, tried):
    assert tried("".join(GOOD.values()), preset, **dict.fromkeys(GOOD, "mine")) is None
