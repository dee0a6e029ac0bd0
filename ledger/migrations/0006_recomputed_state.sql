-- What engineers did to state that is otherwise computed: orders that were folded again, and tables that were built again.
-- Rows are never changed.

-- Orders that came out otherwise when they were folded again from their audited events.
CREATE TABLE refolds (
    refold_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id text COLLATE "C" NOT NULL,
    live_mode boolean NOT NULL,
    refolded_at timestamptz NOT NULL,
    refolded_by text NOT NULL CHECK (refolded_by <> ''),
    reason text NOT NULL CHECK (reason <> ''),
    -- The version that was written.
    version integer NOT NULL CHECK (version > 0),
    -- The order's rows as they were before, by table.
    before jsonb NOT NULL
);
CREATE INDEX refolds_by_order ON refolds (order_id);

-- Tables that were built again from the topics and took the place of those that were there.
CREATE TABLE rebuilds (
    rebuild_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    swapped_at timestamptz NOT NULL,
    swapped_by text NOT NULL CHECK (swapped_by <> ''),
    reason text NOT NULL CHECK (reason <> ''),
    -- The schema that the former tables are kept in.
    kept_schema text NOT NULL
);
