#!/usr/bin/env bash
# Two clones of one repository share an engine through an S3 server. With one changed byte the engine is refused.
#
#   docs/two-clones.sh FOLDER
#
# Works in FOLDER, which must not exist. Needs git, `trtpipe[cpu,torch,remote]`, a bucket in BUCKET (default: engines),
# and AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY with the right to write there.
# tests/test_two_clones.py runs this with a server of its own.
set -euo pipefail
recipes=$(cd "$(dirname "$0")/../pipelines" && pwd)
bucket=${BUCKET:-engines}
python=${PYTHON:-python3}
mkdir "$1"
cd "$1"
top=$PWD
export GIT_AUTHOR_NAME=CI GIT_AUTHOR_EMAIL=ci@example.org GIT_COMMITTER_NAME=CI GIT_COMMITTER_EMAIL=ci@example.org
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE TRTPIPE_ARTIFACTS TRTPIPE_REMOTE TRTPIPE_SIGNING_KEY
as_ci() { XDG_CONFIG_HOME=$top/ci "$python" -m trtpipe "$@"; }          # CI has a signing key
as_person() { XDG_CONFIG_HOME=$top/person "$python" -m trtpipe "$@"; }  # a person has none and trusts the keys in the document

echo "--- CI makes its signing key; the public key is in the document, which is reviewed like code"
public=$(as_ci keys new)
mkdir -p origin/digits
cp "$recipes"/digits.yaml origin/
cp "$recipes"/digits/{model.py,weights.npz,test.npz,labels.npy} origin/digits/
cat >> origin/digits.yaml <<DOCUMENT
remote:
  url: s3://$bucket/two-clones
  trust: {ci: "$public"}
DOCUMENT
echo "artifacts/" > origin/.gitignore
git -C origin init --quiet --initial-branch main
git -C origin add .
git -C origin commit --quiet -m "A recipe and who may build it"

echo "--- clone 1 builds, locks and pushes"
git clone --quiet origin one
cd one
as_ci run digits.yaml --backend onnxruntime --target engine --quiet
as_ci lock digits.yaml --backend onnxruntime --target engine
as_ci cache push digits.yaml --backend onnxruntime --target engine --set remote.mode=write
as_ci attest digits.yaml engine --backend onnxruntime --output engine.intoto.json
git add digits.lock engine.intoto.json
git commit --quiet -m "Lock the engine"
git push --quiet origin HEAD:locked
cd ..
git -C origin checkout --quiet locked

echo "--- clone 2 has neither the model's weights nor its code, and takes the locked engine"
git clone --quiet --branch locked origin two
cd two
rm digits/weights.npz digits/model.py
as_person run digits.yaml --backend onnxruntime --target engine --frozen
cd ..
cmp one/artifacts/view/digits/engine/engine.onnx two/artifacts/view/digits/engine/engine.onnx
echo "the engines are equal: $(sha256sum < two/artifacts/view/digits/engine/engine.onnx | cut -c 1-64)"

echo "--- an attacker who can write to the bucket changes one byte of the engine"
digest=$(sha256sum < one/artifacts/view/digits/engine/engine.onnx | cut -c 1-64)
"$python" - "$bucket/two-clones/v1/blobs/sha256/${digest:0:2}/$digest" <<'PROGRAM'
import sys
import s3fs

client = s3fs.S3FileSystem()
content = bytearray(client.cat_file(sys.argv[1]))
content[len(content) // 2] ^= 1
client.pipe_file(sys.argv[1], bytes(content))
PROGRAM

echo "--- clone 3 refuses it"
git clone --quiet --branch locked origin three
cd three
rm digits/weights.npz digits/model.py
code=0
as_person run digits.yaml --backend onnxruntime --target engine --frozen || code=$?
test "$code" = 5
test ! -e artifacts/view/digits/engine
echo "refused with exit code $code; nothing of the engine was kept"
