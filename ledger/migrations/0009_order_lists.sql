-- Lists of orders, the newest change first, by mode and status. A list of several statuses or of both modes is merged from
-- their beginnings, so one index serves all of them.
CREATE INDEX orders_by_change ON orders (live_mode, status, changed_at, order_id);

-- The repetitions of an event; `events_first_by_id` has its first record.
CREATE INDEX events_repeated_by_id ON events (event_id) WHERE outcome IN ('duplicate', 'conflict');
