//! The `caracal` executable: it parses, wires and decides nothing.

mod args;
mod audit_verify;
mod bus;
mod dev;
mod doctor;
mod init;
mod key_source;
mod keys;
mod role;
mod token;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Arguments, AuditCommand, Command, KeysCommand, TokenCommand};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = caracal_chassis::open_files::raise_limit() {
        return fail(&anyhow::Error::new(error).context("cannot raise the limit of open files"));
    }
    // Every TLS stack in this process uses the one provider; a second installation would be a programming error.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        return fail(&anyhow::anyhow!("a second TLS provider is installed"));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    match runtime.block_on(dispatch(arguments.command)) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

async fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Gateway(arguments) => role::run::<role::Gateway>(arguments.config.as_deref()).await,
        Command::Sts(arguments) => role::run::<role::Sts>(arguments.config.as_deref()).await,
        Command::Control(arguments) => role::run::<role::Control>(arguments.config.as_deref()).await,
        Command::Coordinator(arguments) => role::run::<role::Coordinator>(arguments.config.as_deref()).await,
        Command::Audit(arguments) => match arguments.command {
            None => role::run::<role::Audit>(arguments.role.config.as_deref()).await,
            Some(AuditCommand::Verify { zone }) => return audit_verify::run(zone.as_deref()).await,
        },
        Command::Migrate(arguments) => init::migrate(arguments.config.as_deref()).await,
        Command::Init(arguments) => init::init(arguments.config.as_deref()).await,
        Command::Dev(arguments) => dev::run(&arguments).await,
        Command::Doctor => return doctor::run().await,
        Command::Keys(arguments) => match arguments.command {
            None => keys::run(),
            Some(KeysCommand::Rewrap { check, batch }) => return keys::rewrap::run(check, batch).await,
        },
        Command::Token {
            command: TokenCommand::Inspect { mandate },
        } => token::inspect(&mandate),
    }
    .map(|()| ExitCode::SUCCESS)
}

#[expect(
    clippy::print_stderr,
    reason = "this is what the operator reads when a command fails"
)]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("caracal: {error:#}");
    ExitCode::FAILURE
}
