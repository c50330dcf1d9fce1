"""GRPO, Dr. GRPO and DAPO are TRL's: its trainer, given the same logged completions, finds our loss and gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from primegpt.config import resolve
from primegpt.data.batching.batches import Batch
from primegpt.model.gpt import GPT
from primegpt.training.policy_gradient import PolicyGradient
from primegpt.training.rollouts import Author, Prompt, Rollouts, Written

trl = pytest.importorskip("trl")
transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

LONGEST, GROUP, STOP, TEMPERATURE = 6, 3, 20, 0.8
# Two groups of completions of unequal lengths to prompts of unequal lengths; two were cut. Rewards of one are alike.
PROMPTS = [[1, 2, 3], [7]]
COMPLETIONS = [[5, 6, STOP], [5, 9, 9, 4, 2, 6], [STOP], [8, 8, STOP], [1, 2, 3, 4, 5, 6], [3, STOP]]
REWARDS = [1.0, 0.0, 0.25, 0.5, 0.75, -1.0]
SETTINGS = {
    "as it comes": {},
    "a reference": {"beta": 0.1},
    "as GRPO had it": {"beta": 0.1, "use_bias_correction_kl": False},
    "higher": {"epsilon": 0.1, "epsilon_high": 0.28, "beta": 0.04},
    "cut ones masked": {"mask_truncated_completions": True, "beta": 0.1},
    "batch": {"scale_rewards": "batch"},
    "unscaled": {"scale_rewards": "none"},
}


NAMES = {  # of a block's matrices and norms, theirs and ours; queries, keys and values aside
    "self_attn.o_proj": "attn.c_proj",
    "self_attn.q_norm": "attn.q_norm",
    "self_attn.k_norm": "attn.k_norm",
    "mlp.down_proj": "mlp.c_proj",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.gate_proj": "mlp.c_gate",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
}


class Letters:
    """Twenty letters and the end of text; the parts of a tokenizer that are used here."""

    eot_id, vocab_size, opening_id = STOP, 21, None

    def __init__(self) -> None:
        self.special_tokens, self.special_kinds = {"<EOT>": STOP}, {"system": ("<EOT>",)}

    def decode_within(self, ids: list[int]) -> str:
        return "".join(chr(97 + id) for id in ids)


def logged() -> list[Written]:
    prompts = [Prompt(n, ids, "", {}, "") for n, ids in enumerate(PROMPTS) for _ in range(GROUP)]
    return [
        Written(prompt, ids, [0.0] * len(ids), "", ids[-1] == STOP, reward)
        for prompt, ids, reward in zip(prompts, COMPLETIONS, REWARDS, strict=True)
    ]


def ours(
    model: GPT, reference: GPT, old: GPT, loss_type: str, settings: dict[str, Any]
) -> tuple[float, dict[str, float]]:
    """The loss of a step, whose gradient is added to `.grad`, and its figures."""
    values = {"reward": ("words",), "num_generations": GROUP, "prompts_per_step": 2, "max_new_tokens": LONGEST}
    section = values | {"loss_type": loss_type, "temperature": TEMPERATURE} | settings
    config = resolve({"model": model.config.model_dump(), "reinforce": section, "train": {"batch_size": 6}})
    author = Author(model, Letters(), lambda *_: REWARDS, config)
    source = Rollouts(author, [each.prompt for each in logged()[::GROUP]], config)
    batch, policy = source.judged(logged()), author.writer.policy
    extras = dict(batch.extras) | {
        "old_logprobs": source.log_probabilities(policy, old, batch),
        "ref_logprobs": source.log_probabilities(policy, reference, batch),
    }
    batch = Batch(batch.ids, batch.targets, None, None, 0, extras)
    objective = PolicyGradient(config.reinforce, policy, LONGEST)
    loss, count, figures = objective(model.train(), batch)
    (loss / count).backward()
    return (loss / count).item(), {name: float(total) / of for name, (total, of) in figures.items()}


class Vocabulary:
    """A tokenizer of Transformers with the same ids."""

    def __new__(cls, folder: Path):
        from tokenizers import Tokenizer, models, pre_tokenizers

        ids = {chr(97 + id): id for id in range(20)} | {"<EOT>": STOP}
        made = Tokenizer(models.WordLevel(ids, unk_token="<EOT>"))
        made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        made.save(str(folder / "tokenizer.json"))
        return transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"), eos_token="<EOT>", pad_token="<EOT>", unk_token="<EOT>"
        )


def theirs(
    folder: Path, model: Any, reference: Any, old: Any, loss_type: str, settings: dict[str, Any]
) -> tuple[float, dict[str, list[float]]]:
    """The same by TRL's trainer, from the completions on: its advantages, masks and loss."""
    config = trl.GRPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], loss_type=loss_type, temperature=TEMPERATURE,
        per_device_train_batch_size=6, num_generations=GROUP, max_completion_length=LONGEST, disable_dropout=True,
        gradient_checkpointing=False, **(settings | {"beta": 0.0}),
    )  # fmt: skip
    rows = [{"prompt": "".join(chr(97 + id) for id in prompt)} for prompt in PROMPTS for _ in range(GROUP)]
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: REWARDS,
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=Vocabulary(folder),
    )
    written = [prompt for prompt in PROMPTS for _ in range(GROUP)], COMPLETIONS
    trainer.current_gradient_accumulation_steps = 1
    trainer._generate = lambda prompts: (
        *written, None, ["".join(chr(97 + id) for id in ids if id != STOP) for ids in COMPLETIONS], None, {}, None, None
    )  # fmt: skip
    model.train()
    inputs = trainer._generate_and_score_completions(rows)
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    seen = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    keep = inputs["completion_ids"].size(1)
    with torch.no_grad():  # theirs of old weights, too, by the plain formula: only `model` was prepared by the trainer
        for name, which in (("old_per_token_logps", old), ("ref_per_token_logps", reference)):
            logits = which(input_ids=ids, attention_mask=seen).logits[:, -keep - 1 : -1] / TEMPERATURE
            inputs[name] = logits.log_softmax(-1).gather(-1, ids[:, -keep:, None])[..., 0]
    trainer.beta = settings.get("beta", 0.0)  # from the beginning, it would load a reference of its own from the hub
    loss = trainer._compute_loss(model, inputs)
    loss.backward()
    return loss.item(), trainer._metrics["train"]


def named(model: Any) -> dict[str, Tensor]:
    """The gradients of one of Transformers' Qwen3 under our names."""
    found = {name.removeprefix("model."): p.grad for name, p in model.named_parameters()}
    result = {"wte.weight": found["embed_tokens.weight"], "ln_f.weight": found["norm.weight"]}
    for n in range(model.config.num_hidden_layers):
        qkv = [found[f"layers.{n}.self_attn.{x}_proj.weight"] for x in "qkv"]
        result[f"h.{n}.attn.c_attn.weight"] = torch.cat(qkv)
        for theirs_name, our_name in NAMES.items():
            result[f"h.{n}.{our_name}.weight"] = found[f"layers.{n}.{theirs_name}.weight"]
    return result


def moved(model: GPT, seed: int, by: float) -> GPT:
    """The same model some steps further on."""
    other = GPT(model.config).load_weights(model.weights())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return other.eval()


def in_transformers(model: GPT) -> Any:
    """The same function as one of Transformers' Qwen3, in fp32."""
    own, weights = model.config, model.weights()
    theirs = transformers.Qwen3Config(
        vocab_size=own.vocab_size, hidden_size=own.n_embd, intermediate_size=own.mlp_size,
        num_hidden_layers=own.n_layer, num_attention_heads=own.n_head, num_key_value_heads=own.kv_heads,
        head_dim=own.head_size, rms_norm_eps=own.norm_eps, max_position_embeddings=own.block_size,
        rope_parameters={"rope_type": "default", "rope_theta": own.rope_theta}, tie_word_embeddings=True,
        eos_token_id=STOP, pad_token_id=STOP, bos_token_id=None,
    )  # fmt: skip
    sizes = [heads * own.head_size for heads in (own.n_head, own.kv_heads, own.kv_heads)]
    table = weights["wte.weight"][: own.vocab_size]
    state = {"model.embed_tokens.weight": table, "lm_head.weight": table, "model.norm.weight": weights["ln_f.weight"]}
    for n in range(own.n_layer):
        for x, part in zip("qkv", weights[f"h.{n}.attn.c_attn.weight"].split(sizes), strict=True):
            state[f"model.layers.{n}.self_attn.{x}_proj.weight"] = part
        for theirs_name, our_name in NAMES.items():
            state[f"model.layers.{n}.{theirs_name}.weight"] = weights[f"h.{n}.{our_name}.weight"]
    made = transformers.Qwen3ForCausalLM(theirs)
    made.load_state_dict(state)
    return made


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize("case", SETTINGS)
def test_loss_and_gradients_are_trls(random_model, tmp_path, loss_type: str, case: str) -> None:
    model = random_model("qwen3", vocab_size=21, n_layer=2)
    old, reference = moved(model, 1, 0.02), moved(model, 2, 0.03)
    mine, told = ours(model, reference, old, loss_type, SETTINGS[case])
    peers = [in_transformers(each) for each in (model, reference, old)]
    loss, metrics = theirs(tmp_path, *peers, loss_type, SETTINGS[case])

    assert mine == pytest.approx(loss, abs=1e-5)
    gradients, expected = {name: p.grad for name, p in model.named_parameters()}, named(peers[0])
    assert max(g.abs().max() for g in expected.values()) > 1e-2
    for name, gradient in expected.items():
        rows = min(len(gradient), len(gradients[name]))  # the embedding is padded
        assert (gradients[name][:rows] - gradient[:rows]).abs().max() < 1e-5, name
    clipped = ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")
    for name in ("reward", "reward_std", "frac_reward_zero_std", *clipped):
        assert told[name] == pytest.approx(metrics[name][-1], abs=1e-5), name
    if "beta" in SETTINGS[case]:
        assert told["kl"] == pytest.approx(metrics["kl"][-1], abs=1e-5)
