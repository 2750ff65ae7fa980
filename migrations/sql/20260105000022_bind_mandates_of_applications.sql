-- Whether every mandate of an application is bound to the key of a proof (RFC 9449) or to its client certificate (RFC 8705).
SET LOCAL lock_timeout = '5s';

ALTER TABLE applications
    ADD COLUMN dpop_bound boolean NOT NULL DEFAULT false,
    ADD COLUMN certificate_bound boolean NOT NULL DEFAULT false;
