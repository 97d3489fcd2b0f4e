"""Logs of inspect_ai: ``.json``, and ``.eval`` (a zip of JSON files), one row per sample and epoch."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from budgetctl.evals.cube import CubeBudget, CubeRow
from budgetctl.evals.exchange.common import Defaults, budget_of, chosen, make, record

from budgetctl.errors import EvalError

ZSTANDARD = 93
"""Compression method of zip members, which Python's own module reads from 3.14 on."""
_GRADES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""What the letters mean that scorers of inspect_ai give; N is no answer."""


def read(path: Path, defaults: Defaults, left_out: Counter[str]) -> Iterator[CubeRow]:
    """Yield the rows of a log, or of all logs in a folder.

    A sample that ended in an error has no answer, so it is wrong; one without any score is left out.

    Raises:
        EvalError: A file cannot be read, or several scores leave open which one counts.
    """
    if path.is_dir():
        logs = sorted(p for p in path.iterdir() if p.suffix in (".eval", ".json"))
        if not logs:
            raise EvalError(f"{path}: holds no .eval and no .json file")
    else:
        logs = [path]
    for log in logs:
        header, samples = _open(log)
        spec = header.get("eval")
        if not isinstance(spec, dict):
            raise EvalError(f"{log}: no log of inspect_ai: it has no part 'eval'")
        budget = defaults.budget or _budget(header)
        for sample in samples:
            row = _row(sample, spec, budget=budget, where=str(log), defaults=defaults)
            if row is None:
                left_out["samples without a score"] += 1
            else:
                yield row


def _open(path: Path) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    try:
        if path.suffix == ".eval":
            return _unzip(path)
        log = record(path.read_bytes(), where=str(path))
    except (OSError, zipfile.BadZipFile) as error:
        raise EvalError(f"{path}: cannot be read ({error})") from None
    return log, iter(log.get("samples") or ())


def _unzip(path: Path) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
    header = next((n for n in ("header.json", "_journal/start.json") if n in members), None)
    if header is None:
        raise EvalError(f"{path}: no log of inspect_ai: it holds no header.json")
    names = [name for name in members if name.startswith("samples/")]
    parts = (record(_member(path, members[name]), where=f"{path}:{name}") for name in names)
    return record(_member(path, members[header]), where=f"{path}:{header}"), parts


def _member(path: Path, info: zipfile.ZipInfo) -> bytes:
    if info.compress_type != ZSTANDARD:
        with zipfile.ZipFile(path) as archive:
            return archive.read(info)
    import zstandard

    with path.open("rb") as file:
        # The header in front of the data: 30 bytes, of which the last four are the lengths of name and extra.
        file.seek(info.header_offset + 26)
        lengths = file.read(4)
        file.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), 1)
        packed = file.read(info.compress_size)
    with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as reader:
        return bytes(reader.read())


def _budget(header: Mapping[str, Any]) -> CubeBudget:
    spec, plan = header.get("eval") or {}, header.get("plan") or {}
    config = {**_known(spec.get("model_generate_config")), **_known(plan.get("config"))}
    return budget_of(config.get("reasoning_effort"), config.get("reasoning_tokens"))


def _known(config: Any) -> dict[str, Any]:
    return {key: value for key, value in (config or {}).items() if value is not None}


def _row(
    sample: Mapping[str, Any], spec: Mapping[str, Any], *, budget: CubeBudget, where: str, defaults: Defaults
) -> CubeRow | None:
    where = f"{where}: sample {sample.get('id')!r}, epoch {sample.get('epoch')!r}"
    scores, error = sample.get("scores") or {}, sample.get("error")
    if not scores and not error:
        return None
    score: Mapping[str, Any] = {}
    if scores and not error:
        score = scores[chosen(scores, defaults.scorer, what="score", where=where, flag="--scorer")]
    output, model = sample.get("output") or {}, str(spec.get("model"))
    usage = (sample.get("model_usage") or {}).get(model) or output.get("usage") or {}
    dataset = spec.get("dataset") or {}
    target = sample.get("target")
    return make(
        where,
        dataset=defaults.dataset or dataset.get("name") or spec.get("task"),
        question_id=str(sample.get("id")),
        question=_question(sample.get("input")),
        reference_answer=target[0] if isinstance(target, list) and len(target) == 1 else target,
        model=defaults.model or model,
        sample=int(sample.get("epoch") or 1) - 1,
        budget=budget,
        reasoning_tokens=usage.get("reasoning_tokens"),
        output_tokens=usage.get("output_tokens"),
        answer=None if error else score.get("answer") or _completion(output) or None,
        correct=not error and _value(score.get("value"), where=where) >= defaults.threshold,
        e2e_s=output.get("time") or sample.get("working_time"),
        cost_usd=usage.get("total_cost"),
        signals={"error": str(error.get("message", ""))[:200]} if isinstance(error, Mapping) else {},
    )


def _value(value: Any, *, where: str) -> float:
    if isinstance(value, str) and value in _GRADES:
        return _GRADES[value]
    try:
        return float(value)
    except (TypeError, ValueError):
        raise EvalError(f"{where}: score: seen {value!r}, expected C, I, P, N or a number") from None


def _question(given: Any) -> str | None:
    """Return the last user message of an input."""
    if not isinstance(given, list):
        return None if given is None else str(given)
    texts = [_text(message.get("content")) for message in given if message.get("role") == "user"]
    return texts[-1] if texts else None


def _completion(output: Mapping[str, Any]) -> str:
    choices: Sequence[Mapping[str, Any]] = output.get("choices") or ()
    return str(output.get("completion") or "") or "".join(
        _text((choice.get("message") or {}).get("content")) for choice in choices[:1]
    )


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return str(content or "")
