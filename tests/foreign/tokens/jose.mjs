// Writes jose.json: keys, and tokens signed with them by npm's jose, which is not our code.
//
//     node tests/foreign/tokens/jose.mjs >tests/foreign/tokens/jose.json
//
// The keys are for tests alone. Time is fixed, as in pyjwt.py.

import { SignJWT, exportJWK, exportSPKI, generateKeyPair } from "jose";

const now = 1795599285;
const secret = "another secret of forty bytes, for tests";

const sign = (key, header) =>
  new SignJWT({})
    .setProtectedHeader(header)
    .setSubject("ana")
    .setIssuer("https://issuer.example")
    .setAudience("rollcall")
    .setIssuedAt(now)
    .setNotBefore(now)
    .setExpirationTime(now + 3600)
    .sign(key);

const accepted = { HS256: await sign(new TextEncoder().encode(secret), { alg: "HS256", typ: "JWT" }) };
const pem = {};
const keys = [];
for (const [name, alg] of Object.entries({ rsa: "RS256", ec: "ES256", ed: "EdDSA", curve: "Ed25519" })) {
  const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
  pem[name] = await exportSPKI(publicKey);
  keys.push({ ...(await exportJWK(publicKey)), kid: name, alg, use: "sig" });
  accepted[alg] = await sign(privateKey, { alg });
  accepted[`${alg} with kid`] = await sign(privateKey, { alg, kid: name });
}
console.log(JSON.stringify({ now, secret, pem, jwks: { keys }, accepted }, null, 1));
