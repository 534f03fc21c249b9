"""trtpipe: a model's way to a TensorRT engine, declared in one file and cached by content."""

__version__ = "0.1.0"
