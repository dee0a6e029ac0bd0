-- order_lines_write
INSERT INTO order_lines (order_id, live_mode, line_id, created_at, fulfilled_at, paid_at, cancelled_at, blocked_at,
                         returned_at, snapshot_updated_at, snapshot_created_at, snapshot_event_id, state, sku_id,
                         quantity, physical)
SELECT * FROM unnest($1::text[], $2::boolean[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[],
                     $7::timestamptz[], $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[],
                     $12::text[], $13::text[], $14::text[], $15::bigint[], $16::boolean[])
ON CONFLICT (order_id, live_mode, line_id) DO UPDATE
SET created_at = EXCLUDED.created_at, fulfilled_at = EXCLUDED.fulfilled_at, paid_at = EXCLUDED.paid_at,
    cancelled_at = EXCLUDED.cancelled_at, blocked_at = EXCLUDED.blocked_at, returned_at = EXCLUDED.returned_at,
    snapshot_updated_at = EXCLUDED.snapshot_updated_at, snapshot_created_at = EXCLUDED.snapshot_created_at,
    snapshot_event_id = EXCLUDED.snapshot_event_id, state = EXCLUDED.state, sku_id = EXCLUDED.sku_id,
    quantity = EXCLUDED.quantity, physical = EXCLUDED.physical
