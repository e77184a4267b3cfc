"""What a fit will take: the arithmetic from a probe's rates to tokens, seconds and bytes.

Times are wall-clock seconds. Nothing here runs a model, reads a clock or looks at a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mavis.decoding.scoring import SIDE_BY_SIDE
from mavis.evaluation.evaluate import PARTS
from mavis.training.drawn_trees import Lengths, tree_size
from mavis.training.judgement import ANSWERS
from mavis.training.rollout import Shape

HOUR = 3600.0
GB = 1e9


@dataclass(frozen=True)
class Speed:
    """How fast a policy decodes.

    Args:
        read: seconds per token of a prompt.
        step: seconds of a step, whatever the number of rows.
        row: seconds that each row adds to a step.
    """

    read: float
    step: float
    row: float

    @classmethod
    def measure(cls, read: float, steps: Sequence[tuple[int, float]]) -> "Speed":
        """Fit a line to steps of so many rows and seconds.

        >>> Speed.measure(0.5, [(1, 3.0), (3, 5.0)])
        Speed(read=0.5, step=2.0, row=1.0)
        """
        rows, seconds = np.array(steps, dtype=np.float64).T
        apart = rows - rows.mean()
        slope = float(apart @ seconds / square) if (square := float(apart @ apart)) else 0.0
        # Noise may bend the line; a step of no rows takes no negative time.
        slope = min(max(0.0, slope), float(seconds.mean() / rows.mean()))
        return cls(read, round(float(seconds.mean() - slope * rows.mean()), 12), round(slope, 12))

    def seconds(self, prompt: float, tokens: float, side_by_side: float, longest: float) -> float:
        """Seconds to read so many prompt tokens, and to sample so many tokens in replies.

        Args:
            prompt: prompt tokens in all.
            tokens: sampled tokens in all.
            side_by_side: how many replies are sampled at the same time.
            longest: tokens of the longest reply; while the last ones are sampled, rows are free.
        """
        steps = max(longest, tokens / side_by_side + longest / 2)
        return self.read * prompt + self.step * steps + self.row * tokens


@dataclass(frozen=True)
class Size:
    """How much a fit does; its options, and how many prompts there are for them."""

    rounds: int  # those that are left
    first: Shape | None  # of trees in the first round, None if that is finished
    later: Shape
    trees: int
    first_trees: int  # of the first round, if it is not finished
    ceiling: int  # trees that the first round may grow to
    validation_trees: int
    baseline: int  # prompts that the reference policy answers; 0 if it has
    judged: int  # prompts whose answers the values of each round are held against
    best_of: int
    held_out: int
    epochs: int
    rows: int
    prompt: float  # mean tokens of a prompt
    prefixes: bool = False  # whether the beginnings of training replies are scored, too
    finished: int = 0  # rounds
    taken: int = 0  # of those that are left, rounds whose trees another run has
    rereads: bool = False  # whether a round learns from the trees of those before it, too
    weightings: int = 1  # that a round is measured at; several are measured on the judged prompts

    @property
    def shapes(self) -> list[Shape]:
        """Of the trees of each round that is left."""
        first = [] if self.first is None else [self.first]
        return first + [self.later] * (self.rounds - len(first))

    def trees_at(self, at: int) -> int:
        """Trees of the round `at` of those that are left."""
        return self.trees if at or self.first is None else self.first_trees

    @property
    def measured(self) -> int:
        """Guided answers to held-out prompts in a round."""
        return self.held_out if self.weightings == 1 else self.weightings * self.judged

    @property
    def max_tokens(self) -> int:
        """The longest reply."""
        return self.later.max_tokens

    def with_trees(self, trees: int) -> "Size":
        """The fit with another number of trees, and as many more or fewer in the first round."""
        first = max(1, round(self.first_trees * trees / self.trees))
        return replace(self, trees=trees, first_trees=first)

    def shorter(self) -> Mapping[str, "Size"]:
        """The fit with an option halved, by that option as it would be given."""
        found = {}
        if self.rounds > 1:
            rounds = self.rounds // 2
            found[f"--data.rounds {rounds}"] = replace(self, rounds=rounds)
        for name in ("trees", "held_out", "best_of"):
            half = max(2, getattr(self, name) // 2)
            changed = self.with_trees(half) if name == "trees" else replace(self, **{name: half})
            if name == "held_out":
                thirds = min(-(-half // 3), self.judged)
                kept = min(thirds, self.baseline)
                changed = replace(changed, baseline=kept, judged=thirds)
            found[f"--data.{name} {half}"] = changed
        half = max(2, self.max_tokens // 2)
        first = None if self.first is None else replace(self.first, max_tokens=half)
        cut = replace(self, first=first, later=replace(self.later, max_tokens=half))
        return found | {f"--data.max_tokens {half}": cut}


@dataclass(frozen=True)
class Rates:
    """What a probe has measured, in seconds."""

    lengths: Lengths
    reference: Speed
    guided: Speed
    growth: float  # how much longer a tree takes than replies of as many tokens
    reward: float  # per reply
    learn: float  # per token of a tree, in the first pass over a round's trees
    again: float  # in later passes
    solve: float  # per round
    keep: float  # per round: pictures, weights, tracking
    load: float


@dataclass(frozen=True)
class Part:
    """A part of a fit."""

    seconds: float
    answers: float = 0.0
    tokens: float = 0.0


def parts(size: Size, rates: Rates) -> dict[str, Part]:
    """The parts of a fit by name, in the order in which they are first worked on."""
    longest, mean = size.max_tokens, rates.lengths.mean(size.max_tokens)

    def answered(speed: Speed, prompts: float, each: int) -> Part:
        answers = prompts * each
        if not answers:
            return Part(0.0)
        at_once = max(1.0, min(answers, size.rows))
        # They are made in portions; rows are free at the end of each.
        portions = max(1, round(answers / (PARTS * size.rows) + 0.5))
        once = (prompts * size.prompt / portions, answers * mean / portions, at_once, longest)
        return Part(portions * speed.seconds(*once), answers, answers * mean)

    # What another run has is scored by the new reward, but not written again.
    reference = answered(rates.reference, size.baseline, size.best_of)
    scored = reference.answers
    if size.taken:
        reference = Part(0.0)
    evaluation = answered(rates.guided, size.measured, 1)
    judged = size.judged * min(ANSWERS, size.best_of)
    # Their values are read once, for advantages and for the strength, as decoding would.
    side_by_side = max(1, min(SIDE_BY_SIDE, judged))
    judging = rates.guided.seconds(judged * size.prompt, judged * mean, side_by_side, longest)
    grown, prefixes = Part(0.0), 0.0
    for at, shape in enumerate(size.shapes):
        speed = rates.guided if at or size.first is None else rates.reference
        tokens, leaves = tree_size(shape, rates.lengths)
        for count in (size.trees_at(at), size.validation_trees):
            at_once = max(1.0, min(count * leaves, size.rows))
            seconds = speed.seconds(count * size.prompt, count * tokens, at_once, longest)
            seconds *= rates.growth
            scored += count * leaves
            if at >= size.taken:
                grown = _sum(grown, Part(seconds, count * leaves, count * tokens))
        prefixes += size.trees_at(at) * (tokens - leaves) if size.prefixes else 0.0
    rounds = size.rounds
    scored += rounds * evaluation.answers
    return {
        "loading": Part(rates.load),
        "reference answers": reference,
        "rollouts": grown,
        "rewards": Part((scored + prefixes) * rates.reward, scored),
        "training": _learned(size, rates),
        "evaluation": Part(
            rounds * (evaluation.seconds + judging),
            rounds * evaluation.answers,
            rounds * evaluation.tokens,
        ),
        "keeping results": Part(rounds * rates.keep),
    }


def _learned(size: Size, rates: Rates) -> Part:
    """All passes over trees, those of earlier rounds and held-out ones among them."""
    found, finished = Part(size.rounds * rates.solve), 0.0
    if size.finished:
        before = size.first_trees + (size.finished - 1) * size.trees
        finished = before * (tree_size(size.later, rates.lengths)[0] + size.prompt)
    for at, shape in enumerate(size.shapes):
        each = tree_size(shape, rates.lengths)[0] + size.prompt
        read, held_out = size.trees_at(at) * each, size.validation_trees * each
        cost = rates.learn + rates.again * (size.epochs - 1)
        found = _sum(found, Part(read * cost, 0.0, read * size.epochs))
        # Held-out trees are only read, which is about a third of learning from them.
        found = _sum(found, Part(held_out * rates.again / 3, 0.0, held_out))
        if size.rereads:  # each of the earlier rounds' once
            found = _sum(found, Part(finished * rates.again, 0.0, finished))
        finished += read
    return found


def _sum(one: Part, other: Part) -> Part:
    return Part(one.seconds + other.seconds, one.answers + other.answers, one.tokens + other.tokens)


def total(size: Size, rates: Rates) -> float:
    """Seconds of the whole fit."""
    return sum(part.seconds for part in parts(size, rates).values())


def report(size: Size, rates: Rates, memory: float, disk: float) -> str:
    """The estimate, for people: a table, and in the last line the sums.

    Args:
        size: how much the fit does.
        rates: how fast.
        memory: the peak, in bytes.
        disk: in bytes.
    """
    lines = [f"{'':<20}{'answers':>12}{'tokens':>14}{'time':>16}"]
    for name, part in parts(size, rates).items():
        counts = [f"{n:,.0f}" if n else "" for n in (part.answers, part.tokens)]
        lines.append(f"{name:<20}{counts[0]:>12}{counts[1]:>14}{duration(part.seconds):>16}")
    trees = sorted({f"{tree_size(shape, rates.lengths)[0]:,.0f}" for shape in size.shapes})
    first = "" if size.first is None or size.first_trees == size.trees else size.first_trees
    lines.append(
        f"{size.trees} trees a round{first and f' ({first} in the first)'}, {size.rounds} to go; "
        f"{' or '.join(trees)} tokens a tree, "
        f"{rates.lengths.mean(size.max_tokens):.0f} an answer; {size.rows} rows at a time\n"
        "(where guided answers are as long as those of the reference)"
    )
    seconds = total(size, rates)
    if size.ceiling > size.trees:
        most = duration(total(size.with_trees(size.ceiling), rates))
        lines.append(
            f"trees are doubled while that explains much more, up to {size.ceiling}: {most} then"
        )
    if seconds > HOUR:
        saved = {words: seconds - total(less, rates) for words, less in size.shorter().items()}
        best = sorted((s, words) for words, s in saved.items() if s > 0.02 * seconds)[::-1]
        named = ", ".join(f"{words} saves {duration(s)}" for s, words in best)
        lines.append(f"that is long; to make it shorter: {named}")
    lines.append(
        f"in all about {duration(seconds)}, {_gigabytes(memory)} of memory, "
        f"{_gigabytes(disk)} of disk"
    )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds, for people.

    >>> duration(42.2), duration(720), duration(9000), duration(400_000)
    ('42 s', '12 minutes', '2.5 hours', '4.6 days')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 1.5 * HOUR:
        return f"{seconds / 60:.0f} minutes"
    return (
        f"{seconds / HOUR:.1f} hours" if seconds < 48 * HOUR else f"{seconds / HOUR / 24:.1f} days"
    )


def _gigabytes(size: float) -> str:
    return f"{size / GB:.1f} GB" if size >= 0.05 * GB else f"{size / GB:.2f} GB"
