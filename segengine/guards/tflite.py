"""TFLite: a flatbuffer whose tables lie within the file, and operations that TFLite brings itself.

A custom operation is code of whoever runs the file (Flex: all of TensorFlow's), so that none is
allowed. What the tables of single operations hold is verified by the interpreter, which gets the very
bytes that were looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from segengine.guards.zips import shown

IDENTIFIER = b"TFL3"
_NAMES = """
    0:ADD 1:AVERAGE_POOL_2D 2:CONCATENATION 3:CONV_2D 4:DEPTHWISE_CONV_2D 5:DEPTH_TO_SPACE
    6:DEQUANTIZE 8:FLOOR 9:FULLY_CONNECTED 11:L2_NORMALIZATION 12:L2_POOL_2D
    13:LOCAL_RESPONSE_NORMALIZATION 14:LOGISTIC 17:MAX_POOL_2D 18:MUL 19:RELU 20:RELU_N1_TO_1
    21:RELU6 22:RESHAPE 23:RESIZE_BILINEAR 25:SOFTMAX 26:SPACE_TO_DEPTH 28:TANH 34:PAD 36:GATHER
    37:BATCH_TO_SPACE_ND 38:SPACE_TO_BATCH_ND 39:TRANSPOSE 40:MEAN 41:SUB 42:DIV 43:SQUEEZE
    45:STRIDED_SLICE 47:EXP 48:TOPK_V2 49:SPLIT 50:LOG_SOFTMAX 53:CAST 54:PRELU 55:MAXIMUM
    56:ARG_MAX 57:MINIMUM 58:LESS 59:NEG 60:PADV2 61:GREATER 62:GREATER_EQUAL 63:LESS_EQUAL
    64:SELECT 65:SLICE 66:SIN 67:TRANSPOSE_CONV 68:SPARSE_TO_DENSE 69:TILE 70:EXPAND_DIMS 71:EQUAL
    72:NOT_EQUAL 73:LOG 74:SUM 75:SQRT 76:RSQRT 77:SHAPE 78:POW 79:ARG_MIN 80:FAKE_QUANT
    81:REDUCE_PROD 82:REDUCE_MAX 83:PACK 84:LOGICAL_OR 85:ONE_HOT 86:LOGICAL_AND 87:LOGICAL_NOT
    88:UNPACK 89:REDUCE_MIN 90:FLOOR_DIV 91:REDUCE_ANY 92:SQUARE 93:ZEROS_LIKE 94:FILL 95:FLOOR_MOD
    96:RANGE 97:RESIZE_NEAREST_NEIGHBOR 98:LEAKY_RELU 99:SQUARED_DIFFERENCE 100:MIRROR_PAD 101:ABS
    102:SPLIT_V 103:UNIQUE 104:CEIL 105:REVERSE_V2 106:ADD_N 107:GATHER_ND 108:COS 109:WHERE
    110:RANK 111:ELU 112:REVERSE_SEQUENCE 113:MATRIX_DIAG 114:QUANTIZE 115:MATRIX_SET_DIAG
    116:ROUND 117:HARD_SWISH 118:IF 119:WHILE 120:NON_MAX_SUPPRESSION_V4 121:NON_MAX_SUPPRESSION_V5
    122:SCATTER_ND 123:SELECT_V2 124:DENSIFY 125:SEGMENT_SUM 126:BATCH_MATMUL 128:CUMSUM
    130:BROADCAST_TO 131:RFFT2D 132:CONV_3D 133:IMAG 134:REAL 135:COMPLEX_ABS 140:REDUCE_ALL
    141:CONV_3D_TRANSPOSE 145:BROADCAST_ARGS 147:BUCKETIZE 150:GELU 151:DYNAMIC_UPDATE_SLICE
    152:RELU_0_TO_1 153:UNSORTED_SEGMENT_PROD 154:UNSORTED_SEGMENT_MAX 155:UNSORTED_SEGMENT_SUM
    156:ATAN2 157:UNSORTED_SEGMENT_MIN 158:SIGN 159:BITCAST 160:BITWISE_XOR 161:RIGHT_SHIFT
    203:DILATE 205:REDUCE_WINDOW
"""
_OPERATIONS = {int(n): name for n, _, name in (word.partition(":") for word in _NAMES.split())}
"""Names by number (`tflite::BuiltinOperator`)."""
_STRINGS = 5
"""Type of a tensor that holds no numbers."""
_CUSTOM = 32
_FUSED = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 4,
    "TRANSPOSE_CONV": 3,
    "FULLY_CONNECTED": 0,
    "ADD": 0,
}
"""Where the options of an operation name the activation that is fused into it."""


def check(data: bytes, replaced: frozenset[str] = frozenset()) -> None:
    """Raise ValueError where a TFLite file is damaged, or has an operation that is not allowed.

    `replaced`: custom operations of a file that does not run as it is; what is made of it is checked anew.
    """
    try:
        _check(_Buffer(data), replaced)
    except (struct.error, IndexError) as error:
        raise ValueError("not a TFLite model that loads: it is damaged or cut off") from error


def operators(data: bytes) -> tuple[list[tuple[str, list[int], list[int], int]], list[int]]:
    """Of a file that was checked: name, inputs, outputs and fused activation (0: none) of each
    operation of its first graph; and the graph's outputs. Tensors by number."""
    model = _Buffer(data).table(_Buffer(data).offset(0))
    codes = [max(c.number(0, "b"), c.number(3, "i")) for c in model.tables(1)]
    graph = next(iter(model.tables(2)))
    found = []
    for operator in graph.tables(3):
        name = _OPERATIONS[codes[operator.number(0, "I")]]
        field, place = _FUSED.get(name, 0), operator.place(4)
        fused = 0
        if name in _FUSED and place is not None:
            fused = operator.buffer.table(operator.buffer.offset(place)).number(field, "b")
        found.append((name, list(operator.integers(1)), list(operator.integers(2)), fused))
    return found, list(graph.integers(2))


def _check(buffer: _Buffer, replaced: frozenset[str]) -> None:
    if buffer.data[4:8] != IDENTIFIER:
        raise ValueError("not a TFLite model that loads: it does not begin as one")
    model = buffer.table(buffer.offset(0))
    codes, known = 0, set()
    for place, code in enumerate(model.tables(1)):
        number = max(code.number(0, "b"), code.number(3, "i"))
        custom = code.text(1)
        if number == _CUSTOM and custom in replaced:
            known.add(place)
        elif number == _CUSTOM or custom:
            raise ValueError(f"custom op {shown(custom or f'number {place}')} is not allowed")
        elif number not in _OPERATIONS:
            raise ValueError(f"op number {number} is not allowed")
        codes += 1
    buffers = list(model.tables(4))
    for each in buffers:
        each.vector(0, 1)
        start, size = each.number(1, "Q"), each.number(2, "Q")
        if start > 1 and start + size > len(buffer.data):
            raise IndexError
    graphs = list(model.tables(2))
    if not graphs:
        raise ValueError("not a TFLite model that loads: it has no graph")
    for graph in graphs:
        _check_graph(graph, codes, len(buffers), known)


def _check_graph(graph: _Table, codes: int, buffers: int, known: set[int]) -> None:
    """Raise IndexError where a graph counts beyond what there is; `known`: codes that may have options."""
    tensors = list(graph.tables(0))
    for tensor in tensors:
        if not 0 <= tensor.number(2, "I") < max(buffers, 1):
            raise IndexError
        if tensor.number(1, "b") == _STRINGS:
            raise ValueError(f"tensor {shown(tensor.text(3))} holds texts, which is not allowed")
        list(tensor.integers(0))
    for operator in graph.tables(3):
        code = operator.number(0, "I")
        if not 0 <= code < codes:
            raise IndexError
        if operator.vector(5, 1)[1] and code not in known:
            raise ValueError("an op has custom options, which are not allowed")
        for field in (1, 2, 8):
            if any(not -1 <= n < len(tensors) for n in operator.integers(field)):
                raise IndexError
    for field in (1, 2):
        if any(not 0 <= n < len(tensors) for n in graph.integers(field)):
            raise IndexError


@dataclass(frozen=True, slots=True)
class _Buffer:
    """Numbers at places, never beyond the end: struct raises there."""

    data: bytes

    def number(self, at: int, form: str) -> int:
        if at < 0:
            raise IndexError
        found: int = struct.unpack_from(f"<{form}", self.data, at)[0]
        return found

    def offset(self, at: int) -> int:
        """Where a reference leads."""
        return at + self.number(at, "I")

    def table(self, at: int) -> _Table:
        fields = at - self.number(at, "i")
        size, own = self.number(fields, "H"), self.number(fields + 2, "H")
        if fields < 0 or size < 4 or size % 2 or max(fields + size, at + own) > len(self.data):
            raise IndexError
        return _Table(self, at, fields, size)


@dataclass(frozen=True, slots=True)
class _Table:
    buffer: _Buffer
    at: int
    fields: int
    size: int

    def place(self, field: int) -> int | None:
        """Where a field lies; None where it is left out."""
        entry = 4 + 2 * field
        if entry + 2 > self.size:
            return None
        own = self.buffer.number(self.fields + entry, "H")
        return self.at + own if own else None

    def number(self, field: int, form: str) -> int:
        at = self.place(field)
        return 0 if at is None else self.buffer.number(at, form)

    def vector(self, field: int, item: int) -> tuple[int, int]:
        """Where the items of a vector begin, and how many there are, each of so many bytes."""
        at = self.place(field)
        if at is None:
            return 0, 0
        start = self.buffer.offset(at)
        count = self.buffer.number(start, "I")
        if start + 4 + count * item > len(self.buffer.data):
            raise IndexError
        return start + 4, count

    def text(self, field: int) -> str:
        start, count = self.vector(field, 1)
        return self.buffer.data[start : start + count].decode("utf-8", "replace")

    def integers(self, field: int) -> Iterator[int]:
        start, count = self.vector(field, 4)
        return iter(struct.unpack_from(f"<{count}i", self.buffer.data, start))

    def tables(self, field: int) -> Iterator[_Table]:
        start, count = self.vector(field, 4)
        for i in range(count):
            yield self.buffer.table(self.buffer.offset(start + 4 * i))
