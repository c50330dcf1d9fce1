"""AdamW, Muon or one of an extension: which parameters each moves, how far, and their state by parameter name."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from primegpt.config import TrainConfig
from primegpt.errors import CheckpointError
from primegpt.extend import ExtensionError, find, place_of, told
from primegpt.model.gpt import GPT, Attention
from primegpt.parallel.world import like, whole


class Grouped:
    """Parameters in groups, each with a rate and a decay of its own, and what is kept of each parameter.

    What torch.optim.Optimizer is, but for what it brings along: the first object of that class imports torch's
    compiler, which takes as long as a hundred steps of a small network.
    """

    def __init__(self, params: Iterable[Any], **common: Any) -> None:
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        self.param_groups: list[dict[str, Any]] = [common | group | {"params": [*group["params"]]} for group in groups]
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        assert set_to_none, "a gradient of zeros would count as one"
        for p in (p for group in self.param_groups for p in group["params"]):
            p.grad = None


class AdamW(Grouped):
    """Steps by the gradient's mean over the root of its mean square, decay apart (Loshchilov & Hutter 2019,
    arXiv:1711.05101), by torch's own kernels."""

    def __init__(self, params: Iterable[Any], betas: tuple[float, float], fused: bool, eps: float = 1e-8) -> None:
        super().__init__(params)
        self.betas, self.fused, self.eps = betas, fused, eps

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            states = [self.state[p] or self._begin(p) for p in params]
            kept = ([state[kind] for state in states] for kind in ("exp_avg", "exp_avg_sq"))
            adamw(
                params,
                [p.grad for p in params],
                *kept,
                max_exp_avg_sqs=[],
                state_steps=[state["step"] for state in states],
                fused=self.fused,
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=self.eps,
                maximize=False,
            )

    def _begin(self, p: Tensor) -> dict[str, Tensor]:
        steps = torch.zeros((), device=p.device if self.fused else "cpu")
        self.state[p] |= {"step": steps, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        return self.state[p]


class Muon(Grouped):
    """Momentum whose update is made orthogonal: every direction of a matrix moves equally far.

    For the 2-D weights inside blocks only. After Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/, with
    the rows evened out (NorMuon, Li et al. 2025, arXiv:2510.05491). Matrices of equal shape (and the transposes of
    tall ones) are orthogonalised together as one batch, since on a small model the calls cost more than the
    arithmetic. `parts` names matrices that are several on top of one another, and the rows of each of these. `lr` is
    about the spectral norm of a square matrix's step.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        beta2: float = 0.99,
        weight_decay: float = 0.0,
        iterations: int = 5,
        dtype: torch.dtype = torch.float32,
        parts: Mapping[Tensor, Sequence[int]] | None = None,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, beta2=beta2, weight_decay=weight_decay)
        self.iterations, self.dtype, self.parts = iterations, dtype, parts or {}

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            updates = [whole(self._momentum(p, p.grad, group["momentum"])) for p in params]
            pieces = [u.split(self.parts.get(p, len(u))) for p, u in zip(params, updates, strict=True)]
            found = iter(orthogonalise_all([x for pile in pieces for x in pile], self.iterations, self.dtype))
            directions = [next(found) if len(pile) == 1 else torch.cat([next(found) for _ in pile]) for pile in pieces]
            if group["weight_decay"]:
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            for p, direction in zip(params, directions, strict=True):
                direction = self._even_rows(p, direction, group["beta2"])
                # A tall matrix has fewer directions than rows: widen the step so that its entries move alike.
                p.add_(like(direction, p), alpha=-group["lr"] * math.sqrt(max(1, p.size(0) / p.size(1))))

    def _momentum(self, p: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        """Nesterov momentum of p's gradient, same shape."""
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum)

    def _even_rows(self, p: Tensor, direction: Tensor, beta2: float) -> Tensor:
        """`direction` with rows (outputs) that have moved far shortened and the others lengthened; as long in all.

        A row is divided by the root of its running mean square. That starts at 0 and is not corrected for it: a
        factor that all rows share is gone when the whole is made as long as it was.
        """
        state, tiny = self.state[p], 1e-20
        length = torch.linalg.vector_norm(direction, dim=1)  # (rows)
        if "row_square" not in state:
            state["row_square"] = torch.zeros_like(length)
        state["row_square"].lerp_(length.square(), 1 - beta2)
        scale = (state["row_square"] + tiny).rsqrt()
        scale *= length.norm() / (length * scale).norm().clamp_min(tiny)
        return direction * scale[:, None]


def orthogonalise_all(matrices: list[Tensor], iterations: int, dtype: torch.dtype) -> list[Tensor]:
    """The nearest (semi-)orthogonal matrix to each, in batches of one shape; wide ones are handled transposed."""
    batches: dict[tuple[int, int], list[int]] = {}
    for i, matrix in enumerate(matrices):
        batches.setdefault((max(matrix.shape), min(matrix.shape)), []).append(i)
    result: list[Tensor] = list(matrices)
    for members in batches.values():
        tall = [matrices[i] if matrices[i].size(0) >= matrices[i].size(1) else matrices[i].T for i in members]
        for i, direction in zip(members, newton_schulz(torch.stack(tall), iterations, dtype), strict=True):
            result[i] = direction if matrices[i].size(0) >= matrices[i].size(1) else direction.T
    return result


def newton_schulz(x: Tensor, iterations: int, dtype: torch.dtype) -> Tensor:
    """Drive the singular values of each tall matrix in x (N, rows, columns) towards 1, by matrix products alone.

    An odd polynomial a x + b x xᵀx + c x (xᵀx)² applied repeatedly; the coefficients are tuned for speed, so that
    singular values end in about (0.7, 1.2) rather than at 1, which serves an optimizer as well.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(iterations):
        gram = x.mT @ x  # (N, columns, columns)
        x = torch.baddbmm(x, x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), beta=a)
    return x.float()


def decays(name: str, parameter: Tensor) -> bool:
    """Weight decay is for matrices and embeddings; biases and gains, which are vectors, are left alone."""
    return parameter.dim() >= 2


def queries_keys_values(model: nn.Module) -> dict[Tensor, list[int]]:
    """The matrices of a model that are three in one, and the rows of each."""
    found = [module for module in model.modules() if isinstance(module, Attention)]
    return {m.c_attn.weight: [m.head_dim * n for n in (m.n_head, m.n_kv_head, m.n_kv_head)] for m in found}


def is_matrix_of_block(name: str, parameter: Tensor) -> bool:
    """What Muon moves: the 2-D weights inside blocks; embeddings, head and vectors stay with AdamW."""
    return parameter.dim() == 2 and name.startswith("h.")


def optimizer_of_extension(groups: list[dict[str, Any]], config: TrainConfig, sha256: str) -> torch.optim.Optimizer:
    """The optimizer that an extension makes for `groups`. Raises ExtensionError for what is none."""
    place = place_of("optimizer", config.optimizer, sha256)
    with told(place=place):
        optimizer = find("optimizer", config.optimizer, sha256)(groups, config)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ExtensionError(f"{place} made a {type(optimizer).__name__}", "give a torch.optim.Optimizer")
    given, taken = (sum(len(g["params"]) for g in some) for some in (groups, optimizer.param_groups))
    if given != taken or not all("lr" in group for group in optimizer.param_groups):
        what = f"{place} has {taken} of {given} tensors in groups with an lr"
        raise ExtensionError(what, "hand all groups on: super().__init__(groups, {})")
    return optimizer


class Optimizers:
    """The optimizers of what learns in one model, behind one `step`; state is saved and restored by parameter name."""

    def __init__(self, model: nn.Module, config: TrainConfig, matmul_dtype: torch.dtype = torch.float32) -> None:
        self.names: dict[Tensor, str] = {p: name for name, p in model.named_parameters() if p.requires_grad}
        muon = [p for p, name in self.names.items() if config.optimizer == "muon" and is_matrix_of_block(name, p)]
        adam = [p for p in self.names if not any(p is other for other in muon)]
        self.members: list[AdamW | Muon | torch.optim.Optimizer] = []
        alike = self.groups_of(adam, config)
        if config.optimizer not in ("adamw", "muon"):
            self.members.append(optimizer_of_extension(alike, config, cast(GPT, model).config.extension))
        elif adam:
            betas, fused = (config.beta1, config.beta2), all(p.device.type in ("cpu", "cuda", "mps") for p in adam)
            self.members.append(AdamW(alike, betas, fused))
        if muon:
            rate, decay = config.muon_learning_rate, config.weight_decay
            parts = queries_keys_values(model)
            self.members.append(Muon(muon, lr=rate, weight_decay=decay, dtype=matmul_dtype, parts=parts))
        self.peaks = [[group["lr"] for group in member.param_groups] for member in self.members]

    def groups_of(self, parameters: Iterable[Tensor], config: TrainConfig) -> list[dict[str, Any]]:
        """`parameters` with what each is moved by: those with the same peak rate and the same decay together."""
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for p in parameters:
            own = config.head_learning_rate if self.names[p] == "lm_head.weight" else None
            decay = config.weight_decay if decays(self.names[p], p) else 0.0
            groups.setdefault((own or config.learning_rate, decay), []).append(p)
        return [{"params": some, "lr": rate, "weight_decay": decay} for (rate, decay), some in groups.items()]

    def set_learning_rate(self, factor: float) -> None:
        """Put every group at `factor` times its own peak."""
        for member, peaks in zip(self.members, self.peaks, strict=True):
            for group, peak in zip(member.param_groups, peaks, strict=True):
                group["lr"] = peak * factor

    def step(self) -> None:
        for member in self.members:
            member.step()

    def zero_grad(self) -> None:
        for member in self.members:
            member.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Every state tensor as "parameter/kind". Raises ExtensionError for one of an extension that is no tensor."""
        for member in self.members:
            for kind, value in (item for state in member.state.values() for item in state.items()):
                if not isinstance(value, Tensor):
                    what = f"{type(member).__name__} keeps {kind!r} as {type(value).__name__}, and checkpoints tensors"
                    raise ExtensionError(what, "make it one: torch.tensor(0.0)")
        return {
            f"{self.names[parameter]}/{kind}": tensor
            for member in self.members
            for parameter, state in member.state.items()
            for kind, tensor in state.items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned. Raises CheckpointError when it belongs to other parameters."""
        by_name = {name: parameter for parameter, name in self.names.items()}
        owner = {p: member for member in self.members for group in member.param_groups for p in group["params"]}
        for key, tensor in tensors.items():
            name, _, kind = key.rpartition("/")
            if name not in by_name:
                raise CheckpointError(f"optimizer state {key!r} belongs to no parameter of this model")
            parameter = by_name[name]
            owner[parameter].state[parameter][kind] = like(tensor.to(parameter.device, copy=True), parameter)
