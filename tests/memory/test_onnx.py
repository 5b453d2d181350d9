"""ONNX models: tensors, operations and lifetimes."""

from __future__ import annotations

import pytest

import cpsched
from cpsched.errors import ProblemError


@pytest.fixture
def model(tmp_path):
    """A file with a model of two branches over a vector of 4 floats."""
    onnx = pytest.importorskip("onnx")
    h = onnx.helper

    def vector(name):
        return h.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4])

    graph = h.make_graph(
        [
            h.make_node("Relu", ["x"], ["a"], name="left"),
            h.make_node("Neg", ["x"], ["b"], name="right"),
            h.make_node("Add", ["a", "b"], ["c"], name="join"),
            h.make_node("Add", ["c", "w"], ["y"], name="bias"),
        ],
        "branches",
        [vector("x")],
        [vector("y")],
        [h.make_tensor("w", onnx.TensorProto.FLOAT, [1, 4], [0.0] * 4)],
    )
    path = tmp_path / "model.onnx"
    onnx.save(h.make_model(graph), path)
    return path


def test_model_becomes_operations(model):
    """Nodes are operations; constants are left out unless asked for."""
    problem = cpsched.load(model)
    assert [o.id for o in problem.operations] == ["left", "right", "join", "bias"]
    assert {b.id: b.size for b in problem.buffers} == dict.fromkeys("xabcy", 16)
    with_weights = cpsched.load(model, options={"weights": "true", "dimension": "2"})
    assert {b.id: b.size for b in with_weights.buffers} == dict.fromkeys("xabcy", 32) | {"w": 16}
    assert cpsched.solve(problem, 5.0, workers=1).objective == [48, 48]


def test_model_becomes_lifetimes(model):
    """In the model's own order every tensor lives from its writing to its last reading."""
    problem = cpsched.load(model, options={"as": "allocation"})
    lives = {b.id: (b.lower, b.upper) for b in problem.buffers}
    assert lives == {"x": (0, 2), "a": (0, 3), "b": (1, 3), "c": (2, 4), "y": (3, 4)}


def test_garbage_is_refused(tmp_path):
    """A file that is no model gives one message."""
    pytest.importorskip("onnx")
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\x00garbage" * 20)
    with pytest.raises(ProblemError, match="must be an ONNX model"):
        cpsched.load(path)
