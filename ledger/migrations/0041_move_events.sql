-- no-transaction
-- Moves the rows of `events_former` to `events`, in parts of which each is a transaction. If it is interrupted, the next run
-- continues after the last part. The session's name shows the progress in percent.
DO $$
DECLARE
    session_name constant text := current_setting('application_name');
    done record;
    last record;
    total bigint;
BEGIN
    INSERT INTO event_types (name)
        SELECT DISTINCT event_type FROM events_former f
        WHERE NOT EXISTS (SELECT FROM event_types t WHERE t.name = f.event_type) ORDER BY 1;
    INSERT INTO event_reasons (name)
        SELECT DISTINCT reason COLLATE "C" FROM events_former f
        WHERE reason IS NOT NULL AND NOT EXISTS (SELECT FROM event_reasons r WHERE r.name = f.reason) ORDER BY 1;
    COMMIT;
    SELECT count(*) INTO total FROM events_former;
    LOOP
        SELECT * INTO done FROM events_moved;
        SELECT * INTO last FROM (
            SELECT topic_id, partition, record_offset, count(*) OVER () AS records FROM (
                SELECT topic_id, partition, record_offset FROM events_former
                WHERE (topic_id, partition, record_offset) > (done.topic_id, done.partition, done.record_offset)
                ORDER BY topic_id, partition, record_offset LIMIT 20000
            ) part ORDER BY topic_id DESC, partition DESC, record_offset DESC LIMIT 1
        ) ends;
        EXIT WHEN NOT FOUND;
        INSERT INTO odd_event_ids
            SELECT DISTINCT event_key_of(event_id), event_id FROM events_former
            WHERE (topic_id, partition, record_offset) > (done.topic_id, done.partition, done.record_offset)
              AND (topic_id, partition, record_offset) <= (last.topic_id, last.partition, last.record_offset)
              AND event_key_of(event_id)::text <> event_id
            ON CONFLICT DO NOTHING;
        INSERT INTO events (event_key, record_offset, received_at, created_at, partition, type_id, recorded_after, topic_id,
                            reason_id, outcome_code, mode_code, body_sha256, content, order_id)
            SELECT event_key_of(event_id), record_offset, received_at, coalesce(created_at, '-infinity'), partition, t.type_id,
                   extract(epoch FROM recorded_at - received_at)::real, topic_id, coalesce(r.reason_id, 0),
                   CASE outcome WHEN 'dead' THEN 'x' ELSE left(outcome, 1)::"char" END,
                   CASE live_mode WHEN true THEN 'l' WHEN false THEN 't' ELSE '-' END::"char", body_sha256, content, order_id
            FROM events_former f
            JOIN event_types t ON t.name = f.event_type
            LEFT JOIN event_reasons r ON r.name = f.reason
            WHERE (topic_id, partition, record_offset) > (done.topic_id, done.partition, done.record_offset)
              AND (topic_id, partition, record_offset) <= (last.topic_id, last.partition, last.record_offset)
            ORDER BY topic_id, partition, record_offset;
        UPDATE events_moved
        SET topic_id = last.topic_id, partition = last.partition, record_offset = last.record_offset,
            records = records + last.records;
        COMMIT;
        PERFORM set_config('application_name',
                           format('%s/move %s %%', session_name, 100 * (done.records + last.records) / total), false);
    END LOOP;
    PERFORM set_config('application_name', session_name, false);
END $$;
