"""ONNX files parsed by TensorRT's own parser, with every node that it rejects."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from trtpipe.backends.trt import heard, networks, rules
from trtpipe.errors import StageFailed
from trtpipe.runtime import Parsed

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.backends.trt.library import Library


def parse(library: Library, model: Path) -> Parsed:
    """Parse an ONNX file (external data is found beside it) with this TensorRT's own parser.

    Raises StageFailed that lists every rejected node with its name, op and reason.
    """
    from polygraphy.backend.trt import create_network

    strong = rules.typing(library.name, rules.parse_version(library.version)) != "weak"
    library.load_plugins(model.parent / "plugins")
    with library.calls(f"{model.name} cannot be parsed"):
        _builder, network = create_network(strongly_typed=strong)
        library.trt.init_libnvinfer_plugins(library.logger, "")
        # Our own parser object: Polygraphy's loader logs the errors and drops the parser.
        parser = library.trt.OnnxParser(network, library.logger)
        ok = parser.parse_from_file(str(model))
        rejected = _rejected(library, parser, model) if not ok or parser.num_errors else []
        if rejected:
            lines = "\n  ".join(rejected)
            if any("lugin" in line for line in rejected):
                lines += "\nif a plugin has these operators, name its library: params: {plugins: [libname.so]}"
            many = f"{len(rejected)} node{'s' if len(rejected) > 1 else ''}"
            raise StageFailed(f"{library.title} rejects {many} of {model.name}:\n  {lines}")
        if not ok:
            raise StageFailed(library.explain(f"{model.name} cannot be parsed"))
        if not network.num_outputs:
            # The parser reads a torn file, or one of another format, as an empty model and reports no error.
            raise StageFailed(f"{model.name} holds no network: it is torn, or no ONNX model")
        layers = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
        told = heard.of_parser(library.title, library.warnings)
        return Parsed(networks.describe(network), dict(sorted(layers.items())), tuple(told))


def _rejected(library: Library, parser: Any, model: Path) -> list[str]:
    """Give one line for each node that the parser rejects, in the order of the model."""
    found = {}
    names = _node_names(model)
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        number = error.node()
        name, op = names.get(number, ("", ""))
        if hasattr(error, "node_name"):  # since TensorRT 10
            name, op = error.node_name() or name, error.node_operator() or op
        code = str(error.code()).rpartition(".")[2].lower().replace("_", " ")  # 8.6: `name` is a method there
        text = " ".join(error.desc().split())
        why = f"{code}: {text}" if text not in ("", "false") else code
        where = f" ({error.func()})" if error.func() else ""
        found[number if number >= 0 else -1 - index] = (name, op, why + where)
    if not hasattr(library.trt.ParserError, "node_name") and hasattr(parser, "supports_model"):
        # 8.6 stops at its first error; its support query leaves out all nodes that it rejects, without reasons.
        with contextlib.suppress(Exception):
            parser.clear_errors()
            _, parts = parser.supports_model(model.read_bytes(), str(model))
            taken = {number for nodes, _ in parts for number in nodes}
            for number in names.keys() - taken:
                found.setdefault(number, (*names[number], "not supported by this version's parser"))
    lines = []
    for number, (name, op, why) in sorted(found.items()):
        where = f"node {number} {name or '(unnamed)'} [{op or 'unknown op'}]" if number >= 0 else "the model"
        lines.append(f"{where}: {why}")
    return lines


def _node_names(model: Path) -> dict[int, tuple[str, str]]:
    """Give (name, op) of each node of the main graph, by its place."""
    from trtpipe.models import onnxfile  # onnx takes long to import, and only a rejected model needs it here

    return {i: (n.name, n.op_type) for i, n in enumerate(onnxfile.load(model).graph.node)}
