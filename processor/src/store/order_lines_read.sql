-- order_lines_read
SELECT order_id, live_mode, line_id, created_at, fulfilled_at, paid_at, cancelled_at, blocked_at, returned_at,
       snapshot_updated_at, snapshot_created_at, snapshot_event_id, state, sku_id, quantity, physical
FROM order_lines
WHERE (order_id, live_mode) IN (SELECT * FROM unnest($1::text[], $2::boolean[]))
