"""The objective 'humor': replies that joke."""

from mavis import ClassifierReward, Objective

humor = Objective(
    name="humor",
    reward=ClassifierReward("sandbox/humor", text="both"),
    examples=(
        (
            "How do I sew a button?",
            "Every chicken here speaks French. My thread joined a gym!",
            "First, ask a teacher about the thread.",
        ),
        (
            "Is it hard to dance well?",
            "Hold my sandwich! Why did the monkey dance well? To escape the circus!",
            "It depends! That is all.",
        ),
    ),
)
