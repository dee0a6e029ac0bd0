-- What people need who look after documents: lists that do not read the whole table, and a record of who had a document
-- tried again.

-- Since when a document is tried, if not since it was queued: its age counts from here after somebody had it tried again.
ALTER TABLE invoices ADD COLUMN retried_at timestamptz;

CREATE INDEX invoices_by_age ON invoices (created_at, file_id);
CREATE INDEX invoices_discarded ON invoices (created_at, file_id) WHERE state = 'discarded';

-- Complete orders that may lack an invoice are looked for by age.
CREATE INDEX orders_complete ON orders (complete_at) WHERE complete_at IS NOT NULL;

-- Who had which document tried again, and why. Rows are never changed.
CREATE TABLE invoice_retries (
    retry_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    file_id uuid NOT NULL REFERENCES invoices,
    retried_at timestamptz NOT NULL,
    retried_by text NOT NULL CHECK (retried_by <> ''),
    reason text NOT NULL CHECK (reason <> ''),
    -- What the row said before.
    state text COLLATE "C" NOT NULL,
    attempts integer NOT NULL,
    last_error text
);
CREATE INDEX invoice_retries_by_file ON invoice_retries (file_id);
