"""SIGTERM and SIGHUP end a command as an interrupt does; what is finished is kept."""

import os
import signal
import subprocess
import sys
import threading
from threading import Thread

import pytest

from mavis.cli.main import RESUMED, main
from mavis.signals import SIGNALS, Terminated, stopped_by_signals

STATUS = {"SIGTERM": 143, "SIGHUP": 129}


@pytest.fixture(autouse=True)
def _nobody_listens():
    """As in a terminal; whoever runs the tests may have told them to ignore a signal (`nohup`)."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def kill(name):
    os.kill(os.getpid(), getattr(signal, name))


@pytest.mark.parametrize("name", STATUS)
def test_a_signal_unwinds(name):
    before, said = signal.getsignal(getattr(signal, name)), []

    def work():
        with stopped_by_signals():
            try:
                kill(name)
            finally:
                said.append("cleaned up")

    with pytest.raises(Terminated) as stop:
        work()
    assert stop.value.status == STATUS[name]
    assert said
    assert signal.getsignal(getattr(signal, name)) is before


class Last:
    """In whose destructor a signal comes."""

    def __init__(self, name):
        self.name = name

    def __del__(self):
        kill(self.name)


@pytest.mark.parametrize(
    ("name", "raised"),
    [("SIGTERM", Terminated), ("SIGHUP", Terminated), ("SIGINT", KeyboardInterrupt)],
)
def test_a_signal_that_comes_in_a_destructor_is_not_lost(name, raised, capsys):
    hook, number = sys.unraisablehook, getattr(signal, name)
    usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    before = signal.signal(number, usual)  # a job in the background begins with some ignored

    def work():
        with stopped_by_signals():
            Last(name)
            for thread in threading.enumerate():
                if isinstance(thread, threading.Timer):
                    thread.join()

    try:
        with pytest.raises(raised):
            work()
    finally:
        signal.signal(number, before)
    assert sys.unraisablehook is hook
    assert not capsys.readouterr().err


def test_what_else_a_destructor_raises_is_told_as_ever(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    monkeypatch.setattr(Last, "__del__", lambda self: [][len(self.name)])
    with stopped_by_signals():
        Last("x")
    assert [one.exc_type for one in told] == [IndexError]


def test_what_somebody_handles_or_ignores_is_theirs():
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(1))
    hung = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # `nohup mavis fit …`
    try:
        with stopped_by_signals():
            kill("SIGTERM")
            kill("SIGHUP")
        assert came == [1]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, hung)


def test_in_another_thread_nothing_is_touched():
    seen = []

    def work():
        with stopped_by_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


@pytest.mark.parametrize("name", STATUS)
@pytest.mark.parametrize("command", ["generate", "objectives check", *sorted(RESUMED - {"fit"})])
def test_every_command_says_that_it_did_not_finish(command, name, monkeypatch, capsys):
    words = tuple(command.split())
    monkeypatch.setattr("mavis.cli.main.commands", lambda: {words: lambda: kill(name)})
    assert main(words) == STATUS[name]
    more = "; the same command resumes from here" if command in RESUMED else ""
    assert capsys.readouterr().err == f"mavis: terminated{more}.\n"


def test_a_trainer_that_hears_the_signal_itself(monkeypatch, capsys):
    def trained(*_):
        raise Terminated(signal.SIGTERM)

    monkeypatch.setattr("mavis.cli.fit.train", trained)
    assert main(["fit", "--objective", "humor"]) == 143
    assert capsys.readouterr().err == "mavis: terminated; the same command resumes from here.\n"


TERMINATES = """
import os, signal, sys
import mavis_trial
from mavis.cli.main import main

calls = []

def behave(prompts, responses):
    calls.append(len(responses))
    if len(calls) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGTERM)
    return mavis_trial.letters(prompts, responses)

mavis_trial.behave = behave
sys.exit(main(sys.argv[2:]))
"""


def test_a_fit_that_is_terminated_goes_on(fit_words, tiny_fit, plugin, tmp_path, capsys):
    """In a process of its own, amid the second round; then to the end, as if nothing had been."""
    out = tmp_path / "trial"
    words = fit_words(out)
    places = os.pathsep.join([str(plugin), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", TERMINATES, "6", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": places},
    )
    assert done.returncode == 143, done.stderr
    assert done.stderr.endswith("mavis: terminated; the same command resumes from here.\n")
    assert list((out / "rollouts").iterdir())
    assert "round 1" not in done.stdout
    assert main(words) == 0
    assert "value model" in capsys.readouterr().out
    models = sorted((tiny_fit / "value").glob("*.safetensors"))
    assert models
    for file in models:
        assert (out / "value" / file.name).read_bytes() == file.read_bytes()
