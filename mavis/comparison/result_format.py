"""The schema of `results.json`, which holds everything that the report shows."""

from typing import Any, NotRequired, TypedDict

Number = float | None  # NaN and infinities are null in JSON


class Estimate(TypedDict):
    """A number with its 95 % interval."""

    value: Number
    low: Number
    high: Number


class Point(TypedDict):
    """A method at one strength. The reference policy's point also has answer statistics."""

    strength: float
    kl: Number
    rewards: list[Number]  # [M]
    length: NotRequired[float]
    kl_truncation: NotRequired[Number]  # what leaving out tokens costs beside; not in older files


class MethodResults(TypedDict):
    """The results of one method."""

    rewards: list[list[Estimate] | None]  # [W][M]; None: it does not reach the KL
    indicators: dict[str, Estimate | None]
    answers: dict[str, Number]  # statistics of its answers
    strengths: list[float]  # [W]
    training_cpu_seconds: Number
    parameters: int
    tokens_per_cpu_second: Number
    points: list[list[Point]]  # [W], by strength


class Answer(TypedDict):
    """One method's answer to a sample prompt."""

    text: str
    rewards: list[Number]  # [M]
    kl: Number


class Sample(TypedDict):
    """A sample prompt, with every method's answer at one weighting."""

    weights: list[float]
    number: int
    prompt: str
    answers: dict[str, Answer]


class Pair(TypedDict):
    """The paired differences between two methods in every indicator."""

    methods: list[str]
    differences: dict[str, Estimate | None]


class Lead(TypedDict):
    """MAVIS against one baseline: ratios and differences of the indicators."""

    hypervolume_ratio: Estimate | None  # None: undefined
    gain_ratio: Estimate
    gain_difference: Estimate


class Results(TypedDict):
    """The contents of `results.json`."""

    objectives: list[str]
    units: list[dict[str, float]]  # mean and std [M]
    kl: float
    weightings: list[list[float]]  # [W][M]
    reference_point: list[float] | None
    hypervolume_undefined: NotRequired[str | None]  # the reason; missing in older files
    reference: Point
    methods: dict[str, MethodResults]
    ahead: dict[str, Lead]  # by baseline
    paired: NotRequired[list[Pair]]
    by_seed: list[dict[str, dict[str, float]]]  # method -> indicator -> value
    overlap: NotRequired[dict[str, int | None]]
    judged: NotRequired[dict[str, list[str] | None]]
    samples: NotRequired[list[Sample]]
    warnings: list[str]
    settings: dict[str, Any]
