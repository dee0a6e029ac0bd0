-- no-transaction
-- Lists of orders by mode and status, those that were first seen last first. A list of several statuses or of both modes is
-- merged from their beginnings. Only a change of the status changes an entry.
CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_by_age ON orders (live_mode, status, first_seen_at, order_id);
