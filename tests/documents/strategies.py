"""Any document of a kind, made from the types of its fields: what hypothesis needs to try them all."""

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def documents(kind):
    """Give a strategy for a kind of document."""
    return _of(inspect.type_info(kind))


def _of(info):
    if isinstance(info, inspect.StructType):
        fields = {field.name: _of(field.type) for field in info.fields}
        return st.builds(info.cls, **fields)
    if isinstance(info, inspect.Metadata):
        return _of(info.type)
    if isinstance(info, inspect.UnionType):
        return st.one_of(*map(_of, info.types))
    if isinstance(info, inspect.LiteralType):
        return st.sampled_from(info.values)
    if isinstance(info, inspect.VarTupleType):
        return st.lists(_of(info.item_type), max_size=3).map(tuple)
    if isinstance(info, inspect.DictType):
        return st.dictionaries(_of(info.key_type), _of(info.value_type), max_size=3)
    if isinstance(info, inspect.IntType):
        low, high, step = info.ge, info.le, info.multiple_of or 1
        found = st.integers(-(2**53) if low is None else -(-low // step), 2**53 if high is None else high // step)
        return found.map(lambda number: number * step)
    if isinstance(info, inspect.FloatType):
        return st.floats(info.ge, info.le, allow_nan=False, allow_infinity=False)
    simple = {
        inspect.StrType: words,
        inspect.BoolType: st.booleans(),
        inspect.NoneType: st.none(),
        inspect.AnyType: st.none() | st.booleans() | words | st.floats(allow_nan=False, allow_infinity=False),
    }
    return simple[type(info)]


def simplest(kind):
    """Give one small document of a kind, always the same."""
    return msgspec.convert(_least(inspect.type_info(kind)), kind)


def _least(info):
    if isinstance(info, inspect.StructType):
        return {f.encode_name: _least(f.type) for f in info.fields if f.required}
    if isinstance(info, inspect.Metadata):
        return _least(info.type)
    if isinstance(info, inspect.UnionType):
        return None if any(isinstance(t, inspect.NoneType) for t in info.types) else _least(info.types[0])
    if isinstance(info, inspect.LiteralType):
        return info.values[0]
    if isinstance(info, inspect.IntType):
        return info.ge or 0
    simple = {inspect.VarTupleType: [], inspect.DictType: {}, inspect.StrType: "", inspect.BoolType: False}
    return simple.get(type(info), 0.0)
