"""Reader of ONNX models: their tensors as buffers, their nodes as operations."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.memory.check_ordering import versions
from cpsched.families.memory.problem import Buffer, MemoryProblem, Operation


def read_onnx(file: str, options: Mapping[str, str]) -> MemoryProblem:
    """The operations and tensors of an ONNX model; shapes are inferred where they are missing.

    Raises
    ------
    ProblemError
        Without the ``onnx`` package, for a file that is not a model, and for tensors whose size
        is not known.
    """
    try:
        import onnx
    except ImportError:
        raise ProblemError(
            "reading ONNX models needs the package onnx",
            remedy="pip install 'cpsched[onnx]'.",
        ) from None
    try:
        model = onnx.load(file, load_external_data=False)
        model = onnx.shape_inference.infer_shapes(model)
    except OSError as error:
        raise ProblemError(
            f"the file cannot be read: {error.strerror}", remedy="Check the path."
        ) from None
    except Exception as error:
        raise ProblemError(
            f"the file must be an ONNX model ({type(error).__name__})",
            remedy="Export it again, or check it with onnx.checker.",
        ) from None
    form = _choice(options, "as", ("ordering", "allocation"))
    weights = _choice(options, "weights", ("false", "true")) == "true"
    problem = _problem(onnx, model.graph, weights, _count(options, "dimension", 1))
    capacity = _count(options, "capacity", 0) if "capacity" in options else None
    name = model.graph.name or Path(file).stem
    problem = problem.model_copy(update={"name": name, "capacity": capacity})
    return problem if form == "ordering" else in_own_order(problem)


def in_own_order(problem: MemoryProblem) -> MemoryProblem:
    """The allocation problem of an ordering problem whose operations keep their order."""
    lives = versions(problem, [o.id for o in problem.operations])
    size = {b.id: b.size for b in problem.buffers}
    return MemoryProblem(
        name=problem.name,
        capacity=problem.capacity,
        buffers=tuple(
            Buffer(id=name, size=size[name], lower=start, upper=end) for name, start, end in lives
        ),
    )


def _problem(onnx: Any, graph: Any, weights: bool, dimension: int) -> MemoryProblem:
    constants = {t.name for t in graph.initializer} | {
        t.values.name for t in graph.sparse_initializer
    }
    constants |= {x for node in graph.node if node.op_type == "Constant" for x in node.output}
    nodes = [node for node in graph.node if node.op_type != "Constant"]
    sizes = {
        v.name: _bytes(onnx, v, dimension) for v in (*graph.input, *graph.value_info, *graph.output)
    }
    for tensor in graph.initializer:
        sizes[tensor.name] = math.prod(tensor.dims) * _width(onnx, tensor.data_type)
    results = {v.name for v in graph.output}
    used: dict[str, None] = {}
    operations: list[Operation] = []
    names: set[str] = set()
    for k, node in enumerate(nodes):
        reads = dict.fromkeys(x for x in node.input if x and (weights or x not in constants))
        writes = dict.fromkeys(x for x in node.output if x)
        used |= reads | writes
        name = node.name if node.name and node.name not in names else f"{node.op_type}_{k}"
        names.add(name)
        operations.append(Operation(id=name, inputs=tuple(reads), outputs=tuple(writes)))
    for name in used:
        if sizes.get(name) is None:
            raise ProblemError(
                "the shape of every tensor must be known or inferable",
                place="graph.value_info",
                value=name,
                remedy="Export the model with static shapes, or add the shape to value_info.",
            )
    return MemoryProblem(
        buffers=tuple(
            Buffer(id=name, size=sizes[name] or 0, output=name in results) for name in used
        ),
        operations=tuple(operations),
    )


def _bytes(onnx: Any, value: Any, dimension: int) -> int | None:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    total = _width(onnx, tensor.elem_type)
    for d in tensor.shape.dim:
        total *= d.dim_value if d.HasField("dim_value") else dimension
    return total if total >= 0 else None


def _width(onnx: Any, kind: int) -> int:
    """Bytes of one element."""
    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _choice(options: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    value = options.get(name, allowed[0])
    if value not in allowed:
        raise ProblemError(
            f"{name} must be one of {', '.join(allowed)}",
            place=f"option {name}",
            value=value,
            remedy="Correct the option.",
        )
    return value


def _count(options: Mapping[str, str], name: str, default: int) -> int:
    text = options.get(name, str(default))
    if not re.fullmatch(r"\d{1,12}", text):
        raise ProblemError(
            f"{name} must be a whole number",
            place=f"option {name}",
            value=text,
            remedy="Correct the option.",
        )
    return int(text)
