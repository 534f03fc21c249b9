"""A PyTorch module whose inputs and outputs have names: how its forward is called, and what it gives at which sizes.

PyTorch and NumPy are imported only where they are used: the params of `export` are made of this file's types.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from trtpipe.errors import StageFailed
from trtpipe.users_code import said

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

Dim = Annotated[int, Meta(ge=1)] | Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Dtype = Literal["float32", "float16", "float64", "int64", "int32", "int8", "uint8", "bool"]


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input of the module."""

    shape: Annotated[
        list[Dim],
        Meta(description="A number for a fixed axis, a name for a dynamic one; the same name is the same axis."),
    ]
    dtype: Annotated[Dtype, Meta(description="NumPy's name of the element type.")] = "float32"
    range: Annotated[
        tuple[float, float] | None,
        Meta(
            description="Random values for the check lie in [low, high); default: normal numbers for floats, "
            "0 and 1 for integers."
        ),
    ] = None


def axes(inputs: Mapping[str, TensorSpec]) -> list[str]:
    """Give the names of dynamic axes, in the order of the inputs' names."""
    named = (d for name in sorted(inputs) for d in inputs[name].shape if isinstance(d, str))
    return list(dict.fromkeys(named))


@dataclass(frozen=True, kw_only=True)
class NamedModule:
    """A `torch.nn.Module` in eval mode, with its inputs and outputs by name.

    `order` is the inputs in the order of forward's arguments; `by_name` tells whether they are passed as keywords.
    """

    module: Any
    inputs: Mapping[str, TensorSpec]
    outputs: Sequence[str]
    order: Sequence[str]
    by_name: bool

    @classmethod
    def of(
        cls, module: Any, inputs: Mapping[str, TensorSpec], outputs: Sequence[str], arguments: Sequence[str]
    ) -> NamedModule:
        """Find how forward takes the inputs; `arguments` is their order, and empty where their names say it.

        Raises StageFailed if forward does not take them.
        """
        module = module.eval() or module  # a train() that forgets to return self makes eval() give nothing
        order, by_name = _order(module, inputs, arguments)
        return cls(module=module, inputs=inputs, outputs=outputs, order=order, by_name=by_name)

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the module once; gives its outputs by name.

        Raises StageFailed if the module fails, or does not give as many tensors as there are outputs.
        """
        import torch

        # Copies, since a module may write into its inputs.
        tensors = {name: torch.from_numpy(arrays[name].copy()) for name in self.order}
        try:
            with torch.inference_mode(), quiet():
                result = self.module(**tensors) if self.by_name else self.module(*tensors.values())
        except Exception as error:
            shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in arrays.items())
            hint = "; params.sizes gives other sizes to its dynamic axes" if axes(self.inputs) else ""
            raise StageFailed(f"the module itself fails on {shapes}: {said(error)}{hint}") from error
        flat = list(_flatten(result))
        if len(flat) != len(self.outputs):
            raise StageFailed(
                f"outputs: found {len(self.outputs)} names ({', '.join(self.outputs)}), "
                f"but the module gives {len(flat)} tensors"
            )
        return {name: t.detach().numpy().copy() for name, t in zip(self.outputs, flat, strict=True)}


def _order(module: Any, inputs: Mapping[str, TensorSpec], arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Give the inputs in the order of forward's arguments, and whether to pass them by name.

    The order in the document says nothing: it is not in the key.
    """
    if arguments:
        return list(arguments), False
    parameters = inspect.signature(module.forward).parameters
    named = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if set(inputs) <= set(named):
        order = [n for n in named if n in inputs]
        needed = [n for n in named if parameters[n].default is inspect.Parameter.empty and n not in inputs]
        if needed:
            raise StageFailed(f"forward also needs {', '.join(needed)}; inputs are {', '.join(order)}")
        return order, order != named[: len(order)] or any(parameters[n].kind == 3 for n in order)
    if len(inputs) == 1:
        return list(inputs), False
    raise StageFailed(
        f"inputs {', '.join(sorted(inputs))} are not forward's parameters ({', '.join(parameters)}); "
        "call them so, or give their order in params.arguments"
    )


def _flatten(result: Any) -> Iterator[Any]:
    import torch

    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, dict):
        for part in result.values():
            yield from _flatten(part)
    elif isinstance(result, (list, tuple)):
        for part in result:
            yield from _flatten(part)
    elif result is not None:
        raise StageFailed(f"the module gives a {type(result).__name__}; expected tensors")


def random_arrays(inputs: Mapping[str, TensorSpec], sizes: Mapping[str, int], seed: int) -> dict[str, NDArray[Any]]:
    """Make values for all inputs, with the dynamic axes of `sizes`; they depend on seed, name and shape alone."""
    import numpy as np

    made: dict[str, NDArray[Any]] = {}
    for name in sorted(inputs):
        spec = inputs[name]
        shape = [sizes[d] if isinstance(d, str) else d for d in spec.shape]
        random = np.random.default_rng([seed, *name.encode(), *shape])
        if spec.dtype == "bool":
            made[name] = random.integers(0, 2, shape).astype(bool)
        elif "int" in spec.dtype:
            low, high = spec.range or (0, 2)
            made[name] = random.integers(math.ceil(low), math.ceil(high), shape).astype(spec.dtype)
        elif spec.range:
            made[name] = random.uniform(*spec.range, shape).astype(spec.dtype)
        else:
            made[name] = random.standard_normal(shape).astype(spec.dtype)
    return made


def output_dims(
    trials: Sequence[Mapping[str, int]], results: Sequence[Mapping[str, NDArray[Any]]]
) -> dict[str, list[int | str]]:
    """Work out the outputs' dims from what PyTorch gave at different sizes of the dynamic axes.

    `trials` are these sizes, by axis; `results` the outputs at each of them, by name. An axis that never changes is
    fixed, one that always equals a dynamic axis has its name, any other is called `<output>_<axis>`. Raises StageFailed
    for an output whose rank changes.
    """
    found: dict[str, list[int | str]] = {}
    for name in results[0]:
        shapes = [r[name].shape for r in results]
        if len({len(s) for s in shapes}) > 1:
            raise StageFailed(f"output {name} changes its rank with the sizes of the inputs")
        dims: list[int | str] = []
        for axis in range(len(shapes[0])):
            seen = [s[axis] for s in shapes]
            equal = [a for a in trials[0] if [t[a] for t in trials] == seen]
            dims.append(seen[0] if len(set(seen)) == 1 else equal[0] if equal else f"{name}_{axis}")
        found[name] = dims
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep PyTorch's own chatter off the terminal: prints, warnings and log lines below errors."""
    loggers = [logging.getLogger(n) for n in ("torch", "torch.onnx", "torch.export", "torch._export", "onnxscript",
                                              "onnx_ir", "torch.fx", "torch._dynamo")]  # fmt: skip
    loggers += [
        logger
        for name, logger in list(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and name.startswith(("torch", "onnx"))
    ]
    levels = [(logger, logger.level) for logger in loggers]
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        for logger, level in levels:
            logger.setLevel(level)
