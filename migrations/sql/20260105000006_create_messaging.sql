-- Messages promised to the event streams, and webhooks.
SET LOCAL lock_timeout = '5s';

-- One sequence for both outboxes: promises are published in the order they were made. A relay claims rows by locking
-- them for as long as it takes to publish them: a relay that dies lets go of them at once.
CREATE SEQUENCE outbox_position;

CREATE TABLE event_outbox (
    id            text PRIMARY KEY,
    position      bigint NOT NULL DEFAULT nextval('outbox_position'),
    stream_name   text NOT NULL,
    payload_json  jsonb NOT NULL CHECK (jsonb_typeof(payload_json) = 'object'),
    request_id    text,
    attempts      integer NOT NULL DEFAULT 0,
    dead          boolean NOT NULL DEFAULT false,
    available_at  timestamptz NOT NULL DEFAULT now(),
    last_error    text,
    dispatched_at timestamptz,
    -- Start of the transaction, so never after its commit. No role may set it: watermarks rest on it.
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX event_outbox_due_idx ON event_outbox (position) WHERE dispatched_at IS NULL AND NOT dead;
CREATE INDEX event_outbox_waiting_idx ON event_outbox (created_at) WHERE dispatched_at IS NULL;
CREATE INDEX event_outbox_prune_idx ON event_outbox (dispatched_at) WHERE dispatched_at IS NOT NULL;

CREATE TABLE caracal_outbox (
    id           text PRIMARY KEY,
    position     bigint NOT NULL DEFAULT nextval('outbox_position'),
    producer     text NOT NULL CHECK (producer IN ('api', 'coordinator')),
    topic        text NOT NULL,
    dedupe_key   text NOT NULL,
    payload_json jsonb NOT NULL CHECK (jsonb_typeof(payload_json) = 'object'),
    status       text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'published', 'dead')),
    attempts     integer NOT NULL DEFAULT 0,
    available_at timestamptz NOT NULL DEFAULT now(),
    last_error   text,
    published_at timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT caracal_outbox_dedupe_key UNIQUE (producer, topic, dedupe_key)
);
CREATE INDEX caracal_outbox_due_idx ON caracal_outbox (position) WHERE status = 'pending';
CREATE INDEX caracal_outbox_waiting_idx ON caracal_outbox (created_at) WHERE status <> 'published';
CREATE INDEX caracal_outbox_prune_idx ON caracal_outbox (published_at) WHERE status = 'published';

-- Wakes the relays at commit; they poll as well, so a lost notification costs time, never a message.
CREATE FUNCTION notify_outbox() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('caracal_outbox', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER event_outbox_notify AFTER INSERT ON event_outbox
    FOR EACH STATEMENT EXECUTE FUNCTION notify_outbox();
CREATE TRIGGER caracal_outbox_notify AFTER INSERT ON caracal_outbox
    FOR EACH STATEMENT EXECUTE FUNCTION notify_outbox();

-- Rows here change constantly and only the few that wait are read: keep dead tuples from piling up under the indexes.
ALTER TABLE event_outbox SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
ALTER TABLE caracal_outbox SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);

CREATE TABLE notification_sinks (
    id                   text PRIMARY KEY,
    zone_id              text NOT NULL REFERENCES zones ON DELETE CASCADE,
    name                 text NOT NULL,
    url                  text NOT NULL,
    secret_ct            bytea NOT NULL,
    event_types          text[] NOT NULL CHECK (cardinality(event_types) > 0),
    active               boolean NOT NULL DEFAULT true,
    cursor_chain_seq     bigint NOT NULL DEFAULT 0,
    consecutive_failures integer NOT NULL DEFAULT 0,
    last_success_at      timestamptz,
    last_failure_at      timestamptz,
    last_error           text,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX notification_sinks_keyset_idx ON notification_sinks (zone_id, created_at DESC, id DESC);

CREATE TABLE notification_deliveries (
    id              text PRIMARY KEY,
    sink_id         text NOT NULL REFERENCES notification_sinks ON DELETE CASCADE,
    zone_id         text NOT NULL,
    event_id        text NOT NULL,
    event_type      text NOT NULL,
    payload_json    jsonb NOT NULL,
    attempts        integer NOT NULL DEFAULT 0,
    available_at    timestamptz NOT NULL DEFAULT now(),
    delivered_at    timestamptz,
    abandoned_at    timestamptz,
    response_status integer,
    last_error      text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT notification_deliveries_event_key UNIQUE (sink_id, event_id)
);
CREATE INDEX notification_deliveries_due_idx ON notification_deliveries (available_at)
    WHERE delivered_at IS NULL AND abandoned_at IS NULL;
CREATE INDEX notification_deliveries_order_idx ON notification_deliveries (sink_id, created_at, id)
    WHERE delivered_at IS NULL AND abandoned_at IS NULL;
CREATE INDEX notification_deliveries_settled_idx ON notification_deliveries ((coalesce(delivered_at, abandoned_at)))
    WHERE delivered_at IS NOT NULL OR abandoned_at IS NOT NULL;
CREATE INDEX notification_deliveries_keyset_idx ON notification_deliveries (sink_id, created_at DESC, id DESC);
