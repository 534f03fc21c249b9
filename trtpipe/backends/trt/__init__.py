"""TensorRT and TensorRT-RTX, through Polygraphy."""
