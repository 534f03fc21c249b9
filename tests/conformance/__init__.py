"""ONNX's own backend tests, run through trtpipe and held against the suite's own outputs and tolerances."""
