-- The outbox holds only messages that wait, and publishing deletes them. Which effects have fired is recorded with what
-- caused them: in the order's row, under its version check, and in the document's row.

-- Migrated rows are many, and each is written once.
SET LOCAL statement_timeout = 0;

-- The order's messages in the order in which they were written: kind, or `kind:key`, and the time.
ALTER TABLE orders ADD COLUMN fired json NOT NULL DEFAULT '{}';
UPDATE orders o SET fired = m.fired
FROM (
    SELECT order_id, live_mode,
           json_object_agg(kind || CASE effect_key WHEN '' THEN '' ELSE ':' || effect_key END,
                           to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                           ORDER BY message_id) AS fired
    FROM outbox WHERE kind <> 'invoice.stored' GROUP BY 1, 2
) m
WHERE (o.order_id, o.live_mode) = (m.order_id, m.live_mode);

-- When `invoice.stored` was written; a document that is fetched again is not announced again.
ALTER TABLE invoices ADD COLUMN message_at timestamptz;
UPDATE invoices i SET message_at = o.created_at
FROM outbox o
WHERE o.kind = 'invoice.stored' AND (o.order_id, o.live_mode, o.effect_key) = (i.order_id, i.live_mode, i.file_id::text);

-- A parked message leaves the queue, whole.
ALTER TABLE outbox_parked
    DROP CONSTRAINT outbox_parked_message_id_fkey,
    DROP CONSTRAINT outbox_parked_behind_fkey,
    ADD COLUMN kind text COLLATE "C",
    ADD COLUMN effect_key text COLLATE "C",
    ADD COLUMN payload bytea,
    ADD COLUMN created_at timestamptz;
UPDATE outbox_parked p SET (kind, effect_key, payload, created_at) = (o.kind, o.effect_key, o.payload, o.created_at)
FROM outbox o WHERE o.message_id = p.message_id;
ALTER TABLE outbox_parked
    ALTER COLUMN kind SET NOT NULL,
    ALTER COLUMN effect_key SET NOT NULL,
    ALTER COLUMN payload SET NOT NULL,
    ALTER COLUMN created_at SET NOT NULL;
ALTER TABLE outbox_retries DROP CONSTRAINT outbox_retries_message_id_fkey;

-- Those that wait are few: they move to a new table, so that the old one's space is free at once.
ALTER TABLE outbox RENAME TO outbox_before;
-- It lives from rows that come and go, so it is vacuumed by their number, however few there are at the moment.
CREATE TABLE outbox (
    message_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT outbox_key PRIMARY KEY,
    order_id text COLLATE "C" NOT NULL,
    live_mode boolean NOT NULL,
    kind text COLLATE "C" NOT NULL,
    effect_key text COLLATE "C" NOT NULL,
    payload bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (
    autovacuum_vacuum_scale_factor = 0.0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_threshold = -1
);
INSERT INTO outbox (message_id, order_id, live_mode, kind, effect_key, payload, created_at) OVERRIDING SYSTEM VALUE
SELECT o.message_id, o.order_id, o.live_mode, o.kind, o.effect_key, o.payload, o.created_at
FROM outbox_before o JOIN outbox_due USING (message_id);
SELECT setval(pg_get_serial_sequence('outbox', 'message_id'),
              nextval(pg_get_serial_sequence('outbox_before', 'message_id')), false);

-- Every effect that has fired, whether or not its message is published; `number` orders those that fired at the same time.
CREATE VIEW effects AS
SELECT o.order_id, o.live_mode, split_part(f.key, ':', 1) COLLATE "C" AS kind,
       substr(f.key, strpos(f.key || ':', ':') + 1) COLLATE "C" AS effect_key, f.value::timestamptz AS fired_at, f.number
FROM orders o CROSS JOIN LATERAL json_each_text(o.fired) WITH ORDINALITY AS f (key, value, number)
UNION ALL
SELECT order_id, live_mode, 'invoice.stored', file_id::text, message_at, 1 FROM invoices WHERE message_at IS NOT NULL
UNION ALL
-- Of a shipment that was sent again after it was refused, the last of these messages.
SELECT order_id, live_mode, 'shipment.' || state,
       report_id::text || CASE state WHEN 'refused' THEN ':' || attempts ELSE '' END, ended_at, 1
FROM shipment_reports WHERE state IN ('reported', 'refused')
UNION ALL
SELECT order_id, live_mode, 'shipment.refused', topic_id || ':' || partition || ':' || record_offset, created_at, 1
FROM shipment_rejections WHERE outcome = 'refused';

-- What an account that is not the owner may do with the old table, it may do with the new one.
DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee,
               a.privilege_type
        FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.oid = 'outbox_before'::regclass AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT %s ON outbox TO %s', granted.privilege_type, granted.grantee);
        IF granted.privilege_type = 'SELECT' THEN
            EXECUTE format('GRANT SELECT ON effects TO %s', granted.grantee);
        END IF;
    END LOOP;
END $$;
DROP TABLE outbox_due, outbox_before;

-- The time of the last change was in this index: every change of an order wrote all index entries of its row again. Lists show
-- the orders that were first seen last; the next migration builds their index.
DROP INDEX orders_by_change;
