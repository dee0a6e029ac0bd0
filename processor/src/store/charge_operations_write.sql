-- charge_operations_write
INSERT INTO charge_operations (order_id, live_mode, kind, charge_id, operation_id, amount, currency, failure_code,
                               fulfillment_id, pending_at, complete_at, failed_at)
SELECT * FROM unnest($1::text[], $2::boolean[], $3::text[], $4::text[], $5::text[], $6::numeric[], $7::text[],
                     $8::text[], $9::text[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[])
ON CONFLICT (order_id, live_mode, kind, charge_id, operation_id) DO UPDATE
SET amount = EXCLUDED.amount, currency = EXCLUDED.currency, failure_code = EXCLUDED.failure_code,
    fulfillment_id = EXCLUDED.fulfillment_id, pending_at = EXCLUDED.pending_at, complete_at = EXCLUDED.complete_at,
    failed_at = EXCLUDED.failed_at
