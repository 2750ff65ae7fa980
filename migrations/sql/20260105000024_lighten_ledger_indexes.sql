-- The ledger is written far more often than it is read, and each index is paid for with every event.
SET LOCAL lock_timeout = '5s';

-- Ascending: events come in the order of time, so that a new entry goes to the right end of an index, whose pages are then left full. A
-- descending index takes it at the left end, splits pages in the middle and grows twice as large. Both are read in either direction.
DROP INDEX audit_events_chain_idx, audit_events_keyset_idx, audit_events_agent_session_idx,
    audit_events_authority_record_idx, audit_events_application_idx;
CREATE INDEX audit_events_chain_idx ON audit_events (zone_id, chain_seq);
CREATE INDEX audit_events_keyset_idx ON audit_events (zone_id, occurred_at, id);
-- Without the zone: these ids belong to one zone each.
CREATE INDEX audit_events_agent_session_idx ON audit_events (agent_session_id, occurred_at)
    WHERE agent_session_id IS NOT NULL;
CREATE INDEX audit_events_authority_record_idx ON audit_events (authority_record_id, occurred_at)
    WHERE authority_record_id IS NOT NULL;
CREATE INDEX audit_events_application_idx ON audit_events (application_id, occurred_at)
    WHERE application_id IS NOT NULL;

-- No query could use the first under row-level security, because jsonb's @> is not leakproof, and none asks by the second.
DROP INDEX audit_events_labels_idx, audit_events_ingested_idx;

-- An event has 2 to 3.5 KB: nothing is gained by trying to compress it until it fits four to a page. Longer ones are compressed as before.
DO $$
DECLARE
    part regclass;
BEGIN
    FOR part IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'audit_events'::regclass LOOP
        EXECUTE format('ALTER TABLE %s SET (toast_tuple_target = 4080)', part);
    END LOOP;
END
$$;

-- As before, and with the same setting for the partition.
CREATE OR REPLACE FUNCTION audit_partition_ensure(month date) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET "caracal.zone_id" = '*' AS $$
DECLARE
    first_day  date := date_trunc('month', month::timestamp)::date;
    next_month date := (date_trunc('month', month::timestamp) + interval '1 month')::date;
    part       text := format('audit_events_y%sm%s', to_char(first_day, 'YYYY'), to_char(first_day, 'MM'));
    lower_end  timestamptz := first_day::timestamp AT TIME ZONE 'UTC';
    upper_end  timestamptz := next_month::timestamp AT TIME ZONE 'UTC';
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('audit_partition_ensure'));
    IF to_regclass(part) IS NOT NULL THEN
        RETURN false;
    END IF;
    LOCK TABLE audit_events_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('CREATE TABLE %I (LIKE audit_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED)
        WITH (toast_tuple_target = 4080)', part);
    EXECUTE format(
        'WITH moved AS (DELETE FROM audit_events_default WHERE occurred_at >= %L AND occurred_at < %L RETURNING
             id, zone_id, event_type, request_id, decision, policy_set_id, policy_set_version_id, manifest_sha,
             evaluation_status, determining_policies_json, diagnostics_json, metadata_json, occurred_at, ingested_at,
             content_sha256, prev_content_sha256, chain_hmac, chain_seq, ingest_signature, signed_data, key_id)
         INSERT INTO %I (id, zone_id, event_type, request_id, decision, policy_set_id, policy_set_version_id, manifest_sha,
             evaluation_status, determining_policies_json, diagnostics_json, metadata_json, occurred_at, ingested_at,
             content_sha256, prev_content_sha256, chain_hmac, chain_seq, ingest_signature, signed_data, key_id)
         SELECT * FROM moved', lower_end, upper_end, part);
    EXECUTE format('ALTER TABLE audit_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', part, lower_end, upper_end);
    RETURN true;
END
$$;
