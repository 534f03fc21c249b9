"""TensorRT and TensorRT-RTX, through Polygraphy.

From the ground up: `dtypes`, `cuda` and `rules` (what each version can honour); `library` (the loaded bindings).
To build: `networks`, `parser`, `proof` (what the engine is made of), `timing_cache`, `builder`.
To run: `slots`, `runtime_cache`, `engine`, `execution` (the steps of a batch), `reader`, `timing`, `session`.
On top: `backend`, which trtpipe.backends.load imports.
"""
