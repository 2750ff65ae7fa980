-- What a decision policy may do in a zone: only restrict the platform's contract, or decide in its place.
SET LOCAL lock_timeout = '5s';

ALTER TABLE zones
    ADD COLUMN policy_mode text NOT NULL DEFAULT 'restrict'
    CONSTRAINT zones_policy_mode_check CHECK (policy_mode IN ('restrict', 'sole'));
