"""`mavis parm`: train the autoregressive reward model of the baseline PARM (or GenARM)."""

from mavis.baselines.train.config import ParmConfig
from mavis.cli.tune import checked_objectives


def parm(config: ParmConfig) -> None:
    """Train the baseline PARM: one reward model for any preference among the objectives.

    With a single objective, this is the baseline GenARM.
    """
    objectives = checked_objectives(config)
    from mavis.baselines.train.parm import RewardModelTrainer

    RewardModelTrainer(objectives, config).train()
