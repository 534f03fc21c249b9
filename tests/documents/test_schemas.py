"""The schemas are those of the code, valid, and told in full."""

import json

import jsonschema
import pytest
from hypothesis import given, settings

from tests.documents.strategies import documents
from tests.helpers import PROJECT
from trtpipe.documents import files, schemas
from trtpipe.documents.tensors import Tensors

FORMATS = {Tensors: 2}
"""Documents that have another format number than 1."""
EVERY = pytest.mark.parametrize("kind", schemas.DOCUMENTS, ids=lambda kind: kind.file)


def fields(schema):
    for part in (schema, *schema["$defs"].values()):
        for name, field in part.get("properties", {}).items():
            yield f"{part['title']}: {name}", field


@EVERY
def test_a_schema_is_valid_and_says_what_every_field_is(kind):
    schema = schemas.of(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"] == f"trtpipe {kind.file}, format {FORMATS.get(kind, 1)}"
    for name, field in fields(schema):
        assert field.get("description", "").endswith((".", "?")), name


@pytest.mark.parametrize("kind", schemas.LINES, ids=lambda kind: kind.file)
def test_a_schema_of_lines_is_valid_and_takes_what_else_stands_in_them(kind):
    schema = schemas.of(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"] == f"trtpipe {kind.file}, a line"
    for name, field in fields(schema):
        assert field.get("description", "").endswith("."), name
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate({"id": "a", "whatever": [1]})
    assert not validator.is_valid({"whatever": [1]})


@EVERY
def test_each_kind_of_document_has_a_file_of_its_own(kind):
    assert [other.file for other in schemas.DOCUMENTS].count(kind.file) == 1


@EVERY
def test_what_is_written_fits_its_schema(kind):
    validator = jsonschema.Draft202012Validator(schemas.of(kind))

    @settings(max_examples=30, deadline=None)
    @given(documents(kind))
    def fits(document):
        validator.validate(json.loads(files.encode(document)))

    fits()


@EVERY
def test_a_document_without_its_number_does_not_fit(kind):
    schema = schemas.of(kind)
    assert schema["properties"]["format"]["enum"] == [FORMATS.get(kind, 1)]
    assert "format" in schema["required"]


def test_the_schemas_in_the_repository_are_those_of_the_code():
    for name, schema in schemas.every().items():
        assert json.loads((PROJECT / "schemas" / name).read_text("utf-8")) == schema, f"{name}: trtpipe schema --write"
    there = {path.name for path in (PROJECT / "schemas").iterdir()}
    assert there == {"pipeline.schema.json", *schemas.every()}
