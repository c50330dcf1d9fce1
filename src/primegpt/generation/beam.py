"""Beam search: the likeliest text that a handful of candidates, kept side by side, leads to."""

from dataclasses import replace
from typing import NamedTuple

import torch

from primegpt.config import GenerateConfig
from primegpt.errors import UsageError
from primegpt.generation.context import Context, Row
from primegpt.generation.decoder import Completion, Decoder, inference
from primegpt.generation.logits import penalised


class Beam(NamedTuple):
    """A text with the sum of its tokens' log-probabilities; `parent` is the row that it goes on from."""

    row: Row
    total: float
    parent: int = 0


def beam_search(
    decoder: Decoder, prompt: list[int], settings: GenerateConfig, num_samples: int = 1
) -> list[Completion]:
    """The best `num_samples` continuations found, best first, each with its `score`.

    At every step each of the `num_beams` texts is continued by every token, and the best `num_beams` go on. A text
    that ends (at a stop id or string, or at `max_new_tokens`) is scored by its log-probability divided by its length
    to the power of `length_penalty`, the ending included. The search is over when no text could become better than
    the worst of `num_beams` complete ones, judged at its present length, or at once with `early_stopping`. Scores,
    order and ends are those of Transformers. Repetition penalty and bans apply, to log-probabilities; rules of
    sampling have no meaning here. Raises UsageError when more texts are asked for than there are beams.
    """
    if num_samples > settings.num_beams:
        raise UsageError(
            f"{num_samples} texts are asked of a search with {settings.num_beams} beams", "use as many beams as samples"
        )
    n = settings.num_beams
    beams = [Beam(Row(prompt, decoder.model.config.block_size), 0.0)]
    context = decoder.context([beams[0].row], settings)
    complete: list[tuple[float, Completion]] = []
    for length in range(1, settings.max_new_tokens + 1):
        following: list[Beam] = []
        for rank, beam in enumerate(continuations(decoder, context, beams, settings)):
            if ended := ending(decoder, beam.row, settings):
                if rank < n:
                    complete.append((beam.total / length**settings.length_penalty, ended))
            elif len(following) < n:
                following.append(beam)
        complete = sorted(complete, key=lambda item: -item[0])[:n]
        if not following:
            break
        reachable = following[0].total / length**settings.length_penalty
        if len(complete) == n and (settings.early_stopping or reachable <= complete[-1][0]):
            break
        with inference(decoder.model):
            context.select([beam.parent for beam in following])
        beams = following
    return [replace(completion, score=score) for score, completion in complete[:num_samples]]


def continuations(decoder: Decoder, context: Context, beams: list[Beam], settings: GenerateConfig) -> list[Beam]:
    """The best one-token continuations of `beams`, best first: enough of them that `num_beams` do not end."""
    rows = [beam.row for beam in beams]
    with inference(decoder.model):
        logprobs = decoder.next_logits(context, rows).float().log_softmax(dim=-1)  # (B, V)
        allowed = penalised(logprobs, settings, decoder.banned, decoder.text_so_far(rows, settings))
        totals = allowed + torch.tensor([[beam.total] for beam in beams], device=logprobs.device)
        wanted = (1 + len(decoder.stop_ids)) * settings.num_beams
        best = totals.flatten().topk(min(wanted, totals.numel()))
        parents = (best.indices // totals.size(-1)).tolist()
        ids = (best.indices % totals.size(-1)).tolist()
        own = logprobs.flatten()[best.indices].tolist()
    found = []
    for parent, id, total, logprob in zip(parents, ids, best.values.tolist(), own, strict=True):
        if total > float("-inf"):  # a banned token
            row = beams[parent].row.branch(id)
            row.logprobs = [*row.logprobs, logprob]
            found.append(Beam(row, total, parent))
    return found


def ending(decoder: Decoder, row: Row, settings: GenerateConfig) -> Completion | None:
    """The completed text, if `row` ends here."""
    prompt, ids = row.ids[: row.prompt_length], row.added
    if ids[-1] in decoder.stop_ids:
        text = decoder.tokenizer.decode(ids[:-1])
        return Completion(prompt, ids[:-1], text, "stop", row.logprobs[:-1])
    text = decoder.tokenizer.decode(ids) if settings.stop_strings or len(ids) == settings.max_new_tokens else ""
    if found := [at for stop in settings.stop_strings if (at := text.find(stop)) >= 0]:
        return Completion(prompt, ids, text[: min(found)], "stop", row.logprobs)
    if len(ids) == settings.max_new_tokens:
        return Completion(prompt, ids, text, "length", row.logprobs)
    return None
