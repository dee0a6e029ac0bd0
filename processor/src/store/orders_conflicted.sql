-- orders_conflicted
SELECT o.order_id, o.live_mode, o.status, o.version, o.conflicted, o.first_seen_at, o.changed_at
FROM orders o
WHERE o.conflicted
  -- Conflicts are few and have an index; orders have none for this.
  AND o.order_id IN (
      SELECT c.order_id FROM events c WHERE c.outcome_code = 'c' AND c.order_id IS NOT NULL
      UNION
      SELECT e.order_id FROM events c
      JOIN events e ON e.event_key = c.event_key AND e.outcome_code IN ('a', 'i', 'x')
      WHERE c.outcome_code = 'c' AND e.order_id IS NOT NULL)
  AND o.live_mode = ANY($1::boolean[]) AND o.status = ANY($2::text[])
  AND (o.first_seen_at, o.order_id, o.live_mode) < ($3::timestamptz, $4::text, $5::boolean)
ORDER BY o.first_seen_at DESC, o.order_id DESC, o.live_mode DESC
LIMIT $6
