-- Who applied a replay plan, and why, as for every other command that changes something. Empty for runs of earlier versions. A run
-- that was interrupted is continued by whoever applies the plan again, with a reason of their own.
ALTER TABLE replay_runs
    ADD COLUMN why text CHECK (why <> ''),
    ADD COLUMN resumed_by text CHECK (resumed_by <> ''),
    ADD COLUMN resumed_why text CHECK (resumed_why <> ''),
    ADD CONSTRAINT replay_runs_resumed_check CHECK ((resumed_by IS NULL) = (resumed_why IS NULL));

-- `riverlock setup --republish-since` is recorded with the first message that it publishes again. That one was not parked.
ALTER TABLE outbox_retries
    ALTER COLUMN parked_at DROP NOT NULL,
    ALTER COLUMN reason DROP NOT NULL;

-- What a record says has 42 bytes now: with the 32 of former versions, which are not compared, of 255 bodies that showed more charges
-- than another of their event one was taken for a contradiction. Rows are not looked at again.
ALTER TABLE events DROP CONSTRAINT events_content_check;
ALTER TABLE events ADD CONSTRAINT events_content_check CHECK (octet_length(content) IN (32, 42)) NOT VALID;
