//! Verification of the archive against the database, and requeueing.

use std::time::Duration;

use riverlock_schemas::{FileId, Mode, hash::Sha256Hash};

use super::{document, fetching::Bench, file};
use crate::{
    Archive,
    queue::retry::Request,
    verify::{self, Kind, Selection, Totals, VerifyError, VerifyFinding},
};

const STORED: &str = "SELECT count(*) FROM invoices WHERE state = 'stored'";
const LIMIT: Duration = Duration::from_secs(30);

/// A fetcher that has stored `documents` documents and was stopped.
async fn stored(documents: u128) -> Bench {
    let bench = Bench::new().await;
    bench.announce(0..documents).await;
    bench.start();
    bench.until(STORED, i64::try_from(documents).unwrap()).await;
    bench
}

fn path(bench: &Bench, file_id: FileId) -> std::path::PathBuf {
    bench.folder.path().join(Archive::key(Mode::Test, file_id))
}

async fn verify(
    bench: &Bench,
    selection: &Selection,
    request: Option<&Request>,
) -> Result<(Totals, Vec<VerifyFinding>), VerifyError> {
    let archive = Archive::open(&bench.config).unwrap();
    let mut connection = bench.database.pool.acquire().await.unwrap();
    let mut findings = Vec::new();
    let mut observe = |finding: Option<&VerifyFinding>| findings.extend(finding.cloned());
    let totals = verify::run(&mut connection, &archive, selection, request, LIMIT, &mut observe).await?;
    Ok((totals, findings))
}

#[tokio::test]
async fn lost_and_changed_documents_are_found_and_requeued() {
    let bench = stored(20).await;
    let (totals, findings) = verify(&bench, &Selection::default(), None).await.unwrap();
    assert!(totals.is_well() && totals.checked == 20 && findings.is_empty(), "{findings:?}");

    std::fs::remove_file(path(&bench, file(3))).unwrap();
    std::fs::write(path(&bench, file(5)), "short").unwrap();
    // The same length as before, and a PDF.
    let forged: Vec<u8> = document(file(7)).iter().map(|byte| if *byte == b'x' { b'y' } else { *byte }).collect();
    std::fs::write(path(&bench, file(7)), &forged).unwrap();

    let (totals, findings) = verify(&bench, &Selection::default(), None).await.unwrap();
    assert_eq!((totals.checked, totals.lost, totals.changed, totals.requeued), (20, 1, 2, 0));
    let found: Vec<_> = findings.iter().map(|finding| (finding.file_id, finding.kind)).collect();
    assert_eq!(found, [(file(3), Kind::Lost), (file(5), Kind::Changed), (file(7), Kind::Changed)]);
    let quick = Selection { size_only: true, ..Selection::default() };
    assert_eq!(verify(&bench, &quick, None).await.unwrap().0.changed, 1, "the forged document has the original length");
    assert_eq!(bench.count(STORED).await, 20, "a run without a request changes nothing");

    let request = Request { by: "ada".to_owned(), reason: "the disk was lost".to_owned() };
    let (totals, _) = verify(&bench, &Selection::default(), Some(&request)).await.unwrap();
    assert_eq!(totals.requeued, 3);
    bench.until(STORED, 20).await;
    let (totals, _) = verify(&bench, &Selection::default(), None).await.unwrap();
    assert!(totals.is_well(), "{totals:?}");
    bench.stop().await;

    // The served documents are stored again, and the forged objects still exist.
    let archive = Archive::open(&bench.config).unwrap();
    for number in [5, 7] {
        let hash = Sha256Hash::of(&document(file(number)));
        let key = Archive::other_key(Mode::Test, file(number), hash);
        assert_eq!(archive.digest(&key).await.unwrap().0, hash);
    }
    assert_eq!(std::fs::read(path(&bench, file(7))).unwrap(), forged);
    assert_eq!(std::fs::read(path(&bench, file(3))).unwrap(), document(file(3)));
    assert_eq!(bench.count("SELECT count(*) FROM invoices WHERE earlier_sha256 IS NOT NULL").await, 0);
    let noted = "SELECT count(*) FROM invoice_retries WHERE retried_by = 'ada' AND state = 'stored' AND attempts = 1";
    assert_eq!(bench.count(noted).await, 3);
}

#[tokio::test]
async fn a_document_downloaded_with_other_bytes_keeps_its_earlier_hash() {
    let bench = stored(1).await;
    std::fs::remove_file(path(&bench, file(0))).unwrap();
    let rendered_anew = b"%PDF-1.4 of today\n%%EOF\n".to_vec();
    bench.server.answer(file(0), [super::server::Answer::Body("application/pdf", rendered_anew.clone())]);
    bench.server.describe(file(0), super::server::Description::Text("{}".to_owned()));
    let request = Request { by: "ada".to_owned(), reason: "lost".to_owned() };
    verify(&bench, &Selection::default(), Some(&request)).await.unwrap();
    bench.until(STORED, 1).await;
    bench.stop().await;
    let mut connection = bench.database.pool.acquire().await.unwrap();
    let view = crate::queue::view::find(&mut connection, file(0)).await.unwrap().unwrap();
    assert_eq!(view.sha256, Some(Sha256Hash::of(&rendered_anew)));
    assert_eq!(view.earlier_sha256, Some(Sha256Hash::of(&document(file(0)))));
}

#[tokio::test]
async fn a_selection_can_be_verified_and_resumed() {
    let bench = stored(10).await;
    let mut after = None;
    let mut checked = 0;
    for _ in 0..4 {
        let selection = Selection { after, limit: Some(3), ..Selection::default() };
        let (totals, _) = verify(&bench, &selection, None).await.unwrap();
        checked += totals.checked;
        after = totals.last;
    }
    assert_eq!((checked, after), (10, Some(file(9))));
    let of_order = Selection { order_id: Some("order-4".to_owned()), ..Selection::default() };
    assert_eq!(verify(&bench, &of_order, None).await.unwrap().0.checked, 1);
    let live = Selection { mode: Some(Mode::Live), ..Selection::default() };
    assert_eq!(verify(&bench, &live, None).await.unwrap().0.checked, 0);
    let mut connection = bench.database.pool.acquire().await.unwrap();
    assert_eq!(verify::count(&mut connection, &Selection::default(), LIMIT).await.unwrap(), 10);
    bench.stop().await;
}

#[tokio::test]
async fn documents_in_an_unreadable_archive_are_not_reported_lost() {
    let bench = stored(30).await;
    bench.stop().await;
    // A file in place of the directory fails without permissions, so the test also works as root.
    std::fs::remove_dir_all(bench.folder.path().join("invoices/test")).unwrap();
    std::fs::write(bench.folder.path().join("invoices/test"), "").unwrap();
    let request = Request { by: "ada".to_owned(), reason: "x".to_owned() };
    let error = verify(&bench, &Selection::default(), Some(&request)).await.unwrap_err();
    assert!(matches!(error, VerifyError::Archive(_)), "{error}");
    assert_eq!(bench.count(STORED).await, 30);
}
