"""A run is of one reference policy, wherever that lies: its weights, tokens and chat template."""

import json
import shutil

import pytest

from mavis.cli.main import main
from mavis.decoding.model_card import read_card
from mavis.decoding.reference import ReferencePolicy

TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if tired %} um{% else %} is{% endif %}"
)


@pytest.fixture(autouse=True)
def light(monkeypatch):
    monkeypatch.setattr("mavis.training.callbacks._plots", lambda *_: [])


@pytest.fixture
def model(tiny_folder, tmp_path):
    """A reference of one's own."""
    return shutil.copytree(tiny_folder / "reference", tmp_path / "model")


def words(fit_words, run, model, *more):
    return fit_words(run, "--data.reference", str(model), "--data.rounds", "1", *more)


def refused(capsys, words):
    capsys.readouterr()
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_the_card_says_which_weights(tiny_fit, tiny_folder):
    reference = ReferencePolicy.load(str(tiny_folder / "reference"))
    assert read_card(tiny_fit / "value").reference_weights == reference.weights_digest
    assert json.loads((tiny_fit / "reference" / "identity.json").read_text())["weights"] == (
        reference.weights_digest
    )


@pytest.mark.parametrize("moment", ["before the first round", "behind it"])
def test_new_weights_in_the_folder_stop_the_run(
    moment, fit_words, model, tmp_path, monkeypatch, capsys, stopper, tiny_lm
):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        if moment == "before the first round":
            stop = stopper(None, 1, ValueError("stopped"))
            patch.setattr("mavis.training.collect.tree_row", stop)
        main(words(fit_words, run, model))
    tiny_lm(seed=7).save_pretrained(model)
    monkeypatch.setattr(
        "mavis.decoding.policy.GuidedPolicy.sample", stopper(None, 1, AssertionError())
    )
    for more in ((), ("--data.rounds", "2")):
        line = refused(capsys, words(fit_words, run, model, *more))
        assert f"{run} holds a run of another reference than {model} is now" in line
        assert "(it has other weights)" in line
        assert "give another --out" in line


def test_another_reference_with_the_same_tokenizer(fit_words, model, tmp_path, capsys, tiny_lm):
    run, other = tmp_path / "run", tmp_path / "other"
    assert main(words(fit_words, run, model)) == 0
    shutil.copytree(model, other)
    tiny_lm(seed=7).save_pretrained(other)
    assert f"another reference than {other} is now" in refused(capsys, words(fit_words, run, other))


def test_a_reference_that_has_moved_goes_on(fit_words, model, tmp_path, capsys):
    run, place = tmp_path / "run", tmp_path / "moved"
    assert main(words(fit_words, run, model)) == 0
    model.rename(place)
    line = refused(capsys, words(fit_words, run, model))
    assert str(model) in line
    assert "--data.reference" in line
    assert main(words(fit_words, run, place, "--data.rounds", "2")) == 0
    assert read_card(run / "value").reference == str(place)


def test_another_chat_template_is_another_reference(fit_words, model, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(words(fit_words, run, model)) == 0
    (model / "chat_template.jinja").write_text(TEMPLATE)
    assert "(it has other words in its chat template)" in refused(
        capsys, words(fit_words, run, model)
    )


def test_arguments_of_the_chat_template(fit_words, model, tmp_path, capsys):
    """They are held to, in the prompts, on the card and by the next run."""
    (model / "chat_template.jinja").write_text(TEMPLATE)
    run, args = tmp_path / "run", ("--data.template_args", "{tired: true}")
    assert main(words(fit_words, run, model, *args)) == 0
    assert read_card(run / "value").template_args == {"tired": True}
    assert "template_args" in refused(capsys, words(fit_words, run, model))
    line = refused(
        capsys, words(fit_words, tmp_path / "new", model, "--data.template_args", "{tied: true}")
    )
    assert "tied" in line
    plain = words(fit_words, tmp_path / "plain", model)
    assert main(plain) == 0
    rewards = [
        json.loads((tmp_path / name / "metrics.json").read_text())[0]["kl"]
        for name in ("run", "plain")
    ]
    assert rewards[0] != rewards[1]
