-- Messages that cannot be published do not hold up the others: the relay takes them out of its queue and keeps them here until
-- `riverlock outbox retry` puts them back.

CREATE TABLE outbox_parked (
    message_id bigint PRIMARY KEY REFERENCES outbox,
    order_id text COLLATE "C" NOT NULL,
    live_mode boolean NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now(),
    -- What Kafka said of it.
    reason text NOT NULL CHECK (reason <> ''),
    -- The message that this one waits for: those of one order are published in order, or not at all. NULL where Kafka refused
    -- this one.
    behind bigint REFERENCES outbox (message_id)
);
CREATE INDEX outbox_parked_by_order ON outbox_parked (order_id, live_mode, message_id);

-- The same for dead letters, which wait for nothing but themselves.
ALTER TABLE dead_letters
    ADD COLUMN parked_at timestamptz,
    ADD COLUMN parked_reason text,
    ADD CONSTRAINT dead_letters_parked_check CHECK ((parked_at IS NULL) = (parked_reason IS NULL));
DROP INDEX dead_letters_unpublished;
CREATE INDEX dead_letters_due ON dead_letters (created_at) WHERE published_at IS NULL AND parked_at IS NULL;
CREATE INDEX dead_letters_parked ON dead_letters (parked_at) WHERE parked_at IS NOT NULL;

-- Who had what published again, and why. Rows are never changed. The relay looks at the newest number: messages that come back
-- lie before those that it has passed.
CREATE TABLE outbox_retries (
    retry_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The message, or the place of the dead letter.
    message_id bigint REFERENCES outbox,
    topic_id smallint,
    partition integer,
    record_offset bigint,
    retried_at timestamptz NOT NULL DEFAULT now(),
    retried_by text NOT NULL CHECK (retried_by <> ''),
    why text NOT NULL CHECK (why <> ''),
    -- What was said of it before.
    parked_at timestamptz NOT NULL,
    reason text NOT NULL,
    FOREIGN KEY (topic_id, partition, record_offset) REFERENCES dead_letters,
    CHECK ((message_id IS NULL) = (record_offset IS NOT NULL))
);
