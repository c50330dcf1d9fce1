"""Several processes that train one model: what each takes, and what they agree on.

    with join(config) as world:                    # torchrun started us `world.size` times
        model = assemble(config, weights, world)   # fsdp: each rank keeps a part of every weight
        ...
        supervised = world.sum(supervised)         # of all ranks
        loss.backward()
        world.sum_gradients(model)                 # ddp: from here on every rank does the same

What is agreed on travels through the CPU (gloo) on every device, in fp64 or JSON; gradients and weights through NCCL
on a GPU. What one process does in place of each method stands in world.py.
"""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from primegpt.config import Config, TrainConfig
from primegpt.data.batches import Batch
from primegpt.errors import ConfigError, MismatchError, NonFiniteError, PrimegptError, RankError
from primegpt.model.gpt import GPT
from primegpt.training.interrupts import Interrupted
from primegpt.training.precision import choose_device, choose_precision
from primegpt.training.rendezvous import JOINING, is_failure_of_group, meet, missing
from primegpt.training.sharded import dealt_out, spread, whole
from primegpt.training.world import World

PATIENCE = timedelta(days=1)  # for what one rank does alone: preparing data, writing a checkpoint
BUCKET = 1 << 24  # gradient elements that are summed in one go: 64 MB
# A thread of gloo drops the last tensor that it sent a moment after all have gone on. It needs the interpreter for
# that, and aborts the process where this has ended by then. destroy_process_group does not wait for such threads.
SETTLING = 0.3  # seconds

T = TypeVar("T")


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
        return spread(model, self.device, self.size) if self.sharded else model

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
        lost, speaker = missing(self.store, self.rank, self.size)
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
