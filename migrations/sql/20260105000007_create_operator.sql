-- Conversations with the built-in operator assistant.
SET LOCAL lock_timeout = '5s';

CREATE TABLE operator_ai_providers (
    slug           text PRIMARY KEY CHECK (slug ~ '^[a-z0-9_]{1,32}$'),
    label          text NOT NULL,
    base_url       text NOT NULL,
    models         jsonb NOT NULL DEFAULT '[]',
    context_window integer NOT NULL DEFAULT 0 CHECK (context_window >= 0),
    enabled        boolean NOT NULL DEFAULT true,
    sort_order     integer NOT NULL DEFAULT 0,
    auth_config    jsonb NOT NULL DEFAULT '{}',
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE operator_conversation_counters (
    zone_id     text PRIMARY KEY REFERENCES zones ON DELETE CASCADE,
    next_number bigint NOT NULL DEFAULT 1
);

CREATE TABLE operator_conversations (
    id         text PRIMARY KEY,
    zone_id    text NOT NULL REFERENCES zones ON DELETE CASCADE,
    title      text NOT NULL,
    status     text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'archived')),
    created_by text NOT NULL,
    next_seq   bigint NOT NULL DEFAULT 1 CHECK (next_seq >= 1),
    mode       text NOT NULL DEFAULT 'ask' CHECK (mode IN ('ask', 'agent')),
    autopilot  boolean NOT NULL DEFAULT false,
    number     bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT operator_conversations_number_key UNIQUE (zone_id, number)
);
CREATE INDEX operator_conversations_keyset_idx ON operator_conversations (zone_id, updated_at DESC, id DESC);

CREATE TABLE operator_turns (
    id              text PRIMARY KEY,
    conversation_id text NOT NULL REFERENCES operator_conversations ON DELETE CASCADE,
    zone_id         text NOT NULL,
    seq             bigint NOT NULL,
    role            text NOT NULL CHECK (role IN ('user', 'operator', 'system')),
    kind            text NOT NULL CHECK (kind IN (
                        'message', 'plan', 'approval', 'rejection', 'execution', 'error', 'note')),
    content         jsonb NOT NULL,
    actor_id        text,
    client_token    text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT operator_turns_seq_key UNIQUE (conversation_id, seq),
    CONSTRAINT operator_turns_client_token_key UNIQUE (conversation_id, client_token)
);

CREATE TABLE operator_message_runs (
    id                      text PRIMARY KEY,
    zone_id                 text NOT NULL,
    conversation_id         text NOT NULL REFERENCES operator_conversations ON DELETE CASCADE,
    client_message_id       text NOT NULL,
    server_message_turn_id  text,
    correlation_id          text NOT NULL CONSTRAINT operator_message_runs_correlation_key UNIQUE,
    state                   text NOT NULL,
    actor_id                text,
    provider_id             text,
    model                   text,
    served_provider_id      text,
    served_model            text,
    reason                  text,
    error                   text,
    input_tokens            bigint CHECK (input_tokens >= 0),
    output_tokens           bigint CHECK (output_tokens >= 0),
    usage_by_provider_model jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(usage_by_provider_model) = 'array'),
    deadline_at             timestamptz,
    started_at              timestamptz NOT NULL DEFAULT now(),
    updated_at              timestamptz NOT NULL DEFAULT now(),
    completed_at            timestamptz,
    last_event_seq          bigint NOT NULL DEFAULT 0,
    CONSTRAINT operator_message_runs_message_key UNIQUE (conversation_id, client_message_id)
);
CREATE INDEX operator_message_runs_deadline_idx ON operator_message_runs (deadline_at) WHERE completed_at IS NULL;

CREATE TABLE operator_message_run_events (
    id         text PRIMARY KEY,
    zone_id    text NOT NULL,
    run_id     text NOT NULL REFERENCES operator_message_runs ON DELETE CASCADE,
    event_seq  bigint NOT NULL,
    state      text NOT NULL,
    reason     text,
    error      text,
    payload    jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT operator_message_run_events_seq_key UNIQUE (run_id, event_seq)
);

CREATE TABLE operator_plan_secrets (
    conversation_id text NOT NULL REFERENCES operator_conversations ON DELETE CASCADE,
    plan_seq        bigint NOT NULL,
    step_id         text NOT NULL,
    zone_id         text NOT NULL,
    envelope        bytea NOT NULL,
    secret_keys     text[] NOT NULL DEFAULT '{}',
    expires_at      timestamptz NOT NULL,
    PRIMARY KEY (conversation_id, plan_seq, step_id)
);
CREATE INDEX operator_plan_secrets_expires_idx ON operator_plan_secrets (expires_at);

CREATE TABLE operator_zone_memory (
    id              text PRIMARY KEY,
    zone_id         text NOT NULL REFERENCES zones ON DELETE CASCADE,
    conversation_id text REFERENCES operator_conversations ON DELETE SET NULL,
    text            text NOT NULL CHECK (char_length(text) BETWEEN 1 AND 2000),
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX operator_zone_memory_zone_idx ON operator_zone_memory (zone_id, created_at DESC);
