"""What `results.json` holds: everything that the report shows of a comparison."""

from typing import Any, NotRequired, TypedDict

Number = float | None  # NaN and infinities are null in JSON


class Estimate(TypedDict):
    """A number with its 95 % interval."""

    value: Number
    low: Number
    high: Number


class Point(TypedDict):
    """Where a method is at one strength; the reference's own has the look of its answers, too."""

    strength: float
    kl: Number
    rewards: list[Number]  # [M]
    length: NotRequired[float]


class MethodResults(TypedDict):
    """What one method comes to."""

    rewards: list[list[Estimate] | None]  # [W][M]; None: it does not get to the KL
    indicators: dict[str, Estimate | None]
    answers: dict[str, Number]  # what its answers are like
    strengths: list[float]  # [W]
    training_cpu_seconds: Number
    parameters: int
    tokens_per_cpu_second: Number
    points: list[list[Point]]  # [W], by strength


class Answer(TypedDict):
    """One method's answer to a prompt that is shown."""

    text: str
    rewards: list[Number]  # [M]
    kl: Number


class Sample(TypedDict):
    """A prompt that is shown, and what all methods answer at one weighting."""

    weights: list[float]
    number: int
    prompt: str
    answers: dict[str, Answer]


class Pair(TypedDict):
    """How far one method is from another by every indicator."""

    methods: list[str]
    differences: dict[str, Estimate | None]


class Lead(TypedDict):
    """How far MAVIS is ahead of another method."""

    hypervolume_ratio: Estimate | None  # None: undefined
    gain_ratio: Estimate
    gain_difference: Estimate


class Results(TypedDict):
    """`results.json`."""

    objectives: list[str]
    units: list[dict[str, float]]  # mean and std [M]
    kl: float
    weightings: list[list[float]]  # [W][M]
    reference_point: list[float] | None
    hypervolume_undefined: NotRequired[str | None]  # why; older files have none
    reference: Point
    methods: dict[str, MethodResults]
    ahead: dict[str, Lead]  # of each other method
    paired: NotRequired[list[Pair]]
    by_seed: list[dict[str, dict[str, float]]]  # method -> indicator -> value
    overlap: NotRequired[dict[str, int | None]]
    judged: NotRequired[dict[str, list[str] | None]]
    samples: NotRequired[list[Sample]]
    warnings: list[str]
    settings: dict[str, Any]
