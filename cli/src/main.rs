//! The binary `riverlock`.

use std::process::ExitCode;

use riverlock::args::Args;

#[tokio::main]
async fn main() -> ExitCode {
    riverlock::run(Args::of_this_process()).await
}
