"""A trained model in two: an ONNX file cut where one part of the network hands over to the next.

Knows ONNX's wire format (protocol buffers) as far as that takes, and no model. Nodes with graphs of their own inside
(If, Loop, Scan) are not followed: the embedded models have none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

VARINT, BYTES = 0, 2
"""The only kinds of field that these files use above the level of a tensor's own data."""

# Field numbers in onnx.proto
MODEL_GRAPH = 7
NODE_INPUT, NODE_OUTPUT, NODE_OP_TYPE = 1, 2, 4
GRAPH_NODE, GRAPH_NAME, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 1, 2, 5, 11, 12
TENSOR_NAME = 8
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_ELEMENT = 1, 2, 1, 1
FLOAT32, BOOL = 1, 9


Coded = bytes | memoryview
Field = tuple[int, Coded | int]


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. coded: its bytes in the file."""

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    coded: Coded


@dataclass(frozen=True, slots=True)
class Graph:
    """A model as it was stored. nodes: in the order they run in. constants, inputs: each one's bytes by its name.
    rest: what the model says of itself besides its graph."""

    nodes: tuple[Node, ...]
    constants: dict[str, Coded]
    inputs: dict[str, Coded]
    rest: bytes

    def part(self, outputs: Iterable[str], inputs: Iterable[str] = ()) -> bytes:
        """The model that makes `outputs` from `inputs`, names of float32 values that this one computes; of this
        one's own inputs, those that are still needed stay. Raises KeyError for an output that nothing makes."""
        made_by = {name: node for node in self.nodes for name in node.outputs}
        outputs, given = tuple(outputs), set(inputs)
        kept: set[int] = set()
        needed: set[str] = set()
        open_names = list(outputs)
        while open_names:
            name = open_names.pop()
            if name in needed:
                continue
            needed.add(name)
            if name not in given and name not in self.constants and name not in self.inputs:
                node = made_by[name]
                kept.add(id(node))
                open_names += [each for each in node.inputs if each]
        fields: list[Field] = [(GRAPH_NODE, node.coded) for node in self.nodes if id(node) in kept]
        fields += [(GRAPH_NAME, b"part")]
        fields += [(GRAPH_INITIALIZER, coded) for name, coded in self.constants.items() if name in needed]
        fields += [(GRAPH_INPUT, coded) for name, coded in self.inputs.items() if name in needed]
        fields += [(GRAPH_INPUT, value(name)) for name in sorted(given & needed)]
        fields += [(GRAPH_OUTPUT, value(name)) for name in outputs]
        return self.rest + _message((MODEL_GRAPH, _message(*fields)))


def read(model: bytes) -> Graph:
    """The graph of an ONNX file's bytes."""
    rest, nodes = b"", []
    constants: dict[str, Coded] = {}
    inputs: dict[str, Coded] = {}
    for number, value in _fields(memoryview(model)):
        if number != MODEL_GRAPH:
            rest += _message((number, value))
            continue
        for kind, each in _fields(value):
            if kind == GRAPH_NODE:
                nodes.append(_node(each))
            elif kind == GRAPH_INITIALIZER:
                constants[_text(each, TENSOR_NAME)] = each
            elif kind == GRAPH_INPUT:
                inputs[_text(each, VALUE_NAME)] = each
    return Graph(tuple(nodes), constants, inputs, rest)


def operation(op_type: str, inputs: Iterable[str], output: str) -> Node:
    """A node without attributes."""
    inputs = tuple(inputs)
    named: list[Field] = [(NODE_INPUT, name.encode()) for name in inputs]
    coded = _message(*named, (NODE_OUTPUT, output.encode()), (NODE_OP_TYPE, op_type.encode()))
    return Node(op_type, inputs, (output,), coded)


def renamed(node: Node, output: str) -> Node:
    """`node`, which has one output, with that called `output`."""
    kept = [field for field in _fields(node.coded) if field[0] != NODE_OUTPUT]
    return Node(node.op_type, node.inputs, (output,), _message(*kept, (NODE_OUTPUT, output.encode())))


def _node(coded: memoryview) -> Node:
    named: dict[int, list[str]] = {NODE_INPUT: [], NODE_OUTPUT: [], NODE_OP_TYPE: []}
    for number, value in _fields(coded):
        if number in named:
            named[number].append(str(value, "utf-8"))
    return Node(named[NODE_OP_TYPE][0], tuple(named[NODE_INPUT]), tuple(named[NODE_OUTPUT]), coded)


def _text(coded: Coded, wanted: int) -> str:
    return next(str(value, "utf-8") for number, value in _fields(coded) if number == wanted)


def value(name: str, element: int = FLOAT32) -> bytes:
    """What an input is declared by: an array of any shape."""
    tensor = _message((TYPE_TENSOR, _message((TENSOR_ELEMENT, element))))
    return _message((VALUE_NAME, name.encode()), (VALUE_TYPE, tensor))


def _fields(data: Coded) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a message, which are not copied."""
    at = 0
    while at < len(data):
        key, at = _number(data, at)
        value, at = _number(data, at)
        if key & 7 == BYTES:
            yield key >> 3, data[at : at + value]
            at += value
        elif key & 7 == VARINT:
            yield key >> 3, value
        else:
            raise ValueError(f"no field of kind {key & 7} is expected here")


def _message(*fields: Field) -> bytes:
    pieces: list[Coded] = []
    for number, value in fields:
        if isinstance(value, int):
            pieces += [_coded(number << 3 | VARINT), _coded(value)]
        else:
            pieces += [_coded(number << 3 | BYTES), _coded(len(value)), value]
    return b"".join(pieces)


def _number(data: Coded, at: int) -> tuple[int, int]:
    """The number that begins at `at`, seven bits to a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _coded(number: int) -> bytes:
    coded = b""
    while number > 0x7F:
        coded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return coded + bytes([number])
