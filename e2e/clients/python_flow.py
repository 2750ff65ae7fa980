"""The published Python client against a running stack, through everything it does for a governed call.

Reads the same variables that `caracal dev` writes to dev.env. Prints one JSON object: what the upstream saw on each call.
"""

import asyncio
import json
import os
import sys

from caracalai import Authority, Caracal


def client() -> Caracal:
    env = os.environ
    return Caracal.from_client_secret(
        coordinator_url=env["CARACAL_COORDINATOR_URL"],
        sts_url=env["CARACAL_STS_URL"],
        zone_id=env["CARACAL_ZONE_ID"],
        application_id=env["CARACAL_APPLICATION_ID"],
        client_secret=env["CARACAL_APP_CLIENT_SECRET"],
        resources=[env["CARACAL_E2E_RESOURCE"]],
        gateway_url=env["CARACAL_GATEWAY_URL"],
    )


def seen(response) -> dict:
    """What the echo upstream received, after the status is checked."""
    if response.status_code != 200:
        sys.exit(f"the gateway answered {response.status_code}: {response.text}")
    return {"request_id": response.headers["x-request-id"], "upstream": response.json()}


async def main() -> None:
    gateway = os.environ["CARACAL_GATEWAY_URL"]
    resource, scope = os.environ["CARACAL_E2E_RESOURCE"], os.environ["CARACAL_E2E_SCOPE"]
    caracal = client()
    result = {}
    try:
        # The application transport starts two sessions, delegates between them and mints for each request.
        async with caracal.application_transport(resource, scopes=[scope], timeout=30) as http:
            result["transport"] = [seen(await http.get(f"{gateway}/sdk/{n}?n={n}")) for n in range(3)]
        # The same by hand: a session, a narrowed child of it, a call under the child's authority.
        async with caracal.session(labels=["demo"], ttl_seconds=300, task="parent"):
            narrowed = Authority.narrow([scope], ttl_seconds=120, resource_id=resource)
            async with caracal.session(authority=narrowed, labels=["demo"], ttl_seconds=120, task="child") as child:
                result["child_session"] = child.session_id
                async with caracal.transport(scopes=[scope], timeout=30) as http:
                    response = await http.post(
                        f"{gateway}/sdk/child", headers={"X-Caracal-Resource": resource}, content=b"body of the child"
                    )
                    result["child"] = seen(response)
    finally:
        await caracal.aclose()
    print(json.dumps(result))


asyncio.run(main())
