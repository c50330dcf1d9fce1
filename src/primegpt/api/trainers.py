"""The trainer of a run: its batches, the fixed sets that it is evaluated on, and what its samples continue."""

from primegpt.config import Config
from primegpt.data.batches import IGNORED
from primegpt.data.corpus import Corpus
from primegpt.data.examples import question
from primegpt.data.feed import fixed_batches, training_batches
from primegpt.data.shards import Shards
from primegpt.data.template import template_for
from primegpt.generation.generator import Generator
from primegpt.model.gpt import GPT
from primegpt.model.size import flops_per_token
from primegpt.run.folder import RunFolder
from primegpt.tokenizers.base import Tokenizer
from primegpt.training import plan as planning
from primegpt.training.assemble import as_written
from primegpt.training.metrics import Speed
from primegpt.training.precision import Precision
from primegpt.training.trainer import EvaluationSet, Observer, Trainer
from primegpt.training.world import World


def trainer_for(
    folder: RunFolder, config: Config, corpus: Corpus, model: GPT, observer: Observer, world: World
) -> Trainer:
    """The trainer of the run in `folder`, at its beginning."""
    train = config.train
    generator = Generator(model, corpus.tokenizer)
    prompts = sample_prompts(config, corpus)

    def sample(_: GPT) -> str:
        with as_written(train):
            completions = generator.generate(prompts, config.generate)
        shown = [prompt if isinstance(prompt, str) else corpus.tokenizer.decode(prompt) for prompt in prompts]
        return "\n\n".join(prompt + samples[0].text for prompt, samples in zip(shown, completions, strict=True))

    return Trainer(
        config,
        model,
        training_batches(config, corpus, world.rank, world.size),
        train_set=evaluation_set(corpus.train, corpus.tokenizer, config),
        val_set=evaluation_set(corpus.val, corpus.tokenizer, config),
        folder=folder,
        precision=Precision(train.precision, train.device),
        observer=observer,
        sample=sample,
        fingerprints={"tokenizer": corpus.tokenizer.fingerprint, "data": corpus.train.fingerprint},
        conditions=planning.conditions(config, world),
        speed=Speed(flops_per_token(config.model, config.sequence_length), config.plan.peak_flops * world.size),
        world=world,
    )


def evaluation_set(shards: Shards, tokenizer: Tokenizer, config: Config) -> EvaluationSet:
    """About `data.val_tokens` targets of a split, evenly spread over it, in memory."""
    batches = list(fixed_batches(config, shards, config.data.val_tokens))
    asked = (batch.targets[batch.targets != IGNORED] for batch in batches)
    text_bytes = sum(len(tokenizer.decode_bytes(ids.tolist(), skip_special_tokens=True)) for ids in asked)
    return EvaluationSet(batches, text_bytes)


def sample_prompts(config: Config, corpus: Corpus) -> list[str | list[int]]:
    """What the samples continue: the prompts of the configuration, else beginnings of held-out text."""
    tokenizer, own = corpus.tokenizer, config.train.sample_prompts
    if template := template_for(config.data, tokenizer):
        return [template.prompt_ids(tokenizer, prompt) for prompt in own] or [
            question(corpus.val, record) for record in range(min(2, corpus.val.n_documents))
        ]
    if own:
        return list(own)
    if corpus.n_documents == 1:
        head = tokenizer.decode(corpus.val.slice(1, min(200, len(corpus.val))), skip_special_tokens=True)
        lines = [line for line in head.splitlines()[1:] if line.strip()] or [head]
        return [lines[0][:40] + "\n"]
    starts = corpus.val.document_starts[:2]
    texts = [tokenizer.decode(corpus.val.slice(s + 1, min(s + 65, len(corpus.val)))) for s in map(int, starts)]
    return [text.splitlines()[0] + "\n" for text in texts if text.strip()] or [""]
