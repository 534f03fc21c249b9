"""ONNX files, and what is done to them before a runtime sees them."""
