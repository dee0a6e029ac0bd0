-- What a merchant ships or cancels, to be reported to Digital River. A report is stored before it is sent, sent once, and a
-- lost answer is resolved by reading back: Digital River has no idempotency keys, and a partial quantity that is reported twice
-- captures its money twice.

CREATE TABLE shipment_reports (
    -- Travels in the fulfillment's metadata, which is how it is found again.
    report_id uuid PRIMARY KEY,
    order_id text COLLATE "C" NOT NULL,
    live_mode boolean NOT NULL,
    -- The caller's: a repetition with the same content is the same report.
    idempotency_key text COLLATE "C" NOT NULL,
    content_sha256 bytea NOT NULL CHECK (octet_length(content_sha256) = 32),
    source text COLLATE "C" NOT NULL CHECK (source IN ('api', 'cli', 'kafka')),
    created_by text NOT NULL,
    tracking_company text,
    tracking_number text,
    tracking_url text,
    -- waiting: not sent yet. sending: the request is on its way, or its sender died. unknown: the answer was lost.
    -- reported: Digital River has it. refused: Digital River does not take it. unresolved: a person has to find out.
    -- withdrawn: a person decided that it is not to be reported.
    state text COLLATE "C" NOT NULL CHECK (state IN
        ('waiting', 'sending', 'unknown', 'reported', 'refused', 'unresolved', 'withdrawn')),
    -- Requests that were sent.
    attempts integer NOT NULL DEFAULT 0,
    -- How often the answer was looked for since it was lost.
    read_backs integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,
    -- The worker that has it at the moment.
    lease_id uuid,
    fulfillment_id text COLLATE "C",
    -- Digital River's code and text of the last failure.
    last_code text,
    last_error text,
    created_at timestamptz NOT NULL,
    ended_at timestamptz,
    settled_by text,
    settled_reason text,
    UNIQUE (order_id, live_mode, idempotency_key),
    CHECK ((state IN ('reported', 'refused', 'withdrawn')) = (ended_at IS NOT NULL)),
    CHECK ((state = 'reported') = (fulfillment_id IS NOT NULL))
) WITH (fillfactor = 70);
-- One report of an order is in flight: what came of it decides what may be sent next.
CREATE UNIQUE INDEX shipment_reports_in_flight ON shipment_reports (order_id, live_mode)
    WHERE state IN ('sending', 'unknown', 'unresolved');
CREATE INDEX shipment_reports_due ON shipment_reports (next_attempt_at) WHERE state IN ('waiting', 'sending', 'unknown');
CREATE INDEX shipment_reports_open ON shipment_reports (created_at) WHERE state IN ('refused', 'unresolved');

CREATE TABLE shipment_report_lines (
    report_id uuid NOT NULL REFERENCES shipment_reports,
    line_id text COLLATE "C" NOT NULL,
    quantity bigint NOT NULL CHECK (quantity >= 0),
    cancel_quantity bigint NOT NULL CHECK (cancel_quantity >= 0),
    PRIMARY KEY (report_id, line_id),
    CHECK (quantity + cancel_quantity > 0)
);

-- Every request about a report, without its content.
CREATE TABLE shipment_report_requests (
    request_number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    report_id uuid NOT NULL REFERENCES shipment_reports,
    requested_at timestamptz NOT NULL,
    operation text COLLATE "C" NOT NULL CHECK (operation IN ('report', 'read_back')),
    status integer,
    -- Digital River's x-dr-requestid.
    request_id text,
    result text NOT NULL
);
CREATE INDEX shipment_report_requests_by_report ON shipment_report_requests (report_id, request_number);
