"""GGUF files as Transformers reads them and as we do: the same logits, from the same numbers."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import quantize

from primegpt import api, tokenizers

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

CORPUS = "the river ran under a bridge of stone — and the song went on until mörning, it's 12 o'clock\n" * 20
FAMILIES = [
    ("gpt2", {"block_size": 1024}),  # they take no other context, and below no other width of heads
    ("qwen3", {"n_head": 2, "n_kv_head": 1, "head_dim": 128, "rope_theta": 1e6}),
    ("qwen3", {"qk_norm": False, "n_kv_head": 2, "norm_eps": 1e-5, "tie_embeddings": False}),  # that is Llama
]


def quiet(message: str) -> None:
    pass


def requantized(path: Path, kind: gguf.GGMLQuantizationType) -> Path:
    """The file with its matrices in another type, by the library alone."""
    reader, out = gguf.GGUFReader(path), path.with_name(f"{kind.name}.gguf")
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), *field.types[:1], *field.types[1:2])
    for tensor in reader.tensors:
        matrix = tensor.data.ndim == 2 and "position" not in tensor.name
        data = quantize(np.array(tensor.data), kind) if matrix else np.array(tensor.data)
        writer.add_tensor(tensor.name, data, raw_dtype=kind if matrix else tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.mark.parametrize(("preset", "sizes"), FAMILIES)
@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0"])
@torch.inference_mode()
def test_logits_are_those_of_transformers(kind, preset, sizes, random_model, save_run, tmp_path):
    tokenizer = tokenizers.train("bpe", [CORPUS], 320, {"control": ["<song>"]})
    model = random_model(preset, vocab_size=tokenizer.vocab_size, n_embd=64, **sizes)
    path = api.export(save_run(model, tokenizer), tmp_path / "m.gguf", to="gguf", dtype="f32", say=quiet)
    path = requantized(path, gguf.GGMLQuantizationType[kind])
    ours = api.load(api.import_model(path, tmp_path / "back", say=quiet), device="cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    ids = torch.randint(tokenizer.vocab_size, (2, 48), generator=torch.Generator().manual_seed(0))
    expected = theirs.eval()(ids).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(ours.model(ids), expected, atol=1e-4, rtol=0)
