-- When a zone signing key begins to sign, and when it was withdrawn before its time.
SET LOCAL lock_timeout = '5s';

ALTER TABLE secrets
    -- NULL: since it was made.
    ADD COLUMN signs_from   timestamptz,
    -- Verifies nothing from then on.
    ADD COLUMN withdrawn_at timestamptz;
