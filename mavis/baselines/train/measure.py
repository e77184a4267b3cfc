"""How a tuned policy does on held-out prompts: rewards, and KL from the reference."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mavis.baselines.train.data import WeightedReward
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_requests import Completion
from mavis.decoding.reference import ReferencePolicy
from mavis.progress import track
from mavis.prompts import Prompt, plain
from mavis.storage import chunks

TOP_K = 40  # candidates per token, as everywhere
_TOKENS = 4096  # in a forward pass


def examine(
    reference: ReferencePolicy,
    model: PreTrainedModel,
    scales: Sequence[WeightedReward],
    prompts: Sequence[Prompt],
    max_tokens: int,
    seed: int,
    rows: int,
) -> dict[str, float]:
    """Let a policy answer each prompt once, and measure its answers.

    Returns:
        reward (weighted sum, standard units; 0 is the reference's), reward_se, kl (nats per
        response), length (tokens), and the mean reward of each objective by its name.
    """
    policy = replace(reference, model=model, name="tuned")
    answers: list[Completion] = []
    parts = list(chunks(prompts, rows))
    for part in track(parts, "held-out prompts", "batches", len(parts)):
        answers += GuidedPolicy(policy).generate(
            part, max_tokens=max_tokens, top_k=TOP_K, seed=seed, rows=rows
        )
    asked, said = [plain(a.prompt) for a in answers], [a.text for a in answers]
    columns = {scale.objective.name: scale(asked, said).double() for scale in scales}
    found = {name: column.nanmean().item() for name, column in columns.items()}
    if scales:
        total = torch.stack([s.weight * columns[s.objective.name] for s in scales]).sum(0)  # [B]
        known = total[~total.isnan()]
        found["reward"] = known.mean().item()
        spread = known.std().item() if len(known) > 1 else math.nan
        found["reward_se"] = spread / math.sqrt(max(1, len(known)))
    found["kl"] = response_kl(reference, model, answers).mean().item()
    found["length"] = sum(len(a.tokens) for a in answers) / len(answers)
    return found


@torch.no_grad()
def response_kl(
    reference: ReferencePolicy, model: PreTrainedModel, answers: Sequence[Completion]
) -> Tensor:
    """KL of a policy from the untruncated reference along its own answers, in nats [B].

    The exact sum over the policy's candidates at every state that it came through, which has less
    noise than log-ratios of the tokens that were drawn.
    """
    sequences = [(reference.encode(a.prompt).tokens, a.tokens) for a in answers]
    order = sorted(range(len(answers)), key=lambda at: sum(map(len, sequences[at])))
    longest = max(sum(map(len, sequence)) for sequence in sequences)
    found = torch.zeros(len(answers), dtype=torch.float64)
    for batch in chunks(order, max(1, _TOKENS // longest)):
        rows = [sequences[at] for at in batch]
        width = max(len(start) + len(said) for start, said in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long, device=model.device)  # [B, T]
        mask, inside = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for row, (start, said) in enumerate(rows):
            length = len(start) + len(said)
            ids[row, :length] = torch.tensor([*start, *said])
            mask[row, :length] = 1
            inside[row, len(start) - 1 : length - 1] = True  # where a token of the answer is next
        log_pi = _logits(model, ids, mask)[inside].log_softmax(-1)  # [N, V]
        log_ref = _logits(reference.model, ids, mask)[inside].log_softmax(-1)
        best = log_pi.topk(min(TOP_K, log_pi.shape[-1]), dim=-1)  # [N, K]
        log_pi = best.values.log_softmax(-1)
        kl = (log_pi.exp() * (log_pi - log_ref.gather(-1, best.indices))).sum(-1)  # [N]
        per_row = torch.zeros(len(rows), dtype=torch.float64, device=kl.device)
        per_row.index_add_(0, inside.nonzero()[:, 0], kl.double())
        found[list(batch)] = per_row.cpu()
    return found


def _logits(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits.float()
