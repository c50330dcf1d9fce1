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
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import timedelta
from types import TracebackType
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor

from primegpt.config import Config, TrainConfig
from primegpt.data.batching.batches import Batch
from primegpt.device import choose_device, choose_precision
from primegpt.errors import ConfigError, MismatchError, NonFiniteError, PrimegptError, RankError, quoted
from primegpt.model.gpt import GPT
from primegpt.parallel.world import World, dealt_out, spread, whole
from primegpt.signals import Interrupted

JOINING = timedelta(minutes=10)
LAST_WORDS = 3.0  # seconds in which the ranks that are left find each other


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


def is_failure_of_group(error: BaseException) -> bool:
    """Whether an error came from the connection between ranks; gloo only says so in words."""
    return isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or "gloo" in str(error).lower())


def missing(store: "dist.Store", rank: int, size: int) -> tuple[list[int], int]:
    """The ranks that give no sign of life, and the first that does. All that are left call this."""
    store.set(f"leaving/{rank}", "")
    until = time.monotonic() + LAST_WORDS
    lost = list(range(size))
    try:
        while lost and time.monotonic() < until:
            lost = [other for other in lost if not store.check([f"leaving/{other}"])]
            time.sleep(0.05)
    except RuntimeError:  # the store was on the machine that is gone
        return [], rank
    return lost, min(set(range(size)) - set(lost), default=rank)


PATIENCE = timedelta(days=1)  # for what one rank does alone: preparing data, writing a checkpoint
BUCKET = 1 << 24  # gradient elements that are summed in one go: 64 MB
# A thread of gloo drops the last tensor that it sent a moment after all have gone on. It needs the interpreter for
# that, and aborts the process where this has ended by then. destroy_process_group does not wait for such threads.
SETTLING = 0.3  # seconds
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what it sets
LET_TORCHRUN = "torchrun sets it right; without torchrun unset it"

T = TypeVar("T")


class Group(World):
    """The ranks that torchrun started, as one of them sees them."""

    def __init__(self, train: TrainConfig, device: str, ranks: "Ranks") -> None:
        self.local_rank, self.local_size = ranks.local_rank, ranks.local_size
        self.device, self.timeout = device, train.rank_timeout
        self.sharded = self.in_step = train.parallel == "fsdp"
        if device == "cuda":
            torch.cuda.set_device(self.local_rank)
        try:
            store, self.rank, self.size = next(dist.rendezvous("env://", timeout=JOINING))
        except (RuntimeError, ValueError) as error:  # a name that leads nowhere, a port in use, nobody there
            place = f"{os.environ['MASTER_ADDR']}, port {os.environ['MASTER_PORT']}"
            reason = str(error).partition("\n")[0]
            raise RankError(
                f"the ranks cannot meet at {place}: {reason}", "check MASTER_ADDR and MASTER_PORT"
            ) from error
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

    def refuse_differences(self, facts: Mapping[str, object]) -> None:
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


class Ranks(NamedTuple):
    """Which process this is, as torchrun says it in the environment."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def ranks_of(environment: Mapping[str, str]) -> Ranks | None:
    """Who this process is among several; None if nothing, or nothing but WORLD_SIZE=1, says that there are others.

    Raises ConfigError for variables that are missing (whoever sets some of them would train alone, without a word) or
    that cannot be.
    """
    given = [name for name in TORCHRUN[:4] if environment.get(name)]
    missing = [name for name in TORCHRUN if not environment.get(name)]
    if not given or (missing and environment.get("WORLD_SIZE") == "1"):
        return None
    if missing:
        raise ConfigError(
            f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} set, but not {', '.join(missing)}",
            "start several processes with `torchrun --nproc-per-node=N -m primegpt ...`, which sets all of them; "
            f"for one process unset {' '.join(given)}",
        )
    for name in (*TORCHRUN[:4], "MASTER_PORT"):
        if not re.fullmatch("[0-9]{1,6}", environment[name]):
            raise ConfigError(f"{name} = {quoted(environment[name])} is not a number that it can be", LET_TORCHRUN)
    found = Ranks(*(int(environment[name]) for name in TORCHRUN[:4]))
    for name, below in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if int(environment[name]) >= int(environment[below]):
            raise ConfigError(f"{name} = {environment[name]} is not below {below} = {environment[below]}", LET_TORCHRUN)
    if found.local_size > found.size:
        what = f"LOCAL_WORLD_SIZE = {found.local_size} is above WORLD_SIZE = {found.size}"
        raise ConfigError(what, LET_TORCHRUN)
    if not 0 < int(environment["MASTER_PORT"]) < 65536:
        raise ConfigError(f"MASTER_PORT = {environment['MASTER_PORT']} is no port", "ports go from 1 to 65535")
    return found


def join(config: Config) -> World:
    """The processes that torchrun started, all of which call this; else one by itself. Raises ConfigError."""
    train, ranks = config.train, ranks_of(os.environ)
    if ranks is None or (ranks.size == 1 and train.parallel == "auto"):
        return World()
    device = choose_device(train.device)
    refuse_what_cannot_be_shared(config, device, ranks)
    return Group(train, device, ranks)


def refuse_what_cannot_be_shared(config: Config, device: str, ranks: Ranks) -> None:
    """Raise ConfigError for settings that several ranks cannot have."""
    if device == "mps" or (device == "cuda" and ranks.local_rank >= torch.cuda.device_count()):
        have = 1 if device == "mps" else torch.cuda.device_count()
        raise ConfigError(
            f"{ranks.local_size} processes on this machine, which has {have} {device} devices",
            f"start it with --nproc-per-node={have}, or set train.device = 'cpu'",
        )
    if config.reinforce.on:
        raise ConfigError("learning from rewards is done by one process", "start it without torchrun")
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
