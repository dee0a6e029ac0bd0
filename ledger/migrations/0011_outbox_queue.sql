-- What the relay has still to publish. To mark a message in its own row, PostgreSQL wrote the row and its entries in three
-- indexes again; a number in a queue costs next to nothing to add and to take away.
--
-- It lives from rows that come and go, so it is vacuumed by their number, however few there are at the moment.
CREATE TABLE outbox_due (
    message_id bigint PRIMARY KEY
) WITH (
    autovacuum_vacuum_scale_factor = 0.0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_threshold = -1
);

INSERT INTO outbox_due (message_id) SELECT message_id FROM outbox WHERE published_at IS NULL;

DROP INDEX outbox_unpublished;
ALTER TABLE outbox DROP COLUMN published_at;
-- Nothing in it changes any more.
ALTER TABLE outbox RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);
