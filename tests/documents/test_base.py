"""What all documents have in common."""

from typing import get_args

import pytest

from tests import made
from trtpipe.documents import files
from trtpipe.documents.base import Runtime
from trtpipe.documents.manifest import Target
from trtpipe.runtime import NAMES


def test_documents_know_the_runtimes_that_there_are():
    assert get_args(Runtime) == NAMES


def test_what_a_part_does_not_have_is_left_out():
    text = files.encode(made.manifest(target=Target(compute_capabilities="8.0+")))
    assert '"target": {\n  "compute_capabilities": "8.0+"\n }' in text


def test_a_config_has_every_field_although_it_may_be_null():
    text = files.encode(made.config())
    assert '"workspace": null' in text
    assert '"hold": null' in text


def test_a_document_cannot_be_changed():
    with pytest.raises(AttributeError):
        made.manifest().plan = "another.plan"
