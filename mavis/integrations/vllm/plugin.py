"""The general plugin: every process of vLLM calls it before a model is built."""

import os

from mavis.value_places import VARIABLE


def keep_states() -> None:
    """Have vLLM's last layer keep its states, where value models are named; it may be called again.

    Without value models nothing is imported, and vLLM is as it was.
    """
    if os.environ.get(VARIABLE):
        from mavis.integrations.vllm.engine import replace_layer

        replace_layer()
