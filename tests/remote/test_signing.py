"""Keys and envelopes: what was signed by whom is believed, everything else is not."""

from __future__ import annotations

import base64
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtpipe.errors import EnvironmentMissing, GateFailed, PipelineInvalid, StoreError
from trtpipe.remote import signing

TYPE = "application/vnd.in-toto+json"


def signer_of(seed: bytes) -> signing.Signer:
    return signing.Signer("ed25519-private:" + base64.b64encode(seed).decode())


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv(signing.VARIABLE, raising=False)
    return tmp_path / "trtpipe"


A, B = signer_of(b"a" * 32), signer_of(b"b" * 32)


def opened(envelope, trust=None, kind=TYPE):
    return signing.open_envelope(json.dumps(envelope).encode(), kind, trust or {"a": A.public}, "it")


def test_a_signature_is_the_one_of_the_specifications_test_vector():
    # Key: RFC 8032, 7.1, test 1. Envelope: secure-systems-lab/dsse, testvectors, "single-signature".
    signer = signer_of(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    raw = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert signer.public == "ed25519:" + base64.b64encode(raw).decode()
    payload = b'{"_type":"https://in-toto.io/Statement/v1"}'
    assert signing.pae(TYPE, payload) == b"DSSEv1 28 application/vnd.in-toto+json 43 " + payload
    signature = signer.sign(TYPE, payload)["signatures"][0]["sig"]
    assert signature == "2WAfaHm5jluo0w+0rk8uVkluELJYWjSmU9x7EUzx+AyteDGJ4/nqyJXfmAUVFIAoQafWm7AxBZNw5M9ixNHiCA=="


def test_lengths_count_bytes_not_characters():
    assert signing.pae("ä", b"") == b"DSSEv1 2 \xc3\xa4 0 "


@given(st.binary(max_size=300))
def test_what_was_signed_is_read_back(payload):
    verified = opened(A.sign(TYPE, payload), {"b": B.public, "a": A.public})
    assert (verified.payload, verified.signer) == (payload, "a")


def test_base64_for_addresses_is_read_too():
    envelope = A.sign(TYPE, b"\xfb\xff\xbf??")
    for field in (envelope, envelope["signatures"][0]):
        for name, value in field.items():
            if isinstance(value, str) and name != "payloadType":
                field[name] = value.replace("+", "-").replace("/", "_").rstrip("=")
    assert opened(envelope).payload == b"\xfb\xff\xbf??"


def test_a_wrong_key_id_is_only_a_hint():
    envelope = A.sign(TYPE, b"x")
    envelope["signatures"][0]["keyid"] = "somebody"
    assert opened(envelope).signer == "a"


def changed(envelope, how):
    if how == "payload":
        envelope["payload"] = base64.b64encode(b"y").decode()
    elif how == "stripped":
        envelope["signatures"] = []
    elif how == "no signatures":
        del envelope["signatures"]
    elif how == "other key":
        envelope = B.sign(TYPE, b"x")
    elif how == "claims":
        envelope["signatures"] = B.sign(TYPE, b"x")["signatures"]
        envelope["signatures"][0]["keyid"] = signing.keyid(A.public)
    elif how == "type":
        envelope["payloadType"] = "application/json"
    elif how == "signature":
        envelope["signatures"][0]["sig"] = base64.b64encode(b"0" * 64).decode()
    elif how == "no base64":
        envelope["signatures"][0]["sig"] = "!"
    elif how == "plain":
        envelope = {"key": {}, "artifact": {}}
    return envelope


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("payload", "in the name of a that does not fit"), ("stripped", "it is not signed"),
        ("no signatures", "not signed"), ("other key", "not trusted here"),
        ("claims", "in the name of a that does not fit"), ("type", "expected application"),
        ("signature", "in the name of a that does not fit"), ("no base64", "in the name of a that does not fit"),
        ("plain", "it is not signed"),
    ],
)  # fmt: skip
def test_what_a_trusted_key_did_not_sign_is_refused(how, why):
    with pytest.raises(GateFailed, match=why):
        opened(changed(A.sign(TYPE, b"x"), how))


def test_every_flipped_bit_of_payload_and_signature_is_seen():
    for field in ("payload", "sig"):
        envelope = A.sign(TYPE, b'{"a": 1}')
        where = envelope if field == "payload" else envelope["signatures"][0]
        good = base64.b64decode(where[field])
        for bit in range(8 * len(good)):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            where[field] = base64.b64encode(bytes(bad)).decode()
            with pytest.raises(GateFailed):
                opened(envelope)


@given(st.binary(max_size=100) | st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda i: st.lists(i, max_size=3) | st.dictionaries(
        st.sampled_from(["payload", "payloadType", "signatures", "sig", "keyid"]), i, max_size=4),
).map(lambda v: json.dumps(v).encode()))  # fmt: skip
def test_any_bytes_are_refused_and_nothing_else(data):
    with pytest.raises(GateFailed):
        signing.open_envelope(data, TYPE, {"a": A.public}, "it")


def test_nobody_is_trusted_unless_somebody_said_so():
    with pytest.raises(GateFailed, match="no signer is trusted"):
        signing.open_envelope(json.dumps(A.sign(TYPE, b"x")).encode(), TYPE, {}, "it")


def test_a_new_key_is_for_its_owner_only_and_is_not_replaced(home):
    public = signing.new_key()
    assert os.stat(home / "signing.key").st_mode & 0o777 == 0o600
    assert signing.own_signer().public == public
    assert signing.trusted() == {"you": public}
    with pytest.raises(StoreError, match="found a signing key in"):
        signing.new_key()


def test_a_key_that_others_can_read_is_refused(home):
    signing.new_key()
    os.chmod(home / "signing.key", 0o640)
    with pytest.raises(StoreError, match="chmod 600"):
        signing.signer()


def test_a_key_may_come_from_the_environment(home, monkeypatch):
    signing.new_key()
    monkeypatch.setenv(signing.VARIABLE, "ed25519-private:" + base64.b64encode(b"a" * 32).decode())
    assert signing.own_signer().public == A.public


def test_a_broken_key_is_not_shown(home, monkeypatch):
    monkeypatch.setenv(signing.VARIABLE, "ed25519-private:sesame")
    with pytest.raises(StoreError) as caught:
        signing.signer()
    assert "sesame" not in str(caught.value)


def test_without_a_key_the_command_that_makes_one_is_named(home):
    with pytest.raises(EnvironmentMissing, match="trtpipe keys new"):
        signing.own_signer()


def test_keys_are_trusted_by_name_and_a_name_keeps_its_key(home):
    signing.trust("ci", A.public)
    signing.trust("ci", A.public)
    assert signing.trusted() == {"ci": A.public}
    with pytest.raises(StoreError, match="another trusted key for ci"):
        signing.trust("ci", B.public)


@pytest.mark.parametrize("name", ["../ci", "", "you", "a b", "-x"])
def test_a_name_that_is_none_is_refused(home, name):
    with pytest.raises(PipelineInvalid, match="NAME"):
        signing.trust(name, A.public)


def test_a_private_key_in_place_of_a_public_one_is_not_repeated(home):
    with pytest.raises(PipelineInvalid, match="found a private key, expected a public one") as caught:
        signing.trust("ci", "ed25519-private:sesame")
    assert "sesame" not in str(caught.value)


def test_a_damaged_trusted_key_is_an_error_not_ignored(home):
    signing.trust("ci", A.public)
    (home / "trust" / "ci.pub").write_text("nonsense")
    with pytest.raises(StoreError, match="no public key"):
        signing.trusted()
