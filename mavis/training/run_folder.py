"""The settings, reference policy and checkpoint of a run folder: saved, and checked on resuming."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import yaml
from lightning.pytorch import Trainer

from mavis.checksums import check, install
from mavis.decoding.reference import ReferencePolicy
from mavis.storage import read_json, write_json, write_whole
from mavis.versions import FORMAT, check_format, same_class

CONFIG, METRICS = "config.yaml", "metrics.json"
LAST = Path("checkpoints") / "last.ckpt"
IDENTITY = Path("reference") / "identity.json"  # which reference policy a run is of
# What may differ between a run and the one that it resumes.
FREE = ("out", "tracking", "trainer.", "ckpt_path", "data.rounds", "data.rows", "verbose")
BINDING = ("trainer.gradient_clip", "trainer.precision", "trainer.accumulate", "trainer.limit_")
# What does not affect the reference's answers and the first round's rollouts.
LEARNING = ("model.", "trainer.", "data.epochs", "data.batch_tokens", "data.prefix_discount")
# Later options, as they are where a run knows none.
ADDED = {
    "data.prefix_discount": 1.0,
    "data.most_trees": None,
    "data.first_trees": None,
    "model.init_args.layers": None,
    "objectives": None,
}
ALWAYS = {"objective", "out", "data", "model", "trainer"}  # in every configuration
MARK = "# sha256 of the lines below: "


def keep_settings(folder: Path, settings: Mapping[str, Any]) -> str:
    """Write the settings into the run folder, under a line with their checksum; return them.

    An earlier version's stay as they are: nothing more is trained, and they say what was.
    """
    text = yaml.safe_dump(dict(settings), sort_keys=False)
    content = f"{MARK}{_digest(text)}\n{text}"
    if not _older(folder):
        write_whole(folder / CONFIG, lambda draft: draft.write_text(content, encoding="utf-8"))
    return text


def check_same_run(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to mix two runs in one folder.

    Until a round is finished, only the settings that its rollouts depend on must stay. The
    reference may have moved: `check_reference` compares its weights.

    Raises:
        ValueError: the folder holds results of other settings, or of settings that cannot be read.
    """
    if not any((folder / name).is_dir() for name in ("reference/validation", "rollouts")):
        return
    before, now = ADDED | dict(_flat(read_settings(folder))), dict(_flat(settings))
    learned = (LAST, METRICS, "rollouts/round-0/evaluation")
    late = any((folder / name).exists() for name in learned)
    free = FREE if late else (*FREE, *LEARNING)
    if (folder / IDENTITY).is_file():
        free = (*free, "data.reference")
    for name, value in now.items():
        bound = not name.startswith(free) or (late and name.startswith(BINDING))
        if name == "model.class_path" and same_class(str(before.get(name)), str(value)):
            continue
        if name in before and before[name] != value and bound:
            raise ValueError(
                f"{folder} holds a run with {name} = {before[name]}, not {value}: resume it by "
                f"`-c {folder / CONFIG}`, or give another --out."
            )


def check_rates(folder: Path, rounds: int) -> None:
    """Refuse to go on training where the learning rates meant something else.

    Args:
        folder: the run folder.
        rounds: how many the run is to have.

    Raises:
        ValueError: rounds are left, and a mavis that knew no KL budget has begun the run.
    """
    if _older(folder):
        file = folder / METRICS
        if not file.is_file() or len(read_json(file)) < rounds:
            raise ValueError(
                f"{folder} was begun by an earlier mavis whose learning rates mean something else: "
                "give another --out."
            )


def _older(folder: Path) -> bool:
    """Whether the settings in a run folder are those of a mavis that knew no KL budget."""
    try:
        return "kl_budget" not in read_settings(folder)["data"]
    except ValueError:  # there are none, or `check_same_run` says what is wrong
        return False


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings that a run folder was made with.

    Raises:
        ValueError: the file is missing or damaged, and is named.
    """
    file = folder / CONFIG
    broken = (
        f"{file} is {'damaged' if file.is_file() else 'missing'}, so that nobody can tell which "
        f"settings the results in {folder} were made with: restore it from a copy (MLflow keeps "
        "one with the run), or give another --out"
    )
    try:
        text = file.read_text(encoding="utf-8")
        if text.startswith(MARK):
            first, _, text = text.partition("\n")
            if first != f"{MARK}{_digest(text)}":
                raise ValueError(f"{broken}. If you edited it, delete its first line.")
        settings = yaml.safe_load(text)
    except (FileNotFoundError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{broken}.") from error
    if not isinstance(settings, dict) or not settings.keys() >= ALWAYS:
        raise ValueError(f"{broken}.")
    return settings


def load_reference(
    folder: Path,
    name: str,
    template: str | None,
    device: str,
    template_args: Mapping[str, Any] | None,
) -> ReferencePolicy:
    """Load the reference policy of a run; see `ReferencePolicy.load` for the rest.

    Raises:
        FileNotFoundError: it is not there; where the run has begun, the message says how to go on.
    """
    try:
        return ReferencePolicy.load(name, template, device, template_args)
    except FileNotFoundError as error:
        if not (folder / IDENTITY).is_file():
            raise
        raise FileNotFoundError(
            f"{error} If it has moved, give its new place by --data.reference: the run in "
            f"{folder} resumes if it is the same model."
        ) from error


def check_reference(folder: Path, reference: ReferencePolicy, keep: bool = True) -> None:
    """Raise an error if a run began with another reference policy.

    Args:
        folder: the run folder.
        reference: π_ref.
        keep: whether to save its identity, unless that is saved already.

    Raises:
        ValueError: the weights, the tokens or the chat template are others now.
        RuntimeError: a newer version of mavis made the run.
    """
    now = {
        "weights": reference.weights_digest,
        "tokens": reference.fingerprint,
        "words in its chat template": _digest(str(reference.tokenizer.chat_template)),
    }
    file = folder / IDENTITY
    before = read_json(file) if file.is_file() else {}
    check_format(file, before)
    for name, value in now.items():
        if before.get(name, value) != value:
            raise ValueError(
                f"{folder} holds a run of another reference than {reference.name} is now (it has "
                f"other {name}): put back what it was, or give another --out."
            )
    if keep and before != now | {"format": FORMAT}:
        write_json(file, now | {"format": FORMAT})


def save_checkpoint(trainer: Trainer, file: Path) -> None:
    """Save the state of the fit, all or nothing; every process must call this."""
    draft = file.with_name(file.name + ".part")
    trainer.save_checkpoint(draft, weights_only=False)
    if trainer.is_global_zero:
        install(draft, file)
    trainer.strategy.barrier()


def check_checkpoint(file: Path) -> None:
    """Check that a checkpoint is complete and unchanged.

    Raises:
        ValueError: it is damaged; the message names it.
    """
    remedy = "`mavis fit` with the same options makes it again."
    check(file, remedy)
    try:  # an older one has no checksum file, but its format holds some
        with ZipFile(file) as parts:
            broken = parts.testzip()
    except BadZipFile as error:
        raise ValueError(f"{file} is damaged ({error}): {remedy}") from error
    if broken is not None:
        raise ValueError(f"{file} is damaged ({broken}): {remedy}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _flat(values: Mapping[str, Any], stem: str = "") -> Iterator[tuple[str, Any]]:
    """Settings as (dotted name, value); one whose value is a mapping is compared as a whole."""
    for name, value in values.items():
        if isinstance(value, Mapping) and (not stem or name == "init_args"):
            yield from _flat(value, f"{stem}{name}.")
        else:
            yield f"{stem}{name}", value


def finished_rounds(folder: Path) -> int:
    """The rounds that a run folder holds, and that a fit would not do again."""
    if not ((folder / LAST).is_file() and (folder / METRICS).is_file()):
        return 0
    try:
        return len(read_json(folder / METRICS))
    except (OSError, ValueError):
        return 0
