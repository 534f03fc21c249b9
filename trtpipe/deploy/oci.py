"""A bundle as an OCI image layout, by the media types of CNCF's ModelPack, with signature and attestation as referrers.

Sources: opencontainers/image-spec 1.1 (image-layout.md, manifest.md), opencontainers/distribution-spec 1.1 (referrers
tag schema), modelpack/model-spec (config.md, mediatype.go).
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from trtpipe.deploy.reading import PAYLOAD_TYPE, SIGNATURE
from trtpipe.deploy.writing import ATTESTATION, described
from trtpipe.trust.attest import PAYLOAD_TYPE as IN_TOTO

if TYPE_CHECKING:
    from trtpipe.deploy.writing import Ready

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
MODEL = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
WEIGHTS = "application/vnd.cncf.model.weight.v1.raw"
ABOUT = "application/vnd.cncf.model.weight.config.v1.raw"
DOC = "application/vnd.cncf.model.doc.v1.raw"
EMPTY = "application/vnd.oci.empty.v1+json"
ENVELOPE = "application/vnd.dsse.envelope.v1+json"
_PATH, _TITLE = "org.cncf.model.filepath", "org.opencontainers.image.title"
_TAG = "org.opencontainers.image.ref.name"


class Layout:
    """Collects the blobs of a layout; the same bundle gives the same digests."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes | str] = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"})}

    def blob(self, content: bytes | str, media_type: str, sha256: str, size: int, **more: Any) -> dict[str, Any]:
        """Add a blob; give its descriptor."""
        self.contents[f"blobs/sha256/{sha256}"] = content
        return {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": size, **more}

    def json(self, value: dict[str, Any], media_type: str, **more: Any) -> dict[str, Any]:
        """Add a JSON document as a blob; give its descriptor."""
        text = _json(value)
        return self.blob(text, media_type, hashlib.sha256(text).hexdigest(), len(text), **more)


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def files_of(ready: Ready) -> dict[str, bytes | str]:
    """Give the files of an image layout with one artifact: the bundle, each of its files a layer under its own name."""
    bundle, manifest = ready.bundle, ready.manifest
    layout = Layout()
    layers = []
    for name, content in sorted(ready.contents.items()):
        known = bundle.files.get(name) or described(content)
        weights = name == manifest.plan or name.startswith(f"{manifest.plan}.")
        kind = WEIGHTS if weights else DOC if name.startswith("licences/") else ABOUT
        layers.append(layout.blob(content, kind, known.sha256, known.bytes, annotations={_PATH: name, _TITLE: name}))
    about: dict[str, Any] = {"name": bundle.pipeline}
    if bundle.commit:
        about["revision"] = bundle.commit
    config = {
        "descriptor": about,
        "modelfs": {"type": "layers", "diffIds": [one["digest"] for one in layers]},
        "config": {"format": manifest.runtime, "precision": manifest.precision},
    }
    tag = bundle.key[:12]
    model = layout.json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": MODEL,
            "config": layout.json(config, CONFIG),
            "layers": layers,
            "annotations": {
                "io.trtpipe.key": bundle.key, "io.trtpipe.stage": bundle.stage,
                "io.trtpipe.runtime": f"{manifest.runtime} {manifest.runtime_version}",
            },
        },
        MANIFEST, artifactType=MODEL, annotations={_TAG: tag},
    )  # fmt: skip
    listed = [model]
    referrers = _referrers(ready, layout, model)
    if referrers:
        # A registry without the referrers API is asked for a tag of this name.
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": referrers}
        listed.append(layout.json(index, INDEX, annotations={_TAG: model["digest"].replace(":", "-")}))
    layout.contents["index.json"] = _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed})
    return layout.contents


def _referrers(ready: Ready, layout: Layout, model: dict[str, Any]) -> list[dict[str, Any]]:
    """Add a manifest for the signature and one for the attestation, whose subject is the model; give what they are."""
    subject = {name: model[name] for name in ("mediaType", "digest", "size")}
    found = []
    for name, kind in ((SIGNATURE, PAYLOAD_TYPE), (ATTESTATION, IN_TOTO)):
        content = ready.contents.get(name)
        if not isinstance(content, bytes):
            continue
        layer = layout.blob(content, ENVELOPE, hashlib.sha256(content).hexdigest(), len(content),
                            annotations={_TITLE: name})  # fmt: skip
        manifest = {
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "config": layout.json({}, EMPTY),
            "layers": [layer], "subject": subject,
        }  # fmt: skip
        found.append(layout.json(manifest, MANIFEST, artifactType=kind))
    return found
