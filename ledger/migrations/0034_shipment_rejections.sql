-- Records of the topic of shipments that did not become a report: those that could not be read, which are also published as dead
-- letters, and those that contradict their order. A record is a command and no event, so it has no row in `events` and no part in
-- a rebuild: reading it again must not report anything again.
CREATE TABLE shipment_rejections (
    topic_id smallint NOT NULL REFERENCES topics,
    partition integer NOT NULL CHECK (partition >= 0),
    record_offset bigint NOT NULL CHECK (record_offset >= 0),
    -- dead: could not be read. refused: violates a rule; other systems were told with `shipment.refused`.
    outcome text COLLATE "C" NOT NULL CHECK (outcome IN ('dead', 'refused')),
    code text COLLATE "C" NOT NULL,
    detail text NOT NULL,
    -- NULL where the record could not be read.
    order_id text COLLATE "C",
    live_mode boolean,
    idempotency_key text COLLATE "C",
    payload bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (topic_id, partition, record_offset),
    CHECK ((outcome = 'refused') = (order_id IS NOT NULL AND live_mode IS NOT NULL AND idempotency_key IS NOT NULL))
);
CREATE INDEX shipment_rejections_by_time ON shipment_rejections (created_at, topic_id, partition, record_offset);
