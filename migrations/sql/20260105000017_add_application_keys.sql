-- Public keys with which an application proves itself instead of with a secret.
SET LOCAL lock_timeout = '5s';

ALTER TABLE applications
    ADD COLUMN client_jwks jsonb
    CONSTRAINT applications_client_jwks_object CHECK (client_jwks IS NULL OR jsonb_typeof(client_jwks -> 'keys') = 'array');
