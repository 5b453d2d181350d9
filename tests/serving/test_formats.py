"""The readers on small files, and bad input: one message with place, value, rule and remedy."""

from __future__ import annotations

import json

import pytest

import cpsched
from cpsched import ProblemError
from cpsched.families.serving.facts import engine, facts
from cpsched.families.serving.problem import Request, ServingProblem

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,879,55
"""

MOONCAKE = [
    {"timestamp": 0, "input_length": 1000, "output_length": 10, "hash_ids": [0, 1]},
    {"timestamp": 3000, "input_length": 1500, "output_length": 20, "hash_ids": [0, 1, 2]},
]

AGENTS = {
    "run": "bs2",
    "program": "fix-it",
    "arrival_s": 2.0,
    "steps": [
        {
            "step": 1,
            "start_s": 1.0,
            "input_tokens": 100,
            "output_tokens": 20,
            "prefill_s": 0.5,
            "decode_s": 0.25,
            "tool_s": 1.0,
        },
        {
            "step": 2,
            "start_s": 3.0,
            "input_tokens": 150,
            "output_tokens": 10,
            "prefill_s": 0.5,
            "decode_s": 0.25,
            "tool_s": 0.5,
        },
    ],
}


def write(tmp_path, text, name="trace.txt"):
    path = tmp_path / name
    path.write_text(text)
    return path


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def test_azure(tmp_path):
    """Units and rounds are rounded up; arrivals count from the first row kept."""
    path = write(tmp_path, AZURE)
    options = {"capacity_tokens": "3200", "block_tokens": "32", "seconds_per_round": "1"}
    p = cpsched.load(path, options=options)
    assert [(r.arrival, r.prompt, r.output) for r in p.requests] == [
        (0, 12, 2),
        (5, 13, 4),
        (5, 28, 2),
    ]
    assert p.instances[0].capacity == 100


def test_azure_rows(tmp_path):
    """Offset and limit choose rows; ids count from 0 after the offset."""
    path = write(tmp_path, AZURE)
    p = cpsched.load(path, options={"offset": "1", "limit": "1", "arrivals": "zero"})
    assert [(r.id, r.prompt, r.arrival) for r in p.requests] == [("0", 396, 0)]


def test_mooncake(tmp_path):
    """Hash ids become prefix blocks of 512 tokens, and the question is what to cache."""
    path = write(tmp_path, lines(*MOONCAKE))
    p = cpsched.load(path, options={"capacity_tokens": "1024"})
    assert (p.question, p.prefix_block, p.requests[1].prefix) == ("cache", 512, (0, 1, 2))
    assert cpsched.solve(p, time_limit=5).objective == 1024


def test_mooncake_admission(tmp_path):
    """The same trace asks for admission on demand, prefixes shared."""
    path = write(tmp_path, lines(*MOONCAKE))
    options = {"question": "admission", "block_tokens": "128", "capacity_tokens": "8192"}
    p = cpsched.load(path, options=options)
    assert p.prefix_block == 4
    result = cpsched.solve(p, time_limit=2)
    assert cpsched.validate(p, result).valid


def test_agent_steps(tmp_path):
    """Programs keep their recorded times for the cache question."""
    path = write(tmp_path, lines(AGENTS, AGENTS | {"run": "other"}))
    p = cpsched.load(path, options={"run": "bs2", "capacity_tokens": "1000"})
    assert [(r.arrival, r.duration, r.prompt) for r in p.requests] == [
        (3000, 750, 100),
        (5000, 750, 150),
    ]
    assert cpsched.solve(p, time_limit=5).objective == 0


def test_agent_chains(tmp_path):
    """For admission a call waits for the one before it and for the tool."""
    path = write(tmp_path, lines(AGENTS))
    options = {"question": "admission", "seconds_per_round": "0.5", "capacity_tokens": "1000"}
    p = cpsched.load(path, options=options)
    assert (p.requests[1].after, p.requests[1].gap) == ((p.requests[0].id,), 2)


def test_capacity_from_model_and_gpu():
    """Llama-3.1-8B on an A100 keeps about 412 thousand tokens."""
    assert engine("Llama-3.1-8B", "A100").capacity_tokens == pytest.approx(412_000, rel=0.01)
    assert engine("Llama-3.1-70B", "H100", 4).capacity_tokens == pytest.approx(424_000, rel=0.01)
    assert engine("Llama-3.1-8B", "A100").step_seconds(256) == pytest.approx(0.0196, rel=0.01)
    assert set(facts()["sources"]) == {"models", "gpus", "steps"}


def test_budget_from_step_times(tmp_path):
    """'auto' gives the tokens of a step that lasts one round."""
    path = write(tmp_path, AZURE)
    options = {"token_budget": "auto", "tpot": "0.05", "ttft": "2", "question": "capacity"}
    p = cpsched.load(path, options=options)
    assert p.instances[0].token_budget == 709
    assert p.requests[0].first_token_by == 40
    assert p.slo_percent == 99.0


BAD_AZURE = {
    "negative": (AZURE.replace("374,44", "-374,44"), "line 2"),
    "nan": (AZURE.replace("396", "nan"), "line 3"),
    "time": (AZURE.replace("2023-11-16 18:15:50.9951690", "yesterday"), "line 3"),
    "unsorted": (AZURE.replace("18:15:51", "18:15:40"), "line 4"),
    "missing": (AZURE.replace("396,109", "396"), "line 3"),
    "no rows": (AZURE.split("\n")[0] + "\n", "option"),
}


@pytest.mark.parametrize("name", BAD_AZURE)
def test_bad_azure(name, tmp_path):
    """A bad cell is refused with file, line, rule and remedy."""
    text, place = BAD_AZURE[name]
    path = write(tmp_path, text)
    with pytest.raises(ProblemError) as caught:
        cpsched.load(path)
    assert caught.value.place == place
    assert caught.value.remedy
    assert str(path) in str(caught.value)


BAD_LINES = {
    "negative": lines(MOONCAKE[0] | {"input_length": -5}),
    "missing arrival": lines({k: v for k, v in MOONCAKE[0].items() if k != "timestamp"}),
    "unsorted": lines(MOONCAKE[1], MOONCAKE[0]),
    "text hash": lines(MOONCAKE[0] | {"hash_ids": ["x"]}),
    "too many hashes": lines(MOONCAKE[0] | {"hash_ids": [1, 2, 3]}),
    "nan": lines(MOONCAKE[0]).replace("1000", "NaN"),
    "cut": lines(MOONCAKE[0])[:-4],
    "bad step": lines(AGENTS | {"steps": [{"start_s": 0}]}),
    "no steps": lines(AGENTS | {"steps": []}),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_lines(name, tmp_path):
    """A bad line of JSON is refused with its number."""
    path = write(tmp_path, BAD_LINES[name])
    with pytest.raises(ProblemError) as caught:
        cpsched.load(path)
    assert caught.value.place.startswith("line ")


def test_bad_options(tmp_path):
    """Options out of range are named."""
    path = write(tmp_path, AZURE)
    for options in (
        {"limit": "0"},
        {"block_tokens": "x"},
        {"arrivals": "never"},
        {"seconds_per_round": "nan"},
        {"model": "Llama-9"},
        {"gpu": "T4", "model": "Llama-3.1-405B"},
        {"offset": "99"},
        {"token_budget": "auto", "tpot": "0.001"},
    ):
        with pytest.raises(ProblemError):
            cpsched.load(path, options=options)


def test_unknown_run(tmp_path):
    """An unknown run lists the known ones."""
    path = write(tmp_path, lines(AGENTS))
    with pytest.raises(ProblemError, match="bs2"):
        cpsched.load(path, options={"run": "bs9"})


GOOD = {"id": "0", "prompt": 3, "output": 2}
BAD_PROBLEMS = {
    "prompt above capacity": {"requests": [GOOD | {"prompt": 99}]},
    "negative prompt": {"requests": [GOOD | {"prompt": -1}]},
    "duplicate": {"requests": [GOOD, GOOD]},
    "interval": {"requests": [GOOD | {"output_range": [5, 2]}]},
    "quantiles": {"requests": [GOOD | {"output_quantiles": [5, 2]}]},
    "cycle": {"requests": [GOOD | {"after": ["0"]}]},
    "unknown predecessor": {"requests": [GOOD | {"after": ["7"]}]},
    "unknown tool": {"requests": [GOOD | {"tool": "x"}]},
    "unknown instance": {"requests": [GOOD | {"candidates": [4]}]},
    "no request": {"requests": []},
    "no instance": {"instances": []},
    "objective": {"objectives": ["hit_tokens"]},
    "late running": {"requests": [GOOD | {"start": 5, "instance": 0}, GOOD | {"id": "1"}]},
    "prefix": {"requests": [GOOD | {"prefix": [1, 2, 3, 4]}]},
    "huge": {"requests": [GOOD | {"output": 10**15}]},
}


@pytest.mark.parametrize("name", BAD_PROBLEMS)
def test_bad_problems(name):
    """A malformed problem is refused with a place and a remedy."""
    data = {"requests": [GOOD], "instances": [{"capacity": 20}]} | BAD_PROBLEMS[name]
    with pytest.raises(ProblemError) as caught:
        ServingProblem.parse(data)
    assert caught.value.remedy


def test_long_outputs_are_refused_before_memory_ends():
    """Outputs of billions of rounds are refused with a remedy, not tried."""
    p = ServingProblem(
        requests=(Request(id="0", prompt=1, output=10**11),), instances=({"capacity": 10**12},)
    )
    with pytest.raises(ProblemError, match="block_tokens"):
        cpsched.solve(p, time_limit=1)


def test_roles_and_network(tmp_path):
    """Numbers of prefill and decode instances and the network come from options."""
    path = write(tmp_path, AZURE)
    options = {
        "capacity_tokens": "3200",
        "block_tokens": "32",
        "prefill_chunk": "256",
        "prefill_instances": "2",
        "decode_instances": "1",
        "network_tokens": "640",
    }
    p = cpsched.load(path, options=options)
    assert [(m.role, m.count) for m in p.instances] == [("prefill", 2), ("decode", 1)]
    assert p.network.units_per_round == 20
    result = cpsched.solve(p, time_limit=5)
    assert cpsched.validate(p, result).valid
    with pytest.raises(ProblemError, match="needs the other role"):
        cpsched.load(path, options={"prefill_instances": "2", "prefill_chunk": "256"})
    with pytest.raises(ProblemError, match="prefill_chunk"):
        cpsched.load(path, options={"prefill_instances": "2", "decode_instances": "2"})
