"""An entry of the cache that is being made: its tokenizer, its blocks, and the blocks put together."""

import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data.layout import Layout, Tally
from primegpt.data.preparing.blocks import SPLITS, Blocks, Record, finished_block
from primegpt.data.preparing.build import build
from primegpt.data.preparing.corpus import FACTS, write_facts
from primegpt.data.preparing.shard_writer import seal
from primegpt.data.preparing.shards import MANIFEST
from primegpt.data.preparing.split import Split
from primegpt.data.preparing.survey import Library, Survey
from primegpt.data.template import layout_for
from primegpt.errors import PrimegptError
from primegpt.model.size import human_bytes
from primegpt.run.atomic import remove
from primegpt.terminal import Say
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer

LEARNT_FROM = 200_000_000  # bytes of training text that a tokenizer is trained on, at most


@dataclass
class Entry:
    """What is to be done for one entry of the cache, in `folder`.partial until it is whole."""

    folder: Path
    documents: Library
    surveyed: Survey
    split: Split
    blocks: Blocks
    tokenizer: Tokenizer | TokenizerConfig
    layout: Layout | None
    config: DataConfig
    context: int
    say: Say

    @property
    def unfinished(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.partial")

    def build(self, wanted: Collection[int]) -> Collection[int]:
        """Write the blocks `wanted` but for those that are whole already; which ones are certainly whole now."""
        self.unfinished.mkdir(parents=True, exist_ok=True)
        tokenizer = self.tokenizer = self._ready_tokenizer()
        self.layout = layout_for(self.config, tokenizer)  # which may have labels of its own
        key, size = self.folder.name, self.blocks.bytes_of(wanted) / 1e6
        left = [
            number
            for number in wanted
            if not finished_block(self.unfinished, number, key, tokenizer.fingerprint, verify=True)
        ]
        if left:
            to_do = self.blocks.bytes_of(left) / 1e6
            if len(left) < len(wanted):
                self.say(f"going on with the preparation that was begun: {size - to_do:,.0f} of {size:,.0f} MB")
            self.say(f"tokenizing {human_bytes(1e6 * to_do)}")
            build(
                self.unfinished,
                self.split.assign(self.documents),
                self.surveyed,
                self.blocks,
                left,
                tokenizer,
                self.layout,
                self.context + 1,  # as many targets, and the token before the first
                key=key,
                say=self.say,
            )
        return wanted

    def complete(self, certain: Collection[int]) -> bool:
        """Put the blocks together, if all are whole; those that are not `certain` to be are hashed first.

        That is done by manifests: no token is read or moved. May be done again, wherever it was cut short.
        """
        tokenizer, key = self.tokenizer, self.folder.name
        assert not isinstance(tokenizer, TokenizerConfig), "build comes first"
        records = [
            finished_block(self.unfinished, number, key, tokenizer.fingerprint, verify=number not in certain)
            for number in range(self.blocks.count)
        ]
        whole = [record for record in records if record]
        if len(whole) < self.blocks.count:
            return False
        self._seal(whole, tokenizer)
        write_facts(self.unfinished, self._facts(whole))
        shutil.rmtree(self.folder, ignore_errors=True)  # a damaged one
        self.unfinished.rename(self.folder)
        _tidy(self.folder)
        return True

    def discard(self) -> None:
        """Remove what was begun: another process has made the entry."""
        shutil.rmtree(self.unfinished, ignore_errors=True)

    def _seal(self, records: Sequence[Record], tokenizer: Tokenizer) -> None:
        for split in SPLITS:
            seal(
                self.unfinished / split,
                [record["stretches"][split] for record in records],
                dtype=tokenizer.id_dtype,
                roles=self.layout is not None,
                tokenizer_fingerprint=tokenizer.fingerprint,
                source_fingerprint=self.surveyed.fingerprint,
                split=split,
                text_bytes=sum(record["text_bytes"][split] for record in records),
            )

    def _facts(self, records: Sequence[Record]) -> dict[str, object]:
        tally = Tally()
        for record in records:
            tally.merge(Tally.from_json(record["tally"]))
        return {
            "n_documents": self.surveyed.n_documents,
            "tally": tally.as_json(),
            "train_documents": self._train_rows(records),
        }

    def _train_rows(self, records: Sequence[Record]) -> list[int]:
        """Rows of each source in the training split; a record may take several."""
        counted = Counter[str]()
        for record in records:
            counted.update(record["train_rows"])
        return [counted[str(group)] for group in self.surveyed.sources()]

    def _ready_tokenizer(self) -> Tokenizer:
        """The tokenizer that was given, that an interrupted preparation has left, or one trained now; it is saved."""
        saved = self.unfinished / "tokenizer"
        if isinstance(self.tokenizer, TokenizerConfig):
            try:
                return store.load(saved)
            except PrimegptError:
                tokenizer = self._trained_tokenizer(self.tokenizer)
        else:
            tokenizer = self.tokenizer
        store.save(tokenizer, saved)
        return tokenizer

    def _trained_tokenizer(self, config: TokenizerConfig) -> Tokenizer:
        size = config.learnt_vocab_size
        # Characters come from all of the text, so that none of the user's own is unknown: the model learns no more of
        # the validation text from this than its alphabet. Merges would tell more, and come from training text alone.
        by_character = config.facts.unit == "character"
        wanted = ("train", "val") if by_character else ("train",)
        every = 1 if by_character else -(-self.surveyed.n_bytes // LEARNT_FROM)  # one byte in so many
        if size:
            used = self.surveyed.n_bytes / every / 1e6
            self.say(f"training a {config.kind} tokenizer of {size:,} ids on about {human_bytes(1e6 * used)}")
        return store.train(config.kind, self._texts(wanted, every), size, config.special_tokens)

    def _texts(self, wanted: tuple[str, ...], every: int) -> Iterable[str]:
        """One in `every` records, or bytes of text, spread over all there is: of a long text some of its parts."""
        seen = used = 0
        for name, number, document in self.split.assign(self.documents):
            if name not in wanted:
                continue
            size = 1 if self.layout else len(document.text)
            if used * every <= seen:
                used += size
                yield from self.layout.texts(document, number) if self.layout else (document.text,)
            seen += size


def _tidy(folder: Path) -> None:
    """Remove what only an unfinished entry needs, and what killed processes have left in it."""
    belongs = {folder / name for name in ("tokenizer", *SPLITS, FACTS)}
    for split in SPLITS:
        manifest = json.loads((folder / split / MANIFEST).read_bytes())
        belongs |= {folder / split / name for name in (MANIFEST, *manifest["files"])}
    for path in [*folder.iterdir(), *(path for split in SPLITS for path in (folder / split).iterdir())]:
        if path not in belongs:
            remove(path)
