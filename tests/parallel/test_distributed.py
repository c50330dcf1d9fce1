"""The group of ranks as far as one process can show it; several are in tests/reliability/test_ranks.py."""

import socket

import pytest
import torch
import torch.distributed as dist

from primegpt.cli.main import run
from primegpt.config import Config, resolve
from primegpt.data.batching.batches import IGNORED, Batch
from primegpt.errors import ConfigError, MismatchError, RankError
from primegpt.model.gpt import GPT
from primegpt.parallel.distributed import Group, Ranks, join, ranks_of
from primegpt.parallel.world import ALONE, World, whole
from primegpt.training.optimizers import Optimizers
from primegpt.training.step import Precision, compute_gradients, update

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": 30}


def configuration(preset: str = "gpt2", **train) -> Config:
    return resolve({"model": {"preset": preset, **SIZES}, "train": {"device": "cpu", "precision": "fp32"} | train})


@pytest.fixture
def started_by_torchrun(monkeypatch):
    """The environment of rank 0 of 1; the group is dissolved behind the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port}
    for name, value in (environment | {"MASTER_ADDR": "127.0.0.1"}).items():
        monkeypatch.setenv(name, str(value))
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_process_by_itself_makes_no_group():
    assert type(join(configuration(parallel="fsdp"))) is World
    assert not dist.is_initialized()
    assert ALONE.sum(3.0) == 3.0
    assert ALONE.tell({"a": 1}) == {"a": 1}


def test_one_rank_makes_a_group_only_if_asked(started_by_torchrun):
    assert type(join(configuration())) is World


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for first in (0, 4, 8):
        ids, targets = torch.randint(0, 30, (2, 4, 8), generator=generator)
        kept = torch.rand(4, 8, generator=generator) < torch.linspace(0.1, 0.9, 4).unsqueeze(1)
        made.append(Batch(ids, targets.masked_fill(~kept, IGNORED), None, None, first))
    return made


def steps(world: World, config: Config, count: int = 3) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of some steps and the weights and optimizer state that they lead to."""
    model = world.shard(GPT(config.model, 3)).train()
    precision = Precision("fp32", "cpu")
    optimizers = Optimizers(model, config.train)
    losses = []
    for step in range(count):
        total, supervised, _ = compute_gradients(model, batches(), precision, 0, step, world=world)
        losses.append(total / supervised)
        update(model, optimizers, precision, 0.5)
    return losses, {**model.weights(), **optimizers.state()}


@pytest.mark.parametrize(("parallel", "preset"), [("ddp", "gpt2"), ("fsdp", "gpt2"), ("fsdp", "prime")])
def test_a_group_of_one_computes_what_a_process_by_itself_does(started_by_torchrun, parallel, preset):
    """Sharding, accumulation, clipping, AdamW and Muon on sharded tensors, all by the same names."""
    config = configuration(preset, parallel=parallel)
    expected, alone = steps(ALONE, config)
    with join(config) as world:
        assert isinstance(world, Group)
        losses, found = steps(world, config)
        assert losses == pytest.approx(expected, abs=1e-6)
        assert found.keys() == alone.keys()
        for name, tensor in world.share_of_tensors(found).items():
            torch.testing.assert_close(tensor, alone[name], atol=1e-6, rtol=1e-5, msg=name)
        assert (whole(found["wte.weight"]) is found["wte.weight"]) == (parallel == "ddp")


def test_a_sharded_model_can_be_trained_behind_an_evaluation(started_by_torchrun):
    """Buffers made in inference mode cannot be used in training; torch says so only then."""
    config = configuration(parallel="fsdp")
    with join(config) as world:
        model = world.shard(GPT(config.model, 3))
        with torch.inference_mode():
            model(batches()[0].ids)
        loss, supervised, _ = compute_gradients(model, batches(), Precision("fp32", "cpu"), 0, 0, world=world)
        assert loss / supervised > 0


def test_other_facts_are_refused(started_by_torchrun, monkeypatch):
    """Rank 0 is the measure, so that another rank is played by what it hears from rank 0."""
    with join(configuration(parallel="ddp")) as world:
        world.refuse_differences({"train.seed": 1, "data.sources": ("a", "b")})
        monkeypatch.setattr(world, "tell", lambda own: {**own, "train.seed": 2})
        with pytest.raises(MismatchError, match=r"train.seed is 1 on rank 0 \(.*\) and 2 on rank 0; give all ranks"):
            world.refuse_differences({"train.seed": 1})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"sources": ["-"]}}, "standard input cannot be read by several processes"),
        ({"train": {"parallel": "fsdp"}, "lora": {"rank": 2}}, "'fsdp' shards whole models"),
        ({"train": {"parallel": "fsdp", "precision": "fp16"}}, "'fsdp' works in bf16 or fp32"),
    ],
)
def test_what_ranks_cannot_share_is_refused(started_by_torchrun, monkeypatch, sections, message):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=message):
        join(configuration().with_values(**sections))
    assert not dist.is_initialized()


WHOLE = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "here",
    "MASTER_PORT": "29500",
}


def test_who_a_process_is_stands_in_its_environment():
    assert ranks_of(WHOLE) == Ranks(1, 4, 1, 2)
    assert ranks_of({"MASTER_ADDR": "left", "MASTER_PORT": "over"}) is None  # by a cluster, for whoever wants it
    assert ranks_of({"WORLD_SIZE": "1", "RANK": "0"}) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"RANK": "1", "WORLD_SIZE": "2"},
            "^RANK and WORLD_SIZE are set, but not LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER",
        ),
        ({"RANK": "0"}, "^RANK is set, but not WORLD_SIZE"),
        ({"LOCAL_RANK": "0"}, "^LOCAL_RANK is set"),
        (WHOLE | {"LOCAL_WORLD_SIZE": ""}, "are set, but not LOCAL_WORLD_SIZE; .*torchrun"),
        (WHOLE | {"MASTER_PORT": ""}, "but not MASTER_PORT"),
        (WHOLE | {"WORLD_SIZE": "abc"}, "WORLD_SIZE = 'abc' is not a number"),
        (WHOLE | {"RANK": "-1"}, "RANK = '-1' is not a number"),
        (WHOLE | {"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE = '9"),
        (WHOLE | {"RANK": "4"}, "RANK = 4 is not below WORLD_SIZE = 4"),
        (WHOLE | {"LOCAL_RANK": "2"}, "LOCAL_RANK = 2 is not below LOCAL_WORLD_SIZE = 2"),
        (WHOLE | {"LOCAL_WORLD_SIZE": "8"}, "LOCAL_WORLD_SIZE = 8 is above WORLD_SIZE = 4"),
        (WHOLE | {"WORLD_SIZE": "0"}, "RANK = 1 is not below WORLD_SIZE = 0"),
        (WHOLE | {"MASTER_PORT": "0"}, "MASTER_PORT = 0"),
    ],
)
def test_an_environment_that_is_not_whole_is_refused(given, message):
    """What a cluster's own launcher sets in part: each process trained alone, unsaid, or ended in a traceback."""
    with pytest.raises(ConfigError, match=message) as caught:
        ranks_of(given)
    assert len(str(caught.value)) < 300


def test_a_place_where_ranks_cannot_meet_is_named(started_by_torchrun, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        with pytest.raises(RankError, match=r"the ranks cannot meet at 127\.0\.0\.1, port \d+: .*check MASTER_ADDR"):
            join(configuration(parallel="ddp"))


@pytest.mark.parametrize("given", [{"RANK": "1", "WORLD_SIZE": "2"}, {"WORLD_SIZE": "abc", "RANK": "0"}])
def test_the_command_refuses_it_in_one_line(given, monkeypatch, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("one two three\n" * 99, encoding="utf-8")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert (
        run(["train", str(tmp_path / "text.txt"), "--train.max_steps", "1", "--out", str(tmp_path / "run")], 0.0) == 2
    )
    assert "LOCAL_RANK" in (told := capsys.readouterr().err)
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()
