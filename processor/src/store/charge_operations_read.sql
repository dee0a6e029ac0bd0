-- charge_operations_read
SELECT order_id, live_mode, kind, charge_id, operation_id, amount, currency, failure_code, fulfillment_id, pending_at,
       complete_at, failed_at
FROM charge_operations
WHERE (order_id, live_mode) IN (SELECT * FROM unnest($1::text[], $2::boolean[]))
