"""An OAuth client library that knows nothing of Caracal, from the metadata document alone.

Reads the variables that `caracal dev` writes to dev.env. Prints one JSON object: what each step came to.
"""

import json
import os

# The local stack speaks plain HTTP on loopback.
os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"

import requests
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from joserfc.jwk import ECKey

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ENV = os.environ
RESOURCE, SCOPE = ENV["CARACAL_E2E_RESOURCE"], ENV["CARACAL_E2E_SCOPE"]


def metadata() -> AuthorizationServerMetadata:
    """RFC 8414 section 3: from the issuer to the document, which must name the same issuer."""
    issuer = f"{ENV['CARACAL_ISSUER_URL'].rstrip('/')}/zones/{ENV['CARACAL_ZONE_ID']}"
    base, path = issuer.split("/zones/", 1)
    found = requests.get(f"{base}/.well-known/oauth-authorization-server/zones/{path}", timeout=10)
    found.raise_for_status()
    document = AuthorizationServerMetadata(found.json())
    document.validate()
    assert document["issuer"] == issuer, document["issuer"]
    return document


def call(token: str) -> int:
    headers = {"Authorization": f"Bearer {token}", "X-Caracal-Resource": RESOURCE}
    return requests.get(f"{ENV['CARACAL_GATEWAY_URL']}/hello", headers=headers, timeout=10).status_code


def walk(client: OAuth2Session, server: AuthorizationServerMetadata) -> dict:
    """Token exchange, a governed call, introspection, revocation, and introspection again."""
    token = client.fetch_token(
        server["token_endpoint"], grant_type=EXCHANGE, resource=RESOURCE, scope=SCOPE
    )["access_token"]
    before = client.introspect_token(server["introspection_endpoint"], token=token).json()
    called = call(token)
    client.revoke_token(server["revocation_endpoint"], token=token).raise_for_status()
    after = client.introspect_token(server["introspection_endpoint"], token=token).json()
    return {
        "before": before,
        "called": called,
        "after": after,
        "called_after": call(token),
    }


def with_secret(server: AuthorizationServerMetadata, method: str) -> dict:
    client = OAuth2Session(
        ENV["CARACAL_APPLICATION_ID"],
        ENV["CARACAL_APP_CLIENT_SECRET"],
        token_endpoint_auth_method=method,
    )
    return walk(client, server)


def with_key(server: AuthorizationServerMetadata) -> dict:
    """The client's own key, made known by an administrator."""
    key = ECKey.generate_key("P-256", {"kid": "authlib-1", "use": "sig", "alg": "ES256"})
    path = f"/v1/zones/{ENV['CARACAL_ZONE_ID']}/applications/{ENV['CARACAL_APPLICATION_ID']}/keys"
    stored = requests.put(
        ENV["CARACAL_API_URL"] + path,
        json={"keys": [key.as_dict(private=False)]},
        headers={"Authorization": f"Bearer {ENV['CARACAL_ADMIN_TOKEN']}"},
        timeout=10,
    )
    stored.raise_for_status()
    method = PrivateKeyJWT(server["token_endpoint"], alg="ES256")
    client = OAuth2Session(
        ENV["CARACAL_APPLICATION_ID"],
        key,
        token_endpoint_auth_method=method,
        revocation_endpoint_auth_method=method,
    )
    return walk(client, server)


def main() -> None:
    server = metadata()
    result = {
        method: with_secret(server, method) for method in ("client_secret_basic", "client_secret_post")
    }
    result["private_key_jwt"] = with_key(server)
    print(json.dumps(result))


main()
