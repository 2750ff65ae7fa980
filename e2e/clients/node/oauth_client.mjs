// An OAuth client library that knows nothing of Caracal, from the metadata document alone.
//
// Reads the variables that `caracal dev` writes to dev.env, and CARACAL_TEST_NODE_CLIENTS: the folder that package.json
// was installed into. Prints one JSON object: what each step came to.

import { webcrypto } from "node:crypto";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

// Node 18 has it under another name only.
globalThis.crypto ??= webcrypto;

const env = process.env;
const installed = createRequire(join(env.CARACAL_TEST_NODE_CLIENTS, "package.json"));
const oauth = await import(pathToFileURL(installed.resolve("openid-client")));

const EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange";
const ISSUER = `${env.CARACAL_ISSUER_URL.replace(/\/$/, "")}/zones/${env.CARACAL_ZONE_ID}`;

/** What the library finds by itself; RFC 8414 instead of OpenID, and plain HTTP because the local stack speaks that. */
function discover(authentication) {
  const options = { algorithm: "oauth2", execute: [oauth.allowInsecureRequests] };
  return oauth.discovery(new URL(ISSUER), env.CARACAL_APPLICATION_ID, {}, authentication, options);
}

async function call(token) {
  const headers = { authorization: `Bearer ${token}`, "x-caracal-resource": env.CARACAL_E2E_RESOURCE };
  return (await fetch(`${env.CARACAL_GATEWAY_URL}/hello`, { headers })).status;
}

/** Token exchange, a governed call, introspection, revocation, and introspection again. */
async function walk(authentication) {
  const server = await discover(authentication);
  const asked = { resource: env.CARACAL_E2E_RESOURCE, scope: env.CARACAL_E2E_SCOPE };
  const token = (await oauth.genericGrantRequest(server, EXCHANGE, asked)).access_token;
  const before = await oauth.tokenIntrospection(server, token);
  const called = await call(token);
  // Rejects unless it is answered as RFC 7009 says.
  await oauth.tokenRevocation(server, token);
  const after = await oauth.tokenIntrospection(server, token);
  return { before, called, after, called_after: await call(token) };
}

/** The client's own key, made known by an administrator. */
async function withKey() {
  const algorithm = { name: "ECDSA", namedCurve: "P-256" };
  const pair = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const { kty, crv, x, y } = await crypto.subtle.exportKey("jwk", pair.publicKey);
  const key = { kty, crv, x, y, kid: "openid-client-1", use: "sig", alg: "ES256" };
  const path = `/v1/zones/${env.CARACAL_ZONE_ID}/applications/${env.CARACAL_APPLICATION_ID}/keys`;
  const stored = await fetch(env.CARACAL_API_URL + path, {
    method: "PUT",
    headers: { authorization: `Bearer ${env.CARACAL_ADMIN_TOKEN}`, "content-type": "application/json" },
    body: JSON.stringify({ keys: [key] }),
  });
  if (!stored.ok) throw new Error(`the key was not stored: ${stored.status} ${await stored.text()}`);
  return walk(oauth.PrivateKeyJwt({ key: pair.privateKey, kid: key.kid }));
}

const secret = env.CARACAL_APP_CLIENT_SECRET;
console.log(
  JSON.stringify({
    client_secret_basic: await walk(oauth.ClientSecretBasic(secret)),
    client_secret_post: await walk(oauth.ClientSecretPost(secret)),
    private_key_jwt: await withKey(),
  }),
);
