-- Events that never came as a delivery, fetched from Digital River's Events API.

-- Runs that write what is missing. One that was interrupted is resumed: windows are compared from the newest to the oldest,
-- and everything from done_from to window_end is compared and written.
CREATE TABLE reconcile_runs (
    run_id uuid PRIMARY KEY,
    live_mode boolean NOT NULL,
    types text[] COLLATE "C" NOT NULL,
    window_start timestamptz NOT NULL,
    window_end timestamptz NOT NULL,
    done_from timestamptz NOT NULL,
    listed bigint NOT NULL DEFAULT 0,
    missing bigint NOT NULL DEFAULT 0,
    written bigint NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CHECK (window_start <= done_from AND done_from <= window_end)
);
CREATE INDEX reconcile_runs_unfinished ON reconcile_runs (live_mode, started_at) WHERE finished_at IS NULL;

-- What these runs wrote to the raw topics, so that an event that no consumer has read yet is not written again.
CREATE TABLE reconciled_events (
    event_id text COLLATE "C" PRIMARY KEY,
    run_id uuid NOT NULL,
    topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    record_offset bigint NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX reconciled_events_by_age ON reconciled_events (written_at);
