"""The engine that is deployed here."""

from tests.deploy.fixtures import deployable, ship

__all__ = ["deployable", "ship"]
