"""`mavis judge`: which of two sets of answers a language model prefers.

Every pair of answers is shown in both orders, and only a preference that outlives the exchange
counts. Verdicts are kept as they come, and asked once; results do not depend on the order in which
they arrive.
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

TRIAL = 10  # questions that a judge may answer without a verdict before it has given any

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
    """Let a language model compare two sets of answers to the same prompts.

    Any OpenAI-compatible chat endpoint will do; an API key is read from OPENAI_API_KEY. Each pair
    is shown in both orders: a verdict that changes with the order is a tie.

    Args:
        first: JSON lines with "prompt" and "text", as `mavis generate --json` writes them, or
            `mavis pareto` under OUT/answers
        second: the same, by another policy; answers are paired by prompt
        model: name of the judge; verdicts are kept by it, so another judge needs another name
        url: where the judge is
        criterion: what it goes by
        out: folder that keeps the verdicts; the same command goes on from there
        seed: of the interval's resamples
        parallel: questions that are asked at a time
        timeout: seconds of silence after which a question is asked again
        json: write the result as one JSON object
    """
    if model is None:
        raise ValueError("model is missing: add --model NAME, as the server at --url knows it.")
    if not criterion.strip():
        raise ValueError('criterion must say something, such as "which answer is kinder".')
    at_least(1, parallel=parallel)
    at_least(0, seed=seed)
    pairs = read_pairs(Path(first), Path(second))
    endpoint = Endpoint(url, model, os.environ.get(KEY, "").strip(), timeout)
    result = compare(pairs, endpoint, criterion, Path(out), parallel, seed)
    if not endpoint.manner.temperature:
        told = f"{model} takes no temperature: asked again, it may give other verdicts."
        print(f"mavis: {told}", file=sys.stderr)
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
    """Ask what is not known yet, in both orders, and count.

    Args:
        pairs: at least one.
        endpoint: the judge.
        criterion: what it goes by.
        out: folder of `verdicts.jsonl`.
        parallel: questions at a time.
        seed: of the interval's resamples.

    Raises:
        ConnectionError: if the judge stops answering; what it has said is kept.
        ValueError: if it gives no verdicts. Other errors are as of `Endpoint.ask`.
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
        rest = f" Finished verdicts are kept in {kept.file}; the same command goes on from there."
        raise ConnectionError(f"{error}{rest if kept.file.is_file() else ''}") from None
    return count(pairs, [(known.get(a.key), known.get(b.key)) for a, b in orders], seed)


# From questions to replies


def _replies(
    endpoint: Endpoint, questions: Sequence[Question], parallel: int, trial: int
) -> Iterator[Reply]:
    """What the judge says, as it comes.

    The first `trial` questions are asked before the others. If none gets a verdict, nothing of it
    is passed on, so that a judge that has been set right is asked again.
    """

    def ask(question: Question) -> str:
        messages = [{"role": "user", "content": question.text}]
        reply = endpoint.ask(messages)
        if read_verdict(reply):
            return reply
        said = {"role": "assistant", "content": reply or "…"}  # some servers refuse empty messages
        return endpoint.ask([*messages, said, {"role": "user", "content": REMINDER}])

    silent: list[Reply] = []
    for question, reply in _each(ask, questions[:trial], parallel):
        if read_verdict(reply):
            yield question, reply
        else:
            silent.append((question, reply))
    if silent and len(silent) == len(questions[:trial]):
        raise ValueError(
            f"{endpoint.model} at {endpoint.shown} gave no verdict, asked {len(silent)} questions, "
            f"but said such things as {silent[0][1][:120]!r}: it was told to end with a line "
            "'verdict: A', 'verdict: B' or 'verdict: tie'."
        )
    yield from silent
    yield from _each(ask, questions[trial:], parallel)


def _each(
    ask: Callable[[Question], str], questions: Sequence[Question], parallel: int
) -> Iterator[Reply]:
    """Ask in threads. After an error, what is in flight is passed on first, and no more is asked.

    The threads are daemons, as an interrupt should not wait for a server that hangs.
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
        done.put(None)  # this thread is through

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
    """The result in words."""
    first = "none" if result.shown_first is None else f"{result.shown_first:.2f}"
    ends = f"[{result.low:.2f}, {result.high:.2f}]"
    rows = [
        ("pairs", result.pairs, ""),
        ("wins", result.wins, "of the first file, in both orders"),
        ("ties", result.ties, f"{result.equal} of them between equal texts"),
        ("losses", result.losses, ""),
        (
            "win rate",
            f"{result.win_rate:.2f}",
            f"{ends}, 95 % bootstrap over prompts; ties are half",
        ),
        ("shown first", first, "share of verdicts for A or B; 0.50 is no position bias"),
        ("unparseable", result.unparseable, "verdicts, taken as ties"),
    ]
    for name, value, note in rows:
        yield f"{name:<12}  {value!s:>5}  {note}".rstrip()
