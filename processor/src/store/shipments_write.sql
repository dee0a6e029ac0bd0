-- shipments_write
INSERT INTO shipments (order_id, live_mode, fulfillment_id, line_id, fulfilled_quantity, cancelled_quantity, created_at,
                       shipment_id, tracking_company, tracking_number, tracking_url)
SELECT * FROM unnest($1::text[], $2::boolean[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::timestamptz[],
                     $8::text[], $9::text[], $10::text[], $11::text[])
ON CONFLICT (order_id, live_mode, fulfillment_id, line_id) DO UPDATE
SET fulfilled_quantity = EXCLUDED.fulfilled_quantity, cancelled_quantity = EXCLUDED.cancelled_quantity,
    created_at = EXCLUDED.created_at, shipment_id = EXCLUDED.shipment_id,
    tracking_company = EXCLUDED.tracking_company, tracking_number = EXCLUDED.tracking_number,
    tracking_url = EXCLUDED.tracking_url
