-- The whole of Riverlock's state. Append-only: a change is a new file, never an edit of this one.
--
-- Ids are Digital River's, compared byte by byte. Test data and live data share tables and never rows: `live_mode` is part
-- of every key that an order is found by.

-- Topic names as small numbers, so that a row of the audit stays small.
CREATE TABLE topics (
    topic_id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);

-- The audit: one row per record that a consumer has read, with the one outcome that it had.
CREATE TABLE events (
    topic_id smallint NOT NULL,
    partition integer NOT NULL CHECK (partition >= 0),
    record_offset bigint NOT NULL CHECK (record_offset >= 0),
    -- The event's id; `sha256:…` of it where it cannot be a key; `unreadable:…` where the record is no event.
    event_id text COLLATE "C" NOT NULL,
    event_type text COLLATE "C" NOT NULL,
    live_mode boolean,
    order_id text COLLATE "C",
    created_at timestamptz,
    received_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    body_sha256 bytea NOT NULL CHECK (octet_length(body_sha256) = 32),
    outcome text COLLATE "C" NOT NULL CHECK (outcome IN ('applied', 'duplicate', 'ignored', 'conflict', 'dead')),
    reason text CHECK ((reason IS NOT NULL) = (outcome IN ('ignored', 'dead'))),
    PRIMARY KEY (topic_id, partition, record_offset)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02);

-- An event takes effect once: of all records with one event id exactly one is neither duplicate nor conflict.
CREATE UNIQUE INDEX events_first_by_id ON events (event_id) WHERE outcome IN ('applied', 'ignored', 'dead');
CREATE INDEX events_by_order ON events (order_id) WHERE order_id IS NOT NULL;

-- Where every consumer stands, written in the same transaction as what the records did. After a restore of the database
-- the consumers go on from here, whatever Kafka remembers.
CREATE TABLE consumer_offsets (
    consumer text NOT NULL,
    topic_id smallint NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL CHECK (next_offset >= 0),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, topic_id, partition)
) WITH (fillfactor = 50);

-- Records that no consumer could apply, as they were.
CREATE TABLE dead_letters (
    topic_id smallint NOT NULL,
    partition integer NOT NULL,
    record_offset bigint NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    record_key bytea,
    header_names text[] NOT NULL,
    header_values bytea[] NOT NULL,
    payload bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    PRIMARY KEY (topic_id, partition, record_offset),
    CHECK (cardinality(header_names) = cardinality(header_values))
);
CREATE INDEX dead_letters_unpublished ON dead_letters (created_at) WHERE published_at IS NULL;

-- What is known of an order: facts that only grow. `status` is computed from them and repeated here for people.
CREATE TABLE orders (
    order_id text COLLATE "C" NOT NULL,
    live_mode boolean NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    status text COLLATE "C" NOT NULL CHECK (status IN
        ('on_hold', 'ready', 'fulfilled', 'complete', 'blocked', 'cancelled', 'returned', 'disputed')),
    -- Types of the events that have been seen, sorted.
    seen text[] COLLATE "C" NOT NULL,
    -- Earliest time of each of Digital River's states.
    pending_payment_at timestamptz,
    in_review_at timestamptz,
    accepted_at timestamptz,
    fulfilled_at timestamptz,
    complete_at timestamptz,
    blocked_at timestamptz,
    cancelled_at timestamptz,
    returned_at timestamptz,
    dispute_at timestamptz,
    -- States that were named and are not known, sorted.
    unknown_states text[] COLLATE "C" NOT NULL,
    -- Whether two different bodies came under one event id.
    conflicted boolean NOT NULL,
    -- The newest snapshot, and what makes it the newest.
    snapshot_updated_at timestamptz,
    snapshot_created_at timestamptz,
    snapshot_event_id text COLLATE "C" NOT NULL,
    details jsonb NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, live_mode),
    CHECK (status <> 'complete' OR complete_at IS NOT NULL),
    CHECK (status <> 'fulfilled' OR fulfilled_at IS NOT NULL),
    CHECK (status <> 'ready' OR accepted_at IS NOT NULL),
    CHECK (status <> 'blocked' OR blocked_at IS NOT NULL),
    CHECK (status <> 'cancelled' OR cancelled_at IS NOT NULL)
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);

CREATE TABLE order_lines (
    order_id text COLLATE "C" NOT NULL,
    live_mode boolean NOT NULL,
    line_id text COLLATE "C" NOT NULL,
    created_at timestamptz,
    fulfilled_at timestamptz,
    paid_at timestamptz,
    cancelled_at timestamptz,
    blocked_at timestamptz,
    returned_at timestamptz,
    snapshot_updated_at timestamptz,
    snapshot_created_at timestamptz,
    snapshot_event_id text COLLATE "C" NOT NULL,
    state text,
    sku_id text,
    quantity bigint CHECK (quantity >= 0),
    physical boolean,
    PRIMARY KEY (order_id, live_mode, line_id),
    FOREIGN KEY (order_id, live_mode) REFERENCES orders DEFERRABLE INITIALLY IMMEDIATE
) WITH (fillfactor = 85);

-- Messages to other systems, written with the state that caused them. The unique key makes each effect fire once for ever,
-- so published rows stay.
CREATE TABLE outbox (
    message_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id text COLLATE "C" NOT NULL,
    live_mode boolean NOT NULL,
    kind text COLLATE "C" NOT NULL,
    effect_key text COLLATE "C" NOT NULL,
    payload bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    UNIQUE (order_id, live_mode, kind, effect_key)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX outbox_unpublished ON outbox (message_id) WHERE published_at IS NULL;

-- Documents that Digital River announced; also the queue of their downloads. A worker leases a due row by moving
-- `next_attempt_at` forward, so a worker that dies gives its row back without anybody's help.
CREATE TABLE invoices (
    file_id uuid PRIMARY KEY,
    order_id text COLLATE "C" NOT NULL,
    live_mode boolean NOT NULL,
    purpose text COLLATE "C" NOT NULL CHECK (purpose IN ('invoice', 'credit_memo')),
    event_id text COLLATE "C" NOT NULL,
    announced_at timestamptz,
    state text COLLATE "C" NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'stored', 'discarded')),
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    lease_id uuid,
    last_error text,
    object_key text,
    sha256 bytea CHECK (octet_length(sha256) = 32),
    size_bytes bigint CHECK (size_bytes > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    CHECK ((state = 'stored') = (sha256 IS NOT NULL AND size_bytes IS NOT NULL AND object_key IS NOT NULL)),
    CHECK ((state = 'due') = (ended_at IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX invoices_due ON invoices (next_attempt_at) WHERE state = 'due';
CREATE INDEX invoices_by_order ON invoices (order_id);
