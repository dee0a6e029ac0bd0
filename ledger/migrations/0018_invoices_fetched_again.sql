-- Documents that are fetched again because the archive does not have them as they were stored.

-- The hash of what was stored before: an object that has another one is not taken for the document. NOT VALID, because no
-- row can have a value yet and the table need not be read.
ALTER TABLE invoices ADD COLUMN earlier_sha256 bytea;
ALTER TABLE invoices ADD CONSTRAINT invoices_earlier_sha256_check CHECK (octet_length(earlier_sha256) = 32) NOT VALID;

-- The next migration has an index that tells modes apart and documents that have not been attempted from those that have.
DROP INDEX invoices_due;
