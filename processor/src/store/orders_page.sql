-- orders_page
SELECT o.order_id AS "order_id!", o.live_mode AS "live_mode!", o.status AS "status!", o.version AS "version!",
       o.conflicted AS "conflicted!", o.first_seen_at AS "first_seen_at!", o.changed_at AS "changed_at!"
FROM unnest($1::boolean[]) AS m (live_mode) CROSS JOIN unnest($2::text[]) AS s (status) CROSS JOIN LATERAL (
    SELECT * FROM orders p
    WHERE p.live_mode = m.live_mode AND p.status = s.status
      AND (p.first_seen_at, p.order_id, p.live_mode) < ($3::timestamptz, $4::text, $5::boolean)
    ORDER BY p.first_seen_at DESC, p.order_id DESC
    LIMIT $6
) o
ORDER BY o.first_seen_at DESC, o.order_id DESC, o.live_mode DESC
LIMIT $6
