"""The Python API: a pipeline and its stages, and an engine that is ready to run."""
