-- Topic numbers are given once per topic and Kafka cluster. A position (topic, partition, offset) means nothing in another
-- cluster, so the topics of each cluster have numbers of their own.

-- The Kafka clusters that positions in this database refer to.
CREATE TABLE kafka_clusters (
    -- As Kafka's brokers report it.
    cluster_id text COLLATE "C" PRIMARY KEY CHECK (cluster_id <> ''),
    -- Whether the services read this cluster. Exactly one row is current once `riverlock setup` has run.
    is_current boolean NOT NULL,
    -- When it became the current cluster for the last time.
    adopted_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX kafka_clusters_current ON kafka_clusters (is_current) WHERE is_current;

-- Empty until `riverlock setup` has recorded the cluster.
ALTER TABLE topics ADD COLUMN cluster_id text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE topics DROP CONSTRAINT topics_name_key;
ALTER TABLE topics ADD CONSTRAINT topics_cluster_id_name_key UNIQUE (cluster_id, name);

-- How topics are called in output: a topic of an earlier cluster with that cluster's id before it.
CREATE VIEW topic_names AS
SELECT topic_id, name, cluster_id = current.id AS is_current,
       CASE WHEN cluster_id = current.id THEN name ELSE cluster_id || '/' || name END AS full_name
FROM topics,
     (SELECT coalesce((SELECT cluster_id FROM kafka_clusters WHERE is_current), '') AS id) current;

-- Earlier versions used up a number for every known topic each time they looked one up, and would have reached the end of
-- smallint (32767). The sequence continues after the highest number that is in use.
SELECT setval(pg_get_serial_sequence('topics', 'topic_id'), coalesce(max(topic_id), 0) + 1, false) FROM topics;
