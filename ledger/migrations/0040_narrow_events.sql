-- `events` with less than half the bytes per row. The next migration moves the rows, and the one after it removes the former
-- table. `event_records` is a view that shows the rows as before, with names instead of numbers and codes.

SET LOCAL statement_timeout = 0;

ALTER TABLE events RENAME TO events_former;
ALTER INDEX events_pkey RENAME TO events_former_pkey;
DROP INDEX events_first_by_id, events_by_order, events_repeated_by_id, events_conflicts;

-- Event types as numbers.
CREATE TABLE event_types (
    type_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);

-- Reasons of ignored and dead records as numbers. The program has a fixed set of them.
CREATE TABLE event_reasons (
    reason_id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);

-- Event ids that are not UUIDs, and substitutes for ids, by the key that is stored in `events`.
CREATE TABLE odd_event_ids (
    event_key uuid PRIMARY KEY,
    event_id text COLLATE "C" NOT NULL
);

-- The key of an event id. A UUID in lower case with hyphens is its own key; the key of every other text, and of a UUID of
-- version 8, is a UUID of version 8 from the text's SHA-256. ledger/src/event_key.rs computes the same.
CREATE FUNCTION event_key_of(event_id text) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE
        WHEN event_id COLLATE "C" ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-79a-f][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$'
        THEN event_id::uuid
        ELSE encode(set_byte(set_byte(h, 6, get_byte(h, 6) & 15 | 128), 8, get_byte(h, 8) & 63 | 128), 'hex')::uuid
    END
    FROM (SELECT substr(sha256(convert_to(event_id, 'UTF8')), 1, 16) AS h) hash
$$;

-- One row per record that a consumer has read, with its outcome. Columns are ordered by alignment, and the usual row has no
-- NULL: both save 8 bytes per row.
CREATE TABLE events (
    event_key uuid NOT NULL,
    -- 48 bits; see offset_key_of.
    record_offset bigint NOT NULL CHECK (record_offset BETWEEN 0 AND 281474976710655),
    -- When Kafka stored the record.
    received_at timestamptz NOT NULL,
    -- When Digital River created the event; -infinity if that is unknown.
    created_at timestamptz NOT NULL,
    partition integer NOT NULL,
    type_id integer NOT NULL,
    -- Seconds from received_at until the outcome was stored.
    recorded_after real NOT NULL,
    topic_id smallint NOT NULL,
    -- 0 if there is none.
    reason_id smallint NOT NULL,
    -- a: applied, d: duplicate, i: ignored, c: conflict, x: dead
    outcome_code "char" NOT NULL CHECK (outcome_code IN ('a', 'd', 'i', 'c', 'x')),
    -- l: live, t: test, -: none
    mode_code "char" NOT NULL CHECK (mode_code IN ('l', 't', '-')),
    body_sha256 bytea NOT NULL CHECK (octet_length(body_sha256) = 32),
    -- The content digest, packed (schemas/src/events/content/packed.rs). NULL if another record has the same bytes.
    content bytea CHECK (octet_length(content) <= 42),
    order_id text COLLATE "C",
    CHECK ((reason_id <> 0) = (outcome_code IN ('i', 'x')))
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02);

-- An event takes effect once: exactly one record of an event decides its outcome.
CREATE UNIQUE INDEX events_first_by_key ON events (event_key) WHERE outcome_code IN ('a', 'i', 'x');
CREATE INDEX events_repeated_by_key ON events (event_key) WHERE outcome_code IN ('d', 'c');
CREATE INDEX events_conflicts ON events (event_key) WHERE outcome_code = 'c';
CREATE INDEX events_by_order ON events (order_id) WHERE order_id IS NOT NULL;

-- A record has one row. Of an applied record the index on the key ensures it: read again, it has the same key.
CREATE UNIQUE INDEX events_not_applied ON events (topic_id, partition, record_offset) WHERE outcome_code <> 'a';

-- Topic and offset in one number, which grows with the offset.
CREATE FUNCTION offset_key_of(topic_id smallint, record_offset bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT topic_id::bigint * 281474976710656 + record_offset
$$;

-- Rows are appended in the order of their offsets, so that a range of offsets is found in a few ranges of pages. The index
-- takes 0.1 bytes per row; a B-tree takes 47, and 92 bytes of WAL. It is on a number with the topic, because topics have the
-- same offsets at different times; the partitions of a topic have about the same offsets at the same time.
CREATE INDEX events_by_offset ON events USING brin (offset_key_of(topic_id, record_offset) int8_minmax_multi_ops)
    WITH (pages_per_range = 64, autosummarize = on);

CREATE VIEW event_records AS
SELECT CASE WHEN substr(e.event_key::text, 15, 1) = '8'
            THEN (SELECT o.event_id FROM odd_event_ids o WHERE o.event_key = e.event_key)
            ELSE e.event_key::text COLLATE "C" END AS event_id,
       (SELECT t.name FROM event_types t WHERE t.type_id = e.type_id) AS event_type,
       CASE e.mode_code WHEN 'l' THEN true WHEN 't' THEN false END AS live_mode,
       e.order_id,
       nullif(e.created_at, '-infinity') AS created_at,
       e.received_at,
       e.received_at + e.recorded_after * interval '1 second' AS recorded_at,
       e.body_sha256,
       CASE e.outcome_code WHEN 'a' THEN 'applied' WHEN 'd' THEN 'duplicate' WHEN 'i' THEN 'ignored'
                           WHEN 'c' THEN 'conflict' WHEN 'x' THEN 'dead' END COLLATE "C" AS outcome,
       (SELECT r.name FROM event_reasons r WHERE r.reason_id = e.reason_id) AS reason,
       e.content,
       e.topic_id,
       e.partition,
       e.record_offset,
       -- For look-ups through the indexes.
       e.event_key,
       e.outcome_code,
       -- For reading the table in parts.
       e.ctid AS row_location
FROM events e;

-- Roles that had privileges on the table get them on its successors.
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('GRANT %s ON %I TO %s', a.privilege_type, successor,
                      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
        FROM pg_class c, aclexplode(c.relacl) a,
             unnest(ARRAY['events', 'event_types', 'event_reasons', 'odd_event_ids', 'event_records']) AS successor
        WHERE c.oid = 'events_former'::regclass AND a.grantee <> c.relowner
          AND (successor <> 'event_records' OR a.privilege_type = 'SELECT')
    LOOP
        EXECUTE statement;
    END LOOP;
END $$;

-- The key under which the record of a dead letter is found.
ALTER TABLE dead_letters ADD COLUMN event_key uuid;
UPDATE dead_letters d SET event_key = event_key_of(coalesce((
    SELECT e.event_id FROM events_former e
    WHERE (e.topic_id, e.partition, e.record_offset) = (d.topic_id, d.partition, d.record_offset)), 'no record'));
ALTER TABLE dead_letters ALTER COLUMN event_key SET NOT NULL;

-- How far the rows have been moved, so that an interrupted move is continued.
CREATE TABLE events_moved (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    topic_id smallint NOT NULL,
    partition integer NOT NULL,
    record_offset bigint NOT NULL,
    records bigint NOT NULL
);
INSERT INTO events_moved VALUES (true, -32768, 0, 0, 0);
