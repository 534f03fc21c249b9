"""Optimisation profiles: the ranges of shapes, and of the values of shape inputs, that an engine is built for.

Our own rather than Polygraphy's: that one fills in 1 for whatever a profile does not name, and builds an engine for 1
alone; and it takes `[`, `*` and `?` in the names of inputs for wildcards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtpipe.errors import StageFailed

if TYPE_CHECKING:
    from trtpipe.backends.trt.library import Library
    from trtpipe.documents.config import Asked, Config
    from trtpipe.documents.network import Network


def check(title: str, asked: Asked, network: Network) -> None:
    """Refuse inputs whose range TensorRT needs and nobody gave. Raises StageFailed with the line to write.

    Those are dynamic inputs without any profile, and shape inputs without values. What is in the profiles has been
    checked against the network.
    """
    if not asked.profiles:
        dynamic = [
            f"{i.name} [{', '.join(map(str, i.dims or ()))}]"
            for i in network.inputs
            if any(isinstance(d, str) for d in i.dims or ())
        ]
        if dynamic:
            raise StageFailed(
                f"{title} needs a profile for dynamic inputs, and params.profiles is empty: "
                f"{', '.join(dynamic)}; give min, opt and max for each"
            )
    problems = []
    for entry in network.inputs:
        if not entry.shape_input:
            continue
        text = f"{entry.name} [{', '.join(map(str, entry.dims or ()))}]"
        if any(isinstance(d, str) for d in entry.dims or ()):
            problems.append(
                f"{title} takes the values of {text} for sizes, and must know how many there are; fix that in parse: "
                f"params: {{dims: {{{entry.name}: [2]}}}}, if there are two"
            )
        elif not asked.profile_values or any(entry.name not in known for known in asked.profile_values):
            count = entry.count() or 0
            low, best, high = ([n] * max(1, count) for n in (1, 8, 64))
            problems.append(
                f"{title} takes the values of {text} for sizes, and an engine takes only the values that it is built "
                "for; found no values of it in params.profiles, expected the smallest, best and largest, such as "
                f"profiles: [{{{entry.name}: {{min: {low}, opt: {best}, max: {high}}}}}]"
            )
    if problems:
        raise StageFailed("\n".join(problems))


def add(library: Library, builder: Any, network: Any, builder_config: Any, config: Config) -> None:
    """Add a config's profiles to a builder config, one for an engine of fixed shapes too.

    Raises StageFailed if TensorRT refuses one, with its own words.
    """
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    for number in range(max(1, len(config.profiles))):
        shapes = config.profiles[number] if config.profiles else {}
        values = config.profile_values[number] if config.profile_values else {}
        profile = builder.create_optimization_profile()
        for tensor in inputs:
            name = tensor.name
            if tensor.is_shape_tensor:
                if name not in values:
                    raise StageFailed(f"{library.title} takes the values of {name} for sizes; configure again for it")
                given: Any = values[name]
                profile.set_shape_input(name, given.min, given.opt, given.max)
                continue
            own = tuple(tensor.shape)
            given = shapes.get(name)
            profile.set_shape(name, *((given.min, given.opt, given.max) if given else (own, own, own)))
        # A profile that TensorRT does not take is only told by its log and this number.
        if not profile or builder_config.add_optimization_profile(profile) < 0:
            raise StageFailed(library.explain(f"profiles[{number}] is refused"))
