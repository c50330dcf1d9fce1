"""What a checkpoint holds of a run in progress beside its state, and how it is put back."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from primegpt.data.batching.batches import Batches, Remembering, Source
from primegpt.model.gpt import GPT
from primegpt.model.lora import adapter_weights, load_adapters, merged_weights
from primegpt.training.average import Average
from primegpt.training.optimizers import Optimizers

Tensors = Mapping[str, Mapping[str, Tensor]]  # by the stems of their files, and their names


def weights_of(model: GPT, average: Average) -> Tensors:
    """What everyone else uses: the weights, adapters merged; their average, where there is one."""
    return {"model": average.weights or merged_weights(model)}


def tensors_of(model: GPT, average: Average, optimizers: Optimizers, source: Source) -> Tensors:
    """All that goes on learning."""
    tensors = {**weights_of(model, average), "optimizer": optimizers.state(), **average.tensors()}
    if adapters := adapter_weights(model):  # what goes on learning; `model` is for everyone else
        tensors["adapter"] = adapters
    if isinstance(source, Remembering) and (kept := source.state()):
        tensors["rollouts"] = kept
    return tensors


def put_back(tensors: Tensors, model: GPT, average: Average, optimizers: Optimizers, source: Source) -> None:
    """The same, into a run as it is at its beginning."""
    if "adapter" in tensors:
        load_adapters(model, tensors["adapter"])
    else:
        average.load(tensors)
    optimizers.load_state(tensors["optimizer"])
    if isinstance(source, Remembering) and "rollouts" in tensors:
        source.load_state(tensors["rollouts"])


def divided(batches: Batches, events: Iterable[Mapping[str, Any]]) -> Batches:
    """`batches` in micro-batches as small as the `events` of a run have made them."""
    for event in events:
        if "batch_size" in event and batches.batch_size > event["batch_size"]:
            rows = batches.examples_per_step  # which may have been edited since
            batches = batches.with_batch_size(
                next(size for size in range(event["batch_size"], 0, -1) if rows % size == 0)
            )
    return batches
