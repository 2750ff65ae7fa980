//! The database goes away and comes back: nothing is lost and nothing is put aside.

use std::sync::Arc;

use caracal_bus::{Bus, MemoryBus};
use caracal_testing::{FaultProxy, Role, TestDatabase, wait_until};
use caracal_wire::stream::{AUDIT_EVENTS, AUDIT_EVENTS_DLQ, GROUP_AUDIT_INGESTOR};

use crate::world::{PATIENCE, World, events};

#[tokio::test]
async fn events_published_during_an_outage_of_the_database_are_all_stored_after_it() {
    let database = TestDatabase::new().await;
    let url = database.url_as(Role::Audit);
    let proxy = FaultProxy::before(&url).await;
    let bus: Arc<dyn Bus> = Arc::new(MemoryBus::new());
    let world = World::start_on(database, &proxy.url_through(&url), Arc::clone(&bus), None).await;
    world.publish(&events("z1", 10)).await;
    world.stored(10).await;
    proxy.refuse();
    for zone in ["z1", "z2", "z3"] {
        world.publish(&events(zone, 150)).await;
    }
    wait_until(PATIENCE, async || {
        bus.pending(AUDIT_EVENTS, GROUP_AUDIT_INGESTOR)
            .await
            .unwrap()
            .count
            > 0
    })
    .await;
    assert_eq!(world.api(None).get("/ready").await.status, 503);
    proxy.resume();
    world.stored(450).await;
    wait_until(PATIENCE, async || {
        bus.pending(AUDIT_EVENTS, GROUP_AUDIT_INGESTOR)
            .await
            .unwrap()
            .count
            == 0
    })
    .await;
    for zone in ["z1", "z2", "z3"] {
        let report = world.verify(zone).await;
        assert!(report.ok && report.checked == 150, "{report:?}");
    }
    let dead = bus.last_id(AUDIT_EVENTS_DLQ).await.unwrap();
    assert_eq!(
        dead,
        caracal_bus::EntryId::ZERO,
        "an outage makes no dead letters"
    );
    assert_eq!(world.api(None).get("/ready").await.status, 200);
}
