"""Several processes that train one model: how they find each other, what each takes, and what they agree on.

    with join(config) as world:                    # torchrun started us `world.size` times
        model = world.shard(assemble(config))      # fsdp: each rank keeps a part of every weight
        ...
        supervised = world.sum(supervised)         # of all ranks
        loss.backward()
        world.sum_gradients(model)                 # ddp: from here on every rank does the same

`World` is one process by itself: its methods do nothing, and so the training loop is written once. What is agreed on
travels through the CPU (gloo) on every device, in fp64 or JSON; gradients and weights through NCCL on a GPU.
"""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor

from primegpt.config import Config, TrainConfig
from primegpt.data.batches import Batch
from primegpt.errors import ConfigError, MismatchError, NonFiniteError, PrimegptError, RankError
from primegpt.model.gpt import GPT
from primegpt.training.interrupts import Interrupted
from primegpt.training.precision import choose_device, choose_precision
from primegpt.training.sharded import whole

PATIENCE = timedelta(days=1)  # for what one rank does alone: preparing data, writing a checkpoint
JOINING = timedelta(minutes=10)
BUCKET = 1 << 24  # gradient elements that are summed in one go: 64 MB
# A thread of gloo drops the last tensor that it sent a moment after all have gone on. It needs the interpreter for
# that, and aborts the process where this has ended by then. destroy_process_group does not wait for such threads.
SETTLING = 0.3  # seconds
LAST_WORDS = 3.0  # seconds in which the ranks that are left find each other

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

    def refuse_differences(self, facts: Mapping[str, Any]) -> None:
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


class Group(World):
    """The ranks that torchrun started, as one of them sees them."""

    def __init__(self, train: TrainConfig, device: str) -> None:
        self.local_rank, self.local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        self.device, self.timeout = device, train.rank_timeout
        self.sharded = self.in_step = train.parallel == "fsdp"
        if device == "cuda":
            torch.cuda.set_device(self.local_rank)
        store, self.rank, self.size = next(dist.rendezvous("env://", timeout=JOINING))
        self.store = dist.PrefixStore(meet(store, self.rank, self.size), store)
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("group", self.store),
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=train.rank_timeout),
        )
        self.patient: Any = dist.new_group(backend="gloo", timeout=PATIENCE)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and is_failure_of_group(error):
            self.part(error)
        if self.device != "cuda":  # where one rank alone fails, NCCL would wait for the others
            self.leave()
        if isinstance(error, Interrupted | NonFiniteError) and self.rank:  # agreed on: rank 0 says it
            raise SystemExit(error.exit_code)

    def leave(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
            self.patient = None
            time.sleep(SETTLING)

    # What the ranks tell each other

    def sum(self, value: float) -> float:
        return self._reduced(value, dist.ReduceOp.SUM)

    def max(self, value: float) -> float:
        return self._reduced(value, dist.ReduceOp.MAX)

    def _reduced(self, value: float, operation: Any) -> float:
        tensor = torch.tensor(float(value), dtype=torch.float64)
        dist.all_reduce(tensor, operation)
        return tensor.item()

    def tell(self, value: T) -> T:
        return self._heard(0, value)

    def collect(self, value: T) -> list[T]:
        return [self._heard(rank, value) for rank in range(self.size)]

    def _heard(self, speaker: int, value: T) -> T:
        """What rank `speaker` says."""
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        size = torch.tensor(len(data))
        dist.broadcast(size, speaker, group=self.patient)
        if self.rank != speaker:
            data = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(data, speaker, group=self.patient)
        return json.loads(data.numpy().tobytes())

    def aside(self) -> World:
        other = copy(self)
        other.patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        return other

    @contextmanager
    def together(self) -> Generator[None, None, None]:
        failure = None
        try:
            yield
        except PrimegptError as error:
            failure = error
        speaker, code = self._first_failure(failure)
        if failure and speaker == self.rank:
            raise failure
        if code:
            time.sleep(0.5)  # torchrun ends all when one has ended: the one that speaks goes first
            raise SystemExit(code)

    def _first_failure(self, failure: PrimegptError | None) -> tuple[int, int]:
        """The lowest rank that failed, and the exit code; code 0 if none did."""
        speaker = torch.tensor(self.rank if failure else self.size)
        dist.all_reduce(speaker, dist.ReduceOp.MIN, group=self.patient)
        code = torch.tensor(failure.exit_code if failure else 0)
        dist.all_reduce(code, dist.ReduceOp.MAX, group=self.patient)
        return int(speaker), int(code)

    def refuse_differences(self, facts: Mapping[str, Any]) -> None:
        own = json.loads(json.dumps(facts))
        said = self.tell(own)
        with self.together():
            for name in sorted(said.keys() | own.keys()):
                if own.get(name) != said.get(name):
                    raise MismatchError(
                        f"{name} is {own.get(name)!r} on rank {self.rank} ({socket.gethostname()}) "
                        f"and {said.get(name)!r} on rank 0",
                        "give all ranks the same configuration and text",
                    )

    def leaders_first(self, work: Callable[[], T]) -> T:
        done = None
        with self.together():
            if self.local_rank == 0:
                done = work()
        with self.together():
            if self.local_rank:
                done = work()
        assert done is not None
        return done

    # What the ranks share out

    def share(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        mine = list(batches[self.rank :: self.size])
        filler = [batches[0].without_targets()] * (-(-len(batches) // self.size) - len(mine))
        return mine + filler

    def shard(self, model: GPT) -> GPT:
        if not self.sharded:
            return model
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard

        mesh = init_device_mesh(self.device, (self.size,))
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

    def share_of_tensors(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
        mine = {}
        for name, owner in dealt_out(sizes, self.size).items():
            full = whole(tensors[name])  # all ranks meet here: one tensor at a time is all the memory it takes
            if owner == self.rank:
                mine[name] = full.cpu() if self.sharded else full
        return mine

    def expect_last(self, model: GPT, last: bool) -> None:
        if self.sharded:
            model.set_requires_gradient_sync(last)  # pyrefly: ignore[missing-attribute, not-callable]

    def sum_gradients(self, model: GPT) -> None:
        if not self.sharded:
            for gradients in _buckets([p.grad for p in model.parameters() if p.grad is not None]):
                flat = torch.cat([gradient.flatten() for gradient in gradients])
                dist.all_reduce(flat)
                parts = flat.split([gradient.numel() for gradient in gradients])
                torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])

    # When one is lost

    def part(self, error: BaseException) -> None:
        """Find out who is missing, and leave with a line that the first of those who are left prints."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, who has seen it too: we are leaving
        lost, speaker = self.missing()
        if speaker != self.rank:
            time.sleep(0.5)
            raise SystemExit(RankError.exit_code)
        names = f"rank{'s' * (len(lost) > 1)} {', '.join(map(str, lost))}"
        late = "timed out" in str(error).lower()
        what = f"did not answer for {self.timeout:g} s" if late else "is gone" if len(lost) == 1 else "are gone"
        raise RankError(
            f"{names} {what}" if lost else f"the ranks lost each other: {error}",
            f"start again with `--resume {self.run}`: it goes on from the last checkpoint",
        ) from error

    def missing(self) -> tuple[list[int], int]:
        """The ranks that give no sign of life, and the first that does."""
        self.store.set(f"leaving/{self.rank}", "")
        until = time.monotonic() + LAST_WORDS
        lost = list(range(self.size))
        try:
            while lost and time.monotonic() < until:
                lost = [rank for rank in lost if not self.store.check([f"leaving/{rank}"])]
                time.sleep(0.05)
        except RuntimeError:  # the store was on the machine that is gone
            return [], self.rank
        return lost, min(set(range(self.size)) - set(lost), default=self.rank)


def join(config: Config) -> World:
    """The processes that torchrun started, all of which call this; else one by itself. Raises ConfigError."""
    train = config.train
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys():
        return World()
    if os.environ["WORLD_SIZE"] == "1" and train.parallel == "auto":
        return World()
    device = choose_device(train.device)
    refuse_what_cannot_be_shared(config, device)
    return Group(train, device)


def meet(store: "dist.Store", rank: int, size: int) -> str:
    """A name for this start of all ranks, the same on each. Raises RankError for ranks that do not come.

    torchrun starts ranks again with the store that they had, which remembers addresses of the dead. So each rank knocks
    with a word that nobody has used before, and only rank 0 of the same start answers that.
    """
    word = uuid4().hex
    if rank:
        store.set(f"knock/{rank}", word)
        name = store.get(f"answer/{word}").decode()
        store.set(f"{name}/here/{rank}", "")
        return name
    until, missing = time.monotonic() + JOINING.total_seconds(), list(range(1, size))
    while missing:
        for other in missing:
            if store.check([f"knock/{other}"]):
                store.set(f"answer/{store.get(f'knock/{other}').decode()}", word)
        missing = [other for other in missing if not store.check([f"{word}/here/{other}"])]
        if missing and time.monotonic() > until:
            raise RankError(f"ranks {', '.join(map(str, missing))} did not come", "is each machine's torchrun started?")
        time.sleep(0.02)
    return word


def refuse_what_cannot_be_shared(config: Config, device: str) -> None:
    """Raise ConfigError for settings that several ranks cannot have."""
    local_rank = int(os.environ["LOCAL_RANK"])
    if device == "mps" or (device == "cuda" and local_rank >= torch.cuda.device_count()):
        have = 1 if device == "mps" else torch.cuda.device_count()
        raise ConfigError(
            f"{os.environ['LOCAL_WORLD_SIZE']} processes on this machine, which has {have} {device} devices",
            f"start it with --nproc-per-node={have}, or set train.device = 'cpu'",
        )
    if "-" in config.data.sources:
        raise ConfigError("standard input cannot be read by several processes", "save the text to a file")
    if config.train.parallel == "fsdp" and config.lora.rank:
        raise ConfigError("train.parallel = 'fsdp' shards whole models, no adapters", "set it to 'ddp'")
    if config.train.parallel == "fsdp" and choose_precision(config.train.precision, device) == "fp16":
        raise ConfigError("train.parallel = 'fsdp' works in bf16 or fp32", "set train.precision to one of them")


def is_failure_of_group(error: BaseException) -> bool:
    """Whether an error came from the connection between ranks; gloo only says so in words."""
    return isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or "gloo" in str(error).lower())


def dealt_out(sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    """Which rank takes each of some named sizes: the largest first, each to the one with least. All ranks agree."""
    loads, owners = [0] * ranks, {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owners[name] = loads.index(min(loads))
        loads[owners[name]] += sizes[name]
    return owners


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of gradients of about BUCKET elements each: few calls, and little memory beside the gradients."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        bucket.append(gradient)
        if sum(g.numel() for g in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
