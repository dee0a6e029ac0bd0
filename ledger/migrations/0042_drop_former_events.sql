-- The rows are in `events`; the migration stops if any is missing.
DO $$
BEGIN
    IF (SELECT records FROM events_moved) <> (SELECT count(*) FROM events_former)
        OR (SELECT count(*) FROM events) <> (SELECT count(*) FROM events_former)
    THEN
        RAISE EXCEPTION 'not all rows of events_former are in events';
    END IF;
END $$;

DROP TABLE events_former;
DROP TABLE events_moved;

-- Before the services start: autovacuum would do both, but not at once.
SELECT brin_summarize_new_values('events_by_offset');
ANALYZE events;
