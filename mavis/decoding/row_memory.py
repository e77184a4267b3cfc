"""How many rows fit into memory: what a row of the caches takes, and what is free.

The number of rows changes how fast replies are sampled, and never which.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from mavis.decoding.kv_cache import CachedRows
from mavis.decoding.reference import SMALL, ReferencePolicy
from mavis.prompts import Prompt

FEWEST, MOST = 8, 128  # rows that are chosen
# Of a large model on a CPU: twice as many were 3 % faster, for .3 GB.
MOST_ON_CPU = 64
SHARE = 0.5  # of the free memory is for rows that are chosen
GUIDED = 2  # rows of guides beside those of the reference policy: as much again, at most
LOGITS = 4  # float32 copies of a row's logits, while its candidates are looked for
MEASURED = 256  # prompts whose lengths are looked at
GB = 1e9
_PAGES = "SC_AVPHYS_PAGES", "SC_PAGE_SIZE"


def fitting_rows(
    asked: int | None,
    reference: ReferencePolicy,
    prompts: Sequence[Prompt],
    max_tokens: int,
    option: str = "--data.rows",
) -> int:
    """How many replies to sample at the same time: as many as asked for, or as fit comfortably.

    Args:
        asked: the number of rows, None to have it chosen.
        reference: π_ref, where it will run.
        prompts: what it will reply to.
        max_tokens: the longest reply.
        option: what sets the number of rows.

    Raises:
        ValueError: as many as asked for cannot fit.
    """
    free = free_memory(reference.model.device)
    small = reference.model.num_parameters() < SMALL
    most = MOST_ON_CPU if reference.model.device.type == "cpu" and not small else MOST
    if free is None:
        return most if asked is None else asked
    some = prompts[:: -(-len(prompts) // MEASURED) or 1]
    lengths = np.array([reference.length(prompt) for prompt in some] or [0]) + max_tokens
    each, logits = token_bytes(reference.model), LOGITS * 4 * reference.vocabulary
    # Buffers are as wide as the longest row, which is what is planned for; but an error is only
    # right where not even what rows hold, without guides, could fit.
    comfortable = GUIDED * each * int(lengths.max()) + logits
    least = each * float(lengths.mean()) + logits
    chosen = min(most, max(FEWEST, int(SHARE * free / comfortable)))
    if asked is not None and asked * least > free:
        raise ValueError(
            f"{option} {asked} needs about {asked * least / GB:.1f} GB of memory for the keys "
            f"and values of its replies, and {free / GB:.1f} GB are free: give {option} "
            f"{min(chosen, max(1, int(free / least)))}."
        )
    return chosen if asked is None else asked


def token_bytes(model: PreTrainedModel) -> int:
    """The bytes of a token's keys and values in all layers, found by reading one."""
    rows = CachedRows(model, 1)
    with torch.inference_mode():
        rows.extend(np.array([0]), [[0]], silent=True)
    buffers = (*rows.cache.keys, *rows.cache.values)
    return sum(buffer.numel() * buffer.element_size() for buffer in buffers) // rows.cache.slots


def free_memory(device: torch.device) -> int | None:
    """The free bytes of a device, or of this machine; None where nothing tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    table = Path("/proc/meminfo")  # counts what the system would give up for us, such as old pages
    if table.is_file():
        lines = (line.split() for line in table.read_text().splitlines())
        found = {name: int(value) * 1024 for name, value, *_ in lines}
        if "MemAvailable:" in found:
            return min(found["MemAvailable:"], _left_of_limit())
    if all(name in os.sysconf_names for name in _PAGES):
        return int(np.prod([os.sysconf(name) for name in _PAGES]))
    return None


def _left_of_limit(folder: Path = Path("/sys/fs/cgroup")) -> int:
    """What a container may still take; a large number without a limit."""
    limit, used = folder / "memory.max", folder / "memory.current"
    most = limit.read_text().strip() if limit.is_file() and used.is_file() else "max"
    return max(0, int(most) - int(used.read_text())) if most.isdigit() else 1 << 62
