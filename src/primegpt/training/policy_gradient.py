"""The policy gradient: of several completions of a prompt, those above their group's mean become likelier.

The advantage of a completion with reward R is A = (R - mean) / (spread + 1e-4), the same for each of its tokens. With
r = p / p_old of a token, where p_old is the probability that it had when it was drawn, the loss of a token is

    -min(r A, clip(r, 1 - ε, 1 + ε_high) A) + β r (p_ref / p - log(p_ref / p) - 1)

whose last term is an estimate, never negative, of the KL divergence from the model that training began with; without
the r, as GRPO has it, its gradient is that of another divergence (DeepSeek-V3.2, arXiv:2512.02556). The loss of a step
is the mean

    grpo      over completions, each the mean over its tokens        Shao et al. 2024, arXiv:2402.03300
    dr_grpo   over completions, each the sum / max_new_tokens        Liu et al. 2025, arXiv:2503.20783
    dapo      over the tokens of all completions                     Yu et al. 2025, arXiv:2503.14476
"""

from dataclasses import replace

import torch
from torch import Tensor

from primegpt.config import ReinforceConfig
from primegpt.data.batching.batches import IGNORED, Batch
from primegpt.evaluation.perplexity import Figures
from primegpt.model.continuations import log_probabilities
from primegpt.model.gpt import GPT

LEAST_SPREAD = 1e-4  # added to the spread of rewards
PER_TOKEN = ("old_logprobs", "ref_logprobs", "sampling_logprobs")  # extras (B, T): log p of each target


class Policy:
    """What completions are drawn from, and what learns: the model at a temperature, over the ids that are text."""

    def __init__(self, temperature: float, banned: Tensor) -> None:
        self.temperature, self.banned = temperature, banned

    def __call__(self, logits: Tensor) -> Tensor:
        """The logits (N, V) that probabilities are the softmax of, from the model's; fp32."""
        logits = logits.float()
        if len(self.banned):
            logits = logits.index_fill(-1, self.banned, float("-inf"))
        return logits if self.temperature == 1 else logits / self.temperature

    def log_probabilities(self, model: GPT, batch: Batch) -> Tensor:
        """log p of each target, (B, T), 0 where it is ignored."""
        return log_probabilities(model, batch.ids, batch.targets, self)


def advantages(rewards: Tensor, group: int, scale: str) -> tuple[Tensor, Tensor]:
    """How far each of `rewards` (N,) is above the mean of its group, in units of `scale`; and the groups' spread, (N,).

    Completions of one prompt stand next to each other, `group` of them. Where all have one reward, they are above by
    exactly 0, which rounding alone would not give.
    """
    groups = rewards.view(-1, group)
    spread = groups.std(dim=1).repeat_interleave(group)
    alike = (groups == groups[:, :1]).all(dim=1, keepdim=True)
    above = (groups - groups.mean(dim=1, keepdim=True)).masked_fill(alike, 0.0).flatten()
    if scale == "none":
        return above, spread
    return above / ((spread if scale == "group" else rewards.std()) + LEAST_SPREAD), spread


class PolicyGradient:
    """The objective of `reinforce`. A batch's extras hold `advantages` (B,), the log-probabilities PER_TOKEN that are
    needed, and figures (B,) by the names under which they are logged.

    What an evaluation finds is the reward, and its loss minus that: what all this makes smaller.
    """

    is_likelihood, unit = False, "completion"

    def __init__(self, config: ReinforceConfig, policy: Policy, longest: int) -> None:
        self.config, self.policy, self.longest = config, policy, longest

    def count(self, batch: Batch) -> int:
        return batch.supervised if self.config.loss_type == "dapo" else len(batch.ids)

    def __call__(self, model: GPT, batch: Batch) -> tuple[Tensor, int, Figures]:
        told = figures_of(batch)
        if not model.training:
            return -batch.extras["reward"].sum(), len(batch.ids), told
        learnt = batch if self.config.beta else worth_learning(batch)
        logprobs = self.policy.log_probabilities(model, learnt)  # (B, T)
        loss, measured = self.token_losses(logprobs, learnt)
        return self.reduced(loss, learnt.targets != IGNORED), self.count(batch), told | measured

    def token_losses(self, logprobs: Tensor, batch: Batch) -> tuple[Tensor, Figures]:
        """The loss of each token, (B, T), and what is measured of it; where nothing is asked, it means nothing."""
        extras, asked = batch.extras, batch.targets != IGNORED
        old = extras.get("old_logprobs", logprobs.detach())  # drawn from these very weights, unless there is one
        A = extras["advantages"].unsqueeze(1)  # (B, 1)
        ratio, (low, high) = (logprobs - old).exp(), self.config.clip
        loss = -torch.min(ratio * A, ratio.clamp(low, high) * A)

        below, above = (ratio < low) & (A < 0), (ratio > high) & (A > 0)
        apart = (old - extras["sampling_logprobs"]).abs()
        measured = {
            "clip_ratio/low_mean": below,
            "clip_ratio/high_mean": above,
            "clip_ratio/region_mean": below | above,
            "sampling/sampling_logp_difference/mean": apart,
        }
        if self.config.beta:
            log_ratio = extras["ref_logprobs"] - logprobs
            kl = log_ratio.exp() - log_ratio - 1
            if self.config.use_bias_correction_kl:
                kl = kl * ratio
            loss = loss + self.config.beta * kl
            measured = {"kl": kl} | measured
        tokens = int(asked.sum())
        return loss, {name: ((value.detach() * asked).sum(), tokens) for name, value in measured.items()}

    def reduced(self, loss: Tensor, asked: Tensor) -> Tensor:
        """The sum over what `count` counts, of token losses (B, T)."""
        loss = torch.where(asked, loss, 0.0)
        if self.config.loss_type == "grpo":
            return (loss.sum(dim=1) / asked.sum(dim=1).clamp(min=1)).sum()
        return loss.sum() / (self.longest if self.config.loss_type == "dr_grpo" else 1)


def worth_learning(batch: Batch) -> Batch:
    """Without the targets of completions that are no better or worse than their group's mean: they have no gradient.

    Some of them stay, so that few numbers of rows are computed (each has kernels of its own), and never none.
    """
    idle, some = batch.extras["advantages"] == 0, max(1, len(batch.ids) // 4)
    kept = int((~idle).sum())
    spare = -(-max(1, kept) // some) * some - kept
    idle[idle.nonzero().squeeze(1)[:spare]] = False
    return replace(batch, targets=batch.targets.masked_fill(idle[:, None], IGNORED))


def figures_of(batch: Batch) -> Figures:
    """What is known of each completion of a batch, summed."""
    named = {name: value for name, value in batch.extras.items() if name not in ("advantages", *PER_TOKEN)}
    return {name: (value.sum(), len(value)) for name, value in named.items()}
