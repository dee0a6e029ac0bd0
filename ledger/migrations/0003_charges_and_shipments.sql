-- What happened to an order besides its states: money that moved or did not, and what was reported as shipped. Both tables
-- hold facts that only grow, and only of orders of which such events came.

-- `payment_failed`: Digital River could not charge, and has not accepted the order since.
ALTER TABLE orders DROP CONSTRAINT orders_status_check;
ALTER TABLE orders ADD CONSTRAINT orders_status_check CHECK (status IN
    ('on_hold', 'payment_failed', 'ready', 'fulfilled', 'complete', 'blocked', 'cancelled', 'returned', 'disputed'));

-- What was done with an order's money: the charge itself, and its captures, cancels and refunds.
CREATE TABLE charge_operations (
    order_id text COLLATE "C" NOT NULL,
    live_mode boolean NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('charge', 'reauthorization', 'capture', 'cancel', 'refund')),
    -- Empty where the event does not say which charge it means.
    charge_id text COLLATE "C" NOT NULL,
    -- Empty for the charge itself.
    operation_id text COLLATE "C" NOT NULL,
    amount numeric,
    currency text,
    failure_code text,
    fulfillment_id text,
    pending_at timestamptz,
    complete_at timestamptz,
    -- The latest time, where the others are the earliest.
    failed_at timestamptz,
    PRIMARY KEY (order_id, live_mode, kind, charge_id, operation_id),
    FOREIGN KEY (order_id, live_mode) REFERENCES orders DEFERRABLE INITIALLY IMMEDIATE
) WITH (fillfactor = 85);

-- Money that did not come although something may have been shipped: what somebody has to look after.
CREATE INDEX charge_operations_failed ON charge_operations (failed_at)
    WHERE failed_at IS NOT NULL AND kind IN ('capture', 'reauthorization');

-- What was reported to Digital River as shipped or never to be shipped, one row per fulfillment and line.
CREATE TABLE shipments (
    order_id text COLLATE "C" NOT NULL,
    live_mode boolean NOT NULL,
    fulfillment_id text COLLATE "C" NOT NULL,
    line_id text COLLATE "C" NOT NULL,
    fulfilled_quantity bigint NOT NULL CHECK (fulfilled_quantity >= 0),
    cancelled_quantity bigint NOT NULL CHECK (cancelled_quantity >= 0),
    created_at timestamptz,
    shipment_id text,
    tracking_company text,
    tracking_number text,
    tracking_url text,
    PRIMARY KEY (order_id, live_mode, fulfillment_id, line_id),
    FOREIGN KEY (order_id, live_mode) REFERENCES orders DEFERRABLE INITIALLY IMMEDIATE
) WITH (fillfactor = 85);
