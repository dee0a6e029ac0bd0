-- orders_read
SELECT o.order_id, o.live_mode, o.version, o.seen, o.pending_payment_at, o.in_review_at, o.accepted_at, o.fulfilled_at,
       o.complete_at, o.blocked_at, o.cancelled_at, o.returned_at, o.dispute_at, o.unknown_states, o.conflicted,
       o.snapshot_updated_at, o.snapshot_created_at, o.snapshot_event_id, o.details::text AS "details!",
       o.lines::text AS "lines!", o.fired::text AS "fired!"
FROM orders o
WHERE (o.order_id, o.live_mode) IN (SELECT * FROM unnest($1::text[], $2::boolean[]))
