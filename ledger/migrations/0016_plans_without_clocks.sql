-- A replay plan that is made again counts from anew. Which runs belong to which making of a plan was told by comparing the
-- times of two hosts; it is told by a number now.
ALTER TABLE replay_plans ADD COLUMN generation bigint NOT NULL DEFAULT 1;
ALTER TABLE replay_runs ADD COLUMN generation bigint NOT NULL DEFAULT 0;
UPDATE replay_runs r SET generation = p.generation
FROM replay_plans p WHERE p.plan_hash = r.plan_hash AND r.started_at >= p.created_at;

-- What stands for the id of a record that is no event begins with its topic's number: the same position is another record in
-- another Kafka cluster.
UPDATE events SET event_id = 'unreadable:' || topic_id || substr(event_id, length('unreadable:'))
WHERE event_id >= 'unreadable:' AND event_id < 'unreadable;' AND event_type = '' AND outcome IN ('applied', 'ignored', 'dead');
UPDATE events SET event_id = 'unreadable:' || topic_id || substr(event_id, length('unreadable:'))
WHERE event_id >= 'unreadable:' AND event_id < 'unreadable;' AND event_type = '' AND outcome IN ('duplicate', 'conflict');
