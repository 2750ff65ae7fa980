-- What gateways keep through the STS: certificates they have obtained, sealed. One replica at a time may write, under a lease.
SET LOCAL lock_timeout = '5s';

CREATE TABLE gateway_documents (
    name         text        PRIMARY KEY CHECK (name ~ '^[a-z0-9-]{1,64}$'),
    -- NULL: leased, and nothing written yet.
    envelope     bytea       CHECK (octet_length(envelope) <= 1048576),
    version      bigint      NOT NULL DEFAULT 0 CHECK (version >= 0),
    lease_holder text        NOT NULL CHECK (length(lease_holder) BETWEEN 1 AND 128),
    lease_until  timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL DEFAULT now(),
    CHECK ((envelope IS NULL) = (version = 0))
);

REVOKE ALL ON gateway_documents FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE ON gateway_documents TO caracalsts;
