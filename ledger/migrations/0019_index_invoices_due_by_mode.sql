-- no-transaction
-- What is due, apart for each mode and for documents that have been attempted and those that have not: documents that wait
-- for an account, or that fail again and again, must not be read on the way to the others.
CREATE INDEX CONCURRENTLY IF NOT EXISTS invoices_due_by_mode
    ON invoices (live_mode, least(attempts, 1), next_attempt_at) WHERE state = 'due';
