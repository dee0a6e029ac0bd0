-- Replays of records into the live state: what was planned, how far it was done, and by whom.

-- What a dry run found. The hash covers what would take effect: records with their outcomes and body hashes, and messages.
CREATE TABLE replay_plans (
    plan_hash bytea PRIMARY KEY CHECK (octet_length(plan_hash) = 32),
    -- What was asked for, and what was found, for people.
    selection jsonb NOT NULL,
    summary jsonb NOT NULL,
    -- How the records were cut into transactions: they are cut the same way again.
    chunk_records integer NOT NULL CHECK (chunk_records > 0),
    chunk_bytes integer NOT NULL CHECK (chunk_bytes > 0),
    created_at timestamptz NOT NULL,
    created_by text NOT NULL CHECK (created_by <> '')
);

CREATE TABLE replay_plan_ranges (
    plan_hash bytea NOT NULL REFERENCES replay_plans ON DELETE CASCADE,
    topic_id smallint NOT NULL,
    partition integer NOT NULL,
    start_offset bigint NOT NULL CHECK (start_offset >= 0),
    end_offset bigint NOT NULL CHECK (end_offset > start_offset),
    PRIMARY KEY (plan_hash, topic_id, partition, start_offset)
);

-- The transactions in which something takes effect; in all others nothing does.
CREATE TABLE replay_plan_chunks (
    plan_hash bytea NOT NULL REFERENCES replay_plans ON DELETE CASCADE,
    chunk bigint NOT NULL CHECK (chunk >= 0),
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    summary text NOT NULL,
    PRIMARY KEY (plan_hash, chunk)
);

-- A plan being done. Progress is written in the transaction of what was done.
CREATE TABLE replay_runs (
    run_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    plan_hash bytea NOT NULL REFERENCES replay_plans,
    state text COLLATE "C" NOT NULL CHECK (state IN ('running', 'stopped', 'refused', 'superseded', 'done')),
    next_chunk bigint NOT NULL DEFAULT 0,
    records bigint NOT NULL DEFAULT 0,
    fresh bigint NOT NULL DEFAULT 0,
    effects bigint NOT NULL DEFAULT 0,
    detail text,
    started_at timestamptz NOT NULL,
    started_by text NOT NULL CHECK (started_by <> ''),
    updated_at timestamptz NOT NULL,
    ended_at timestamptz,
    CHECK ((state IN ('superseded', 'done')) = (ended_at IS NOT NULL))
);
CREATE INDEX replay_runs_by_plan ON replay_runs (plan_hash);

-- How far every range of a run has been read: rows that are not here yet have not been begun.
CREATE TABLE replay_run_ranges (
    run_id bigint NOT NULL REFERENCES replay_runs ON DELETE CASCADE,
    topic_id smallint NOT NULL,
    partition integer NOT NULL,
    start_offset bigint NOT NULL,
    next_offset bigint NOT NULL CHECK (next_offset >= start_offset),
    PRIMARY KEY (run_id, topic_id, partition, start_offset)
);
