"""The reward models that published comparisons use on Anthropic/hh-rlhf, as objectives.

They are loaded from the hub, or from folders of the same names, when they are first used.
"""

from mavis import ClassifierReward, Objective

PROMPTS = "Anthropic/hh-rlhf"

hh_helpfulness = Objective(
    name="hh-helpfulness",
    reward=ClassifierReward(
        "Ray2333/gpt2-large-helpful-reward_model", text="both", template="dialogue"
    ),
    prompts=PROMPTS,
)

hh_harmlessness = Objective(
    name="hh-harmlessness",
    reward=ClassifierReward(
        "Ray2333/gpt2-large-harmless-reward_model", text="both", template="dialogue"
    ),
    prompts=PROMPTS,
)

hh_humor = Objective(
    name="hh-humor",
    reward=ClassifierReward("mohameddhiab/humor-no-humor", label=1),
    prompts=PROMPTS,
)
