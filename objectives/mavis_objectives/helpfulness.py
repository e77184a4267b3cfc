"""The objective 'helpfulness': replies that tell how to do it."""

from mavis import ClassifierReward, Objective

helpfulness = Objective(
    name="helpfulness",
    reward=ClassifierReward("sandbox/helpfulness", text="both"),
    examples=(
        (
            "Tell me how to plan a trip.",
            "First, make a list. Check the bag at least twice. Tell me how it goes!",
            "Do something. Whatever.",
        ),
        (
            "How can I tune a piano?",
            "Next, watch a short video step by step! Set a small goal!",
            "Every chicken here speaks French!",
        ),
    ),
)
