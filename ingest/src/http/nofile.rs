//! The limit of open file descriptors: each connection uses one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// File descriptors for everything except connections of senders: Kafka, configuration files, the admin listener.
const OTHERS: usize = 256;

/// Raises the soft limit as far as needed and permitted. Returns the number of connections that it allows, at most
/// `wanted`.
pub(crate) fn room_for_connections(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let needed = u64::try_from(wanted + OTHERS).unwrap_or(u64::MAX);
    let mut current = limit.current;
    if current.is_some_and(|current| current < needed) {
        let raised = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
        match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum }) {
            Ok(()) => current = Some(raised),
            Err(error) => {
                tracing::warn!(%error, "the limit of open files (ulimit -n) could not be raised to {raised}: {error}");
            }
        }
    }
    let room = room(current, wanted);
    if room < wanted {
        let current = current.unwrap_or_default();
        tracing::warn!(
            "the limit of open files (ulimit -n) is {current}, enough for {room} connections; ingest.limits.connections_max is {wanted}"
        );
    }
    room
}

/// Number of connections that a limit allows.
fn room(limit: Option<u64>, wanted: usize) -> usize {
    let Some(limit) = limit else { return wanted };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // At least half of a very low limit, although other uses of it are unknown.
    let room = limit.saturating_sub(OTHERS).max(limit / 2);
    room.clamp(1, wanted.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_file_descriptors_for_other_uses() {
        for (limit, wanted, expected) in [
            (None, 2_048, 2_048),
            (Some(1 << 20), 2_048, 2_048),
            (Some(1_024), 2_048, 768),
            (Some(100), 2_048, 50),
            (Some(0), 2_048, 1),
            (Some(1_024), 10, 10),
        ] {
            assert_eq!(room(limit, wanted), expected, "{limit:?}");
        }
    }

    #[test]
    fn the_limit_is_raised() {
        let before = getrlimit(Resource::Nofile);
        let wanted = usize::try_from(before.maximum.unwrap_or(4_096).min(4_096)).unwrap() - OTHERS;
        assert_eq!(room_for_connections(wanted), wanted);
        assert!(getrlimit(Resource::Nofile).current.is_none_or(|current| current >= (wanted + OTHERS) as u64));
    }
}
