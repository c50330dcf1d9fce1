"""What is spread over ranks: a model (FSDP), its tensors (DTensor), whole or in part, and the files of a checkpoint."""

from collections.abc import Mapping

from torch import Tensor

from primegpt.model.gpt import GPT


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
