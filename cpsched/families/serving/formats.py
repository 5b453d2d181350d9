"""Readers of request traces: Azure CSV, Mooncake JSONL, agent steps JSONL."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families import Format
from cpsched.families.serving.problem import (
    Request,
    ServingProblem,
)
from cpsched.families.serving.settings import COMMON, Setting, none_left
from cpsched.problem import parse_json


def read_azure(text: str, file: str, options: Mapping[str, str]) -> ServingProblem:
    """The Azure LLM inference trace: TIMESTAMP, ContextTokens, GeneratedTokens."""
    setting = Setting(options, "admission")
    reader = csv.reader(io.StringIO(text))
    header = [cell.strip() for cell in next(reader)]
    missing = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} - set(header)
    if missing:
        raise ProblemError(
            f"the first line must name the column {sorted(missing)[0]}",
            place="line 1",
            value=header,
            remedy="Add the header of the Azure trace.",
        )
    time, prompt, output = (
        header.index(c) for c in ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
    )
    requests: list[Request] = []
    first = last = None
    row = -1
    for cells in reader:
        if not cells:
            continue
        row += 1
        if not setting.within(row):
            if setting.limit is not None and row >= setting.offset + setting.limit:
                break
            continue
        line = f"line {reader.line_num}"
        if len(cells) < len(header):
            raise ProblemError(
                f"a row has {len(header)} cells", place=line, value=cells, remedy="Complete it."
            )
        now = _timestamp(cells[time], line)
        if last is not None and now < last:
            raise ProblemError(
                "arrivals must not go back in time",
                place=line,
                value=cells[time],
                remedy="Sort the rows by TIMESTAMP.",
            )
        last = now
        first = now if first is None else first
        arrival = setting.round_of(now - first)
        requests.append(
            Request(
                id=str(row - setting.offset),
                arrival=arrival,
                prompt=setting.units(_tokens(cells[prompt], line)),
                output=setting.units(_tokens(cells[output], line)),
                first_token_by=setting.first_token_by(arrival),
            )
        )
    if not requests:
        none_left(row + 1)
    return setting.problem(requests)


def _tokens(text: str, line: str) -> int:
    text = text.strip()
    if not text.isdecimal() or len(text) > 12:
        raise ProblemError(
            "token counts are whole numbers, zero or more",
            place=line,
            value=text,
            remedy="Correct the cell.",
        )
    return int(text)


def _timestamp(text: str, line: str) -> float:
    """Seconds of a timestamp with up to 7 digits of fraction."""
    head, _, tail = text.strip().partition(".")
    digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
    try:
        moment = datetime.fromisoformat(head + tail[len(digits) :])
    except ValueError:
        raise ProblemError(
            "a timestamp is written YYYY-MM-DD HH:MM:SS.fraction",
            place=line,
            value=text,
            remedy="Correct the cell.",
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp() + (int(digits) / 10 ** len(digits) if digits else 0.0)


def _json_lines(text: str, setting: Setting | None) -> Any:
    """Numbered objects of the lines to keep: (line number, zero-based row, object)."""
    row = -1
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        row += 1
        if setting is not None and not setting.within(row):
            continue
        try:
            data = parse_json(line)
        except ProblemError as error:
            raise ProblemError(error.rule, place=f"line {number}", remedy=error.remedy) from None
        if not isinstance(data, dict):
            raise ProblemError(
                "a line must be a JSON object", place=f"line {number}", remedy="Wrap it in {}."
            )
        yield number, row, data


def _field(data: dict[str, Any], name: str, line: int, kind: Callable[[Any], bool]) -> Any:
    if name not in data:
        raise ProblemError(
            f"the field {name!r} is missing", place=f"line {line}", remedy="Add the field."
        )
    value = data[name]
    if isinstance(value, bool) or not kind(value):
        raise ProblemError(
            "the value has the wrong form (numbers are finite and not negative)",
            place=f"line {line}: {name}",
            value=value,
            remedy="Correct the value.",
        )
    return value


def _count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value <= 10**12


def _seconds(value: Any) -> bool:
    return isinstance(value, int | float) and 0.0 <= value <= 1e12


def read_mooncake(text: str, file: str, options: Mapping[str, str]) -> ServingProblem:
    """A Mooncake trace: timestamp (ms), input_length, output_length, hash_ids (512 tokens)."""
    setting = Setting(options, "cache")
    if 512 % setting.block:
        setting.options.refuse("block_tokens", "must divide the 512 tokens of a prefix block")
    requests: list[Request] = []
    first = last = None
    row = -1
    for number, row, data in _json_lines(text, setting):
        now = _field(data, "timestamp", number, _seconds) / 1000.0
        if last is not None and now < last:
            raise ProblemError(
                "arrivals must not go back in time",
                place=f"line {number}: timestamp",
                value=data["timestamp"],
                remedy="Sort the lines by timestamp.",
            )
        last = now
        first = now if first is None else first
        prompt = _field(data, "input_length", number, _count)
        hashes = _field(
            data,
            "hash_ids",
            number,
            lambda v: isinstance(v, list) and all(_count(h) and h is not True for h in v),
        )
        if len(hashes) > -(-prompt // 512):
            raise ProblemError(
                f"a prompt of {prompt} tokens has at most {-(-prompt // 512)} blocks",
                place=f"line {number}: hash_ids",
                value=len(hashes),
                remedy="Correct input_length or hash_ids.",
            )
        arrival = setting.round_of(now - first)
        requests.append(
            Request(
                id=str(row - setting.offset),
                arrival=arrival,
                prompt=setting.units(prompt),
                output=setting.units(_field(data, "output_length", number, _count)),
                prefix=tuple(hashes),
                first_token_by=setting.first_token_by(arrival),
            )
        )
    if not requests:
        none_left(row + 1)
    return setting.problem(requests, prefix_block=512 // setting.block)


def read_agents(text: str, file: str, options: Mapping[str, str]) -> ServingProblem:
    """Agent runs, one program per line with its steps and tool times (in seconds).

    For the question ``cache`` calls run when they were recorded; for the others a call waits for
    the one before it and for its tool.
    """
    setting = Setting(options, "cache", per_round=0.001)
    runs: set[str] = set()
    requests: list[Request] = []
    wanted = options.get("run")
    row = -1
    kept = -1
    for number, _, data in _json_lines(text, None):
        run = str(data.get("run", ""))
        runs.add(run)
        if wanted is not None and run != wanted:
            continue
        row += 1
        if not setting.within(row):
            continue
        kept += 1
        name = f"{_field(data, 'program', number, lambda v: isinstance(v, str) and bool(v))}"
        begin = float(data.get("arrival_s") or 0.0)
        if not 0.0 <= begin <= 1e12:
            _field(data, "arrival_s", number, _seconds)
        steps = _field(data, "steps", number, lambda v: isinstance(v, list) and bool(v))
        program = f"{kept}:{name}"
        requests += _agent_calls(steps, program, begin, number, setting)
    if wanted is not None and wanted not in runs:
        raise ProblemError(
            f"option run must be one of {', '.join(sorted(runs))}",
            place="option",
            value=wanted,
            remedy="Choose one of them.",
        )
    if not requests:
        none_left(row + 1)
    if setting.question == "cache":
        requests.sort(key=lambda r: r.arrival)
    return setting.problem(requests)


def _agent_calls(
    steps: list[Any], program: str, begin: float, line: int, setting: Setting
) -> list[Request]:
    calls: list[Request] = []
    fixed = setting.question == "cache"
    tool = 0.0
    last = 0
    for k, step in enumerate(steps):
        if not isinstance(step, dict):
            raise ProblemError(
                "a step is an object", place=f"line {line}: steps.{k}", remedy="Correct it."
            )
        moment = begin + _field(step, "start_s", line, _seconds)
        arrival = setting.round_of(moment)
        if arrival < last:
            raise ProblemError(
                "steps must not go back in time",
                place=f"line {line}: steps.{k}.start_s",
                value=step["start_s"],
                remedy="Sort the steps.",
            )
        last = arrival
        spent = sum(_field(step, name, line, _seconds) for name in ("prefill_s", "decode_s"))
        calls.append(
            Request(
                id=f"{program}:{k}",
                arrival=arrival if fixed or not k else 0,
                prompt=setting.units(_field(step, "input_tokens", line, _count)),
                output=setting.units(_field(step, "output_tokens", line, _count)),
                program=program,
                step=k,
                duration=math.ceil(spent / setting.per_round) if fixed else None,
                after=() if fixed or not k else (calls[-1].id,),
                gap=0 if fixed or not k else math.ceil(tool / setting.per_round),
            )
        )
        tool = _field(step, "tool_s", line, _seconds)
    return calls


def _first_object(head: str) -> str:
    return head.lstrip().split("\n", 1)[0] if head.lstrip().startswith("{") else ""


def _has(*names: str) -> Callable[[str, str], bool]:
    def detect(name: str, head: str) -> bool:
        line = _first_object(head)
        return bool(line) and all(f'"{field}"' in line for field in names)

    return detect


def _format(
    name: str,
    description: str,
    detection: str,
    detect: Callable[[str, str], bool],
    read: Callable[[str, str, Mapping[str, str]], ServingProblem],
    extra: Mapping[str, str] | None = None,
) -> Format:
    return Format(name, "serving", description, detection, detect, read, COMMON | dict(extra or {}))


FORMATS = (
    _format(
        "azure",
        "Azure LLM inference trace CSV",
        "a CSV header with TIMESTAMP, ContextTokens, GeneratedTokens",
        lambda name, head: (
            "ContextTokens" in head.split("\n", 1)[0] and "TIMESTAMP" in head.split("\n", 1)[0]
        ),
        read_azure,
    ),
    _format(
        "mooncake",
        "Mooncake trace JSONL with prefix-block hashes (question cache by default)",
        'lines with "input_length", "output_length" and "hash_ids"',
        _has("input_length", "hash_ids"),
        read_mooncake,
    ),
    _format(
        "agent-steps",
        "agent runs JSONL: programs with steps and tool times (question cache by default)",
        'lines with "program" and "steps"',
        _has("program", "steps"),
        read_agents,
        {"run": "only the programs of this run"},
    ),
)
