from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from mavis import hub as module
from mavis.hub import existing, is_local, lasting, locate, reachable


@pytest.fixture
def assets(tmp_path, monkeypatch):
    (tmp_path / "assets" / "humor").mkdir(parents=True)
    monkeypatch.setattr(module, "_ASSETS", tmp_path / "assets")
    return tmp_path / "assets"


class Hub:
    """A hub that always gives the same answer."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def __call__(self):
        return self

    def repo_info(self, name, repo_type, timeout):
        self.asked.append((name, repo_type, timeout))
        if isinstance(self.answer, Exception):
            raise self.answer


@pytest.fixture
def hub(monkeypatch):
    def answer(with_what):
        double = Hub(with_what)
        monkeypatch.setattr(huggingface_hub, "HfApi", double)
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
        return double

    return answer


def unknown_repository():
    error = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    Exception.__init__(error, "404")
    return error


def test_sandbox_names_are_paths_of_assets(assets):
    assert locate("sandbox/humor") == str(assets / "humor")
    assert locate("sandbox/humor/") == str(assets / "humor")


@pytest.mark.parametrize("name", ["sandbox/humour", "sandbox/../humor", "sandbox/"])
@pytest.mark.usefixtures("assets")
def test_an_unknown_sandbox_name_lists_what_there_is(name):
    with pytest.raises(FileNotFoundError, match="which holds sandbox/humor"):
        locate(name)


@pytest.mark.parametrize("name", ["./x", "../x", "/no/x", "~/no-such-x", "runs/humor/value", "x/"])
def test_a_missing_path_is_said_to_be_missing(name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # whatever lies beside the checkout
    with pytest.raises(FileNotFoundError, match="is missing"):
        locate(name, "value model")


def test_what_exists_is_local(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert Path(locate("owner/name")).is_dir()
    assert locate("owner/other") == "owner/other"


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()

    assert locate("~/m") == str(tmp_path / "m")


def test_a_missing_path_shows_where_it_was_looked_for_and_what_is_near(tmp_path, monkeypatch):
    (tmp_path / "humor").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"looked at {tmp_path}/humour, where 'humor' is"):
        locate("./humour")


def test_a_web_address_is_no_name():
    with pytest.raises(FileNotFoundError, match="'https://x/a/b' is a web address: give the name"):
        locate("https://x/a/b")


@pytest.mark.parametrize("name", ["a" * 5000, "~nobody-of-this-name/x", "a\0b", "."])
def test_names_that_can_be_no_path_are_not_there(name):
    assert existing(name) == (Path() if name == "." else None)
    assert lasting(name) == (str(Path().absolute()) if name == "." else name)


def test_an_empty_name_is_refused():
    with pytest.raises(ValueError, match="name or a path"):
        locate(" ")


def test_hub_names_are_not_local():
    assert not is_local("gpt2")
    assert not is_local("owner/name.v1")


def test_reachable_paths_do_not_ask_the_hub(tmp_path, hub):
    double = hub(RuntimeError("asked"))

    assert reachable(str(tmp_path)) == str(tmp_path)
    assert double.asked == []


def test_reachable_asks_the_hub_once_and_not_for_long(hub):
    double = hub(None)

    assert reachable("owner/name", kind="dataset") == "owner/name"
    [(name, kind, seconds)] = double.asked
    assert (name, kind) == ("owner/name", "dataset")
    assert seconds <= 10


def test_an_unknown_hub_name_is_said_to_be_unknown(hub):
    hub(unknown_repository())

    with pytest.raises(FileNotFoundError, match=r"reward model 'owner/name'.*the hub has none"):
        reachable("owner/name", "reward model")


def test_without_network_an_earlier_download_is_used(hub, monkeypatch, tmp_path):
    hub(ConnectionError("no network"))
    cached = str(tmp_path / "config.json")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: cached)

    assert reachable("owner/name") == str(tmp_path)


def test_without_network_and_download_it_says_so(hub):
    hub(ConnectionError("no\nnetwork" + "!" * 999))

    with pytest.raises(FileNotFoundError, match=r"never downloaded.*no network") as error:
        reachable("owner/name")
    assert len(str(error.value)) < 500


def test_what_cannot_be_a_hub_name_is_refused():
    with pytest.raises(ValueError, match="neither a path nor a hub name"):
        reachable("no spaces!")
