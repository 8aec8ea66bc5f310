#!/usr/bin/env python3
"""Writes pyjwt.json: keys, and tokens signed with them by PyPI's PyJWT and cryptography, which are not our code.

    python tests/foreign/tokens/pyjwt.py >tests/foreign/tokens/pyjwt.json

The keys are for tests alone. Time is fixed: the tests hold the tokens against 2026-11-25T09:34:45Z.
"""

import base64
import hashlib
import hmac
import json
import sys

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

NOW = 1_795_599_285
SECRET = b"a secret of forty bytes, for tests only!"
CLAIMS = {"sub": "ana", "exp": NOW + 3600, "iat": NOW, "iss": "https://issuer.example", "aud": "rollcall"}


def pem(key):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def private_pem(key):
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()


def jwk(key, algorithm, **more):
    makers = {"RS256": jwt.algorithms.RSAAlgorithm, "ES256": jwt.algorithms.ECAlgorithm}
    maker = makers.get(algorithm, jwt.algorithms.OKPAlgorithm)
    return json.loads(maker.to_jwk(key.public_key())) | more


def part(text):
    return base64.urlsafe_b64encode(text.encode() if isinstance(text, str) else text).rstrip(b"=").decode()


def by_hand(header, claims, key=SECRET):
    """What no library would make: any header and any text of claims, with an HMAC that holds."""
    message = part(json.dumps(header)) + "." + part(claims)
    return message + "." + part(hmac.new(key, message.encode(), hashlib.sha256).digest())


def main():
    rsa_key = rsa.generate_private_key(65537, 2048)
    weak_key = rsa.generate_private_key(65537, 1024)
    ec_key, other_ec_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    p384_key = ec.generate_private_key(ec.SECP384R1())
    ed_key = ed25519.Ed25519PrivateKey.generate()
    pems = {"rsa": pem(rsa_key), "ec": pem(ec_key), "ed": pem(ed_key)}

    def sign(key, algorithm, headers=None, **changed):
        claims = {name: value for name, value in (CLAIMS | changed).items() if value is not ...}
        return jwt.encode(claims, key, algorithm=algorithm, headers=headers)

    signed = {
        "HS256": sign(SECRET, "HS256"),
        "RS256": sign(rsa_key, "RS256"),
        "ES256": sign(ec_key, "ES256"),
        "EdDSA": sign(ed_key, "EdDSA"),
        "RS256 with kid": sign(rsa_key, "RS256", {"kid": "r1"}),
        "ES256 with kid": sign(ec_key, "ES256", {"kid": "e1"}),
        "EdDSA with kid": sign(ed_key, "EdDSA", {"kid": "d1"}),
        "ES256 of another issuer's key": sign(other_ec_key, "ES256", {"kid": "e1"}),
        "ES256 of the other issuer": sign(other_ec_key, "ES256", {"kid": "e1"}, iss="https://other.example"),
        "audience in a list": sign(SECRET, "HS256", aud=["x", "rollcall"]),
        "no audience": sign(SECRET, "HS256", aud=...),
        "no issuer": sign(SECRET, "HS256", iss=...),
        "claims of ours": sign(
            SECRET,
            "HS256",
            watch=["bob", "team-*"],
            rooms=["r1", {"room": "lobby-*", "access": "count"}],
            watching=["bob"],
            **{"in": ["r1"]},
        ),
    }
    secret_of_rsa = pems["rsa"].encode()
    refused = {
        "none": ["algorithm", jwt.encode(CLAIMS, None, algorithm="none")],
        "none with a signature": ["algorithm", by_hand({"alg": "none"}, json.dumps(CLAIMS))],
        "None in another case": ["algorithm", by_hand({"alg": "nOnE"}, json.dumps(CLAIMS))],
        "HS512": ["algorithm", jwt.encode(CLAIMS, SECRET + SECRET, algorithm="HS512")],
        "PS256": ["algorithm", sign(rsa_key, "PS256")],
        "ES384": ["algorithm", sign(p384_key, "ES384")],
        "another secret": ["signature", sign(SECRET[::-1], "HS256")],
        "HS256 with the RSA key's PEM for a secret": [
            "signature",
            by_hand({"alg": "HS256"}, json.dumps(CLAIMS), secret_of_rsa),
        ],
        "expired": ["expired", sign(SECRET, "HS256", exp=NOW - 31)],
        "not valid yet": ["not_yet_valid", sign(SECRET, "HS256", nbf=NOW + 31)],
        "no end": ["claims", sign(SECRET, "HS256", exp=...)],
        "nobody": ["claims", sign(SECRET, "HS256", sub=...)],
        "another audience": ["audience", sign(SECRET, "HS256", aud="other")],
        "other audiences": ["audience", sign(SECRET, "HS256", aud=["other", "Rollcall", ""])],
        "another issuer": ["issuer", sign(SECRET, "HS256", iss="https://issuer.example.evil")],
        "an extension that must be understood": [
            "malformed",
            by_hand({"alg": "HS256", "crit": ["b64"], "b64": False}, json.dumps(CLAIMS)),
        ],
        "kid is a number": ["malformed", by_hand({"alg": "HS256", "kid": 1}, json.dumps(CLAIMS))],
        "alg is a list": ["malformed", by_hand({"alg": ["HS256"]}, json.dumps(CLAIMS))],
        "no alg": ["malformed", by_hand({"typ": "JWT"}, json.dumps(CLAIMS))],
        "the header is an array": ["malformed", by_hand(["HS256"], json.dumps(CLAIMS))],
        "the claims are an array": ["claims", by_hand({"alg": "HS256"}, json.dumps(list(CLAIMS.values())))],
        "the claims are no JSON": ["claims", by_hand({"alg": "HS256"}, "exp")],
        "exp twice": ["claims", by_hand({"alg": "HS256"}, json.dumps(CLAIMS)[:-1] + ',"exp":9999999999}')],
    }
    for claim in ["exp", "nbf"]:
        for name, value in {
            "a string": f'"{NOW + 3600}"',
            "null": "null",
            "negative": "-1",
            "huge": "1e300",
            "beyond 64 bits": "18446744073709551617",
            "in milliseconds": str((NOW + 3600) * 1000),
            "a float": f"{NOW + 3600}.5",
            "a whole float": f"{NOW + 3600}.0",
            "true": "true",
            "a list": f"[{NOW + 3600}]",
        }.items():
            rest = {key: value for key, value in CLAIMS.items() if key != claim}
            text = json.dumps(rest)[:-1] + f',"{claim}":{value}}}'
            refused[f"{claim} is {name}"] = ["claims", by_hand({"alg": "HS256"}, text)]
    json.dump(
        {
            "now": NOW,
            "secret": SECRET.decode(),
            "pem": pems,
            "other_pem": {"rsa of 1024 bits": pem(weak_key), "P-384": pem(p384_key)},
            "private_pem": {"rsa": private_pem(rsa_key), "ec": private_pem(ec_key), "ed": private_pem(ed_key)},
            "jwks": {
                "keys": [
                    jwk(rsa_key, "RS256", kid="r1", use="sig", alg="RS256"),
                    jwk(ec_key, "ES256", kid="e1", iss="https://issuer.example"),
                    jwk(other_ec_key, "ES256", kid="e1", iss="https://other.example"),
                    jwk(ed_key, "EdDSA", kid="d1", alg="EdDSA", key_ops=["verify"]),
                    # Four that are not for us.
                    jwk(rsa_key, "RS256", kid="x1", use="enc"),
                    jwk(rsa_key, "RS256", kid="x2", alg="PS256"),
                    jwk(p384_key, "ES256", kid="x3"),
                    jwk(weak_key, "RS256", kid="x4"),
                ]
            },
            "accepted": signed,
            "refused": refused,
        },
        sys.stdout,
        indent=1,
    )
    print()


if __name__ == "__main__":
    main()
