"""What operators do: the one table, which is asked by domain, name and version.

A node names its operator by a domain, a name and an overload; the model or function imports a version of the domain.
ONNX's own operators have the domain `""`, or `"ai.onnx"`, which means the same. So a node with the name `Shape` reads
only a shape if it is ONNX's operator, but not necessarily if a function of the model or another domain is meant:

    Shape(x)        ONNX's own, it looks at the dimensions of x
    my.Shape(x)     a function of the model or a custom operator, of which nothing is known
    Bernoulli(x)    ONNX's own if the model imports version 15 or later, else nothing is known of it
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache

import onnx
from onnx import FunctionProto, ModelProto, NodeProto, OperatorSetIdProto

OperatorKey = tuple[str, str, str]
"""Domain, name and overload of an operator or a function; ONNX's own domain is `""`."""

Dims = tuple[int, ...]
DimsOf = Callable[[str], Dims]
"""The dimensions of a value by name; LookupError if not all are known."""

FIRST_VERSION = 1
"""The version of a domain that a model uses without importing it, as in files before IR version 3."""


@dataclass(frozen=True)
class Operator:
    """What is known of an operator; for most that are not ONNX's own, this is only the schema, if there is one.

    Attributes: `asked`, the domain, name and version that were looked up, None if the model defines it; `since`, the
    version of ONNX that introduced it, 0 if the table does not have it; `reads_only_shape`, it looks at nothing of its
    inputs but their shapes; `is_random`, its results differ from run to run, so a copy is not the same;
    `keeps_elements`, its first output has the elements of its first input in the same order; `clamps`, it limits the
    elements of its first input to a range and changes nothing else; `in_place`, ONNX Runtime writes its first output
    over its first input if nothing else reads that; `workspace`, how many times the memory of its first output ONNX
    Runtime needs besides, while it runs; `quantises`, it makes numbers of a small type, with a range of its own;
    `dequantises`, it turns such numbers back into those that they stand for; `settings`, the places of inputs of floats
    that only say how it works; `weights`, the places of inputs that are parameters in all models; `multiply_adds`,
    which counts those of a node, for convolutions and matrix products; `packed`, which counts the numbers in an input
    of a node, given its place, whose bytes hold several or parts of them, None for other inputs.
    """

    asked: tuple[str, str, int] | None = field(default=None, compare=False)
    since: int = 0
    reads_only_shape: bool = False
    is_random: bool = False
    keeps_elements: bool = False
    clamps: bool = False
    in_place: bool = False
    workspace: int = 0
    quantises: bool = False
    dequantises: bool = False
    settings: frozenset[int] = frozenset()
    weights: frozenset[int] = frozenset()
    multiply_adds: Callable[[NodeProto, DimsOf], int] | None = None
    packed: Callable[[NodeProto, int], int | None] | None = None

    @property
    def schema(self) -> onnx.defs.OpSchema | None:
        """Its definition in the onnx package, whose registry takes 10 ms or more to set up when it is first asked."""
        return schema(*self.asked) if self.asked else None

    @property
    def is_onnx(self) -> bool:
        """Whether it is one of ONNX's own operators."""
        return self.asked is not None and not self.asked[0] and (self.since > 0 or self.schema is not None)

    def is_named(self, name: str) -> bool:
        """Return whether it is ONNX's own operator of that name."""
        return self.asked is not None and self.asked[1] == name and self.is_onnx  # the name first: it costs nothing

    @property
    def keeps_numbers(self) -> bool:
        """Whether its first output stands for the same numbers as its first input, perhaps in another type."""
        return self.keeps_elements or self.is_conversion or self.is_named("Cast")

    @property
    def is_conversion(self) -> bool:
        """Whether it only turns floats into quantised numbers, or such numbers into floats."""
        return self.dequantises or (self.quantises and not self.is_product)

    @property
    def takes_elements(self) -> bool:
        """Whether its first output consists of elements of its first input: those that a Slice takes can be all."""
        return self.keeps_elements or any(map(self.is_named, ("Slice", "Gather", "Expand")))

    @property
    def is_product(self) -> bool:
        """Whether it is a convolution or a matrix product."""
        return self.multiply_adds is not None

    @property
    def is_compound(self) -> bool:
        """Whether it can do what several of ONNX's do: the model defines it, or it is a tool's, such as FusedConv."""
        return self.asked is None or bool(self.asked[0] and not self.asked[1].startswith(_ON_QUANTISED))


_ON_QUANTISED = ("QLinear", "QGemm")
"""How the names of ONNX Runtime's operators begin that do on quantised numbers what one of ONNX's does on floats."""


class Operators(dict[tuple[int, str, str, str], Operator]):
    """The operators that a model's nodes can name, by region, domain, name and overload; each is looked up once.

    Region 0 is the main graph with its bodies, i + 1 is the i-th function, which has imports of its own.
    """

    def __init__(self, model: ModelProto) -> None:
        """Read what the model imports and which functions it defines."""
        super().__init__()
        self._functions = {function_key(function) for function in model.functions}
        ours = versions(model.opset_import)
        self._versions = [ours, *(ours | versions(function.opset_import) for function in model.functions)]

    def __missing__(self, key: tuple[int, str, str, str]) -> Operator:
        """Look an operator up."""
        region, domain, name, overload = key
        domain = plain_domain(domain)
        version = self._versions[region].get(domain, FIRST_VERSION)
        known = _KNOWN_ELSEWHERE.get((domain, name), _OTHER) if domain else _KNOWN.get(name, _OTHER)
        if (domain, name, overload) in self._functions:
            self[key] = _OTHER
        else:
            self[key] = replace(known if known.since <= version else _OTHER, asked=(domain, name, version))
        return self[key]

    def of(self, node: NodeProto, region: int = 0) -> Operator:
        """Return the operator of a node in a region."""
        return self[region, node.domain, node.op_type, node.overload]

    def of_all(self, nodes: Iterable[NodeProto], regions: Iterable[int]) -> list[Operator]:
        """Return the operator of each node, given with its region."""
        return [self[region, n.domain, n.op_type, n.overload] for n, region in zip(nodes, regions, strict=True)]


def operator_key(node: NodeProto) -> OperatorKey:
    """Return the key of a node's operator, or of the function that it calls."""
    return plain_domain(node.domain), node.op_type, node.overload


def operator_and_attributes(node: NodeProto) -> tuple[OperatorKey, tuple[bytes, ...]]:
    """Return a key that is equal for nodes with the same operator and the same attributes, in whatever order."""
    return operator_key(node), tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))


def is_same_operator(node: NodeProto, other: NodeProto, operator: Operator | None = None) -> bool:
    """Return whether two nodes have the same operator and the same attributes.

    If the `operator` is given, an attribute with its default value counts as none: ONNX Runtime writes these down.
    """
    if operator_key(node) != operator_key(other):
        return False
    mine, its = ({a.SerializeToString(deterministic=True) for a in each.attribute} for each in (node, other))
    return mine == its or (operator is not None and mine ^ its <= default_attributes(operator.schema))


@cache
def default_attributes(schema: onnx.defs.OpSchema | None) -> frozenset[bytes]:
    """Return the attributes, as bytes, that make no difference to an operator, because they have its default values."""
    values = (attribute.default_value for attribute in schema.attributes.values()) if schema else ()
    return frozenset(value.SerializeToString(deterministic=True) for value in values if value.name)


def function_key(function: FunctionProto) -> OperatorKey:
    """Return the key of a function in a model."""
    return plain_domain(function.domain), function.name, function.overload


def operator_title(node: NodeProto) -> str:
    """Return a node's operator for people: its name, with the domain before it if that is not ONNX's own."""
    domain = plain_domain(node.domain)
    return f"{domain}.{node.op_type}" if domain else str(node.op_type)


def plain_domain(domain: str) -> str:
    """Return the domain, with `""` for both names of ONNX's own."""
    return "" if domain == "ai.onnx" else domain


def versions(imports: Iterable[OperatorSetIdProto]) -> dict[str, int]:
    """Return the version of each imported domain; ONNX's own is `""`."""
    return {plain_domain(entry.domain): entry.version for entry in imports}


@cache
def names_of_operators() -> frozenset[str]:
    """Return what ONNX's own operators are called."""
    return frozenset(schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain)


@cache
def schema(domain: str, name: str, version: int) -> onnx.defs.OpSchema | None:
    """Return the definition of an operator in a version of its domain, None if the onnx package has none."""
    try:
        return onnx.defs.get_schema(name, version, plain_domain(domain))
    except (onnx.defs.SchemaError, TypeError):  # TypeError: a version too large for a C integer
        return None


def _conv(node: NodeProto, dims: DimsOf, weight: int = 1) -> int:
    """Each element of the result adds up the products with one filter, which sees the channels of its group."""
    return math.prod(dims(node.output[0])) * math.prod(dims(node.input[weight])[1:])


def _quantised_conv(node: NodeProto, dims: DimsOf) -> int:
    return _conv(node, dims, weight=3)


def _conv_transpose(node: NodeProto, dims: DimsOf) -> int:
    """Each element of the input is multiplied by one filter."""
    return math.prod(dims(node.input[0])) * math.prod(dims(node.input[1])[1:])


def _matmul(node: NodeProto, dims: DimsOf) -> int:
    return math.prod(dims(node.output[0])) * dims(node.input[0])[-1]


def _gemm(node: NodeProto, dims: DimsOf) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(dims(node.output[0])) * dims(node.input[0])[0 if transposed else 1]


BLOCK_PRODUCT = ("com.microsoft", "MatMulNBits")
"""ONNX Runtime's matrix product with weights of a few bits, whose bytes hold several of them."""


def sizes_of_block_product(node: NodeProto) -> tuple[int, int]:
    """Return the rows and columns, K and N, of the weights of a `BLOCK_PRODUCT`; 0 for what its attributes lack."""
    numbers = _numbers(node)
    return max(numbers.get("K", 0), 0), max(numbers.get("N", 0), 0)


def _block_product(node: NodeProto, dims: DimsOf) -> int:
    rows, columns = sizes_of_block_product(node)
    return math.prod(dims(node.input[0])[:-1]) * rows * columns


def _packed_in_blocks(node: NodeProto, place: int) -> int | None:
    """Count the weights, and the zero points, of which there is one for each block of a column."""
    rows, columns = sizes_of_block_product(node)
    size = _numbers(node).get("block_size", 0)
    return rows * columns if place == 1 else -(-rows // size) * columns if place == 3 and size > 0 else None


def _numbers(node: NodeProto) -> dict[str, int]:
    return {attribute.name: attribute.i for attribute in node.attribute}


_OTHER = Operator()
_KNOWN: dict[str, Operator] = {
    "Shape": Operator(since=1, reads_only_shape=True),
    "Size": Operator(since=1, reads_only_shape=True),
    "RandomNormal": Operator(since=1, is_random=True),
    "RandomNormalLike": Operator(since=1, is_random=True),
    "RandomUniform": Operator(since=1, is_random=True),
    "RandomUniformLike": Operator(since=1, is_random=True),
    "Multinomial": Operator(since=7, is_random=True),
    "Bernoulli": Operator(since=15, is_random=True),
    "Identity": Operator(since=1, keeps_elements=True),
    "Reshape": Operator(since=1, keeps_elements=True),
    "Flatten": Operator(since=1, keeps_elements=True),
    "Squeeze": Operator(since=1, keeps_elements=True),
    "Unsqueeze": Operator(since=1, keeps_elements=True),
    "Relu": Operator(since=1, clamps=True, in_place=True),
    "Clip": Operator(since=1, clamps=True, in_place=True),
    "Cast": Operator(since=1, in_place=True),
    "Elu": Operator(since=1, in_place=True),
    "HardSigmoid": Operator(since=1, in_place=True),
    "LeakyRelu": Operator(since=1, in_place=True),
    "LogSoftmax": Operator(since=1, in_place=True),
    "Selu": Operator(since=1, in_place=True),
    "Sigmoid": Operator(since=1, in_place=True),
    "Softmax": Operator(since=1, in_place=True),
    "Softplus": Operator(since=1, in_place=True),
    "Softsign": Operator(since=1, in_place=True),
    "Tanh": Operator(since=1, in_place=True),
    "HardSwish": Operator(since=14, workspace=1),
    "Where": Operator(since=9, workspace=2),
    "ThresholdedRelu": Operator(since=10, in_place=True),
    "QuantizeLinear": Operator(since=10, quantises=True),
    "DequantizeLinear": Operator(since=10, dequantises=True),
    "Resize": Operator(since=10, settings=frozenset({1, 2})),
    "Upsample": Operator(since=7, settings=frozenset({1})),
    "OneHot": Operator(since=9, settings=frozenset({2})),
    "PRelu": Operator(since=1, weights=frozenset({1})),
    "BatchNormalization": Operator(since=1, weights=frozenset({1, 2, 3, 4})),
    "InstanceNormalization": Operator(since=1, weights=frozenset({1, 2})),
    "LayerNormalization": Operator(since=17, weights=frozenset({1, 2})),
    "GroupNormalization": Operator(since=18, weights=frozenset({1, 2})),
    "RMSNormalization": Operator(since=23, weights=frozenset({1})),
    "Conv": Operator(since=1, weights=frozenset({1, 2}), multiply_adds=_conv),
    "ConvInteger": Operator(since=10, multiply_adds=_conv),
    "QLinearConv": Operator(since=10, quantises=True, multiply_adds=_quantised_conv),
    "ConvTranspose": Operator(since=1, weights=frozenset({1, 2}), multiply_adds=_conv_transpose),
    "MatMul": Operator(since=1, multiply_adds=_matmul),
    "MatMulInteger": Operator(since=10, multiply_adds=_matmul),
    "QLinearMatMul": Operator(since=10, quantises=True, multiply_adds=_matmul),
    "Gemm": Operator(since=1, weights=frozenset({1, 2}), multiply_adds=_gemm),
}
"""What is known of ONNX's own operators, from their specification; for all others only the name is known.

It says since when each exists, so most models can be indexed without the schemas of the onnx package.
"""

_KNOWN_ELSEWHERE: dict[tuple[str, str], Operator] = {
    ("com.microsoft", "QuantizeLinear"): Operator(since=1, quantises=True),
    ("com.microsoft", "DequantizeLinear"): Operator(since=1, dequantises=True),
    BLOCK_PRODUCT: Operator(since=1, weights=frozenset({1, 5}), multiply_adds=_block_product, packed=_packed_in_blocks),
}
"""Other operators that quantisers use, by domain and name: ONNX Runtime's, which take more types."""
