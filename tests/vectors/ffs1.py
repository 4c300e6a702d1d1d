#!/usr/bin/env python3
"""The packet layer of FFS once more, sharing nothing with the Rust code: Python and pycryptodome.

ffs1.py make   writes v1/ffs1-*.json that do not exist yet (vectors are only ever added, never made anew)
ffs1.py check  decodes every line of v1/ffs1*.json and encodes every plaintext again
"""

import base64
import json
import pathlib
import sys

from Crypto.Cipher import DES
from Crypto.Util.Padding import pad, unpad

HERE = pathlib.Path(__file__).parent / "v1"
MAX_DATA = 32 * 1024 - 1


def key_of(vector):
    keys = vector["des_keys"]
    return bytes.fromhex(keys[vector["port"] % len(keys)])


def encode(key, iv, plaintext):
    cipher = DES.new(key, DES.MODE_CBC, iv=iv).encrypt(pad(plaintext, 8, style="pkcs7"))
    return base64.b64encode(iv + cipher).decode("ascii") + "\r\n"


def decode(key, line):
    assert line.endswith("\r\n")
    raw = base64.b64decode(line[:-2], validate=True)
    return raw[:8], unpad(DES.new(key, DES.MODE_CBC, iv=raw[:8]).decrypt(raw[8:]), 8, style="pkcs7")


def packets(message):
    pieces = [message[at : at + MAX_DATA] for at in range(0, len(message), MAX_DATA)] or [b""]
    return [b"+" + piece for piece in pieces[:-1]] + [b"." + pieces[-1]]


def counter(start):
    while True:
        # Any fixed numbers do: a vector has to be repeatable, a packet on the wire gets random ones.
        start = (start * 6364136223846793005 + 1442695040888963407) % 2**64
        yield start.to_bytes(8, "big")


def odd_parity(key):
    return bytes(b & 0xFE | (bin(b >> 1).count("1") + 1) % 2 for b in key)


def vectors(keys, port, ivs, messages):
    made = []
    for message in messages:
        for plaintext in packets(message):
            vector = {"des_keys": [key.hex() for key in keys], "port": port, "iv": next(ivs).hex()}
            vector["plaintext"] = plaintext.hex()
            vector["line"] = encode(key_of(vector), bytes.fromhex(vector["iv"]), plaintext)
            made.append(vector)
    return made


def make():
    one = [bytes.fromhex("133457799bbcdff1")]
    source = counter(1)
    bag = [odd_parity(next(source)) for _ in range(128)]
    sets = {
        # Plaintexts of 1 to 9 bytes: padding of 7 down to 1, then 8, then 7.
        "padding": vectors(one, 50001, counter(2), [b"abcdefgh"[:n] for n in range(9)]),
        "text": vectors(
            one,
            7640,
            counter(3),
            [
                "Grüße aus Zürich – naïve façade".encode(),
                "ファイル 1.bin / Ωμέγα / 💾".encode(),
                b'<TOBJ VERSION="1" TYPE="STATUS" ID="00112233445566778899aabbccddeeff"></TOBJ>',
                bytes(range(256)),
            ],
        ),
        "key-index": [
            vector
            for n, port in enumerate([1, 127, 128, 1024, 49152, 50001, 65535])
            for vector in vectors(bag, port, counter(100 + n), [b"P mod N"])
        ],
        # Two and a half packets; the first cut falls within a character of two bytes.
        "continued": vectors(one, 50001, counter(4), [("é" * (MAX_DATA + MAX_DATA // 4)).encode()]),
    }
    for name, made in sets.items():
        path = HERE / f"ffs1-{name}.json"
        if path.exists():
            print(f"{path.name}: there, left alone")
            continue
        path.write_text("[\n" + ",\n".join(json.dumps(v) for v in made) + "\n]\n")
        print(f"{path.name}: {len(made)} vectors")


def check():
    count = 0
    for path in sorted(HERE.glob("ffs1*.json")):
        for vector in json.loads(path.read_text()):
            iv, plaintext = bytes.fromhex(vector["iv"]), bytes.fromhex(vector["plaintext"])
            assert decode(key_of(vector), vector["line"]) == (iv, plaintext), (path, vector["iv"])
            assert encode(key_of(vector), iv, plaintext) == vector["line"], (path, vector["iv"])
            count += 1
    print(f"{count} vectors agree")


if __name__ == "__main__":
    commands = {"make": make, "check": check}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]]()
