//! The one binary.

use std::process::ExitCode;

use clap::Parser;
use riverlock::args::Args;

#[tokio::main]
async fn main() -> ExitCode {
    match riverlock::run(Args::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("riverlock: {error:#}");
            ExitCode::FAILURE
        }
    }
}
