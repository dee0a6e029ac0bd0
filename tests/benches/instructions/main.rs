//! Instruction counts of verifying a signature and parsing an envelope. `make bench` runs it.
//!
//! Times depend on the load of the machine; the number of instructions that valgrind's callgrind counts does not. Each case
//! runs this program under callgrind twice, with many calls and with few: the difference is what the calls took, without the
//! start of the program. More than `TOLERANCE_PERCENT` above `baseline.toml` is a failure.
//!
//! The counts are those of one compiler version, which the baseline names: with another one they are only printed.
//! They are not those of a real processor: callgrind's has no SHA instructions, so SHA-256 is counted in its portable form.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its results")]

use std::{collections::BTreeMap, hint::black_box, path::Path, process::Command, process::ExitCode};

use anyhow::{Context as _, bail, ensure};
use chrono::DateTime;
use riverlock_ingest::auth::signature::Verifier;
use riverlock_sandbox::sender::sign;
use riverlock_schemas::Envelope;
use serde::Deserialize;

/// The first argument of the program under callgrind.
const COMMAND: &str = "work";
/// Tolerance above the baseline, in percent.
const TOLERANCE_PERCENT: f64 = 5.0;
/// Calls in the shorter and in the longer run.
const CALLS: (u64, u64) = (100, 1_100);

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/baseline.toml");
const UPDATE: &str = "cargo bench -p riverlock-tests --bench instructions -- --update";

/// The inputs: golden events, which never change.
const ORDER: &[u8] = include_bytes!("../../../schemas/golden/order.accepted.json");
const INVOICE: &[u8] = include_bytes!("../../../schemas/golden/order.invoice.created.json");

/// When the inputs were signed, in seconds since 1970.
const SIGNED_AT: i64 = 1_638_380_000;
const SECRETS: [&str; 2] = ["whsec_0123456789abcdef", "whsec_fedcba9876543210"];

/// The cases by their name in the baseline.
const CASES: [&str; 4] = ["parse_invoice", "parse_order", "verify", "verify_while_rotating"];

/// `baseline.toml`.
#[derive(Deserialize)]
struct Baseline {
    rustc: String,
    arch: String,
    instructions: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("instructions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    if let [command, case, calls] = arguments
        && command == COMMAND
    {
        work(case, calls.parse()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let update = arguments.iter().any(|argument| argument == "--update");
    let counts = CASES.iter().map(|case| Ok(((*case).to_owned(), count(case)?))).collect::<anyhow::Result<_>>()?;
    if update {
        write(&counts)?;
        return Ok(ExitCode::SUCCESS);
    }
    compare(&counts)
}

/// Runs a case this many times.
fn work(case: &str, calls: u64) -> anyhow::Result<()> {
    let now = DateTime::from_timestamp(SIGNED_AT, 0).context("no time")?;
    let secrets = match case {
        "verify_while_rotating" => &SECRETS[..],
        _ => &SECRETS[..1],
    };
    let verifier = verifier(secrets)?;
    let header = sign::header(secrets, SIGNED_AT, ORDER);
    for _ in 0..calls {
        match case {
            "parse_invoice" => drop(black_box(Envelope::parse(black_box(INVOICE)))?),
            "parse_order" => drop(black_box(Envelope::parse(black_box(ORDER)))?),
            "verify" | "verify_while_rotating" => {
                let headers = [black_box(header.as_bytes())];
                black_box(verifier.verify(headers, black_box(ORDER), now))?;
            }
            other => bail!("there is no case {other}"),
        }
    }
    Ok(())
}

fn verifier(secrets: &[&str]) -> anyhow::Result<Verifier> {
    let secrets: Vec<_> =
        secrets.iter().map(|secret| serde_json::json!({ "id": &secret[6..10], "secret": secret })).collect();
    let endpoint = serde_json::json!({ "name": "bench", "path": "/", "secrets": secrets });
    Ok(Verifier::new(&serde_json::from_value(endpoint)?))
}

/// Instructions per call.
fn count(case: &str) -> anyhow::Result<u64> {
    let few = callgrind(case, CALLS.0)?;
    let many = callgrind(case, CALLS.1)?;
    Ok((many - few) / (CALLS.1 - CALLS.0))
}

/// Runs this program under callgrind, and reads `Collected : 12345`.
fn callgrind(case: &str, calls: u64) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args([COMMAND, case, &calls.to_string()])
        .output()
        .context("valgrind cannot be run (`deploy/setup bench` installs it)")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{case} failed under callgrind:\n{text}");
    let counted = text.lines().find_map(|line| line.split("Collected :").nth(1));
    Ok(counted.with_context(|| format!("callgrind counted nothing:\n{text}"))?.trim().parse()?)
}

fn compare(counts: &BTreeMap<String, u64>) -> anyhow::Result<ExitCode> {
    let baseline: Baseline = riverlock_runtime::config::load(Some(Path::new(BASELINE)))?;
    let (rustc, arch) = (rustc()?, std::env::consts::ARCH);
    let judged = baseline.rustc == rustc && baseline.arch == arch;
    println!("instructions per call (baseline of rustc {} on {})", baseline.rustc, baseline.arch);
    let mut worse = 0;
    for (case, count) in counts {
        let expected = baseline.instructions.get(case).copied();
        let change = expected.map(percent(*count));
        let verdict = match change {
            None => "not in the baseline",
            _ if !judged => "",
            Some(change) if change > TOLERANCE_PERCENT => "TOO MANY",
            Some(change) if change < -TOLERANCE_PERCENT => "fewer: please update the baseline",
            Some(_) => "ok",
        };
        worse += u32::from(verdict == "TOO MANY" || verdict == "not in the baseline");
        println!(
            "  {case:<24}{count:>9}  baseline {:>9}  {:>+6.1} %  {verdict}",
            expected.unwrap_or_default(),
            change.unwrap_or_default()
        );
    }
    if !judged {
        println!("  this is rustc {rustc} on {arch}, so counts are only printed; `{UPDATE}` makes it the baseline");
    }
    if worse == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "  more than {TOLERANCE_PERCENT} % above the baseline. If that is intended, give the reason in the commit, after\n  {UPDATE}"
    );
    Ok(ExitCode::FAILURE)
}

#[expect(clippy::cast_precision_loss, reason = "counts are below 2^52")]
fn percent(count: u64) -> impl Fn(u64) -> f64 {
    move |expected| (count as f64 / expected as f64 - 1.0) * 100.0
}

fn write(counts: &BTreeMap<String, u64>) -> anyhow::Result<()> {
    let mut text = format!(
        "# Instructions per call, counted by callgrind. They depend on the compiler: with another version they are not judged.\n# Written by {UPDATE}\nrustc = \"{}\"\narch = \"{}\"\n\n[instructions]\n",
        rustc()?,
        std::env::consts::ARCH
    );
    for (case, count) in counts {
        text.push_str(&format!("{case} = {count}\n"));
    }
    std::fs::write(BASELINE, &text).with_context(|| format!("writing {BASELINE}"))?;
    println!("{text}");
    Ok(())
}

/// The compiler's version, such as `1.95.0`.
fn rustc() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("rustc cannot be run")?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split(' ').nth(1).context("rustc prints no version")?.to_owned())
}
