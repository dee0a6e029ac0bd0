-- What becomes of dead letters, who decided it and why; and how far the running audit has proved the records.

-- An open letter waits for somebody. A redriven one has had its effect after all, or was found to need none; a discarded one
-- was given up. What the audit says of the record is in `events`; a discarded letter's record stays dead there.
ALTER TABLE dead_letters
    ADD COLUMN state text COLLATE "C" NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'redriven', 'discarded')),
    -- How often the record was tried, the consumer's own try included.
    ADD COLUMN attempts integer NOT NULL DEFAULT 1 CHECK (attempts > 0),
    -- When it was tried last. Redriving goes by this, so that a run that was cut short begins with what it did not reach.
    ADD COLUMN attempted_at timestamptz NOT NULL DEFAULT now();
UPDATE dead_letters SET attempted_at = created_at;

CREATE INDEX dead_letters_open ON dead_letters (attempted_at, topic_id, partition, record_offset) WHERE state = 'open';
CREATE INDEX dead_letters_by_age ON dead_letters (state, created_at, topic_id, partition, record_offset);

-- What was done about which letter, by whom and why. Rows are never changed.
CREATE TABLE dead_letter_actions (
    action_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic_id smallint NOT NULL,
    partition integer NOT NULL,
    record_offset bigint NOT NULL,
    action text COLLATE "C" NOT NULL CHECK (action IN ('redrive', 'discard')),
    acted_at timestamptz NOT NULL DEFAULT now(),
    acted_by text NOT NULL CHECK (acted_by <> ''),
    why text NOT NULL CHECK (why <> ''),
    -- The outcome that the record had then; for what stayed dead or was ignored, with the reason.
    outcome text COLLATE "C" NOT NULL CHECK (outcome IN ('applied', 'duplicate', 'ignored', 'conflict', 'dead')),
    reason text,
    detail text,
    -- What the letter said before.
    previous_state text COLLATE "C" NOT NULL,
    previous_reason text NOT NULL,
    previous_detail text NOT NULL,
    FOREIGN KEY (topic_id, partition, record_offset) REFERENCES dead_letters
);
CREATE INDEX dead_letter_actions_by_letter ON dead_letter_actions (topic_id, partition, record_offset);

-- Conflicts are rare and counted all the time.
CREATE INDEX events_conflicts ON events (recorded_at) WHERE outcome = 'conflict';

-- Up to where the running audit has compared a partition with Kafka and found everything right, and what it counted.
CREATE TABLE audit_marks (
    topic_id smallint NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL CHECK (next_offset >= 0),
    acknowledged bigint NOT NULL DEFAULT 0,
    applied bigint NOT NULL DEFAULT 0,
    duplicate bigint NOT NULL DEFAULT 0,
    ignored bigint NOT NULL DEFAULT 0,
    conflict bigint NOT NULL DEFAULT 0,
    dead bigint NOT NULL DEFAULT 0,
    marked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic_id, partition),
    CHECK (acknowledged = applied + duplicate + ignored + conflict + dead)
) WITH (fillfactor = 50);

-- How the running audit's last run ended: one row.
CREATE TABLE audit_runs_last (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    ended_at timestamptz NOT NULL,
    -- The last run that found nothing wrong.
    succeeded_at timestamptz,
    duration_seconds double precision NOT NULL,
    wrong bigint NOT NULL,
    pending bigint NOT NULL,
    findings text[] NOT NULL
);
