-- An order is read and written as a whole, so its lines lie in its own row, an object by line id. As rows of their own
-- they cost two fifths of what an event costs PostgreSQL.

-- Every order is written; that may take longer than a statement usually may.
SET LOCAL statement_timeout = 0;

-- A time as the processor writes it, byte for byte, so that an order from before equals one that is folded again.
CREATE FUNCTION pg_temp.rfc3339(moment timestamptz) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '\.?(000)+$', '') || 'Z'
$$;

-- Both are stored as they are written, and not taken apart: nearly all that is done with them is to read and write them whole.
-- Whoever looks into them writes `details::jsonb`.
ALTER TABLE orders ALTER COLUMN details TYPE json;

-- Of a line only what is known is there. `snapshot`, what makes its newest snapshot the newest, is there only where that is
-- not the order's own: of a line that the order's newest snapshot did not show.
ALTER TABLE orders ADD COLUMN lines json CHECK (json_typeof(lines) = 'object');

UPDATE orders o SET lines = (
    SELECT coalesce(json_object_agg(l.line_id, json_strip_nulls(json_build_object(
        'createdAt', pg_temp.rfc3339(l.created_at),
        'fulfilledAt', pg_temp.rfc3339(l.fulfilled_at),
        'paidAt', pg_temp.rfc3339(l.paid_at),
        'cancelledAt', pg_temp.rfc3339(l.cancelled_at),
        'blockedAt', pg_temp.rfc3339(l.blocked_at),
        'returnedAt', pg_temp.rfc3339(l.returned_at),
        'snapshot', CASE
            WHEN (l.snapshot_updated_at, l.snapshot_created_at, l.snapshot_event_id)
                IS DISTINCT FROM (o.snapshot_updated_at, o.snapshot_created_at, o.snapshot_event_id)
            THEN json_build_object(
                'updatedAt', pg_temp.rfc3339(l.snapshot_updated_at),
                'createdAt', pg_temp.rfc3339(l.snapshot_created_at),
                'eventId', l.snapshot_event_id)
        END,
        'state', l.state,
        'skuId', l.sku_id,
        'quantity', l.quantity,
        'physical', l.physical))), '{}')
    FROM order_lines l WHERE l.order_id = o.order_id AND l.live_mode = o.live_mode);

ALTER TABLE orders ALTER COLUMN lines SET NOT NULL;

DROP FUNCTION pg_temp.rfc3339;

-- For people who write SQL: a row per line, as there was.
ALTER TABLE order_lines RENAME TO order_lines_before;

CREATE VIEW order_lines AS
SELECT o.order_id, o.live_mode, l.line_id COLLATE "C" AS line_id, f."createdAt" AS created_at,
       f."fulfilledAt" AS fulfilled_at, f."paidAt" AS paid_at, f."cancelledAt" AS cancelled_at,
       f."blockedAt" AS blocked_at, f."returnedAt" AS returned_at,
       CASE WHEN f.snapshot IS NULL THEN o.snapshot_updated_at
            ELSE (f.snapshot ->> 'updatedAt')::timestamptz END AS snapshot_updated_at,
       CASE WHEN f.snapshot IS NULL THEN o.snapshot_created_at
            ELSE (f.snapshot ->> 'createdAt')::timestamptz END AS snapshot_created_at,
       CASE WHEN f.snapshot IS NULL THEN o.snapshot_event_id
            ELSE (f.snapshot ->> 'eventId') COLLATE "C" END AS snapshot_event_id,
       f.state, f."skuId" AS sku_id, f.quantity, f.physical
FROM orders o
CROSS JOIN LATERAL json_each(o.lines) AS l (line_id, line)
CROSS JOIN LATERAL json_to_record(l.line) AS f (
    "createdAt" timestamptz, "fulfilledAt" timestamptz, "paidAt" timestamptz, "cancelledAt" timestamptz,
    "blockedAt" timestamptz, "returnedAt" timestamptz, snapshot json, state text, "skuId" text, quantity bigint,
    physical boolean);

-- Whoever could read the table can read the view.
DO $$
DECLARE
    reader text;
BEGIN
    FOR reader IN
        SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
        FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.oid = 'order_lines_before'::regclass AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT ON order_lines TO %s', reader);
    END LOOP;
END $$;

DROP TABLE order_lines_before;
