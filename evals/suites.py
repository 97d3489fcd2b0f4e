"""Suites of live runs: the built-in one, and files of your own with a grader and a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetctl.evals import beside, datasets, pocket
from budgetctl.evals.endpoint import CONCURRENCY, EndpointBackend, Grader
from budgetctl.evals.graders import check_line
from budgetctl.evals.graders import load as load_grader
from budgetctl.evals.questions import Backend, LiveQuestion, Suite

from budgetctl.controller import Classifier, Controller
from budgetctl.errors import ConfigError, EvalError
from budgetctl.types import Limits

if TYPE_CHECKING:
    from budgetctl.config import Settings
    from budgetctl.config.sections import EvalSettings

OF_SETTINGS = ("grader", "base_url", "model", "endpoint", "concurrency")
"""What ``[eval]`` of ``budgetctl.toml`` may give for suites of your own."""
POCKET = "pocket"
POCKET_QUESTIONS = 200
POCKET_ENDPOINT = "transformers-serve"
"""What is taken to serve the pocket reasoner at an endpoint of which nothing else is said."""
POCKET_POLICIES = (
    *("full", "off", "cap:16", "cap:32", "cap:64", "cap:96", "cap:128", "cap:192"),
    *("quantile:0.9", "quantile:0.99", "auto"),
)
SAMPLING: Mapping[str, Any] = {"temperature": 0.6}
"""How a model in this process draws where several samples are asked for and nothing else is said: greedy
decoding would repeat the same answer."""


def open_suite(
    name: str,
    *,
    grader: str | Grader | None = None,
    base_url: str | None = None,
    model: str | None = None,
    endpoint: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    samples: int = 1,
    concurrency: int | None = None,
    per_minute: float | None = None,
    sampling: Mapping[str, Any] | None = None,
    confidence: bool = False,
    trials: Mapping[str, Any] | None = None,
    base: Controller | None = None,
    many_processes: bool = False,
) -> Suite:
    """Return a suite, ready to be asked.

    Args:
        name: ``pocket``, a suite of :mod:`budgetctl.evals.beside`, a published set (``gsm8k:PATH_OR_URL``,
            see :mod:`budgetctl.evals.datasets`), or the path of a suite file (see :func:`read_questions`).
        grader: A name of :mod:`budgetctl.evals.graders`, or a function of answer and question; ``pocket``
            brings its own, and published sets have a default.
        base_url: An OpenAI-compatible endpoint; None runs the model in this process.
        model: The model's name at the endpoint, or what transformers loads; ``pocket`` brings its own.
        endpoint: Kind of endpoint, as in the capability table.
        limit: Number of questions; None is 200 of ``pocket`` and all of a file.
        seed: What the questions of ``pocket`` are drawn with.
        samples: How often every question will be asked.
        concurrency: Calls at once; None is 4 at an endpoint and 1 in this process.
        per_minute: Calls that may begin per minute at an endpoint.
        sampling: Sampling parameters; None is the endpoint's own, and greedy decoding in this process.
        confidence: Keep the probability of every answer.
        trials: How a model in this process is asked for trial answers: fields of
            :class:`budgetctl.stopping.Trials` in the place of the suite's own.
        base: Whose prices, capability table and stop presets hold; None is the shipped ones.
        many_processes: Whether models in this process may run in several copies, as on a cluster.

    Raises:
        ConfigError: What is asked for does not fit together; nothing was asked of a model yet.
        EvalError: A file or a grader cannot be used.
    """
    built_in = brings_model(name, model)
    given = {"limit": limit, "concurrency": concurrency, "per_minute": per_minute}
    _check_numbers(given, in_process=base_url is None, many=many_processes or base_url is not None)
    if name == POCKET and model is not None and base_url is None:
        raise ConfigError(
            "the suite 'pocket' brings its own model: leave out --model, or give --base-url too"
        )
    if base_url is None and endpoint is not None:
        raise ConfigError("--endpoint is the kind of endpoint at --base-url: give that too")
    questions, judge = _asked(name, grader, limit, seed, simple=built_in)
    if model is None and not built_in:
        raise ConfigError(
            f"{'this suite' if name in beside.SIZES else 'a suite file'} needs a model: --base-url and "
            "--model for one behind an endpoint, or --model alone for one that transformers loads"
        )
    backend: Backend
    if base_url is not None:
        backend = EndpointBackend(
            base_url=base_url,
            model=model or str(pocket.path()),
            grader=judge,
            endpoint=endpoint or (POCKET_ENDPOINT if built_in else None),
            concurrency=concurrency or CONCURRENCY,
            per_minute=per_minute,
            sampling=sampling,
            confidence=confidence,
            prices=None if base is None else base.prices,
            capabilities=None if base is None else base.capabilities,
            aliases=None if base is None else base.names.models,
        )
    else:
        backend = _in_process(
            model,
            judge,
            sampling=_drawn(sampling, samples),
            concurrency=concurrency or 1,
            confidence=confidence,
            trials=trials or {},
            presets=None if base is None else base.presets,
            capabilities=None if base is None else base.capabilities,
        )
    return Suite(
        name=_name(name),
        questions=questions,
        backend=backend,
        cluster_by="cluster" if name in beside.SIZES else "question",
    )


def brings_model(name: str, model: str | None) -> bool:
    """Return whether a suite is asked of the pocket reasoner, in its own words."""
    return name == POCKET or (name == beside.SLOWDOWN and model is None)


def _name(suite: str) -> str:
    """Return what rows and reports call a suite: that of a published set is its format."""
    return suite.partition(":")[0] if suite == POCKET or datasets.is_dataset(suite) else Path(suite).stem


def _asked(
    name: str, grader: str | Grader | None, limit: int | None, seed: int, *, simple: bool
) -> tuple[tuple[LiveQuestion, ...], Grader]:
    if name == POCKET:
        return _pocket(grader, limit, seed)
    if name not in beside.SIZES:
        return _file(name, grader, limit)
    questions, judge = beside.questions(name, limit=limit, seed=seed, simple=simple, judge=grader)
    return tuple(questions), judge


def with_settings(name: str, given: Mapping[str, Any], *, settings: EvalSettings) -> dict[str, Any]:
    """Return grader, endpoint, model and concurrency: those that are given, then those of the settings.

    Trial answers are as in the settings, for suites that bring their model too.
    """
    wanted = {key: given.get(key) for key in OF_SETTINGS}
    wanted["trials"] = given.get("trials") or settings.trials.model_dump(exclude_none=True) or None
    if name == POCKET:
        return wanted
    filled = {key: getattr(settings, key) for key in OF_SETTINGS if wanted[key] is None}
    return {**wanted, **filled, **({"grader": wanted["grader"]} if name in beside.SIZES else {})}


def measuring(settings: Settings, *, classifier: Classifier | str | None) -> Controller:
    """Return what decides in an evaluation: as configured, without limits of calls, routes, audits and sinks.

    ``usd_per_s`` stays: it is no limit but what the policy ``utility`` weighs.
    """
    return settings.controller(
        policy="full",
        classifier=classifier,
        limits=Limits(usd_per_s=settings.limits.usd_per_s),
        route=None,
        strict=False,
        audits=None,
        sinks=(),
    )


def _check_numbers(given: Mapping[str, float | None], *, in_process: bool, many: bool) -> None:
    for key, value in given.items():
        if value is not None and value <= 0:
            raise ConfigError(f"--{key.replace('_', '-')} {value:g}: expected a number above 0")
    if in_process and given["per_minute"] is not None:
        raise ConfigError("--per-minute is for a model behind an endpoint: give --base-url too")
    if (given["concurrency"] or 1) > 1 and not many:
        raise ConfigError(
            f"--concurrency {given['concurrency']}: a model in this process answers in batches; give "
            "--batch-size, or --base-url for one behind an endpoint"
        )


def _in_process(model: str | None, grader: Grader, *, trials: Mapping[str, Any], **more: Any) -> Backend:
    from budgetctl.evals import backends

    kind = backends.LocalBackend if model else backends.PocketBackend
    more["trials"] = replace(kind.usual_trials, **trials)
    if model is None:
        return backends.PocketBackend(**more)
    return backends.from_transformers(model, grader=grader, **more)


def _drawn(sampling: Mapping[str, Any] | None, samples: int) -> Mapping[str, Any] | None:
    if samples > 1 and not sampling:
        return SAMPLING
    if samples > 1 and (sampling or {}).get("temperature") == 0:
        raise ConfigError(f"--samples {samples}: at temperature 0 every sample is the same answer")
    return sampling


def _pocket(
    grader: str | Grader | None, limit: int | None, seed: int
) -> tuple[tuple[LiveQuestion, ...], Grader]:
    if grader is not None:
        raise ConfigError("the suite 'pocket' brings its own grader: leave out --grader")
    questions = tuple(
        LiveQuestion(id=q.id, text=q.text, reference=q.answer, cluster=q.family, level=q.level, raw=q)
        for q in pocket.questions("test", limit or POCKET_QUESTIONS, seed=seed)
    )
    return questions, pocket.grade


def _file(
    name: str, grader: str | Grader | None, limit: int | None
) -> tuple[tuple[LiveQuestion, ...], Grader]:
    if datasets.is_dataset(name):
        return _dataset(name, grader, limit)
    path = Path(name)
    if not path.exists():
        raise ConfigError(
            f"suite {name!r}: neither a built-in suite ({', '.join((POCKET, *beside.SIZES))}) nor a file, "
            f"nor a public set as FORMAT:PATH_OR_URL, with one of the formats {', '.join(datasets.FORMATS)}"
        )
    if grader is None:
        raise ConfigError("a suite file needs a grader: --grader module:function")
    questions = read_questions(path, limit=limit)
    if not isinstance(grader, str):
        return questions, grader
    for question in questions:
        check_line(grader, question.raw, where=f"{path}: question {question.id!r}")
    return questions, load_grader(grader)


def _dataset(
    name: str, grader: str | Grader | None, limit: int | None
) -> tuple[tuple[LiveQuestion, ...], Grader]:
    items, own = datasets.open_dataset(name, limit=limit)
    questions = tuple(
        LiveQuestion(
            id=key,
            text=item.prompt,
            reference=item.line.get("reference_answer"),
            cluster=item.cluster,
            level=item.level,
            raw=item.line,
        )
        for key, item in items
    )
    chosen = own if grader is None else grader
    return questions, load_grader(chosen) if isinstance(chosen, str) else chosen


def read_questions(path: Path, *, limit: int | None = None) -> tuple[LiveQuestion, ...]:
    """Return the questions of a suite file: JSON lines with ``question`` and, if wanted, ``id``, ``cluster``.

    The other fields of a line are for the grader; ``answer`` or ``reference_answer`` is shown in records.

    Raises:
        EvalError: A line is no question; the message names file and line.
    """
    questions: list[LiveQuestion] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (limit is not None and len(questions) >= limit):
            continue
        questions.append(_question(line, where=f"{path}:{number}", number=number))
    return tuple(questions)


def _question(line: str, *, where: str, number: int) -> LiveQuestion:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise EvalError(f"{where}: not a JSON object: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("question"), str):
        raise EvalError(f"{where}: expected a JSON object with the text field 'question'")
    cluster = content.get("cluster")
    return LiveQuestion(
        id=str(content.get("id", content.get("question_id", number))),
        text=content["question"],
        reference=content.get("reference_answer", content.get("answer")),
        cluster=None if cluster is None else str(cluster),
        level=content.get("level"),
        raw=content,
    )
