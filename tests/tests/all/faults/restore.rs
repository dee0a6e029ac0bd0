//! The database is restored from an old backup under running services.

use std::time::Duration;

use riverlock_sandbox::stack::kafka_for_test;
use riverlock_tests::{World, backup::Backup};

const ORDERS: u64 = 300;
/// Records between start and backup, and between backup and restore.
const STEP_RECORDS: i64 = 300;

async fn recorded(world: &World) -> i64 {
    let mut connection = world.local.config.postgres.connect().await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM event_records").fetch_one(&mut connection).await.unwrap()
}

async fn until_recorded(world: &World, count: i64) {
    while recorded(world).await < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_restored_from_an_old_backup_under_running_services_is_complete_again() {
    if !kafka_for_test("a_database_restored_from_an_old_backup_under_running_services_is_complete_again") {
        return;
    }
    let mut world = World::start(13, ORDERS, 120).await.unwrap();
    let processes = world.local.processes();
    let playing = world.begin();
    until_recorded(&world, STEP_RECORDS).await;
    let backup = Backup::take(&world.local.config.postgres).await.unwrap();
    let mut copy = backup.connect().await.unwrap();
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM event_records").fetch_one(&mut copy).await.unwrap();
    drop(copy);
    until_recorded(&world, kept + STEP_RECORDS).await;
    assert!(!playing.is_finished(), "playing ended before the restore: the test showed nothing");
    backup.restore().await.unwrap();

    let report = playing.await.unwrap().unwrap();
    world.settle_and_check(&report).await.unwrap();
    assert_eq!(world.local.processes(), processes, "no service was restarted");
    world.stop().await.unwrap();
}
