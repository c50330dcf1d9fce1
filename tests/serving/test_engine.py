"""Continuous batching, against one text at a time."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from unittest.mock import patch

import pytest
import torch

from primegpt.config import GenerateConfig
from primegpt.errors import NonFiniteError
from primegpt.inference.context import CachedContext, Row
from primegpt.inference.decoder import Decoder
from primegpt.serving.engine import AHEAD, READ_TOGETHER, Busy, Engine, Job, Piece

PROMPTS = ["a", "the river ran under", "b, c. ", "abc" * 15, "A song", "x" * 60, "and so on and so on", "z"]
SAMPLED = GenerateConfig(max_new_tokens=30, top_k=20)


@pytest.fixture
def decoder(make_run) -> Decoder:
    return make_run(preset="qwen3").generator()


def running(decoder: Decoder, test: Callable[[Engine], Awaitable[Any]], **options: int) -> Any:
    """The result of `test` with an engine at work. Fails when a slot is left taken."""

    async def whole() -> Any:
        engine = Engine(decoder, **options)
        engine.start()
        try:
            async with asyncio.timeout(60):
                result = await test(engine)
                while engine.load or engine.context.cache.lengths:
                    await asyncio.sleep(0.001)
                return result
        finally:
            engine.close()

    return asyncio.run(whole())


async def texts(job: Job, count: int) -> list[tuple[str, list[int], str | None]]:
    """The texts of a job: text, ids, reason of its end."""
    found = [("", [], None) for _ in range(count)]
    with job:
        async for piece in job:
            text, ids, _ = found[piece.index]
            found[piece.index] = (text + piece.text, ids + [t.id for t in piece.tokens], piece.finish_reason)
    return found


def alone(decoder: Decoder, prompt: str, settings: GenerateConfig, samples: int = 1) -> list[Any]:
    completions = Decoder(decoder.model, decoder.tokenizer).generate([prompt], settings, num_samples=samples)[0]
    return [(c.text, c.ids, c.finish_reason) for c in completions]


MIXED = [
    SAMPLED,
    GenerateConfig(max_new_tokens=90, temperature=0),  # beyond the block of 64: the window slides
    GenerateConfig(max_new_tokens=17, seed=5, top_p=0.7, repetition_penalty=1.3),
    GenerateConfig(max_new_tokens=40, seed=6, stop_strings=("a", "qu")),
]


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_a_text_is_the_same_as_alone_whoever_comes_and_goes_meanwhile(decoder: Decoder, slots: int) -> None:
    asked = [(prompt, MIXED[i % len(MIXED)], 1 + i % 3) for i, prompt in enumerate(PROMPTS)]

    async def test(engine: Engine) -> list[Any]:
        async def one(number: int, prompt: str, settings: GenerateConfig, samples: int) -> Any:
            await asyncio.sleep(0.004 * (number * 5 % 8))  # they join at any moment
            rows = [engine.decoder.row(prompt, settings, i) for i in range(samples)]
            return await texts(engine.submit(rows, settings), samples)

        return await asyncio.gather(*(one(i, *each) for i, each in enumerate(asked)))

    found = running(decoder, test, slots=slots)
    assert found == [alone(decoder, *each) for each in asked]


def test_logits_are_those_of_a_single_stream(decoder: Decoder) -> None:
    """Within 1e-4 in fp32, while rows of other lengths come and go around it."""
    rows = [decoder.row(prompt, SAMPLED) for prompt in PROMPTS]
    worst, steps = 0.0, 0
    single = {id(row): CachedContext(decoder.model, [row], 90, torch.float32) for row in rows}
    next_logits = CachedContext.next_logits

    def watched(self: CachedContext, together: Sequence[Row]) -> torch.Tensor:
        nonlocal worst, steps
        found = next_logits(self, together)
        for b, row in enumerate(together):
            worst = max(worst, (next_logits(single[id(row)], [row]) - found[b]).abs().max().item())
            steps += 1
        return found

    async def test(engine: Engine) -> None:
        jobs = [engine.submit([row], MIXED[i % 2]) for i, row in enumerate(rows)]
        await asyncio.gather(*(texts(job, 1) for job in jobs))

    with patch.object(CachedContext, "next_logits", watched):
        running(decoder, test, slots=3)
    assert steps > 300
    assert worst < 1e-4


def test_logprobs_are_the_model_s_own(decoder: Decoder) -> None:
    async def test(engine: Engine) -> list[Piece]:
        with engine.submit([engine.decoder.row("the river", SAMPLED)], SAMPLED, 3) as job:
            return [piece async for piece in job]

    tokens = [token for piece in running(decoder, test) for token in piece.tokens]
    ids = decoder.tokenizer.encode("the river")
    for token in tokens:
        expected = decoder.model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        assert token.logprob == pytest.approx(expected[token.id].item(), abs=1e-4)
        assert [id for id, _ in token.top] == expected.topk(3).indices.tolist()
        assert [value for _, value in token.top] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-4)
        ids.append(token.id)


def test_whoever_leaves_stops_the_writing_within_a_token(decoder: Decoder) -> None:
    long = GenerateConfig(max_new_tokens=100_000)
    row, other = decoder.row("a", long), decoder.row("b", SAMPLED)

    async def test(engine: Engine) -> Any:
        with engine.submit([row], long) as job:
            async for _ in job:
                if len(row.added) > 20:
                    break
        at = len(row.added)
        rest = await texts(engine.submit([other], SAMPLED), 1)
        assert len(row.added) - at <= 1  # the step that was under way
        assert engine.writing == [] or engine.writing[0].row is not row
        return rest

    assert running(decoder, test, slots=1) == alone(decoder, "b", SAMPLED)


def test_writing_waits_for_a_reader_who_does_not_keep_up(decoder: Decoder) -> None:
    """Its slots are for others meanwhile, and its texts are the same in the end."""
    long = GenerateConfig(max_new_tokens=5 * AHEAD, temperature=0.1, seed=1)  # with which none ends early
    rows = [decoder.row("the river", long, i) for i in range(3)]

    async def test(engine: Engine) -> Any:
        job = engine.submit(rows, long)
        for _ in range(3):
            await until(lambda: not engine.writing and len(job.waiting) == 3)
            assert job.pieces.qsize() <= 3 * AHEAD + 3
            assert await texts(engine.submit([engine.decoder.row("b", SAMPLED)], SAMPLED), 1) == alone(
                decoder, "b", SAMPLED
            )
            for _ in range(AHEAD):
                early.append(await anext(job))
        assert engine.load == len(job.waiting) + len(engine.writing)  # they count all the time
        return await texts(job, 3)

    early: list[Piece] = []
    rest = running(decoder, test, slots=2)
    expected = alone(decoder, "the river", long, 3)
    for index, (text, ids, reason) in enumerate(rest):
        own = [piece for piece in early if piece.index == index]
        ids = [t.id for piece in own for t in piece.tokens] + ids
        assert ("".join(piece.text for piece in own) + text, ids, reason) == expected[index]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_a_job_that_waits_for_its_reader_can_be_given_up(decoder: Decoder) -> None:
    long = GenerateConfig(max_new_tokens=100_000)

    async def test(engine: Engine) -> None:
        with engine.submit([engine.decoder.row("a", long)], long):
            await until(lambda: bool(engine.waiting) and not engine.writing)
        await until(lambda: not engine.waiting)

    running(decoder, test)


def test_a_request_that_left_the_queue_is_never_written(decoder: Decoder) -> None:
    rows = [decoder.row("a", SAMPLED), decoder.row("b", SAMPLED)]

    async def test(engine: Engine) -> None:
        with engine.submit(rows[:1], SAMPLED) as first:
            engine.submit(rows[1:], SAMPLED).__exit__()
            async for _ in first:
                pass

    running(decoder, test, slots=1)
    assert (len(rows[0].added), len(rows[1].added)) == (30, 0)


def test_the_queue_has_an_end(decoder: Decoder) -> None:
    async def test(engine: Engine) -> None:
        def submit(count: int) -> Job:
            return engine.submit([engine.decoder.row("a", SAMPLED, i) for i in range(count)], SAMPLED)

        jobs = [submit(2), submit(3)]
        with pytest.raises(Busy):
            submit(2)
        jobs.append(submit(1))  # as many as there is room for
        with pytest.raises(Busy):
            submit(1)
        await asyncio.gather(*(texts(job, count) for job, count in zip(jobs, (2, 3, 1), strict=True)))
        await texts(submit(1), 1)  # there is room again

    running(decoder, test, slots=2, queue=4)


def test_a_newcomer_goes_before_the_many_texts_of_another(decoder: Decoder) -> None:
    """A free slot is for whom the fewest texts are written, not for who asked first."""
    many = Job([decoder.row("a", SAMPLED, i) for i in range(6)], SAMPLED, None, decoder)
    one = Job([decoder.row("b", SAMPLED)], SAMPLED, None, decoder)
    engine = Engine(decoder, slots=2)
    engine.waiting.append(many)
    engine.join()
    assert [writing.job for writing in engine.writing] == [many, many]
    engine.waiting.append(one)
    seen = []
    while engine.writing:
        engine.writing[0].row.finish_reason = "stop"
        engine.leave()
        engine.join()
        seen.append([writing.job for writing in engine.writing])
    assert seen[0] == [many, one]
    assert seen[-3:] == [[many, many], [many], []]


def test_long_prompts_are_read_apart_and_equal_ones_together(make_run) -> None:
    decoder = make_run(block_size=600).generator()
    prompts = ["a" * 300] * 3 + ["b" * 300, "c" * 300]
    rows = [decoder.row(prompt, SAMPLED, i) for i, prompt in enumerate(prompts)]
    engine = Engine(decoder)
    for row in rows:
        engine.waiting.append(Job([row], SAMPLED, None, decoder))
    assert READ_TOGETHER < 600
    sizes = []
    while len(engine.writing) < 5:
        engine.join()
        sizes.append(len(engine.writing))
    assert sizes == [3, 4, 5]  # each call stands for a step in which the others go on


def test_a_step_that_fails_is_told_and_the_next_request_is_served(decoder: Decoder) -> None:
    broken = patch.object(Decoder, "next_logits", side_effect=NonFiniteError("not numbers"))

    async def test(engine: Engine) -> Any:
        with broken:
            jobs = [engine.submit([engine.decoder.row(p, SAMPLED)], SAMPLED) for p in ("a", "b")]
            for job in jobs:
                with pytest.raises(NonFiniteError):
                    await texts(job, 1)
        return await texts(engine.submit([engine.decoder.row("c", SAMPLED)], SAMPLED), 1)

    assert running(decoder, test) == alone(decoder, "c", SAMPLED)


def test_calls_are_carried_out_between_steps_in_the_decode_thread(decoder: Decoder) -> None:
    async def test(engine: Engine) -> None:
        with engine.submit([engine.decoder.row("a", SAMPLED)], SAMPLED) as job:
            await anext(job)
            assert await engine.call(lambda: threading.current_thread().name) == "decode"
            with pytest.raises(ZeroDivisionError):
                await engine.call(lambda: 1 / 0)
            assert [piece async for piece in job][-1].finish_reason  # and the text is not harmed

    running(decoder, test)


def test_the_cache_is_allocated_once(decoder: Decoder) -> None:
    async def test(engine: Engine) -> None:
        room = engine.context.cache.k.data_ptr()
        for _ in range(3):
            jobs = [engine.submit([engine.decoder.row(p, SAMPLED)], SAMPLED) for p in PROMPTS]
            await asyncio.gather(*(texts(job, 1) for job in jobs))
        assert engine.context.cache.k.data_ptr() == room

    running(decoder, test, slots=4)
