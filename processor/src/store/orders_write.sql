-- orders_write
INSERT INTO orders AS o (order_id, live_mode, version, status, seen, pending_payment_at, in_review_at, accepted_at,
                         fulfilled_at, complete_at, blocked_at, cancelled_at, returned_at, dispute_at, unknown_states,
                         conflicted, snapshot_updated_at, snapshot_created_at, snapshot_event_id, details, lines,
                         fired, first_seen_at, changed_at)
SELECT n.order_id, n.live_mode, n.version, n.status, string_to_array(n.seen, E'\x1f'), n.pending_payment_at,
       n.in_review_at, n.accepted_at, n.fulfilled_at, n.complete_at, n.blocked_at, n.cancelled_at, n.returned_at,
       n.dispute_at, string_to_array(n.unknown_states, E'\x1f'), n.conflicted, n.snapshot_updated_at,
       n.snapshot_created_at, n.snapshot_event_id, n.details::json, n.lines::json, n.fired::json, $22, $22
FROM unnest($1::text[], $2::boolean[], $3::integer[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[],
            $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[],
            $13::timestamptz[], $14::timestamptz[], $15::text[], $16::boolean[], $17::timestamptz[], $18::timestamptz[],
            $19::text[], $20::text[], $21::text[], $23::text[])
    AS n (order_id, live_mode, version, status, seen, pending_payment_at, in_review_at, accepted_at, fulfilled_at,
          complete_at, blocked_at, cancelled_at, returned_at, dispute_at, unknown_states, conflicted,
          snapshot_updated_at, snapshot_created_at, snapshot_event_id, details, lines, fired)
ON CONFLICT (order_id, live_mode) DO UPDATE
SET version = EXCLUDED.version, status = EXCLUDED.status, seen = EXCLUDED.seen,
    pending_payment_at = EXCLUDED.pending_payment_at, in_review_at = EXCLUDED.in_review_at,
    accepted_at = EXCLUDED.accepted_at, fulfilled_at = EXCLUDED.fulfilled_at, complete_at = EXCLUDED.complete_at,
    blocked_at = EXCLUDED.blocked_at, cancelled_at = EXCLUDED.cancelled_at, returned_at = EXCLUDED.returned_at,
    dispute_at = EXCLUDED.dispute_at, unknown_states = EXCLUDED.unknown_states, conflicted = EXCLUDED.conflicted,
    snapshot_updated_at = EXCLUDED.snapshot_updated_at, snapshot_created_at = EXCLUDED.snapshot_created_at,
    snapshot_event_id = EXCLUDED.snapshot_event_id, details = EXCLUDED.details, lines = EXCLUDED.lines,
    fired = EXCLUDED.fired, changed_at = EXCLUDED.changed_at
WHERE o.version = EXCLUDED.version - 1
