"""New ids for a trained model: rows for tokens that its vocabulary did not have."""

from collections.abc import Mapping

from torch import Tensor

from primegpt.config import ModelConfig

ROWS = ("wte.weight", "lm_head.weight")  # weights with a row for each id


def grown(weights: Mapping[str, Tensor], old: ModelConfig, new: ModelConfig) -> dict[str, Tensor]:
    """`weights` of the model `old` for the model `new`, which has more ids and is the same otherwise.

    A new token starts as the mean of the old ones: as input it is like any of them, as output it is no likelier than
    they are on average, so that what the model writes hardly changes at first (Hewitt 2021, "Initializing new word
    embeddings for pretrained language models").
    """
    result = dict(weights)
    for name in ROWS:
        if name in weights and new.vocab_size > old.vocab_size:
            known = weights[name][: old.vocab_size]  # (V, C), without the padding
            rows = known.new_zeros(new.padded_vocab_size, known.size(1))
            rows[: old.vocab_size] = known
            rows[old.vocab_size : new.vocab_size] = known.mean(0)
            result[name] = rows
    return result
