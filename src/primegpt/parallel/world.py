"""What a training loop asks of the processes that it is one of; of one by itself, nothing.

`World` is one process: its methods do nothing, and so the loop is written once. Several are a `Group`
(distributed.py), which overrides them all. Below it stands what tells a tensor that is spread over ranks from a
whole one.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TypeVar

from torch import Tensor

from primegpt.data.batching.batches import Batch
from primegpt.model.gpt import GPT

T = TypeVar("T")


class World:
    """All the processes of a run: here one, which need not agree with anybody."""

    rank, size, local_rank, local_size = 0, 1, 0, 1
    sharded = False
    """Whether each rank holds only a part of the weights."""
    run = "RUN"
    """Where the run is, for advice."""
    in_step = True
    """Whether a forward pass is made by all ranks or by none. With ddp each makes its own."""

    def __enter__(self) -> "World":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def leave(self) -> None:
        """The end of what ranks do together."""

    # What the ranks tell each other

    def sum(self, value: float) -> float:
        """The ranks' values, added up."""
        return value

    def max(self, value: float) -> float:
        """The largest of the ranks' values: of truth values, whether any holds."""
        return value

    def tell(self, value: T) -> T:
        """What rank 0 says, plain JSON, on every rank. There is no hurry."""
        return value

    def collect(self, value: T) -> list[T]:
        """What each rank says, plain JSON, on every rank. There is no hurry."""
        return [value]

    def aside(self) -> "World":
        """The same ranks for a second thread: its `tell`, `collect` and `together` do not mix with the first one's."""
        return self

    def together(self) -> AbstractContextManager[None]:
        """What one rank refuses inside ends all of them there, and one speaks. They do not meet inside.

        Those that have nothing to do wait for the others, who are in no hurry.
        """
        return nullcontext()

    def refuse_differences(self, facts: Mapping[str, object]) -> None:
        """Raise MismatchError, on all ranks, if one of them has other `facts` (plain JSON) than rank 0."""

    def leaders_first(self, work: Callable[[], T]) -> T:
        """`work` done by one rank of each machine, then by its others, who find what the first one left on the disk."""
        return work()

    # What the ranks share out

    def share(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Which of `batches` are this rank's; equally many for each, if need be one without targets."""
        return batches

    def shard(self, model: GPT) -> GPT:
        """Leave each rank its part of the weights, in place. Parameters keep their names."""
        return model

    def share_of_tensors(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Of `tensors`, those whose bytes this rank is to write; each is one rank's, and whole there."""
        return tensors

    def expect_last(self, model: GPT, last: bool) -> None:
        """Say whether the next backward pass completes the gradient, or more will be added."""

    def sum_gradients(self, model: GPT) -> None:
        """Add up `.grad` over the ranks, where the backward pass has not done so."""


ALONE = World()


# What is spread over ranks: a model (FSDP), its tensors (DTensor), the files of a checkpoint


def spread(model: GPT, device: str, ranks: int) -> GPT:
    """Leave each of all `ranks` its part of the weights, block by block, in place. Parameters keep their names."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device, (ranks,))
    for block in model.h:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # a sum, not a mean: the loss is divided by all ranks' targets already
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
            module.unshard()  # makes the buffers: those made in an evaluation could not be trained with
            module.reshard()
    return model


def release(model: GPT) -> None:
    """Let go of the weights that a forward pass has left gathered, as no backward pass followed it."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that is spread over the ranks, on each of them; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that is spread over the ranks; any other as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole `tensor`, the same on each rank, spread as `model` is, if it is and has the same shape."""
    if not hasattr(model, "device_mesh") or tensor.shape != model.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(model, DTensor)
    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)


def dealt_out(sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    """Which rank takes each of some named sizes: the largest first, each to the one with least. All ranks agree."""
    loads, owners = [0] * ranks, {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owners[name] = loads.index(min(loads))
        loads[owners[name]] += sizes[name]
    return owners
