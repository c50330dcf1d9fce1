"""Tensors that are spread over ranks (torch's DTensor): all of one, this rank's part of it, and back."""

from torch import Tensor


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
