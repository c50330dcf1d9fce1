"""What the tests of the model share: tiny models with weights that matter."""

from collections.abc import Callable, Iterator

import pytest
import torch

from primegpt.config import resolve
from primegpt.model.gpt import GPT


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Models this small only lose time to the hand-over between threads, most of it when the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def random_model() -> Callable[..., GPT]:
    """A maker of small models: weights N(0, 0.2), gains N(1, 0.2). With the initial ones attention hardly matters."""

    def make(preset: str = "gpt2", **sizes: object) -> GPT:
        small = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 64, "vocab_size": 100}
        model = GPT(resolve({"model": {"preset": preset, **small, **sizes}}).model)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                gain = parameter.dim() == 1 and name.endswith("weight")
                parameter.normal_(float(gain), 0.2, generator=generator)
        return model.eval()

    return make
