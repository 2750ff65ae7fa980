//! What is kept of it: an event in the spool, a message on a stream.

use std::hint::black_box;

use anyhow::ensure;
use bytes::Bytes;
use caracal_bus::spool::{Fsync, Spool, SpoolLimits};
use caracal_wire::stream;
use tempfile::TempDir;
use tokio::runtime;

use crate::Step;

pub(crate) fn steps() -> anyhow::Result<Vec<Step>> {
    let key = [7; 32];
    let names = [
        "zone_id",
        "session_id",
        "agent_session_id",
        "delegation_edge_id",
        "reason",
        "outbox_id",
    ];
    let fields: stream::Fields = names.map(|name| (name.to_owned(), format!("{name}-0001"))).into();
    let name = "caracal.sessions.revoke";
    let mut signed = fields.clone();
    signed.insert(stream::SIG.to_owned(), stream::sign(&key, name, &fields)?);
    ensure!(stream::verify(&[&key], name, &signed));

    let folder = TempDir::new()?;
    let (spool, _recovery) = Spool::open(folder.path(), SpoolLimits::default(), Fsync::Never)?;
    let runtime = runtime::Builder::new_current_thread().build()?;
    let event = Bytes::from(format!("{{\"event\":\"{}\"}}", "x".repeat(900)));
    ensure!(runtime.block_on(spool.append(event.clone())).is_ok());
    Ok(vec![
        Step::of("stream sign", move || {
            stream::sign(&key, name, black_box(&fields))
        }),
        Step::of("stream verify", move || {
            stream::verify(&[&key], name, black_box(&signed))
        }),
        Step::of("spool append", move || {
            // The folder lives as long as the spool in it.
            let _folder = &folder;
            runtime.block_on(spool.append(black_box(event.clone())))
        }),
    ])
}
