"""Whole fits of several objectives by one network: through the command line, stopped and used."""

import json
import shutil

import numpy as np
import pytest
import yaml

from mavis import load
from mavis.cli.main import main
from mavis.decoding.spread import relative_strength
from mavis.objective import find
from mavis.reward import identity
from mavis.storage import Shards
from mavis.training import plots, stored_trees
from mavis.training.held_out import HeldOutPrompts
from mavis.training.judgement import kl_correction
from mavis.training.path_consistency import PathLoss
from mavis.training.round_trees import MANY
from mavis.training.weightings import label, measured

PLUGIN = '''
"""Two objectives that are at odds."""

from mavis import Objective


def of_vowels(prompts, responses):
    return [response.count("a") + response.count("u") for response in responses]


def of_brevity(prompts, responses):
    return [-len(response) + 0.5 * response.count("m") for response in responses]


vowels = Objective(name="vowels", reward=of_vowels)
brevity = Objective(name="brevity", reward=of_brevity, value_args={})
def of_words(prompts, responses):
    return [response.count(" ") for response in responses]


words = Objective(name="words", reward=of_words, value_args={})
deaf = Objective(name="deaf", reward=of_vowels, value_args={"lr": 1.0})
'''
NAMES = ["vowels", "brevity"]


@pytest.fixture(scope="module")
def words(tmp_path_factory, fit_words):
    """`words(out, …)`: as `fit_words`, of the two objectives."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "mavis_pair.py").write_text(PLUGIN)
    info = folder / "mavis_pair-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mavis-pair\nVersion: 1.0\n")
    lines = [f"{name} = mavis_pair:{name}" for name in (*NAMES, "words", "deaf")]
    (info / "entry_points.txt").write_text("\n".join(["[mavis.objectives]", *lines, ""]))

    def build(out, *more, names="vowels,brevity", command="fit"):
        given = fit_words(out, *more, command=command)
        at = given.index("--objective")
        return [*given[:at], "--objectives", names, *given[at + 2 :]]

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield build


@pytest.fixture(scope="module")
def pair(tmp_path_factory, words):
    """The folder of a fit of two rounds. Shared by all tests: copy it to change it."""
    run = tmp_path_factory.mktemp("runs") / "vowels+brevity"
    assert main(words(run)) == 0
    return run


def entries(run):
    return json.loads((run / "metrics.json").read_text())


def test_one_folder_has_all_of_it(pair):
    assert {path.name for path in pair.iterdir()} >= {"config.yaml", "metrics.json", "value"}
    for name in ("vowels", "brevity", "0.5-vowels-0.5-brevity"):
        assert (pair / f"reward_kl-{name}.png").is_file()
        assert (pair / f"rewards-{name}.png").is_file()
    for name in NAMES:
        assert (pair / f"calibration-{name}.png").is_file()
    card = json.loads((pair / "value" / "value.json").read_text())
    assert card["objectives"] == NAMES
    assert card["covariance"][0][1] == card["covariance"][1][0]
    assert np.diag(card["covariance"]).mean() == pytest.approx(1.0)
    text = (pair / "value" / "README.md").read_text()
    for name in NAMES:
        assert f"--weights.{name}" in text


def test_a_round_is_measured_at_every_corner_and_between(pair):
    for entry in entries(pair):
        parts = entry["weightings"]
        assert list(parts) == [label(NAMES, weights) for weights in measured(2)]
        for name in ("reward", "kl", "kl_expected", "advantage_correlation"):
            assert entry[name] == pytest.approx(np.mean([one[name] for one in parts.values()]))
        # One strength and the covariance of the values give that of all weights.
        spent = [one["kl_expected"] for one in parts.values()]
        assert spent == pytest.approx([2.0] * 3, rel=0.02)
        assert entry["trees"] == (4 if entry["round"] else 10)  # of both; there are 10 prompts


def test_every_weighting_is_corrected_by_its_own_kl(pair):
    first, second = entries(pair)
    for name, part in second["weightings"].items():
        before = first["weightings"][name]
        assert before["kl_correction"] == 1.0
        assert part["kl_correction"] == pytest.approx(kl_correction([before]))
    assert len({part["kl_correction"] for part in second["weightings"].values()}) > 1


def test_its_card_names_shares_of_a_strength_that_the_weights_give(pair):
    """There is no one number for all weights."""
    text = (pair / "value" / "README.md").read_text()
    for share in ("0.25", "0.5", "1", "2"):
        assert f"| at {share} × the usual strength | a KL of" in text
    assert "over the spread of what is mixed" in text


def test_a_fit_without_guidance_is_kept_like_any_other(words, tmp_path):
    run = tmp_path / "vowels+brevity"
    assert main(words(run, "--data.beta", "0")) == 0
    assert (run / "value" / "README.md").is_file()


def test_pictures_name_the_rounds(pair, monkeypatch, words):
    drawn, inner = [], plots.reward_kl_figure

    def watched(parts, *others):
        drawn.append([part["round"] for part in parts])
        return inner(parts, *others)

    monkeypatch.setattr(plots, "reward_kl_figure", watched)
    run = pair.parent / "again" / pair.name
    assert main(words(run)) == 0
    assert drawn == [[0]] * 3 + [[0, 1]] * 3


def test_means_are_learned_first_and_then_what_paths_say(words, tmp_path, monkeypatch):
    """In every pass but the first one of all, at steps of their own; not of one objective."""
    steps: list[tuple[int, int]] = []

    class Spied(PathLoss):
        def __call__(self, network, hidden, batch, step):
            steps.append(step)
            return super().__call__(network, hidden, batch, step)

    monkeypatch.setattr("mavis.training.module.PathLoss", Spied)
    assert main(words(tmp_path / "vowels+brevity")) == 0
    assert {epoch for epoch, _ in steps} == {1, 2, 3}  # of two rounds of two passes
    assert len(set(steps)) == len(steps)
    steps.clear()
    assert main(words(tmp_path / "one", names="vowels")) == 0
    assert steps == []


@pytest.mark.parametrize(("names", "rounds"), [("humor", 3), ("humor,helpfulness", 2)])
def test_several_objectives_have_fewer_rounds(capsys, names, rounds):
    """The first of them has more trees."""
    assert main(["fit", "--objectives", names, "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["rounds"] == rounds


def test_trees_have_weights_of_their_own(pair):
    """None in the first round, which the reference grows."""
    for round_ in (0, 1):
        rows = list(Shards(pair / "rollouts" / f"round-{round_}" / "train" / "made").rows())
        weights = {tuple(row["weights"] or ()) for row in rows}
        if round_ == 0:
            assert weights == {()}
        else:
            assert len(weights) > 1
            assert all(sum(one) == pytest.approx(1) for one in weights)


def test_candidates_are_kept_with_the_trees_that_are_learned_from(pair, tiny_fit):
    """Those of held-out trees, and of one objective, are of no use."""

    def kept(run, split):
        every = Shards(run / "rollouts/round-0" / split / "made").rows()
        return {bool(row.get("candidates")) for row in every}

    assert kept(pair, "train") == {True}
    assert kept(pair, "validation") == kept(tiny_fit, "train") == {False}


def test_trees_without_candidates_are_read_for_them(pair, words, tmp_path, monkeypatch):
    """As those of an earlier mavis: it comes to the same."""
    run = tmp_path / "vowels+brevity"
    monkeypatch.setattr("mavis.training.round_trees.MOST", 0)
    assert main(words(run)) == 0
    assert not any("candidates" in row for row in rows_of(run, "rollouts/round-0/train/made"))
    for mine, whole in zip(entries(run), entries(pair), strict=True):
        for name, part in whole["weightings"].items():
            for figure in ("reward", "kl", "beta"):
                assert mine["weightings"][name][figure] == pytest.approx(part[figure], rel=1e-3)


def test_a_stopped_fit_goes_on_and_comes_out_the_same(pair, words, tmp_path, monkeypatch, stopper):
    run = tmp_path / "vowels+brevity"
    with monkeypatch.context() as patch:
        stop = stopper(HeldOutPrompts.evaluate, 5, KeyboardInterrupt())  # in the second round
        patch.setattr(HeldOutPrompts, "evaluate", stop)
        assert main(words(run)) == 130
    assert main(words(run)) == 0
    for mine, whole in zip(entries(run), entries(pair), strict=True):
        for name, part in whole["weightings"].items():
            for figure in ("reward", "kl", "beta"):
                assert mine["weightings"][name][figure] == pytest.approx(part[figure], rel=1e-3)


def test_generate_takes_the_folder_as_it_is(pair, capsys):
    ask = ["generate", "an um", "--runs", str(pair.parent), "--json", "--top_k", "12"]
    both = ["--weights.brevity", "0.5", "--weights.vowels", "0.5"]
    for weights in (both, both[:2], both[2:]):
        assert main([*ask, *weights]) == 0
        (answer,) = map(json.loads, capsys.readouterr().out.splitlines())
        assert answer["kl"] >= 0


def test_a_sweep_compares_it_with_one_by_one(pair, words, tiny_folder, tmp_path, capsys):
    runs = tmp_path / "runs"
    shutil.copytree(pair, runs / pair.name)
    for name in NAMES:
        assert main(words(runs / name, "--data.rounds", "1", names=name)) == 0
    ask = ["pareto", "--objectives", "brevity,vowels", "--runs", str(runs), "--json"]
    ask += ["--methods", "reference,best_of,mavis,mavis_linear", "--weights", "grid:0.5"]
    ask += ["--prompts", str(tiny_folder / "prompts"), "--num_prompts", "4", "--best_of", "4"]
    ask += ["--max_tokens", "8", "--top_k", "12", "--kl", "0.2", "--out", str(runs / "pareto")]
    capsys.readouterr()
    assert main(ask) == 0
    methods = json.loads(capsys.readouterr().out)["methods"]
    assert {"best_of", "mavis", "mavis_linear"} <= set(methods)
    models = json.loads((runs / "pareto" / "sweep.json").read_text())["models"]
    assert len(set(models["mavis"][0].values())) == 1
    assert sorted(models["mavis_linear"][0]) == ["brevity", "vowels"]
    # At the middle it begins with the strength that mixed weights get.
    points = [file.name for file in (runs / "pareto" / "points" / "mavis").glob("*.parquet")]
    card = json.loads((pair / "value" / "value.json").read_text())
    middle = relative_strength((0.5, 0.5), card["covariance"]) / card["eta"]
    assert any(name.endswith(f"@{middle:.4g}.parquet") for name in points)


def test_the_strength_follows_from_the_weights(pair, tiny_folder):
    policy = load(pair / "value", reference=str(tiny_folder / "reference"))
    assert policy.objectives == tuple(NAMES)
    alone, mixed = (
        policy.requests("an um", weights)[0].sampling.beta
        for weights in ({"vowels": 1.0}, {"vowels": 0.5, "brevity": 0.5})
    )
    assert mixed > alone > 0
    given = policy.requests("an um", {"vowels": 0.5, "brevity": 0.5}, beta=3.0)
    assert given[0].sampling.beta == 3.0
    several = policy.requests(["an um", "um an"], [{"vowels": 1.0}, {"vowels": 0.5}])
    assert [one.sampling.beta for one in several] == pytest.approx([alone, alone])


def test_one_name_is_as_with_the_other_option(words, fit_words, tmp_path, same_run):
    one, other = tmp_path / "one", tmp_path / "other"
    assert main(fit_words(one)) == 0
    assert main(words(other, names="trial")) == 0
    same_run(one, other)
    assert main(words(one, names="trial")) == 0  # and goes on with it


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("vowels,vowels", "--objectives names vowels twice."),
        ("vowels,brevty", "no objective 'brevty' (did you mean 'brevity'?)"),
        ("vowels,deaf", "vowels and deaf ask for different modules"),
        (",", "--objective is missing"),
    ],
)
def test_names_that_cannot_be(words, tmp_path, capsys, names, said):
    assert main(words(tmp_path / "run", names=names)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "rollouts").exists()


def test_both_options_are_refused(fit_words, tmp_path, capsys):
    assert main([*fit_words(tmp_path / "run"), "--objectives", "trial,rival"]) == 2
    assert "not both" in capsys.readouterr().err


def test_the_plan_of_both(words, tmp_path, capsys):
    assert main(words(tmp_path / "run", "--plan")) == 0
    assert "in all about" in capsys.readouterr().out


def rows_of(run, place):
    return sorted(Shards(run / place).rows(), key=lambda row: (row.get("reward", ""), row["index"]))


def test_the_plan_of_an_objective_that_is_added(pair, words, tmp_path, capsys):
    """No tree is rolled out, and what cannot be taken is said."""
    run, names = tmp_path / "all", "vowels,brevity,words"
    assert main(words(run, "--data.trees_of", str(pair), "--plan", names=names)) == 0
    said = capsys.readouterr().out
    lines = {line.split("  ")[0].strip(): line for line in said.splitlines()}
    for part in ("reference answers", "rollouts"):
        assert lines[part].removeprefix(part).split() == ["0", "s"], said
    rewards, trained = (lines[part].split() for part in ("rewards", "training"))
    assert int(rewards[1]) > 0, said
    assert int(trained[1].replace(",", "")) > 0, said
    other = ("--data.trees_of", str(pair), "--data.top_k", "3", "--plan")
    assert main(words(run, *other, names=names)) != 0
    assert "were made with --data.top_k" in capsys.readouterr().err
    assert not run.exists()


def test_an_objective_is_added_from_stored_trees(pair, words, tmp_path, monkeypatch, capsys):
    """The new reward alone is asked; no tree is grown, and no answer of the reference sampled."""
    names, run = "vowels,brevity,words", tmp_path / "all"
    how = ("--data.trees_of", str(pair))

    def no_trees(*_):
        raise AssertionError("a tree was grown")

    monkeypatch.setattr("mavis.training.collect.grow", no_trees)
    copied, copy = [], stored_trees._copy

    def killed(folder, rows):
        if len(copied) == 4:
            raise KeyboardInterrupt
        copied.append(folder)
        copy(folder, rows)

    with monkeypatch.context() as patch:
        patch.setattr(stored_trees, "_copy", killed)
        assert main(words(run, *how, names=names)) == 130
    assert main(words(run, *how, names=names)) == 0, capsys.readouterr().err
    assert len(entries(run)) == 2
    for round_ in (0, 1):
        place = f"rollouts/round-{round_}/train"
        before, now = (rows_of(folder, f"{place}/made") for folder in (pair, run))
        of_nobody = [row | {"weights": [], "cpu_seconds": 0.0} for row in before]
        assert now == of_nobody
        scores = rows_of(run, f"{place}/scores")
        asked = {row["reward"] for row in scores if row["cpu_seconds"] > 0}
        assert asked == {identity(find("words"))}
        assert len(scores) == 3 * len(now)
    answers = "reference/validation/made"
    texts = [[row["responses"] for row in rows_of(folder, answers)] for folder in (pair, run)]
    assert texts[0] == texts[1]
    assert main(words(run, *how, names=names)) == 0  # resumed when it is finished
    assert "nothing is left to train" in capsys.readouterr().err


def test_trees_that_are_made_otherwise_are_no_training_set(pair, words, tmp_path, capsys):
    def error(run, *more, names="vowels,brevity,words"):
        assert main(words(run, *more, names=names)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    of = ("--data.trees_of", str(pair))
    said = error(tmp_path / "a", *of, "--data.max_tokens", "5")
    assert "were made with --data.max_tokens 8, not 5: give --data.max_tokens 8, or" in said
    assert main(words(tmp_path / "b", "--data.trees_of", str(tmp_path))) != 0
    assert f"{tmp_path} holds no run of `mavis fit`" in capsys.readouterr().err
    said = error(pair, *of, names="vowels,brevity")
    assert "holds a run with data.trees_of = None" in said
    copied = tmp_path / "begun"
    shutil.copytree(pair, copied)
    shutil.rmtree(copied / "rollouts")
    said = error(tmp_path / "c", "--data.trees_of", str(copied))
    assert "holds no trees of a finished round" in said


def trees_of(run):
    folders = sorted((run / "rollouts").glob("round-*"))
    return [json.loads((one / "train/complete.json").read_text())["trees"] for one in folders]


@pytest.mark.parametrize(
    ("more", "trees"),
    [
        (("--data.trees", "2"), [2 * MANY, 2]),
        ((), [10, 4]),  # as many as there are prompts
        (("--data.first_trees", "5"), [5, 4]),
        (("--data.rounds", "1", "--data.first_trees", "2"), [2]),
    ],
)
def test_the_first_round_of_several_objectives_has_more(words, tmp_path, monkeypatch, more, trees):
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    run = tmp_path / "run"
    assert main(words(run, *more)) == 0
    assert trees_of(run) == trees
    assert main(words(run, *more)) == 0  # finished: nothing is added
    assert trees_of(run) == trees


def test_one_objective_has_as_many_in_every_round(tiny_fit):
    assert len(set(trees_of(tiny_fit))) == 1


def test_a_run_that_began_with_fewer_goes_on_with_those(words, tmp_path, monkeypatch):
    """As one of a mavis whose first round had no more than the others."""
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    run = tmp_path / "run"
    assert main(words(run, "--data.rounds", "1", "--data.first_trees", "3")) == 0
    config = run / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)[1:]  # without its checksum
    config.write_text("".join(line for line in lines if "first_trees" not in line))
    assert main(words(run, "--data.rounds", "2")) == 0
    assert trees_of(run) == [3, 4]


def test_all_first_trees_of_another_run_are_taken(pair, words, tmp_path, monkeypatch):
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])
    run, fewer = tmp_path / "run", ("--data.first_trees", "3", "--data.rounds", "1")
    assert main(words(run, "--data.trees_of", str(pair), *fewer)) == 0
    assert entries(run)[0]["trees"] == trees_of(pair)[0] > 3


def test_a_run_of_more_rounds_is_finished(pair, words, tmp_path, capsys):
    """As one of a mavis whose fits had three by themselves."""
    run = tmp_path / "vowels+brevity"
    shutil.copytree(pair, run)
    assert main(words(run, "--data.rounds", "1")) == 0
    assert "nothing is left to train" in capsys.readouterr().err
    assert len(entries(run)) == 2
