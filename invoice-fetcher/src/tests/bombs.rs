//! Decompression bombs and endless responses are rejected with constant memory.
//!
//! Runs in a separate process, so that its memory is that of these attempts only.

use std::time::{Duration, Instant};

use flate2::{Compression, write::DeflateEncoder, write::GzEncoder};
use riverlock_ledger::PostgresConfig;
use riverlock_runtime::Context;
use riverlock_sandbox::stack::usage;
use riverlock_schemas::Mode;

use super::{
    child, config, file,
    station::{Reply, Station},
};
use crate::{InvoiceFetcherConfig, client::links, fetch::worker::Fetcher, queue::LeasedDocument};

/// Expanded size of a bomb, bytes.
const EXPANDED: u64 = 512 << 20;
/// Memory limit of all attempts, bytes: a part of a document twice, and the client's buffers.
const MEMORY_MAX: u64 = 48 << 20;
/// Maximum size of a document, bytes: the default.
const DOCUMENT_MAX: usize = 20 << 20;

const PDF: &str = "Content-Type: application/pdf\r\n";
const NAME: &str = "tests::bombs::bombs_and_endless_responses_are_rejected_with_constant_memory";

/// Writes a PDF of zeros.
fn write_expanded(mut to: impl std::io::Write) {
    let zeros = vec![0; 1 << 20];
    to.write_all(b"%PDF-1.4\n").unwrap();
    for _ in 0..EXPANDED >> 20 {
        to.write_all(&zeros).unwrap();
    }
    to.write_all(b"\n%%EOF\n").unwrap();
}

fn gzip() -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    write_expanded(&mut encoder);
    encoder.finish().unwrap()
}

fn deflate() -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    write_expanded(&mut encoder);
    encoder.finish().unwrap()
}

fn brotli() -> Vec<u8> {
    let mut encoder = brotli::CompressorWriter::new(Vec::new(), 1 << 20, 1, 22);
    write_expanded(&mut encoder);
    encoder.into_inner()
}

/// One frame of blocks that each encode 128 KiB of one byte. Source: RFC 8878, 3.1.1.
fn zstd() -> Vec<u8> {
    const BLOCK: u32 = 128 << 10;
    let mut frame = b"\x28\xb5\x2f\xfd\x00\x58".to_vec(); // magic, no size, a window of 2 MiB
    let count = u32::try_from(EXPANDED).unwrap() / BLOCK;
    for number in 1..=count {
        let header = (BLOCK << 3) | (1 << 1) | u32::from(number == count);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(b'0');
    }
    frame
}

fn assert_bomb(bytes: &[u8], mut opened: impl std::io::Read) {
    let expanded = std::io::copy(&mut opened, &mut std::io::sink()).unwrap();
    assert!(expanded > EXPANDED && bytes.len() < 4 << 20, "{} bytes expand to {expanded}", bytes.len());
}

/// Current and peak memory of this process, bytes.
fn memory() -> (u64, u64) {
    usage::memory(i32::try_from(std::process::id()).unwrap()).unwrap()
}

/// The reason why an attempt with such responses fails. Requests metadata, content and a link.
async fn refusal(config: &InvoiceFetcherConfig, is_metadata: bool, reply: Reply) -> &'static str {
    let station = Station::start(move |path| match path.ends_with("/content") != is_metadata {
        true => reply.clone(),
        false => Reply::new(200, "", b"{}"),
    })
    .await;
    let config = InvoiceFetcherConfig { api_base_url: station.base(), ..config.clone() };
    let fetcher = Fetcher::new(config, &PostgresConfig::default(), Context::new()).unwrap();
    let leased = LeasedDocument::for_test(file(1), Mode::Test);
    Box::pin(fetcher.attempt(&leased, Instant::now() + Duration::from_secs(8))).await.unwrap_err().reason()
}

/// Every kind of bomb, and the reasons for which it can be rejected.
fn bombs() -> Vec<(bool, Reply, &'static [&'static str])> {
    let (gzip, brotli) = (gzip(), brotli());
    assert_bomb(&gzip, flate2::read::GzDecoder::new(&*gzip));
    assert_bomb(&brotli, brotli::Decompressor::new(&*brotli, 1 << 20));
    let mut answers: Vec<(bool, Reply, &[&str])> = Vec::new();
    for (encoding, bomb) in [("gzip", &gzip), ("br", &brotli), ("deflate", &deflate()), ("zstd", &zstd())] {
        let encoded = format!("{PDF}Content-Encoding: {encoding}\r\n");
        answers.push((false, Reply::new(200, &encoded, bomb), &["encoded"]));
        answers.push((false, Reply::new(200, PDF, bomb), &["not_pdf"]));
        answers.push((false, Reply::new(500, &encoded, bomb), &["server_error"]));
        answers.push((true, Reply::new(200, &encoded, bomb), &["metadata"]));
        let chunked =
            format!("HTTP/1.1 200 OK\r\n{PDF}Transfer-Encoding: {encoding}, chunked\r\n\r\n{:x}\r\n", bomb.len());
        let begin = [chunked.as_bytes(), bomb, b"\r\n0\r\n\r\n"].concat();
        answers.push((false, Reply { begin, filling: Vec::new() }, &["not_pdf", "transport"]));
    }
    answers
}

/// Every part of a response that can be endless.
fn endless() -> Vec<(bool, Reply, &'static [&'static str])> {
    let ok = "HTTP/1.1 200 OK\r\n";
    let chunked = format!("{ok}{PDF}Transfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let pdf = format!("{chunked}9\r\n%PDF-1.4\n\r\n");
    vec![
        (false, Reply::endless(&pdf, chunk.as_bytes()), &["too_large"]),
        (true, Reply::endless(&chunked, chunk.as_bytes()), &["metadata"]),
        (false, Reply::endless(&format!("{ok}{PDF}\r\n%PDF-1.4\n"), &[b'x'; 1 << 16]), &["too_large"]),
        (false, Reply::endless(&chunked.replace("200", "503"), chunk.as_bytes()), &["server_error"]),
        (false, Reply::endless(&format!("{pdf}1;"), &[b'x'; 1 << 10]), &["broken"]),
        (false, Reply::endless(&format!("{pdf}0\r\n"), b"x: y\r\n"), &["broken"]),
        (false, Reply::endless(ok, b"x: y\r\n"), &["transport"]),
        (false, Reply::endless("HTTP/1.1 200 ", b"x"), &["transport"]),
        (false, Reply::endless("", b"HTTP/1.1 100 Continue\r\n\r\n"), &["transport", "deadline"]),
    ]
}

#[tokio::test]
async fn bombs_and_endless_responses_are_rejected_with_constant_memory() {
    if child::argument().is_none() {
        return child::run(child::command([""; 0], NAME, "")).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&"http://127.0.0.1:9".parse().unwrap(), folder.path());
    config.document_bytes_max = DOCUMENT_MAX as u64;
    let answers = [bombs(), endless()].concat();
    // Excludes the memory that creating the bombs needed.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, _) = memory();
    for (number, (is_metadata, reply, reasons)) in answers.into_iter().enumerate() {
        let reason = refusal(&config, is_metadata, reply).await;
        assert!(reasons.contains(&reason), "answer {number}: {reason}, not one of {reasons:?}");
        assert_eq!(super::files(folder.path()), Vec::<std::path::PathBuf>::new(), "answer {number}");
    }
    let gzip = gzip();
    let station = Station::start(move |_| Reply::new(201, "Content-Encoding: gzip\r\n", &gzip)).await;
    config.api_base_url = station.base();
    let context = Context::new();
    let link = links::create(&config, &context, Mode::Test, file(1), context.clock.now()).await;
    assert!(link.unwrap_err().to_string().contains("did not create a link"));
    let grown = memory().1.saturating_sub(before);
    assert!(grown < MEMORY_MAX, "memory grew by {grown} bytes");
    eprintln!("peak growth of {} KiB", grown >> 10);
}
