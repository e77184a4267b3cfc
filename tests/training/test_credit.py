"""Joint credit, against the same by explicit least squares over the replies, and on toys."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mavis.training.batching import collate
from mavis.training.credit import FOLDS, STEADY, Equations, Foresight
from mavis.training.packing import pack_tree
from mavis.training.ridge import PRIOR_RIDGE, RIDGES, solve
from mavis.training.targets import soft_targets
from mavis.training.tree import Segment, build_tree

PROMPT, AFTER, BEFORE = 3, 4, 3  # tokens, and the number of features


def example(seed, prompts=9, outputs=2, abstained=0.0, priced=True):
    """Trees with rewards, and features of the states after and before every token of each."""
    random = np.random.default_rng(seed)

    def segment(*ending):
        tokens = random.integers(3, 40, random.integers(1, 4)).tolist()
        ratio = (random.normal(size=len(tokens)) * priced).tolist()
        return Segment(tokens, ratio, *ending)

    found = []
    for _ in range(prompts):
        segments = {(): Segment([1] * PROMPT, [0.0] * PROMPT)}
        for child in range(random.integers(2, 4)):
            segments[child,] = segment()
            for leaf in range(random.integers(1, 4)):
                segments[child, leaf] = segment("said", "end")
        tree = build_tree("p", segments)
        size = len(tree.tokens)
        rewards = random.normal(size=(len(tree.leaves), outputs)).astype(np.float32)
        rewards[random.random(rewards.shape) < abstained] = np.nan
        after, before = random.normal(size=(size, AFTER)), random.normal(size=(size, BEFORE))
        after[:, 0] += before[:, 1]  # what is expected of it
        before[:, -1] = 1.0
        found.append(SimpleNamespace(tree=tree, rewards=rewards, after=after, before=before))
    return found


def batches_of(examples, eta=0.0, at_once=1):
    """The features after and before each token, and the batches, of examples packed `at_once`."""
    for begin in range(0, len(examples), at_once):
        part, packs = examples[begin : begin + at_once], []
        for one in part:
            targets = soft_targets(one.tree, one.rewards, eta)
            gained = getattr(one, "gained", None)
            packs += pack_tree(one.tree, targets, 10_000, 0, eta, gained)
        batch, width = collate(packs), max(len(one.after) for one in part)
        columns = ("after", "before")
        features = [np.stack([padded(getattr(o, c), width) for o in part]) for c in columns]
        yield *map(torch.from_numpy, features), batch


def foresight_of(examples, eta=0.0, at_once=1):
    first = examples[0]
    found = Foresight(first.after.shape[1], first.before.shape[1])
    for columns in batches_of(examples, eta, at_once):
        found.add(*columns)
    return found


def alone(part):
    """Of the only process."""
    return part


def equations_of(examples, eta=0.0, at_once=1, discount=1.0, place=0, foretold=None):
    """The equations of examples, packed `at_once` in a batch; the first tree is of fold `place`."""
    foretold = foretold or foresight_of(examples, eta, at_once).solve(alone)
    found = Equations.none(foretold.mean, examples[0].rewards.shape[1], discount)
    found.trees = place
    for columns in batches_of(examples, eta, at_once):
        found.add(*columns, foretold.price, discount)
    return found


def padded(rows, width):
    """What padding holds must not matter."""
    return np.concatenate([rows, np.full((width - len(rows), rows.shape[1]), 99.0)])


def path_to(tree, leaf):
    """The response's tokens that lead to the end of a leaf."""
    path, previous, place = [], tree.previous(), int(tree.start[leaf + 1]) - 1
    while place >= PROMPT:
        path.append(place)
        place = int(previous[place])
    return path


def regressions(examples, eta):
    """By explicit least squares: X, y and the fold of every reply, and what predicts φ."""
    used = []  # abstaining replies left out, then prompts with fewer than two
    for one in examples:
        kept = [k for k, r in enumerate(one.rewards) if np.isfinite(r).all()]
        used += [(one, kept)] if len(kept) > 1 else []
    g = np.concatenate([one.before[PROMPT:] for one, _ in used])
    φ = np.concatenate([one.after[PROMPT:] for one, _ in used])
    price = np.concatenate([eta * one.tree.log_ratio[PROMPT:].astype(float) for one, _ in used])
    ridge = STEADY * np.mean(np.linalg.eigvalsh(g.T @ g))
    mean, cost = (ridged(g, y, ridge) for y in (φ, price[:, None]))
    rows, aims, folds = [], [], []
    for fold, (one, kept) in enumerate(used):
        paths = [path_to(one.tree, one.tree.leaves[k]) for k in kept]
        x = [sum(one.after[t] - one.before[t] @ mean for t in path) for path in paths]
        paid = [sum(one.before[t] @ cost for t in path) for path in paths]
        y = one.rewards[kept].astype(float) - np.array(paid)
        rows.append(np.array(x) - np.mean(x, 0))
        aims.append(y - y.mean(0))
        folds += [fold % FOLDS] * len(kept)
    return np.concatenate(rows), np.concatenate(aims), np.array(folds), mean


def ridged(x, y, ridge):
    """argmin ‖x θ − y‖² + ridge ‖θ‖², as plain least squares of longer columns."""
    longer = np.concatenate([x, np.sqrt(ridge) * np.eye(x.shape[1])])
    zeros = np.zeros((x.shape[1], y.shape[1]))
    return np.linalg.lstsq(longer, np.concatenate([y, zeros]), rcond=None)[0]


def naive(x, y, folds):
    """θ, correlation and slope, by cross-validation written out, one objective after another."""
    scale, found = np.square(x).sum() / len(x), []
    for aim in y.T[..., None]:
        tried = []
        for share in RIDGES:
            foretold = np.empty_like(aim)
            for fold in range(FOLDS):
                out = folds == fold
                foretold[out] = x[out] @ ridged(x[~out], aim[~out], share * scale)
            both = float((foretold * aim).sum())
            lengths = np.sqrt(np.square(foretold).sum() * np.square(aim).sum())
            tried.append((both / lengths, both / np.square(foretold).sum(), share))
        correlation, slope, share = max(tried)
        θ = ridged(x, aim, share * scale)[:, 0] * np.clip(slope, 0, 1)
        found.append((θ, correlation, slope))
    return [np.array(column) for column in zip(*found, strict=True)]


def assert_is(solution, regression):
    x, y, folds, mean = regression
    θ, correlation, slope = naive(x, y, folds)
    close = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(solution.weights, θ.T, **close)
    np.testing.assert_allclose(solution.expected, mean @ θ.T, **close)
    np.testing.assert_allclose(solution.correlation, correlation, **close)
    np.testing.assert_allclose(solution.slope, slope, **close)


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("abstained", [0.0, 0.3])
@pytest.mark.parametrize("at_once", [1, 4])
def test_against_explicit_least_squares(eta, abstained, at_once):
    useful = 0
    for seed in range(4):
        examples = example(seed, abstained=abstained)
        regression = regressions(examples, eta)
        found = solve(equations_of(examples, eta, at_once))
        assert_is(found, regression)
        useful += int((found.weights != 0).any())
    assert useful > 0  # noise that foretells nothing by luck, too, would be 0 = 0


def sums_of_advantages(seed, prompts, noise=0.0):
    """Rewards that are sums of what each token brings, in truth: ⟨θ, φ⟩, of mean zero."""
    random = np.random.default_rng(seed)
    examples, truth = example(seed, prompts, priced=False), random.normal(size=(AFTER, 2))
    for one in examples:
        one.after -= one.before @ [[0] * AFTER, [1, *[0] * (AFTER - 1)], [0] * AFTER]
        paths = [path_to(one.tree, leaf) for leaf in one.tree.leaves]
        one.rewards = np.array([sum(one.after[t] @ truth for t in path) for path in paths])
        one.rewards += 3.0 + noise * random.normal(size=one.rewards.shape)
    return examples, truth


def test_what_tokens_bring_is_found_again():
    examples, truth = sums_of_advantages(0, 300)
    found = solve(equations_of(examples, at_once=20))
    np.testing.assert_allclose(found.weights, truth, atol=0.03)
    assert (found.correlation > 0.99).all()
    np.testing.assert_allclose(found.slope, 1.0, atol=0.05)


def test_values_that_foretell_little_are_small():
    examples, truth = sums_of_advantages(0, 16, noise=20.0)
    quiet = solve(equations_of(sums_of_advantages(0, 16)[0]))
    found = solve(equations_of(examples))
    assert np.linalg.norm(found.weights) < 0.3 * np.linalg.norm(truth)
    assert (found.correlation < quiet.correlation).all()
    assert (found.weights[:, found.slope <= 0] == 0).all()


def test_rewards_that_are_all_the_same_teach_nothing():
    examples = example(2)
    for one in examples:
        one.rewards[:] = 1.5
    found = solve(equations_of(examples))
    for part in (found.weights, found.expected, found.correlation):
        assert (part == 0).all()


def test_the_price_of_the_policy_is_charged():
    """Replies that earn just what their policy's KL costs are no better than any other."""
    examples, cost = example(3), 0.8
    for one in examples:
        one.tree.log_ratio[PROMPT:] = cost + 0.5 * one.before[PROMPT:, 0]  # the state's, exactly
        paths = [path_to(one.tree, leaf) for leaf in one.tree.leaves]
        kl = [2.0 * sum(one.tree.log_ratio[t] for t in path) for path in paths]
        one.rewards = np.array(kl, np.float32)[:, None] + np.zeros((1, 2), np.float32)
    trees = equations_of(examples, eta=2.0)
    free = equations_of(examples, eta=0.0)
    assert (trees.spread.sum(0) < 1e-4 * free.spread.sum(0)).all()
    assert trees.products.sum(0).abs().max() < 1e-3 * free.products.sum(0).abs().max()


def test_several_objectives_are_each_alone():
    examples = example(5, outputs=3)
    both = solve(equations_of(examples, 0.5))
    for m in range(3):
        alone = [SimpleNamespace(**vars(o) | {"rewards": o.rewards[:, [m]]}) for o in examples]
        found = solve(equations_of(alone, 0.5))
        torch.testing.assert_close(found.weights[:, 0], both.weights[:, m])
        torch.testing.assert_close(found.correlation[0], both.correlation[m])


def test_the_order_of_trees_within_their_folds_is_no_matter():
    examples = example(6, prompts=8)
    turned = examples[4:] + examples[:4]
    one, two = (solve(equations_of(e, 0.5)) for e in (examples, turned))
    torch.testing.assert_close(one.weights, two.weights)
    # In other folds, they are the same in sum.
    whole, other = (equations_of(e, 0.5) for e in (examples, examples[1:] + examples[:1]))
    torch.testing.assert_close(whole.squares.sum(0), other.squares.sum(0))


def test_processes_add_up():
    """What states foretell, and the equations."""
    examples = example(7, prompts=8)
    whole, mine, theirs = (foresight_of(e, 0.5) for e in (examples, examples[:5], examples[5:]))
    others = iter([theirs.before, theirs.along])
    wanted, foretold = whole.solve(alone), mine.solve(lambda part: part + next(others))
    for found, part in zip(foretold, wanted, strict=True):
        torch.testing.assert_close(found, part)
    for discount in (1.0, 0.6):
        if discount < 1:
            examples = with_increments(examples)
        how = {"eta": 0.5, "discount": discount, "foretold": wanted}
        parts = [(examples, 0), (examples[:5], 0), (examples[5:], 5)]
        whole, mine, theirs = (equations_of(part, place=at, **how) for part, at in parts)
        names = ("squares", "products", "spread", "replies", "token_squares", "token_products")
        added = [getattr(theirs, name) for name in names if getattr(theirs, name) is not None]
        added.reverse()
        found = mine.totals(lambda part, rest=added: part + rest.pop())
        assert mine.replies < found.replies == whole.replies
        for name in names:
            part = getattr(whole, name)
            if part is not None:
                torch.testing.assert_close(getattr(found, name), part)


def test_trees_that_are_added_later_are_as_those_of_before():
    """Of the same policy: nothing changes but what foretells them, if that is not the same."""
    examples = example(7, prompts=12)
    foretold = foresight_of(examples).solve(alone)
    whole = equations_of(examples, foretold=foretold)
    found = equations_of(examples[:6], foretold=foretold)
    for columns in batches_of(examples[6:]):
        found.add(*columns, foretold.price)
    torch.testing.assert_close(found.squares, whole.squares)
    torch.testing.assert_close(solve(found).weights, solve(whole).weights)


def test_trees_of_two_rounds():
    """Each with the features and the price expected under its own policy."""
    first, later = example(8), example(9)
    parts = [regressions(first, 0.5), regressions(later, 0.3)]
    x, y, folds = (np.concatenate([part[at] for part in parts]) for at in range(3))
    equations = equations_of(first, 0.5) + equations_of(later, 0.3)
    assert equations.replies == len(x)
    assert_is(solve(equations), (x, y, folds, parts[1][3]))


def test_a_spread_that_rounding_leaves_below_zero_is_none():
    trees = equations_of(example(2))
    found = solve(replace(trees, spread=0.0 * trees.spread - 1e-18))
    assert found.correlation.isfinite().all()
    assert found.weights.isfinite().all()


def test_one_reply_to_each_prompt_says_nothing():
    examples = example(1, prompts=3)
    for one in examples:
        one.rewards[1:] = np.nan
    with pytest.raises(ValueError, match="needs two scored replies to a prompt"):
        equations_of(examples)


# Rewards on prefixes


def with_increments(examples, seed=0):
    """Increments that sum to the rewards of replies, less the mean of the prompt's."""
    random = np.random.default_rng(seed)
    for one in examples:
        size = len(one.tree.tokens), one.rewards.shape[1]
        potential = random.normal(size=size).astype(np.float32)
        potential[:PROMPT] = np.nanmean(one.rewards, 0)
        for leaf, reward in zip(one.tree.leaves, one.rewards, strict=True):
            potential[one.tree.start[leaf + 1] - 1] = reward
        one.gained = potential - potential[np.maximum(one.tree.previous(), 0)]
    return examples


def token_regression(examples, eta, discount):
    """By their definition: rows, aims and folds of the equations of single tokens."""
    mean = regressions(examples, eta)[3]
    g = np.concatenate([one.before[PROMPT:] for one in examples])
    price = np.concatenate([eta * one.tree.log_ratio[PROMPT:].astype(float) for one in examples])
    cost = ridged(g, price[:, None], STEADY * np.mean(np.linalg.eigvalsh(g.T @ g)))
    rows, aims, folds = [], [], []
    for number, one in enumerate(examples):
        paths = [path_to(one.tree, leaf)[::-1] for leaf in one.tree.leaves]
        for begin in range(max(map(len, paths))):
            left = [path[begin:] for path in paths if len(path) > begin]
            shares = [discount ** np.arange(len(path)) for path in left]
            new = [(one.after - one.before @ mean)[p] for p in left]
            paid = [one.gained[p] - one.before[p] @ cost for p in left]
            for found, parts in ((rows, new), (aims, paid)):
                sums = np.array([s @ part for s, part in zip(shares, parts, strict=True)])
                weight = 1.0 if begin == 0 else np.sqrt(1 - discount**2)
                found.append(weight * (sums - sums.mean(0)))
            folds += [number % FOLDS] * len(left)
    return np.concatenate(rows), np.concatenate(aims), np.array(folds)


@pytest.mark.parametrize("discount", [0.0, 0.6, 0.95])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_discounted_increments_against_explicit_least_squares(discount, eta):
    """θ = c θ₀ + δ by least squares of whole replies; θ₀ solves the equations of tokens."""
    examples = with_increments(sums_of_advantages(4, 24, noise=1.0)[0])
    found = solve(equations_of(examples, eta, 5, discount=discount))
    x, y, folds, _ = regressions(examples, eta)
    rows, aims, of = token_regression(examples, eta, discount)
    scale = np.square(x).sum() / len(x)

    def solved(m, share, without):
        start = ridged(rows[of != without], aims[of != without][:, [m]], PRIOR_RIDGE * scale)
        some, aim = x[folds != without], y[folds != without][:, [m]]
        # c is a column of its own, which no ridge weighs on; below 0 it is left out.
        both = np.concatenate([some @ start, some], 1)
        free = np.sqrt(share * scale) * np.eye(both.shape[1])[1:]
        zeros = np.zeros((len(free), 1))
        longer = np.concatenate([both, free]), np.concatenate([aim, zeros])
        c, *δ = np.linalg.lstsq(*longer, rcond=None)[0][:, 0]
        return c * start[:, 0] + δ if c > 0 else ridged(some, aim, share * scale)[:, 0]

    for m in range(2):
        tried = []
        for share in RIDGES:
            foretold = np.empty(len(y))
            for fold in range(FOLDS):
                foretold[folds == fold] = x[folds == fold] @ solved(m, share, fold)
            both, length = foretold @ y[:, m], foretold @ foretold
            tried.append((both / np.sqrt(length * (y[:, m] @ y[:, m])), both / length, share))
        correlation, slope, share = max(tried)
        θ = solved(m, share, None) * np.clip(slope, 0, 1)
        np.testing.assert_allclose(found.weights[:, m], θ, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.correlation[m], correlation, rtol=1e-4)
        np.testing.assert_allclose(found.slope[m], slope, rtol=1e-4)


def test_discounted_by_nothing_they_are_the_equations_of_whole_replies():
    """In the limit: the first token's equation is the whole reply's, and the others weigh nothing.

    What the rewards of prefixes are is then no matter.
    """
    one = equations_of(example(5), 0.5)
    near = equations_of(with_increments(example(5)), 0.5, discount=1 - 1e-12)
    torch.testing.assert_close(near.squares, one.squares)
    torch.testing.assert_close(near.token_squares, one.squares.float(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(near.token_products, one.products, rtol=1e-4, atol=1e-4)
    assert one.token_squares is None


def test_rewards_that_grow_with_each_token_are_found_from_fewer_replies():
    """Where the increments say what each token brings, the luck of the others is no noise."""
    off = {}
    for discount in (1.0, 0.5):
        examples, truth = sums_of_advantages(1, 24)
        random = np.random.default_rng(0)
        for one in examples:
            noise = random.normal(size=(len(one.tree.tokens), 2))
            one.gained = (one.after @ truth + noise).astype(np.float32)
            paths = [path_to(one.tree, leaf) for leaf in one.tree.leaves]
            one.rewards = np.array([one.gained[path].sum(0) for path in paths])
        found = solve(equations_of(examples, discount=discount))
        off[discount] = float((found.weights.double() - torch.from_numpy(truth)).norm())
    assert off[0.5] < 0.8 * off[1.0]


def test_equations_of_tokens_add_up_over_rounds():
    examples = with_increments(example(8, prompts=8))
    parts = [equations_of(part, discount=0.7) for part in (examples, examples)]
    both = parts[0] + parts[1]
    torch.testing.assert_close(both.token_squares, 2 * parts[0].token_squares)
    torch.testing.assert_close(both.token_products, 2 * parts[0].token_products)


def test_replies_without_a_reward_are_in_no_equation_of_tokens():
    """Whatever their tokens are, however many; places that no other reply comes to are none."""
    examples = with_increments(example(8, prompts=6))
    for one in examples:
        paths = [path_to(one.tree, leaf) for leaf in one.tree.leaves]
        longest = max(range(len(paths)), key=lambda reply: len(paths[reply]))
        one.rewards[longest] = np.nan
        kept = [place for reply, path in enumerate(paths) if reply != longest for place in path]
        one.alone = [place for place in paths[longest] if place not in kept]
    foretold = foresight_of(examples).solve(alone)
    before = equations_of(examples, discount=0.6, foretold=foretold)
    for one in examples:
        one.after[one.alone] += 7.0
        one.before[one.alone] -= 3.0
        one.gained[one.alone] = 99.0
    after = equations_of(examples, discount=0.6, foretold=foretold)
    assert before.token_squares.isfinite().all()
    assert before.token_squares.any()
    torch.testing.assert_close(after.token_squares, before.token_squares)
    torch.testing.assert_close(after.token_products, before.token_products)
