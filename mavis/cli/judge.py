"""`mavis judge`: ask a language model which of two sets of answers it prefers.

Every pair of answers is shown in both orders, and a preference counts only if it holds in both.
Each verdict is saved as it arrives and never asked for again; results do not depend on the order
of arrival.
"""

import json as jsonlib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from mavis.judge.client import KEY, Endpoint
from mavis.judge.pairs import Comparison, Pair, count, mean_kl, read_pairs
from mavis.judge.verdicts import REMINDER, Question, Verdicts, read_verdict
from mavis.options import at_least
from mavis.progress import track

TRIAL = 10  # stop if none of the first so many replies contains a verdict

Reply = tuple[Question, str]


def judge(
    first: str,
    second: str,
    model: str | None = None,
    url: str = "http://localhost:8000/v1",
    criterion: str = "which answer is more helpful",
    out: str = "judge",
    seed: int = 0,
    parallel: int = 4,
    timeout: float = 60.0,
    json: bool = False,
) -> None:
    """Ask a language model which of two sets of answers to the same prompts is better.

    Any OpenAI-compatible chat endpoint can be the judge; an API key is read from OPENAI_API_KEY.
    Each pair is shown in both orders, and a verdict that changes with the order counts as a tie.

    Args:
        first: JSON lines file with "prompt" and "text", as written by `mavis generate --json` or,
            under OUT/answers, by `mavis pareto`
        second: the same kind of file from another policy; answers are paired by prompt
        model: model name of the judge; verdicts are saved under it, so use a different name for a
            different judge
        url: base URL of the judge's API
        criterion: criterion by which the judge compares two answers
        out: output folder of the verdicts; the same command resumes from there
        seed: seed of the bootstrap for the confidence interval
        parallel: number of requests in flight at the same time
        timeout: seconds without a response after which a question is asked again
        json: print the result as one JSON object
    """
    if model is None:
        raise ValueError("model is missing: add --model NAME, its name on the server at --url.")
    if not criterion.strip():
        raise ValueError('criterion must not be empty: give one such as "which answer is kinder".')
    at_least(1, parallel=parallel)
    at_least(0, seed=seed)
    pairs = read_pairs(Path(first), Path(second))
    endpoint = Endpoint(url, model, os.environ.get(KEY, "").strip(), timeout)
    result = compare(pairs, endpoint, criterion, Path(out), parallel, seed)
    if not endpoint.temperature:
        warning = f"{model} accepts no temperature, so its verdicts may not be reproducible."
        print(f"mavis: {warning}", file=sys.stderr)
    mine, theirs = (mean_kl(Path(file)) for file in (first, second))
    if json:
        names = {"first": first, "second": second, "model": model, "criterion": criterion}
        shown = names | asdict(result) | {"kl": [mine, theirs]}
        print(jsonlib.dumps(shown, ensure_ascii=False))
    else:
        print(f"{first} against {second}\n{criterion}, by {model}\n")
        if mine is not None and theirs is not None:
            print(f"mean KL {mine:.2f} and {theirs:.2f} nats per answer\n")
        print("\n".join(_table(result)))


def compare(
    pairs: Sequence[Pair],
    endpoint: Endpoint,
    criterion: str,
    out: Path,
    parallel: int = 4,
    seed: int = 0,
) -> Comparison:
    """Ask for all missing verdicts, in both orders, and count wins, ties and losses.

    The arguments are those of `judge`, with at least one pair of answers.

    Raises:
        ConnectionError: the judge stops answering; the verdicts so far are saved.
        ValueError: the judge gives no verdicts. `Endpoint.ask` raises further errors.
    """
    orders = [pair.questions(endpoint.model, criterion) for pair in pairs]
    questions = {q.key: q for both in orders for q in both if q.a != q.b}
    out.mkdir(parents=True, exist_ok=True)
    kept = Verdicts(out / "verdicts.jsonl")
    known = {key: verdict for key, verdict in kept.read().items() if key in questions}
    unasked = [question for key, question in questions.items() if key not in known]
    trusted = any(known.values())
    replies = _replies(endpoint, unasked, parallel, trial=0 if trusted else TRIAL)
    try:
        for question, reply in track(replies, "judging", "verdicts", len(questions), len(known)):
            kept.append(question, reply)
            known[question.key] = read_verdict(reply)
    except ConnectionError as error:
        rest = f" Finished verdicts are saved in {kept.file}; the same command resumes from there."
        raise ConnectionError(f"{error}{rest if kept.file.is_file() else ''}") from None
    return count(pairs, [(known.get(a.key), known.get(b.key)) for a, b in orders], seed)


# From questions to replies


def _replies(
    endpoint: Endpoint, questions: Sequence[Question], parallel: int, trial: int
) -> Iterator[Reply]:
    """Yield the judge's replies as they arrive.

    The first `trial` questions are asked before the others. If none gets a verdict, none of these
    replies is yielded (and saved), so that they are asked again once the judge is fixed.
    """

    def ask(question: Question) -> str:
        messages = [{"role": "user", "content": question.text}]
        reply = endpoint.ask(messages)
        if read_verdict(reply):
            return reply
        messages += [
            {"role": "assistant", "content": reply or "…"},  # some servers refuse empty messages
            {"role": "user", "content": REMINDER},
        ]
        return endpoint.ask(messages)

    silent: list[Reply] = []
    for question, reply in _each(ask, questions[:trial], parallel):
        if read_verdict(reply):
            yield question, reply
        else:
            silent.append((question, reply))
    if silent and len(silent) == len(questions[:trial]):
        raise ValueError(
            f"{endpoint.model} at {endpoint.shown} gave no verdict on {len(silent)} questions; "
            f"one reply was {silent[0][1][:120]!r}. Every reply must end with a line "
            "'verdict: A', 'verdict: B' or 'verdict: tie': try another model."
        )
    yield from silent
    yield from _each(ask, questions[trial:], parallel)


def _each(
    ask: Callable[[Question], str], questions: Sequence[Question], parallel: int
) -> Iterator[Reply]:
    """Ask questions in threads; after an error, yield what is in flight, then raise the error.

    The threads are daemons, so that an interrupt does not wait for a server that hangs.
    """
    waiting = deque(questions)
    done: SimpleQueue[Reply | Exception | None] = SimpleQueue()

    def work() -> None:
        while True:
            try:
                question = waiting.popleft()
            except IndexError:
                break
            try:
                done.put((question, ask(question)))
            except Exception as error:
                waiting.clear()
                done.put(error)
        done.put(None)  # this thread has finished

    threads = [Thread(target=work, daemon=True) for _ in range(min(parallel, len(questions)))]
    for thread in threads:
        thread.start()
    failure: Exception | None = None
    running = len(threads)
    while running:
        came = done.get()
        if isinstance(came, tuple):
            yield came
        elif came is None:
            running -= 1
        else:
            failure = failure or came
    if failure:
        raise failure


def _table(result: Comparison) -> Iterator[str]:
    """Yield the lines of the result table."""
    first = "none" if result.shown_first is None else f"{result.shown_first:.2f}"
    interval = f"[{result.low:.2f}, {result.high:.2f}], 95 % bootstrap over prompts"
    rows = [
        ("pairs", result.pairs, ""),
        ("wins", result.wins, "of the first file, in both orders"),
        ("ties", result.ties, f"{result.equal} of them between equal texts"),
        ("losses", result.losses, ""),
        ("win rate", f"{result.win_rate:.2f}", f"{interval}; a tie counts half"),
        ("shown first", first, "share of verdicts for A or B; 0.50 is no position bias"),
        ("unparseable", result.unparseable, "verdicts, counted as ties"),
    ]
    for name, value, note in rows:
        yield f"{name:<12}  {value!s:>5}  {note}".rstrip()
