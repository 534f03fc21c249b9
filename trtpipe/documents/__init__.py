"""The JSON documents that pass between stages, as typed structs: one file a document, read and written by `files`.

Whoever reads another stage's document reads a struct, never a dict by string keys. The structs make the JSON Schemas in
`schemas/`: change one here, and `trtpipe schema --write` tells the programs that read these files.
"""
