-- shipments_read
SELECT order_id, live_mode, fulfillment_id, line_id, fulfilled_quantity, cancelled_quantity, created_at, shipment_id,
       tracking_company, tracking_number, tracking_url
FROM shipments
WHERE (order_id, live_mode) IN (SELECT * FROM unnest($1::text[], $2::boolean[]))
