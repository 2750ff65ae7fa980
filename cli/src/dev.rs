//! `caracal dev`: every role in one process, a private PostgreSQL, an in-process bus, a demo zone.

mod admin;
mod demo;
mod echo;
mod env_file;
mod owner;
mod ports;
mod postgres;
mod roles;
pub(crate) mod state;
mod stores;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use caracal_chassis::shutdown::Shutdown;
use caracal_chassis::telemetry;

use crate::args::DevArguments;
use crate::init;

use self::admin::Admin;
use self::ports::{Ports, loopback};
use self::roles::Roles;
use self::state::{Home, write_private};
use self::stores::Stores;

/// Starts everything, prints the first commands, and runs until Ctrl-C.
///
/// # Errors
/// Whatever keeps one part from starting, with what to do about it.
pub(crate) async fn run(arguments: &DevArguments) -> Result<()> {
    let settings = stores::Settings::read()?;
    telemetry::init("dev", &settings.log_level, telemetry::Format::Pretty)?;
    let shutdown = Shutdown::on_signals()?;
    let ports = Ports::new(arguments.port_base)?;
    let home = Home::open(&arguments.data_dir)?;
    let _held_until_the_end = home.lock()?;
    ports.check_free()?;
    let stores = Stores::start(&home, &settings).await?;
    let outcome = serve(arguments, &home, ports, &stores, &shutdown).await;
    shutdown.trigger();
    stores.stop().await?;
    outcome
}

/// Everything between the stores' start and their stop.
async fn serve(
    arguments: &DevArguments,
    home: &Home,
    ports: Ports,
    stores: &Stores,
    shutdown: &Shutdown,
) -> Result<()> {
    let keys = home.keys()?;
    progress("bringing the schema up to date");
    stores.migrate(&keys).await?;
    init::provision_groups(stores.bus.as_ref()).await?;
    let upstream = start_echo(ports, shutdown.clone()).await?;
    progress("starting the roles");
    let roles = Roles::start(home, ports, &keys, stores, shutdown)?;
    let outcome = async {
        roles.wait_until_up(&["control"]).await?;
        let admin = Admin::new(
            format!("http://{}", loopback(ports.control)),
            keys.admin_token.clone(),
        );
        progress("making the demo zone");
        let demo = demo::ensure(&admin, home, &upstream).await?;
        roles
            .wait_until_up(&["sts", "coordinator", "audit", "gateway"])
            .await?;
        let env_file = home.join("dev.env");
        write_private(
            &env_file,
            env_file::render(&ports, &keys, &demo, &stores.redis_url).as_bytes(),
        )?;
        announce(&env_file, arguments.ready_file.as_deref())?;
        shutdown.requested().await;
        anyhow::Ok(())
    };
    let outcome = tokio::select! {
        outcome = outcome => outcome,
        () = shutdown.requested() => Ok(()),
    };
    shutdown.trigger();
    progress("stopping");
    outcome.and(roles.join().await)
}

/// Starts the upstream behind the demo resource and gives its URL.
async fn start_echo(ports: Ports, shutdown: Shutdown) -> Result<String> {
    let address = loopback(ports.upstream);
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let stop = async move { shutdown.requested().await };
    tokio::spawn(async move {
        // Open event streams would hold a graceful stop back, and nothing is lost with them.
        tokio::select! {
            outcome = async { axum::serve(listener, echo::router()).await } => {
                if let Err(error) = outcome {
                    tracing::error!(%error, "the echo upstream stopped");
                }
            }
            () = stop => {}
        }
    });
    Ok(format!("http://{address}"))
}

#[expect(
    clippy::print_stdout,
    reason = "the commands of the first call are for the person at the terminal"
)]
fn announce(env_file: &Path, ready_file: Option<&Path>) -> Result<()> {
    println!("{}", env_file::first_call(env_file));
    if let Some(ready_file) = ready_file {
        write_private(ready_file, format!("{}\n", env_file.display()).as_bytes())?;
    }
    Ok(())
}

#[expect(
    clippy::print_stderr,
    reason = "a progress line for the person at the terminal"
)]
fn progress(step: &str) {
    eprintln!("caracal dev: {step}");
}

/// How long one part may take to come up.
const START_DEADLINE: Duration = Duration::from_mins(1);
