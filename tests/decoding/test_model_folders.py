"""What is wrong with a folder of a model is said in a line that names the file."""

import pytest
from transformers import AutoModelForCausalLM

from mavis.decoding.model_folders import (
    check_model_folder,
    check_tokenizer_folder,
    load_model,
    loading,
)


@pytest.fixture
def folder(tiny_lm, tmp_path):
    tiny_lm(layers=1).save_pretrained(tmp_path)
    return tmp_path


def test_a_whole_folder_passes(folder):
    files = sorted(folder.iterdir())
    check_model_folder(str(folder))
    check_model_folder("owner/name-on-the-hub")
    assert sorted(folder.iterdir()) == files  # it only looks
    assert load_model(AutoModelForCausalLM, "it", str(folder)).config.num_hidden_layers == 1


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no model folder: config\.json is missing"):
        check_model_folder(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("generation_config.json", b"[]"),
        ("model.safetensors", b"broken"),
        ("tokenizer.json", b"\xff"),
    ],
)
def test_a_damaged_file_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        check_model_folder(str(folder))


def test_a_folder_without_a_tokenizer(folder, tiny_tokenizer):
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer \(tokenizer\.json\)"):
        check_tokenizer_folder(str(folder))
    tiny_tokenizer().save_pretrained(folder)
    check_tokenizer_folder(str(folder))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("no file\nmore\nand more"), "it cannot be loaded: no file"),
        (RuntimeError("Errors:\n  size\n"), "it cannot be loaded: Errors: size"),
        (KeyError("type"), "it cannot be loaded: KeyError 'type'"),
        (ValueError(), "it cannot be loaded: ValueError"),
    ],
)
def test_errors_of_loaders_become_a_line(error, line):
    with pytest.raises(ValueError) as raised, loading("it"):  # noqa: PT011 - all of it is compared
        raise error
    assert str(raised.value) == line


def test_weights_of_another_shape_are_refused(folder):
    config = folder / "config.json"
    config.write_text(
        config.read_text().replace('"intermediate_size": 48', '"intermediate_size": 40')
    )
    with pytest.raises(ValueError, match=r"its weights are not those of its config\.json"):
        load_model(AutoModelForCausalLM, "it", str(folder))


def test_weights_that_are_missing_are_refused(folder):
    config = folder / "config.json"
    config.write_text(
        config.read_text().replace('"num_hidden_layers": 1', '"num_hidden_layers": 2')
    )
    with pytest.raises(ValueError, match="it cannot be loaded: it lacks 9 of its weights"):
        load_model(AutoModelForCausalLM, "it", str(folder))
