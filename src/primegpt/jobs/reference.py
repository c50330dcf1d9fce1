"""What the model that a run begins as says of the answers of its pairs: computed once, and kept beside the shards.

    cache/data/KEY/reference-HASH.safetensors   train, val: log p of both answers of each pair, (n, 2) in fp32
    cache/data/KEY/reference-HASH.json          of which model, text and arithmetic; the former's hash; comes last

So one model is in memory while training. It is that one itself, before its first step: adapters change nothing yet.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from primegpt.config import Config
from primegpt.data.batching.feed import fixed_batches
from primegpt.data.batching.pairs import batch_of_pairs, row_lengths
from primegpt.data.preparing.blocks import SPLITS
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.shards import Shards
from primegpt.errors import CheckpointError
from primegpt.evaluation.perplexity import evaluate_loss, means
from primegpt.inference.run import Run
from primegpt.jobs.bases import base_weights
from primegpt.model.gpt import GPT
from primegpt.model.size import human_seconds
from primegpt.parallel.world import ALONE, World, release
from primegpt.planning.plan import conditions
from primegpt.run import atomic
from primegpt.run.checkpoint import Checkpoint
from primegpt.run.folder import RunFolder
from primegpt.run.tensors import deserialize, serialize
from primegpt.terminal import Say
from primegpt.training.assemble import as_written, assemble
from primegpt.training.objective import objective_for
from primegpt.training.preference import answers_of, has_reference
from primegpt.training.step import Precision


class Reference:
    """The log-probabilities of the pairs of `corpus` under the model that the run of `config` began as."""

    def __init__(self, config: Config, corpus: Corpus, world: World = ALONE) -> None:
        self.config, self.corpus, self.world = config, corpus, world
        self.identity = identity(config, corpus)
        name = hashlib.sha256(atomic.canonical_json(self.identity)).hexdigest()[:16]
        self.path = corpus.folder / f"reference-{name}.safetensors"

    def read(self, say: Say) -> bool:
        """Give the shards what is on the disk; whether there is any. What is damaged is computed again."""
        facts, found = self.path.with_suffix(".json"), False
        if facts.exists():
            try:
                self.attach(self._checked(facts))
                found = True
            except (CheckpointError, ValueError, KeyError) as error:
                say(f"{error}; the reference is computed again")
        return not self.world.max(not found)

    def compute(self, model: GPT, say: Say) -> None:
        """Ask `model`, which is as the run began, and write down what it says."""
        started = time.monotonic()
        known = {split: self.asked(model, getattr(self.corpus, split)) for split in SPLITS}
        if self.world.sharded:
            release(model)  # before an optimizer, or a checkpoint, takes gathered weights for this rank's own
        content = b"".join(serialize({split: torch.from_numpy(values) for split, values in known.items()}))
        with self.world.together(), atomic.io_errors(f"write {self.path}"):
            if self.world.local_rank == 0:
                atomic.write_bytes_atomic(self.path, content)
                facts = {"of": self.identity, "file": atomic.record_of(content)}
                atomic.write_bytes_atomic(self.path.with_suffix(".json"), atomic.seal(facts))
        self.attach(known)
        pairs, spent = sum(map(len, known.values())), human_seconds(time.monotonic() - started)
        say(f"{'reference':<10} what the base says of {pairs:,} pairs, computed once: {spent}")

    def attach(self, known: Mapping[str, Any]) -> None:
        """Let the batches of both splits have the log-probabilities, (n_documents, 2) each."""
        for split in SPLITS:
            shards: Shards = getattr(self.corpus, split)
            if known[split].shape != (shards.n_documents, 2):
                raise ValueError(f"{self.path} is of other pairs")
            shards.reference = known[split]

    def asked(self, model: GPT, shards: Shards) -> np.ndarray:
        """log p of both answers of each pair, (n_documents, 2), in batches of like length; each rank takes some."""
        order = np.argsort(row_lengths(shards), kind="stable")
        size, ranks = self.config.train.batch_size, self.world.size
        parts = [order[first : first + size].tolist() for first in range(0, len(order), size)]
        turns = range(-(-len(parts) // ranks))  # as many for each rank: with weights in parts all have to be there
        mine = [parts[(turn * ranks + self.world.rank) % len(parts)] for turn in turns]
        found = np.empty((shards.n_documents, 2), np.float32)
        answers = list(self._log_probabilities(model, shards, mine))
        for records, logps in chain.from_iterable(self.world.collect(answers)):
            found[records] = logps
        return found

    @torch.inference_mode()
    def _log_probabilities(
        self, model: GPT, shards: Shards, parts: list[list[int]]
    ) -> Iterator[tuple[list[int], list[list[float]]]]:
        train = self.config.train
        precision, was_training = Precision(train.precision, train.device), model.training
        model.eval()
        for records in parts:
            batch = batch_of_pairs(shards, records, 0, self.config.plan.lengths).to(train.device)
            with as_written(train), precision.autocast():
                answers = answers_of(model, batch)
            yield records, torch.stack([each.logps for each in answers], 1).tolist()  # (B, 2)
        model.train(was_training)

    def _checked(self, facts: Path) -> dict[str, np.ndarray]:
        """What the files hold. Raises CheckpointError or ValueError where they are damaged."""
        record = atomic.read_sealed(facts)["file"]
        with atomic.open_checked(self.path, record) as file:
            content = file.read()
        atomic.compare_hash(self.path, record, hashlib.sha256(content).hexdigest())
        return {split: tensor.numpy() for split, tensor in deserialize(content).items()}


def beside_reference(
    folder: RunFolder, config: Config, corpus: Corpus, world: World, checkpoint: Checkpoint | None, say: Say
) -> GPT:
    """The model of a run, to go on from `checkpoint`; and `corpus` with what it is compared with, if it is."""
    if not has_reference(config.train):
        return assemble(config, base_weights(folder, config, checkpoint, say), world)
    reference = Reference(config, corpus, world)
    known = reference.read(say)
    model = assemble(config, base_weights(folder, config, checkpoint if known else None, say), world)
    if not known:
        reference.compute(model, say)
    return model


def judged_pairs(run: Run, corpus: Corpus, say: Say) -> dict[str, Any]:
    """The loss and the rewards of the run's own validation pairs, as training judges them.

    What the base says of them is computed anew where the cache has lost it.
    """
    config = run.config.with_values(train={"device": run.model.device.type, "compile": False})
    train = config.train
    if has_reference(train) and not (reference := Reference(config, corpus)).read(say):
        reference.compute(assemble(config, base_weights(run.folder, config, None, say)), say)
    result = evaluate_loss(
        run.model,
        fixed_batches(config, corpus.val),
        objective=objective_for(config),
        device=train.device,
        autocast=Precision(train.precision, train.device).autocast,
    )
    return {"objective": train.objective, "pairs": result.targets, "loss": result.loss} | means(result.figures)


def identity(config: Config, corpus: Corpus) -> dict[str, object]:
    """All that decides what the reference says, to the last bit."""
    machine = {name: value for name, value in conditions(config).items() if name != "ranks"}
    train = config.train.model_dump(include={"precision", "attention", "batch_size"})
    shards = {split: getattr(corpus, split).fingerprint for split in SPLITS}
    return {"model": config.plan.base, **shards, **train, "lengths": list(config.plan.lengths), **machine}
