#!/usr/bin/env python3
"""Sealed sessions and transactions once more, sharing nothing with the Rust code: Python, pyca/cryptography for X25519
and ChaCha20-Poly1305, hashlib for BLAKE2s, ElementTree for XML, and ffs1.py beside this file for the packets.

sealed.py check   makes both directions of v1/sealed-session.json from its keys and texts, byte by byte, opens them again,
                  and takes the fields out of every text of v1/tobj.json
"""

import hashlib
import hmac
import json
import sys
from xml.etree import ElementTree

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import ffs1

NOISE = b"Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s"


def blake2s(data):
    return hashlib.blake2s(data).digest()


def hkdf(key, data, count):
    """HKDF of the Noise specification, revision 34, section 4.3."""
    mac = lambda k, d: hmac.new(k, d, hashlib.blake2s).digest()
    temporary, out = mac(key, data), [b""]
    for n in range(1, count + 1):
        out.append(mac(temporary, out[-1] + bytes([n])))
    return out[1:]


class Cipher:
    def __init__(self, key):
        self.cipher, self.n = ChaCha20Poly1305(key), 0

    def nonce(self):
        self.n += 1
        return bytes(4) + (self.n - 1).to_bytes(8, "little")

    def encrypt(self, plain, ad=b""):
        return self.cipher.encrypt(self.nonce(), plain, ad)

    def decrypt(self, sealed, ad=b""):
        return self.cipher.decrypt(self.nonce(), sealed, ad)


class Symmetric:
    def __init__(self, prologue):
        self.h = NOISE + bytes(32 - len(NOISE)) if len(NOISE) <= 32 else blake2s(NOISE)
        self.ck = self.h
        self.mix_hash(prologue)

    def mix_hash(self, data):
        self.h = blake2s(self.h + data)

    def mix_key(self, data):
        self.ck, key = hkdf(self.ck, data, 2)
        self.cipher = Cipher(key)

    def mix_psk(self, psk):
        self.ck, h, key = hkdf(self.ck, psk, 3)
        self.mix_hash(h)
        self.cipher = Cipher(key)

    def ephemeral(self, public):
        # In patterns with a pre-shared key, e is mixed into the key too.
        self.mix_hash(public)
        self.mix_key(public)

    def empty_payload(self):
        sealed = self.cipher.encrypt(b"", self.h)
        self.mix_hash(sealed)
        return sealed


def framed(data):
    return len(data).to_bytes(2, "big") + data


def session():
    v = json.loads((ffs1.HERE / "sealed-session.json").read_text())
    hello = f"FFS/2 {v['link']} {','.join(map(str, v['offered']))}\r\n".encode()
    answer = f"FFS/2 {v['port']} {v['offered'][0]}\r\n".encode()
    prologue = hello + answer + framed(v["client"].encode()) + framed(v["server"].encode())
    client, server = (X25519PrivateKey.from_private_bytes(bytes.fromhex(v[k])) for k in ("client_ephemeral", "server_ephemeral"))
    public = lambda key: key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    state = Symmetric(prologue)
    state.mix_psk(bytes.fromhex(v["seal_key"]))
    state.ephemeral(public(client))
    first = public(client) + state.empty_payload()
    state.ephemeral(public(server))
    state.mix_key(client.exchange(X25519PublicKey.from_public_bytes(public(server))))
    second = public(server) + state.empty_payload()
    to_server, to_client = map(Cipher, hkdf(state.ck, b"", 2))

    des = bytes.fromhex(v["des_key"])
    line = lambda text, iv: ffs1.encode(des, bytes.fromhex(iv), b"." + text.encode()).encode()
    request, reply = line(v["request"], v["request_iv"]), line(v["reply"], v["reply_iv"])
    streams = {
        "to_server": hello + framed(first) + framed(to_server.encrypt(request)) + framed(to_server.encrypt(b"")),
        "to_client": answer + framed(second) + framed(to_client.encrypt(reply)) + framed(to_client.encrypt(b"")),
    }
    for name, stream in streams.items():
        assert stream.hex() == v[name], name

    # And the other way round, from the bytes that were kept.
    for name, key, skip, text in [
        ("to_server", hkdf(state.ck, b"", 2)[0], len(hello) + 50, v["request"]),
        ("to_client", hkdf(state.ck, b"", 2)[1], len(answer) + 50, v["reply"]),
    ]:
        stream, cipher, opened = bytes.fromhex(v[name])[skip:], Cipher(key), []
        while stream:
            length = int.from_bytes(stream[:2], "big")
            opened.append(cipher.decrypt(stream[2 : 2 + length]))
            stream = stream[2 + length :]
        assert opened[-1] == b"" and ffs1.decode(des, opened[0].decode())[1] == b"." + text.encode(), name
    print("the session agrees")


def fields(element, at=""):
    for child in element:
        path = f"{at}/{child.tag}" if at else child.tag
        if len(child):
            yield from fields(child, path)
        else:
            yield [path, child.text or ""]


def transactions():
    vectors = json.loads((ffs1.HERE / "tobj.json").read_text())
    for v in vectors:
        root = ElementTree.fromstring(v["text"])
        attributes = {"VERSION": "1", "TYPE": v["type"], "ID": v["id"]}
        if v["literal"] is not None:
            attributes["LITERAL"] = str(v["literal"])
        assert (root.tag, root.attrib) == ("TOBJ", attributes), v["type"]
        assert list(fields(root)) == v["fields"], v["type"]
    print(f"{len(vectors)} transactions agree")


if __name__ == "__main__":
    if sys.argv[1:] != ["check"]:
        sys.exit(__doc__)
    session()
    transactions()
