-- One event may come in several bodies, and effects have keys that cannot collide.

-- Outboxes are large, and a few of their rows are written.
SET LOCAL statement_timeout = 0;

-- What a record says, in 32 bytes: enough to tell whether another body under its event's id contradicts it
-- (schemas/src/content.rs). NULL for records from before, and for records with the same bytes as one that has it.
ALTER TABLE events ADD COLUMN content bytea;
-- No row has one yet, so none needs to be looked at.
ALTER TABLE events ADD CONSTRAINT events_content_check CHECK (octet_length(content) = 32) NOT VALID;

-- The key of `fulfillment.capture_failed` was `operation:charge:capture`, and ids may hold colons: two failures could share a
-- key, and the second was not told. Now `%` and `:` in ids are escaped. What has been told keeps its meaning: its key is made
-- again from its payload, so that no failure is told twice.
CREATE FUNCTION pg_temp.escaped(id text) RETURNS text IMMUTABLE LANGUAGE sql AS $$
    SELECT replace(replace(id, '%', '%25'), ':', '%3A')
$$;

-- A capture without an id of its own is known by the event that announced it: `@` and the event's id. Of several events the
-- one that was told of is the one of that time, or else the earliest.
CREATE FUNCTION pg_temp.announced_by(of_order text, is_live boolean, operation text, at_time timestamptz) RETURNS text
STABLE LANGUAGE sql AS $$
    SELECT '@' || e.event_id FROM events e
    WHERE e.order_id = of_order AND e.live_mode = is_live AND e.outcome IN ('applied', 'conflict')
      AND e.event_type = CASE operation WHEN 'capture' THEN 'order.charge.capture.failed'
                                        WHEN 'reauthorization' THEN 'order.charge.reauth.failed' END
    ORDER BY e.created_at IS DISTINCT FROM at_time, e.created_at, e.event_id LIMIT 1
$$;

UPDATE outbox o
SET effect_key = concat_ws(':', d.operation, pg_temp.escaped(d.charge_id), pg_temp.escaped(CASE d.capture_id
        WHEN '' THEN coalesce(pg_temp.announced_by(o.order_id, o.live_mode, d.operation, d.failed_at), '')
        ELSE d.capture_id END))
FROM (
    SELECT message_id, data ->> 'operation' AS operation, data ->> 'chargeId' AS charge_id, data ->> 'captureId' AS capture_id,
           (data ->> 'failedAt')::timestamptz AS failed_at
    FROM (
        SELECT message_id, convert_from(payload, 'UTF8')::json -> 'data' AS data FROM outbox
        WHERE kind = 'fulfillment.capture_failed'
          AND (effect_key LIKE '%:' OR effect_key LIKE '%:%:%:%' OR position('%' IN effect_key) > 0)
    ) odd
) d
WHERE o.message_id = d.message_id;

UPDATE charge_operations c
SET operation_id = pg_temp.announced_by(c.order_id, c.live_mode, c.kind, c.failed_at)
WHERE c.kind IN ('capture', 'reauthorization') AND c.operation_id = '' AND c.failed_at IS NOT NULL
  AND pg_temp.announced_by(c.order_id, c.live_mode, c.kind, c.failed_at) IS NOT NULL;

DROP FUNCTION pg_temp.announced_by;
DROP FUNCTION pg_temp.escaped;
